//! `RandomSubsetting` (A68), alone and with localities.

use mesh_xds_proto::envoy::extensions::load_balancing_policies::random_subsetting::v3::RandomSubsetting;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::wrr_locality::v3::WrrLocality;
use prost_types::Any;

use super::fixture::{Fixture, any, balanced_by};
use crate::resource::cluster::{Balancing, EndpointPolicy, Subset};

fn subsetting(size: Option<u32>, child: Any) -> Any {
    any(&RandomSubsetting { subset_size: size, child_policy: Some(balanced_by([child])) })
}

fn wrr_locality(child: Any) -> Any {
    any(&WrrLocality { endpoint_picking_policy: Some(balanced_by([child])) })
}

fn balancing(policy: Any) -> Result<Balancing, Vec<String>> {
    let mut f = Fixture::default();
    f.cluster.load_balancing_policy = Some(balanced_by([policy]));
    f.cluster().map(|cluster| cluster.balancing)
}

#[test]
fn a_subset_is_of_the_priority_or_of_each_locality() {
    let round_robin = || any(&RoundRobin::default());
    for (policy, by_locality, subset) in [
        (subsetting(Some(3), round_robin()), false, Subset::OfPriority(3)),
        (subsetting(Some(3), wrr_locality(round_robin())), true, Subset::OfPriority(3)),
        (wrr_locality(subsetting(Some(3), round_robin())), true, Subset::OfLocality(3)),
    ] {
        let expected = Balancing { subset: Some(subset), ..Balancing::new(by_locality, EndpointPolicy::RoundRobin) };
        assert_eq!(balancing(policy), Ok(expected));
    }
}

#[test]
fn a_bad_subset_is_refused_by_name() {
    let round_robin = || any(&RoundRobin::default());
    let at = "load_balancing_policy.policies[0].typed_extension_config.typed_config";
    for (policy, expected) in [
        (subsetting(None, round_robin()), "subset_size: must be set"),
        (subsetting(Some(0), round_robin()), "subset_size: must be greater than 0"),
        (any(&RandomSubsetting { subset_size: Some(1), child_policy: None }), "child_policy: must be set"),
        (
            subsetting(Some(2), subsetting(Some(1), round_robin())),
            "child_policy: must not choose a subset of the subset",
        ),
    ] {
        assert_eq!(balancing(policy), Err(vec![format!("{at}.{expected}")]));
    }
}

//! How localities share calls: `zone_aware_lb_config` in its two places, and weights.

use mesh_xds_proto::envoy::config::cluster::v3::cluster::LbPolicy;
use mesh_xds_proto::envoy::config::cluster::v3::cluster::common_lb_config::{
    LocalityConfigSpecifier as InCluster, ZoneAwareLbConfig,
};
use mesh_xds_proto::envoy::extensions::load_balancing_policies::common::v3::LocalityLbConfig;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config as policy;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config::LocalityConfigSpecifier as InPolicy;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config::zone_aware_lb_config::ForceLocalZone;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::random::v3::Random;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use mesh_xds_proto::envoy::r#type::v3::Percent;
use prost::Message;
use prost_types::Any;

use super::fixture::{Fixture, any, balanced_by, decode};
use crate::profile::Profile;
use crate::resource::CLUSTER;
use crate::resource::cluster::{Balancing, Cluster};
use crate::resource::local::LocalNames;
use crate::resource::zone_aware::{LocalityBasis, ZoneAware};
use crate::xds::resource_type::Extensions;

fn beside(lb_policy: LbPolicy, config: ZoneAwareLbConfig) -> Fixture {
    let mut f = Fixture::default();
    f.cluster.set_lb_policy(lb_policy);
    let common = f.cluster.common_lb_config.get_or_insert_default();
    common.locality_config_specifier = Some(InCluster::ZoneAwareLbConfig(config));
    f
}

fn inside(policy: Any) -> Fixture {
    let mut f = Fixture::default();
    f.cluster.load_balancing_policy = Some(balanced_by([policy]));
    f
}

/// In Envoy's profile.
fn balancing(f: &Fixture) -> Result<Balancing, Vec<String>> {
    let local = Extensions::new(LocalNames { profile: Profile::Envoy, ..LocalNames::default() });
    let decoded = (CLUSTER.decode)(&f.cluster.encode_to_vec(), &local).value;
    let cluster = decoded.map(|value| value.downcast::<Cluster>().expect("a cluster").balancing.clone());
    cluster.map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn zones(config: policy::ZoneAwareLbConfig) -> Option<LocalityLbConfig> {
    Some(LocalityLbConfig { locality_config_specifier: Some(InPolicy::ZoneAwareLbConfig(config)) })
}

#[test]
fn zone_aware_choice_stands_beside_three_policies_or_in_them() {
    let config = ZoneAwareLbConfig {
        routing_enabled: Some(Percent { value: 49.6 }),
        min_cluster_size: Some(10),
        fail_traffic_on_panic: true,
    };
    let wanted =
        ZoneAware { routing_enabled: 50, min_cluster_size: 10, fail_traffic_on_panic: true, ..ZoneAware::default() };
    for lb_policy in [LbPolicy::RoundRobin, LbPolicy::LeastRequest, LbPolicy::Random] {
        assert_eq!(balancing(&beside(lb_policy, config)).unwrap().zones, Some(wanted));
        let unset = beside(lb_policy, ZoneAwareLbConfig::default());
        assert_eq!(balancing(&unset).unwrap().zones, Some(ZoneAware::default()));
    }
    assert_eq!(balancing(&beside(LbPolicy::Maglev, config)).unwrap().zones, None);
    let locality_lb_config = zones(policy::ZoneAwareLbConfig {
        force_local_zone: Some(ForceLocalZone { min_size: None }),
        locality_basis: 1,
        ..Default::default()
    });
    let wanted = ZoneAware { force_local_zone: Some(1), basis: LocalityBasis::HealthyWeight, ..ZoneAware::default() };
    for policy in [
        any(&RoundRobin { locality_lb_config, ..Default::default() }),
        any(&LeastRequest { locality_lb_config, ..Default::default() }),
        any(&Random { locality_lb_config }),
    ] {
        assert_eq!(balancing(&inside(policy)).unwrap().zones, Some(wanted));
    }
}

#[test]
fn localities_share_by_weight_if_the_policy_itself_says_so() {
    let specifier = InPolicy::LocalityWeightedLbConfig(policy::LocalityWeightedLbConfig {});
    let locality_lb_config = Some(LocalityLbConfig { locality_config_specifier: Some(specifier) });
    let by_locality = |config: RoundRobin| balancing(&inside(any(&config))).unwrap().by_locality;
    assert!(by_locality(RoundRobin { locality_lb_config, ..Default::default() }));
    assert!(!by_locality(RoundRobin::default()));
}

#[test]
fn in_grpcs_profile_nobody_reads_how_localities_share_beside_their_weights() {
    let weighted = InPolicy::LocalityWeightedLbConfig(policy::LocalityWeightedLbConfig {});
    let weighted = Some(LocalityLbConfig { locality_config_specifier: Some(weighted) });
    let bad = zones(policy::ZoneAwareLbConfig { locality_basis: 7, ..Default::default() });
    let at = "load_balancing_policy.policies.typed_extension_config.typed_config.locality_lb_config";
    for locality_lb_config in [weighted, bad, Some(LocalityLbConfig::default())] {
        for policy in [
            any(&RoundRobin { locality_lb_config, ..Default::default() }),
            any(&LeastRequest { locality_lb_config, ..Default::default() }),
            any(&Random { locality_lb_config }),
        ] {
            let (cluster, ignored) = decode::<Cluster>(&CLUSTER, &inside(policy).cluster);
            let Balancing { by_locality, zones, .. } = cluster.expect("gRPC accepts it").balancing;
            assert_eq!((by_locality, zones, ignored), (false, None, vec![at.to_owned()]));
        }
    }
    let beyond = ZoneAwareLbConfig { routing_enabled: Some(Percent { value: 101.0 }), ..Default::default() };
    let (cluster, ignored) = decode::<Cluster>(&CLUSTER, &beside(LbPolicy::Random, beyond).cluster);
    assert_eq!(cluster.expect("gRPC accepts it").balancing.zones, None);
    assert_eq!(ignored, ["common_lb_config.zone_aware_lb_config"]);
}

#[test]
fn bad_zone_aware_choice_is_refused_by_name() {
    let beyond = ZoneAwareLbConfig { routing_enabled: Some(Percent { value: 100.1 }), ..Default::default() };
    let at = "common_lb_config.zone_aware_lb_config.routing_enabled.value: 100.1 is not a percentage from 0 to 100";
    assert_eq!(balancing(&beside(LbPolicy::Random, beyond)), Err(vec![at.to_owned()]));
    let at = "load_balancing_policy.policies[0].typed_extension_config.typed_config.locality_lb_config";
    let basis = policy::ZoneAwareLbConfig { locality_basis: 7, ..Default::default() };
    for (config, problem) in [
        (zones(basis), "zone_aware_lb_config.locality_basis: 7 is no known basis"),
        (Some(LocalityLbConfig::default()), "locality_config_specifier: must be set"),
    ] {
        let policy = any(&Random { locality_lb_config: config });
        assert_eq!(balancing(&inside(policy)), Err(vec![format!("{at}.{problem}")]));
    }
}

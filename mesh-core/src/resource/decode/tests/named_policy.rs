//! Policies by gRPC's names, in a `TypedStruct` (A52).

use mesh_xds_proto::envoy::extensions::load_balancing_policies::pick_first::v3::PickFirst;
use mesh_xds_proto::{udpa, xds};
use prost_types::value::Kind;
use prost_types::{Any, Struct, Value};

use super::fixture::{Fixture, any, any_of, balanced_by};
use crate::resource::cluster::{Balancing, EndpointPolicy, RingHash};
use crate::resource::matcher::header::HeaderSource;

fn structure(fields: &[(&str, Kind)]) -> Option<Struct> {
    let field = |(name, kind): &(&str, Kind)| ((*name).to_owned(), Value { kind: Some(kind.clone()) });
    Some(Struct { fields: fields.iter().map(field).collect() })
}

fn named(name: &str, fields: &[(&str, Kind)]) -> Any {
    any(&xds::r#type::v3::TypedStruct { type_url: format!("type.googleapis.com/{name}"), value: structure(fields) })
}

fn balancing(policies: impl IntoIterator<Item = Any>) -> Result<Balancing, Vec<String>> {
    let mut f = Fixture::default();
    f.cluster.load_balancing_policy = Some(balanced_by(policies));
    f.cluster().map(|cluster| cluster.balancing)
}

fn text(value: &str) -> Kind {
    Kind::StringValue(value.to_owned())
}

#[test]
fn a_policy_is_known_by_the_last_part_of_its_name() {
    let ring = |min_size, header: Option<&str>| {
        let header = header.map(|header| HeaderSource::of(header).unwrap());
        EndpointPolicy::RingHash(RingHash { min_size, max_size: 4096, header })
    };
    let three = Kind::NumberValue(3.0);
    let fields = [("minRingSize", text("7")), ("requestHashHeader", text("User")), ("maxRingSize", Kind::NullValue(0))];
    let udpa = udpa::r#type::v1::TypedStruct { type_url: "x/round_robin".into(), value: None };
    for (policy, expected) in [
        (named("round_robin", &[]), EndpointPolicy::RoundRobin),
        (any(&udpa), EndpointPolicy::RoundRobin),
        (named("least_request_experimental", &[("choiceCount", three)]), EndpointPolicy::LeastRequest { choices: 3 }),
        (named("pick_first", &[]), EndpointPolicy::PickFirst { shuffle: false }),
        (
            named("pick_first", &[("shuffleAddressList", Kind::BoolValue(true))]),
            EndpointPolicy::PickFirst { shuffle: true },
        ),
        (any(&PickFirst { shuffle_address_list: true }), EndpointPolicy::PickFirst { shuffle: true }),
        (named("ring_hash_experimental", &[]), ring(1024, None)),
        (named("ring_hash_experimental", &fields), ring(7, Some("user"))),
    ] {
        let policies = [any_of("not.Known"), named("neither", &[]), policy];
        assert_eq!(balancing(policies), Ok(Balancing::new(false, expected)));
    }
}

#[test]
fn what_is_wrong_with_it_is_named() {
    let at = "load_balancing_policy.policies[0].typed_extension_config.typed_config.value";
    const WHOLE: &str = "must be a whole number from 0";
    const HEADER: &str = "must be the name of a header that is not binary";
    for (name, field, value, expected) in [
        ("pick_first", "shuffleAddressList", text("true"), "must be a boolean"),
        ("least_request_experimental", "choiceCount", Kind::NumberValue(1.0), "1 is less than 2"),
        ("least_request_experimental", "choiceCount", Kind::NumberValue(2.5), WHOLE),
        ("least_request_experimental", "choiceCount", Kind::NumberValue(f64::NAN), WHOLE),
        ("ring_hash_experimental", "minRingSize", text("-1"), WHOLE),
        ("ring_hash_experimental", "minRingSize", text("4097"), "4097 is more than the `maxRingSize`, 4096"),
        (
            "ring_hash_experimental",
            "maxRingSize",
            Kind::NumberValue(1e300),
            "18446744073709551615 is more than 8388608",
        ),
        ("ring_hash_experimental", "requestHashHeader", text("user-bin"), HEADER),
        ("ring_hash_experimental", "requestHashHeader", text(""), HEADER),
        ("ring_hash_experimental", "requestHashHeader", Kind::BoolValue(true), "must be a string"),
    ] {
        assert_eq!(balancing([named(name, &[(field, value)])]), Err(vec![format!("{at}.{field}: {expected}")]));
    }
}

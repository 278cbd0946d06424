//! Policies with affinity, and what they hash (A42, A76).

use std::time::Duration;

use mesh_xds_proto::envoy::config::cluster::v3::cluster::{LbConfig, LbPolicy, MaglevLbConfig, RingHashLbConfig};
use mesh_xds_proto::envoy::config::core::v3::Metadata;
use mesh_xds_proto::envoy::config::route::v3::route_action::HashPolicy;
use mesh_xds_proto::envoy::config::route::v3::route_action::hash_policy::{
    ConnectionProperties, Cookie, FilterState, Header, PolicySpecifier, QueryParameter,
};
use mesh_xds_proto::envoy::extensions::load_balancing_policies::maglev::v3::Maglev as MaglevMessage;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::ring_hash::v3::RingHash as Message;
use mesh_xds_proto::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};
use prost::Message as _;

use super::fixture::{Fixture, any, balanced_by, paths};
use crate::resource::cluster::{Balancing, EndpointPolicy, Maglev, RingHash};
use crate::resource::hash_policy::HashSource;
use crate::resource::route::RouteAction;
use crate::resource::{ENDPOINTS, ROUTE_CONFIGURATION};
use crate::xds::resource_type::Extensions;

fn ring(min_size: u64, max_size: u64) -> Balancing {
    let policy = EndpointPolicy::RingHash(RingHash { min_size, max_size, header: None });
    Balancing::new(false, policy)
}

fn sized(minimum: Option<u64>, maximum: Option<u64>) -> Fixture {
    let mut f = Fixture::default();
    f.cluster.lb_policy = LbPolicy::RingHash as i32;
    let config = RingHashLbConfig { minimum_ring_size: minimum, maximum_ring_size: maximum, hash_function: 0 };
    f.cluster.lb_config = Some(LbConfig::RingHashLbConfig(config));
    f
}

#[test]
fn a_ring_spans_the_localities_and_has_its_sizes() {
    assert_eq!(sized(None, None).cluster().unwrap().balancing, ring(1024, 8 << 20));
    assert_eq!(sized(Some(5), Some(7)).cluster().unwrap().balancing, ring(5, 7));
    let mut f = Fixture::default();
    let message = Message { minimum_ring_size: Some(9), ..Default::default() };
    f.cluster.load_balancing_policy = Some(balanced_by([any(&message)]));
    assert_eq!(f.cluster().unwrap().balancing, ring(9, 8 << 20));
}

#[test]
fn a_bad_ring_is_refused_by_name() {
    assert_eq!(
        sized(Some(9_000_000), Some(9_000_001)).cluster().unwrap_err(),
        [
            "ring_hash_lb_config.minimum_ring_size: 9000000 is more than 8388608",
            "ring_hash_lb_config.maximum_ring_size: 9000001 is more than 8388608"
        ]
    );
    assert_eq!(
        sized(Some(2000), Some(1999)).cluster().unwrap_err(),
        ["ring_hash_lb_config.minimum_ring_size: 2000 is more than the `maximum_ring_size`, 1999"]
    );
    assert_eq!(
        sized(Some(0), None).cluster().unwrap_err(),
        ["ring_hash_lb_config.minimum_ring_size: 0 is less than 1"]
    );
    let mut f = Fixture::default();
    let murmur = Message { hash_function: 2, ..Default::default() };
    f.cluster.load_balancing_policy = Some(balanced_by([any(&murmur)]));
    let at = "load_balancing_policy.policies[0].typed_extension_config.typed_config.hash_function";
    assert_eq!(f.cluster().unwrap_err(), [format!("{at}: must be XX_HASH (A42)")]);
}

#[test]
fn a_maglev_table_has_a_prime_size() {
    let sized = |table_size| {
        let mut f = Fixture::default();
        f.cluster.lb_policy = LbPolicy::Maglev as i32;
        f.cluster.lb_config = Some(LbConfig::MaglevLbConfig(MaglevLbConfig { table_size }));
        f.cluster()
    };
    let policy = |table_size, locality_weighted| {
        let policy = EndpointPolicy::Maglev(Maglev { table_size, locality_weighted });
        Balancing::new(false, policy)
    };
    assert_eq!(sized(None).unwrap().balancing, policy(65_537, false));
    assert_eq!(sized(Some(5_000_011)).unwrap().balancing, policy(5_000_011, false));
    for size in [0, 1, 4, 65_536, 5_000_077, u64::MAX] {
        let expected = format!("maglev_lb_config.table_size: {size} is not a prime from 2 to 5000011");
        assert_eq!(sized(Some(size)).unwrap_err(), [expected]);
    }
    let mut f = Fixture::default();
    let message = MaglevMessage {
        table_size: Some(11),
        locality_weighted_lb_config: Some(Default::default()),
        ..Default::default()
    };
    f.cluster.load_balancing_policy = Some(balanced_by([any(&message)]));
    assert_eq!(f.cluster().unwrap().balancing, policy(11, true));
}

fn hashing(specifiers: impl IntoIterator<Item = PolicySpecifier>) -> Fixture {
    let mut f = Fixture::default();
    let policy = |specifier| HashPolicy { policy_specifier: Some(specifier), terminal: false };
    f.action().hash_policy = specifiers.into_iter().map(policy).collect();
    f
}

#[test]
fn what_is_hashed_keeps_its_order_and_what_has_no_meaning_is_listed() {
    let f = hashing([
        PolicySpecifier::Header(Header { header_name: "User".into(), regex_rewrite: None }),
        PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true }),
        PolicySpecifier::FilterState(FilterState { key: "other".into() }),
        PolicySpecifier::Cookie(Cookie {
            name: "c".into(),
            ttl: Some(prost_types::Duration { seconds: 3, nanos: 0 }),
            ..Default::default()
        }),
        PolicySpecifier::Cookie(Cookie::default()),
        PolicySpecifier::QueryParameter(QueryParameter { name: "q".into() }),
        PolicySpecifier::FilterState(FilterState { key: "io.grpc.channel_id".into() }),
    ]);
    let routes = f.routes().unwrap();
    let RouteAction::Forward(forward) = &routes.virtual_hosts[0].routes[0].action else { panic!("it forwards") };
    let sources: Vec<_> = forward.hash().iter().map(|policy| &policy.source).collect();
    assert!(
        matches!(
            sources[..],
            [HashSource::Header(_, None), HashSource::Cookie(cookie), HashSource::QueryParameter(_), HashSource::ChannelId]
            if cookie.ttl == Some(Duration::from_secs(3))
        ),
        "{sources:?}"
    );
    let at = "virtual_hosts.routes.route.hash_policy";
    assert_eq!(
        paths((ROUTE_CONFIGURATION.decode)(&f.routes.encode_to_vec(), &Extensions::default()).ignored),
        [format!("{at}.connection_properties"), format!("{at}.filter_state.key"), format!("{at}.cookie")]
    );
}

#[test]
fn a_bad_hash_policy_is_refused_by_name() {
    let rewrite = |pattern: &str, substitution: &str| {
        let pattern = Some(RegexMatcher { regex: pattern.into(), ..Default::default() });
        let rewrite = Some(RegexMatchAndSubstitute { pattern, substitution: substitution.into() });
        PolicySpecifier::Header(Header { header_name: "user".into(), regex_rewrite: rewrite })
    };
    let at = "virtual_hosts[0].routes[0].route.hash_policy[0].header";
    for (specifier, expected) in [
        (PolicySpecifier::Header(Header::default()), "header_name: must be set"),
        (rewrite("(", ""), "regex_rewrite.pattern.regex: unclosed group"),
        (rewrite("(a)", r"\2"), r"regex_rewrite.substitution: `\2` names a group that the pattern does not have"),
    ] {
        assert_eq!(hashing([specifier]).routes().unwrap_err(), [format!("{at}.{expected}")]);
    }
}

#[test]
fn an_endpoint_may_have_a_key_of_its_own() {
    let with = |filter: &str, field: &str| {
        let value = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue("shard-7".into())) };
        let fields = prost_types::Struct { fields: [(field.to_owned(), value)].into() };
        let metadata = Metadata { filter_metadata: [(filter.to_owned(), fields)].into(), ..Default::default() };
        let mut f = Fixture::default();
        f.member().metadata = metadata.encode_to_vec().into();
        let endpoints = f.endpoints().unwrap();
        let ignored = paths((ENDPOINTS.decode)(&f.endpoints.encode_to_vec(), &Extensions::default()).ignored);
        (endpoints.priorities[0].localities[0].endpoints[0].hash_key().cloned(), ignored)
    };
    assert_eq!(with("envoy.lb", "hash_key"), (Some("shard-7".into()), vec![]));
    assert_eq!(with("other", "hash_key").0, None);
    assert_eq!(with("envoy.lb", "version"), (None, vec!["endpoints.lb_endpoints.metadata".to_owned()]));
    let mut f = Fixture::default();
    f.member().metadata = b"\x0a\xffhash_key"[..].to_vec().into();
    assert!(f.endpoints().unwrap_err()[0].starts_with("endpoints[0].lb_endpoints[0].metadata: cannot be decoded"));
}

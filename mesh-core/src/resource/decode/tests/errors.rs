//! What the sender of a refused resource reads.

use hcm::http_connection_manager::RouteSpecifier;
use mesh_xds_proto::envoy::config::cluster::v3::cluster::common_lb_config::LocalityConfigSpecifier;
use mesh_xds_proto::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy, RefreshRate};
use mesh_xds_proto::envoy::config::core::v3 as core;
use mesh_xds_proto::envoy::config::endpoint::v3::endpoint::AdditionalAddress;
use mesh_xds_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use mesh_xds_proto::envoy::config::route::v3::route_match::PathSpecifier;
use mesh_xds_proto::envoy::extensions::filters::http::rbac::v3::Rbac;
use mesh_xds_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use mesh_xds_proto::envoy::r#type::matcher::v3::RegexMatcher;
use mesh_xds_proto::envoy::r#type::v3::Percent;
use prost::Message;

use super::fixture::*;
use crate::profile::Profile;
use crate::resource::cluster::{Balancing, Discovery, EndpointPolicy};
use crate::resource::listener::RouteSource;
use crate::resource::route::RouteAction;
use crate::resource::{CLUSTER, ENDPOINTS, LISTENER, ROUTE_CONFIGURATION};
use crate::xds::resource_type::Extensions;

#[test]
fn every_error_of_a_resource_is_named_by_its_path() {
    let mut f = Fixture::default();
    f.group().lb_endpoints.push(member("127.0.0.1", 70_000));
    f.group().lb_endpoints.push(member("echo", 80));
    f.endpoints.endpoints.push(locality("z2", 2, 1, vec![]));
    assert_eq!(
        f.endpoints().unwrap_err(),
        [
            "endpoints[0].lb_endpoints[1].endpoint.address.socket_address.port_value: 70000 is not a port (0 to 65535)",
            "endpoints[0].lb_endpoints[2].endpoint.address.socket_address.address: \"echo\" is not an IP address",
            "endpoints: priorities must be contiguous from 0, and there is no 1",
        ]
    );
}

#[test]
fn a_route_is_named_by_virtual_host_and_position() {
    let mut f = Fixture::default();
    let regex = RegexMatcher { regex: "[a".into(), ..Default::default() };
    f.matching().path_specifier = Some(PathSpecifier::SafeRegex(regex));
    f.routes.virtual_hosts[0].domains.push("a*b".into());
    f.routes.virtual_hosts[0].routes.push(prefix_to("/", ""));
    let expected = [
        "virtual_hosts[0].domains[1]: \"a*b\" is not a domain, nor one with `*` as its start or its end",
        "virtual_hosts[0].routes[0].match.safe_regex.regex: \"[a\": unclosed character class",
        "virtual_hosts[0].routes[1].route.cluster: must be set",
    ];
    assert_eq!(f.routes().unwrap_err(), expected);
    f.manager.route_specifier = Some(RouteSpecifier::RouteConfig(f.routes.clone()));
    let inline = expected.map(|error| format!("api_listener.api_listener.route_config.{error}"));
    assert_eq!(f.listener().unwrap_err(), inline);
}

#[test]
fn a_cluster_says_what_is_not_supported() {
    let errors = |change: fn(&mut Fixture)| {
        let mut f = Fixture::default();
        change(&mut f);
        f.cluster().unwrap_err()
    };
    assert_eq!(
        errors(|f| f.cluster.lb_policy = LbPolicy::ClusterProvided as i32),
        ["lb_policy: CLUSTER_PROVIDED is not supported yet"]
    );
    assert_eq!(
        errors(|f| f.cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(4))),
        ["type: ORIGINAL_DST is not supported"]
    );
    assert_eq!(
        errors(|f| f.cluster.transport_socket = Some(socket(any(&UpstreamTlsContext::default())))),
        ["transport_socket.typed_config.common_tls_context: must be set"]
    );
    assert_eq!(
        errors(|f| f.cluster.load_balancing_policy = Some(balanced_by([any_of("a.B"), any_of("c.D")]))),
        ["load_balancing_policy: none of its policies is supported yet: \"a.B\", \"c.D\""]
    );
}

#[test]
fn a_listener_says_what_it_lacks() {
    let mut f = Fixture::default();
    f.manager.http_filters.insert(0, filter("authz", &Rbac::default()));
    f.manager.http_filters.push(f.manager.http_filters[1].clone());
    assert_eq!(
        f.listener().unwrap_err(),
        [
            "api_listener.api_listener.http_filters[0].typed_config[envoy.extensions.filters.http.rbac.v3.RBAC]: \
             \"envoy.extensions.filters.http.rbac.v3.RBAC\" is not supported, and the filter is not optional",
            "api_listener.api_listener.http_filters[2].name: \"router\" stands twice in the list",
            "api_listener.api_listener.http_filters[2]: stands behind the router, which must be the last filter",
        ]
    );
    let (listener, _) = decode_shared::<crate::resource::listener::Listener>(&LISTENER, &f.listener);
    let errors = listener.unwrap_err();
    assert!(errors[0].starts_with("filter_chains: must be set"), "{errors:?}");
    assert!(errors[0].contains("GENERATOR: grpc"), "{errors:?}");
}

#[test]
fn broken_bytes_are_said_to_be_broken() {
    for kind in [&LISTENER, &ROUTE_CONFIGURATION, &CLUSTER, &ENDPOINTS] {
        let mut bytes = Fixture::default().cluster.name.as_bytes().to_vec();
        bytes.splice(0..0, [0x0a, 2]);
        bytes.extend([0x12, 0x7f]);
        let errors = (kind.decode)(&bytes, &Extensions::default()).value.unwrap_err();
        assert!(errors[0].to_string().starts_with(&format!("{}: cannot be decoded: ", kind.name)), "{errors:?}");
    }
}

#[test]
fn the_four_types_decode_their_messages() {
    let f = Fixture::default();
    for (kind, bytes) in [
        (&LISTENER, f.packed().encode_to_vec()),
        (&ROUTE_CONFIGURATION, f.routes.encode_to_vec()),
        (&CLUSTER, f.cluster.encode_to_vec()),
        (&ENDPOINTS, f.endpoints.encode_to_vec()),
    ] {
        let decoded = (kind.decode)(&bytes, &Extensions::default());
        assert!(decoded.value.is_ok() && decoded.ignored.is_empty(), "{}", kind.name);
        assert!(kind.type_url.ends_with(&format!(".{}", kind.name)));
    }
}

#[test]
fn a_good_set_becomes_what_it_says() {
    let mut f = Fixture::default();
    f.manager.common_http_protocol_options.get_or_insert_default().max_stream_duration = seconds(3);
    f.cluster.connect_timeout = seconds(1);
    let listener = f.listener().expect("good");
    assert!(matches!(&listener.routes, RouteSource::Named(name) if &**name == "r1"));
    assert_eq!(listener.limits.max_stream_duration, Some(std::time::Duration::from_secs(3)));
    let cluster = f.cluster().expect("good");
    assert_eq!(cluster.discovery, Discovery::Eds { service_name: Some("e1".into()) });
    assert_eq!(cluster.connect_timeout, Some(std::time::Duration::from_secs(1)));
    assert_eq!(cluster.balancing, Balancing::new(true, EndpointPolicy::RoundRobin));
    let routes = f.routes().expect("good");
    assert_eq!(&*routes.virtual_hosts[0].routes[0].name, "prefix /");
    f.manager.route_specifier = Some(RouteSpecifier::RouteConfig(f.routes.clone()));
    assert!(matches!(f.listener().expect("good").routes, RouteSource::Inline(_)));
}

#[test]
fn a_service_name_that_is_the_cluster_s_is_none() {
    let mut f = Fixture::default();
    for same in ["", "c1"] {
        f.cluster.eds_cluster_config.get_or_insert_default().service_name = same.into();
        assert_eq!(f.cluster().expect("good").discovery, Discovery::EDS, "{same:?}");
    }
}

#[test]
fn the_header_s_maximum_comes_before_the_stream_s() {
    let limit = |header_max: Option<i64>, stream_max: Option<i64>| {
        let mut f = Fixture::default();
        let max = f.action().max_stream_duration.get_or_insert_default();
        max.grpc_timeout_header_max = header_max.and_then(seconds);
        max.max_stream_duration = stream_max.and_then(seconds);
        let routes = f.routes().expect("good");
        let RouteAction::Forward(forward) = &routes.virtual_hosts[0].routes[0].action else {
            panic!("the route forwards");
        };
        forward.deadline().limit(None, None, Profile::Grpc).map(|limit| limit.as_secs())
    };
    assert_eq!(limit(Some(1), Some(2)), Some(1));
    assert_eq!(limit(Some(0), Some(2)), None);
    assert_eq!(limit(None, Some(2)), Some(2));
    assert_eq!(limit(None, None), None);
}

#[test]
fn priorities_are_ordered_and_a_locality_without_weight_is_listed() {
    let mut f = Fixture::default();
    f.group().priority = 1;
    f.endpoints.endpoints.push(locality("z2", 0, 7, vec![member("::1", 80)]));
    f.endpoints.endpoints.push(locality("z3", 9, 0, vec![member("x", 80)]));
    let mut unset = locality("z4", 9, 0, vec![member("x", 80)]);
    unset.load_balancing_weight = None;
    f.endpoints.endpoints.push(unset);
    let (endpoints, ignored) = decode::<crate::resource::endpoints::Endpoints>(&ENDPOINTS, &f.endpoints);
    let endpoints = endpoints.expect("good");
    let zones: Vec<_> = endpoints.priorities.iter().map(|priority| &*priority.localities[0].locality.zone).collect();
    assert_eq!(zones, ["z2", "z1"]);
    assert_eq!(endpoints.priorities[0].localities[0].weight, 7);
    assert_eq!(endpoints.priorities[0].localities[0].endpoints[0].address.to_string(), "[::1]:80");
    assert_eq!(ignored, ["endpoints.lb_endpoints"]);
}

#[test]
fn an_address_is_one_endpoint_whatever_the_unhealthy_ones_say() {
    let mut f = Fixture::default();
    let unhealthy = |ip| {
        let mut member = member(ip, 8080);
        member.health_status = core::HealthStatus::Unhealthy as i32;
        member
    };
    let members = vec![unhealthy("127.0.0.1"), unhealthy("127.0.0.2"), unhealthy("127.0.0.2")];
    f.endpoints.endpoints.insert(0, locality("z2", 0, 1, members));
    let endpoints = f.endpoints().expect("good");
    let localities = endpoints.priorities.iter().flat_map(|priority| &priority.localities);
    let addresses: Vec<_> =
        localities.flat_map(|locality| &locality.endpoints).map(|endpoint| endpoint.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.2:8080", "127.0.0.1:8080"]);
}

#[test]
fn a_cluster_that_carries_its_endpoints_says_what_is_wrong_with_them() {
    let errors = |kind: DiscoveryType, change: fn(&mut Fixture)| {
        let mut f = Fixture::default();
        f.cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind as i32));
        f.cluster.load_assignment = Some(f.endpoints.clone());
        change(&mut f);
        f.cluster().unwrap_err()
    };
    fn only(f: &mut Fixture, host: &str) {
        let group = &mut f.cluster.load_assignment.get_or_insert_default().endpoints[0];
        group.lb_endpoints = vec![member(host, 80)];
    }
    assert_eq!(errors(DiscoveryType::Static, |f| f.cluster.load_assignment = None), ["load_assignment: must be set"]);
    assert_eq!(
        errors(DiscoveryType::Static, |f| only(f, "a.test")),
        [
            "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: \"a.test\" is not an IP \
          address"
        ]
    );
    assert_eq!(
        errors(DiscoveryType::LogicalDns, |f| {
            only(f, "a.test");
            let group = &mut f.cluster.load_assignment.get_or_insert_default().endpoints[0];
            group.lb_endpoints.push(member("b.test", 80));
        }),
        ["load_assignment.endpoints: must be one locality with one endpoint, a host and a port, for LOGICAL_DNS (A37)"]
    );
    assert_eq!(
        errors(DiscoveryType::StrictDns, |f| {
            only(f, "a.test");
            f.cluster.dns_refresh_rate = seconds(0);
            f.cluster.dns_failure_refresh_rate = Some(RefreshRate { base_interval: None, max_interval: seconds(1) });
            f.cluster.dns_lookup_family = 9;
            f.cluster.dns_resolvers = vec![core::Address::default()];
        }),
        [
            "dns_lookup_family: 9 is no known family",
            "dns_failure_refresh_rate.base_interval: must be set",
            "dns_refresh_rate: 0ns is less than 1 ms",
            "dns_resolvers[0]: `socket_address` or `pipe` must be set",
        ]
    );
}

#[test]
fn what_envoys_profile_reads_is_checked_whatever_the_profile() {
    let mut f = Fixture::default();
    for (value, wanted) in
        [(0.0, Some(0)), (49.6, Some(50)), (100.0, Some(100)), (100.1, None), (-0.6, None), (f64::NAN, None)]
    {
        f.cluster.common_lb_config.get_or_insert_default().healthy_panic_threshold = Some(Percent { value });
        assert_eq!(f.cluster().ok().map(|cluster| cluster.panic_threshold.value), wanted, "{value}");
    }
    f.cluster.common_lb_config = None;
    assert_eq!(f.cluster().expect("good").panic_threshold.value, 50);
    assert_eq!(f.endpoints().expect("good").overprovisioning, None);
    f.endpoints.policy.get_or_insert_default().overprovisioning_factor = Some(0);
    assert_eq!(f.endpoints().unwrap_err(), ["policy.overprovisioning_factor: must be greater than 0"]);
}

#[test]
fn localities_need_no_weight_in_a_cluster_and_share_by_it_only_if_that_is_said() {
    let mut f = Fixture::default();
    f.cluster.cluster_discovery_type = None;
    f.group().load_balancing_weight = None;
    f.group().locality = None;
    f.endpoints.endpoints.push(locality("z2", 3, 0, vec![member("127.0.0.1", 8081)]));
    f.endpoints.endpoints.push(locality("z3", 5, 2, vec![member("127.0.0.1", 8082)]));
    f.cluster.load_assignment = Some(f.endpoints.clone());
    let cluster = f.cluster().expect("good");
    let Discovery::Static(endpoints) = &cluster.discovery else { panic!("{:?}", cluster.discovery) };
    let weights = |priority: usize| endpoints.priorities[priority].localities[0].weight;
    assert_eq!((endpoints.priorities.len(), weights(0), weights(1)), (2, 1, 2));
    assert!(!cluster.balancing.by_locality);
    let specifier = LocalityConfigSpecifier::LocalityWeightedLbConfig(Default::default());
    f.cluster.common_lb_config.get_or_insert_default().locality_config_specifier = Some(specifier);
    assert!(f.cluster().expect("good").balancing.by_locality);
}

#[test]
fn an_endpoint_may_be_reached_at_several_addresses() {
    let mut f = Fixture::default();
    let address = |ip, port| match member(ip, port).host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => endpoint.address,
        other => panic!("{other:?}"),
    };
    let at = |address| AdditionalAddress { address };
    let mut set = |addresses| match &mut f.member().host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => {
            endpoint.additional_addresses = addresses;
            f.endpoints()
        }
        other => panic!("{other:?}"),
    };
    let endpoints = set(vec![at(address("::1", 8080)), at(address("127.0.0.1", 9090))]).expect("good");
    let endpoint = &endpoints.priorities[0].localities[0].endpoints[0];
    assert_eq!(endpoint.address.to_string(), "127.0.0.1:8080");
    let reached_at = endpoint.reached_at().into_iter().flat_map(|all| all.iter()).map(ToString::to_string);
    assert_eq!(reached_at.collect::<Vec<_>>(), ["127.0.0.1:8080", "[::1]:8080", "127.0.0.1:9090"]);
    let errors = set(vec![at(address("127.0.0.1", 8080)), at(None)]).unwrap_err();
    const ENDPOINT: &str = "endpoints[0].lb_endpoints[0].endpoint";
    assert_eq!(
        errors,
        [
            format!("{ENDPOINT}.additional_addresses[1].address: must be set"),
            format!("{ENDPOINT}.address: 127.0.0.1:8080 stands twice in the assignment"),
        ]
    );
}

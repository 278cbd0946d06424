//! What one change to a good set of resources does to a call: here, and in gRPC's C-core 1.85 as it was measured.
//!
//! Where the two differ the reason stands beside it; where gRPC's own implementations differ, C-core counts unless the
//! gRFC says otherwise.

use std::time::Duration;

use hcm::HttpFilter;
use hcm::http_connection_manager::RouteSpecifier;
use http::{HeaderMap, HeaderValue, Method};
use mesh_xds_proto::envoy::config::cluster::v3 as cluster;
use mesh_xds_proto::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, LbConfig, LbPolicy};
use mesh_xds_proto::envoy::config::core::v3 as core;
use mesh_xds_proto::envoy::config::endpoint::v3 as endpoint;
use mesh_xds_proto::envoy::config::route::v3 as route;
use mesh_xds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use mesh_xds_proto::envoy::config::route::v3::route::Action;
use mesh_xds_proto::envoy::config::route::v3::route_action::ClusterSpecifier;
use mesh_xds_proto::envoy::config::route::v3::route_match::PathSpecifier;
use mesh_xds_proto::envoy::extensions::clusters::aggregate::v3::ClusterConfig;
use mesh_xds_proto::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay};
use mesh_xds_proto::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort};
use mesh_xds_proto::envoy::extensions::filters::http::rbac::v3::Rbac;
use mesh_xds_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use mesh_xds_proto::envoy::extensions::load_balancing_policies as policies;
use mesh_xds_proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use mesh_xds_proto::envoy::r#type::matcher::v3::RegexMatcher;
use mesh_xds_proto::envoy::r#type::v3::{FractionalPercent, Int64Range};
use policies::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin;
use policies::common::v3::SlowStartConfig;
use policies::least_request::v3::LeastRequest;
use policies::round_robin::v3::RoundRobin;
use policies::wrr_locality::v3::WrrLocality;

use Outcome::*;

use super::fixture::*;
use crate::profile::Profile;
use crate::resource::matcher::RequestHead;
use crate::resource::route::RouteAction;

/// What the application sees of a call to `/t.S/M` at `svc.test`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Served,
    /// A resource is refused.
    Nack,
    NoHost,
    NoRoute,
    /// The route has an action that nothing acts on, or that the call lacks something for.
    BadAction,
    /// By the route itself.
    Answered,
    /// The call waits for a cluster that was never sent.
    Waits,
    NoEndpoint,
    Dropped,
    /// The deadline is the route's 1 ms.
    Deadline,
    /// Fails by a feature that is outside of these resources' scope here.
    Fault,
    /// No request may be in flight.
    Breaker,
}

struct Case {
    change: &'static str,
    grpc: Outcome,
    ours: Outcome,
    /// Why they differ.
    why: &'static str,
    apply: fn(&mut Fixture),
}

const fn same(change: &'static str, outcome: Outcome, apply: fn(&mut Fixture)) -> Case {
    Case { change, grpc: outcome, ours: outcome, why: "", apply }
}

const fn differs(
    change: &'static str,
    grpc: Outcome,
    ours: Outcome,
    why: &'static str,
    apply: fn(&mut Fixture),
) -> Case {
    Case { change, grpc, ours, why, apply }
}

fn outcome(fixture: &Fixture) -> Outcome {
    let decoded = (fixture.listener(), fixture.routes(), fixture.cluster(), fixture.endpoints());
    let (Ok(listener), Ok(routes), Ok(cluster), Ok(endpoints)) = decoded else {
        return Nack;
    };
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("user-agent", HeaderValue::from_static("x"));
    headers.insert("x-bin", HeaderValue::from_static("MQ"));
    let head = RequestHead { path: "/t.S/M", method: &Method::POST, authority: "svc.test", headers: &headers };
    let Some(host) = routes.virtual_host("svc.test") else {
        return NoHost;
    };
    let Some(route) = host.route(&head, || 0) else {
        return NoRoute;
    };
    let forward = match &host.routes[route].action {
        RouteAction::Forward(forward) if !forward.takes_headers() => forward,
        RouteAction::Forward(_) | RouteAction::NonForwarding | RouteAction::Unsupported(_) => return BadAction,
        RouteAction::Answer(_) => return Answered,
    };
    if &*forward.clusters()[forward.pick_cluster(|| 0)].name != "c1" {
        return Waits;
    }
    if forward.deadline().limit(None, listener.limits.max_stream_duration, Profile::Grpc)
        == Some(Duration::from_millis(1))
    {
        return Deadline;
    }
    if endpoints.drops.iter().any(|drop| drop.per_million == 1_000_000) {
        return Dropped;
    }
    if cluster.circuit_breakers.max_requests.value == 0 {
        return Breaker;
    }
    let mut localities = endpoints.priorities.iter().flat_map(|priority| &priority.localities);
    let usable = localities.any(|locality| locality.endpoints.iter().any(|endpoint| endpoint.health.is_usable()));
    if usable { Served } else { NoEndpoint }
}

fn check(cases: &[Case]) {
    for case in cases {
        let mut fixture = Fixture::default();
        (case.apply)(&mut fixture);
        let errors =
            [fixture.listener().err(), fixture.routes().err(), fixture.cluster().err(), fixture.endpoints().err()];
        assert_eq!(outcome(&fixture), case.ours, "{}: {errors:?}", case.change);
        assert_eq!(case.ours == case.grpc, case.why.is_empty(), "{}: a difference has a reason", case.change);
    }
}

fn regex(pattern: &str) -> RegexMatcher {
    RegexMatcher { regex: pattern.into(), ..Default::default() }
}

fn header(name: &str, specifier: HeaderMatchSpecifier) -> route::HeaderMatcher {
    route::HeaderMatcher { name: name.into(), header_match_specifier: Some(specifier), ..Default::default() }
}

/// An assignment without a locality, as clusters carry it.
fn inline(hosts: &[&str]) -> endpoint::ClusterLoadAssignment {
    let group = endpoint::LocalityLbEndpoints {
        lb_endpoints: hosts.iter().map(|host| member(host, 8080)).collect(),
        ..Default::default()
    };
    endpoint::ClusterLoadAssignment { cluster_name: "c1".into(), endpoints: vec![group], ..Default::default() }
}

fn percent(numerator: u32) -> FractionalPercent {
    FractionalPercent { numerator, denominator: 0 }
}

fn faults(abort: fault_abort::ErrorType) -> HttpFault {
    HttpFault {
        abort: Some(FaultAbort { percentage: Some(percent(100)), error_type: Some(abort), ..Default::default() }),
        ..Default::default()
    }
}

fn retries(policy: route::RetryPolicy) -> Option<route::RetryPolicy> {
    Some(policy)
}

fn backoff(base: Option<i64>, max: Option<i64>) -> route::RetryPolicy {
    let interval = |value: Option<i64>| value.and_then(seconds);
    let backoff = route::retry_policy::RetryBackOff { base_interval: interval(base), max_interval: interval(max) };
    route::RetryPolicy { retry_back_off: Some(backoff), ..Default::default() }
}

fn drops(category: &str, numerator: u32) -> Option<endpoint::cluster_load_assignment::Policy> {
    let drop = endpoint::cluster_load_assignment::policy::DropOverload {
        category: category.into(),
        drop_percentage: Some(percent(numerator)),
    };
    Some(endpoint::cluster_load_assignment::Policy { drop_overloads: vec![drop], ..Default::default() })
}

fn discovered_by(kind: cluster::cluster::DiscoveryType) -> Option<ClusterDiscoveryType> {
    Some(ClusterDiscoveryType::Type(kind as i32))
}

fn ring(minimum: Option<u64>, maximum: Option<u64>, hash_function: i32) -> Option<LbConfig> {
    Some(LbConfig::RingHashLbConfig(cluster::cluster::RingHashLbConfig {
        minimum_ring_size: minimum,
        maximum_ring_size: maximum,
        hash_function,
    }))
}

const NO_FAULTS: &str = "this table decodes and routes, and passes no filter";
const ENVOY: &str = "gRPC refuses it, so it has Envoy's meaning";

#[test]
fn listener() {
    check(&[
        same("baseline", Served, |_| {}),
        same("`http_filters` empty", Nack, |f| f.manager.http_filters.clear()),
        same("two filters named `fault`", Nack, |f| {
            let fault = filter("fault", &HttpFault::default());
            f.manager.http_filters.splice(0..0, [fault.clone(), fault]);
        }),
        same("unknown filter type, `is_optional` unset", Nack, |f| {
            f.manager.http_filters.insert(0, filter_of("x", any_of("x.Y")));
        }),
        same("unknown filter type, `is_optional: true`", Served, |f| {
            let mut filter = filter_of("x", any_of("x.Y"));
            filter.is_optional = true;
            f.manager.http_filters.insert(0, filter);
        }),
        same("a filter for servers: RBAC", Nack, |f| {
            f.manager.http_filters.insert(0, filter("x", &Rbac::default()));
        }),
        same("the router is not the last filter", Nack, |f| {
            f.manager.http_filters.push(filter("x", &HttpFault::default()));
        }),
        same("two routers", Nack, |f| {
            let router = f.manager.http_filters[0].clone();
            f.manager.http_filters.push(HttpFilter { name: "b".into(), ..router });
        }),
        same("an empty fault filter", Served, |f| {
            f.manager.http_filters.insert(0, filter("fault", &HttpFault::default()));
        }),
        same("`rds.config_source.path_config_source`", Nack, |f| {
            if let Some(RouteSpecifier::Rds(rds)) = &mut f.manager.route_specifier {
                rds.config_source = Some(path_source());
            }
        }),
        differs("fault abort `grpc_status: 5`, 100 %", Fault, Served, NO_FAULTS, |f| {
            let fault = faults(fault_abort::ErrorType::GrpcStatus(5));
            f.manager.http_filters.insert(0, filter("fault", &fault));
        }),
        same("fault abort `http_status: 200`, 100 %", Served, |f| {
            let fault = faults(fault_abort::ErrorType::HttpStatus(200));
            f.manager.http_filters.insert(0, filter("fault", &fault));
        }),
        same("`xff_num_trusted_hops: 1`", Nack, |f| f.manager.xff_num_trusted_hops = 1),
        same("negative `max_stream_duration`", Nack, |f| {
            let options = f.manager.common_http_protocol_options.get_or_insert_default();
            options.max_stream_duration = seconds(-1);
        }),
        same("neither `rds` nor `route_config`", Nack, |f| f.manager.route_specifier = None),
    ]);
}

#[test]
fn virtual_hosts_and_matches() {
    check(&[
        same("no vhost domain matches", NoHost, |f| f.routes.virtual_hosts[0].domains = vec!["other".into()]),
        same("domain `svc.test:50051`, target `svc.test`", NoHost, |f| {
            f.routes.virtual_hosts[0].domains = vec!["svc.test:50051".into()];
        }),
        same("same domain in two vhosts", Served, |f| {
            let mut second = f.routes.virtual_hosts[0].clone();
            second.routes[0] = prefix_to("/", "other");
            f.routes.virtual_hosts.push(second);
        }),
        same("domain `a*b`", Nack, |f| f.routes.virtual_hosts[0].domains.push("a*b".into())),
        same("no domain", Nack, |f| f.routes.virtual_hosts[0].domains.clear()),
        same("vhost with no routes", NoRoute, |f| f.routes.virtual_hosts[0].routes.clear()),
        same("match without path specifier", Nack, |f| f.matching().path_specifier = None),
        same("`prefix: //`", NoRoute, |f| f.matching().path_specifier = Some(PathSpecifier::Prefix("//".into()))),
        same("`prefix: /t.S/`", Served, |f| {
            f.matching().path_specifier = Some(PathSpecifier::Prefix("/t.S/".into()));
        }),
        differs("`path_separated_prefix`", Nack, Served, ENVOY, |f| {
            f.matching().path_specifier = Some(PathSpecifier::PathSeparatedPrefix("/t.S".into()));
        }),
        same("`connect_matcher`", Nack, |f| {
            f.matching().path_specifier = Some(PathSpecifier::ConnectMatcher(Default::default()));
        }),
        same("`safe_regex` full match", Served, |f| {
            f.matching().path_specifier = Some(PathSpecifier::SafeRegex(regex("/t.S/.*")));
        }),
        same("`safe_regex` matching only a prefix of the path", NoRoute, |f| {
            f.matching().path_specifier = Some(PathSpecifier::SafeRegex(regex("/t.S")));
        }),
        same("`safe_regex: \"[a\"`", Nack, |f| {
            f.matching().path_specifier = Some(PathSpecifier::SafeRegex(regex("[a")));
        }),
        same("`runtime_fraction` 0/100", NoRoute, |f| {
            f.matching().runtime_fraction =
                Some(core::RuntimeFractionalPercent { default_value: Some(percent(0)), ..Default::default() });
        }),
        same("header `content-type` == `application/grpc`", Served, |f| {
            let exact = HeaderMatchSpecifier::ExactMatch("application/grpc".into());
            f.matching().headers = vec![header("content-type", exact)];
        }),
        same("header `user-agent` present_match", NoRoute, |f| {
            f.matching().headers = vec![header("user-agent", HeaderMatchSpecifier::PresentMatch(true))];
        }),
        same("header `x-bin` present_match", NoRoute, |f| {
            f.matching().headers = vec![header("x-bin", HeaderMatchSpecifier::PresentMatch(true))];
        }),
        same("absent header, exact + `invert_match`", NoRoute, |f| {
            let mut header = header("x-no", HeaderMatchSpecifier::ExactMatch("a".into()));
            header.invert_match = true;
            f.matching().headers = vec![header];
        }),
        differs(
            "same + `treat_missing_header_as_empty`",
            NoRoute,
            Served,
            "gRPC ignores the field, which Istio sends, so it has Envoy's meaning",
            |f| {
                let mut header = header("x-no", HeaderMatchSpecifier::ExactMatch("a".into()));
                header.invert_match = true;
                header.treat_missing_header_as_empty = true;
                f.matching().headers = vec![header];
            },
        ),
        same("`range_match` start > end", Nack, |f| {
            let range = Int64Range { start: 2, end: 1 };
            f.matching().headers = vec![header("x", HeaderMatchSpecifier::RangeMatch(range))];
        }),
        same("header matcher without a specifier", Nack, |f| {
            f.matching().headers = vec![route::HeaderMatcher { name: "x".into(), ..Default::default() }];
        }),
        same("`query_parameters`", NoRoute, |f| f.matching().query_parameters.push(Default::default())),
        same("no `match`", Nack, |f| f.route().r#match = None),
    ]);
}

#[test]
fn route_actions() {
    const FAILS: &str =
        "gRPC skips the route and goes on to the next; here the call that the route was meant for fails";
    const ENVOYS: &str = "gRPC fails the call; Envoy's meaning tells the caller more";
    check(&[
        differs("`cluster_header` action, without the header", NoRoute, BadAction, FAILS, |f| {
            f.forwards_to(ClusterSpecifier::ClusterHeader("x".into()));
        }),
        differs("no cluster specifier, or a new kind", NoRoute, BadAction, FAILS, |f| {
            f.action().cluster_specifier = None;
        }),
        same("`cluster: \"\"`", Nack, |f| f.forwards_to(ClusterSpecifier::Cluster(String::new()))),
        same("weighted cluster, only weight 0", Nack, |f| f.weighted(&[("c1", Some(0))])),
        same("`weighted_clusters` empty", Nack, |f| f.weighted(&[])),
        same("weighted cluster without name", Nack, |f| f.weighted(&[("", Some(1))])),
        same("weighted cluster without weight", Nack, |f| f.weighted(&[("c1", None)])),
        same("weight 0 beside another", Served, |f| f.weighted(&[("c2", Some(0)), ("c1", Some(1))])),
        same("sum 5, `total_weight` 100", Served, |f| {
            f.weighted(&[("c1", Some(5))]);
            if let Some(ClusterSpecifier::WeightedClusters(clusters)) = &mut f.action().cluster_specifier {
                clusters.total_weight = Some(100);
            }
        }),
        same("weights sum > u32 max", Nack, |f| f.weighted(&[("c1", Some(u32::MAX)), ("c2", Some(1))])),
        differs("`redirect` action", BadAction, Answered, ENVOYS, |f| {
            f.route().action = Some(Action::Redirect(Default::default()));
        }),
        differs("`direct_response` 403", BadAction, Answered, ENVOYS, |f| {
            let action = route::DirectResponseAction { status: 403, ..Default::default() };
            f.route().action = Some(Action::DirectResponse(action));
        }),
        same("`non_forwarding_action` on a client", BadAction, |f| {
            f.route().action = Some(Action::NonForwardingAction(Default::default()));
        }),
        same("no action, or a new kind", BadAction, |f| f.route().action = None),
        same("`request_mirror_policies` to unknown cluster", Served, |f| {
            let mirror = route::route_action::RequestMirrorPolicy { cluster: "x".into(), ..Default::default() };
            f.action().request_mirror_policies.push(mirror);
        }),
        same("`prefix_rewrite`", Served, |f| f.action().prefix_rewrite = "/x".into()),
        same("`RouteAction.timeout` 1 ns", Served, |f| {
            f.action().timeout = Some(prost_types::Duration { seconds: 0, nanos: 1 });
        }),
        same("`max_stream_duration` 1 ms", Deadline, |f| {
            let max = f.action().max_stream_duration.get_or_insert_default();
            max.max_stream_duration = Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 });
        }),
        same("negative `grpc_timeout_header_max`", Nack, |f| {
            f.action().max_stream_duration.get_or_insert_default().grpc_timeout_header_max = seconds(-1);
        }),
        same("`num_retries: 0`", Nack, |f| {
            f.action().retry_policy = retries(route::RetryPolicy { num_retries: Some(0), ..Default::default() });
        }),
        same("`retry_on: 5xx,connect-failure`", Served, |f| {
            let retry_on = "5xx,connect-failure".into();
            f.action().retry_policy = retries(route::RetryPolicy { retry_on, ..Default::default() });
        }),
        same("`retry_back_off` without `base_interval`", Nack, |f| {
            f.action().retry_policy = retries(backoff(None, Some(1)));
        }),
        differs("`max_interval` < `base_interval`", Served, Nack, "A44 says so, and so do grpc-js and Envoy", |f| {
            f.action().retry_policy = retries(backoff(Some(2), Some(1)))
        }),
        same("a virtual host's `num_retries: 0`", Nack, |f| {
            let policy = route::RetryPolicy { num_retries: Some(0), ..Default::default() };
            f.routes.virtual_hosts[0].retry_policy = Some(policy);
        }),
        same("`per_try_timeout` 1 ns", Served, |f| {
            let per_try_timeout = Some(prost_types::Duration { seconds: 0, nanos: 1 });
            f.action().retry_policy = retries(route::RetryPolicy { per_try_timeout, ..Default::default() });
        }),
        same("`hash_policy.cookie`", Served, |f| {
            use route::route_action::hash_policy::PolicySpecifier;
            let policy = Some(PolicySpecifier::Cookie(Default::default()));
            f.action().hash_policy =
                vec![route::route_action::HashPolicy { policy_specifier: policy, ..Default::default() }];
        }),
        same("`hash_policy.header` without a name", Nack, |f| {
            use route::route_action::hash_policy::PolicySpecifier;
            let policy = Some(PolicySpecifier::Header(Default::default()));
            f.action().hash_policy =
                vec![route::route_action::HashPolicy { policy_specifier: policy, ..Default::default() }];
        }),
        same("unknown `typed_per_filter_config`", Nack, |f| {
            f.route().typed_per_filter_config = overrides("x", any_of("x.Y"));
        }),
        same("unknown `typed_per_filter_config` that is optional", Served, |f| {
            let wrapper = route::FilterConfig { config: Some(any_of("x.Y")), is_optional: true, disabled: false };
            f.route().typed_per_filter_config = overrides("x", any(&wrapper));
        }),
        differs("fault delay in `typed_per_filter_config`", Fault, Served, NO_FAULTS, |f| {
            let delay = FaultDelay {
                fault_delay_secifier: Some(fault_delay::FaultDelaySecifier::FixedDelay(seconds(1).unwrap())),
                ..Default::default()
            };
            let fault = HttpFault { delay: Some(delay), ..Default::default() };
            f.route().typed_per_filter_config = overrides("fault", any(&fault));
        }),
        same("`request_headers_to_add`", Served, |f| {
            let header = core::HeaderValue { key: "x-a".into(), value: "1".into(), ..Default::default() };
            let added = core::HeaderValueOption { header: Some(header), ..Default::default() };
            f.route().request_headers_to_add.push(added);
        }),
        same("route to a cluster the server never sends", Waits, |f| {
            f.forwards_to(ClusterSpecifier::Cluster("c2".into()));
        }),
    ]);
}

#[test]
fn clusters() {
    use cluster::cluster::DiscoveryType;
    const TLS: &str = "an entry without a socket that can be used is refused, never taken for plaintext";
    check(&[
        same("`type: STATIC`", Nack, |f| f.cluster.cluster_discovery_type = discovered_by(DiscoveryType::Static)),
        same("`type: STRICT_DNS`", Nack, |f| {
            f.cluster.cluster_discovery_type = discovered_by(DiscoveryType::StrictDns)
        }),
        same("`type: ORIGINAL_DST`", Nack, |f| {
            f.cluster.cluster_discovery_type = discovered_by(DiscoveryType::OriginalDst);
        }),
        same("LOGICAL_DNS `localhost`", Served, |f| {
            f.cluster.cluster_discovery_type = discovered_by(DiscoveryType::LogicalDns);
            f.cluster.load_assignment = Some(inline(&["localhost"]));
        }),
        same("LOGICAL_DNS with two endpoints", Nack, |f| {
            f.cluster.cluster_discovery_type = discovered_by(DiscoveryType::LogicalDns);
            f.cluster.load_assignment = Some(inline(&["localhost", "127.0.0.1"]));
        }),
        differs("`type: STATIC` with its endpoints", Nack, Served, ENVOY, |f| {
            f.cluster.cluster_discovery_type = discovered_by(DiscoveryType::Static);
            f.cluster.load_assignment = Some(inline(&["127.0.0.1", "127.0.0.2"]));
        }),
        differs("`type: STRICT_DNS` with its names", Nack, Served, ENVOY, |f| {
            f.cluster.cluster_discovery_type = discovered_by(DiscoveryType::StrictDns);
            f.cluster.load_assignment = Some(inline(&["a.test", "b.test"]));
        }),
        same("`type: STATIC` with a name", Nack, |f| {
            f.cluster.cluster_discovery_type = discovered_by(DiscoveryType::Static);
            f.cluster.load_assignment = Some(inline(&["a.test"]));
        }),
        same("`type` unset", Nack, |f| f.cluster.cluster_discovery_type = None),
        same("aggregate with no clusters", Nack, |f| {
            let custom = cluster::cluster::CustomClusterType {
                name: "x".into(),
                typed_config: Some(any(&ClusterConfig::default())),
            };
            f.cluster.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(custom));
        }),
        same("no `eds_cluster_config`", Nack, |f| f.cluster.eds_cluster_config = None),
        same("`eds_config.path_config_source`", Nack, |f| {
            f.cluster.eds_cluster_config.get_or_insert_default().eds_config = Some(path_source());
        }),
        same("an `xdstp:` cluster without `service_name`", Nack, |f| {
            f.cluster.name = "xdstp://a/envoy.config.cluster.v3.Cluster/c1".into();
            f.cluster.eds_cluster_config.get_or_insert_default().service_name = String::new();
        }),
        differs("`lb_policy: LEAST_REQUEST`", Nack, Served, ENVOY, |f| {
            f.cluster.lb_policy = LbPolicy::LeastRequest as i32;
        }),
        same("LEAST_REQUEST with `choice_count: 1`", Nack, |f| {
            f.cluster.lb_policy = LbPolicy::LeastRequest as i32;
            let config = cluster::cluster::LeastRequestLbConfig { choice_count: Some(1), ..Default::default() };
            f.cluster.lb_config = Some(LbConfig::LeastRequestLbConfig(config));
        }),
        differs("`lb_policy: RANDOM`", Nack, Served, ENVOY, |f| f.cluster.lb_policy = LbPolicy::Random as i32),
        differs("`lb_policy: MAGLEV`", Nack, Served, ENVOY, |f| f.cluster.lb_policy = LbPolicy::Maglev as i32),
        same("`lb_policy: 4`", Nack, |f| f.cluster.lb_policy = 4),
        same("`lb_policy: RING_HASH` defaults", Served, |f| {
            f.cluster.lb_policy = LbPolicy::RingHash as i32;
        }),
        same("`maximum_ring_size` 9 000 000", Nack, |f| {
            f.cluster.lb_policy = LbPolicy::RingHash as i32;
            f.cluster.lb_config = ring(None, Some(9_000_000), 0);
        }),
        same("ring `minimum` > `maximum`", Nack, |f| {
            f.cluster.lb_policy = LbPolicy::RingHash as i32;
            f.cluster.lb_config = ring(Some(2), Some(1), 0);
        }),
        same("`hash_function: MURMUR_HASH_2`", Nack, |f| {
            f.cluster.lb_policy = LbPolicy::RingHash as i32;
            f.cluster.lb_config = ring(None, None, 1);
        }),
        same("`max_ejection_percent: 101`", Nack, |f| {
            f.cluster.outlier_detection.get_or_insert_default().max_ejection_percent = Some(101);
        }),
        same("negative outlier `interval`", Nack, |f| {
            f.cluster.outlier_detection.get_or_insert_default().interval = seconds(-1);
        }),
        same("`consecutive_5xx: 1`", Served, |f| {
            f.cluster.outlier_detection.get_or_insert_default().consecutive_5xx = Some(1);
        }),
        same("`circuit_breakers.thresholds.max_requests: 0`", Breaker, |f| {
            let threshold = cluster::circuit_breakers::Thresholds { max_requests: Some(0), ..Default::default() };
            f.cluster.circuit_breakers.get_or_insert_default().thresholds.push(threshold);
        }),
        same("`lrs_server` not `self`", Nack, |f| f.cluster.lrs_server = Some(ads())),
        same("`lrs_server: self`", Served, |f| {
            let own = core::config_source::ConfigSourceSpecifier::Self_(Default::default());
            f.cluster.lrs_server = Some(source(own));
        }),
        same("empty `UpstreamTlsContext`", Nack, |f| {
            f.cluster.transport_socket = Some(socket(any(&UpstreamTlsContext::default())));
        }),
        differs("`transport_socket: raw_buffer`", Nack, Served, ENVOY, |f| {
            f.cluster.transport_socket = Some(socket(any(&RawBuffer {})));
        }),
        same("`transport_socket` without `typed_config`", Nack, |f| {
            f.cluster.transport_socket = Some(core::TransportSocket { name: "tls".into(), config_type: None });
        }),
        differs("`transport_socket_matches` (entry without socket)", Served, Nack, TLS, |f| {
            f.cluster.transport_socket_matches.push(Default::default());
        }),
        differs("`transport_socket_matches` with empty `UpstreamTlsContext`", Served, Nack, TLS, |f| {
            let matching = cluster::cluster::TransportSocketMatch {
                transport_socket: Some(socket(any(&UpstreamTlsContext::default()))),
                ..Default::default()
            };
            f.cluster.transport_socket_matches.push(matching);
        }),
        same("`lb_subset_config`", Served, |f| f.cluster.lb_subset_config = Some(Default::default())),
        same("`round_robin_lb_config.slow_start_config`", Served, |f| {
            let config = cluster::cluster::RoundRobinLbConfig { slow_start_config: Some(Default::default()) };
            f.cluster.lb_config = Some(LbConfig::RoundRobinLbConfig(config));
        }),
        same("active `health_checks`", Served, |f| f.cluster.health_checks.push(Default::default())),
    ]);
}

#[test]
fn load_balancing_policies() {
    fn in_localities(inner: cluster::LoadBalancingPolicy) -> WrrLocality {
        WrrLocality { endpoint_picking_policy: Some(inner) }
    }
    check(&[
        same("unknown type, then WrrLocality{RoundRobin}", Served, |f| {
            let round_robin = in_localities(balanced_by([any(&RoundRobin::default())]));
            f.cluster.load_balancing_policy = Some(balanced_by([any_of("x.Y"), any(&round_robin)]));
        }),
        differs("`load_balancing_policy`: LeastRequest", Nack, Served, ENVOY, |f| {
            f.cluster.load_balancing_policy = Some(balanced_by([any(&LeastRequest::default())]));
        }),
        same("a supported policy with a wrong configuration, then a good one", Nack, |f| {
            let wrong = LeastRequest { choice_count: Some(1), ..Default::default() };
            let policies = [any(&wrong), any(&RoundRobin::default())];
            f.cluster.load_balancing_policy = Some(balanced_by(policies));
        }),
        same("WrrLocality{ClientSideWeightedRoundRobin}", Served, |f| {
            let inner = balanced_by([any(&ClientSideWeightedRoundRobin::default())]);
            f.cluster.load_balancing_policy = Some(balanced_by([any(&in_localities(inner))]));
        }),
        same("ClientSideWeightedRoundRobin with slow start", Served, |f| {
            let slow_start_config = Some(SlowStartConfig::default());
            let config = ClientSideWeightedRoundRobin { slow_start_config, ..Default::default() };
            f.cluster.load_balancing_policy = Some(balanced_by([any(&config)]));
        }),
        same("negative error_utilization_penalty", Nack, |f| {
            let config = ClientSideWeightedRoundRobin { error_utilization_penalty: Some(-1.0), ..Default::default() };
            f.cluster.load_balancing_policy = Some(balanced_by([any(&config)]));
        }),
        same("no supported policy", Nack, |f| {
            f.cluster.load_balancing_policy = Some(balanced_by([any_of("x.Y")]));
        }),
        same("no policy at all", Nack, |f| f.cluster.load_balancing_policy = Some(balanced_by([]))),
        same("16 policies in each other", Served, |f| {
            let mut list = balanced_by([any(&RoundRobin::default())]);
            for _ in 0..15 {
                list = balanced_by([any(&in_localities(list))]);
            }
            f.cluster.load_balancing_policy = Some(list);
        }),
        same("17 policies in each other", Nack, |f| {
            let mut list = balanced_by([any(&RoundRobin::default())]);
            for _ in 0..16 {
                list = balanced_by([any(&in_localities(list))]);
            }
            f.cluster.load_balancing_policy = Some(list);
        }),
    ]);
}

#[test]
fn assignments() {
    use core::HealthStatus;
    check(&[
        same("no localities", NoEndpoint, |f| f.endpoints.endpoints.clear()),
        same("locality weight unset", NoEndpoint, |f| f.group().load_balancing_weight = None),
        same("locality weight 0", NoEndpoint, |f| f.group().load_balancing_weight = Some(0)),
        same("`locality` unset", Nack, |f| f.group().locality = None),
        same("only priority 1", Nack, |f| f.group().priority = 1),
        same("priority 4294967295", Nack, |f| f.group().priority = u32::MAX),
        same("same locality twice in a priority", Nack, |f| {
            let mut second = f.endpoints.endpoints[0].clone();
            second.lb_endpoints = vec![member("127.0.0.2", 8080)];
            f.endpoints.endpoints.push(second);
        }),
        same("same locality in two priorities", Served, |f| {
            f.endpoints.endpoints.push(locality("z1", 1, 1, vec![member("127.0.0.2", 8080)]));
        }),
        same("same address twice", Nack, |f| {
            f.endpoints.endpoints.push(locality("z2", 1, 1, vec![member("127.0.0.1", 8080)]));
        }),
        same("same address twice, once unhealthy", Served, |f| {
            let mut second = member("127.0.0.1", 8080);
            second.health_status = HealthStatus::Unhealthy as i32;
            f.endpoints.endpoints.push(locality("z2", 0, 1, vec![second]));
        }),
        same("endpoint weight 0", Nack, |f| f.member().load_balancing_weight = Some(0)),
        same("only UNHEALTHY endpoint", NoEndpoint, |f| {
            f.member().health_status = HealthStatus::Unhealthy as i32;
        }),
        same("only DRAINING endpoint", NoEndpoint, |f| f.member().health_status = HealthStatus::Draining as i32),
        same("an unhealthy endpoint with a wrong address", Served, |f| {
            let mut second = member("host", 70_000);
            second.health_status = HealthStatus::Timeout as i32;
            f.group().lb_endpoints.push(second);
        }),
        same("DNS name as endpoint address", Nack, |f| *f.member() = member("localhost", 8080)),
        same("port 70000", Nack, |f| *f.member() = member("127.0.0.1", 70_000)),
        same("no `endpoint`", Nack, |f| f.member().host_identifier = None),
        differs("pipe (UDS) address", Nack, Served, ENVOY, |f| {
            *f.member() = member_at(core::address::Address::Pipe(core::Pipe { path: "/x".into(), mode: 0 }));
        }),
        same("`drop_overloads` 100 %", Dropped, |f| f.endpoints.policy = drops("x", 100)),
        same("`drop_overloads` 250 %", Dropped, |f| f.endpoints.policy = drops("x", 250)),
        same("`drop_overloads` without category", Nack, |f| f.endpoints.policy = drops("", 100)),
        same("`overprovisioning_factor: 140`", Served, |f| {
            f.endpoints.policy.get_or_insert_default().overprovisioning_factor = Some(140);
        }),
        same("locality weights sum > u32 max", Nack, |f| {
            f.group().load_balancing_weight = Some(u32::MAX);
            f.endpoints.endpoints.push(locality("z2", 0, 1, vec![member("127.0.0.2", 8080)]));
        }),
    ]);
}

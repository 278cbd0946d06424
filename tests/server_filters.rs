//! What a server does with the HTTP filters of its listener and the headers of its routes, and what it lists of the rest.

use std::time::Duration;

use mesh_core::context::Context;
use mesh_core::server::{ServerOptions, ServingMode};
use mesh_core::testing::{
    ControlPlane, FilterChainBuilder, Resources, any, filter_chain, route, route_config, server_listener, virtual_host,
};
use mesh_examples::helloworld::greeter_server::{Greeter, GreeterServer};
use mesh_examples::helloworld::{HelloReply, HelloRequest};
use mesh_xds_proto::envoy::config::common::mutation_rules::v3::HeaderMutation as Change;
use mesh_xds_proto::envoy::config::common::mutation_rules::v3::header_mutation::Action;
use mesh_xds_proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption, RuntimeFractionalPercent};
use mesh_xds_proto::envoy::config::rbac::v3 as rbac;
use mesh_xds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use mesh_xds_proto::envoy::config::route::v3::rate_limit::{self, action};
use mesh_xds_proto::envoy::config::route::v3::{
    FilterConfig, HeaderMatcher, HedgePolicy, RateLimit, RetryPolicy, VirtualHost, route_action,
};
use mesh_xds_proto::envoy::extensions::common::ratelimit::v3::LocalRateLimitDescriptor;
use mesh_xds_proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use mesh_xds_proto::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier};
use mesh_xds_proto::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort};
use mesh_xds_proto::envoy::extensions::filters::http::header_mutation::v3::{
    HeaderMutation, HeaderMutationPerRoute, Mutations,
};
use mesh_xds_proto::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use mesh_xds_proto::envoy::extensions::filters::http::rbac::v3::Rbac;
use mesh_xds_proto::envoy::extensions::filters::http::stateful_session::v3::StatefulSession;
use mesh_xds_proto::envoy::r#type::v3::{FractionalPercent, TokenBucket};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use crate::support::client::{Client, metadata, quick, quick_mesh};
use crate::support::configured::Setting;
use crate::support::in_time;
use crate::support::served::Served;

fn append(key: &str, value: &str) -> HeaderValueOption {
    let header = HeaderValue { key: key.to_owned(), value: value.to_owned(), ..Default::default() };
    HeaderValueOption { header: Some(header), ..Default::default() }
}

fn mutations(request: Vec<Action>, response: Vec<Action>) -> Option<Mutations> {
    let changes = |actions: Vec<Action>| actions.into_iter().map(|action| Change { action: Some(action) }).collect();
    let (request_mutations, response_mutations) = (changes(request), changes(response));
    Some(Mutations { request_mutations, response_mutations, ..Default::default() })
}

fn changing(request: Vec<Action>, response: Vec<Action>) -> HeaderMutation {
    HeaderMutation { mutations: mutations(request, response), ..Default::default() }
}

fn all() -> Option<FractionalPercent> {
    Some(FractionalPercent { numerator: 100, denominator: 0 })
}

fn delay(by: Duration) -> Option<FaultDelay> {
    let by = FaultDelaySecifier::FixedDelay(by.try_into().expect("a short delay"));
    Some(FaultDelay { percentage: all(), fault_delay_secifier: Some(by) })
}

fn abort(code: u32) -> Option<FaultAbort> {
    let error_type = Some(fault_abort::ErrorType::GrpcStatus(code));
    Some(FaultAbort { percentage: all(), error_type, ..Default::default() })
}

/// Denies calls with this header.
fn without(header: &str) -> Rbac {
    let present = Some(HeaderMatchSpecifier::PresentMatch(true));
    let header = HeaderMatcher { name: header.into(), header_match_specifier: present, ..Default::default() };
    let permission = rbac::Permission { rule: Some(rbac::permission::Rule::Header(header)) };
    let principal = rbac::Principal { identifier: Some(rbac::principal::Identifier::Any(true)) };
    let policy = rbac::Policy { permissions: vec![permission], principals: vec![principal], ..Default::default() };
    let policies = [("header".to_owned(), policy)].into();
    let rules = rbac::Rbac { action: rbac::rbac::Action::Deny as i32, policies, ..Default::default() };
    Rbac { rules: Some(rules), ..Default::default() }
}

/// So many calls, and then one an hour.
fn limit(max_tokens: u32) -> LocalRateLimit {
    let all = || Some(RuntimeFractionalPercent { default_value: all(), ..Default::default() });
    let fill_interval = Some(Duration::from_secs(3_600).try_into().expect("a duration"));
    LocalRateLimit {
        stat_prefix: "limit".to_owned(),
        token_bucket: Some(TokenBucket { max_tokens, tokens_per_fill: None, fill_interval }),
        filter_enabled: all(),
        filter_enforced: all(),
        ..Default::default()
    }
}

async fn start(chain: FilterChainBuilder) -> Setting {
    Setting::start(chain, ServerOptions::new()).await
}

fn values(metadata: &MetadataMap, name: &str) -> Vec<String> {
    metadata.get_all(name).iter().map(|value| value.to_str().expect("text").to_owned()).collect()
}

/// What the handler saw of a call, and what its caller saw of the answer.
async fn call(it: &Setting, pairs: &[(&'static str, &str)]) -> (MetadataMap, MetadataMap) {
    let mut request = Request::new(HelloRequest::default());
    *request.metadata_mut() = metadata(pairs);
    let reply = it.client.greeter().say_hello(request).await.expect("an answer");
    (it.greeter.seen().pop().expect("a call").metadata, reply.metadata().clone())
}

#[tokio::test]
async fn filters_and_routes_change_headers_for_handlers_and_of_their_answers() {
    let filter = changing(
        vec![Action::Append(append("x-all", "filter")), Action::Remove("x-gone".into())],
        vec![Action::Append(append("x-by", "filter"))],
    );
    let per_route =
        HeaderMutationPerRoute { mutations: mutations(vec![Action::Append(append("x-all", "override"))], vec![]) };
    let route = route().name("r1").non_forwarding().filter_config("headers", &per_route).modify(|route| {
        route.request_headers_to_add = vec![append("x-all", "%ROUTE_NAME%")];
        route.response_headers_to_add = vec![append("x-by", "route %RESPONSE_CODE%")];
    });
    let host =
        virtual_host(["*"]).route(route).modify(|host| host.request_headers_to_add = vec![append("x-all", "host")]);
    let routes = route_config("r").with(host);
    let it = start(filter_chain().filter("headers", &filter).inline(routes)).await;
    let (seen, answered) = call(&it, &[("x-all", "caller"), ("x-gone", "1")]).await;
    assert_eq!(values(&seen, "x-all"), ["caller", "filter", "override", "r1", "host"]);
    assert_eq!(values(&seen, "x-gone"), [""; 0]);
    assert_eq!(values(&answered, "x-by"), ["route 200", "filter"]);
}

#[tokio::test]
async fn filters_change_from_the_next_call_on_for_connections_that_are_open() {
    let by = |name: &str| changing(vec![], vec![Action::Append(append("x-by", name))]);
    let it = start(filter_chain().filter("headers", &by("first"))).await;
    assert_eq!(values(&call(&it, &[]).await.1, "x-by"), ["first"]);
    it.changes_to(filter_chain().filter("headers", &by("second"))).await;
    in_time("the second filter", async { while values(&call(&it, &[]).await.1, "x-by") != ["second"] {} }).await;
    it.changes_to(filter_chain()).await;
    in_time("no filter", async { while !values(&call(&it, &[]).await.1, "x-by").is_empty() {} }).await;
    assert_eq!(it.server.status().accepted, 1);
}

#[tokio::test]
async fn filters_pass_in_their_order_and_access_control_sees_what_those_before_it_did() {
    let strip = changing(vec![Action::Remove("x-admin".into())], vec![]);
    let guard = without("x-admin");
    for (chain, expected) in [
        (filter_chain().filter("strip", &strip).filter("guard", &guard), Code::Ok),
        (filter_chain().filter("guard", &guard).filter("strip", &strip), Code::PermissionDenied),
    ] {
        let it = start(chain).await;
        let code =
            it.client.hello_with(metadata(&[("x-admin", "1")])).await.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(code, expected);
        let served = u64::from(expected == Code::Ok);
        assert_eq!((it.greeter.calls(), it.server.status().refused_calls), (served, 1 - served));
        it.client.hello().await.expect("nothing is wrong with it");
    }
}

#[tokio::test]
async fn s12_other_filters_admit_no_call_where_a_policy_must() {
    let filter = changing(vec![Action::Append(append("x-all", "filter"))], vec![]);
    let chain = filter_chain().filter("headers", &filter).filter("guard", &without("x-admin"));
    let it = Setting::start(chain, ServerOptions::new().deny_by_default()).await;
    assert_eq!(it.client.hello().await.expect_err("no policy allows it").code(), Code::PermissionDenied);
    assert_eq!(it.greeter.calls(), 0);
}

#[tokio::test]
async fn a_fault_aborts_the_calls_of_a_server_before_their_handler() {
    let fault = HttpFault { abort: abort(8), ..Default::default() };
    let headers = changing(vec![], vec![Action::Append(append("x-by", "filter"))]);
    let it = start(filter_chain().filter("headers", &headers).filter("fault", &fault)).await;
    let status = it.client.hello().await.expect_err("it is aborted");
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "fault filter abort"));
    assert_eq!(values(status.metadata(), "x-by"), ["filter"], "the filters before it see the answer");
    assert_eq!((it.greeter.calls(), it.server.status().refused_calls), (0, 0));
}

/// Answers with the time that a call made inside would have, in milliseconds.
struct Remaining;

#[tonic::async_trait]
impl Greeter for Remaining {
    async fn say_hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let remaining = Context::current().remaining().expect("the call has a deadline");
        Ok(Response::new(HelloReply { message: remaining.as_millis().to_string() }))
    }
}

#[tokio::test]
async fn a_delay_is_part_of_the_time_that_a_call_has() {
    let slow = |by| filter_chain().filter("fault", &HttpFault { delay: delay(by), ..Default::default() });
    let control_plane = ControlPlane::new();
    let mesh = quick_mesh(&control_plane).await;
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    control_plane.put(server_listener(socket.local_addr().unwrap()).chains([slow(Duration::from_millis(50))]));
    let services = |server: mesh_tonic::MeshServer| server.add_service(GreeterServer::new(Remaining));
    let server = Served::start_at(socket, &mesh, ServerOptions::new(), services).await;
    server.wait_for("a server that serves", |status| status.mode == ServingMode::Serving).await;
    let plain = quick().build().await.unwrap();
    let client = Client::new(&plain, &server.target());
    let start = Instant::now();
    let remaining: u64 = client.hello_within(Duration::from_secs(9)).await.expect("in time").parse().unwrap();
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert!(remaining <= 8_950, "{remaining} ms behind the delay");
}

#[tokio::test]
async fn a_call_whose_deadline_passes_while_it_is_held_reaches_no_handler() {
    let fault = HttpFault { delay: delay(Duration::from_secs(60)), ..Default::default() };
    let it = start(filter_chain().filter("fault", &fault)).await;
    let start = Instant::now();
    let status = it.client.hello_within(Duration::from_millis(50)).await.expect_err("too late");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    it.server.wait_for("the call to be over", |status| status.in_flight == 0).await;
    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!(it.greeter.calls(), 0);
}

#[tokio::test]
async fn calls_beyond_a_servers_rate_are_refused_before_their_handler() {
    for (limit, code) in [
        (limit(3), Code::Unavailable),
        (LocalRateLimit { rate_limited_as_resource_exhausted: true, ..limit(3) }, Code::ResourceExhausted),
    ] {
        let limit = LocalRateLimit { response_headers_to_add: vec![append("x-limited", "true")], ..limit };
        let it = start(filter_chain().filter("limit", &limit)).await;
        for _ in 0..3 {
            it.client.hello().await.expect("a token");
        }
        let status = it.client.hello().await.expect_err("there is none");
        assert_eq!((status.code(), status.message()), (code, "local_rate_limited"));
        assert_eq!(values(status.metadata(), "x-limited"), ["true"]);
        assert_eq!(it.greeter.calls(), 3);
    }
}

fn by_tier(filter: LocalRateLimit, tier: &str, tokens: u32) -> LocalRateLimit {
    let tier = Entry { key: "tier".into(), value: tier.into() };
    let action =
        action::RequestHeaders { header_name: "x-tier".into(), descriptor_key: "tier".into(), ..Default::default() };
    let action = rate_limit::Action { action_specifier: Some(action::ActionSpecifier::RequestHeaders(action)) };
    let token_bucket = limit(tokens).token_bucket;
    let descriptor = LocalRateLimitDescriptor { entries: vec![tier], token_bucket, ..Default::default() };
    let rate_limits = vec![RateLimit { actions: vec![action], ..Default::default() }];
    LocalRateLimit { descriptors: vec![descriptor], rate_limits, ..filter }
}

#[tokio::test]
async fn calls_of_a_descriptor_have_a_limit_of_their_own_and_the_common_one_unless_it_says_otherwise() {
    for (takes_both, free, others) in [(None, 2, 3), (Some(false), 2, 5)] {
        let filter = by_tier(limit(5), "free", 2);
        let filter = LocalRateLimit { always_consume_default_token_bucket: takes_both, ..filter };
        let it = start(filter_chain().filter("limit", &filter)).await;
        let mut answered = [0, 0];
        for _ in 0..7 {
            for (place, tier) in ["free", "paid"].into_iter().enumerate() {
                answered[place] += u32::from(it.client.hello_with(metadata(&[("x-tier", tier)])).await.is_ok());
            }
        }
        assert_eq!(answered, [free, others], "{takes_both:?}");
        it.changes_to(filter_chain().filter("limit", &LocalRateLimit { stat_prefix: "other".into(), ..filter })).await;
        for _ in 0..20 {
            it.client.hello_with(metadata(&[("x-tier", "free")])).await.expect_err("an update brings no tokens");
        }
    }
}

#[tokio::test]
async fn calls_from_an_address_have_a_limit_of_their_own() {
    for (address, answered) in [("127.0.0.1", 2), ("192.0.2.1", 5)] {
        let action = action::ActionSpecifier::RemoteAddress(action::RemoteAddress {});
        let action = rate_limit::Action { action_specifier: Some(action) };
        let descriptor = LocalRateLimitDescriptor {
            entries: vec![Entry { key: "remote_address".into(), value: address.into() }],
            token_bucket: limit(2).token_bucket,
            ..Default::default()
        };
        let filter = LocalRateLimit {
            descriptors: vec![descriptor],
            rate_limits: vec![RateLimit { actions: vec![action], ..Default::default() }],
            ..limit(100)
        };
        let it = start(filter_chain().filter("limit", &filter)).await;
        let mut passed = 0;
        for _ in 0..5 {
            passed += u32::from(it.client.hello().await.is_ok());
        }
        assert_eq!(passed, answered, "of {address}");
    }
}

#[tokio::test]
async fn a_virtual_host_of_a_server_says_which_calls_a_limit_is_for() {
    let filter = LocalRateLimit { rate_limits: Vec::new(), ..by_tier(limit(100), "free", 2) };
    let rules = by_tier(limit(1), "free", 1).rate_limits;
    let host = virtual_host(["*"]).route(route().non_forwarding()).modify(|host| host.rate_limits = rules);
    let it = start(filter_chain().inline(route_config("r").with(host)).filter("limit", &filter)).await;
    let mut answered = 0;
    for _ in 0..5 {
        answered += u32::from(it.client.hello_with(metadata(&[("x-tier", "free")])).await.is_ok());
    }
    assert_eq!(answered, 2);
    it.client.hello().await.expect("another descriptor");
}

#[tokio::test]
async fn each_value_of_a_descriptor_has_a_limit_of_its_own_and_the_last_are_remembered() {
    let filter = LocalRateLimit { max_dynamic_descriptors: Some(2), ..by_tier(limit(100), "", 2) };
    let it = start(filter_chain().filter("limit", &filter)).await;
    let answered = async |tier: &str, calls: u32| {
        let mut answered = 0;
        for _ in 0..calls {
            answered += u32::from(it.client.hello_with(metadata(&[("x-tier", tier)])).await.is_ok());
        }
        answered
    };
    assert_eq!([answered("a", 3).await, answered("b", 3).await, answered("a", 1).await], [2, 2, 0]);
    it.changes_to(filter_chain().filter("limit", &LocalRateLimit { stat_prefix: "other".into(), ..filter })).await;
    assert_eq!([answered("b", 1).await, answered("a", 1).await], [0, 0], "an update brings no tokens");
    // The one that was used least of late makes room.
    assert_eq!([answered("c", 3).await, answered("a", 1).await, answered("b", 3).await], [2, 0, 2]);
}

#[tokio::test]
async fn connections_and_updates_give_nobody_new_tokens_of_a_server() {
    let marked = |mark: &str| LocalRateLimit { response_headers_to_add: vec![append("x-version", mark)], ..limit(2) };
    let chain = |mark| filter_chain().filter("limit", &marked(mark));
    let it = start(chain("1")).await;
    it.client.hello().await.expect("the first token");
    let mesh = quick().build().await.unwrap();
    let other = Client::new(&mesh, &it.server.target());
    other.hello().await.expect("the second");
    it.client.hello().await.expect_err("there is no third");
    it.changes_to(chain("2")).await;
    loop {
        let status = it.client.hello().await.expect_err("an update brings none");
        if values(status.metadata(), "x-version") == ["2"] {
            break;
        }
    }
    assert_eq!(it.greeter.calls(), 2);
}

#[tokio::test]
async fn routes_of_a_server_override_its_filters_and_switch_them_off() {
    let off = FilterConfig { disabled: true, ..Default::default() };
    let path = "/helloworld.Greeter/SayHello";
    let routes = route_config("r").routes([
        route().header("x-tier", "paid").non_forwarding().filter_config("limit", &off),
        route().path(path).non_forwarding().filter_config("limit", &limit(1)),
    ]);
    let it = start(filter_chain().filter("limit", &limit(100)).inline(routes)).await;
    it.client.hello().await.expect("the only token");
    it.client.hello().await.expect_err("there is no other");
    for _ in 0..3 {
        it.client.hello_with(metadata(&[("x-tier", "paid")])).await.expect("no limit");
    }
}

/// What a mesh lists of these, as paths.
fn listed(it: &Setting, resource_type: &str) -> Vec<String> {
    let fields = it.mesh.ignored_fields();
    let fields = fields.into_iter().filter(|field| field.resource_type == resource_type);
    fields.map(|field| format!("{}: {}", field.path, field.reason)).collect()
}

fn with_fields_of_clients(host: &mut VirtualHost) {
    host.retry_policy = Some(RetryPolicy { retry_on: "unavailable".into(), ..Default::default() });
    host.hedge_policy = Some(HedgePolicy { hedge_on_per_try_timeout: true, ..Default::default() });
    let mirror = route_action::RequestMirrorPolicy { cluster: "copy".into(), ..Default::default() };
    host.request_mirror_policies = vec![mirror];
}

const OF_CLIENTS: [&str; 4] = [
    "virtual_hosts.hedge_policy: only clients act on it",
    "virtual_hosts.request_mirror_policies: only clients act on it",
    "virtual_hosts.retry_policy: only clients act on it",
    "virtual_hosts.routes.route: only clients act on it",
];

#[tokio::test]
async fn what_only_clients_act_on_is_listed_when_a_server_takes_it_up() {
    let host = virtual_host(["*"]).route(route().path("/x").cluster("c")).route(route().non_forwarding());
    let routes = route_config("shared").with(host.modify(with_fields_of_clients));
    let it = start(filter_chain().inline(routes.clone())).await;
    it.client.hello().await.expect("it is served all the same");
    let inline = OF_CLIENTS.map(|path| format!("filter_chains.filters.typed_config.route_config.{path}"));
    assert_eq!(listed(&it, "Listener"), inline);
    it.control_plane.put(routes);
    it.changes_to(filter_chain().rds("shared")).await;
    it.control_plane.acked("type.googleapis.com/envoy.config.route.v3.RouteConfiguration").await;
    while listed(&it, "RouteConfiguration").is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(listed(&it, "RouteConfiguration"), OF_CLIENTS);
    it.client.hello().await.expect("it is served all the same");
}

#[tokio::test]
async fn what_only_clients_act_on_is_not_listed_by_clients() {
    let control_plane = ControlPlane::new();
    let greeter = crate::support::backend::Backend::start("a").await;
    let host = virtual_host(["*"]).route(route().cluster("greeter")).modify(|host| {
        host.retry_policy = Some(RetryPolicy { retry_on: "unavailable".into(), ..Default::default() });
    });
    let resources = Resources::service("greeter", [greeter.address()]);
    control_plane.set(resources.with(route_config("greeter").with(host)));
    let mesh = quick_mesh(&control_plane).await;
    Client::new(&mesh, "xds:///greeter").hello().await.expect("an answer");
    assert_eq!(mesh.ignored_fields(), []);
}

#[tokio::test]
async fn a_filter_that_no_server_runs_is_refused_unless_it_is_optional() {
    let it = start(filter_chain()).await;
    let chain = |optional| {
        filter_chain().filter("sessions", &StatefulSession::default()).modify_manager(move |manager| {
            manager.http_filters[0].is_optional = optional;
        })
    };
    let listener = |chain| server_listener(it.server.address()).chains([chain]);
    it.control_plane.put(listener(chain(false)));
    let nack = it.control_plane.next_nack().await.error.expect("a NACK says why").1;
    let place = "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config";
    let name = "envoy.extensions.filters.http.stateful_session.v3.StatefulSession";
    assert!(nack.contains(&format!("{place}[{name}]: \"{name}\" is not supported")), "{nack}");
    it.client.hello().await.expect("the last good listener");
    it.control_plane.put(listener(chain(true)));
    let path =
        format!("filter_chains.filters.typed_config.http_filters.typed_config[{name}]: optional, and not supported");
    while listed(&it, "Listener") != [path.as_str()] {
        tokio::task::yield_now().await;
    }
    it.client.hello().await.expect("it is served without the filter");
}

#[tokio::test]
async fn a_bad_filter_of_a_server_is_refused_by_field_and_the_last_good_one_serves() {
    let it = start(filter_chain().filter("limit", &limit(100))).await;
    let bad = LocalRateLimit { token_bucket: Some(TokenBucket::default()), ..limit(1) };
    it.control_plane.put(server_listener(it.server.address()).chains([filter_chain().filter("limit", &bad)]));
    let nack = it.control_plane.next_nack().await.error.expect("a NACK says why").1;
    assert!(nack.contains("http_filters[0].typed_config.token_bucket.max_tokens: must be above 0"), "{nack}");
    it.client.hello().await.expect("the last good limit");
    let bad = by_tier(LocalRateLimit { rate_limits: vec![], ..limit(1) }, "free", 0);
    it.control_plane.put(server_listener(it.server.address()).chains([filter_chain().filter("limit", &bad)]));
    let nack = it.control_plane.next_nack().await.error.expect("a NACK says why").1;
    assert!(nack.contains("typed_config.descriptors[0].token_bucket.max_tokens: must be above 0"), "{nack}");
    let unknown = FilterConfig { config: Some(any(&RetryPolicy::default())), ..Default::default() };
    let routes = route_config("r").routes([route().non_forwarding().filter_config("x", &unknown)]);
    it.control_plane.put(server_listener(it.server.address()).chains([filter_chain().inline(routes)]));
    let nack = it.control_plane.next_nack().await.error.expect("a NACK says why").1;
    assert!(nack.contains("typed_per_filter_config[x].config"), "{nack}");
}

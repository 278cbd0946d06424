//! Calls that another service must allow (A92; Envoy's `ext_authz`), on servers and on clients.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use mesh_core::authorize::ExtAuthzLayer;
use mesh_core::filter::{ConcurrencyLimit, GradientController};
use mesh_core::server::ServerOptions;
use mesh_core::testing::{
    ControlPlane, FilterChainBuilder, Resources, RouteConfigBuilder, cluster, endpoints, filter_chain, listener, route,
    route_config, server_listener, virtual_host,
};
use mesh_core::{Bootstrap, GrpcService, Mesh, MeshBuilder, SecurityFloor};
use mesh_tonic::Grpc;
use mesh_xds_proto::envoy::config::common::mutation_rules::v3::header_mutation::Action;
use mesh_xds_proto::envoy::config::common::mutation_rules::v3::{HeaderMutation as Change, HeaderMutationRules};
use mesh_xds_proto::envoy::config::core::v3 as core;
use mesh_xds_proto::envoy::config::core::v3::address::Address;
use mesh_xds_proto::envoy::config::core::v3::grpc_service::{EnvoyGrpc, GoogleGrpc, TargetSpecifier};
use mesh_xds_proto::envoy::config::route::v3::FilterConfig;
use mesh_xds_proto::envoy::extensions::filters::http::ext_authz::v3 as pb;
use mesh_xds_proto::envoy::extensions::filters::http::header_mutation::v3::{HeaderMutation, Mutations};
use mesh_xds_proto::envoy::service::auth::v3::check_response::HttpResponse;
use mesh_xds_proto::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use mesh_xds_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use mesh_xds_proto::envoy::r#type::matcher::v3::{ListStringMatcher, RegexMatcher, StringMatcher};
use mesh_xds_proto::envoy::r#type::v3::{FractionalPercent, HttpStatus};
use mesh_xds_proto::google::rpc::Status as RpcStatus;
use pb::check_settings::ServiceOverride;
use pb::ext_authz::Services;
use pb::ext_authz_per_route::Override;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::service::Routes;
use tonic::transport::Server;
use tower::Layer;

use crate::support::PATIENCE;
use crate::support::authorization::{Answer, Authorization};
use crate::support::backend::Backend;
use crate::support::client::{Client, metadata, quick};
use crate::support::configured::Setting;
use crate::support::frames::{FrameServer, HEADERS, Peer, REFUSED_STREAM};
use crate::support::log::Log;
use crate::support::network::ClosedPort;
use crate::support::pki::uri;
use crate::support::secured_server::{CLIENT, SERVER, Site, context, secured};

/// How `server_listener` calls the listener of a server.
const LISTENERS: &str = "grpc/server?xds.resource.listening_address=%s";

pub(crate) fn allowing(service: &Authorization) -> MeshBuilder {
    quick().bootstrap(bootstrap([service]))
}

/// Of a server whose control plane may name these services.
fn bootstrap<const N: usize>(services: [&Authorization; N]) -> Bootstrap {
    bootstrap_of(services.map(Authorization::target))
}

fn bootstrap_of<const N: usize>(targets: [String; N]) -> Bootstrap {
    let bootstrap = Bootstrap::builder("in-process").insecure().server_listener_resource_name_template(LISTENERS);
    let allow = |bootstrap: mesh_core::BootstrapBuilder, target: String| {
        bootstrap.allow_grpc_service(GrpcService::new(target).insecure())
    };
    targets.into_iter().fold(bootstrap, allow).build().expect("a bootstrap")
}

fn service(target: &str) -> core::GrpcService {
    let google = GoogleGrpc { target_uri: target.into(), stat_prefix: "authz".into(), ..Default::default() };
    core::GrpcService { target_specifier: Some(TargetSpecifier::GoogleGrpc(google)), ..Default::default() }
}

pub(crate) fn asking(target: &str) -> pb::ExtAuthz {
    pb::ExtAuthz { services: Some(Services::GrpcService(service(target))), ..Default::default() }
}

fn within(filter: pb::ExtAuthz, timeout: Duration) -> pb::ExtAuthz {
    let Some(Services::GrpcService(service)) = filter.services else { panic!("a service") };
    let timeout = Some(timeout.try_into().expect("a duration"));
    pb::ExtAuthz { services: Some(Services::GrpcService(core::GrpcService { timeout, ..service })), ..filter }
}

fn chain(filter: &pb::ExtAuthz) -> FilterChainBuilder {
    filter_chain().filter("authz", filter)
}

async fn start(service: &Authorization, filter: &pb::ExtAuthz) -> Setting {
    Setting::start_in(allowing(service), chain(filter), ServerOptions::new()).await
}

/// Of a server that asks whatever listens there.
async fn start_at(service: SocketAddr) -> Setting {
    let mesh = quick().bootstrap(bootstrap_of([service.to_string()]));
    Setting::start_in(mesh, chain(&asking(&service.to_string())), ServerOptions::new()).await
}

pub(crate) fn option(key: &str, value: &str, overwrites: bool) -> core::HeaderValueOption {
    let header = core::HeaderValue { key: key.into(), value: value.into(), ..Default::default() };
    core::HeaderValueOption {
        header: Some(header),
        append_action: if overwrites { 2 } else { 0 },
        ..Default::default()
    }
}

pub(crate) fn ok() -> CheckResponse {
    CheckResponse { status: Some(RpcStatus::default()), ..Default::default() }
}

fn denies(status: i32, headers: Vec<core::HeaderValueOption>, body: &str) -> CheckResponse {
    let denied = DeniedHttpResponse { status: Some(HttpStatus { code: status }), headers, body: body.into() };
    let http_response = Some(HttpResponse::DeniedResponse(denied));
    CheckResponse { status: Some(RpcStatus { code: 7, ..Default::default() }), http_response, ..Default::default() }
}

fn told(result: Result<String, tonic::Status>) -> Result<String, (Code, String)> {
    result.map_err(|status| (status.code(), status.message().to_owned()))
}

fn refused(code: Code, text: &str) -> Result<String, (Code, String)> {
    Err((code, text.to_owned()))
}

#[tokio::test]
async fn a_call_that_the_service_allows_is_served_with_the_headers_that_it_changes() {
    let ok_response = OkHttpResponse {
        headers: vec![option("x-user", "alice", true), option("x-team", "blue", false)],
        headers_to_remove: vec!["x-secret".into()],
        response_headers_to_add: vec![option("x-decided", "yes", false)],
        ..Default::default()
    };
    let allowed = CheckResponse { http_response: Some(HttpResponse::OkResponse(ok_response)), ..ok() };
    let authorization = Authorization::start(allowed).await;
    let it = start(&authorization, &asking(&authorization.target())).await;
    let mut request = tonic::Request::new(mesh_examples::helloworld::HelloRequest::default());
    *request.metadata_mut() = metadata(&[("x-user", "mallory"), ("x-secret", "1"), ("traceparent", "00-a-b-01")]);
    let reply = it.client.greeter().say_hello(request).await.expect("it is allowed");
    assert_eq!(reply.metadata().get("x-decided").expect("a header"), "yes");
    let seen = it.greeter.seen().pop().expect("a call").metadata;
    let values =
        |name: &str| seen.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!((values("x-user"), values("x-team")), (vec!["alice".into()], vec!["blue".into()]));
    assert!(seen.get("x-secret").is_none());

    let asked = authorization.asked().pop().expect("a check");
    assert_eq!(asked.headers["traceparent"], "00-a-b-01", "it is a part of the call's trace");
    assert!(asked.headers["grpc-timeout"].to_str().unwrap().ends_with('u'));
    let attributes = asked.attributes;
    let http = attributes.request.and_then(|request| request.http).expect("the call");
    assert_eq!((&*http.method, &*http.path), ("POST", "/helloworld.Greeter/SayHello"));
    assert_eq!(http.host, it.server.address().to_string());
    let headers = http.header_map.expect("headers").headers;
    assert!(headers.iter().any(|header| header.key == "x-user" && header.raw_value == "mallory"));
    let port = |peer: &Option<mesh_xds_proto::envoy::service::auth::v3::attribute_context::Peer>| {
        let address = peer.as_ref().and_then(|peer| peer.address.clone()).and_then(|address| address.address);
        let Some(Address::SocketAddress(socket)) = address else { panic!("an address of a socket") };
        assert_eq!(socket.address, "127.0.0.1");
        socket.port_specifier
    };
    let own = core::socket_address::PortSpecifier::PortValue(it.server.address().port().into());
    assert_eq!(port(&attributes.destination), Some(own.clone()));
    assert_ne!(port(&attributes.source), Some(own));
}

/// A caller that has its authority in `host` alone has the same one for the service, for filters and for routes.
#[tokio::test]
async fn the_service_and_other_filters_see_the_host_of_a_call_without_an_authority() {
    let authorization = Authorization::start(ok()).await;
    let notes = Change { action: Some(Action::Append(option("x-authority", "%REQ(:AUTHORITY)%", true))) };
    let mutations = Some(Mutations { request_mutations: vec![notes], ..Default::default() });
    let routes = [virtual_host(["greeter"]).route(route().non_forwarding()), virtual_host(["*"])];
    let routes = routes.into_iter().fold(route_config("r"), RouteConfigBuilder::with);
    let chain = chain(&asking(&authorization.target()))
        .filter("notes", &HeaderMutation { mutations, ..Default::default() })
        .inline(routes);
    let it = Setting::start_in(allowing(&authorization), chain, ServerOptions::new()).await;
    let mut peer = Peer::connect(it.server.address()).await.unwrap();
    for (stream, authority) in [(1, ":authority"), (3, "host")] {
        let end = peer.hello_with(stream, &[(authority, "greeter")]).await.unwrap();
        assert_eq!(end.kind, HEADERS, "{authority}: it ends with its trailers");
        let asked = authorization.asked().pop().expect("a check");
        assert_eq!(asked.attributes.request.unwrap().http.unwrap().host, "greeter", "{authority}");
        let seen = it.greeter.seen().pop().expect("a call").metadata;
        assert_eq!(seen.get("x-authority").expect("a header"), "greeter", "{authority}");
    }
    assert_eq!(it.greeter.calls(), 2);
}

#[tokio::test]
async fn a_call_that_the_service_denies_reaches_no_handler() {
    let authorization = Authorization::start(ok()).await;
    let it = start(&authorization, &asking(&authorization.target())).await;
    assert_eq!(told(it.client.hello().await), Ok("a".to_owned()));
    for (answer, expected) in [
        (denies(403, vec![], "not today"), refused(Code::PermissionDenied, "not today")),
        (denies(401, vec![], "who are you?"), refused(Code::Unauthenticated, "who are you?")),
        (denies(503, vec![], ""), refused(Code::Unavailable, "")),
        (
            CheckResponse { status: Some(RpcStatus { code: 16, ..Default::default() }), ..Default::default() },
            refused(Code::PermissionDenied, ""),
        ),
    ] {
        authorization.say(answer);
        assert_eq!(told(it.client.hello().await), expected);
    }
    authorization.say(denies(403, vec![option("x-why", "quota", false), option("grpc-status", "0", true)], "no"));
    let status = it.client.hello().await.expect_err("it is denied");
    assert_eq!(
        (status.code(), status.metadata().get("x-why").unwrap().to_str().unwrap()),
        (Code::PermissionDenied, "quota")
    );
    let state = it.server.status();
    assert_eq!((it.greeter.calls(), state.refused_calls, state.accepted), (1, 5, 1));
    let why = state.last_refused_call.expect("a reason");
    assert!(why.contains("the authorization service denies it"), "{why}");
    assert_eq!(authorization.connections().get(), 1, "all checks share a connection");
}

#[tokio::test]
async fn s12_a_check_that_fails_denies_the_call_however_it_fails() {
    let authorization = Authorization::start(ok()).await;
    let filter = asking(&authorization.target());
    let unavailable = pb::ExtAuthz { status_on_error: Some(HttpStatus { code: 503 }), ..filter.clone() };
    for (filter, code) in [(&filter, Code::PermissionDenied), (&unavailable, Code::Unavailable)] {
        let it = start(&authorization, filter).await;
        for answer in [
            Answer::Status(14, "overloaded"),
            Answer::Status(0, ""),
            Answer::Reset,
            Answer::Raw(b"\x00\x00\x00\x00\x02\xff\xff"),
            Answer::Raw(b"\x01\x00\x00\x00\x00"),
            Answer::Raw(b"\x00\xff\xff\xff\xff"),
            Answer::Raw(b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
        ] {
            authorization.say(answer.clone());
            assert_eq!(told(it.client.hello().await), refused(code, ""), "{answer:?}");
        }
        assert_eq!(it.greeter.calls(), 0);
        let why = it.server.status().last_refused_call.expect("a reason");
        assert!(why.contains(&format!("the check at {} failed: ", authorization.target())), "{why}");
        authorization.say(ok());
        assert_eq!(told(it.client.hello().await), Ok("a".to_owned()), "and it is asked for the next call again");
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_denies_all_calls_until_it_comes() {
    let port = ClosedPort::new();
    let it = start_at(port.address()).await;
    assert_eq!(told(it.client.hello().await), refused(Code::PermissionDenied, ""));
    let why = it.server.status().last_refused_call.expect("a reason");
    assert!(why.contains("Connection refused"), "{why}");
    let _authorization = Authorization::start_on(port.listen(), ok(), None);
    assert_eq!(it.client.recovers().await, "a");
}

#[tokio::test]
async fn a_check_ends_at_its_timeout_and_at_the_deadline_of_its_call() {
    let authorization = Authorization::start(Answer::Silence).await;
    let filter = asking(&authorization.target());
    let short = start(&authorization, &within(filter.clone(), Duration::from_millis(50))).await;
    assert_eq!(told(short.client.hello().await), refused(Code::PermissionDenied, ""));
    let why = short.server.status().last_refused_call.expect("a reason");
    assert!(why.contains("no answer within 50ms"), "{why}");
    let long = start(&authorization, &within(filter, Duration::from_secs(60))).await;
    let begun = Instant::now();
    let status = long.client.hello_within(Duration::from_millis(50)).await.expect_err("too late");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    long.server.wait_for("the call to be over", |status| status.in_flight == 0).await;
    assert!(begun.elapsed() < Duration::from_secs(30));
    // The server itself goes by the deadline that it is told: this caller does not give up.
    let mut peer = Peer::connect(long.server.address()).await.unwrap();
    let call = peer.hello_with(1, &[(":authority", "greeter"), ("grpc-timeout", "50m")]);
    let end = tokio::time::timeout(PATIENCE, call).await.expect("it ends").unwrap();
    assert_eq!(end.kind, HEADERS, "{end:?}");
    assert_eq!((short.greeter.calls(), long.greeter.calls()), (0, 0));
}

#[tokio::test]
async fn a_check_of_which_the_service_did_nothing_is_made_once_more_and_no_oftener() {
    for (refusals, expected) in [(1, Ok("a".to_owned())), (2, refused(Code::PermissionDenied, ""))] {
        let service = FrameServer::start(move |mut peer| async move {
            peer.greet(&[]).await?;
            for _ in 0..refusals {
                let check = peer.next_call().await?;
                peer.reset(check, REFUSED_STREAM).await?;
            }
            // An empty message allows.
            peer.serve("").await
        })
        .await;
        let it = start_at(service.address()).await;
        assert_eq!(told(it.client.hello().await), expected, "refused {refusals} times");
        assert_eq!(told(it.client.hello().await), Ok("a".to_owned()));
    }
}

#[tokio::test]
async fn a_service_that_closes_its_connections_is_connected_no_faster_than_its_backoff_says() {
    let service = FrameServer::start(|mut peer| async move {
        peer.greet(&[]).await?;
        peer.next_call().await.map(drop)
    })
    .await;
    let it = start_at(service.address()).await;
    for _ in 0..5 {
        assert_eq!(told(it.client.hello().await), refused(Code::PermissionDenied, ""));
    }
    assert_eq!(service.accepted(), 1);
}

#[tokio::test]
async fn the_connection_to_the_service_ends_with_the_mesh() {
    let (tell, mut told_end) = mpsc::unbounded_channel();
    let service = FrameServer::start(move |mut peer| {
        let tell = tell.clone();
        async move {
            peer.greet(&[]).await?;
            let end = peer.serve("").await;
            tell.send(()).expect("the test looks at it");
            end
        }
    })
    .await;
    let it = start_at(service.address()).await;
    assert_eq!(told(it.client.hello().await), Ok("a".to_owned()));
    assert!(told_end.try_recv().is_err(), "it is kept for the next check");
    it.mesh.shutdown().await;
    tokio::time::timeout(PATIENCE, told_end.recv()).await.expect("it is closed");
}

#[tokio::test]
async fn the_filter_says_which_headers_the_service_is_told_and_may_change() {
    let exact =
        |text: &str| StringMatcher { match_pattern: Some(MatchPattern::Exact(text.into())), ..Default::default() };
    let prefix =
        |text: &str| StringMatcher { match_pattern: Some(MatchPattern::Prefix(text.into())), ..Default::default() };
    let regex = |regex: &str| Some(RegexMatcher { regex: regex.into(), ..Default::default() });
    let ok_response = OkHttpResponse {
        headers: ["x-user", "x-own", "x-envoy-a"].map(|name| option(name, "service", true)).into(),
        ..Default::default()
    };
    let allowed = CheckResponse { http_response: Some(HttpResponse::OkResponse(ok_response)), ..ok() };
    let authorization = Authorization::start(allowed).await;
    let rules =
        HeaderMutationRules { disallow_expression: regex("x-own.*"), allow_envoy: Some(true), ..Default::default() };
    let filter = pb::ExtAuthz {
        allowed_headers: Some(ListStringMatcher { patterns: vec![prefix("x-")] }),
        disallowed_headers: Some(ListStringMatcher { patterns: vec![exact("x-secret")] }),
        decoder_header_mutation_rules: Some(rules.clone()),
        ..asking(&authorization.target())
    };
    let it = start(&authorization, &filter).await;
    let mut request = tonic::Request::new(mesh_examples::helloworld::HelloRequest::default());
    *request.metadata_mut() = metadata(&[("x-own", "1"), ("x-secret", "2")]);
    it.client.greeter().say_hello(request).await.expect("it is allowed");
    let http = authorization.asked()[0].attributes.request.clone().and_then(|request| request.http).expect("the call");
    let headers: Vec<_> = http.header_map.expect("headers").headers.into_iter().map(|header| header.key).collect();
    assert_eq!(headers, ["x-own"]);
    let seen = it.greeter.seen().pop().expect("a call").metadata;
    let seen = ["x-user", "x-own", "x-envoy-a"].map(|name| seen.get(name).map(|value| value.to_str().unwrap()));
    assert_eq!(seen, [Some("service"), Some("1"), Some("service")]);

    // What is not allowed may be an error.
    let rules = HeaderMutationRules { disallow_is_error: Some(true), ..rules };
    it.changes_to(chain(&pb::ExtAuthz { decoder_header_mutation_rules: Some(rules), ..filter })).await;
    it.answers(Err(Code::Unknown)).await.expect_err("it is denied");
    let why = it.server.status().last_refused_call.expect("a reason");
    assert!(why.contains("`x-own`, which `decoder_header_mutation_rules` does not let it change"), "{why}");
}

#[tokio::test]
async fn failure_mode_allow_lets_calls_pass_whose_check_fails_and_no_others() {
    let authorization = Authorization::start(Answer::Status(14, "overloaded")).await;
    let filter = pb::ExtAuthz {
        failure_mode_allow: true,
        failure_mode_allow_header_add: true,
        ..asking(&authorization.target())
    };
    let it = start(&authorization, &filter).await;
    let log = Log::of_warnings();
    // It is said once, until a check succeeds again.
    for said in [1, 2] {
        for _ in 0..3 {
            authorization.say(Answer::Status(14, "overloaded"));
            assert_eq!(told(it.client.hello().await), Ok("a".to_owned()));
            let seen = it.greeter.seen().pop().expect("a call").metadata;
            assert_eq!(seen.get("x-envoy-auth-failure-mode-allowed").expect("a header"), "true");
        }
        assert_eq!(log.lines_with("calls pass that cannot be authorized"), said);
        authorization.say(denies(403, vec![], "no"));
        assert_eq!(told(it.client.hello().await), refused(Code::PermissionDenied, "no"));
    }
}

#[tokio::test]
async fn routes_disable_the_check_tell_more_and_ask_another_service() {
    let (first, second) = (Authorization::start(denies(403, vec![], "first")).await, Authorization::start(ok()).await);
    let at = |path: &str| route().path(path).non_forwarding();
    let settings = |settings| pb::ExtAuthzPerRoute { r#override: Some(Override::CheckSettings(settings)) };
    let context = |value: &str| [("tier".to_owned(), value.to_owned())].into();
    let gold = pb::CheckSettings { context_extensions: context("gold"), ..Default::default() };
    let another = Some(ServiceOverride::GrpcService(service(&second.target())));
    let another = pb::CheckSettings { service_override: another, ..Default::default() };
    let base = pb::CheckSettings { context_extensions: context("base"), ..Default::default() };
    let off = pb::ExtAuthzPerRoute { r#override: Some(Override::Disabled(true)) };
    let on = pb::ExtAuthzPerRoute { r#override: Some(Override::Disabled(false)) };
    for (route, expected, asked) in [
        (
            at("/helloworld.Greeter/SayHello").filter_config("authz", &on),
            refused(Code::PermissionDenied, "first"),
            [1, 0],
        ),
        (at("/helloworld.Greeter/SayHello").filter_config("authz", &off), Ok("a".to_owned()), [0, 0]),
        (
            at("/helloworld.Greeter/SayHello")
                .filter_config("authz", &FilterConfig { disabled: true, ..Default::default() }),
            Ok("a".to_owned()),
            [0, 0],
        ),
        (at("/helloworld.Greeter/SayHello").filter_config("authz", &settings(another)), Ok("a".to_owned()), [0, 1]),
        (
            at("/helloworld.Greeter/SayHello").filter_config("authz", &settings(gold)),
            refused(Code::PermissionDenied, "first"),
            [1, 0],
        ),
    ] {
        let before = [first.checks().get(), second.checks().get()];
        let host = virtual_host(["*"]).filter_config("authz", &settings(base.clone())).route(route);
        let chain = chain(&asking(&first.target())).inline(route_config("r").with(host));
        let mesh = quick().bootstrap(bootstrap([&first, &second]));
        let it = Setting::start_in(mesh, chain, ServerOptions::new()).await;
        assert_eq!(told(it.client.hello().await), expected);
        assert_eq!([first.checks().get() - before[0], second.checks().get() - before[1]], asked);
    }
    let tier =
        |service: &Authorization| service.asked().pop().expect("a check").attributes.context_extensions["tier"].clone();
    assert_eq!((tier(&first), tier(&second)), ("gold".to_owned(), "base".to_owned()));
}

#[tokio::test]
async fn calls_that_are_not_checked_pass_unless_they_are_to_be_denied() {
    let authorization = Authorization::start(ok()).await;
    let none = core::RuntimeFractionalPercent {
        default_value: Some(FractionalPercent { numerator: 0, denominator: 0 }),
        ..Default::default()
    };
    let flag = core::RuntimeFeatureFlag { default_value: Some(true), ..Default::default() };
    let filter = pb::ExtAuthz { filter_enabled: Some(none), ..asking(&authorization.target()) };
    let denying = pb::ExtAuthz { deny_at_disable: Some(flag), ..filter.clone() };
    for (filter, expected) in [(filter, Ok("a".to_owned())), (denying, refused(Code::PermissionDenied, ""))] {
        let it = start(&authorization, &filter).await;
        assert_eq!(told(it.client.hello().await), expected);
    }
    assert_eq!(authorization.checks().get(), 0);
}

#[tokio::test]
async fn checks_wait_for_each_other_where_the_service_takes_few_at_a_time() {
    let authorization = Authorization::start_with(ok(), Some(1)).await;
    let it = start(&authorization, &asking(&authorization.target())).await;
    let calls = (0..20).map(|_| it.client.hello());
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(told(answer), Ok("a".to_owned()));
    }
    assert_eq!((authorization.checks().get(), authorization.connections().get()), (20, 1));
}

#[tokio::test]
async fn s12_a_control_plane_names_only_services_that_the_bootstrap_allows() {
    let authorization = Authorization::start(ok()).await;
    let it = start(&authorization, &asking(&authorization.target())).await;
    let envoy = TargetSpecifier::EnvoyGrpc(EnvoyGrpc { cluster_name: "authz".into(), ..Default::default() });
    let envoy = core::GrpcService { target_specifier: Some(envoy), ..Default::default() };
    for (filter, problem) in [
        (asking("127.0.0.1:1"), "grpc_service.google_grpc.target_uri: \"127.0.0.1:1\" is none of the services"),
        (pb::ExtAuthz::default(), "grpc_service: must be set"),
        (
            pb::ExtAuthz { services: Some(Services::GrpcService(envoy)), ..Default::default() },
            "grpc_service.envoy_grpc: `google_grpc` must be set (A102)",
        ),
        (
            pb::ExtAuthz { services: Some(Services::HttpService(pb::HttpService::default())), ..Default::default() },
            "http_service: a service is asked by gRPC alone (A92)",
        ),
        (within(asking(&authorization.target()), Duration::ZERO), "grpc_service.timeout: must be above 0"),
        (
            pb::ExtAuthz { status_on_error: Some(HttpStatus { code: 200 }), ..asking(&authorization.target()) },
            "status_on_error.code: 200 is not a status of HTTP that says an error",
        ),
    ] {
        it.control_plane.put(server_listener(it.server.address()).chains([chain(&filter)]));
        let (_, nack) = it.control_plane.next_nack().await.error.expect("a reason");
        assert!(nack.contains(problem), "{nack}");
        assert_eq!(told(it.client.hello().await), Ok("a".to_owned()), "the last good one stays");
    }
}

#[tokio::test]
async fn s12_under_a_floor_no_filter_fails_open() {
    let authorization = Authorization::start(ok()).await;
    let filter = pb::ExtAuthz { failure_mode_allow: true, ..asking(&authorization.target()) };
    let mesh = allowing(&authorization).security_floor(SecurityFloor::new().require_mtls());
    let control_plane = ControlPlane::new();
    let mesh: Mesh = mesh.control_plane(&control_plane).build().await.unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    control_plane.put(server_listener(socket.local_addr().unwrap()).chains([chain(&filter)]));
    let server = mesh_tonic::MeshServer::new(&mesh);
    let serving = tokio::spawn(server.serve_with_shutdown(socket, std::future::pending()));
    let (_, nack) = control_plane.next_nack().await.error.expect("a reason");
    assert!(nack.contains("failure_mode_allow: is below the security floor of this mesh: mTLS is required"), "{nack}");
    serving.abort();
}

#[tokio::test]
async fn a_service_is_told_who_calls_and_whom() {
    let authorization = Authorization::start(ok()).await;
    let filter = pb::ExtAuthz { include_peer_certificate: true, ..asking(&authorization.target()) };
    let chain = Some(secured(&context()).filter("authz", &filter));
    let mesh = allowing(&authorization);
    let site = Site::start_in(mesh, chain, ServerOptions::new(), |server| server).await.certified().await;
    let caller = site.caller(Some(&site.authority.issue(&[uri(CLIENT)], |_| {}))).await;
    caller.hello().await.expect("it is allowed");
    let attributes = authorization.asked().pop().expect("a check").attributes;
    let (source, destination) = (attributes.source.unwrap(), attributes.destination.unwrap());
    assert_eq!((&*source.principal, &*destination.principal), (CLIENT, SERVER));
    assert!(source.certificate.starts_with("-----BEGIN%20CERTIFICATE-----%0A"), "{}", source.certificate);
    assert!(source.certificate.ends_with("-----END%20CERTIFICATE-----%0A"), "{}", source.certificate);
}

#[tokio::test]
async fn a_servers_concurrency_limit_learns_from_calls_that_were_checked() {
    let authorization = Authorization::start(ok()).await;
    let limit = ConcurrencyLimit::adaptive(GradientController::new().min_concurrency(1));
    let options = ServerOptions::new().concurrency_limit(limit);
    let it = Setting::start_in(allowing(&authorization), chain(&asking(&authorization.target())), options).await;
    let status = || it.server.status().concurrency.pop().expect("the limit of code");
    for _ in 0..50 {
        it.client.hello().await.expect("one at a time is served");
    }
    assert!(status().min_rtt.is_some(), "{:?}", status());
    assert_eq!(status().in_flight, 0);
}

#[tokio::test]
async fn a_client_asks_before_it_calls() {
    let (authorization, backend) = (Authorization::start(ok()).await, Backend::start("a").await);
    let control_plane = ControlPlane::new();
    let resources = Resources::new()
        .with(listener("greeter").filter("authz", &asking(&authorization.target())).rds("routes"))
        .with(route_config("routes").with(virtual_host(["*"]).route(route().cluster("greeter"))))
        .with(cluster("greeter"))
        .with(endpoints("greeter").all([backend.address()]));
    control_plane.set(resources);
    let mesh = allowing(&authorization).control_plane(&control_plane).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(told(client.hello().await), Ok("a".to_owned()));
    let attributes = authorization.asked().pop().expect("a check").attributes;
    assert!(attributes.source.is_none() && attributes.destination.is_none());
    authorization.say(denies(401, vec![], "no"));
    assert_eq!(told(client.hello().await), refused(Code::Unauthenticated, "no"));
    // Whoever runs the process is told why where the service has nothing to say, unlike a server's callers.
    authorization.say(denies(403, vec![], ""));
    let why = "filter `authz`: the authorization service denies it, with status code 7 and 403";
    assert_eq!(told(client.hello().await), refused(Code::PermissionDenied, why));
    authorization.say(Answer::Status(14, "overloaded"));
    let why = format!("filter `authz`: the check at {} failed: UNAVAILABLE: overloaded", authorization.target());
    assert_eq!(told(client.hello().await), refused(Code::PermissionDenied, &why));
    authorization.say(Answer::Silence);
    let status = client.hello_within(Duration::from_millis(50)).await.expect_err("too late");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(backend.calls(), 1);
}

fn asked_of(authorization: &Authorization) -> ExtAuthzLayer {
    let service = GrpcService::new(authorization.target()).insecure();
    let layer = ExtAuthzLayer::new(service).expect("a service").protocol(&Grpc);
    layer.context_extension("site", "a")
}

/// A server of tonic's own with the layer around its services, and a client of it.
async fn tonic_with(layer: ExtAuthzLayer, greeter: &Backend, mesh: &Mesh) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().layer(layer).add_service(greeter.service());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Client::new(mesh, &format!("static:///{address}"))
}

#[tokio::test]
async fn s12_the_layer_alone_asks_around_any_server_and_denies_what_cannot_be_checked() {
    let greeter = Backend::start("a").await;
    let mesh = quick().build().await.unwrap();
    let ok_response = OkHttpResponse { headers: vec![option("x-user", "alice", true)], ..Default::default() };
    let allowed = CheckResponse { http_response: Some(HttpResponse::OkResponse(ok_response)), ..ok() };
    let authorization = Authorization::start(allowed).await;
    let client = tonic_with(asked_of(&authorization), &greeter, &mesh).await;
    assert_eq!(told(client.hello_with(metadata(&[("x-user", "mallory")])).await), Ok("a".to_owned()));
    let seen = greeter.seen().pop().expect("a call").metadata;
    assert_eq!(seen.get_all("x-user").iter().collect::<Vec<_>>(), ["alice"]);
    let asked = authorization.asked().pop().expect("a check").attributes;
    assert_eq!(asked.context_extensions["site"], "a");
    assert_eq!(asked.source, None, "tonic's server says nothing of the connection");
    authorization.say(denies(403, vec![], "not today"));
    assert_eq!(told(client.hello().await), refused(Code::PermissionDenied, "not today"));
    for answer in [Answer::Status(14, "overloaded"), Answer::Reset, Answer::Raw(b"\x00\xff\xff\xff\xff")] {
        authorization.say(answer);
        assert_eq!(told(client.hello().await), refused(Code::PermissionDenied, ""));
    }
    authorization.say(Answer::Silence);
    let hasty = asked_of(&authorization).timeout(Duration::from_millis(50)).status_on_error(StatusCode::BAD_GATEWAY);
    let hasty = tonic_with(hasty, &greeter, &mesh).await;
    assert_eq!(told(hasty.hello().await), refused(Code::Unavailable, ""));
    let no_error = asked_of(&authorization).timeout(Duration::from_millis(50)).status_on_error(StatusCode::OK);
    let no_error = tonic_with(no_error, &greeter, &mesh).await;
    assert_eq!(told(no_error.hello().await), refused(Code::PermissionDenied, ""));
    let lenient = asked_of(&authorization).timeout(Duration::from_millis(50)).failure_mode_allow();
    let lenient = tonic_with(lenient, &greeter, &mesh).await;
    assert_eq!(told(lenient.hello().await), Ok("a".to_owned()));
    assert_eq!(greeter.calls(), 2);
    assert!(ExtAuthzLayer::new(GrpcService::new("xds:///authz").insecure()).is_err());
    assert!(ExtAuthzLayer::new(GrpcService::new(authorization.target())).is_err(), "it has no credentials");
}

#[tokio::test]
async fn the_layer_alone_tells_what_a_server_of_the_mesh_knows_of_the_connection() {
    let greeter = Backend::start("a").await;
    let authorization = Authorization::start(ok()).await;
    let mesh = quick().build().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = asked_of(&authorization).layer(Routes::new(greeter.service()).prepare());
    let server = mesh.server().protocol(&Grpc);
    tokio::spawn(async move { server.serve(listener, service, std::future::pending::<()>()).await.map(drop) });
    let client = Client::new(&mesh, &format!("static:///{address}"));
    assert_eq!(told(client.hello().await), Ok("a".to_owned()));
    let asked = authorization.asked().pop().expect("a check").attributes;
    let of = |peer: Option<mesh_xds_proto::envoy::service::auth::v3::attribute_context::Peer>| match peer
        .and_then(|peer| peer.address)
        .and_then(|address| address.address)
    {
        Some(Address::SocketAddress(socket)) => socket.port_specifier,
        other => panic!("{other:?}"),
    };
    let own = Some(core::socket_address::PortSpecifier::PortValue(address.port().into()));
    assert_eq!(of(asked.destination), own);
    assert_ne!(of(asked.source), own);
}

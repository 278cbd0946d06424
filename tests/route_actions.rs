//! What a route makes of a call beside where it goes: rewrites, redirects, direct responses, clusters named by headers.

use std::net::SocketAddr;

use bytes::Bytes;
use http::request::Parts;
use http_body_util::Empty;
use mesh_core::testing::{ControlPlane, Resources, RouteBuilder, endpoint, endpoints, listener, route, route_config};
use mesh_core::{Bootstrap, CallInfo, Mesh};
use mesh_tonic::MeshChannel;
use mesh_xds_proto::envoy::config::core::v3::{DataSource, data_source};
use mesh_xds_proto::envoy::config::route::v3::redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};
use mesh_xds_proto::envoy::config::route::v3::route_action::{ClusterSpecifier, HostRewriteSpecifier};
use mesh_xds_proto::envoy::config::route::v3::{DirectResponseAction, RedirectAction, RouteAction, route as action};
use mesh_xds_proto::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Code;
use tonic::metadata::MetadataMap;
use tower::ServiceExt;

use crate::support::PATIENCE;
use crate::support::backend::Backend;
use crate::support::client::{Client, assert_says, quick, quick_mesh};
use crate::support::secured::host_name;
use crate::support::witness::witness;

/// Changes the action of a route that forwards.
fn forwarding(route: RouteBuilder, change: impl FnOnce(&mut RouteAction)) -> RouteBuilder {
    route.cluster("greeter").modify(|route| match &mut route.action {
        Some(action::Action::Route(action)) => change(action),
        _ => panic!("it forwards"),
    })
}

fn substitute(pattern: &str, substitution: &str) -> Option<RegexMatchAndSubstitute> {
    let pattern = RegexMatcher { regex: pattern.to_owned(), ..Default::default() };
    Some(RegexMatchAndSubstitute { pattern: Some(pattern), substitution: substitution.to_owned() })
}

fn serving(address: SocketAddr, routes: impl IntoIterator<Item = RouteBuilder>) -> ControlPlane {
    let control_plane = ControlPlane::new();
    let routes = route_config("greeter").routes(routes);
    control_plane.set(Resources::service("greeter", [address]).with(routes));
    control_plane
}

/// What the witness sees of a request for this URI.
async fn seen(channel: &MeshChannel, requests: &mut mpsc::UnboundedReceiver<Parts>, uri: &str) -> String {
    let request = http::Request::post(uri).body(Empty::<Bytes>::new()).expect("a request");
    let failure = channel.clone().oneshot(request).await.expect_err("the witness resets it");
    let head = requests.try_recv().unwrap_or_else(|_| panic!("{uri} was not sent: {failure}"));
    head.uri.to_string()
}

/// Waits until the witness sees this of requests for the URI.
async fn until_seen(channel: &MeshChannel, requests: &mut mpsc::UnboundedReceiver<Parts>, uri: &str, expected: &str) {
    let reached = async { while seen(channel, requests, uri).await != expected {} };
    timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{uri} never became {expected}"));
}

#[tokio::test]
async fn a_path_is_rewritten_as_the_route_matched_it_and_the_query_stays() {
    let (address, mut requests) = witness().await;
    let to_prefix = |route, prefix: &str| forwarding(route, |action| action.prefix_rewrite = prefix.to_owned());
    let pattern = forwarding(route().prefix("/users/"), |action| {
        action.regex_rewrite = substitute("^/users/([^/]+)/(.*)$", r"/\2/of/\1");
    });
    let routes = [
        to_prefix(route().prefix("/v1/"), "/"),
        to_prefix(route().path("/exact"), "/v2/Exact"),
        to_prefix(route().regex("/any/.*"), "/one"),
        pattern,
        route().cluster("greeter"),
    ];
    let control_plane = serving(address, routes);
    let mesh = quick_mesh(&control_plane).await;
    let channel = MeshChannel::new(&mesh, "xds:///greeter").expect("a target");
    for (uri, expected) in [
        ("/v1/s/M?q=1", "http://greeter/s/M?q=1"),
        ("/exact", "http://greeter/v2/Exact"),
        ("/any/thing", "http://greeter/one"),
        ("/users/ada/List", "http://greeter/List/of/ada"),
        ("/other", "http://greeter/other"),
    ] {
        assert_eq!(seen(&channel, &mut requests, uri).await, expected, "{uri}");
    }
}

#[tokio::test]
async fn an_authority_is_rewritten_by_a_trusted_control_plane_and_never_the_applications_own() {
    let (address, mut requests) = witness().await;
    let host = HostRewriteSpecifier::HostRewriteLiteral("other.example:80".to_owned());
    let route = forwarding(route(), |action| action.host_rewrite_specifier = Some(host));
    let control_plane = serving(address, [route]);
    for (features, uri, expected) in [
        (&["trusted_xds_server"][..], "/s/M", "http://other.example:80/s/M"),
        (&["trusted_xds_server"], "http://own.example/s/M", "http://own.example/s/M"),
        (&[], "/s/M", "http://greeter/s/M"),
    ] {
        let bootstrap = Bootstrap::builder("in-process").insecure().node_id("test");
        let bootstrap = features.iter().fold(bootstrap, |bootstrap, feature| bootstrap.server_feature(*feature));
        let bootstrap = bootstrap.build().expect("a bootstrap");
        let mesh = quick().control_plane(&control_plane).bootstrap(bootstrap).build().await.expect("a mesh");
        let channel = MeshChannel::new(&mesh, "xds:///greeter").expect("a target");
        assert_eq!(seen(&channel, &mut requests, uri).await, expected, "{features:?} {uri}");
    }
}

#[tokio::test]
async fn an_authority_is_that_of_the_endpoint_where_a_trusted_control_plane_says_so() {
    let (address, mut requests) = witness().await;
    let host = HostRewriteSpecifier::AutoHostRewrite(true);
    let route = forwarding(route(), |action| action.host_rewrite_specifier = Some(host));
    let control_plane = serving(address, [route]);
    let trusting = |feature: &str| {
        let bootstrap = Bootstrap::builder("in-process").insecure().node_id("test").server_feature(feature);
        quick().control_plane(&control_plane).bootstrap(bootstrap.build().expect("a bootstrap"))
    };
    let mesh = trusting("trusted_xds_server").build().await.expect("a mesh");
    let channel = MeshChannel::new(&mesh, "xds:///greeter").expect("a target");
    let other = trusting("xds_v3").build().await.expect("a mesh");
    let of_other = MeshChannel::new(&other, "xds:///greeter").expect("a target");
    for (hostname, expected) in
        [("a.example:80", "http://a.example:80/s/M"), ("b.example", "http://b.example/s/M"), ("", "http://greeter/s/M")]
    {
        control_plane
            .put(endpoints("greeter").endpoint(endpoint(address).modify(|member| host_name(member, hostname))));
        control_plane.acked("type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment").await;
        until_seen(&channel, &mut requests, "/s/M", expected).await;
        assert_eq!(seen(&channel, &mut requests, "http://own.example/s/M").await, "http://own.example/s/M");
        assert_eq!(seen(&of_other, &mut requests, "/s/M").await, "http://greeter/s/M");
    }
}

async fn client_of(control_plane: &ControlPlane) -> (Mesh, Client) {
    let mesh = quick_mesh(control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    (mesh, client)
}

fn answering(action: action::Action) -> RouteBuilder {
    route().modify(|route| route.action = Some(action))
}

#[tokio::test]
async fn a_redirect_is_answered_without_a_call_and_says_where_to_go() {
    let backend = Backend::start("a").await;
    for (response_code, status) in [(0, 301), (1, 302), (2, 303), (3, 307), (4, 308)] {
        let redirect = RedirectAction {
            host_redirect: "elsewhere.example".to_owned(),
            response_code,
            scheme_rewrite_specifier: Some(SchemeRewriteSpecifier::HttpsRedirect(true)),
            path_rewrite_specifier: Some(PathRewriteSpecifier::PathRedirect("/moved".to_owned())),
            ..Default::default()
        };
        let control_plane = serving(backend.address(), [answering(action::Action::Redirect(redirect))]);
        let (_mesh, client) = client_of(&control_plane).await;
        let failure = client.hello().await.expect_err("gRPC follows no redirects");
        assert_eq!(failure.code(), Code::Unknown, "{status}");
        assert_says(&failure, &["the route redirects to https://elsewhere.example/moved"]);
        assert_eq!(failure.metadata().get("location").expect("a location"), "https://elsewhere.example/moved");
    }
    assert_eq!(backend.calls(), 0);
}

fn direct(status: u32, body: &str) -> RouteBuilder {
    let specifier = Some(data_source::Specifier::InlineString(body.to_owned()));
    let body = Some(DataSource { specifier, ..Default::default() });
    answering(action::Action::DirectResponse(DirectResponseAction { status, body, ..Default::default() }))
}

#[tokio::test]
async fn a_direct_response_is_the_code_of_its_status_with_the_body_as_message() {
    let backend = Backend::start("a").await;
    for (status, code) in [(403, Code::PermissionDenied), (503, Code::Unavailable), (200, Code::Unknown)] {
        let control_plane = serving(backend.address(), [direct(status, "closed for today")]);
        let (_mesh, client) = client_of(&control_plane).await;
        let failure = client.hello().await.expect_err("answered directly");
        assert_eq!((failure.code(), failure.message()), (code, "closed for today"), "{status}");
    }
    assert_eq!(backend.calls(), 0);
}

#[tokio::test]
async fn a_header_names_the_cluster_among_those_that_are_known() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let by_header = forwarding(route().header_present("x-cluster", true), |action| {
        action.cluster_specifier = Some(ClusterSpecifier::ClusterHeader("x-cluster".to_owned()));
    });
    let control_plane = ControlPlane::new();
    let both = Resources::service("a", [a.address()]).and(Resources::service("b", [b.address()]));
    let routes = route_config("greeter").routes([by_header, route().weighted([("a", 1), ("b", 0)])]);
    control_plane.set(both.with(listener("greeter")).with(routes));
    let (_mesh, client) = client_of(&control_plane).await;
    let to = |cluster: &str| {
        let mut metadata = MetadataMap::new();
        metadata.insert("x-cluster", cluster.parse().expect("a header's value"));
        metadata
    };
    assert_eq!(client.hello().await.expect("the default route"), "a");
    assert_eq!(client.hello_with(to("b")).await.expect("a known cluster"), "b");
}

#[tokio::test]
async fn an_answer_of_the_meshs_own_names_no_endpoint() {
    let backend = Backend::start("a").await;
    let control_plane = serving(backend.address(), [direct(503, ""), route().cluster("greeter")]);
    let mesh = quick_mesh(&control_plane).await;
    let channel = MeshChannel::new(&mesh, "xds:///greeter").expect("a target");
    let request = http::Request::post("/s/M").body(Empty::<Bytes>::new()).expect("a request");
    let response = channel.oneshot(request).await.expect("an answer");
    assert!(response.extensions().get::<CallInfo>().is_none());
    assert_eq!(response.headers()["grpc-status"], "14");
}

#[tokio::test]
async fn bad_actions_are_rejected_by_field_and_the_last_good_one_serves() {
    let backend = Backend::start("a").await;
    let control_plane = serving(backend.address(), [route().cluster("greeter")]);
    let (_mesh, client) = client_of(&control_plane).await;
    assert_eq!(client.hello().await.expect("good routes"), "a");
    let rewrite = |pattern: &'static str, with: &'static str| {
        forwarding(route(), move |action| action.regex_rewrite = substitute(pattern, with))
    };
    let redirect = RedirectAction { port_redirect: 70_000, ..Default::default() };
    for (bad, says) in [
        (rewrite("[a", ""), "route.regex_rewrite.pattern.regex: unclosed character class"),
        (rewrite("(a)", r"\2"), "route.regex_rewrite.substitution: the pattern has no group 2"),
        (direct(99, ""), "direct_response.status: 99 is not a status of HTTP from 200 to 599"),
        (answering(action::Action::Redirect(redirect)), "redirect.port_redirect: 70000 is not a port"),
    ] {
        control_plane.put(route_config("greeter").routes([bad]));
        let nack = control_plane.next_nack().await.error.expect("a NACK says why").1;
        assert!(nack.contains(says), "{nack}");
        assert_eq!(client.hello().await.expect("the last good routes"), "a");
    }
}

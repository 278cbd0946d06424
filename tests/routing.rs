//! Which route a call takes, as the application sees it.

use std::collections::HashMap;

use mesh_core::testing::{
    ControlPlane, Resource, Resources, RouteBuilder, cluster, endpoints, listener, route, route_config, type_url,
    virtual_host,
};
use mesh_xds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use mesh_xds_proto::envoy::config::route::v3::route::Action;
use mesh_xds_proto::envoy::config::route::v3::route_action::ClusterSpecifier;
use mesh_xds_proto::envoy::config::route::v3::{NonForwardingAction, RouteAction, RouteConfiguration};
use mesh_xds_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use mesh_xds_proto::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use mesh_xds_proto::envoy::r#type::v3::Int64Range;
use tonic::Code;
use tonic::metadata::MetadataMap;

use crate::support::backend::Backend;
use crate::support::client::{Client, assert_says, quick_mesh};

const SAY_HELLO: &str = "/helloworld.Greeter/SayHello";

/// Listener and routes of this name, and clusters for all of the backends, named like them.
fn service<'a>(name: &str, routes: Vec<RouteBuilder>, backends: impl IntoIterator<Item = &'a Backend>) -> Resources {
    let start = Resources::new().with(listener(name)).with(route_config(name).routes(routes));
    backends.into_iter().fold(start, |all, backend| {
        all.with(cluster(backend.name())).with(endpoints(backend.name()).endpoint(backend.address()))
    })
}

/// A header, or several of one name.
type Headers = &'static [(&'static str, &'static str)];

fn metadata(headers: Headers) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    for (name, value) in headers {
        metadata.append(*name, value.parse().unwrap());
    }
    metadata
}

/// Calls each of the routes, with a route to `no` behind it, and compares who answers.
async fn each_route_matches(cases: Vec<(&'static str, RouteBuilder, Headers, bool)>) {
    let (yes, no) = (Backend::start("yes").await, Backend::start("no").await);
    let control_plane = ControlPlane::new();
    for (number, (_, route_of_case, ..)) in cases.iter().enumerate() {
        let routes = vec![route_of_case.clone().cluster("yes"), route().cluster("no")];
        control_plane.put_all(service(&format!("case-{number}"), routes, [&yes, &no]));
    }
    let mesh = quick_mesh(&control_plane).await;
    for (number, (what, _, headers, matches)) in cases.into_iter().enumerate() {
        let client = Client::new(&mesh, &format!("xds:///case-{number}"));
        let reply = client.hello_with(metadata(headers)).await;
        let reply = reply.unwrap_or_else(|status| panic!("{what}: {status}"));
        assert_eq!(reply, if matches { "yes" } else { "no" }, "{what}");
    }
}

#[tokio::test]
async fn paths_are_matched_exactly_by_prefix_and_by_regex() {
    each_route_matches(vec![
        ("the exact path", route().path(SAY_HELLO), &[], true),
        ("another path", route().path("/helloworld.Greeter/SayHell"), &[], false),
        ("a longer path", route().path("/helloworld.Greeter/SayHelloo"), &[], false),
        ("another case", route().path("/HelloWorld.greeter/sayhello"), &[], false),
        ("another case that is ignored", route().path("/HelloWorld.greeter/sayhello").ignore_case(), &[], true),
        ("the empty prefix", route().prefix(""), &[], true),
        ("the prefix /", route().prefix("/"), &[], true),
        ("the service as prefix", route().prefix("/helloworld.Greeter/"), &[], true),
        ("a part of a name as prefix", route().prefix("/hello"), &[], true),
        ("another prefix", route().prefix("/other.Greeter/"), &[], false),
        ("a prefix in another case", route().prefix("/HELLO"), &[], false),
        ("a prefix in another case that is ignored", route().prefix("/HELLO").ignore_case(), &[], true),
        ("a regex", route().regex("/helloworld\\.Greeter/Say(Hello|Bye)"), &[], true),
        ("a regex of a part", route().regex("/helloworld\\.Greeter/Say"), &[], false),
        ("a regex in another case", route().regex("/HELLOworld\\.Greeter/.*"), &[], false),
    ])
    .await;
}

fn text(pattern: MatchPattern, ignore_case: bool) -> HeaderMatchSpecifier {
    HeaderMatchSpecifier::StringMatch(StringMatcher { match_pattern: Some(pattern), ignore_case })
}

fn range(start: i64, end: i64) -> HeaderMatchSpecifier {
    HeaderMatchSpecifier::RangeMatch(Int64Range { start, end })
}

/// A route for calls whose header `x` matches.
fn x(specifier: HeaderMatchSpecifier) -> RouteBuilder {
    route().header_match("x", specifier)
}

/// For calls of which the header matcher is not true.
fn not(route: RouteBuilder) -> RouteBuilder {
    route.modify(|route| {
        let matching = route.r#match.as_mut().expect("a route has it");
        matching.headers.iter_mut().for_each(|header| header.invert_match = true);
    })
}

#[tokio::test]
async fn headers_are_matched_in_every_form() {
    let regex = |regex: &str| RegexMatcher { regex: regex.to_owned(), ..Default::default() };
    each_route_matches(vec![
        ("exact", route().header("x", "canary"), &[("x", "canary")], true),
        ("exact, another value", route().header("x", "canary"), &[("x", "Canary")], false),
        ("exact, missing", route().header("x", "canary"), &[], false),
        ("exact, case ignored", x(text(MatchPattern::Exact("canary".into()), true)), &[("x", "CANARY")], true),
        ("exact, the old field", x(HeaderMatchSpecifier::ExactMatch("a".into())), &[("x", "a")], true),
        ("several values are one list", route().header("x", "a,b"), &[("x", "a"), ("x", "b")], true),
        ("prefix", x(text(MatchPattern::Prefix("can".into()), false)), &[("x", "canary")], true),
        ("prefix, another value", x(text(MatchPattern::Prefix("can".into()), false)), &[("x", "a canary")], false),
        ("prefix, the old field", x(HeaderMatchSpecifier::PrefixMatch("can".into())), &[("x", "canary")], true),
        ("suffix", x(text(MatchPattern::Suffix("ary".into()), false)), &[("x", "canary")], true),
        ("suffix, the old field", x(HeaderMatchSpecifier::SuffixMatch("can".into())), &[("x", "canary")], false),
        ("contains", x(text(MatchPattern::Contains("nar".into()), false)), &[("x", "canary")], true),
        ("contains, the old field", x(HeaderMatchSpecifier::ContainsMatch("x".into())), &[("x", "canary")], false),
        ("regex", route().header_regex("x", "can.*"), &[("x", "canary")], true),
        ("regex of a part", route().header_regex("x", "can"), &[("x", "canary")], false),
        ("regex, the old field", x(HeaderMatchSpecifier::SafeRegexMatch(regex("c.*y"))), &[("x", "canary")], true),
        ("range", x(range(1, 10)), &[("x", "1")], true),
        ("range, its end", x(range(1, 10)), &[("x", "10")], false),
        ("range, below zero", x(range(-5, 0)), &[("x", "-5")], true),
        ("range, no number", x(range(1, 10)), &[("x", "2x")], false),
        ("present", route().header_present("x", true), &[("x", "")], true),
        ("present, missing", route().header_present("x", true), &[], false),
        ("absent", route().header_present("x", false), &[], true),
        ("absent, there", route().header_present("x", false), &[("x", "a")], false),
        ("inverted", not(route().header("x", "a")), &[("x", "b")], true),
        ("inverted, equal", not(route().header("x", "a")), &[("x", "a")], false),
        ("inverted, missing", not(route().header("x", "a")), &[], false),
        ("inverted presence", not(route().header_present("x", true)), &[], true),
        ("both of two", route().header("x", "a").header("y", "b"), &[("x", "a"), ("y", "b")], true),
        ("one of two", route().header("x", "a").header("y", "b"), &[("x", "a")], false),
        ("the content type", route().header("content-type", "application/grpc"), &[], true),
        ("a name in upper case", route().header("X", "a"), &[("x", "a")], true),
    ])
    .await;
}

/// Who answered how many of so many calls.
async fn spread(routes: Vec<RouteBuilder>, calls: u32) -> HashMap<String, u32> {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = ControlPlane::new();
    control_plane.set(service("greeter", routes, [&a, &b]));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let mut counts = HashMap::from([("a".to_owned(), 0), ("b".to_owned(), 0)]);
    for _ in 0..calls {
        *counts.entry(client.hello().await.unwrap()).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn clusters_are_called_in_proportion_to_their_weights() {
    let counts = spread(vec![route().weighted([("a", 90), ("b", 10)])], 1000).await;
    // Five standard deviations; one in a million runs is outside.
    assert!((53..=147).contains(&counts["b"]), "{counts:?}");
    assert_eq!(counts["a"] + counts["b"], 1000);
}

#[tokio::test]
async fn a_cluster_of_weight_zero_is_never_called() {
    assert_eq!(spread(vec![route().weighted([("a", 0), ("b", 1)])], 100).await["a"], 0);
}

#[tokio::test]
async fn a_fraction_of_calls_takes_the_route() {
    let counts = spread(vec![route().fraction(500_000).cluster("a"), route().cluster("b")], 400).await;
    assert!((150..=250).contains(&counts["a"]), "{counts:?}");
    assert_eq!(spread(vec![route().fraction(0).cluster("a"), route().cluster("b")], 50).await["a"], 0);
    assert_eq!(spread(vec![route().fraction(1_000_000).cluster("a"), route().cluster("b")], 50).await["a"], 50);
}

#[tokio::test]
async fn the_first_route_that_matches_is_taken() {
    let routes = vec![route().prefix("/helloworld").cluster("a"), route().path(SAY_HELLO).cluster("b")];
    assert_eq!(spread(routes, 10).await["a"], 10);
}

#[tokio::test]
async fn a_call_that_no_route_matches_fails_with_its_path_and_the_next_step() {
    let backend = Backend::start("a").await;
    let control_plane = ControlPlane::new();
    control_plane.set(service("greeter", vec![route().path("/other.Service/Call").cluster("a")], [&backend]));
    let mesh = quick_mesh(&control_plane).await;
    let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_says(&status, &["no route of virtual host `*`", SAY_HELLO, "RouteConfiguration `greeter`", "node test"]);
    assert_says(&status, &["add a route", "target xds:///greeter"]);
}

#[tokio::test]
async fn a_target_that_no_virtual_host_has_fails_with_its_authority_and_recovers() {
    let backend = Backend::start("a").await;
    let control_plane = ControlPlane::new();
    let resources = service("greeter", Vec::new(), [&backend]);
    let other = route_config("greeter").virtual_host(["other", "*.example"], [route().cluster("a")]);
    control_plane.set(resources.with(other));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let status = client.hello().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_says(&status, &["no virtual host of RouteConfiguration `greeter`", "authority `greeter`", "domains"]);
    let suffix = Client::with_authority(&mesh, "xds:///greeter", Some("shop.example"));
    assert_eq!(suffix.hello().await.unwrap(), "a");

    control_plane.put(route_config("greeter").virtual_host(["greeter"], [route().cluster("a")]));
    assert_eq!(client.recovers().await, "a");
}

#[tokio::test]
async fn the_most_exact_domain_chooses_the_virtual_host() {
    let names = ["exact", "suffix", "long-suffix", "prefix", "any"];
    let mut backends = Vec::new();
    for name in names {
        backends.push(Backend::start(name).await);
    }
    let domains = ["a.b.example", "*.example", "*.b.example", "a.*", "*"];
    let hosts = domains.iter().zip(names).map(|(domain, name)| virtual_host([*domain]).route(route().cluster(name)));
    let routes = hosts.fold(route_config("greeter"), |routes, host| routes.with(host));
    let control_plane = ControlPlane::new();
    control_plane.set(service("greeter", Vec::new(), &backends).with(routes));
    let mesh = quick_mesh(&control_plane).await;
    for (authority, expected) in [
        ("a.b.example", "exact"),
        ("A.B.Example", "exact"),
        ("x.b.example", "long-suffix"),
        ("a.c.example", "suffix"),
        ("a.org", "prefix"),
        ("greeter", "any"),
        ("a.b.example:80", "prefix"),
    ] {
        let client = Client::with_authority(&mesh, "xds:///greeter", Some(authority));
        assert_eq!(client.hello().await.unwrap(), expected, "{authority}");
    }
}

#[tokio::test]
async fn an_action_that_a_client_cannot_take_fails_its_calls_by_name_and_no_others() {
    let backend = Backend::start("a").await;
    let by_header = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::ClusterHeader("x-cluster".to_owned())),
        ..Default::default()
    };
    let actions = [
        ("non_forwarding_action", Action::NonForwardingAction(NonForwardingAction {})),
        ("x-cluster", Action::Route(by_header)),
    ];
    let control_plane = ControlPlane::new();
    for (name, action) in &actions {
        let odd = route().name("odd").header("x", "1").modify(|route| route.action = Some(action.clone()));
        control_plane.put_all(service(name, vec![odd, route().cluster("a")], [&backend]));
    }
    let mesh = quick_mesh(&control_plane).await;
    for (name, _) in actions {
        let client = Client::new(&mesh, &format!("xds:///{name}"));
        assert_eq!(client.hello().await.unwrap(), "a", "{name}");
        let status = client.hello_with(metadata(&[("x", "1")])).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert_says(&status, &[name, "route `odd`"]);
    }
}

#[tokio::test]
async fn routes_inside_the_listener_are_taken_without_a_request_for_routes() {
    let backend = Backend::start("a").await;
    let control_plane = ControlPlane::new();
    let inline = listener("greeter").inline(route_config("inline").routes([route().cluster("a")]));
    let resources = service("greeter", Vec::new(), [&backend]).without(type_url::ROUTE_CONFIGURATION, "greeter");
    control_plane.set(resources.with(inline));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    assert!(!control_plane.requests().iter().any(|request| request.type_url == type_url::ROUTE_CONFIGURATION));

    // And back to routes of their own.
    let other = Backend::start("b").await;
    control_plane.put_all(service("greeter", vec![route().cluster("b")], [&other]));
    client.hello_until("b").await;
}

#[tokio::test]
async fn names_in_the_style_of_istio_are_found() {
    let backend = Backend::start("v1").await;
    let host = "echo.default.svc.cluster.local";
    let target = format!("{host}:7070");
    let cluster_name = format!("outbound|7070||{host}");
    let domains = [host.to_owned(), target.clone(), "echo".to_owned(), "echo:7070".to_owned()];
    let routes = route_config(&cluster_name).virtual_host(domains, [route().name("default").cluster(&cluster_name)]);
    let control_plane = ControlPlane::new();
    control_plane.set(
        Resources::new()
            .with(listener(&target).rds(&cluster_name))
            .with(routes)
            .with(cluster(&cluster_name).eds_service_name(&cluster_name))
            .with(endpoints(&cluster_name).endpoint(backend.address())),
    );
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, &format!("xds:///{target}"));
    assert_eq!(client.cluster().await.unwrap(), cluster_name);
    // A percent-encoded name is the same as the name.
    let encoded = Client::new(&mesh, &format!("xds:///{}", target.replace(':', "%3A")));
    assert_eq!(encoded.hello().await.unwrap(), "v1");
}

#[tokio::test]
async fn a_route_that_changes_is_used_by_the_next_call_and_a_bad_one_by_none() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = ControlPlane::new();
    control_plane.set(service("greeter", vec![route().weighted([("a", 1), ("b", 0)])], [&a, &b]));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    let mut bad = route_config("greeter").routes([route().regex("[a").cluster("b")]).build();
    bad.virtual_hosts[0].domains = vec!["*".to_owned()];
    control_plane.put(Resource::from(bad));
    let (_, text) = control_plane.next_nack().await.error.expect("a NACK says why");
    assert!(text.contains("virtual_hosts[0].routes[0].match.safe_regex.regex"), "{text}");
    assert_eq!(client.hello().await.unwrap(), "a");
    control_plane.modify("greeter", |routes: &mut RouteConfiguration| {
        *routes = route_config("greeter").routes([route().weighted([("a", 0), ("b", 1)])]).build();
    });
    client.hello_until("b").await;
    for _ in 0..20 {
        assert_eq!(client.hello().await.unwrap(), "b");
    }
}

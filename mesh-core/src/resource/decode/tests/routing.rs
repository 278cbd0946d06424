//! Which route a request takes (A28, A63), from the messages to the match.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mesh_xds_proto::envoy::config::core::v3::RuntimeFractionalPercent;
use mesh_xds_proto::envoy::config::route::v3 as proto;
use mesh_xds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use mesh_xds_proto::envoy::config::route::v3::route_match::PathSpecifier;
use mesh_xds_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use mesh_xds_proto::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use mesh_xds_proto::envoy::r#type::v3::{FractionalPercent, Int64Range};

use super::fixture::*;
use crate::resource::matcher::RequestHead;
use crate::resource::route_config::VirtualHost;

fn host(routes: Vec<proto::Route>) -> std::sync::Arc<VirtualHost> {
    let mut f = Fixture::default();
    f.routes.virtual_hosts[0].routes = routes;
    std::sync::Arc::clone(&f.routes().expect("good routes").virtual_hosts[0])
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
    }
    headers
}

fn take(host: &VirtualHost, path: &str, headers: &HeaderMap) -> Option<usize> {
    let head = RequestHead { path, method: &Method::POST, authority: "Echo.test:80", headers };
    host.route(&head, || panic!("no route takes a share of the calls"))
}

fn path_match(specifier: PathSpecifier, case_sensitive: bool) -> proto::Route {
    let mut route = path_to(specifier, "c1");
    route.r#match.get_or_insert_default().case_sensitive = Some(case_sensitive);
    route
}

#[test]
fn paths() {
    let prefix = |text: &str| PathSpecifier::Prefix(text.into());
    let path = |text: &str| PathSpecifier::Path(text.into());
    let separated = |text: &str| PathSpecifier::PathSeparatedPrefix(text.into());
    let regex = |text: &str| PathSpecifier::SafeRegex(RegexMatcher { regex: text.into(), ..Default::default() });
    for (specifier, case_sensitive, request, expected) in [
        (prefix(""), true, "/a.B/C", true),
        (prefix("/"), true, "/a.B/C", true),
        (prefix("/a.B/"), true, "/a.B/C", true),
        (prefix("/a.B/"), true, "/a.b/C", false),
        (prefix("/a.B/"), false, "/A.b/C", true),
        (prefix("/a.B/C/D"), true, "/a.B/C", false),
        (prefix("a"), true, "/a", false),
        (path("/a.B/C"), true, "/a.B/C", true),
        (path("/a.B/C"), true, "/a.B/c", false),
        (path("/a.B/C"), false, "/a.b/c", true),
        (path("/a.B/C"), true, "/a.B/C?q=1", true),
        (path("/a.B/C"), true, "/a.B/C/", false),
        (path(""), true, "/", false),
        (separated("/a/b"), true, "/a/b", true),
        (separated("/a/b"), true, "/a/b/c", true),
        (separated("/a/b"), true, "/a/b?q=/", true),
        (separated("/a/b"), true, "/a/bc", false),
        (separated("/a/b"), false, "/A/B/c", true),
        (regex("/a.B/.*"), true, "/a.B/C", true),
        (regex("/a.B"), true, "/a.B/C", false),
        (regex("/A.b/.*"), false, "/a.B/C", false),
    ] {
        let host = host(vec![path_match(specifier.clone(), case_sensitive)]);
        let taken = take(&host, request, &HeaderMap::new());
        assert_eq!(taken.is_some(), expected, "{specifier:?} (case {case_sensitive}) on {request}");
    }
    for refused in ["/a/", "/", "", "/a?b", "/a#b"] {
        let mut f = Fixture::default();
        f.matching().path_specifier = Some(separated(refused));
        assert!(f.routes().is_err(), "{refused}");
    }
}

#[test]
fn the_first_route_that_matches_wins() {
    let exact = |path: &str| path_to(PathSpecifier::Path(path.into()), "c1");
    let first = host(vec![prefix_to("/a/", "c1"), exact("/a/b"), exact("/c/d"), prefix_to("/", "c1"), exact("/e/f")]);
    for (path, expected) in [("/a/b", 0), ("/c/d", 2), ("/e/f", 3), ("/g", 3)] {
        assert_eq!(take(&first, path, &HeaderMap::new()), Some(expected), "{path}");
    }
    let mut with_header = exact("/a/b");
    with_header.r#match.get_or_insert_default().headers = vec![header("x", HeaderMatchSpecifier::PresentMatch(true))];
    let second = host(vec![with_header, exact("/a/b")]);
    assert_eq!(take(&second, "/a/b", &headers(&[("x", "")])), Some(0));
    assert_eq!(take(&second, "/a/b", &HeaderMap::new()), Some(1));
    assert_eq!(&*second.routes[0].name, "path /a/b, header x");
}

fn header(name: &str, specifier: HeaderMatchSpecifier) -> proto::HeaderMatcher {
    proto::HeaderMatcher { name: name.into(), header_match_specifier: Some(specifier), ..Default::default() }
}

fn text(pattern: MatchPattern, ignore_case: bool) -> HeaderMatchSpecifier {
    HeaderMatchSpecifier::StringMatch(StringMatcher { match_pattern: Some(pattern), ignore_case })
}

fn accepts(matcher: &proto::HeaderMatcher, pairs: &[(&str, &str)]) -> bool {
    let mut route = prefix_to("", "c1");
    route.r#match.get_or_insert_default().headers = vec![matcher.clone()];
    take(&host(vec![route]), "/a.B/C", &headers(pairs)).is_some()
}

#[test]
fn header_values() {
    use HeaderMatchSpecifier::*;
    let regex = |text: &str| RegexMatcher { regex: text.into(), ..Default::default() };
    let range = |start, end| RangeMatch(Int64Range { start, end });
    for (specifier, value, expected) in [
        (ExactMatch("a".into()), "a", true),
        (ExactMatch("a".into()), "A", false),
        (PrefixMatch("a".into()), "ab", true),
        (PrefixMatch("ab".into()), "a", false),
        (SuffixMatch("b".into()), "ab", true),
        (SuffixMatch("ab".into()), "b", false),
        (ContainsMatch("b".into()), "abc", true),
        (ContainsMatch("b.".into()), "abc", false),
        (SafeRegexMatch(regex("a.c")), "abc", true),
        (SafeRegexMatch(regex("a.")), "abc", false),
        (range(-1, 2), "-1", true),
        (range(-1, 2), "2", false),
        (range(-1, 2), "1.0", false),
        (range(-1, 2), "", false),
        (range(1, 1), "1", false),
        (text(MatchPattern::Exact("AB".into()), true), "ab", true),
        (text(MatchPattern::Prefix("A".into()), true), "ab", true),
        (text(MatchPattern::Suffix("B".into()), true), "ab", true),
        (text(MatchPattern::Contains("B".into()), true), "abc", true),
        (text(MatchPattern::Contains("B".into()), false), "abc", false),
        (text(MatchPattern::SafeRegex(regex("A.*")), true), "abc", false),
        (text(MatchPattern::Prefix(String::new()), false), "", true),
        (PresentMatch(true), "", true),
        (PresentMatch(false), "", false),
    ] {
        let mut matcher = header("x", specifier);
        assert_eq!(accepts(&matcher, &[("x", value)]), expected, "{matcher:?} on {value:?}");
        matcher.invert_match = true;
        assert_eq!(accepts(&matcher, &[("x", value)]), !expected, "inverted {matcher:?} on {value:?}");
    }
}

#[test]
fn an_absent_header_matches_presence_alone() {
    use HeaderMatchSpecifier::*;
    for (specifier, invert, missing_is_empty, expected) in [
        (ExactMatch("a".into()), false, false, false),
        (ExactMatch("a".into()), true, false, false),
        (ExactMatch("a".into()), true, true, true),
        (ExactMatch(String::new()), false, false, false),
        (ExactMatch(String::new()), false, true, true),
        (RangeMatch(Int64Range { start: -9, end: 9 }), true, false, false),
        (RangeMatch(Int64Range { start: -9, end: 9 }), true, true, true),
        (PresentMatch(true), false, false, false),
        (PresentMatch(true), true, false, true),
        (PresentMatch(false), false, false, true),
        (PresentMatch(false), true, false, false),
    ] {
        let mut matcher = header("x", specifier);
        matcher.invert_match = invert;
        matcher.treat_missing_header_as_empty = missing_is_empty;
        assert_eq!(accepts(&matcher, &[]), expected, "{matcher:?}");
    }
}

#[test]
fn which_headers_can_be_seen() {
    use HeaderMatchSpecifier::*;
    let grpc = ("content-type", "application/grpc+proto");
    for (matcher, pairs, expected) in [
        (header("X-Upper", PresentMatch(true)), &[("x-upper", "1")][..], true),
        (header("x", ExactMatch("a,b,c".into())), &[("x", "a"), ("y", "0"), ("x", "b"), ("x", "c")], true),
        (header("content-type", PrefixMatch("application/grpc".into())), &[grpc], true),
        (header("x-bin", PresentMatch(true)), &[("x-bin", "MQ")], false),
        (header("x-bin", PresentMatch(false)), &[("x-bin", "MQ")], true),
        (header("user-agent", PresentMatch(true)), &[grpc, ("user-agent", "a")], false),
        (header("grpc-timeout", PresentMatch(true)), &[grpc, ("grpc-timeout", "1S")], false),
        (header("user-agent", PresentMatch(true)), &[("user-agent", "a")], true),
        (header(":method", ExactMatch("POST".into())), &[], true),
        (header(":path", ExactMatch("/a.B/C".into())), &[], true),
        (header(":authority", PrefixMatch("Echo".into())), &[], true),
        (header("host", SuffixMatch(":80".into())), &[], true),
        (header(":scheme", PresentMatch(true)), &[], false),
    ] {
        assert_eq!(accepts(&matcher, pairs), expected, "{matcher:?} on {pairs:?}");
    }
    for name in ["", "a b", "a:b"] {
        let mut f = Fixture::default();
        f.matching().headers = vec![header(name, PresentMatch(true))];
        assert!(f.routes().is_err(), "{name:?}");
    }
}

#[test]
fn many_long_values_are_joined_whatever_their_length() {
    let long = "v".repeat(300);
    let exact = HeaderMatchSpecifier::ExactMatch(format!("{long},{long}"));
    assert!(accepts(&header("x", exact), &[("x", &long), ("x", &long)]));
}

#[test]
fn a_fraction_is_drawn_for_routes_that_match_otherwise() {
    let share = |prefix: &str, numerator| {
        let mut route = prefix_to(prefix, "c1");
        let default_value = Some(FractionalPercent { numerator, denominator: 2 });
        route.r#match.get_or_insert_default().runtime_fraction =
            Some(RuntimeFractionalPercent { default_value, ..Default::default() });
        route
    };
    let host = host(vec![share("/other", 1_000_000), share("/", 250_000), prefix_to("/", "c1")]);
    let no_headers = HeaderMap::new();
    let head = RequestHead { path: "/a", method: &Method::POST, authority: "a", headers: &no_headers };
    for (random, expected) in [(0, 1), (249_999, 1), (250_000, 2), (999_999, 2)] {
        let mut draws = 0;
        let taken = host.route(&head, || {
            draws += 1;
            random
        });
        assert_eq!((taken, draws), (Some(expected), 1), "{random}");
    }
    assert_eq!(&*host.routes[1].name, "prefix /, 25 % of calls");
}

#[test]
fn a_virtual_host_is_found_by_authority() {
    let mut f = Fixture::default();
    let mut any = f.routes.virtual_hosts[0].clone();
    any.domains = vec!["*.test".into(), "*".into()];
    f.routes.virtual_hosts.insert(0, any);
    let routes = f.routes().expect("good");
    let found = |authority| {
        let host = routes.virtual_host(authority).expect("`*` matches");
        routes.virtual_hosts.iter().position(|other| std::sync::Arc::ptr_eq(host, other))
    };
    assert_eq!(found("SVC.test"), Some(1));
    assert_eq!(found("svc.test:80"), Some(0));
    assert_eq!(found("x.test"), Some(0));
}

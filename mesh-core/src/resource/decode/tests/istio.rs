//! What Istio sends to proxyless clients, as recorded (`testdata/istio`).

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use prost::Message;
use prost_reflect::DynamicMessage;
use serde_json::Value;

use super::fixture::paths;
use super::verdicts::POOL;
use crate::resource::cluster::{Cluster, EndpointPolicy};
use crate::resource::endpoints::Endpoints;
use crate::resource::filter::FilterConfig;
use crate::resource::listener::{ApiListener, Listener, RouteSource};
use crate::resource::matcher::RequestHead;
use crate::resource::route::RouteAction;
use crate::resource::route_config::RouteConfiguration;
use crate::resource::{CLUSTER, ENDPOINTS, LISTENER, ROUTE_CONFIGURATION};
use crate::xds::resource_type::{Decoded, Extensions};

macro_rules! recorded {
    ($name:literal) => {
        resources(include_str!(concat!("../../../../testdata/istio/", $name, ".json")))
    };
}

/// Each resource of a recording: its type URL and its bytes.
pub(super) fn resources(json: &str) -> Vec<(String, Vec<u8>)> {
    let resources: Vec<Value> = serde_json::from_str(json).expect("a list of resources");
    resources.into_iter().map(encoded).collect()
}

fn encoded(mut resource: Value) -> (String, Vec<u8>) {
    let fields = resource.as_object_mut().expect("a resource");
    let type_url = fields.remove("@type").and_then(|value| value.as_str().map(str::to_owned)).expect("a type URL");
    let name = type_url.rsplit('/').next().expect("a name");
    let descriptor = POOL.get_message_by_name(name).expect("a known type");
    let message = DynamicMessage::deserialize(descriptor, resource).expect("valid protojson");
    (type_url, message.encode_to_vec())
}

pub(super) fn everything() -> Vec<(String, Vec<u8>)> {
    [
        recorded!("base"),
        recorded!("rich-routes"),
        recorded!("mtls"),
        recorded!("failover"),
        recorded!("maglev"),
        recorded!("ring-hash"),
        recorded!("persistent-session"),
        recorded!("server"),
    ]
    .concat()
}

fn decode((type_url, bytes): &(String, Vec<u8>)) -> Decoded {
    let kinds = [&LISTENER, &ROUTE_CONFIGURATION, &CLUSTER, &ENDPOINTS];
    let kind = kinds.iter().find(|kind| kind.type_url == type_url).expect("one of the four types");
    (kind.decode)(bytes, &Extensions::default())
}

fn value<T: Send + Sync + 'static>(decoded: &Decoded) -> &T {
    decoded.value.as_ref().expect("accepted").downcast_ref().expect("the type of the resource")
}

fn errors(resource: &(String, Vec<u8>)) -> Vec<String> {
    let errors = decode(resource).value.err().unwrap_or_default();
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_service_is_accepted_and_says_what_nothing_acts_on() {
    let decoded: Vec<_> = recorded!("base").iter().map(decode).collect();
    let ignored: Vec<_> = decoded.iter().map(|decoded| paths(decoded.ignored.clone())).collect();
    assert!(matches!(
        &api_listener(&decoded[0]).routes,
        RouteSource::Named(name) if &**name == "outbound|7070||echo.default.svc.cluster.local"
    ));
    assert_eq!(ignored[0], [""; 0], "an empty fault filter and an address ask for nothing");
    let routes = value::<RouteConfiguration>(&decoded[1]);
    for authority in ["echo:7070", "echo.default", "ECHO.default.svc.cluster.local", "240.0.0.1:7070"] {
        assert!(routes.virtual_host(authority).is_some(), "{authority}");
    }
    assert_eq!(
        ignored[1],
        ["virtual_hosts.routes.metadata", "virtual_hosts.routes.decorator", "virtual_hosts.routes.route.timeout",]
    );
    let cluster = value::<Cluster>(&decoded[2]);
    assert!(cluster.balancing.by_locality);
    assert_eq!(ignored[2], ["alt_stat_name"]);
    let endpoints = value::<Endpoints>(&decoded[4]);
    assert!(!endpoints.priorities[0].localities[0].endpoints.is_empty());
    assert_eq!(ignored[4], ["endpoints.lb_endpoints.metadata"]);
}

#[test]
fn a_virtual_service_routes_as_written() {
    let resources = recorded!("rich-routes");
    let decoded = decode(&resources[0]);
    let routes = value::<RouteConfiguration>(&decoded);
    let host = routes.virtual_host("echo:7070").expect("a virtual host");
    let take = |path: &str, pairs: &[(&'static str, &'static str)]| {
        let pairs = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let headers: HeaderMap = pairs.collect();
        let head = RequestHead { path, method: &Method::POST, authority: "echo:7070", headers: &headers };
        host.route(&head, || 0).map(|route| &host.routes[route])
    };
    for (path, pairs, expected) in [
        ("/echo.Echo/Say", &[("x-abort", "http")][..], "aborthttp"),
        ("/echo.Echo/Say", &[("x-delay", "yes")], "delay"),
        ("/other.Svc/Say", &[("x-mirror", "yes")], "mirror"),
        ("/echo.Echo/Say", &[("x-hdr", "")], "hdrs"),
        ("/redir/a", &[], "redir"),
        ("/direct", &[], "direct"),
    ] {
        assert_eq!(take(path, pairs).map(|route| &*route.name), Some(expected), "{path} {pairs:?}");
    }
    for (path, expected) in [("/redir", "redirect"), ("/direct", "direct_response")] {
        let route = take(path, &[]).expect("a route");
        assert!(matches!(&route.action, RouteAction::Answer(answer) if answer.name() == expected), "{path}");
    }
    let mirror = take("/other.Svc/Say", &[("x-mirror", "yes")]).map(|route| &*route.mirrors);
    assert!(matches!(mirror, Some([mirror]) if mirror.share > 0), "{mirror:?}");
}

fn api_listener(decoded: &Decoded) -> &ApiListener {
    match value::<Listener>(decoded) {
        Listener::Api(listener) => listener,
        Listener::Socket(_) => panic!("a server's listener"),
    }
}

#[cfg(feature = "tls")]
#[test]
fn mutual_tls_is_understood_if_there_is_a_provider_and_refused_if_not() {
    use crate::resource::local::LocalNames;
    use crate::resource::upstream_tls::RootsFrom;

    let refused: Vec<_> = recorded!("mtls").iter().map(errors).collect();
    assert!(refused.iter().flatten().all(|error| error.contains("not a certificate provider")), "{refused:?}");
    let local = LocalNames { certificate_providers: Arc::new(["default".into()].into()), ..LocalNames::default() };
    for (_, bytes) in recorded!("mtls") {
        let decoded = (CLUSTER.decode)(&bytes, &Extensions::new(local.clone()));
        let security = value::<Cluster>(&decoded).security.clone().expect("TLS");
        assert_eq!(security.identity, Some("default".into()));
        assert_eq!(security.roots, RootsFrom::Source("default".into()));
        let echo = |name| security.names.iter().any(|wanted| wanted.matches(crate::identity::NameKind::Uri, name));
        assert!(
            echo("spiffe://cluster.local/ns/default/sa/echo-v1") && !echo("spiffe://cluster.local/ns/default/sa/x")
        );
    }
}

#[test]
fn the_listener_of_a_server_is_accepted() {
    let decoded = decode(&recorded!("server")[0]);
    let Listener::Socket(listener) = value::<Listener>(&decoded) else { panic!("a client's listener") };
    assert_eq!(listener.address, Some(([127, 0, 0, 11].into(), 17070)));
    let place = listener.chains.find(([127, 0, 0, 11], 17070).into(), ([127, 0, 0, 1], 1).into());
    let chain = listener.chains.all().nth(place.expect("a chain")).expect("a chain");
    let RouteSource::Inline(routes) = &chain.routes else { panic!("routes by name") };
    let host = routes.virtual_host("whatever").expect("a virtual host");
    assert!(matches!(host.routes[0].action, RouteAction::NonForwarding));
    assert!(decoded.ignored.is_empty(), "{:?}", paths(decoded.ignored.clone()));
}

#[test]
fn consistent_hashing_is_accepted() {
    for (resource, is_it) in [
        (&recorded!("ring-hash")[0], (|policy| matches!(policy, EndpointPolicy::RingHash(_))) as fn(&_) -> bool),
        (&recorded!("maglev")[0], |policy| matches!(policy, EndpointPolicy::Maglev(_))),
    ] {
        let decoded = decode(resource);
        let policy = &value::<Cluster>(&decoded).balancing.policy;
        assert!(is_it(policy), "{policy:?}");
    }
}

#[test]
fn failover_and_sessions_are_accepted() {
    for resource in recorded!("failover") {
        let decoded = decode(&resource);
        let endpoints = value::<Endpoints>(&decoded);
        assert!(endpoints.priorities.iter().all(|priority| !priority.localities.is_empty()));
    }
    let decoded = decode(&recorded!("persistent-session")[0]);
    let filters = &api_listener(&decoded).filters.0;
    let has_session =
        |config: &FilterConfig| matches!(config, FilterConfig::StatefulSession(session) if session.state.is_some());
    assert!(filters.iter().any(|filter| has_session(&filter.config)), "{filters:?}");
    assert!(decoded.ignored.is_empty(), "{:?}", paths(decoded.ignored.clone()));
}

//! `stateful_session` (A55), in the listener and in routes, and which endpoints may have sessions.

use mesh_xds_proto::envoy::config::core::v3::{HealthStatus, HealthStatusSet, TypedExtensionConfig};
use mesh_xds_proto::envoy::extensions::filters::http::stateful_session::v3::stateful_session_per_route::Override as PerRoute;
use mesh_xds_proto::envoy::extensions::filters::http::stateful_session::v3::{
    StatefulSession, StatefulSessionPerRoute,
};
use mesh_xds_proto::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use mesh_xds_proto::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
use mesh_xds_proto::envoy::r#type::http::v3::Cookie;
use prost_types::Any;

use super::fixture::{Fixture, any, filter, overrides, seconds};
use crate::origin::Sourced;
use crate::resource::cluster::HealthSet;
use crate::resource::filter::stateful_session::SessionState;
use crate::resource::filter::{FilterConfig, HttpFilters, Overrides};

fn session(state: Option<Any>) -> StatefulSession {
    let state = state.map(|config| TypedExtensionConfig { name: "x".into(), typed_config: Some(config) });
    StatefulSession { session_state: state, ..Default::default() }
}

fn cookie(name: &str) -> StatefulSession {
    let cookie = Cookie { name: name.into(), ..Default::default() };
    session(Some(any(&CookieBasedSessionState { cookie: Some(cookie) })))
}

/// The name of the cookie that calls have which these levels override.
fn in_force(filters: &HttpFilters, levels: &[&Overrides]) -> Option<String> {
    match filters.0[0].in_force(levels)? {
        FilterConfig::StatefulSession(session) => match session.state.as_ref()? {
            SessionState::Cookie(cookie) => Some(cookie.name.to_string()),
            SessionState::Header(name) => Some(name.to_string()),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_wrong_with_a_session_is_named() {
    let at = "api_listener.api_listener.http_filters[0].typed_config.session_state.typed_config";
    let state = |cookie| session(Some(any(&CookieBasedSessionState { cookie })));
    let header = |name: &str| session(Some(any(&HeaderBasedSessionState { name: name.into() })));
    let ttl = Some(Cookie { name: "x".into(), ttl: seconds(-1), ..Default::default() });
    for (config, expected) in [
        (state(None), "cookie: must be set"),
        (cookie(""), "cookie.name: must be set"),
        (state(ttl), "cookie.ttl: -1 s is not a duration"),
        (header(""), "name: \"\" is not the name of a header"),
        (header("a b"), "name: \"a b\" is not the name of a header"),
        (session(Some(any(&Cookie::default()))), "must be a CookieBasedSessionState or a HeaderBasedSessionState"),
    ] {
        let mut f = Fixture::default();
        f.manager.http_filters.insert(0, filter("s", &config));
        let errors = f.listener().expect_err("it is refused");
        let [error] = &errors[..] else { panic!("{errors:?}") };
        let place = expected.split(':').next().expect("a part");
        assert!(error.starts_with(at) && error.contains(place), "{error}, not {expected}");
    }
}

#[test]
fn the_most_specific_level_says_which_cookie_there_is_if_any() {
    let per_route = |said| StatefulSessionPerRoute { r#override: said };
    let mut f = Fixture::default();
    f.manager.http_filters.insert(0, filter("s", &cookie("listener")));
    let filters = f.listener().expect("good").filters;
    for (said, expected) in [
        (None, Some("listener")),
        (Some(per_route(Some(PerRoute::StatefulSession(cookie("route"))))), Some("route")),
        (Some(per_route(Some(PerRoute::StatefulSession(session(None))))), None),
        (Some(per_route(Some(PerRoute::Disabled(true)))), None),
        (Some(per_route(None)), None),
    ] {
        let mut f = Fixture::default();
        if let Some(said) = &said {
            f.route().typed_per_filter_config = overrides("s", any(said));
        }
        let routes = f.routes().expect("good");
        let level = &routes.virtual_hosts[0].routes[0].level.overrides;
        assert_eq!(in_force(&filters, &[level]).as_deref(), expected, "{said:?}");
    }
    let mut f = Fixture::default();
    f.manager.http_filters.insert(0, filter("s", &session(None)));
    assert_eq!(in_force(&f.listener().expect("good").filters, &[]), None, "a filter without a kind of session is idle");
}

#[test]
fn endpoints_of_the_named_healths_may_have_sessions() {
    use HealthStatus::{Degraded, Draining, Healthy, Unhealthy, Unknown};
    let set = |unknown, healthy, draining| Sourced::xds(HealthSet { unknown, healthy, draining });
    for (statuses, expected) in [
        (None, HealthSet::DEFAULT),
        (Some(vec![]), set(false, false, false)),
        (Some(vec![Unknown, Healthy, Draining]), set(true, true, true)),
        (Some(vec![Degraded, Draining, Unhealthy]), set(false, false, true)),
    ] {
        let mut f = Fixture::default();
        f.cluster.common_lb_config.get_or_insert_default().override_host_status = statuses
            .clone()
            .map(|statuses| HealthStatusSet { statuses: statuses.into_iter().map(i32::from).collect() });
        assert_eq!(f.cluster().expect("good").override_host_status, expected, "{statuses:?}");
    }
}

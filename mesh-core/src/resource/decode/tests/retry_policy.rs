//! `RetryPolicy`: what is read of it, and whose it is (A44).

use std::sync::Arc;
use std::time::Duration;

use mesh_xds_proto::envoy::config::route::v3 as proto;
use mesh_xds_proto::envoy::config::route::v3::retry_policy::{
    RateLimitedRetryBackOff, ResetHeader, RetryBackOff, RetryHostPredicate, retry_host_predicate,
};
use mesh_xds_proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;

use super::fixture::*;
use crate::resource::ROUTE_CONFIGURATION;
use crate::resource::retry_policy::{Conditions, Hedge, RetryPolicy};
use crate::resource::route::RouteAction;
use crate::xds::resource_type::Extensions;

fn on(retry_on: &str) -> proto::RetryPolicy {
    proto::RetryPolicy { retry_on: retry_on.to_owned(), ..Default::default() }
}

/// The policy of the route, given those of the route and of its virtual host.
fn policy(route: Option<proto::RetryPolicy>, host: Option<proto::RetryPolicy>) -> Option<Arc<RetryPolicy>> {
    let mut f = Fixture::default();
    f.action().retry_policy = route;
    f.routes.virtual_hosts[0].retry_policy = host;
    let routes = f.routes().expect("good routes");
    let RouteAction::Forward(forward) = &routes.virtual_hosts[0].routes[0].action else { panic!("it forwards") };
    forward.retry().cloned()
}

fn own(route: proto::RetryPolicy) -> Arc<RetryPolicy> {
    policy(Some(route), None).expect("a policy")
}

#[test]
fn the_routes_policy_goes_before_the_virtual_hosts_and_is_not_merged_with_it() {
    let conditions = |policy: Option<Arc<RetryPolicy>>| policy.map(|policy| policy.conditions);
    assert_eq!(conditions(policy(None, None)), None);
    assert_eq!(conditions(policy(None, Some(on("internal")))), Some(Conditions::INTERNAL));
    assert_eq!(conditions(policy(Some(on("cancelled")), Some(on("internal")))), Some(Conditions::CANCELLED));
    assert_eq!(conditions(policy(Some(on("nonsense")), Some(on("internal")))), None);
}

#[test]
fn attempts_are_one_more_than_retries_and_five_at_most() {
    for (num_retries, attempts) in [(None, 2), (Some(1), 2), (Some(4), 5), (Some(5), 5), (Some(u32::MAX), 5)] {
        let policy = own(proto::RetryPolicy { num_retries, ..on("internal") });
        assert_eq!(policy.max_attempts, attempts, "{num_retries:?}");
    }
}

#[test]
fn delays_have_defaults_and_a_least() {
    let nanos = |nanos| Some(prost_types::Duration { seconds: 0, nanos });
    let millis = Duration::from_millis;
    for (intervals, expected) in [
        (None, (millis(25), millis(250))),
        (Some((nanos(50_000_000), None)), (millis(50), millis(500))),
        (Some((nanos(50_000_000), nanos(50_000_000))), (millis(50), millis(50))),
        (Some((nanos(1), None)), (millis(1), millis(10))),
        (Some((nanos(1), nanos(2))), (millis(1), millis(1))),
    ] {
        let retry_back_off =
            intervals.map(|(base_interval, max_interval)| RetryBackOff { base_interval, max_interval });
        let policy = own(proto::RetryPolicy { retry_back_off, ..on("internal") });
        assert_eq!((policy.backoff.initial, policy.backoff.max), expected, "{intervals:?}");
    }
}

#[test]
fn a_timeout_per_try_is_a_policy_without_conditions_and_none_at_zero() {
    let with = |per_try_timeout| policy(Some(proto::RetryPolicy { per_try_timeout, ..Default::default() }), None);
    assert_eq!(with(seconds(3)).expect("a policy").per_try_timeout, Some(Duration::from_secs(3)));
    assert!(with(seconds(0)).is_none());
}

#[test]
fn a_route_hedges_by_its_own_policy_or_else_by_its_virtual_hosts() {
    let hedges = |hedges: Option<bool>| {
        hedges.map(|hedge_on_per_try_timeout| proto::HedgePolicy { hedge_on_per_try_timeout, ..Default::default() })
    };
    let hedge = Hedge { delay: Duration::from_secs(3), at_once: false };
    for (route, host, limited, expected) in [
        (None, None, true, None),
        (Some(true), None, true, Some(hedge)),
        (None, Some(true), true, Some(hedge)),
        (Some(false), Some(true), true, None),
        (Some(true), Some(true), false, None),
    ] {
        let mut f = Fixture::default();
        let per_try_timeout = seconds(3).filter(|_| limited);
        f.action().retry_policy = Some(proto::RetryPolicy { per_try_timeout, ..on("internal") });
        f.action().hedge_policy = hedges(route);
        f.routes.virtual_hosts[0].hedge_policy = hedges(host);
        let routes = f.routes().expect("good routes");
        let RouteAction::Forward(forward) = &routes.virtual_hosts[0].routes[0].action else { panic!("it forwards") };
        assert_eq!(forward.retry().expect("a policy").hedge, expected, "{route:?}, {host:?}, limited: {limited}");
    }
}

#[test]
fn hedging_without_a_time_to_hedge_at_is_listed() {
    let mut f = Fixture::default();
    f.action().hedge_policy = Some(proto::HedgePolicy { hedge_on_per_try_timeout: true, ..Default::default() });
    let decoded = (ROUTE_CONFIGURATION.decode)(&prost::Message::encode_to_vec(&f.routes), &Extensions::default());
    assert_eq!(paths(decoded.ignored), ["virtual_hosts.routes.route.hedge_policy.hedge_on_per_try_timeout"]);
}

#[test]
fn a_bad_backoff_for_rate_limits_is_refused_by_field() {
    let reset = |name: &str, format| ResetHeader { name: name.into(), format };
    let zero = Some(prost_types::Duration::default());
    for (headers, max_interval, expected) in [
        (vec![], None, "reset_headers: must not be empty"),
        (vec![reset("a b", 0)], None, "reset_headers[0].name: \"a b\" is no header's name"),
        (vec![reset("a", 7)], None, "reset_headers[0].format: 7 is no known format"),
        (vec![reset("a", 1)], zero, "max_interval: must be greater than 0"),
    ] {
        let limited = RateLimitedRetryBackOff { reset_headers: headers, max_interval };
        let mut f = Fixture::default();
        f.action().retry_policy =
            Some(proto::RetryPolicy { rate_limited_retry_back_off: Some(limited), ..on("internal") });
        let errors = f.routes().expect_err("it is refused");
        let found = errors.iter().any(|error| error.ends_with(&format!("rate_limited_retry_back_off.{expected}")));
        assert!(found, "`{expected}` is not in {errors:?}");
    }
}

#[test]
fn what_is_not_known_is_listed() {
    let predicate = |config| RetryHostPredicate {
        name: "x".into(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(config)),
    };
    let mut f = Fixture::default();
    f.action().retry_policy = Some(proto::RetryPolicy {
        retry_host_predicate: vec![predicate(any(&PreviousHostsPredicate {})), predicate(any_of("x.Y"))],
        ..on("unavailable, http3-post-connect-failure,,5xx")
    });
    let decoded = (ROUTE_CONFIGURATION.decode)(&prost::Message::encode_to_vec(&f.routes), &Extensions::default());
    let listed = paths(decoded.ignored);
    let at = "virtual_hosts.routes.route.retry_policy";
    assert_eq!(
        listed,
        [format!("{at}.retry_host_predicate.typed_config"), format!("{at}.retry_on[http3-post-connect-failure]")]
    );
}

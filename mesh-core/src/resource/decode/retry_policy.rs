//! `RetryPolicy`: what of an attempt is repeated, how often and when (A44), with Envoy's conditions in addition.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use mesh_xds_proto::envoy::config::route::v3 as proto;
use mesh_xds_proto::envoy::config::route::v3::retry_policy::retry_host_predicate::ConfigType;
use mesh_xds_proto::envoy::config::route::v3::retry_policy::{
    RateLimitedRetryBackOff, ResetHeaderFormat, RetryBackOff, RetryHostPredicate,
};
use mesh_xds_proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;

use super::place::{At, quoted};
use super::route_match::header_match;
use super::value::{Extension, duration};
use crate::backoff::BackoffConfig;
use crate::resource::matcher::header::HeaderMatch;
use crate::resource::retry_policy::{Conditions, Hedge, MAX_ATTEMPTS, RateLimitedBackoff, ResetFormat, RetryPolicy};
use crate::resource::verdict::Fields;

/// Envoy's and gRPC's default of `num_retries`.
const DEFAULT_RETRIES: u32 = 1;
/// Shorter intervals are as long as this (A44).
const SHORTEST: Duration = Duration::from_millis(1);

/// `None` if the policy asks for nothing that is known: it is that of the route all the same (A44).
pub(super) fn retry_policy(message: &proto::RetryPolicy, at: &At<'_>) -> Option<Arc<RetryPolicy>> {
    message.judge(at);
    for (index, predicate) in message.retry_host_predicate.iter().enumerate() {
        host_predicate(predicate, &at.item("retry_host_predicate", index));
    }
    let per_try_timeout = duration(message.per_try_timeout, &at.field("per_try_timeout"));
    let per_try_idle_timeout = duration(message.per_try_idle_timeout, &at.field("per_try_idle_timeout"));
    let limited = message.rate_limited_retry_back_off.as_ref();
    let policy = RetryPolicy {
        conditions: conditions(&message.retry_on, at),
        max_attempts: max_attempts(message.num_retries, at),
        backoff: backoff(message.retry_back_off.as_ref(), at),
        per_try_timeout: per_try_timeout.filter(|timeout| !timeout.is_zero()),
        per_try_idle_timeout: per_try_idle_timeout.filter(|timeout| !timeout.is_zero()),
        hedge: None,
        status_codes: message.retriable_status_codes.as_slice().into(),
        headers: header_matches(&message.retriable_headers, "retriable_headers", at),
        request_headers: header_matches(&message.retriable_request_headers, "retriable_request_headers", at),
        rate_limited: limited.map(|limited| Arc::new(rate_limited(limited, &at.field("rate_limited_retry_back_off")))),
    };
    let asks = !policy.conditions.is_empty() || policy.until_head().is_some();
    asks.then(|| Arc::new(policy))
}

/// Whether attempts run beside each other once one takes longer than `per_try_timeout`.
pub(super) fn hedges(message: &proto::HedgePolicy, at: &At<'_>) -> bool {
    message.judge(at);
    message.hedge_on_per_try_timeout
}

/// The policy with attempts beside each other; `None` if it says not when the next one starts.
pub(super) fn hedged(policy: &RetryPolicy) -> Option<Arc<RetryPolicy>> {
    let hedge = Hedge { delay: policy.per_try_timeout?, at_once: false };
    Some(Arc::new(RetryPolicy { hedge: Some(hedge), ..policy.clone() }))
}

fn header_matches(messages: &[proto::HeaderMatcher], name: &'static str, at: &At<'_>) -> Arc<[HeaderMatch]> {
    let headers = messages.iter().enumerate();
    headers.filter_map(|(index, header)| header_match(header, &at.item(name, index))).collect()
}

fn rate_limited(message: &RateLimitedRetryBackOff, at: &At<'_>) -> RateLimitedBackoff {
    message.judge(at);
    if message.reset_headers.is_empty() {
        at.field("reset_headers").error("must not be empty");
    }
    let mut headers = Vec::with_capacity(message.reset_headers.len());
    for (index, header) in message.reset_headers.iter().enumerate() {
        let at = at.item("reset_headers", index);
        header.judge(&at);
        let format = match ResetHeaderFormat::try_from(header.format) {
            Ok(ResetHeaderFormat::Seconds) => ResetFormat::Seconds,
            Ok(ResetHeaderFormat::UnixTimestamp) => ResetFormat::UnixTimestamp,
            Err(_) => {
                at.field("format").error(format!("{} is no known format", header.format));
                continue;
            }
        };
        match HeaderName::from_bytes(header.name.as_bytes()) {
            Ok(name) => headers.push((name, format)),
            Err(_) => at.field("name").error(format!("{} is no header's name", quoted(&header.name))),
        }
    }
    let max = duration(message.max_interval, &at.field("max_interval"));
    if max.is_some_and(|max| max.is_zero()) {
        at.field("max_interval").error("must be greater than 0");
    }
    RateLimitedBackoff { headers, max: max.unwrap_or(RateLimitedBackoff::DEFAULT_MAX) }
}

fn conditions(retry_on: &str, at: &At<'_>) -> Conditions {
    let mut conditions = Conditions::default();
    for word in retry_on.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match Conditions::named(word) {
            Some(condition) => conditions = conditions | condition,
            None => at.key("retry_on", word).ignored("is no known condition"),
        }
    }
    conditions
}

fn max_attempts(num_retries: Option<u32>, at: &At<'_>) -> u32 {
    if num_retries == Some(0) {
        at.field("num_retries").error("must be greater than 0");
    }
    num_retries.unwrap_or(DEFAULT_RETRIES).saturating_add(1).min(MAX_ATTEMPTS)
}

fn backoff(message: Option<&RetryBackOff>, at: &At<'_>) -> BackoffConfig {
    let (initial, max) = match message {
        None => RetryPolicy::DEFAULT_BACKOFF,
        Some(message) => intervals(message, &at.field("retry_back_off")),
    };
    RetryPolicy::delays(initial, max)
}

fn intervals(message: &RetryBackOff, at: &At<'_>) -> (Duration, Duration) {
    message.judge(at);
    let base = at.required("base_interval", message.base_interval);
    let base = duration(base, &at.field("base_interval")).unwrap_or_default();
    let max = duration(message.max_interval, &at.field("max_interval"));
    if max.is_some_and(|max| max < base) {
        at.field("max_interval").error("must not be less than `base_interval`");
    }
    let base = base.max(SHORTEST);
    (base, max.map_or_else(|| base.saturating_mul(10), |max| max.max(SHORTEST)))
}

/// Another endpoint than those that failed is taken anyway.
fn host_predicate(message: &RetryHostPredicate, at: &At<'_>) {
    message.judge(at);
    let Some(ConfigType::TypedConfig(config)) = &message.config_type else { return };
    let place = at.field("typed_config");
    let known = Extension::open(Some(config), &place).is_some_and(|extension| extension.is::<PreviousHostsPredicate>());
    if !known {
        place.ignored("`previous_hosts` is the only predicate that is known");
    }
}

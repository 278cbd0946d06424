//! `LocalRateLimit` and its bucket, as in Envoy.

use std::sync::Arc;

use http::HeaderName;
use mesh_xds_proto::envoy::config::core::v3::RuntimeFractionalPercent;
use mesh_xds_proto::envoy::config::route::v3::rate_limit::action::ActionSpecifier;
use mesh_xds_proto::envoy::config::route::v3::{RateLimit, rate_limit};
use mesh_xds_proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use mesh_xds_proto::envoy::extensions::common::ratelimit::v3::{
    LocalRateLimitDescriptor, VhRateLimitsOptions, XRateLimitHeadersRfcVersion,
};
use mesh_xds_proto::envoy::extensions::filters::http::local_ratelimit::v3 as proto;
use mesh_xds_proto::envoy::r#type::v3::TokenBucket as Bucket;

use super::header_mutation::additions;
use super::place::{At, quoted};
use super::route_match::header_match;
use super::value::{duration, error_status, runtime_fraction};
use crate::resource::filter::descriptor::{
    Action, Buckets, DescriptorLimit, Descriptors, HostRateLimits, RateLimits, Rule,
};
use crate::resource::filter::rate_limit::{LEAST_INTERVAL, LocalRateLimit, TokenBucket};
use crate::resource::verdict::Fields;

/// `is_override`: of a route or another level, where it makes no sense without a bucket.
pub(super) fn local_rate_limit(message: &proto::LocalRateLimit, is_override: bool, at: &At<'_>) -> LocalRateLimit {
    message.judge(at);
    if message.stat_prefix.is_empty() {
        at.field("stat_prefix").error("must be set");
    }
    if is_override && message.token_bucket.is_none() {
        at.field("token_bucket").error("must be set where the filter is overridden");
    }
    let bucket = message.token_bucket.as_ref().and_then(|message| bucket(message, &at.field("token_bucket")));
    let limit = LocalRateLimit::idle().with_bucket(bucket).shares(
        share(message.filter_enabled.as_ref(), &at.field("filter_enabled")),
        share(message.filter_enforced.as_ref(), &at.field("filter_enforced")),
    );
    let status = message.status.as_ref().and_then(|message| error_status(message, &at.field("status")));
    let limit = status.into_iter().fold(limit, LocalRateLimit::status);
    let tells = told(message.enable_x_ratelimit_headers, &at.field("enable_x_ratelimit_headers"));
    let limit = limit.tell_callers(tells);
    let takes_both = message.always_consume_default_token_bucket.unwrap_or(true);
    let limit = limit.with_descriptors(descriptors(message, at), takes_both);
    let limit =
        limit.with_stage(stage(message.stage, at), of_host(message.vh_rate_limits, &at.field("vh_rate_limits")));
    let mut limit = if message.rate_limited_as_resource_exhausted { limit.as_resource_exhausted() } else { limit };
    let unenforced = &message.request_headers_to_add_when_not_enforced;
    limit.unenforced = additions(unenforced, "request_headers_to_add_when_not_enforced", true, at).collect();
    limit.refused = additions(&message.response_headers_to_add, "response_headers_to_add", false, at).collect();
    limit
}

fn bucket(message: &Bucket, at: &At<'_>) -> Option<TokenBucket> {
    message.judge(at);
    if message.max_tokens == 0 {
        at.field("max_tokens").error("must be above 0");
    }
    let tokens_per_fill = message.tokens_per_fill.unwrap_or(1);
    if tokens_per_fill == 0 {
        at.field("tokens_per_fill").error("must be above 0");
    }
    let interval = at.required("fill_interval", message.fill_interval)?;
    let interval = duration(Some(interval), &at.field("fill_interval"))?;
    if interval < LEAST_INTERVAL {
        at.field("fill_interval").error("must be at least 50 ms");
    }
    Some(TokenBucket::new(message.max_tokens, tokens_per_fill, interval))
}

fn descriptors(message: &proto::LocalRateLimit, at: &At<'_>) -> Descriptors {
    let rules = rules(&message.rate_limits, at);
    for (index, rule) in message.rate_limits.iter().enumerate() {
        if rule.stage.is_some_and(|stage| stage > 0) {
            at.item("rate_limits", index).field("stage").ignored("a filter takes all of its own");
        }
    }
    let most = most_values(message, at);
    let limits = message.descriptors.iter().enumerate();
    let limits = limits.filter_map(|(index, limit)| descriptor_limit(limit, most, &at.item("descriptors", index)));
    let limits: Vec<_> = limits.collect();
    Descriptors::new(rules, limits)
}

/// What a virtual host or a route says of local rate limits; `None`: nothing.
pub(super) fn rate_limits(messages: &[RateLimit], includes_host: bool, at: &At<'_>) -> Option<Arc<RateLimits>> {
    let says_something = includes_host || !messages.is_empty();
    let limits = RateLimits { rules: rules(messages, at), includes_host };
    says_something.then(|| Arc::new(limits))
}

/// Those that stand in the field `rate_limits` of the message at `at`.
fn rules(messages: &[RateLimit], at: &At<'_>) -> Vec<Arc<Rule>> {
    let rules = messages.iter().enumerate();
    rules.filter_map(|(index, message)| rule(message, &at.item("rate_limits", index))).map(Arc::new).collect()
}

/// At most 10, as in Envoy.
fn stage(stage: u32, at: &At<'_>) -> u32 {
    if stage > 10 {
        at.field("stage").error(format!("{stage} is more than 10"));
    }
    stage
}

fn of_host(option: i32, at: &At<'_>) -> HostRateLimits {
    match VhRateLimitsOptions::try_from(option) {
        Ok(VhRateLimitsOptions::Override) => HostRateLimits::Override,
        Ok(VhRateLimitsOptions::Include) => HostRateLimits::Include,
        Ok(VhRateLimitsOptions::Ignore) => HostRateLimits::Ignore,
        Err(_) => {
            at.error(format!("{option} is no known option"));
            HostRateLimits::default()
        }
    }
}

/// How many values are remembered of entries that name none.
fn most_values(message: &proto::LocalRateLimit, at: &At<'_>) -> usize {
    /// Envoy's default.
    const DEFAULT: u32 = 20;
    /// A call with a value that is new looks through all of them.
    const MOST: u32 = 1_024;
    let most = message.max_dynamic_descriptors.unwrap_or(DEFAULT);
    if most == 0 {
        at.field("max_dynamic_descriptors").error("must be above 0");
    }
    most.clamp(1, MOST) as usize
}

/// Whether callers are told how much more they may ask for.
fn told(version: i32, at: &At<'_>) -> bool {
    match XRateLimitHeadersRfcVersion::try_from(version) {
        Ok(XRateLimitHeadersRfcVersion::Off) => false,
        Ok(XRateLimitHeadersRfcVersion::DraftVersion03) => true,
        Err(_) => {
            at.error(format!("{version} is no known version"));
            false
        }
    }
}

/// `None`: it is refused.
fn descriptor_limit(message: &LocalRateLimitDescriptor, most: usize, at: &At<'_>) -> Option<DescriptorLimit> {
    message.judge(at);
    if message.entries.is_empty() {
        at.field("entries").error("must not be empty");
    }
    let entry = |(index, entry): (usize, &Entry)| {
        let at = &at.item("entries", index);
        entry.judge(at);
        if entry.key.is_empty() {
            at.field("key").error("must be set");
        }
        (entry.key.as_str().into(), Some(entry.value.as_str().into()).filter(|_| !entry.value.is_empty()))
    };
    let entries: Vec<(Box<str>, Option<Box<str>>)> = message.entries.iter().enumerate().map(entry).collect();
    let tokens = at.required("token_bucket", message.token_bucket.as_ref());
    let bucket = tokens.and_then(|tokens| bucket(tokens, &at.field("token_bucket")));
    let bucket = bucket?;
    let names_all = entries.iter().all(|(_, value)| value.is_some());
    let buckets = if names_all { Buckets::one(bucket) } else { Buckets::each(bucket, most) };
    Some(DescriptorLimit { entries, buckets, is_shadow: message.shadow_mode })
}

/// `None`: it is refused.
fn rule(message: &RateLimit, at: &At<'_>) -> Option<Rule> {
    message.judge(at);
    let stage = stage(message.stage.unwrap_or_default(), at);
    if message.actions.is_empty() {
        at.field("actions").error("must not be empty");
    }
    let actions = message.actions.iter().enumerate();
    let actions = actions.map(|(index, one)| action(one, &at.item("actions", index))).collect::<Option<_>>()?;
    Some(Rule { stage, actions })
}

fn action(message: &rate_limit::Action, at: &At<'_>) -> Option<Action> {
    message.judge(at);
    let key = |key: &str, default: &str| if key.is_empty() { default.into() } else { key.into() };
    let value = |value: &str, at: &At<'_>| {
        if value.is_empty() {
            at.field("descriptor_value").error("must be set");
        }
        value.into()
    };
    match message.action_specifier.as_ref() {
        Some(ActionSpecifier::GenericKey(message)) => {
            let at = &at.field("generic_key");
            message.judge(at);
            let value = value(&message.descriptor_value, at);
            Some(Action::Constant { key: key(&message.descriptor_key, "generic_key"), value })
        }
        Some(ActionSpecifier::RequestHeaders(message)) => {
            let at = &at.field("request_headers");
            message.judge(at);
            if message.descriptor_key.is_empty() {
                at.field("descriptor_key").error("must be set");
            }
            let Ok(name) = HeaderName::from_bytes(message.header_name.as_bytes()) else {
                at.field("header_name").error(format!("{} is not the name of a header", quoted(&message.header_name)));
                return None;
            };
            let key = message.descriptor_key.as_str().into();
            Some(Action::Header { name, key, is_skipped: message.skip_if_absent })
        }
        Some(ActionSpecifier::RemoteAddress(_)) => Some(Action::RemoteAddress),
        Some(ActionSpecifier::HeaderValueMatch(message)) => {
            let at = &at.field("header_value_match");
            message.judge(at);
            if message.headers.is_empty() {
                at.field("headers").error("must not be empty");
            }
            let headers = message.headers.iter().enumerate();
            let headers = headers.map(|(index, header)| header_match(header, &at.item("headers", index)));
            let value = value(&message.descriptor_value, at);
            let key = key(&message.descriptor_key, "header_match");
            let expected = message.expect_match.unwrap_or(true);
            Some(Action::Matching { key, value, headers: headers.collect::<Option<_>>()?, expected })
        }
        // Listed by the table; the rule is there nevertheless, and no other takes its place.
        Some(_) => Some(Action::Unknown),
        None => {
            at.error("an action must be set");
            None
        }
    }
}

/// Unset is none, and a fraction without a value all.
fn share(fraction: Option<&RuntimeFractionalPercent>, at: &At<'_>) -> u32 {
    fraction.map_or(0, |fraction| runtime_fraction(fraction, at).unwrap_or(1_000_000))
}

//! `LocalRateLimit` and its bucket, as in Envoy.

use http::StatusCode;
use mesh_xds_proto::envoy::config::core::v3::RuntimeFractionalPercent;
use mesh_xds_proto::envoy::extensions::filters::http::local_ratelimit::v3 as proto;
use mesh_xds_proto::envoy::r#type::v3::{HttpStatus, TokenBucket as Bucket};

use super::header_mutation::additions;
use super::place::At;
use super::value::{duration, runtime_fraction};
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
    let status = message.status.as_ref().and_then(|message| status(message, &at.field("status")));
    let limit = status.into_iter().fold(limit, LocalRateLimit::status);
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

/// Unset is none, and a fraction without a value all.
fn share(fraction: Option<&RuntimeFractionalPercent>, at: &At<'_>) -> u32 {
    fraction.map_or(0, |fraction| runtime_fraction(fraction, at).unwrap_or(1_000_000))
}

/// One that says no error is 429.
fn status(message: &HttpStatus, at: &At<'_>) -> Option<StatusCode> {
    message.judge(at);
    let code = u16::try_from(message.code).ok().filter(|code| (100..600).contains(code));
    let Some(status) = code.and_then(|code| StatusCode::from_u16(code).ok()) else {
        at.field("code").error(format!("{} is not a status of HTTP from 100 to 599", message.code));
        return None;
    };
    (status.as_u16() >= 400).then_some(status)
}

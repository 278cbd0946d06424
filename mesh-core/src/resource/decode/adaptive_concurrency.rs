//! `AdaptiveConcurrency`, as in Envoy.

use std::time::Duration;

use mesh_xds_proto::envoy::extensions::filters::http::adaptive_concurrency::v3 as proto;
use mesh_xds_proto::envoy::r#type::v3::Percent;
use proto::adaptive_concurrency::ConcurrencyControllerConfig;
use proto::gradient_controller_config::{ConcurrencyLimitCalculationParams, MinimumRttCalculationParams};

use super::place::At;
use super::value::{duration, error_status, is_on};
use crate::backoff::bounded;
use crate::resource::filter::concurrency::{ConcurrencyLimit, GradientController, MinRtt};
use crate::resource::verdict::Fields;

/// The least time between measurements in Envoy.
const LEAST_INTERVAL: Duration = Duration::from_millis(1);

pub(super) fn adaptive_concurrency(message: &proto::AdaptiveConcurrency, at: &At<'_>) -> ConcurrencyLimit {
    message.judge(at);
    let controller = match &message.concurrency_controller_config {
        Some(ConcurrencyControllerConfig::GradientControllerConfig(message)) => {
            gradient(message, &at.field("gradient_controller_config"))
        }
        None => {
            at.field("gradient_controller_config").error("must be set");
            None
        }
    };
    let is_enabled = message.enabled.as_ref().is_none_or(|flag| is_on(flag, &at.field("enabled")));
    let status = message.concurrency_limit_exceeded_status.as_ref();
    let status = status.and_then(|status| error_status(status, &at.field("concurrency_limit_exceeded_status")));
    let limit = ConcurrencyLimit::adaptive(controller.unwrap_or_default()).enabled(is_enabled);
    status.into_iter().fold(limit, ConcurrencyLimit::status)
}

/// `None`: it is wrong, and reported.
fn gradient(message: &proto::GradientControllerConfig, at: &At<'_>) -> Option<GradientController> {
    message.judge(at);
    let percentile = message.sample_aggregate_percentile.as_ref();
    let percentile = share(percentile, 0.5, &at.field("sample_aggregate_percentile"));
    let limit = at.required("concurrency_limit_params", message.concurrency_limit_params.as_ref());
    let limit = limit.and_then(|message| limits(message, &at.field("concurrency_limit_params")));
    let min_rtt = at.required("min_rtt_calc_params", message.min_rtt_calc_params.as_ref());
    let min_rtt = min_rtt.and_then(|message| measurement(message, &at.field("min_rtt_calc_params")));
    let ((update_interval, max_concurrency), Measurement { min_rtt, min_concurrency, buffer }) = limit.zip(min_rtt)?;
    let percentile = percentile?;
    Some(GradientController { update_interval, max_concurrency, min_concurrency, percentile, buffer, min_rtt })
}

fn limits(message: &ConcurrencyLimitCalculationParams, at: &At<'_>) -> Option<(Duration, u32)> {
    message.judge(at);
    let most = above_zero(message.max_concurrency_limit, 1_000, &at.field("max_concurrency_limit"));
    let interval = at.required("concurrency_update_interval", message.concurrency_update_interval)?;
    let interval = positive(interval, Duration::from_nanos(1), &at.field("concurrency_update_interval"));
    interval.zip(most)
}

struct Measurement {
    min_rtt: MinRtt,
    min_concurrency: u32,
    buffer: f64,
}

fn measurement(message: &MinimumRttCalculationParams, at: &At<'_>) -> Option<Measurement> {
    message.judge(at);
    let requests = above_zero(message.request_count, MinRtt::REQUESTS, &at.field("request_count"));
    let jitter = share(message.jitter.as_ref(), MinRtt::JITTER, &at.field("jitter"));
    let min_concurrency = above_zero(message.min_concurrency, 3, &at.field("min_concurrency"));
    let buffer = share(message.buffer.as_ref(), 0.25, &at.field("buffer"));
    let interval = message.interval.map(|interval| positive(interval, LEAST_INTERVAL, &at.field("interval")));
    let fixed = &at.field("fixed_value");
    let value = message.fixed_value.map(|value| positive(value, Duration::from_nanos(1), fixed));
    let min_rtt = match (interval, value) {
        (Some(interval), value) => {
            if value.is_some() {
                fixed.ignored("beside `interval`");
            }
            MinRtt::Measured { interval: interval?, requests: requests?, jitter: jitter? }
        }
        (None, Some(value)) => MinRtt::Fixed(value?),
        (None, None) => {
            fixed.error("must be set without `interval`");
            return None;
        }
    };
    Some(Measurement { min_rtt, min_concurrency: min_concurrency?, buffer: buffer? })
}

fn above_zero(value: Option<u32>, default: u32, at: &At<'_>) -> Option<u32> {
    let value = value.unwrap_or(default);
    if value == 0 {
        at.error("must be above 0");
    }
    (value > 0).then_some(value)
}

/// At most a year, which is longer than any server runs.
fn positive(value: prost_types::Duration, least: Duration, at: &At<'_>) -> Option<Duration> {
    let value = duration(Some(value), at)?;
    if value < least {
        at.error(format!("must be at least {least:?}"));
        return None;
    }
    Some(bounded(value))
}

/// Of one.
fn share(percent: Option<&Percent>, default: f64, at: &At<'_>) -> Option<f64> {
    let Some(Percent { value }) = percent else { return Some(default) };
    if !(0.0..=100.0).contains(value) {
        at.field("value").error(format!("{value} is not a percentage from 0 to 100"));
        return None;
    }
    Some(value / 100.0)
}

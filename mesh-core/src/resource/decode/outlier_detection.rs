//! `OutlierDetection`: gRPC's two algorithms with gRPC's defaults (A50), and Envoy's consecutive failures where asked for.

use std::time::Duration;

use mesh_xds_proto::envoy::config::cluster::v3 as proto;

use super::place::At;
use super::value::duration;
use crate::resource::outlier_detection::{Consecutive, FailurePercentage, OutlierDetection, SuccessRate};
use crate::resource::verdict::Fields;

const INTERVAL: Duration = Duration::from_secs(10);
const BASE_EJECTION_TIME: Duration = Duration::from_secs(30);
const MAX_EJECTION_TIME: Duration = Duration::from_secs(300);

pub(super) fn outlier_detection(message: &proto::OutlierDetection, at: &At<'_>) -> OutlierDetection {
    message.judge(at);
    let interval = duration(message.interval, &at.field("interval"));
    if interval == Some(Duration::ZERO) {
        at.field("interval").error("must be greater than 0 s");
    }
    let base = duration(message.base_ejection_time, &at.field("base_ejection_time")).unwrap_or(BASE_EJECTION_TIME);
    let max = duration(message.max_ejection_time, &at.field("max_ejection_time"));
    OutlierDetection {
        interval: interval.unwrap_or(INTERVAL),
        base_ejection_time: base,
        max_ejection_time: max.unwrap_or_else(|| base.max(MAX_EJECTION_TIME)),
        max_ejection_percent: percent(message.max_ejection_percent, 10, &at.field("max_ejection_percent")),
        success_rate: success_rate(message, at),
        failure_percentage: failure_percentage(message, at),
        consecutive_5xx: consecutive_5xx(message, at),
        consecutive_gateway_failure: gateway_failure(message, at),
        consecutive_local_origin_failure: local_origin_failure(message, at),
        split_local_origin: message.split_external_local_origin_errors,
    }
}

/// On unless it is enforced for none (A50).
fn success_rate(message: &proto::OutlierDetection, at: &At<'_>) -> Option<SuccessRate> {
    let enforcing = percent(message.enforcing_success_rate, 100, &at.field("enforcing_success_rate"));
    (enforcing > 0).then(|| SuccessRate {
        stdev_factor: message.success_rate_stdev_factor.unwrap_or(1900),
        enforcing,
        minimum_hosts: message.success_rate_minimum_hosts.unwrap_or(5),
        request_volume: message.success_rate_request_volume.unwrap_or(100),
    })
}

/// Off unless it is enforced for some (A50).
fn failure_percentage(message: &proto::OutlierDetection, at: &At<'_>) -> Option<FailurePercentage> {
    let enforcing = percent(message.enforcing_failure_percentage, 0, &at.field("enforcing_failure_percentage"));
    let threshold = percent(message.failure_percentage_threshold, 85, &at.field("failure_percentage_threshold"));
    (enforcing > 0).then(|| FailurePercentage {
        threshold,
        enforcing,
        minimum_hosts: message.failure_percentage_minimum_hosts.unwrap_or(5),
        request_volume: message.failure_percentage_request_volume.unwrap_or(50),
    })
}

/// Envoy's, for those who ask for it: a message that names neither field means what it means in gRPC.
fn consecutive_5xx(message: &proto::OutlierDetection, at: &At<'_>) -> Option<Consecutive> {
    let asked = message.consecutive_5xx.is_some() || message.enforcing_consecutive_5xx.is_some();
    let enforcing = percent(message.enforcing_consecutive_5xx, 100, &at.field("enforcing_consecutive_5xx"));
    consecutive(asked, message.consecutive_5xx, enforcing)
}

/// As [`consecutive_5xx`], but enforced only where the message says so.
fn gateway_failure(message: &proto::OutlierDetection, at: &At<'_>) -> Option<Consecutive> {
    let asked =
        message.consecutive_gateway_failure.is_some() || message.enforcing_consecutive_gateway_failure.is_some();
    let at = at.field("enforcing_consecutive_gateway_failure");
    let enforcing = percent(message.enforcing_consecutive_gateway_failure, 0, &at);
    consecutive(asked, message.consecutive_gateway_failure, enforcing)
}

/// Only where failures of local origin are counted apart.
fn local_origin_failure(message: &proto::OutlierDetection, at: &At<'_>) -> Option<Consecutive> {
    let at = at.field("enforcing_consecutive_local_origin_failure");
    let enforcing = percent(message.enforcing_consecutive_local_origin_failure, 100, &at);
    consecutive(message.split_external_local_origin_errors, message.consecutive_local_origin_failure, enforcing)
}

/// 5 in a row, if the number is not set; none are never reached.
fn consecutive(asked: bool, failures: Option<u32>, enforcing: u32) -> Option<Consecutive> {
    let failures = failures.unwrap_or(5);
    (asked && failures > 0).then_some(Consecutive { failures, enforcing })
}

fn percent(value: Option<u32>, default: u32, at: &At<'_>) -> u32 {
    if let Some(percent) = value.filter(|&percent| percent > 100) {
        at.error(format!("{percent} is not a percentage"));
    }
    value.unwrap_or(default)
}

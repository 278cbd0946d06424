//! Policies that are checked as gRPC checks them, and not yet acted on: a resource is refused or accepted for the same
//! reasons before and after they are.

use mesh_xds_proto::envoy::config::cluster::v3::OutlierDetection;

use super::place::At;
use super::value::duration;

/// A50.
pub(super) fn check_outlier_detection(policy: &OutlierDetection, at: &At<'_>) {
    for (name, value) in [
        ("interval", policy.interval),
        ("base_ejection_time", policy.base_ejection_time),
        ("max_ejection_time", policy.max_ejection_time),
    ] {
        duration(value, &at.field(name));
    }
    for (name, percent) in [
        ("max_ejection_percent", policy.max_ejection_percent),
        ("enforcing_success_rate", policy.enforcing_success_rate),
        ("failure_percentage_threshold", policy.failure_percentage_threshold),
        ("enforcing_failure_percentage", policy.enforcing_failure_percentage),
    ] {
        if let Some(percent) = percent.filter(|&percent| percent > 100) {
            at.field(name).error(format!("{percent} is not a percentage"));
        }
    }
}

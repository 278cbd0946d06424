//! Policies that are checked as gRPC checks them, and not yet acted on: a resource is refused or accepted for the same
//! reasons before and after they are.

use mesh_xds_proto::envoy::config::cluster::v3::OutlierDetection;
use mesh_xds_proto::envoy::config::route::v3::route_action::HashPolicy;
use mesh_xds_proto::envoy::config::route::v3::route_action::hash_policy::{Header, PolicySpecifier};

use super::place::At;
use super::value::duration;
use crate::resource::matcher::pattern::searching;

/// A42.
pub(super) fn check_hash_policy(policy: &HashPolicy, at: &At<'_>) {
    if let Some(PolicySpecifier::Header(Header { header_name, regex_rewrite })) = &policy.policy_specifier {
        let at = &at.field("header");
        if header_name.is_empty() {
            at.field("header_name").error("must be set");
        }
        let Some(rewrite) = regex_rewrite else {
            return;
        };
        let at = &at.field("regex_rewrite");
        if let Some(pattern) = at.required("pattern", rewrite.pattern.as_ref())
            && let Err(problem) = searching(&pattern.regex, &at.report().patterns)
        {
            at.field("pattern").field("regex").error(problem);
        }
    }
}

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

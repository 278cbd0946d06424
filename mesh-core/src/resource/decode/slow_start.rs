//! `SlowStartConfig`, which stands in two packages with the same fields.

use mesh_xds_proto::envoy::config::cluster::v3::cluster;
use mesh_xds_proto::envoy::config::core::v3::RuntimeDouble;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::common::v3 as common;
use mesh_xds_proto::envoy::r#type::v3::Percent;

use super::place::At;
use super::value::duration;
use crate::resource::cluster::EndpointPolicy;
use crate::resource::slow_start::SlowStart;
use crate::resource::verdict::Fields;

/// Either of the two messages.
pub(super) trait SlowStartConfig: Fields {
    fn window(&self) -> Option<prost_types::Duration>;
    fn aggression(&self) -> Option<&RuntimeDouble>;
    fn min_weight_percent(&self) -> Option<&Percent>;
}

macro_rules! slow_start_config {
    ($($message:ty),*) => {$(
        impl SlowStartConfig for $message {
            fn window(&self) -> Option<prost_types::Duration> {
                self.slow_start_window
            }

            fn aggression(&self) -> Option<&RuntimeDouble> {
                self.aggression.as_ref()
            }

            fn min_weight_percent(&self) -> Option<&Percent> {
                self.min_weight_percent.as_ref()
            }
        }
    )*};
}
slow_start_config!(cluster::SlowStartConfig, common::SlowStartConfig);

/// `None` without a window.
pub(super) fn slow_start(config: &impl SlowStartConfig, at: &At<'_>) -> Option<SlowStart> {
    config.judge(at);
    let window = duration(config.window(), &at.field("slow_start_window"));
    let aggression = config.aggression().map_or(SlowStart::AGGRESSION, |value| {
        value.judge(&at.field("aggression"));
        value.default_value
    });
    if !(aggression > 0.0 && aggression.is_finite()) {
        at.field("aggression").field("default_value").error(format!("{aggression} is not a number above 0"));
        return None;
    }
    let min = config.min_weight_percent().map_or(SlowStart::MIN_WEIGHT_PERCENT, |percent| percent.value);
    if !(0.0..=100.0).contains(&min) {
        at.field("min_weight_percent").field("value").error(format!("{min} is not a percentage"));
        return None;
    }
    SlowStart::new(window?, aggression, min)
}

/// The policy, started slowly if the configuration says so.
pub(super) fn started_slowly(
    policy: EndpointPolicy,
    config: Option<&impl SlowStartConfig>,
    at: &At<'_>,
) -> EndpointPolicy {
    match config.and_then(|config| slow_start(config, &at.field("slow_start_config"))) {
        Some(slow_start) => EndpointPolicy::SlowStart { policy: Box::new(policy), slow_start },
        None => policy,
    }
}

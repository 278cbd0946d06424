//! `ClientSideWeightedRoundRobin` (A58, A114).

use std::time::Duration;

use mesh_xds_proto::envoy::extensions::load_balancing_policies::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin;

use super::place::At;
use super::slow_start::slow_start;
use super::value::duration;
use crate::resource::verdict::Fields;
use crate::resource::weighted_round_robin::{Metric, Reporting, WeightedRoundRobin};

pub(super) fn weighted_round_robin(config: &ClientSideWeightedRoundRobin, at: &At<'_>) -> Option<WeightedRoundRobin> {
    config.judge(at);
    let period = |name: &'static str, value, default: Duration| duration(value, &at.field(name)).unwrap_or(default);
    let defaults = WeightedRoundRobin::default();
    let oob = period("oob_reporting_period", config.oob_reporting_period, WeightedRoundRobin::OOB_REPORTING_PERIOD);
    let update = period("weight_update_period", config.weight_update_period, defaults.weight_update_period);
    Some(WeightedRoundRobin {
        reporting: match config.enable_oob_load_report {
            Some(true) => Reporting::OutOfBand(oob),
            _ => Reporting::PerCall,
        },
        blackout_period: period("blackout_period", config.blackout_period, defaults.blackout_period),
        weight_expiration_period: period(
            "weight_expiration_period",
            config.weight_expiration_period,
            defaults.weight_expiration_period,
        ),
        weight_update_period: update.max(WeightedRoundRobin::MIN_UPDATE_PERIOD),
        error_utilization_penalty: penalty(config.error_utilization_penalty, at)?,
        metrics: config.metric_names_for_computing_utilization.iter().filter_map(|name| Metric::parse(name)).collect(),
        slow_start: config.slow_start_config.as_ref().and_then(|it| slow_start(it, &at.field("slow_start_config"))),
    })
}

fn penalty(value: Option<f32>, at: &At<'_>) -> Option<f32> {
    let value = value.unwrap_or(WeightedRoundRobin::default().error_utilization_penalty);
    if value.is_finite() && value >= 0.0 {
        return Some(value);
    }
    at.field("error_utilization_penalty").error(format!("{value} is not a number from 0"));
    None
}

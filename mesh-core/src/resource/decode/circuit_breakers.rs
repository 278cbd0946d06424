//! `CircuitBreakers`: the first thresholds of priority DEFAULT (A32), and those per endpoint (A105).

use mesh_xds_proto::envoy::config::cluster::v3 as proto;
use mesh_xds_proto::envoy::config::cluster::v3::circuit_breakers::{Thresholds, thresholds};
use mesh_xds_proto::envoy::config::core::v3::RoutingPriority;

use super::place::At;
use crate::origin::Sourced;
use crate::resource::circuit_breakers::{CircuitBreakers, RetryBudget};
use crate::resource::verdict::Fields;

/// Envoy's, in force with a `retry_budget` that does not name them.
const BUDGET_PERCENT: f64 = 20.0;
const MIN_RETRY_CONCURRENCY: u32 = 3;

pub(super) fn circuit_breakers(message: Option<&proto::CircuitBreakers>, at: &At<'_>) -> CircuitBreakers {
    let mut breakers = CircuitBreakers { max_requests: CircuitBreakers::DEFAULT_MAX_REQUESTS, ..CircuitBreakers::NONE };
    let Some(message) = message else { return breakers };
    message.judge(at);
    if let Some((thresholds, index)) = of_default_priority("thresholds", &message.thresholds, at) {
        of_cluster(thresholds, &mut breakers, &at.item("thresholds", index));
    }
    if let Some((thresholds, index)) = of_default_priority("per_host_thresholds", &message.per_host_thresholds, at) {
        of_endpoint(thresholds, &mut breakers, &at.item("per_host_thresholds", index));
    }
    breakers
}

/// The first thresholds for calls of priority DEFAULT, as all calls are; the others are listed.
fn of_default_priority<'m>(name: &'static str, all: &'m [Thresholds], at: &At<'_>) -> Option<(&'m Thresholds, usize)> {
    let mut first = None;
    for (index, thresholds) in all.iter().enumerate() {
        if thresholds.priority != RoutingPriority::Default as i32 {
            at.item(name, index).ignored("every call has priority DEFAULT");
        } else if first.is_some() {
            at.item(name, index).ignored("the first of priority DEFAULT counts (A32)");
        } else {
            first = Some((thresholds, index));
        }
    }
    first
}

fn of_cluster(thresholds: &Thresholds, breakers: &mut CircuitBreakers, at: &At<'_>) {
    thresholds.judge(at);
    breakers.max_requests = thresholds.max_requests.map_or(breakers.max_requests, Sourced::xds);
    breakers.max_pending_requests = thresholds.max_pending_requests;
    breakers.max_connections = thresholds.max_connections;
    breakers.max_retries = thresholds.max_retries;
    breakers.retry_budget =
        thresholds.retry_budget.as_ref().map(|budget| retry_budget(budget, &at.field("retry_budget")));
}

fn retry_budget(budget: &thresholds::RetryBudget, at: &At<'_>) -> RetryBudget {
    budget.judge(at);
    let percent = budget.budget_percent.as_ref().map_or(BUDGET_PERCENT, |percent| percent.value);
    if !(0.0..=100.0).contains(&percent) {
        at.field("budget_percent").error(format!("{percent} is not a percentage"));
    }
    RetryBudget { percent, min_concurrency: budget.min_retry_concurrency.unwrap_or(MIN_RETRY_CONCURRENCY) }
}

/// Only `max_connections` can be limited so (A105).
fn of_endpoint(thresholds: &Thresholds, breakers: &mut CircuitBreakers, at: &At<'_>) {
    let Thresholds {
        priority: _,
        max_connections,
        max_pending_requests,
        max_requests,
        max_retries,
        retry_budget,
        track_remaining: _,
        max_connection_pools,
    } = thresholds;
    let others = [
        ("max_pending_requests", max_pending_requests.is_some()),
        ("max_requests", max_requests.is_some()),
        ("max_retries", max_retries.is_some()),
        ("retry_budget", retry_budget.is_some()),
        ("max_connection_pools", max_connection_pools.is_some()),
    ];
    for (name, _) in others.into_iter().filter(|(_, is_set)| *is_set) {
        at.field(name).ignored("per endpoint only `max_connections` is acted on");
    }
    if *max_connections == Some(0) {
        at.field("max_connections").error("must be greater than 0");
    }
    let most = CircuitBreakers::MOST_CONNECTIONS_PER_ENDPOINT;
    breakers.max_connections_per_endpoint = max_connections.map(|connections| connections.min(most) as usize);
}

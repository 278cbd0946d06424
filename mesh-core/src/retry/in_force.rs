//! Which retry policy and which budget hold, for those who ask.

use std::sync::Arc;

use super::RetryLayer;
use super::budget::Limits;
use super::throttle::Throttling;
use crate::origin::{Held, Origin};
use crate::resource::circuit_breakers::RetryBudget;
use crate::resource::cluster::Cluster;
use crate::resource::retry_policy::RetryPolicy;

impl RetryLayer {
    /// What holds for calls of all clusters together.
    pub(crate) fn in_force(&self) -> Held {
        let buffer = self.limits.buffer;
        Held::new("retry_buffer_size", format!("{} bytes", buffer.value), buffer.origin)
    }

    /// What holds for the calls of a route that has this policy from `origin`.
    pub(crate) fn in_force_of_route(&self, policy: Option<&Arc<RetryPolicy>>, origin: Origin) -> Held {
        let (policy, origin) = match (policy, &self.policy) {
            (Some(policy), _) => (policy, origin),
            (None, Some(policy)) => (policy, Origin::Code),
            (None, None) => return Held::new("retry_policy", "none", Origin::Default),
        };
        Held::new("retry_policy", policy, origin)
    }

    /// What holds for the retries to a cluster.
    pub(crate) fn in_force_of_cluster(&self, cluster: &Cluster) -> Vec<Held> {
        let Limits { percent, min_per_second, buffer: _, throttling } = self.limits;
        let budget = format!("{} % of the calls, and {} a second", percent.value, min_per_second.value);
        let breakers = &cluster.circuit_breakers;
        let breaker = match (breakers.retry_budget, breakers.max_retries) {
            (Some(RetryBudget { percent, min_concurrency }), _) => {
                let value = format!("budget_percent {percent}, min_retry_concurrency {min_concurrency}");
                Held::new("circuit_breakers.retry_budget", value, cluster.origin)
            }
            (None, Some(most)) => Held::new("circuit_breakers.max_retries", most, cluster.origin),
            (None, None) => Held::new("circuit_breakers.max_retries", "no limit", Origin::Default),
        };
        let throttling = match throttling.map(Throttling::parts) {
            Some((tokens, ratio)) => {
                let value = format!("max_tokens {tokens}, token_ratio {ratio}");
                Held::new("retry_throttling", value, Origin::Code)
            }
            None => Held::new("retry_throttling", "none", Origin::Default),
        };
        vec![Held::new("retry_budget", budget, percent.origin), throttling, breaker]
    }
}

//! How a cluster is balanced and connected, for those who ask.

use super::active::{outlier_policy, slow_start};
use super::clusters::Clusters;
use super::load::FACTOR;
use crate::connect::Connect;
use crate::origin::{Held, Origin, Sourced};
use crate::profile::Profile;
use crate::resource::cluster::EndpointPolicy;
use crate::snapshot::ClusterConfig;

impl<C: Connect> Clusters<C> {
    /// What holds for all clusters.
    pub(crate) fn in_force(&self) -> Held {
        let wait = self.options().max_wait;
        Held::new("max_wait", format!("{:?}", wait.value), wait.origin)
    }

    /// What holds for a cluster that has endpoints.
    pub(crate) fn in_force_of(&self, config: &ClusterConfig) -> Vec<Held> {
        let mut all = vec![self.policy(config), self.outlier_detection(config)];
        all.extend(self.slow_start(config));
        if self.options().profile == Profile::Envoy {
            all.extend(spill(config));
        }
        let statuses = config.cluster.override_host_status;
        if statuses.origin != Origin::Default {
            all.push(Held::new("common_lb_config.override_host_status", statuses.value, statuses.origin));
        }
        all.extend(self.connections(config));
        all
    }

    fn policy(&self, config: &ClusterConfig) -> Held {
        const NAME: &str = "load_balancing_policy";
        let cluster = &config.cluster;
        match self.options().own_policy(&cluster.name) {
            Some(_) => Held::new(NAME, "the application's own", Origin::Code),
            None => Held::new(NAME, &cluster.balancing, cluster.balanced_by),
        }
    }

    fn outlier_detection(&self, config: &ClusterConfig) -> Held {
        const NAME: &str = "outlier_detection";
        let local = self.options().outlier_detection;
        match outlier_policy(&config.cluster, local.value) {
            (Some(policy), true) => Held::new(NAME, policy, local.origin),
            (Some(policy), false) => Held::new(NAME, policy, config.cluster.origin),
            (None, _) => Held::new(NAME, "none", local.origin),
        }
    }

    /// Of which endpoints the share grows bit by bit, and in what time.
    fn slow_start(&self, config: &ClusterConfig) -> Option<Held> {
        const NAME: &str = "slow_start_config";
        let cluster = &config.cluster;
        let is_named = matches!(cluster.balancing.policy, EndpointPolicy::Named(_));
        let is_own = is_named || self.options().own_policy(&cluster.name).is_some();
        let whose = if is_own { ", unless the application's own policy is sticky" } else { "" };
        if let Some(slow_start) = cluster.balancing.policy.slow_start() {
            let value = format!("slow_start_window {:?}{whose}", slow_start.window());
            return Some(Held::new(NAME, value, cluster.balanced_by));
        }
        let is_sticky = matches!(cluster.balancing.policy, EndpointPolicy::RingHash(_) | EndpointPolicy::Maglev(_));
        let local = self.options().slow_start;
        let (policy, _) = outlier_policy(cluster, self.options().outlier_detection.value);
        let slow_start = slow_start(&policy?, local.value).filter(|_| is_own || !is_sticky)?;
        let value = format!("slow_start_window {:?} after an ejection{whose}", slow_start.window());
        Some(Held::new(NAME, value, local.origin))
    }

    fn connections(&self, config: &ClusterConfig) -> [Held; 7] {
        let registry = self.registry();
        let time = |value: Sourced<_>| Sourced { value: format!("{:?}", value.value), origin: value.origin };
        let number = |value: u64, origin| Sourced { value: value.to_string(), origin };
        let backoff = registry.options.backoff;
        let delays = format!("{:?} to {:?}", backoff.value.initial, backoff.value.max);
        let per_endpoint = registry.connections_per_endpoint(config);
        let pending = registry.max_pending(config);
        let in_all = match config.cluster.circuit_breakers.max_connections {
            Some(most) => number(most.into(), config.cluster.origin),
            None => Sourced::by_default("no limit".to_owned()),
        };
        [
            ("circuit_breakers.max_connections", in_all),
            (
                "circuit_breakers.per_host_thresholds.max_connections",
                number(per_endpoint.value as u64, per_endpoint.origin),
            ),
            ("circuit_breakers.max_pending_requests", number(pending.value.into(), pending.origin)),
            ("backoff", Sourced { value: delays, origin: backoff.origin }),
            ("connect_timeout", time(registry.connect_timeout(config))),
            ("failover_timeout", time(registry.options.failover_timeout)),
            ("idle_timeout", time(registry.options.idle_timeout)),
        ]
        .map(|(name, value)| Held { name: name.into(), value })
    }
}

/// What is acted on in Envoy's profile alone.
fn spill(config: &ClusterConfig) -> [Held; 2] {
    let panic = config.cluster.panic_threshold;
    let factor = match config.endpoints.overprovisioning {
        Some(factor) => Sourced::xds(factor),
        None => Sourced::by_default(FACTOR),
    };
    [
        Held::new("common_lb_config.healthy_panic_threshold", format!("{} %", panic.value), panic.origin),
        Held::new("overprovisioning_factor", format!("{} %", factor.value), factor.origin),
    ]
}

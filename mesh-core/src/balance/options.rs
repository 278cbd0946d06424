//! What can be set about balancing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::policy::{OwnPolicy, PolicyFactory};
use super::zones::LocalCluster;
use crate::backoff::{BackoffConfig, bounded};
use crate::origin::Sourced;
use crate::profile::Profile;

/// How long what is not needed any more keeps its connections: a lower priority, or a leaf of an aggregate (A56).
pub(super) const RETENTION: Duration = Duration::from_secs(15 * 60);

/// How endpoints are connected, and how long calls wait for them.
///
/// ```
/// use std::time::Duration;
///
/// let options = mesh_core::balance::BalanceOptions::new().max_wait(Duration::from_secs(5)).max_connections(2);
/// ```
#[derive(Clone, Debug)]
pub struct BalanceOptions {
    pub(crate) connect_timeout: Sourced<Duration>,
    pub(crate) backoff: Sourced<BackoffConfig>,
    pub(crate) max_connections: Sourced<usize>,
    pub(crate) max_pending: Sourced<u32>,
    pub(crate) max_wait: Sourced<Duration>,
    pub(crate) idle_timeout: Sourced<Duration>,
    pub(crate) failover_timeout: Sourced<Duration>,
    policy: Option<OwnPolicy>,
    policies: HashMap<Arc<str>, OwnPolicy>,
    pub(crate) profile: Profile,
    pub(crate) outlier_detection: Sourced<bool>,
    pub(crate) slow_start: Sourced<Duration>,
    /// A mesh finds it by its builder's `local_cluster`.
    pub(crate) local_cluster: Option<Arc<LocalCluster>>,
    /// A mesh takes its builder's.
    #[cfg(feature = "tls")]
    pub(crate) floor: crate::tls::SecurityFloor,
}

impl Default for BalanceOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Sourced::by_default(Duration::from_secs(5)),
            backoff: Sourced::by_default(BackoffConfig::default()),
            max_connections: Sourced::by_default(1),
            max_pending: Sourced::by_default(1024),
            max_wait: Sourced::by_default(Duration::from_secs(20)),
            idle_timeout: Sourced::by_default(Duration::from_secs(30 * 60)),
            failover_timeout: Sourced::by_default(Duration::from_secs(10)),
            policy: None,
            policies: HashMap::new(),
            profile: Profile::default(),
            outlier_detection: Sourced::by_default(true),
            slow_start: Sourced::by_default(Duration::from_secs(10)),
            local_cluster: None,
            #[cfg(feature = "tls")]
            floor: Default::default(),
        }
    }
}

impl BalanceOptions {
    /// Options with every default.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long one attempt to connect may take, where the cluster's configuration does not say. Default 5 s: within 1 s
    /// a lost SYN is not even sent again.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Sourced::code(bounded(timeout));
        self
    }

    /// The delay after the first failed attempt and the longest one; in between it grows by 1.6, and each is up to 20 %
    /// longer or shorter. Default 1 s and 120 s, as gRPC's.
    pub fn backoff(mut self, initial: Duration, max: Duration) -> Self {
        let config = BackoffConfig { initial: bounded(initial), max: bounded(max), ..self.backoff.value };
        self.backoff = Sourced::code(config);
        self
    }

    /// Connections to one endpoint, at least 1: when all slots of those open are taken, one more is opened (A105).
    /// Default 1.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = Sourced::code(connections.max(1));
        self
    }

    /// Calls of one cluster that may wait at a time; the next fails. Default 1,024.
    pub fn max_pending(mut self, calls: u32) -> Self {
        self.max_pending = Sourced::code(calls);
        self
    }

    /// How long a call without a deadline waits in all, over all its attempts, before it is sent: for its first
    /// configuration, an endpoint and a slot. A call with a deadline waits until then. Default 20 s.
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = Sourced::code(bounded(wait));
        self
    }

    /// Whether an endpoint that resets five calls or loses five connections in a row, with no answer in between, takes no
    /// calls for 10 s, then 20 s, and so on; at most 30 % of the endpoints of a priority, and never the last one. It holds
    /// for clusters whose control plane sends no `outlier_detection`. Default: yes.
    pub fn outlier_detection(mut self, on: bool) -> Self {
        self.outlier_detection = Sourced::code(on);
        self
    }

    /// In this time at most, or in the `base_ejection_time` if that is shorter, an endpoint that was ejected gets back its
    /// share of the calls: a tenth of it at first, then evenly more. It holds for clusters whose control plane sends no
    /// `slow_start_config`, and not where the same key is to stay at the same endpoint, nor with a policy of your own that
    /// chooses the same again when it [is asked again](super::Policy::pick). Default 10 s; 0: all at once.
    pub fn slow_start(mut self, window: Duration) -> Self {
        self.slow_start = Sourced::code(bounded(window));
        self
    }

    /// A cluster without calls for this long closes its connections; the next call opens them again. It is looked for
    /// twice in that time, so it may take half as long again. Default 30 min.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = Sourced::code(bounded(timeout));
        self
    }

    /// Balances every cluster by a policy of your own, whatever the control plane says; localities still share by their
    /// weights where it says so, and endpoints that are new start slowly where it says so, unless the policy
    /// [is sticky](super::Policy::is_sticky). [`PeakEwma`](super::PeakEwma) is one. Default: what the control plane says.
    pub fn policy(mut self, policy: impl PolicyFactory) -> Self {
        self.policy = Some(OwnPolicy(Arc::new(policy)));
        self
    }

    /// Balances the cluster of this name by a policy of your own; it goes before [`policy`](Self::policy).
    pub fn policy_of(mut self, cluster: impl Into<Arc<str>>, policy: impl PolicyFactory) -> Self {
        self.policies.insert(cluster.into(), OwnPolicy(Arc::new(policy)));
        self
    }

    /// The application's policy for this cluster.
    pub(crate) fn own_policy(&self, cluster: &str) -> Option<&OwnPolicy> {
        self.policies.get(cluster).or(self.policy.as_ref())
    }

    /// Clusters that fall below it are not used.
    #[cfg(feature = "tls")]
    pub(crate) fn floor(mut self, floor: crate::tls::SecurityFloor) -> Self {
        self.floor = floor;
        self
    }

    /// Where this process is, and where its like are.
    pub(crate) fn local_cluster(mut self, local: Option<Arc<LocalCluster>>) -> Self {
        self.local_cluster = local;
        self
    }

    /// Whose rules hold where gRPC and Envoy differ: the layer's or the mesh's own say.
    pub(crate) fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// How long a priority may take to connect before the next one is tried (A56), and so how long calls wait for a
    /// cluster that connects. Default 10 s.
    pub fn failover_timeout(mut self, timeout: Duration) -> Self {
        self.failover_timeout = Sourced::code(bounded(timeout));
        self
    }
}

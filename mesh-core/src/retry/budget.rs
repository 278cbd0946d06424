//! How many retries a cluster may get, whatever the policies of its routes say.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tower::retry::budget::{Budget as _, TpsBudget};

use crate::snapshot::{ClusterEntry, ClusterKey};

/// How long a call counts.
const WINDOW: Duration = Duration::from_secs(10);

/// The budgets of all clusters, by name; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Budgets(Arc<Registry>);

#[derive(Debug)]
struct Registry {
    /// One retry for so many calls; `None`: none for any.
    calls_per_retry: Option<u32>,
    min_per_second: u32,
    clusters: Mutex<HashMap<ClusterKey, Arc<Budget>>>,
}

/// The budget of one cluster. A cluster's entry keeps it, so that a call finds it without the registry's lock.
struct Budget {
    owner: Weak<Registry>,
    tokens: TpsBudget,
}

impl Budgets {
    pub(crate) fn new(percent: u32, min_per_second: u32) -> Self {
        let calls_per_retry = (percent > 0).then(|| 100_u32.div_ceil(percent));
        Self(Arc::new(Registry { calls_per_retry, min_per_second, clusters: Mutex::default() }))
    }

    /// A call to the cluster earns a part of a retry.
    pub(super) fn deposit(&self, cluster: &ClusterEntry) {
        self.with(cluster, TpsBudget::deposit);
    }

    /// Whether one more retry is allowed; it is paid for.
    pub(super) fn withdraw(&self, cluster: &ClusterEntry) -> bool {
        self.with(cluster, TpsBudget::withdraw)
    }

    fn with<T>(&self, cluster: &ClusterEntry, then: impl FnOnce(&TpsBudget) -> T) -> T {
        let attached = cluster.retry_budget.get_or_init(|| self.0.budget(&cluster.key));
        match attached.filter(|budget: &&Budget| budget.owner.as_ptr() == Arc::as_ptr(&self.0)) {
            Some(budget) => then(&budget.tokens),
            // An entry made in code, which another mesh used first.
            None => then(&self.0.budget(&cluster.key).tokens),
        }
    }
}

impl Registry {
    fn budget(self: &Arc<Self>, key: &ClusterKey) -> Arc<Budget> {
        let mut clusters = self.clusters.lock();
        if let Some(budget) = clusters.get(key) {
            return budget.clone();
        }
        if clusters.len() == clusters.capacity() {
            // Clusters come and go: before the map grows, it lets go of those that no snapshot has any more.
            clusters.retain(|_, budget| Arc::strong_count(budget) > 1);
        }
        let budget = Arc::new(Budget { owner: Arc::downgrade(self), tokens: self.tokens() });
        clusters.insert(key.clone(), budget.clone());
        budget
    }

    fn tokens(&self) -> TpsBudget {
        // The budget takes a share and makes whole calls of it, rounded down: half a call more than meant is that many.
        let share =
            self.calls_per_retry.map_or(0.0, |calls| 1.0 / (f32::from(u16::try_from(calls).unwrap_or(100)) + 0.5));
        TpsBudget::new(WINDOW, self.min_per_second.min(1_000_000), share)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

//! How many retries a cluster may get, whatever the policies of its routes say, and how many bytes may be held for them.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tower::retry::budget::{Budget as _, TpsBudget};

use crate::snapshot::{ClusterEntry, ClusterKey};

/// How long a call counts.
const WINDOW: Duration = Duration::from_secs(10);

/// What retries are held to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// So many retries for each hundred calls.
    pub(super) percent: u32,
    /// And so many more each second.
    pub(super) min_per_second: u32,
    /// Bytes of all requests together that are held for sending them again.
    pub(super) buffer: usize,
}

impl Limits {
    pub(super) const DEFAULT: Self = Self { percent: 20, min_per_second: 10, buffer: 16 << 20 };
}

/// The budgets of all clusters, by name; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Budgets(Arc<Registry>);

#[derive(Debug)]
struct Registry {
    limits: Limits,
    held: AtomicUsize,
    clusters: Mutex<HashMap<ClusterKey, Arc<Budget>>>,
    /// Of calls that no layer chose a cluster for.
    others: TpsBudget,
}

/// The budget of one cluster. A cluster's entry keeps it, so that a call finds it without the registry's lock.
struct Budget {
    owner: Weak<Registry>,
    tokens: TpsBudget,
}

impl Budgets {
    pub(super) fn new(limits: Limits) -> Self {
        let (held, clusters) = (AtomicUsize::new(0), Mutex::default());
        Self(Arc::new(Registry { limits, held, clusters, others: limits.tokens() }))
    }

    /// A call to the cluster earns a part of a retry.
    pub(super) fn deposit(&self, cluster: Option<&ClusterEntry>) {
        self.with(cluster, TpsBudget::deposit);
    }

    /// Whether one more retry is allowed; it is paid for.
    pub(super) fn withdraw(&self, cluster: Option<&ClusterEntry>) -> bool {
        self.with(cluster, TpsBudget::withdraw)
    }

    /// Whether so many bytes more may be held; they are, until [`release`](Self::release).
    pub(super) fn hold(&self, bytes: usize) -> bool {
        let held = self.0.held.fetch_add(bytes, Ordering::Relaxed);
        let fits = held.saturating_add(bytes) <= self.0.limits.buffer;
        if !fits {
            self.release(bytes);
        }
        fits
    }

    pub(super) fn release(&self, bytes: usize) {
        if bytes > 0 {
            self.0.held.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    fn with<T>(&self, cluster: Option<&ClusterEntry>, then: impl FnOnce(&TpsBudget) -> T) -> T {
        let Some(cluster) = cluster else { return then(&self.0.others) };
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
        let budget = Arc::new(Budget { owner: Arc::downgrade(self), tokens: self.limits.tokens() });
        clusters.insert(key.clone(), budget.clone());
        budget
    }
}

impl Limits {
    fn tokens(self) -> TpsBudget {
        // The budget takes a share and makes whole calls of it, rounded down: half a call more than meant is that many.
        let share = match self.percent {
            0 => 0.0,
            percent => 1.0 / (f32::from(u16::try_from(100_u32.div_ceil(percent)).unwrap_or(100)) + 0.5),
        };
        TpsBudget::new(WINDOW, self.min_per_second.min(1_000_000), share)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

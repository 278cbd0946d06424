//! How many retries a cluster may get, whatever the policies of its routes say, and how many bytes may be held for them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tower::retry::budget::{Budget as _, TpsBudget};

use super::throttle::{Throttle, Throttling};
use super::under_way::{Held, UnderWay};
use crate::origin::Sourced;
use crate::snapshot::{ClusterEntry, ClusterKey};

/// How long a call counts.
const WINDOW: Duration = Duration::from_secs(10);

/// What retries are held to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// So many retries for each hundred calls.
    pub(super) percent: Sourced<u32>,
    /// And so many more each second.
    pub(super) min_per_second: Sourced<u32>,
    /// Bytes of all requests together that are held for sending them again.
    pub(super) buffer: Sourced<usize>,
    /// Made in code: no control plane has a word for it.
    pub(super) throttling: Option<Throttling>,
}

impl Limits {
    pub(super) const DEFAULT: Self = Self {
        percent: Sourced::by_default(20),
        min_per_second: Sourced::by_default(10),
        buffer: Sourced::by_default(16 << 20),
        throttling: None,
    };
}

/// The budgets of all clusters, by name; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Budgets(Arc<Registry>);

#[derive(Debug)]
struct Registry {
    limits: Limits,
    held: Held,
    clusters: Mutex<HashMap<ClusterKey, Arc<Budget>>>,
    /// Of calls that no layer chose a cluster for.
    others: Arc<Budget>,
}

/// The budget of one cluster. A cluster's entry keeps it, so that a call finds it without the registry's lock.
pub(super) struct Budget {
    me: Weak<Self>,
    owner: Weak<Registry>,
    tokens: TpsBudget,
    throttle: Option<Throttle>,
    under_way: UnderWay,
}

/// A call under way, which counts in its cluster's budget.
#[derive(Debug)]
pub(super) struct Account {
    budget: Arc<Budget>,
    /// Its retries under way.
    retries: u32,
}

impl Budgets {
    pub(super) fn new(limits: Limits) -> Self {
        Self(Arc::new_cyclic(|registry| Registry {
            limits,
            held: Held::default(),
            clusters: Mutex::default(),
            others: Budget::new(registry.clone(), limits),
        }))
    }

    pub(super) fn of(&self, cluster: Option<&ClusterEntry>) -> Arc<Budget> {
        let Some(cluster) = cluster else { return self.0.others.clone() };
        let attached: Option<&Budget> = cluster.retry_budget.get_or_init(|| self.0.budget(&cluster.key));
        let own = attached.filter(|budget| budget.owner.as_ptr() == Arc::as_ptr(&self.0));
        // An entry made in code may belong to another mesh, which used it first.
        own.and_then(|budget| budget.me.upgrade()).unwrap_or_else(|| self.0.budget(&cluster.key))
    }

    /// Whether so many bytes more may be held; they are, until [`release`](Self::release).
    pub(super) fn hold(&self, bytes: usize) -> bool {
        self.0.held.hold(bytes, self.0.limits.buffer.value)
    }

    pub(super) fn release(&self, bytes: usize) {
        if bytes > 0 {
            self.0.held.release(bytes);
        }
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.0.held.bytes()
    }
}

impl Account {
    /// The call earns a part of a retry.
    pub(super) fn open(budget: Arc<Budget>) -> Self {
        budget.tokens.deposit();
        budget.under_way.begin_call();
        Self { budget, retries: 0 }
    }

    /// Whether one more retry is allowed; it is paid for, and under way. `most`: how many may be, of so many calls.
    pub(super) fn withdraw(&mut self, most: impl FnOnce(u32) -> u32) -> bool {
        let Budget { tokens, throttle, under_way, .. } = &*self.budget;
        if throttle.as_ref().is_some_and(|throttle| !throttle.allows()) || !under_way.begin_retry(most) {
            return false;
        }
        let is_paid = tokens.withdraw();
        match is_paid {
            true => self.retries += 1,
            false => under_way.end_retries(1),
        }
        is_paid
    }

    /// What counts failures against successes, if anything does.
    pub(super) fn throttle(&self) -> Option<&Throttle> {
        self.budget.throttle.as_ref()
    }

    /// The retries so far are over.
    pub(super) fn end_retries(&mut self) {
        self.budget.under_way.end_retries(std::mem::take(&mut self.retries));
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.end_retries();
        self.budget.under_way.end_call();
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
        let budget = Budget::new(Arc::downgrade(self), self.limits);
        clusters.insert(key.clone(), budget.clone());
        budget
    }
}

impl Budget {
    fn new(owner: Weak<Registry>, limits: Limits) -> Arc<Self> {
        let throttle = limits.throttling.map(Throttle::new);
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            owner,
            tokens: limits.tokens(),
            throttle,
            under_way: UnderWay::default(),
        })
    }
}

impl Limits {
    fn tokens(self) -> TpsBudget {
        // The budget takes a share and makes whole calls of it, rounded down: half a call more than meant is that many.
        let share = match self.percent.value {
            0 => 0.0,
            percent => 1.0 / (f32::from(u16::try_from(100_u32.div_ceil(percent)).unwrap_or(100)) + 0.5),
        };
        TpsBudget::new(WINDOW, self.min_per_second.value.min(1_000_000), share)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

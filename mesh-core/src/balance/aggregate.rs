//! Aggregate clusters (A37): the first leaf that can take calls takes them, by the rules of priorities (A56).
//!
//! A leaf is a cluster like any other, with endpoints, priorities and a policy of its own (A75), shared with those who
//! call it directly. What is kept here is which of them takes the aggregate's calls. It has no task and no timer: each
//! leaf says when its connectivity changed, and its own failover timer ends the hope for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::balancer::Balancer;
use super::clusters::Registry;
use super::options::RETENTION;
use super::priority::{Choice, Priorities};
use super::watchers::Watchers;
use crate::connect::{Connect, ConnectivityState};
use crate::snapshot::{ClusterEntry, CurrentLeaf};

/// The leaves end the hope for them themselves, so no timer runs here: this is longer than a process lives, and a clock can express it.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The running state of one aggregate cluster.
pub(crate) struct Aggregate<C: Connect> {
    pub(crate) registry: Weak<Registry<C>>,
    /// What the entries of this aggregate read.
    pub(crate) current: Arc<CurrentLeaf>,
    balancer: ArcSwap<Balancer<C>>,
    /// Another leaf takes the calls.
    pub(crate) changed: Notify,
    /// Who hears of each change of its connectivity, which is that of the leaf in use.
    watchers: Arc<Watchers>,
    /// Whether a call came since the housekeeping last looked.
    used: AtomicBool,
    me: Weak<Self>,
    state: Mutex<State<C>>,
}

/// A leaf and its running state.
pub(crate) type Leaf<C> = (Arc<ClusterEntry>, Arc<Balancer<C>>);

struct State<C: Connect> {
    /// At least one.
    leaves: Vec<Leaf<C>>,
    /// Place of the one that takes the calls.
    place: usize,
    priorities: Priorities,
    /// Whether leaves are connected for this aggregate.
    active: bool,
    /// Since when the housekeeping found no call.
    quiet_since: Option<Instant>,
}

impl<C: Connect> Aggregate<C> {
    /// An aggregate that connects nothing yet; `first` is its first leaf.
    pub(crate) fn new(first: &Leaf<C>, watchers: Arc<Watchers>, registry: &Registry<C>) -> Arc<Self> {
        let (entry, balancer) = first;
        let priorities = Priorities::new(NEVER, RETENTION);
        let leaves = vec![first.clone()];
        Arc::new_cyclic(|me| Self {
            registry: registry.weak(),
            current: Arc::new(ArcSwap::new(entry.clone())),
            balancer: ArcSwap::new(balancer.clone()),
            changed: Notify::new(),
            watchers,
            used: AtomicBool::new(false),
            me: me.clone(),
            state: Mutex::new(State { leaves, place: 0, priorities, active: false, quiet_since: None }),
        })
    }

    /// This aggregate, shared; `None` while it is being dropped.
    pub(crate) fn arc(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    /// The leaf that takes the calls.
    pub(crate) fn balancer(&self) -> Arc<Balancer<C>> {
        self.balancer.load_full()
    }

    /// The leaves, in order.
    pub(crate) fn leaves(&self) -> Vec<Leaf<C>> {
        self.state.lock().leaves.clone()
    }

    /// Takes in the leaves of a new configuration. Those that stay keep their place in the choice; those that left are
    /// let go of at once (A115).
    pub(crate) fn update(&self, leaves: Vec<Leaf<C>>) {
        // Before they are here: a leaf that changes meanwhile must not be missed, as its state is read below.
        leaves.iter().for_each(|(_, balancer)| balancer.tell(&self.me));
        let mut state = self.state.lock();
        let place_before =
            |(_, balancer): &Leaf<C>| state.leaves.iter().position(|(_, old)| Arc::ptr_eq(old, balancer));
        let from: Vec<_> = leaves.iter().map(place_before).collect();
        state.place = from.iter().position(|from| *from == Some(state.place)).unwrap_or(0);
        state.priorities.rearrange(&from);
        let old = std::mem::replace(&mut state.leaves, leaves);
        self.choose(&mut state);
        drop(state);
        // Outside the lock: a leaf may end with it.
        drop(old);
    }

    /// A call came: from now on the leaves that it may need are connected.
    pub(crate) fn activate(&self) {
        if self.used.load(Ordering::Relaxed) {
            return;
        }
        self.used.store(true, Ordering::Relaxed);
        let mut state = self.state.lock();
        if !state.active {
            state.active = true;
            self.choose(&mut state);
        }
    }

    /// The connectivity of a leaf changed, or is about to.
    pub(crate) fn leaf_changed(&self) {
        self.choose(&mut self.state.lock());
        self.watchers.notify();
    }

    /// Chooses the leaf that takes the calls, connecting those that it takes to find one.
    fn choose(&self, state: &mut State<C>) {
        let State { leaves, priorities, .. } = state;
        let now = Instant::now();
        for place in priorities.created() {
            priorities.handle_state(place, leaves[place].1.connectivity_now(), now);
        }
        while state.active {
            match state.priorities.choose(now) {
                Choice::Create(place) => self.create(state, place, now),
                Choice::Use { priority, .. } => {
                    state.place = priority;
                    break;
                }
                Choice::None => break,
            }
        }
        self.publish(&state.leaves[state.place]);
    }

    fn create(&self, state: &mut State<C>, place: usize, now: Instant) {
        state.priorities.handle_created(place, now);
        let balancer = &state.leaves[place].1;
        match balancer.connectivity_now() {
            ConnectivityState::Idle => self.connect(balancer.clone()),
            connectivity => state.priorities.handle_state(place, connectivity, now),
        }
    }

    /// In a task: whoever tells of a leaf's state holds its lock, and may wait for the lock held here.
    fn connect(&self, leaf: Arc<Balancer<C>>) {
        // After the shutdown calls fail without it.
        if let Some(runtime) = self.registry.upgrade().and_then(|registry| registry.runtime().ok()) {
            runtime.spawn(async move { leaf.activate() });
        }
    }

    fn publish(&self, (entry, balancer): &Leaf<C>) {
        if !Arc::ptr_eq(&self.current.load(), entry) {
            self.current.store(entry.clone());
        }
        if !Arc::ptr_eq(&self.balancer.load(), balancer) {
            self.balancer.store(balancer.clone());
            self.changed.notify_waiters();
            // Its connectivity is now that of another leaf.
            self.watchers.notify();
        }
    }

    /// Keeps the leaves above the one in use connected as long as calls come, so that it is known when one returns, and
    /// those below it for their retention.
    pub(crate) fn housekeep(&self, now: Instant, idle_timeout: Duration) {
        // Whoever tells of a leaf's state holds its lock, and may wait for the lock held here: it is asked without that.
        let leaf = {
            let state = self.state.lock();
            if !state.active {
                return;
            }
            state.leaves[state.place].1.clone()
        };
        let called = self.used.swap(false, Ordering::Relaxed) || leaf.in_flight() > 0;
        let mut state = self.state.lock();
        if !state.active {
            return;
        }
        state.quiet_since = state.quiet_since.filter(|_| !called).or(Some(now));
        if state.quiet_since.is_some_and(|since| now.duration_since(since) >= idle_timeout) {
            state.active = false;
            state.priorities.forget();
            return;
        }
        state.priorities.expire(now);
        for place in state.priorities.created() {
            state.leaves[place].1.keep_connected();
        }
    }
}

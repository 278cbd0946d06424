//! The owner of one cluster's running state: keeps its endpoints connected and publishes the picker.
//!
//! All of it happens under the cluster's own lock, in whatever task has news: the publisher of a configuration, the
//! driver of a subchannel, a timer. No call takes the lock while endpoints are ready.

mod sweep;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::active::{Active, Outlook};
use super::aggregate::Aggregate;
use super::clusters::Registry;
use super::error;
use super::outlier::EjectionCounts;
use super::picker::{Blocked, Picked, Picker};
use super::policy::PickRequest;
use super::sessions::{SessionEndpoints, Sessions};
use super::status::{EndpointReport, statuses};
use super::summary::Summary;
use super::ticker::Ticker;
use super::watchers::Watchers;
use crate::connect::{Connect, ConnectivityState, Criteria, Environment, Limits, Observer, SlotQueue, Streak};
use crate::error::Error;
use crate::resource::endpoints::Address;
use crate::snapshot::{ClusterConfig, ClusterEntry, ClusterKey};

/// A rebuild of the picker costs some 50 ns an endpoint; this much pause for each keeps it below a tenth of a core while
/// thousands of endpoints connect one by one.
const PAUSE_PER_ENDPOINT: Duration = Duration::from_nanos(500);
/// Up to this many endpoints the picker is rebuilt on the spot.
const SMALL: usize = 64;

/// One cluster.
pub(crate) struct Balancer<C: Connect> {
    pub(crate) key: ClusterKey,
    pub(crate) registry: Weak<Registry<C>>,
    picker: ArcSwap<Picker<C>>,
    /// Whether a call came since the housekeeping last looked.
    used: AtomicBool,
    /// The calls that wait for a slot.
    pub(crate) queue: Arc<SlotQueue>,
    /// Calls that wait, for whatever.
    pub(crate) pending: AtomicU32,
    /// How many of them there may be.
    pub(crate) max_pending: AtomicU32,
    /// The picker was replaced.
    pub(crate) changed: Notify,
    /// Who hears of each change of its connectivity.
    watchers: Arc<Watchers>,
    me: Weak<Self>,
    /// That of [`State`], for those who must not wait for its lock.
    connectivity_now: Mutex<ConnectivityState>,
    /// Made when the first endpoint is an outlier.
    ejections: OnceLock<Box<EjectionCounts>>,
    sessions: OnceLock<Sessions<C>>,
    state: Mutex<State<C>>,
}

struct State<C: Connect> {
    config: ClusterConfig,
    /// The number of the entry that the configuration is from.
    number: u64,
    connectivity: ConnectivityState,
    /// The aggregates of which this is a leaf.
    aggregates: Vec<Weak<Aggregate<C>>>,
    active: Option<Box<Active<C>>>,
    /// Since when the housekeeping found no call.
    quiet_since: Option<Instant>,
    #[cfg(test)]
    rebuilds: usize,
    /// When the picker was last rebuilt.
    rebuilt: Option<Instant>,
    /// A rebuild for changed endpoints is on its way.
    scheduled: bool,
    /// The last rebuild was for a READY endpoint of a priority that calls do not use.
    in_vain: bool,
    failover: Option<(Instant, AbortHandle)>,
    /// When the interval of outlier detection is over.
    sweep: Option<(Instant, AbortHandle)>,
    /// What calls that fail say of the endpoints.
    summary: Option<Arc<Summary>>,
    ticker: Option<Ticker>,
}

impl<C: Connect> Balancer<C> {
    /// The entry's cluster, of which nothing is connected.
    pub(crate) fn new(entry: &ClusterEntry, config: ClusterConfig, registry: &Arc<Registry<C>>) -> Arc<Self> {
        let max_pending = registry.max_pending(&config).value;
        let state = State {
            config,
            number: entry.number,
            connectivity: ConnectivityState::Idle,
            aggregates: Vec::new(),
            active: None,
            quiet_since: None,
            #[cfg(test)]
            rebuilds: 0,
            rebuilt: None,
            scheduled: false,
            in_vain: false,
            failover: None,
            sweep: None,
            summary: None,
            ticker: None,
        };
        Arc::new_cyclic(|me| Self {
            key: entry.key.clone(),
            registry: Arc::downgrade(registry),
            picker: ArcSwap::new(registry.idle.clone()),
            used: AtomicBool::new(false),
            queue: Arc::default(),
            pending: AtomicU32::new(0),
            max_pending: AtomicU32::new(max_pending),
            changed: Notify::new(),
            watchers: registry.watchers(&entry.key),
            me: me.clone(),
            connectivity_now: Mutex::new(ConnectivityState::Idle),
            ejections: OnceLock::new(),
            sessions: OnceLock::new(),
            state: Mutex::new(state),
        })
    }

    /// This cluster, shared; `None` while it is being dropped.
    pub(crate) fn arc(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    /// The way of every call: no lock, no allocation.
    pub(crate) fn pick(&self, request: &PickRequest<'_>) -> Result<Picked<C>, Blocked> {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        if let Some(session) = request.session
            && let Some(outcome) = self.pick_session(session)
        {
            return outcome;
        }
        self.picker.load().pick(request)
    }

    /// Whether the policy is to know how long calls take.
    pub(super) fn times_calls(&self) -> bool {
        self.picker.load().times_calls()
    }

    /// The endpoints that may have sessions.
    pub(super) fn sessions(&self) -> &Sessions<C> {
        if let Some(known) = self.sessions.get() {
            return known;
        }
        // Under the lock, so that no change falls in between.
        let state = self.state.lock();
        self.sessions.get_or_init(|| ArcSwap::from_pointee(state.session_endpoints()))
    }

    /// Connects an endpoint that has a session. `false`: it may have none.
    pub(super) fn connect_for_session(&self, address: &Address) -> bool {
        let mut state = self.state.lock();
        let connects = state.active.as_mut().is_some_and(|active| active.connect_for_session(address));
        if connects {
            self.rebuild(&mut state);
        }
        connects
    }

    /// Takes in the configuration of an entry, if it is a newer one; only what changed is touched.
    pub(crate) fn update(&self, entry: &ClusterEntry, config: &ClusterConfig) {
        let mut state = self.state.lock();
        let same = Arc::ptr_eq(&state.config.cluster, &config.cluster)
            && Arc::ptr_eq(&state.config.endpoints, &config.endpoints);
        // A call may still have an entry of before.
        let is_older = entry.number < state.number;
        state.number = state.number.max(entry.number);
        if same || is_older {
            return;
        }
        state.config = config.clone();
        if let Some(registry) = self.registry.upgrade() {
            self.max_pending.store(registry.max_pending(config).value, Ordering::Relaxed);
        }
        if let (Some(active), Some(registry)) = (&mut state.active, self.registry.upgrade()) {
            *active.environment.limits.lock() = registry.limits(config);
            active.update(config.clone());
            self.rebuild(&mut state);
            self.arm_sweep(&mut state);
        }
    }

    #[cfg(test)]
    pub(crate) fn rebuilds(&self) -> usize {
        self.state.lock().rebuilds
    }

    pub(crate) fn is_active(&self) -> bool {
        self.state.lock().active.is_some()
    }

    /// Connects, if that was not done yet.
    pub(crate) fn activate(&self) -> Result<(), Error> {
        let registry = self.registry.upgrade().ok_or_else(Error::shut_down)?;
        self.used.store(true, Ordering::Relaxed);
        let mut state = self.state.lock();
        if state.active.is_none() {
            // Fails after the shutdown. Asked under the lock: a shutdown that comes later finds the cluster active.
            let handle = registry.runtime()?;
            let environment = self.environment(&registry, registry.limits(&state.config), handle);
            state.active = Some(Box::new(Active::new(state.config.clone(), environment, &registry.options)));
            self.rebuild(&mut state);
        }
        Ok(())
    }

    /// Connects what is not connected because no call came.
    pub(crate) fn exit_idle(&self) -> Result<(), Error> {
        self.activate()?;
        let mut state = self.state.lock();
        if let Some(active) = &mut state.active
            && active.exit_idle(Instant::now())
        {
            self.rebuild(&mut state);
        }
        Ok(())
    }

    /// The callers are spread otherwise over the zones.
    pub(crate) fn local_cluster_changed(&self) {
        let mut state = self.state.lock();
        if state.active.as_ref().is_some_and(|active| active.zone_aware().is_some()) {
            self.rebuild(&mut state);
        }
    }

    fn environment(&self, registry: &Registry<C>, limits: Limits, handle: Handle) -> Arc<Environment<C>> {
        let observer: Weak<dyn Observer> = self.me.clone();
        Arc::new(Environment {
            connector: registry.connector.clone(),
            leaving: registry.leaving.clone(),
            cluster: self.key.name.clone(),
            backoff: registry.options.backoff.value,
            limits: Mutex::new(limits),
            handle,
            queue: self.queue.clone(),
            criteria: Arc::new(Criteria::new(observer.clone())),
            observer,
        })
    }

    /// Chooses the priority again and publishes a new picker.
    fn rebuild(&self, state: &mut State<C>) {
        let now = Instant::now();
        let Some(active) = &mut state.active else { return };
        let outlook = active.choose(now);
        state.rebuilt = Some(now);
        state.in_vain = false;
        #[cfg(test)]
        {
            state.rebuilds += 1;
        }
        self.arm_failover(state, now);
        self.arm_ticker(state);
        self.publish(state, outlook);
    }

    fn publish(&self, state: &mut State<C>, outlook: Outlook<C>) {
        // Of a large cluster it is renewed in its own time.
        if state.active.as_ref().is_none_or(|active| active.len() <= SMALL) {
            state.summary = None;
        }
        let news = std::mem::replace(&mut state.connectivity, outlook.state) != outlook.state;
        *self.connectivity_now.lock() = outlook.state;
        let aggregates = if news { &state.aggregates[..] } else { &[] };
        let tell = || aggregates.iter().filter_map(Weak::upgrade).for_each(|aggregate| aggregate.leaf_changed());
        // An aggregate sends its calls elsewhere before they would fail here, and here once they would not.
        let fails = matches!(outlook.picker, Picker::Failing | Picker::Shutdown);
        if fails {
            tell();
        }
        self.picker.store(Arc::new(outlook.picker));
        if let Some(sessions) = self.sessions.get() {
            sessions.store(Arc::new(state.session_endpoints()));
        }
        if !fails {
            tell();
        }
        self.changed.notify_waiters();
        if news {
            self.watchers.notify();
        }
    }

    /// A timer that lives until the next priority is due, not a task of the cluster.
    fn arm_failover(&self, state: &mut State<C>, now: Instant) {
        let Some(active) = &state.active else { return };
        let due = active.next_failover(now);
        if state.failover.as_ref().map(|(armed, _)| *armed) == due {
            return;
        }
        if let Some((_, timer)) = state.failover.take() {
            timer.abort();
        }
        if let Some(due) = due {
            // Another may have been armed since.
            let fired = move |state: &mut State<C>| drop(state.failover.take_if(|(armed, _)| *armed == due));
            let timer = self.rebuild_at(&active.environment.handle, due, fired);
            state.failover = Some((due, timer));
        }
    }

    /// Only a cluster in use whose policy asks for the time has a ticker.
    fn arm_ticker(&self, state: &mut State<C>) {
        let Some(active) = &state.active else { return };
        let period = active.tick_period();
        if state.ticker.as_ref().map(Ticker::period) != period {
            let start = |period| Ticker::start(self.me.clone(), period, &active.environment.handle);
            state.ticker = period.map(start);
        }
    }

    /// It is time to tell the policies the time.
    pub(crate) fn handle_tick(&self, now: Instant) {
        self.picker.load().handle_tick(now);
    }

    /// Starts a timer that notes that it `fired`, and rebuilds.
    fn rebuild_at(
        &self,
        handle: &Handle,
        due: Instant,
        fired: impl FnOnce(&mut State<C>) + Send + 'static,
    ) -> AbortHandle {
        let me = self.me.clone();
        let task = handle.spawn(async move {
            tokio::time::sleep_until(due).await;
            if let Some(balancer) = me.upgrade() {
                let mut state = balancer.state.lock();
                fired(&mut state);
                balancer.rebuild(&mut state);
            }
        });
        task.abort_handle()
    }

    /// Closes what is not needed any more: the cluster, if no call came for long, else its unneeded priorities.
    pub(crate) fn housekeep(&self, now: Instant, idle_timeout: Duration) {
        let mut state = self.state.lock();
        let Some(active) = &mut state.active else { return };
        active.expire(now);
        let called = self.used.swap(false, Ordering::Relaxed);
        let busy = self.pending.load(Ordering::Relaxed) > 0 || active.in_flight() > 0;
        // What is busy may be so until just before the next look.
        state.quiet_since = if busy { None } else { state.quiet_since.filter(|_| !called).or(Some(now)) };
        if state.quiet_since.is_some_and(|since| now.duration_since(since) >= idle_timeout) {
            self.deactivate(&mut state, Picker::Idle, ConnectivityState::Idle);
        }
    }

    /// The calls in flight and those that wait.
    pub(crate) fn in_flight(&self) -> u32 {
        let in_flight = self.state.lock().active.as_ref().map_or(0, |active| active.in_flight());
        in_flight + self.pending.load(Ordering::Relaxed)
    }

    /// Closes every connection now, and fails the calls from now on.
    pub(crate) fn shut_down(&self) {
        let mut state = self.state.lock();
        if let Some(active) = &state.active {
            active.close();
        }
        self.deactivate(&mut state, Picker::Shutdown, ConnectivityState::Shutdown);
    }

    fn deactivate(&self, state: &mut MutexGuard<'_, State<C>>, picker: Picker<C>, connectivity: ConnectivityState) {
        // First, so that no call of a session looks for its endpoint there.
        let active = state.active.take();
        self.publish(state, Outlook { picker, state: connectivity });
        state.quiet_since = None;
        for (_, timer) in state.failover.take().into_iter().chain(state.sweep.take()) {
            timer.abort();
        }
        state.ticker = None;
        drop(active);
    }

    /// One more connection to an endpoint whose slots are all taken, if that is allowed.
    pub(crate) fn expand(&self, address: &Address) {
        if let Some(active) = &self.state.lock().active {
            active.expand(address);
        }
    }

    /// The state of the cluster at this moment; waits for no lock that is held while others are told of it.
    pub(crate) fn connectivity_now(&self) -> ConnectivityState {
        *self.connectivity_now.lock()
    }

    /// Tells an aggregate of each change of [`connectivity_now`](Self::connectivity_now), before calls could fail by it.
    pub(crate) fn tell(&self, aggregate: &Weak<Aggregate<C>>) {
        let aggregates = &mut self.state.lock().aggregates;
        if !aggregates.iter().any(|known| known.ptr_eq(aggregate)) {
            aggregates.retain(|known| known.strong_count() > 0);
            aggregates.push(aggregate.clone());
        }
    }

    /// Counts as a call for the housekeeping.
    pub(crate) fn keep_connected(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    /// The endpoints of the cluster and how they are.
    pub(crate) fn statuses(&self) -> Vec<EndpointReport> {
        self.state.lock().statuses()
    }

    /// What a call says that gets none.
    #[cold]
    pub(crate) fn no_endpoint(&self) -> Error {
        error::no_endpoint(&self.key.name, &self.summary(), Instant::now())
    }

    /// How the endpoints are, for the calls that get none: looked at once for many of them.
    pub(crate) fn summary(&self) -> Arc<Summary> {
        let now = Instant::now();
        let mut state = self.state.lock();
        if let Some(known) = state.summary.as_ref().filter(|known| known.is_fresh(now)) {
            return known.clone();
        }
        let made = Arc::new(Summary::new(&state.statuses(), now));
        state.summary = Some(made.clone());
        made
    }
}

impl<C: Connect> State<C> {
    fn session_endpoints(&self) -> SessionEndpoints<C> {
        self.active.as_ref().map_or_else(SessionEndpoints::new, |active| active.session_endpoints())
    }

    fn statuses(&self) -> Vec<EndpointReport> {
        statuses(&self.config.endpoints, |address| self.active.as_ref()?.status(address))
    }
}

impl<C: Connect> Observer for Balancer<C> {
    fn subchannel_changed(&self, now: ConnectivityState) {
        let mut state = self.state.lock();
        let Some(active) = &state.active else { return };
        // Calls may wait for a first endpoint; all other news of a large cluster can wait for more of it.
        let first = now == ConnectivityState::Ready && state.connectivity != ConnectivityState::Ready;
        if (first && !state.in_vain) || active.len() <= SMALL {
            self.rebuild(&mut state);
            state.in_vain = first && state.connectivity != ConnectivityState::Ready;
            return;
        }
        if !state.scheduled {
            let endpoints = u32::try_from(active.len()).unwrap_or(u32::MAX);
            let pause = PAUSE_PER_ENDPOINT.saturating_mul(endpoints);
            let due = state.rebuilt.map_or_else(Instant::now, |rebuilt| rebuilt + pause);
            self.rebuild_at(&active.environment.handle, due, |state| state.scheduled = false);
            state.scheduled = true;
        }
    }

    fn endpoint_failed(&self, endpoint: &Address, streak: Streak) {
        self.eject(endpoint, streak);
    }

    fn outcomes_arrive(&self) {
        self.look_again();
    }
}

impl<C: Connect> Drop for Balancer<C> {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        for (_, timer) in state.failover.take().into_iter().chain(state.sweep.take()) {
            timer.abort();
        }
        if let Some(registry) = self.registry.upgrade() {
            registry.forget(&self.key);
        }
    }
}

//! The clusters of a mesh: finds the running state of a snapshot's cluster, and keeps house.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::aggregate::{Aggregate, Leaf};
use super::balancer::Balancer;
use super::error;
use super::options::{BalanceOptions, RETENTION};
use super::outlier::{Method, Unenforced};
use super::picker::Picker;
use super::status::{EndpointReport, statuses};
use super::watchers::Watchers;
use crate::connect::{Connect, ConnectivityState, Leaving, Limits};
use crate::error::{Error, ErrorKind};
use crate::names::NameMap;
use crate::origin::Sourced;
use crate::resource::endpoints::Endpoints;
use crate::snapshot::{ClusterConfig, ClusterEntry, ClusterKey};

/// The running state of all clusters that use one connector; clones share it.
///
/// State is keyed by name and lives as long as any [`ClusterEntry`] that it was attached to. An entry keeps the state of
/// one `Clusters`; where several share entries, the others look it up by name for each call.
pub(crate) struct Clusters<C: Connect>(Arc<Registry<C>>);

pub(crate) struct Registry<C: Connect> {
    pub(crate) connector: Arc<C>,
    pub(crate) options: BalanceOptions,
    /// The picker of every cluster that is not in use.
    pub(crate) idle: Arc<Picker<C>>,
    shutdown: CancellationToken,
    clusters: Mutex<NameMap<ClusterKey, Weak<Balancer<C>>>>,
    aggregates: Mutex<NameMap<ClusterKey, Weak<Aggregate<C>>>>,
    /// Clusters whose entry belongs to others, while they are in use.
    held: Mutex<Vec<Arc<Balancer<C>>>>,
    /// Who hears of which cluster, before it has running state, too.
    watchers: Mutex<NameMap<ClusterKey, Arc<Watchers>>>,
    pub(crate) leaving: Arc<Leaving<C::Connection>>,
    /// Where tasks run; found at the first use, and with it the housekeeping starts.
    runtime: Mutex<Option<Handle>>,
    me: Weak<Self>,
}

/// In the place of the running state of a cluster that is to have none.
struct Refused;

impl<C: Connect> Clusters<C> {
    /// Tasks run on `runtime`, or on that of the first call. `shutdown` closes all connections and fails all calls.
    pub(crate) fn new(
        connector: C,
        options: BalanceOptions,
        runtime: Option<Handle>,
        shutdown: CancellationToken,
    ) -> Self {
        let registry = Arc::new_cyclic(|me| Registry {
            connector: Arc::new(connector),
            options,
            idle: Arc::new(Picker::Idle),
            shutdown,
            clusters: Mutex::default(),
            aggregates: Mutex::default(),
            held: Mutex::default(),
            watchers: Mutex::default(),
            leaving: Arc::default(),
            runtime: Mutex::new(None),
            me: me.clone(),
        });
        if let Some(runtime) = runtime {
            registry.start(runtime);
        }
        Self(registry)
    }

    /// Gives the entry its cluster's running state, if there is one, and that the entry's configuration. Connects nothing.
    /// To be called before a snapshot with this entry is published, so that the newest configuration holds.
    pub(crate) fn attach(&self, entry: &ClusterEntry) {
        if entry.leaves.is_some() {
            let _ = self.aggregate(entry);
        } else if let Ok(config) = &entry.config
            && self.attached(entry).is_none()
            && self.0.permit(entry, config).is_ok()
            // Of thousands of clusters most have none, as no call ever goes there.
            && self.0.known(&entry.key).is_some()
        {
            let _ = self.balancer(entry);
        }
    }

    /// Connects the endpoints of the entry's first priority, as calls are to come.
    pub(crate) fn prepare(&self, entry: &ClusterEntry) {
        if entry.leaves.is_some() {
            if let Ok(aggregate) = self.aggregate(entry) {
                aggregate.activate();
            }
        } else if let Ok(balancer) = self.balancer(entry) {
            // Shut down, or no runtime yet: a call will say so.
            let _ = balancer.activate();
        }
    }

    /// The leaves of an aggregate's entry, each with whether it takes the calls.
    pub(crate) fn leaves(&self, entry: &ClusterEntry) -> Vec<(Arc<ClusterEntry>, bool)> {
        let Ok(aggregate) = self.aggregate(entry) else { return Vec::new() };
        let current = aggregate.balancer();
        aggregate.leaves().into_iter().map(|(entry, leaf)| (entry, Arc::ptr_eq(&leaf, &current))).collect()
    }

    /// The endpoints of the entry's cluster and how they are. Who looks makes no running state.
    pub(crate) fn states(&self, entry: &ClusterEntry) -> Vec<EndpointReport> {
        let config = entry.config.as_ref().ok().filter(|_| entry.leaves.is_none());
        let Some(config) = config.filter(|config| self.0.check(&entry.key, config).is_ok()) else { return Vec::new() };
        let unused = || statuses(&config.endpoints, |_| None);
        self.running(entry).map_or_else(unused, |balancer| balancer.statuses())
    }

    /// How often endpoints of the entry's cluster were ejected, or were not although they were outliers.
    pub(crate) fn ejections(&self, entry: &ClusterEntry) -> Vec<(Method, Option<Unenforced>, u64)> {
        self.running(entry).map_or_else(Vec::new, |balancer| balancer.ejections().list())
    }

    /// The running state of the entry's cluster, if there is one.
    fn running(&self, entry: &ClusterEntry) -> Option<Arc<Balancer<C>>> {
        self.attached(entry).and_then(Balancer::arc).or_else(|| self.0.known(&entry.key))
    }

    /// What a call would say that waited for an endpoint of the entry's cluster.
    pub(crate) fn not_ready(&self, entry: &ClusterEntry, waited: Duration) -> Error {
        let balancer = match entry.leaves {
            Some(_) => self.aggregate(entry).map(|aggregate| aggregate.balancer()),
            None => self.balancer(entry),
        };
        match balancer {
            Ok(balancer) => {
                error::waited(ErrorKind::NoEndpoint, &balancer.key.name, waited, false, &balancer.summary())
            }
            Err(mut error) => {
                error.context_mut().cluster.get_or_insert_with(|| entry.key.name.clone());
                error
            }
        }
    }

    /// Why the entry's cluster is not used although its configuration is good.
    pub(crate) fn refusal(&self, entry: &ClusterEntry) -> Option<Error> {
        let config = entry.config.as_ref().ok().filter(|_| entry.leaves.is_none())?;
        self.0.check(&entry.key, config).err()
    }

    /// The connectivity state of the entry's cluster at this moment; `None` if the cluster cannot be used.
    pub(crate) fn connectivity(&self, entry: &ClusterEntry) -> Option<ConnectivityState> {
        match entry.leaves {
            Some(_) => Some(self.aggregate(entry).ok()?.balancer().connectivity_now()),
            None => self.connectivity_of(entry, entry.config.as_ref().ok()?),
        }
    }

    fn connectivity_of(&self, entry: &ClusterEntry, config: &ClusterConfig) -> Option<ConnectivityState> {
        if let Some(balancer) = self.attached(entry) {
            return Some(balancer.connectivity_now());
        }
        self.0.permit(entry, config).ok()?;
        let known = self.0.known(&entry.key);
        Some(known.map_or(ConnectivityState::Idle, |balancer| balancer.connectivity_now()))
    }

    /// Notifies the watcher, until it is dropped, of every change of the connectivity of this cluster, and of no other's. The
    /// cluster need have no running state yet.
    pub(crate) fn watch(&self, key: &ClusterKey, watcher: &Arc<Notify>) {
        // Under the lock: watchers that none is added to yet are not forgotten meanwhile.
        self.0.watchers.lock().entry(key.clone()).or_default().add(watcher);
    }

    pub(crate) fn options(&self) -> &BalanceOptions {
        &self.0.options
    }

    pub(crate) fn registry(&self) -> &Registry<C> {
        &self.0
    }

    /// The endpoints of the local cluster are these now.
    pub(crate) fn local_cluster_changed(&self, endpoints: &Endpoints) {
        let Some(local) = &self.0.options.local_cluster else { return };
        local.publish(endpoints);
        self.0.all().iter().for_each(|cluster| cluster.local_cluster_changed());
    }

    /// Resolves when no call is in flight any more, at most after `limit`.
    pub(crate) async fn drained(&self, limit: Duration) {
        /// Only a shutdown waits here, and no call pays for being counted by anyone who waits.
        const LOOK_EVERY: Duration = Duration::from_millis(5);
        let deadline = Instant::now() + limit;
        while self.0.is_busy() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The running state of the entry's cluster if it was attached: the way of every call.
    pub(crate) fn attached<'e>(&self, entry: &'e ClusterEntry) -> Option<&'e Balancer<C>> {
        let balancer = entry.attachment.get::<Balancer<C>>()?;
        std::ptr::eq(balancer.registry.as_ptr(), Arc::as_ptr(&self.0)).then_some(balancer)
    }

    /// The running state of the entry's cluster, attached now if it was not.
    pub(crate) fn balancer(&self, entry: &ClusterEntry) -> Result<Arc<Balancer<C>>, Error> {
        let config = entry.config.as_ref().map_err(|problem| problem.to_error())?;
        if let Some(balancer) = self.attached(entry)
            && let Some(balancer) = balancer.arc()
        {
            return Ok(balancer);
        }
        self.0.permit(entry, config)?;
        let balancer = self.0.balancer(entry, config);
        entry.attachment.get_or_init(|| balancer.clone());
        if self.attached(entry).is_none() {
            self.0.hold(balancer.clone());
        }
        balancer.update(entry, config);
        Ok(balancer)
    }
}

impl<C: Connect> Clusters<C> {
    /// The running state of an aggregate's entry, attached now if it was not.
    pub(crate) fn aggregate(&self, entry: &ClusterEntry) -> Result<Arc<Aggregate<C>>, Error> {
        if let Some(aggregate) = entry.attachment.get::<Aggregate<C>>()
            && std::ptr::eq(aggregate.registry.as_ptr(), Arc::as_ptr(&self.0))
            && let Some(aggregate) = aggregate.arc()
        {
            return Ok(aggregate);
        }
        let members = entry.leaves.iter().flat_map(|leaves| leaves.entries.iter());
        let (mut leaves, mut refusal) = (Vec::new(), None);
        for leaf in members {
            match self.balancer(leaf) {
                Ok(balancer) => leaves.push((leaf.clone(), balancer)),
                Err(error) => refusal = Some(error),
            }
        }
        let first: &Leaf<C> = leaves.first().ok_or_else(|| refusal.unwrap_or_else(error::no_cluster))?;
        let aggregate = self.0.aggregate(&entry.key, first);
        aggregate.update(leaves);
        entry.attachment.get_or_init(|| aggregate.clone());
        if let Some(leaves) = &entry.leaves {
            leaves.follow(&aggregate.current);
        }
        Ok(aggregate)
    }
}

impl<C: Connect> Registry<C> {
    fn aggregate(&self, key: &ClusterKey, first: &Leaf<C>) -> Arc<Aggregate<C>> {
        let mut aggregates = self.aggregates.lock();
        if let Some(aggregate) = aggregates.get(key).and_then(Weak::upgrade) {
            return aggregate;
        }
        let aggregate = Aggregate::new(first, self.watchers(key), self);
        aggregates.retain(|_, known| known.strong_count() > 0);
        aggregates.insert(key.clone(), Arc::downgrade(&aggregate));
        aggregate
    }

    pub(crate) fn weak(&self) -> Weak<Self> {
        self.me.clone()
    }

    /// Who hears of this cluster, now and later.
    pub(crate) fn watchers(&self, key: &ClusterKey) -> Arc<Watchers> {
        self.watchers.lock().entry(key.clone()).or_default().clone()
    }

    fn known(&self, key: &ClusterKey) -> Option<Arc<Balancer<C>>> {
        self.clusters.lock().get(key).and_then(Weak::upgrade)
    }

    fn balancer(self: &Arc<Self>, entry: &ClusterEntry, config: &ClusterConfig) -> Arc<Balancer<C>> {
        let mut clusters = self.clusters.lock();
        if let Some(balancer) = clusters.get(&entry.key).and_then(Weak::upgrade) {
            return balancer;
        }
        let balancer = Balancer::new(entry, config.clone(), self);
        clusters.insert(entry.key.clone(), Arc::downgrade(&balancer));
        balancer
    }

    /// Whether a cluster is to have connections at all. That it is not is logged, too, once for each of its configurations.
    fn permit(&self, entry: &ClusterEntry, config: &ClusterConfig) -> Result<(), Error> {
        let permitted = self.check(&entry.key, config);
        if let Err(error) = &permitted
            && entry.attachment.get::<Refused>().is_none()
        {
            tracing::warn!(cluster = &*entry.key.name, "a cluster is not used: {error}");
            entry.attachment.get_or_init(|| Arc::new(Refused));
        }
        permitted
    }

    fn check(&self, key: &ClusterKey, config: &ClusterConfig) -> Result<(), Error> {
        #[cfg(feature = "tls")]
        self.options
            .floor
            .check_cluster(&key.name, config.cluster.securities().map(|security| security.map(|one| &**one)))?;
        let _ = (key, config);
        Ok(())
    }

    fn is_busy(&self) -> bool {
        self.all().iter().any(|balancer| balancer.in_flight() > 0) || self.leaving.is_busy()
    }

    /// Keeps a cluster's state that its entry cannot keep.
    fn hold(&self, balancer: Arc<Balancer<C>>) {
        let mut held = self.held.lock();
        if !held.iter().any(|other| Arc::ptr_eq(other, &balancer)) {
            held.push(balancer);
        }
    }

    fn let_go(&self) {
        self.watchers.lock().retain(|_, watchers| Arc::strong_count(watchers) > 1 || watchers.are_there());
        let (used, unused): (Vec<_>, Vec<_>) = self.held.lock().drain(..).partition(|balancer| balancer.is_active());
        self.held.lock().extend(used);
        // Outside the lock, which a dropped cluster may need.
        drop(unused);
    }

    /// The cluster's state is gone, unless a new one took its place.
    pub(crate) fn forget(&self, key: &ClusterKey) {
        let mut clusters = self.clusters.lock();
        if clusters.get(key).is_some_and(|balancer| balancer.strong_count() == 0) {
            clusters.remove(key);
        }
    }

    /// Those of the cluster's configuration, and of the options what it leaves open.
    pub(crate) fn limits(&self, config: &ClusterConfig) -> Limits {
        let max_connections = config.cluster.circuit_breakers.max_connections;
        Limits {
            connect_timeout: self.connect_timeout(config).value,
            per_endpoint: self.connections_per_endpoint(config).value,
            in_all: max_connections.map_or(usize::MAX, |connections| connections as usize),
        }
    }

    /// How long a connection of the cluster may take to be established.
    pub(crate) fn connect_timeout(&self, config: &ClusterConfig) -> Sourced<Duration> {
        Sourced::or(config.cluster.connect_timeout, config.cluster.origin, self.options.connect_timeout)
    }

    /// Connections to one endpoint of the cluster.
    pub(crate) fn connections_per_endpoint(&self, config: &ClusterConfig) -> Sourced<usize> {
        let said = config.cluster.circuit_breakers.max_connections_per_endpoint;
        Sourced::or(said, config.cluster.origin, self.options.max_connections)
    }

    /// Calls of the cluster that may wait.
    pub(crate) fn max_pending(&self, config: &ClusterConfig) -> Sourced<u32> {
        let said = config.cluster.circuit_breakers.max_pending_requests;
        Sourced::or(said, config.cluster.origin, self.options.max_pending)
    }

    /// Where to run tasks.
    pub(crate) fn runtime(&self) -> Result<Handle, Error> {
        if self.shutdown.is_cancelled() {
            return Err(Error::shut_down());
        }
        if let Some(runtime) = &*self.runtime.lock() {
            return Ok(runtime.clone());
        }
        let runtime = Handle::try_current().map_err(|_| error::no_runtime())?;
        self.start(runtime.clone());
        Ok(runtime)
    }

    fn start(&self, runtime: Handle) {
        let mut known = self.runtime.lock();
        if known.is_none() {
            let pause = self.options.idle_timeout.value.min(RETENTION) / 2;
            let pause = pause.max(Duration::from_millis(1));
            runtime.spawn(keep_house(self.me.clone(), self.shutdown.clone(), pause));
            *known = Some(runtime);
        }
    }

    /// The clusters of which anyone hears, or may.
    #[cfg(test)]
    pub(super) fn watched(&self) -> usize {
        self.watchers.lock().len()
    }

    pub(super) fn all(&self) -> Vec<Arc<Balancer<C>>> {
        self.clusters.lock().values().filter_map(Weak::upgrade).collect()
    }
}

/// One task for all clusters, until the last handle is gone.
async fn keep_house<C: Connect>(registry: Weak<Registry<C>>, shutdown: CancellationToken, pause: Duration) {
    loop {
        let ended = tokio::time::timeout(pause, shutdown.cancelled()).await.is_ok();
        let Some(registry) = registry.upgrade() else { return };
        let clusters = registry.all();
        if ended {
            clusters.iter().for_each(|cluster| cluster.shut_down());
            return registry.leaving.close();
        }
        let now = Instant::now();
        // First: they say which of the clusters are needed though they get no calls.
        let aggregates: Vec<_> = registry.aggregates.lock().values().filter_map(Weak::upgrade).collect();
        aggregates.iter().for_each(|aggregate| aggregate.housekeep(now, registry.options.idle_timeout.value));
        clusters.iter().for_each(|cluster| cluster.housekeep(now, registry.options.idle_timeout.value));
        registry.let_go();
    }
}

impl<C: Connect> Clone for Clusters<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C: Connect> fmt::Debug for Clusters<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clusters").field("clusters", &self.0.clusters.lock().len()).finish()
    }
}

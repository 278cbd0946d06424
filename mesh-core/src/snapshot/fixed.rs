//! Snapshots made by hand: for targets that are addresses, for use without a control plane, and for tests.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderName;

use super::{ClusterConfig, ClusterEntry, ClusterKey, RouteTable, Snapshot};
use crate::error::{Error, ErrorKind};
use crate::origin::Sourced;
use crate::resource::cluster::{Balancing, Cluster, EndpointPolicy, Maglev, RingHash};
use crate::resource::endpoints::{Address, Endpoint, Endpoints, Locality, LocalityEndpoints, Priority};
use crate::resource::listener::CallLimits;
use crate::resource::matcher::RouteMatch;
use crate::resource::matcher::header::HeaderSource;
use crate::resource::matcher::path::PathMatch;
use crate::resource::mirror::{MirrorCluster, MirrorPolicy};
use crate::resource::retry_policy::RetryPolicy;
use crate::resource::route::{BadWeights, ClusterWeight, Forward, Route, RouteAction, RouteDeadline};
use crate::resource::route_config::VirtualHost;

/// Without a control plane nobody says which policy fits, and this one serves unequal endpoints best.
const LOCAL_POLICY: EndpointPolicy = EndpointPolicy::PeakEwma;

/// The snapshot of a target that is a list of addresses: every call goes to any of them.
pub(crate) fn of_addresses(target: &Arc<str>, addresses: impl IntoIterator<Item = Address>) -> Snapshot {
    let cluster = ClusterBuilder::new(target.clone()).addresses(addresses);
    let route = Route::new("any", RouteAction::Forward(Forward::to(target.clone())));
    join(target.clone(), target, vec![(RouteMatch::prefix(""), route)], vec![cluster])
}

/// A snapshot of routes and the clusters they name.
fn join(source: Arc<str>, name: &str, routes: Vec<(RouteMatch, Route)>, clusters: Vec<ClusterBuilder>) -> Snapshot {
    let virtual_host = Arc::new(VirtualHost::new(name, routes));
    let table = RouteTable::of_virtual_host(format!("snapshot `{name}`"), virtual_host, CallLimits::default());
    let entry = |cluster: &Arc<str>| {
        let key = ClusterKey { source: source.clone(), name: cluster.clone() };
        let builder = clusters.iter().find(|builder| builder.name == *cluster).cloned();
        let builder = builder.unwrap_or_else(|| ClusterBuilder::new(cluster.clone()));
        Arc::new(ClusterEntry::new(key, Ok(builder.assemble())))
    };
    let clusters = table.clusters().iter().map(entry).collect();
    Snapshot { routing: Ok(Arc::new(table)), clusters }
}

impl Snapshot {
    /// Starts a snapshot made in code, for use without a control plane.
    ///
    /// ```
    /// use mesh_core::{ClusterBuilder, RouteBuilder, Snapshot};
    ///
    /// # fn main() -> Result<(), mesh_core::Error> {
    /// let snapshot = Snapshot::builder("greeter")
    ///     .cluster(ClusterBuilder::new("v1").endpoint("127.0.0.1:50051".parse().unwrap()))
    ///     .cluster(ClusterBuilder::new("v2").endpoint("127.0.0.1:50052".parse().unwrap()).round_robin())
    ///     .route(RouteBuilder::any().weighted("v1", 90).weighted("v2", 10))
    ///     .build()?;
    /// # let _ = snapshot; Ok(()) }
    /// ```
    pub fn builder(name: impl Into<Arc<str>>) -> SnapshotBuilder {
        SnapshotBuilder::new(name.into())
    }
}

/// Builds a [`Snapshot`] by hand.
#[derive(Debug)]
pub struct SnapshotBuilder {
    name: Arc<str>,
    clusters: Vec<ClusterBuilder>,
    routes: Vec<RouteBuilder>,
}

impl SnapshotBuilder {
    fn new(name: Arc<str>) -> Self {
        Self { name, clusters: Vec::new(), routes: Vec::new() }
    }

    /// Adds a cluster that routes can name.
    pub fn cluster(mut self, cluster: ClusterBuilder) -> Self {
        self.clusters.push(cluster);
        self
    }

    /// Adds a route; the first that matches is taken.
    pub fn route(mut self, route: RouteBuilder) -> Self {
        self.routes.push(route);
        self
    }

    /// The snapshot.
    ///
    /// # Errors
    ///
    /// When a route names a cluster that was not added, names none, or has no weight above 0.
    pub fn build(self) -> Result<Snapshot, Error> {
        let name = self.name.clone();
        let problem = |what: String| Error::new(ErrorKind::Setup, format!("build snapshot `{name}`: {what}"));
        let known = |name: &str| self.clusters.iter().any(|cluster| *cluster.name == *name);
        let mut routes = Vec::with_capacity(self.routes.len());
        for route in self.routes {
            if let Some(unknown) = route.names().find(|name| !known(name)) {
                return Err(problem(format!("{} names the cluster `{unknown}`, which was not added", route.name)));
            }
            let name = route.name.clone();
            let weights = |_| problem(format!("the weights of {name} add up to nothing, or to more than {}", u32::MAX));
            routes.push(route.compile().map_err(weights)?);
        }
        // Two snapshots may use the same names for different clusters.
        static SNAPSHOTS: AtomicU64 = AtomicU64::new(0);
        let number = SNAPSHOTS.fetch_add(1, Ordering::Relaxed);
        Ok(join(format!("snapshot {number}").into(), &self.name, routes, self.clusters))
    }
}

/// A cluster of a snapshot made by hand. Its calls go where they are expected to be answered soonest, unless another
/// policy is set: see [`peak_ewma`](Self::peak_ewma).
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    name: Arc<str>,
    policy: Sourced<EndpointPolicy>,
    endpoints: Vec<Endpoint>,
    connect_timeout: Option<Duration>,
}

impl ClusterBuilder {
    /// A cluster without endpoints.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            policy: Sourced::by_default(LOCAL_POLICY),
            endpoints: Vec::new(),
            connect_timeout: None,
        }
    }

    /// Adds an endpoint; the same address again changes nothing.
    pub fn endpoint(mut self, address: Address) -> Self {
        self.endpoints.push(Endpoint::new(address));
        self
    }

    fn addresses(self, addresses: impl IntoIterator<Item = Address>) -> Self {
        addresses.into_iter().fold(self, Self::endpoint)
    }

    /// Of two endpoints drawn at random, the call goes to the one that is expected to answer sooner: by how long its calls
    /// took (a peak counts at once and is forgotten within some ten seconds), how many it has now, and how many of its
    /// kind failed. The default.
    pub fn peak_ewma(mut self) -> Self {
        self.policy = Sourced::code(EndpointPolicy::PeakEwma);
        self
    }

    /// Of two endpoints drawn at random, the call goes to the one with fewer calls in flight.
    pub fn least_request(mut self) -> Self {
        self.policy = Sourced::code(EndpointPolicy::LeastRequest { choices: 2 });
        self
    }

    /// Calls go to the endpoints in turn.
    pub fn round_robin(mut self) -> Self {
        self.policy = Sourced::code(EndpointPolicy::RoundRobin);
        self
    }

    /// Calls go to an endpoint drawn at random.
    pub fn random(mut self) -> Self {
        self.policy = Sourced::code(EndpointPolicy::Random);
        self
    }

    /// All calls go to one endpoint, the first that can be connected, and only that one has a connection; when it ends, the
    /// next call begins with the first again. With `shuffle` the order is left to chance (A62, A113).
    pub fn pick_first(mut self, shuffle: bool) -> Self {
        self.policy = Sourced::code(EndpointPolicy::PickFirst { shuffle });
        self
    }

    /// Calls with the same value of this header go to the same endpoint, calls without it anywhere. A key of the call's
    /// own, [`CallOptions::hash_key`](crate::CallOptions::hash_key), goes before it.
    pub fn ring_hash(mut self, header: &HeaderName) -> Self {
        let config = RingHash { header: HeaderSource::of(header.as_str()), ..RingHash::default() };
        self.policy = Sourced::code(EndpointPolicy::RingHash(config));
        self
    }

    /// Calls with the same [`CallOptions::hash_key`](crate::CallOptions::hash_key) go to the same endpoint, those without
    /// one anywhere; each endpoint has the same share of the keys (Envoy's maglev).
    pub fn maglev(mut self) -> Self {
        self.policy = Sourced::code(EndpointPolicy::Maglev(Maglev::default()));
        self
    }

    /// Calls go to the endpoints in turn, to the less loaded more often: by what each reports of its load in the trailers
    /// of its responses (ORCA), from 10 s after it connected on, as gRPC does by default (A58).
    pub fn weighted_round_robin(mut self) -> Self {
        self.policy = Sourced::code(EndpointPolicy::WeightedRoundRobin(Arc::default()));
        self
    }

    /// How long a connection may take to be established. Default: the mesh's (5 s).
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    pub(crate) fn assemble(mut self) -> ClusterConfig {
        let mut known = HashSet::with_capacity(self.endpoints.len());
        self.endpoints.retain(|endpoint| known.insert(endpoint.address.clone()));
        let Sourced { value: policy, origin: balanced_by } = self.policy;
        let plain = Cluster::plain(self.name, Balancing::new(false, policy));
        let cluster = Cluster { connect_timeout: self.connect_timeout, balanced_by, ..plain };
        let locality = Arc::new(Locality::default());
        let localities = vec![LocalityEndpoints { locality, weight: 1, endpoints: self.endpoints }];
        let endpoints = Endpoints { priorities: vec![Priority { localities }], ..Endpoints::default() };
        ClusterConfig { cluster: Arc::new(cluster), endpoints: Arc::new(endpoints) }
    }
}

/// A route of a snapshot made by hand.
#[derive(Debug)]
pub struct RouteBuilder {
    name: String,
    path: PathMatch,
    clusters: Vec<ClusterWeight>,
    max_stream_duration: Option<Duration>,
    retry: Option<Arc<RetryPolicy>>,
    mirrors: Vec<(Arc<str>, u32)>,
}

impl RouteBuilder {
    fn new(name: String, path: PathMatch) -> Self {
        Self { name, path, clusters: Vec::new(), max_stream_duration: None, retry: None, mirrors: Vec::new() }
    }

    /// A route that takes every call.
    pub fn any() -> Self {
        Self::prefix("")
    }

    /// A route for the paths that start with `prefix`, such as `/helloworld.Greeter/`.
    pub fn prefix(prefix: &str) -> Self {
        Self::new(format!("prefix {prefix}"), PathMatch::prefix(prefix, true))
    }

    /// A route for one path, such as `/helloworld.Greeter/SayHello`.
    pub fn path(path: &str) -> Self {
        Self::new(format!("path {path}"), PathMatch::exact(path, true))
    }

    /// Sends the calls to a cluster.
    pub fn cluster(self, name: impl Into<Arc<str>>) -> Self {
        self.weighted(name, 1)
    }

    /// Sends a share of the calls to a cluster: `weight` of the sum of all weights of the route.
    pub fn weighted(mut self, name: impl Into<Arc<str>>, weight: u32) -> Self {
        self.clusters.push(ClusterWeight::new(name, weight));
        self
    }

    /// The longest a call may take, its response included; the application can only ask for less. Default: no limit.
    pub fn max_stream_duration(mut self, limit: Duration) -> Self {
        self.max_stream_duration = Some(limit);
        self
    }

    /// Has failed calls made again. Default: as the mesh's builder says.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(Arc::new(policy));
        self
    }

    /// Sends a copy of so many of a million calls to another cluster too, whose answers nobody sees. Default: of none. It
    /// needs the feature `mirror`.
    pub fn mirror(mut self, cluster: impl Into<Arc<str>>, per_million: u32) -> Self {
        self.mirrors.push((cluster.into(), per_million));
        self
    }

    /// Every cluster that the route names.
    fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.clusters.iter().map(|choice| &choice.name).chain(self.mirrors.iter().map(|(name, _)| name))
    }

    fn compile(self) -> Result<(RouteMatch, Route), BadWeights> {
        let deadline = RouteDeadline::new(self.max_stream_duration);
        let forward = Forward::weighted(self.clusters)?.with_deadline(deadline).with_retry(self.retry);
        let action = RouteAction::Forward(forward);
        let mirror = |(name, share)| MirrorPolicy { share, ..MirrorPolicy::to(MirrorCluster::Named(name)) };
        let mirrors = self.mirrors.into_iter().map(mirror).collect();
        Ok((RouteMatch::new(self.path), Route { mirrors, ..Route::new(self.name, action) }))
    }
}

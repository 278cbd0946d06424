//! A store that tests fill, and the target that listens to it.

mod aggregates;
mod clusters;
mod names;
mod routes;

use std::any::Any;
use std::collections::HashMap;
use std::time::Duration;

use super::*;
use crate::resource::ROUTE_CONFIGURATION;
use crate::resource::cluster::{
    AddressFamily, Balancing, Cluster, Discovery, DnsEndpoints, EndpointPolicy, Resolution,
};
use crate::resource::endpoints::{Address, Endpoint, Endpoints, LocalityEndpoints, Priority};
use crate::resource::listener::{ApiListener, Listener, RouteSource};
use crate::resource::matcher::RouteMatch;
use crate::resource::route::{ClusterWeight, Forward, Route, RouteAction};
use crate::resource::route_config::{RouteConfiguration, VirtualHost};
use crate::resource::security::{MaterialSource, Readiness};
use crate::xds::resource_type::ResourceType;
use crate::xds::{ResourceState, Verdict};

/// The store as a target sees it.
#[derive(Default)]
struct Store(
    HashMap<(&'static str, String), ResourceState>,
    HashMap<String, Resolved>,
    #[cfg(feature = "tls")] HashMap<MaterialSource, Readiness>,
);

impl View for Store {
    fn get(&self, resource_type: &'static ResourceType, name: &str) -> ResourceState {
        let known = self.0.get(&(resource_type.type_url, name.to_owned())).cloned();
        known.unwrap_or_else(|| state(None, Verdict::Pending))
    }

    fn resolve(&self, name: &DnsName) -> Resolved {
        self.1.get(&*name.host).cloned().unwrap_or_default()
    }

    #[cfg(feature = "tls")]
    fn readiness(&self, source: &MaterialSource) -> Readiness {
        self.2.get(source).cloned().unwrap_or_else(|| Readiness::Awaited(source.to_string()))
    }

    #[cfg(not(feature = "tls"))]
    fn readiness(&self, source: &MaterialSource) -> Readiness {
        *source
    }
}

fn state(value: Option<Arc<dyn Any + Send + Sync>>, verdict: Verdict) -> ResourceState {
    ResourceState::for_test(value, verdict)
}

fn names(entries: &[Arc<ClusterEntry>]) -> String {
    entries.iter().map(|entry| entry.key.name.to_string()).collect::<Vec<_>>().join(" ")
}

/// A target that listens to `store`.
struct Target {
    store: Store,
    dependencies: Dependencies,
    snapshot: Option<Arc<Snapshot>>,
    waiting_for: Option<String>,
}

impl Target {
    fn new() -> Self {
        let dependencies = Dependencies::new("cp".into(), "svc".into(), "svc".into());
        Self { store: Store::default(), dependencies, snapshot: None, waiting_for: None }
    }

    fn put(&mut self, resource_type: &'static ResourceType, name: &str, value: Arc<dyn Any + Send + Sync>) -> bool {
        self.set(resource_type, name, state(Some(value), Verdict::Present))
    }

    /// Whether a snapshot was published.
    fn set(&mut self, resource_type: &'static ResourceType, name: &str, state: ResourceState) -> bool {
        self.store.0.insert((resource_type.type_url, name.to_owned()), state);
        let change = Change { resource_type, name: name.into() };
        let step = self.dependencies.handle_changes(&[change], &self.store);
        self.take(step)
    }

    fn take(&mut self, step: Step) -> bool {
        self.waiting_for = step.waiting_for;
        let published = step.publish.is_some();
        self.snapshot = step.publish.or(self.snapshot.take());
        published
    }

    fn listener(&mut self) -> bool {
        self.listener_to("routes")
    }

    fn listener_to(&mut self, routes: &str) -> bool {
        let listener = ApiListener {
            routes: RouteSource::Named(routes.into()),
            limits: Default::default(),
            filters: Default::default(),
        };
        self.put(&LISTENER, "svc", Arc::new(Listener::Api(Arc::new(listener))))
    }

    fn routes(&mut self, clusters: &[&str]) -> bool {
        self.routes_of("*", clusters)
    }

    fn routes_of(&mut self, domain: &str, clusters: &[&str]) -> bool {
        self.routes_named("routes", domain, clusters)
    }

    fn routes_named(&mut self, name: &str, domain: &str, clusters: &[&str]) -> bool {
        let weights = clusters.iter().map(|name| ClusterWeight::new(*name, 1)).collect();
        let action = RouteAction::Forward(Forward::weighted(weights).expect("weights"));
        let route = Route::new("any", action);
        let host = Arc::new(VirtualHost::new("host", vec![(RouteMatch::prefix(""), route)]));
        let routes = RouteConfiguration::new(name, [([domain], host)]).expect("a domain");
        self.put(&ROUTE_CONFIGURATION, name, Arc::new(routes))
    }

    fn cluster(&mut self, name: &str, eds_service_name: Option<&str>) -> bool {
        let balancing = Balancing::new(true, EndpointPolicy::RoundRobin);
        let discovery = Discovery::Eds { service_name: eds_service_name.map(Into::into) };
        let cluster = Cluster { discovery, ..Cluster::plain(name.into(), balancing) };
        self.put(&CLUSTER, name, Arc::new(cluster))
    }

    fn aggregate(&mut self, name: &str, leaves: &[&str]) -> bool {
        let discovery = Discovery::Aggregate(leaves.iter().map(|leaf| (*leaf).into()).collect());
        let cluster = Cluster { discovery, ..Cluster::plain(name.into(), Balancing::default()) };
        self.put(&CLUSTER, name, Arc::new(cluster))
    }

    fn dns(&mut self, name: &str, hosts: &[&str], logical: bool) -> bool {
        let resolution = Resolution {
            servers: Vec::new(),
            family: AddressFamily::Both,
            refresh: None,
            jitter: Duration::ZERO,
            after_failure: None,
        };
        let endpoints = hosts.iter().map(|host| Endpoint::new(Address::Host((*host).into(), 80))).collect();
        let locality = LocalityEndpoints { locality: Arc::default(), weight: 1, endpoints };
        let priorities = vec![Priority { localities: vec![locality] }];
        let endpoints = Arc::new(Endpoints { priorities, ..Endpoints::default() });
        let dns = DnsEndpoints { endpoints, logical, resolution: Arc::new(resolution) };
        let discovery = Discovery::Dns(Arc::new(dns));
        let cluster = Cluster { discovery, ..Cluster::plain(name.into(), Balancing::default()) };
        self.put(&CLUSTER, name, Arc::new(cluster))
    }

    fn resolved(&mut self, host: &str, resolved: Resolved) -> bool {
        self.store.1.insert(host.into(), resolved);
        let name = self.dependencies.watched().names.iter().find(|name| &*name.host == host).cloned();
        let step = self.dependencies.handle_resolved(name.as_slice(), &self.store);
        self.take(step)
    }

    fn answered(&mut self, host: &str, addresses: &[&str]) -> bool {
        let addresses = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        self.resolved(host, Resolved::Addresses(addresses))
    }

    /// The endpoints of the first cluster in force, with the addresses at which each is reached.
    fn addresses(&self) -> String {
        let snapshot = self.snapshot.as_ref().expect("a snapshot");
        let endpoints = snapshot.clusters[0].config.as_ref().expect("usable").endpoints.clone();
        let localities = endpoints.priorities.iter().flat_map(|priority| &priority.localities);
        let text = |endpoint: &Endpoint| match endpoint.reached_at() {
            Some(at) => {
                format!("{}={}", endpoint.address, at.iter().map(Address::to_string).collect::<Vec<_>>().join("|"))
            }
            None => endpoint.address.to_string(),
        };
        localities.flat_map(|locality| &locality.endpoints).map(text).collect::<Vec<_>>().join(" ")
    }

    /// A cluster with its endpoints.
    fn leaf(&mut self, name: &str) -> bool {
        self.cluster(name, None) | self.endpoints(name)
    }

    fn endpoints(&mut self, name: &str) -> bool {
        self.put(&ENDPOINTS, name, Arc::new(Endpoints::default()))
    }

    fn missing(&mut self, resource_type: &'static ResourceType, name: &str) -> bool {
        self.set(resource_type, name, state(None, Verdict::DoesNotExist))
    }

    /// The clusters of the snapshot in force, with `!` on those that cannot be used and the leaves of aggregates.
    fn in_force(&self) -> String {
        let Some(snapshot) = &self.snapshot else { return "nothing".into() };
        let name = |entry: &Arc<ClusterEntry>| match &entry.config {
            Ok(_) => match &entry.leaves {
                Some(leaves) => format!("{}({})", entry.key.name, names(&leaves.entries)),
                None => entry.key.name.to_string(),
            },
            Err(_) => format!("{}!", entry.key.name),
        };
        match &snapshot.routing {
            Ok(_) => snapshot.clusters.iter().map(name).collect::<Vec<_>>().join(" "),
            Err(problem) => problem.to_string(),
        }
    }

    fn watched(&self, names: impl Fn(&Watched) -> &NameIndexSet<Arc<str>>) -> Vec<String> {
        names(self.dependencies.watched()).iter().map(|name| name.to_string()).collect()
    }

    /// Why the first cluster in force cannot be used.
    fn problem(&self) -> String {
        let first = self.snapshot.as_ref().and_then(|snapshot| snapshot.clusters.first());
        first.and_then(|entry| entry.config.as_ref().err()).map(ToString::to_string).unwrap_or_default()
    }

    /// Routes to an aggregate; nothing else is there.
    fn to_aggregate(leaves: &[&str]) -> Self {
        let mut target = Self::new();
        target.listener();
        target.routes(&["all"]);
        target.aggregate("all", leaves);
        target
    }

    fn serving(clusters: &[&str]) -> Self {
        let mut target = Self::new();
        target.listener();
        target.routes(clusters);
        for name in clusters {
            target.cluster(name, None);
            target.endpoints(name);
        }
        assert_eq!(target.in_force(), clusters.join(" "));
        target
    }
}

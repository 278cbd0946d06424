use std::any::Any;

use super::*;
use crate::resource::cluster::{Balancing, EndpointPolicy};
use crate::resource::matcher::RouteMatch;
use crate::resource::route::{ClusterWeight, Forward, Route, RouteAction};
use crate::resource::route_config::VirtualHost;

/// The store as a target sees it.
#[derive(Default)]
struct Store(HashMap<(&'static str, String), ResourceState>);

impl View for Store {
    fn get(&self, resource_type: &'static ResourceType, name: &str) -> ResourceState {
        let known = self.0.get(&(resource_type.type_url, name.to_owned())).cloned();
        known.unwrap_or_else(|| state(None, Verdict::Pending))
    }
}

fn state(value: Option<Arc<dyn Any + Send + Sync>>, verdict: Verdict) -> ResourceState {
    ResourceState::for_test(value, verdict)
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
        self.waiting_for = step.waiting_for;
        let published = step.publish.is_some();
        self.snapshot = step.publish.or(self.snapshot.take());
        published
    }

    fn listener(&mut self) -> bool {
        let listener = Listener { routes: RouteSource::Named("routes".into()), max_stream_duration: None };
        self.put(&LISTENER, "svc", Arc::new(listener))
    }

    fn routes(&mut self, clusters: &[&str]) -> bool {
        self.routes_of("*", clusters)
    }

    fn routes_of(&mut self, domain: &str, clusters: &[&str]) -> bool {
        let weights = clusters.iter().map(|name| ClusterWeight { name: (*name).into(), weight: 1 }).collect();
        let action = RouteAction::Forward(Forward::weighted(weights).expect("weights"));
        let route = Route { name: "any".into(), action };
        let host = Arc::new(VirtualHost::new("host", vec![(RouteMatch::prefix(""), route)]));
        let routes = RouteConfiguration::new("routes", [([domain], host)]).expect("a domain");
        self.put(&ROUTE_CONFIGURATION, "routes", Arc::new(routes))
    }

    fn cluster(&mut self, name: &str, eds_service_name: Option<&str>) -> bool {
        let balancing = Balancing { by_locality: true, policy: EndpointPolicy::RoundRobin };
        let eds_service_name = eds_service_name.map(Into::into);
        let cluster = Cluster { name: name.into(), eds_service_name, balancing, connect_timeout: None };
        self.put(&CLUSTER, name, Arc::new(cluster))
    }

    fn endpoints(&mut self, name: &str) -> bool {
        self.put(&ENDPOINTS, name, Arc::new(Endpoints::default()))
    }

    fn missing(&mut self, resource_type: &'static ResourceType, name: &str) -> bool {
        self.set(resource_type, name, state(None, Verdict::DoesNotExist))
    }

    /// The clusters of the snapshot in force, with `!` on those that cannot be used.
    fn in_force(&self) -> String {
        let Some(snapshot) = &self.snapshot else { return "nothing".into() };
        let name = |entry: &Arc<ClusterEntry>| match &entry.config {
            Ok(_) => entry.key.name.to_string(),
            Err(_) => format!("{}!", entry.key.name),
        };
        match &snapshot.routing {
            Ok(_) => snapshot.clusters.iter().map(name).collect::<Vec<_>>().join(" "),
            Err(problem) => problem.to_string(),
        }
    }

    fn watched(&self, names: impl Fn(&Watched) -> &IndexSet<Arc<str>>) -> Vec<String> {
        names(self.dependencies.watched()).iter().map(|name| name.to_string()).collect()
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

#[test]
fn a_snapshot_is_published_once_everything_is_there() {
    let mut target = Target::new();
    assert!(!target.listener());
    assert_eq!(target.waiting_for.as_deref(), Some("RouteConfiguration `routes`"));
    assert!(!target.routes(&["a", "b"]));
    assert_eq!(target.waiting_for.as_deref(), Some("Cluster `a`"));
    assert!(!target.cluster("a", None) && !target.cluster("b", Some("b-eds")));
    assert_eq!(target.watched(|watched| &watched.endpoints), ["a", "b-eds"]);
    assert!(!target.endpoints("a"));
    assert_eq!(target.waiting_for.as_deref(), Some("ClusterLoadAssignment `b-eds`"));
    assert!(target.endpoints("b-eds"));
    assert_eq!((target.in_force(), target.waiting_for), ("a b".into(), None));
}

#[test]
fn routes_are_switched_only_when_the_new_clusters_are_complete() {
    let mut target = Target::serving(&["a"]);
    assert!(!target.routes(&["b"]));
    assert_eq!(target.watched(|watched| &watched.clusters), ["a", "b"]);
    assert!(!target.cluster("b", None));
    assert_eq!(target.in_force(), "a");
    assert!(target.endpoints("b"));
    assert_eq!(target.in_force(), "b");
    assert_eq!(target.watched(|watched| &watched.clusters), ["b"]);
    assert_eq!(target.watched(|watched| &watched.endpoints), ["b"]);
}

#[test]
fn routes_to_a_cluster_that_never_comes_leave_the_old_ones_in_force() {
    let mut target = Target::serving(&["a"]);
    target.routes(&["a", "ghost"]);
    assert!(!target.missing(&CLUSTER, "ghost"));
    assert_eq!(target.in_force(), "a");
    assert!(target.waiting_for.as_deref().is_some_and(|what| what.contains("Cluster `ghost` does not exist")));
    assert!(target.endpoints("a"), "endpoints of a cluster in force are taken over meanwhile");
    target.cluster("ghost", None);
    assert!(target.endpoints("ghost"));
    assert_eq!((target.in_force(), target.waiting_for), ("a ghost".into(), None));
}

#[test]
fn clusters_of_routes_that_were_never_in_force_are_left_when_other_routes_come() {
    let mut target = Target::serving(&["a"]);
    target.routes(&["a", "ghost"]);
    assert_eq!(target.watched(|watched| &watched.clusters), ["a", "ghost"]);
    assert!(!target.routes(&["a", "b"]));
    assert_eq!(target.watched(|watched| &watched.clusters), ["a", "b"]);
}

#[test]
fn a_missing_cluster_fails_by_name_when_there_is_nothing_older() {
    let mut target = Target::new();
    target.listener();
    target.routes(&["a", "ghost"]);
    target.cluster("a", None);
    target.endpoints("a");
    assert_eq!(target.in_force(), "nothing");
    assert!(target.missing(&CLUSTER, "ghost"));
    assert_eq!(target.in_force(), "a ghost!");
    assert!(target.routes(&["ghost", "a"]), "what fails already does not hold back other changes");
}

#[test]
fn a_listener_that_does_not_exist_fails_by_name() {
    let mut target = Target::new();
    assert!(target.missing(&LISTENER, "svc"));
    assert_eq!(target.in_force(), "Listener `svc` does not exist");
    target.listener();
    target.routes(&["a"]);
    target.cluster("a", None);
    target.endpoints("a");
    assert_eq!(target.in_force(), "a");
}

#[test]
fn routes_without_a_virtual_host_for_the_authority_are_obeyed() {
    let mut target = Target::serving(&["a"]);
    assert!(target.routes_of("other", &["a"]));
    assert!(target.in_force().contains("no virtual host"));
    assert!(target.routes(&["a"]));
    assert_eq!(target.in_force(), "a");
}

#[test]
fn an_update_of_one_cluster_leaves_the_entries_of_the_others() {
    let mut target = Target::serving(&["a", "b"]);
    let before = target.snapshot.clone().expect("a snapshot");
    assert!(target.endpoints("b"));
    let after = target.snapshot.clone().expect("a snapshot");
    assert!(Arc::ptr_eq(&before.clusters[0], &after.clusters[0]));
    assert!(!Arc::ptr_eq(&before.clusters[1], &after.clusters[1]));
}

#[test]
fn the_same_values_again_publish_nothing() {
    let mut target = Target::serving(&["a"]);
    let change = |resource_type, name: &str| Change { resource_type, name: name.into() };
    let all = [
        change(&LISTENER, "svc"),
        change(&ROUTE_CONFIGURATION, "routes"),
        change(&CLUSTER, "a"),
        change(&ENDPOINTS, "a"),
    ];
    let step = target.dependencies.handle_changes(&all, &target.store);
    assert!(step.publish.is_none());
}

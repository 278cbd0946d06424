use std::any::Any;
use std::time::Duration;

use super::*;
use crate::resource::ROUTE_CONFIGURATION;
use crate::resource::cluster::{
    AddressFamily, Balancing, Cluster, Discovery, DnsEndpoints, EndpointPolicy, Resolution,
};
use crate::resource::endpoints::{Address, Endpoint, Endpoints, LocalityEndpoints, Priority};
use crate::resource::listener::{Listener, RouteSource};
use crate::resource::matcher::RouteMatch;
use crate::resource::route::{ClusterWeight, Forward, Route, RouteAction};
use crate::resource::route_config::{RouteConfiguration, VirtualHost};
use crate::xds::resource_type::ResourceType;
use crate::xds::{ResourceState, Verdict};

/// The store as a target sees it.
#[derive(Default)]
struct Store(HashMap<(&'static str, String), ResourceState>, HashMap<String, Resolved>);

impl View for Store {
    fn get(&self, resource_type: &'static ResourceType, name: &str) -> ResourceState {
        let known = self.0.get(&(resource_type.type_url, name.to_owned())).cloned();
        known.unwrap_or_else(|| state(None, Verdict::Pending))
    }

    fn resolve(&self, name: &DnsName) -> Resolved {
        self.1.get(&*name.host).cloned().unwrap_or_default()
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
        let listener = Listener {
            routes: RouteSource::Named(routes.into()),
            max_stream_duration: None,
            filters: Default::default(),
        };
        self.put(&LISTENER, "svc", Arc::new(listener))
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
        let text = |endpoint: &Endpoint| match &endpoint.reached_at {
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

    fn watched(&self, names: impl Fn(&Watched) -> &IndexSet<Arc<str>>) -> Vec<String> {
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

#[test]
fn a_cluster_that_asks_eds_for_another_name_leaves_the_old_one() {
    let mut target = Target::serving(&["a"]);
    assert!(!target.cluster("a", Some("new")));
    assert_eq!(target.watched(|watched| &watched.endpoints), ["a", "new"]);
    assert_eq!(target.in_force(), "a", "the old endpoints serve on");
    assert!(target.endpoints("a"), "as they are by now");
    assert!(target.endpoints("new"));
    assert_eq!(target.watched(|watched| &watched.endpoints), ["new"]);
    assert!(!target.endpoints("a"), "what has the old name is no news");
}

#[test]
fn endpoints_that_are_named_anew_and_cannot_be_had_leave_the_old_ones_in_force() {
    let mut target = Target::serving(&["a"]);
    target.cluster("a", Some("ghost"));
    assert!(!target.missing(&ENDPOINTS, "ghost"));
    assert_eq!(target.in_force(), "a");
    let held = "the configuration in force stays: ClusterLoadAssignment `ghost` does not exist";
    assert_eq!(target.waiting_for.as_deref(), Some(held));
    assert!(target.endpoints("a"), "they go on to change");
    assert_eq!(target.waiting_for.as_deref(), Some(held));
    assert!(target.endpoints("ghost"));
    assert_eq!((target.in_force(), &target.waiting_for), ("a".into(), &None));
    assert!(target.missing(&ENDPOINTS, "ghost"), "what is in use and is taken away is gone");
    assert_eq!(target.in_force(), "a!");
}

#[test]
fn a_cluster_that_is_taken_away_is_gone_even_while_its_endpoints_are_held() {
    let mut target = Target::serving(&["a"]);
    target.cluster("a", Some("ghost"));
    target.missing(&ENDPOINTS, "ghost");
    assert!(target.missing(&CLUSTER, "a"));
    assert_eq!((target.in_force(), &target.waiting_for), ("a!".into(), &None));
}

#[test]
fn routes_that_are_named_anew_and_cannot_be_had_leave_the_old_ones_in_force() {
    let mut target = Target::serving(&["a"]);
    target.listener_to("ghost");
    assert!(!target.missing(&ROUTE_CONFIGURATION, "ghost"));
    assert_eq!(target.in_force(), "a");
    let held = "the routes in force stay: RouteConfiguration `ghost` does not exist";
    assert_eq!(target.waiting_for.as_deref(), Some(held));
    assert!(target.endpoints("a"), "endpoints of a cluster in force are taken over meanwhile");
    target.listener();
    assert_eq!((target.in_force(), &target.waiting_for), ("a".into(), &None));
    assert!(target.missing(&ROUTE_CONFIGURATION, "routes"), "what is in use and is taken away is gone");
    assert_eq!(target.in_force(), "RouteConfiguration `routes` does not exist");
}

#[test]
fn routes_in_force_go_on_to_change_while_others_are_awaited() {
    let mut target = Target::serving(&["a"]);
    let watched = |target: &Target| target.watched(|watched| &watched.routes);
    target.listener_to("other");
    assert_eq!(watched(&target), ["other", "routes"]);
    assert!(!target.routes(&["b"]));
    assert!(target.leaf("b"));
    assert_eq!(target.in_force(), "b");
    target.missing(&ROUTE_CONFIGURATION, "other");
    assert!(target.routes(&["a", "b"]) | target.leaf("a"));
    assert_eq!(target.in_force(), "a b");
    // What they name is there, but for a cluster.
    assert!(!target.routes_named("other", "*", &["c"]));
    assert!(target.routes(&["a"]));
    assert_eq!(target.watched(|watched| &watched.clusters), ["c", "a"]);
    assert!(target.leaf("c"));
    assert_eq!((target.in_force(), watched(&target)), ("c".into(), vec!["other".to_owned()]));
    assert_eq!(target.watched(|watched| &watched.clusters), ["c"]);
    assert!(!target.routes(&["b"]), "the older ones are no news");
}

#[test]
fn routes_that_a_listener_took_away_do_not_return_by_themselves() {
    let mut target = Target::serving(&["a"]);
    assert!(target.missing(&LISTENER, "svc"));
    assert_eq!(target.in_force(), "Listener `svc` does not exist");
    assert!(!target.listener_to("other"));
    assert!(!target.routes(&["a"]));
    assert_eq!(target.in_force(), "Listener `svc` does not exist");
    assert_eq!(target.waiting_for.as_deref(), Some("RouteConfiguration `other`"));
    assert!(target.routes_named("other", "*", &["a"]) | target.leaf("a"));
    assert_eq!(target.in_force(), "a");
}

#[test]
fn a_cluster_that_becomes_an_aggregate_without_leaves_serves_on() {
    let mut target = Target::serving(&["a"]);
    target.aggregate("a", &["ghost"]);
    assert!(!target.missing(&CLUSTER, "ghost"));
    assert_eq!(target.in_force(), "a");
    let held =
        "the configuration in force stays: aggregate cluster `a` has no usable cluster: Cluster `ghost` does not exist";
    assert_eq!(target.waiting_for.as_deref(), Some(held));
    assert!(target.endpoints("a"), "its endpoints go on to change");
    assert!(target.leaf("ghost"));
    assert_eq!((target.in_force(), &target.waiting_for), ("a(ghost)".into(), &None));
    assert_eq!(target.watched(|watched| &watched.endpoints), ["ghost"]);
    // And back again.
    assert!(!target.cluster("a", Some("new")));
    assert!(target.endpoints("ghost"), "the leaf in use is still followed");
    assert!(target.endpoints("new"));
    assert_eq!((target.in_force(), target.watched(|watched| &watched.clusters)), ("a".into(), vec!["a".to_owned()]));
}

#[test]
fn routes_that_never_were_there_fail_by_name() {
    let mut target = Target::new();
    target.listener();
    assert!(target.missing(&ROUTE_CONFIGURATION, "routes"));
    assert_eq!(target.in_force(), "RouteConfiguration `routes` does not exist");
}

#[test]
fn clusters_are_kept_while_routes_are_pending() {
    let mut target = Target::serving(&["a"]);
    target.listener_to("other");
    assert_eq!(target.waiting_for.as_deref(), Some("RouteConfiguration `other`"));
    assert_eq!(target.watched(|watched| &watched.clusters), ["a"]);
    assert!(target.endpoints("a"), "its endpoints are still taken over");
}

#[test]
fn an_aggregate_is_there_when_all_its_leaves_are() {
    let mut target = Target::to_aggregate(&["a", "inner", "b"]);
    assert_eq!(target.watched(|watched| &watched.clusters), ["all", "a", "inner", "b"]);
    assert!(!target.leaf("b") && !target.leaf("a"));
    assert_eq!(target.waiting_for.as_deref(), Some("Cluster `inner`"));
    assert!(!target.aggregate("inner", &["c", "a", "d"]));
    assert!(!target.leaf("c") && !target.cluster("d", Some("d-eds")));
    assert_eq!(target.waiting_for.as_deref(), Some("ClusterLoadAssignment `d-eds`"));
    assert!(target.endpoints("d-eds"));
    assert_eq!((target.in_force(), &target.waiting_for), ("all(a c d b)".into(), &None));
    assert!(target.routes(&["all", "inner"]), "a part of it can be named by itself");
    assert_eq!(target.in_force(), "all(a c d b) inner(c a d)");
}

#[test]
fn a_leaf_that_changed_is_the_only_one_that_is_new() {
    let mut target = Target::to_aggregate(&["a", "b"]);
    target.leaf("a");
    target.leaf("b");
    let leaves = |target: &Target| {
        let snapshot = target.snapshot.as_ref().expect("a snapshot");
        snapshot.clusters[0].leaves.as_ref().expect("an aggregate").entries.clone()
    };
    let before = leaves(&target);
    assert!(target.endpoints("b"));
    let after = leaves(&target);
    assert!(Arc::ptr_eq(&before[0], &after[0]) && !Arc::ptr_eq(&before[1], &after[1]));
}

#[test]
fn leaves_that_do_not_exist_are_passed_over() {
    let mut target = Target::to_aggregate(&["ghost", "a"]);
    target.leaf("a");
    assert!(target.missing(&CLUSTER, "ghost"));
    assert_eq!(target.in_force(), "all(a)");
    assert!(target.leaf("ghost"));
    assert_eq!(target.in_force(), "all(ghost a)");
    let mut target = Target::to_aggregate(&["ghost"]);
    assert!(target.missing(&CLUSTER, "ghost"));
    let wanted = "aggregate cluster `all` has no usable cluster: Cluster `ghost` does not exist";
    assert_eq!((target.in_force().as_str(), target.problem().as_str()), ("all!", wanted));
}

#[test]
fn a_cycle_of_aggregates_fails_by_name_until_it_is_broken() {
    let mut target = Target::to_aggregate(&["x"]);
    target.aggregate("x", &["a", "y"]);
    target.leaf("a");
    assert!(target.aggregate("y", &["x"]));
    assert_eq!(target.in_force(), "all!");
    assert_eq!(target.problem(), "aggregate clusters form a cycle: x > y > x");
    assert!(!target.aggregate("y", &["b"]), "there is no verdict on b yet");
    assert_eq!(target.watched(|watched| &watched.clusters), ["all", "x", "a", "y", "b"]);
    assert!(target.leaf("b"));
    assert_eq!(target.in_force(), "all(a b)");
    let target = Target::to_aggregate(&["all"]);
    assert_eq!(target.problem(), "aggregate clusters form a cycle: all > all");
}

#[test]
fn a_cycle_that_comes_later_leaves_the_good_leaves_in_force() {
    let mut target = Target::to_aggregate(&["a"]);
    target.leaf("a");
    assert!(!target.aggregate("all", &["b", "all"]));
    assert_eq!(target.in_force(), "all(a)");
    let why = target.waiting_for.clone().unwrap_or_default();
    assert!(why.ends_with("form a cycle: all > all"), "{why}");
    assert_eq!(target.watched(|watched| &watched.clusters), ["all", "a", "b"]);
    assert!(target.endpoints("a"), "the leaf in force is still followed");
    assert!(!target.aggregate("all", &["b"]));
    assert_eq!(target.waiting_for.as_deref(), None);
    assert!(target.leaf("b"));
    assert_eq!(target.in_force(), "all(b)");
    assert_eq!(target.watched(|watched| &watched.clusters), ["all", "b"]);
    assert_eq!(target.watched(|watched| &watched.endpoints), ["b"]);
}

#[test]
fn aggregates_are_nested_sixteen_deep_and_no_deeper() {
    for (depth, served) in [(15, true), (16, false)] {
        let mut target = Target::to_aggregate(&["1"]);
        for level in 1..depth {
            target.aggregate(&level.to_string(), &[&(level + 1).to_string()]);
        }
        target.leaf(&depth.to_string());
        match served {
            true => assert_eq!(target.in_force(), format!("all({depth})")),
            false => {
                assert!(target.problem().contains("nested more than 16 deep: all > 1 > 2 >"), "{}", target.problem())
            }
        }
    }
}

#[test]
fn many_ways_to_the_same_leaves_are_gone_once() {
    let mut target = Target::to_aggregate(&["0", "0"]);
    for level in 0..14 {
        let next = (level + 1).to_string();
        target.aggregate(&level.to_string(), &[&next, &next, "a"]);
    }
    target.leaf("14");
    target.leaf("a");
    assert_eq!(target.in_force(), "all(14 a)");
}

fn no_such_name() -> Resolved {
    let message = "DNS name `a.test` could not be resolved: there is no such name".into();
    Resolved::Failed(Problem { message, resource: "DNS name `a.test`".into(), next_step: "check the name" })
}

/// Routes to a cluster of names.
fn to_names(hosts: &[&str], logical: bool) -> Target {
    let mut target = Target::new();
    target.listener();
    target.routes(&["a"]);
    assert!(!target.dns("a", hosts, logical));
    target
}

#[test]
fn a_cluster_of_names_is_there_when_each_has_an_answer() {
    let mut target = to_names(&["a.test", "b.test"], false);
    assert_eq!(target.waiting_for.as_deref(), Some("DNS name `a.test`"));
    assert!(!target.answered("a.test", &["10.0.0.1", "10.0.0.2"]));
    assert!(target.answered("b.test", &["10.0.0.3"]));
    assert_eq!(target.addresses(), "10.0.0.1:80 10.0.0.2:80 10.0.0.3:80");
    assert!(!target.answered("b.test", &["10.0.0.3"]), "the same answer is no news");
    assert!(target.answered("b.test", &["10.0.0.4"]));
    assert_eq!(target.addresses(), "10.0.0.1:80 10.0.0.2:80 10.0.0.4:80");
}

#[test]
fn all_addresses_of_a_logical_name_are_one_endpoint() {
    let mut target = to_names(&["a.test"], true);
    assert!(target.answered("a.test", &["10.0.0.1", "10.0.0.2"]));
    assert_eq!(target.addresses(), "a.test:80=10.0.0.1:80|10.0.0.2:80");
}

#[test]
fn a_name_that_has_no_address_fails_by_name_unless_another_has() {
    let mut target = to_names(&["a.test"], true);
    assert!(target.resolved("a.test", no_such_name()));
    assert!(target.problem().contains("DNS name `a.test` could not be resolved"), "{}", target.problem());
    assert!(target.answered("a.test", &["10.0.0.1"]));
    assert_eq!(target.in_force(), "a");
    let mut target = to_names(&["a.test", "b.test"], false);
    target.resolved("a.test", no_such_name());
    assert!(target.answered("b.test", &["10.0.0.3"]));
    assert_eq!(target.addresses(), "10.0.0.3:80");
}

#[test]
fn names_are_left_with_their_cluster() {
    let mut target = to_names(&["a.test", "b.test"], false);
    target.answered("a.test", &["10.0.0.1"]);
    target.answered("b.test", &["10.0.0.2"]);
    target.dns("a", &["b.test", "c.test"], false);
    let names = |target: &Target| -> Vec<String> {
        target.dependencies.watched().names.iter().map(|name| name.host.to_string()).collect()
    };
    assert_eq!(names(&target), ["a.test", "b.test", "c.test"]);
    assert_eq!(target.addresses(), "10.0.0.1:80 10.0.0.2:80", "until the new name has an answer");
    assert!(target.answered("a.test", &["10.0.0.4"]));
    assert_eq!(target.addresses(), "10.0.0.4:80 10.0.0.2:80");
    assert!(!target.answered("a.test", &["10.0.0.4"]), "the same answer is no news");
    assert!(target.answered("c.test", &["10.0.0.3"]));
    assert_eq!(target.addresses(), "10.0.0.2:80 10.0.0.3:80");
    assert_eq!(names(&target), ["c.test", "b.test"]);
    target.leaf("a");
    assert!(names(&target).is_empty());
    assert_eq!(target.in_force(), "a");
}

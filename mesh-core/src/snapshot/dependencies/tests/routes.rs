//! Which routes are in force, and what becomes of them when newer ones cannot be had.

use super::*;

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

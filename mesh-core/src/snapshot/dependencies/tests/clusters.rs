//! Clusters and the endpoints they name.

use super::*;

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

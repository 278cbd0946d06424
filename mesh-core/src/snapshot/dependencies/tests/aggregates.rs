//! Aggregate clusters and the clusters they lead to.

use super::*;

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

//! Clusters whose endpoints are DNS names.

use super::*;

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

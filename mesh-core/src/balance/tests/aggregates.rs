//! Aggregate clusters: which leaf takes the calls.

use super::*;
use crate::connect::testing::{Answer, Reach};
use crate::connect::{ConnectivityState, SendErrorKind};
use crate::error::ErrorKind;

/// A cluster of one priority for each list of endpoints.
pub(super) fn leaf(name: &str, priorities: &[&[u16]]) -> Arc<ClusterEntry> {
    let priorities = priorities.iter().map(|endpoints| vec![(1, *endpoints)]).collect();
    let entry = entry(EndpointPolicy::RoundRobin, priorities);
    Arc::new(ClusterEntry::new(key(name), entry.config.clone()))
}

fn key(name: &str) -> ClusterKey {
    ClusterKey { source: "test".into(), name: name.into() }
}

pub(super) fn aggregate(leaves: &[&Arc<ClusterEntry>]) -> Arc<ClusterEntry> {
    let discovery = Discovery::Aggregate(leaves.iter().map(|leaf| leaf.key.name.clone()).collect());
    let cluster = Cluster { discovery, ..Cluster::plain("all".into(), Balancing::default()) };
    let leaves = leaves.iter().map(|leaf| (*leaf).clone()).collect();
    Arc::new(ClusterEntry::aggregate(key("all"), Arc::new(cluster), leaves))
}

fn leaf_in_use(entry: &ClusterEntry) -> String {
    entry.leaf().expect("an aggregate").key.name.to_string()
}

#[tokio::test(start_paused = true)]
async fn later_leaves_are_not_connected_while_an_earlier_one_works() {
    let mesh = Mesh::new();
    let entry = aggregate(&[&leaf("a", &[&[1], &[2]]), &leaf("b", &[&[3]])]);
    mesh.clusters.attach(&entry);
    assert_eq!(mesh.network.attempts(1), 0, "nor any before the first call");
    assert_eq!(mesh.calls(&entry, 5).await, [1; 5]);
    assert_eq!((mesh.network.attempts(2), mesh.network.attempts(3)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_priorities_of_the_leaves_are_tried_one_after_the_other_and_back() {
    let mesh = Mesh::new();
    let entry = aggregate(&[&leaf("a", &[&[1], &[2]]), &leaf("b", &[&[3], &[4]])]);
    for number in 1..=3 {
        mesh.network.reach(number, Reach::Refuses);
    }
    assert_eq!(mesh.calls(&entry, 5).await, [4; 5]);
    assert_eq!(leaf_in_use(&entry), "b");
    for number in [3, 2, 1] {
        mesh.network.reach(number, Reach::Accepts);
        seconds(200.0).await;
        assert_eq!(mesh.calls(&entry, 5).await, [number; 5]);
    }
    assert_eq!(leaf_in_use(&entry), "a");
}

#[tokio::test(start_paused = true)]
async fn a_leaf_that_does_not_answer_is_given_up_when_its_last_priority_is() {
    let options =
        BalanceOptions::new().connect_timeout(Duration::from_secs(60)).failover_timeout(Duration::from_secs(2));
    let mesh = Mesh::with(options);
    mesh.network.reach(1, Reach::Silent);
    mesh.network.reach(2, Reach::Silent);
    let entry = aggregate(&[&leaf("a", &[&[1], &[2]]), &leaf("b", &[&[3]])]);
    let before = tokio::time::Instant::now();
    assert_eq!(mesh.calls(&entry, 1).await, [3]);
    assert_eq!(before.elapsed().as_secs(), 4);
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_at_a_leaf_go_on_to_the_next() {
    let mesh = Mesh::new();
    mesh.network.reach(1, Reach::Silent);
    let entry = aggregate(&[&leaf("a", &[&[1]]), &leaf("b", &[&[2]])]);
    let waiting: Vec<_> = (0..10).map(|_| tokio::spawn(mesh.call(&entry))).collect();
    for call in waiting {
        assert_eq!(endpoint(&call.await.unwrap().unwrap()), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn no_call_fails_while_leaves_come_and_go() {
    let mesh = Mesh::new();
    let entry = aggregate(&[&leaf("a", &[&[1]]), &leaf("b", &[&[2]]), &leaf("c", &[&[3]])]);
    mesh.prepare(&entry).await;
    for number in [1, 2, 1, 2, 1] {
        mesh.network.reach(number, Reach::Refuses);
        mesh.network.cut(number);
        assert!(!mesh.calls(&entry, 3).await.contains(&number));
        mesh.network.reach(number, Reach::Accepts);
        seconds(10.0).await;
        assert_eq!(mesh.calls(&entry, 1).await, [1]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_an_endpoint_refuses_goes_to_whichever_leaf_takes_calls() {
    let mesh = Mesh::new();
    mesh.network.answer(1, Answer::Fails(SendErrorKind::Refused));
    let entry = aggregate(&[&leaf("a", &[&[1, 2]]), &leaf("b", &[&[3]])]);
    mesh.prepare(&entry).await;
    assert_eq!(mesh.calls(&entry, 4).await, [2; 4]);
}

#[tokio::test(start_paused = true)]
async fn when_every_leaf_failed_the_last_one_says_why() {
    let mesh = Mesh::new();
    mesh.network.reach(1, Reach::Refuses);
    mesh.network.reach(2, Reach::Refuses);
    let entry = aggregate(&[&leaf("a", &[&[1]]), &leaf("b", &[&[2]])]);
    let error = mesh.call(&entry).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoEndpoint);
    assert!(error.report().contains("cluster `b` has no ready endpoint"), "{}", error.report());
    let state = || mesh.clusters.connectivity(&entry).expect("it can be used");
    assert_eq!(state(), ConnectivityState::TransientFailure);
    mesh.network.reach(1, Reach::Accepts);
    seconds(5.0).await;
    assert_eq!(mesh.calls(&entry, 2).await, [1; 2]);
    assert_eq!(state(), ConnectivityState::Ready);
}

#[tokio::test(start_paused = true)]
async fn leaves_that_move_keep_their_connections_and_those_that_leave_are_closed() {
    let mesh = Mesh::new();
    let (a, b) = (leaf("a", &[&[1]]), leaf("b", &[&[2]]));
    let before = aggregate(&[&a, &b]);
    mesh.network.reach(1, Reach::Refuses);
    assert_eq!(mesh.calls(&before, 2).await, [2; 2]);
    let after = aggregate(&[&b, &leaf("c", &[&[3]])]);
    mesh.clusters.attach(&after);
    assert_eq!(mesh.calls(&after, 2).await, [2; 2]);
    assert_eq!(mesh.network.attempts(2), 1);
    assert_eq!(leaf_in_use(&before), "b", "calls that began before go where the others go");
    let attempts = mesh.network.attempts(1);
    drop((before, a));
    seconds(300.0).await;
    assert_eq!(mesh.network.attempts(1), attempts, "the leaf that left is not connected any more");
}

#[tokio::test(start_paused = true)]
async fn a_leaf_is_looked_after_as_long_as_calls_come_although_it_gets_none() {
    let second = Duration::from_secs(1);
    let options = BalanceOptions::new().backoff(second, 10 * second).idle_timeout(60 * second);
    let mesh = Mesh::with(options);
    let entry = aggregate(&[&leaf("a", &[&[1]]), &leaf("b", &[&[2]])]);
    mesh.network.reach(1, Reach::Refuses);
    for _ in 0..30 {
        assert_eq!(mesh.calls(&entry, 1).await, [2]);
        seconds(20.0).await;
    }
    mesh.network.reach(1, Reach::Accepts);
    seconds(15.0).await;
    assert_eq!(mesh.calls(&entry, 1).await, [1], "it was connected without a call");
    seconds(300.0).await;
    assert_eq!((mesh.network.open(1).len(), mesh.network.open(2).len()), (0, 0), "idle");
    assert_eq!(mesh.calls(&entry, 1).await, [1]);
}

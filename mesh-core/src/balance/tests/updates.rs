//! Configurations that change under running calls.

use super::*;
use crate::connect::ConnectivityState;
use crate::connect::testing::{Answer, Reach};
use crate::error::ErrorKind;

#[tokio::test(start_paused = true)]
async fn endpoints_that_stay_keep_their_connections() {
    let mesh = Mesh::new();
    let old = cluster(&[1, 2, 3, 4]);
    mesh.prepare(&old).await;
    let new = cluster(&[9, 4, 2, 1]);
    mesh.clusters.attach(&new);
    settle().await;
    let numbers = mesh.calls(&new, 8).await;
    assert_eq!([1, 2, 3, 4, 9].map(|number| count(&numbers, number)), [2, 2, 0, 2, 2]);
    assert_eq!([1, 2, 3, 4, 9].map(|number| mesh.network.attempts(number)), [1; 5]);
    assert!(mesh.network.open(3).is_empty());
}

#[tokio::test(start_paused = true)]
async fn calls_of_an_older_snapshot_use_the_newest_endpoints() {
    let mesh = Mesh::new();
    let old = cluster(&[1]);
    mesh.prepare(&old).await;
    let new = cluster(&[2]);
    mesh.clusters.attach(&new);
    settle().await;
    assert_eq!(mesh.calls(&old, 4).await, [2; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_removed_endpoint_drains() {
    let mesh = Mesh::new();
    mesh.network.answer(1, Answer::Streams);
    let entry = cluster(&[1]);
    let stream = mesh.call(&entry).await.unwrap();
    let connection = mesh.network.open(1).remove(0);
    mesh.clusters.attach(&cluster(&[2]));
    settle().await;
    assert!(connection.is_drained());
    assert_eq!(connection.in_flight(), 1, "the stream goes on");
    drop(stream);
    assert!(mesh.network.open(1).is_empty());
    seconds(300.0).await;
    assert_eq!(mesh.network.attempts(1), 1, "nothing reconnects it");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_removed_while_it_connects_is_given_up() {
    let mesh = Mesh::new();
    mesh.network.reach(1, Reach::Refuses);
    let entry = cluster(&[1, 2]);
    mesh.prepare(&entry).await;
    let new = cluster(&[2]);
    mesh.clusters.attach(&new);
    seconds(300.0).await;
    assert_eq!(mesh.network.attempts(1), 1);
    assert_eq!(mesh.calls(&new, 4).await, [2; 4]);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_returns_is_used_again() {
    let mesh = Mesh::new();
    let entry = cluster(&[1, 2]);
    mesh.prepare(&entry).await;
    let without = cluster(&[2]);
    mesh.clusters.attach(&without);
    settle().await;
    let with = cluster(&[1, 2]);
    mesh.clusters.attach(&with);
    settle().await;
    assert_eq!(count(&mesh.calls(&with, 10).await, 1), 5);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_left_and_returns_elsewhere_is_found_there() {
    let mesh = Mesh::new();
    let first = cluster(&[1]);
    mesh.calls(&first, 1).await;
    drop(first);
    settle().await;
    assert!(mesh.network.open(1).is_empty(), "no snapshot names the cluster");
    let second = cluster(&[2]);
    assert_eq!(mesh.calls(&second, 4).await, [2; 4]);
    assert_eq!(mesh.network.attempts(1), 1);
}

#[tokio::test(start_paused = true)]
async fn new_endpoints_get_calls_only_once_they_are_connected() {
    let mesh = Mesh::new();
    let old = cluster(&[1]);
    mesh.prepare(&old).await;
    mesh.network.reach(2, Reach::Silent);
    let new = cluster(&[1, 2]);
    mesh.clusters.attach(&new);
    assert_eq!(mesh.calls(&new, 20).await, [1; 20]);
}

#[tokio::test(start_paused = true)]
async fn all_endpoints_replaced_while_idle_costs_no_call() {
    let mesh = Mesh::new();
    let old: Vec<u16> = (1..=150).collect();
    let new: Vec<u16> = (1001..=1150).collect();
    let (old, new) = (cluster(&old), cluster(&new));
    mesh.prepare(&old).await;
    mesh.clusters.attach(&new);
    let numbers = mesh.calls(&new, 300).await;
    assert!(numbers.iter().all(|number| *number > 1000));
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_the_first_of_new_endpoints_even_if_the_old_ones_had_failed() {
    let mesh = Mesh::new();
    mesh.network.reach(1, Reach::Refuses);
    let old = cluster(&[1]);
    assert!(mesh.call(&old).await.is_err());
    let new = cluster(&[2]);
    mesh.clusters.attach(&new);
    assert_eq!(mesh.calls(&new, 1).await, [2]);
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_all_leave_fail_the_calls_that_wait() {
    let mesh = Mesh::new();
    mesh.network.reach(1, Reach::Silent);
    let entry = cluster(&[1]);
    let waiting = tokio::spawn(mesh.call(&entry));
    settle().await;
    mesh.clusters.attach(&cluster(&[]));
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoEndpoint);
    assert!(error.to_string().contains("has no endpoints"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_changed_policy_takes_over_without_reconnecting() {
    let mesh = Mesh::new();
    let old = cluster(&[1, 2]);
    mesh.prepare(&old).await;
    mesh.network.answer(1, Answer::Streams);
    let new = entry(EndpointPolicy::LeastRequest { choices: 10 }, vec![vec![(1, &[1, 2])]]);
    mesh.clusters.attach(&new);
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(mesh.call(&new).await.unwrap());
        held.retain(|response| endpoint(response) == 1);
    }
    // Streams count until their end, so that their endpoint is avoided.
    assert!(mesh.network.calls(1) < 10, "{}", mesh.network.calls(1));
    assert_eq!(mesh.network.attempts(1), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_cannot_be_used_says_why() {
    let mesh = Mesh::new();
    let mut entry = Arc::into_inner(cluster(&[1])).unwrap();
    entry.config = Err(crate::snapshot::Problem {
        message: "Cluster `greeter` does not exist".into(),
        resource: "Cluster greeter".into(),
        next_step: "define it",
    });
    let entry = Arc::new(entry);
    mesh.clusters.prepare(&entry);
    let error = mesh.call(&entry).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::Configuration, "Cluster `greeter` does not exist")
    );
    assert!(mesh.clusters.connectivity(&entry).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_two_meshes_share_serves_both() {
    let (first, second) = (Mesh::new(), Mesh::new());
    let entry = cluster(&[1]);
    assert_eq!(first.calls(&entry, 3).await, [1; 3]);
    assert_eq!(second.calls(&entry, 3).await, [1; 3]);
    assert_eq!([&first, &second].map(|mesh| mesh.network.attempts(1)), [1, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_endpoints_come_and_go_under_load() {
    let mesh = Mesh::new();
    let entries = [cluster(&[1, 2, 3]), cluster(&[1, 3, 4]), cluster(&[4, 2, 1, 5])];
    let calls = [(); 4].map(|()| {
        let (clusters, entries) = (mesh.clusters.clone(), entries.clone());
        tokio::spawn(async move {
            for number in 0..2_000 {
                let mut request = Request::new(());
                let cluster = Some(entries[number % 3].clone());
                request.extensions_mut().insert(Call { cluster, ..Call::default() });
                Balance::of(clusters.clone()).call(request).await.unwrap();
            }
        })
    });
    let mut rounds = 0_u16;
    while calls.iter().any(|calls| !calls.is_finished()) {
        let config = entries[usize::from(rounds) % 3].config.as_ref().unwrap();
        let newer = ClusterEntry::new(entries[0].key.clone(), Ok(config.clone()));
        mesh.clusters.balancer(&entries[0]).unwrap().update(&newer, config);
        // The first is in every configuration, and stays.
        mesh.network.goaway(2 + rounds % 4);
        rounds = rounds.wrapping_add(1);
        tokio::task::yield_now().await;
    }
    for calls in calls {
        calls.await.unwrap();
    }
    assert!(rounds > 10, "{rounds}");
    assert!(mesh.clusters.states(&entries[0]).iter().all(|endpoint| endpoint.in_flight == 0));
}

#[tokio::test(start_paused = true)]
async fn a_cluster_has_running_state_from_its_first_call_on_and_whoever_calls_goes_by_the_newest_configuration() {
    let mesh = Mesh::new();
    let (old, new) = (cluster(&[1]), cluster(&[2]));
    for entry in [&old, &new] {
        mesh.clusters.attach(entry);
        assert!(mesh.clusters.attached(entry).is_none());
        assert_eq!(mesh.clusters.connectivity(entry), Some(ConnectivityState::Idle));
    }
    assert_eq!(mesh.calls(&new, 1).await, [2]);
    // They took their snapshot before, and are the first of it.
    assert_eq!(mesh.calls(&old, 4).await, [2; 4]);
    assert_eq!(mesh.calls(&new, 4).await, [2; 4]);
    assert_eq!(mesh.network.attempts(1), 0);
}

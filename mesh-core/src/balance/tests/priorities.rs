//! Failover between priorities, and back.

use super::*;
use crate::connect::ConnectivityState;
use crate::connect::testing::Reach;

fn two() -> Arc<ClusterEntry> {
    entry(EndpointPolicy::RoundRobin, vec![vec![(1, &[1, 2])], vec![(1, &[3])]])
}

#[tokio::test(start_paused = true)]
async fn a_lower_priority_is_not_even_connected_while_one_above_works() {
    let mesh = Mesh::new();
    mesh.network.reach(1, Reach::Refuses);
    let entry = two();
    assert_eq!(mesh.calls(&entry, 10).await, [2; 10]);
    assert_eq!(mesh.network.attempts(3), 0);
}

#[tokio::test(start_paused = true)]
async fn calls_fail_over_when_a_priority_fails_and_back_when_it_returns() {
    let mesh = Mesh::new();
    let entry = two();
    mesh.prepare(&entry).await;
    seconds(60.0).await;
    for number in [1, 2] {
        mesh.network.reach(number, Reach::Refuses);
        mesh.network.cut(number);
    }
    assert_eq!(mesh.calls(&entry, 10).await, [3; 10]);
    mesh.network.reach(2, Reach::Accepts);
    seconds(2.0).await;
    assert_eq!(mesh.calls(&entry, 10).await, [2; 10]);
    assert_eq!(mesh.network.open(3).len(), 1, "kept for a while");
    seconds(25.0 * 60.0).await;
    assert_eq!(mesh.network.open(3).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_priority_that_does_not_answer_is_given_up_after_the_failover_time() {
    let options =
        BalanceOptions::new().connect_timeout(Duration::from_secs(60)).failover_timeout(Duration::from_secs(2));
    let mesh = Mesh::with(options);
    mesh.network.reach(1, Reach::Silent);
    mesh.network.reach(2, Reach::Silent);
    let entry = two();
    let before = tokio::time::Instant::now();
    assert_eq!(mesh.calls(&entry, 1).await, [3]);
    assert_eq!(before.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn endpoints_keep_their_connections_when_they_change_priority() {
    let mesh = Mesh::new();
    mesh.prepare(&two()).await;
    let old = two();
    mesh.prepare(&old).await;
    let moved = entry(EndpointPolicy::RoundRobin, vec![vec![(1, &[2])], vec![(1, &[1, 3])]]);
    let attempts = mesh.network.attempts(2);
    mesh.clusters.attach(&moved);
    assert_eq!(mesh.calls(&moved, 5).await, [2; 5]);
    assert_eq!(mesh.network.attempts(2), attempts);
}

#[tokio::test(start_paused = true)]
async fn a_priority_without_usable_endpoints_is_passed_over() {
    let mesh = Mesh::new();
    let entry = entry(EndpointPolicy::RoundRobin, vec![vec![], vec![(1, &[3])]]);
    let before = tokio::time::Instant::now();
    assert_eq!(mesh.calls(&entry, 1).await, [3]);
    assert!(before.elapsed() < Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn endpoints_of_a_priority_that_is_not_in_use_do_not_rebuild_the_picker_one_by_one() {
    let (upper, lower): (Vec<u16>, Vec<u16>) = ((1..=100).collect(), (101..=200).collect());
    let mesh = Mesh::new();
    let entry = entry(EndpointPolicy::RoundRobin, vec![vec![(1, &upper)], vec![(1, &lower)]]);
    mesh.prepare(&entry).await;
    seconds(60.0).await;
    upper.iter().for_each(|number| mesh.network.reach(*number, Reach::Refuses));
    upper.iter().for_each(|number| mesh.network.cut(*number));
    assert!(mesh.calls(&entry, 1).await[0] > 100);
    upper.iter().for_each(|number| mesh.network.reach(*number, Reach::Accepts));
    seconds(60.0).await;
    assert!(mesh.calls(&entry, 1).await[0] <= 100);

    // Calls hope for the upper priority again, while all of the lower one, which was kept, is connected anew.
    upper.iter().for_each(|number| mesh.network.reach(*number, Reach::Silent));
    (1..=200).for_each(|number| mesh.network.cut(number));
    let before = mesh.clusters.balancer(&entry).unwrap().rebuilds();
    seconds(1.0).await;
    assert!(lower.iter().all(|number| mesh.network.open(*number).len() == 1));
    let balancer = mesh.clusters.balancer(&entry).unwrap();
    assert_eq!(balancer.connectivity_now(), ConnectivityState::Connecting);
    assert!(balancer.rebuilds() - before <= 10, "{} rebuilds", balancer.rebuilds() - before);
}

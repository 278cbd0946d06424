//! Envoy's profile: spill over priorities, degraded endpoints, panic.

use super::*;
use crate::connect::SendErrorKind;
use crate::connect::testing::{Answer, Reach};
use crate::profile::Profile;
use crate::resource::outlier_detection::OutlierDetection;

fn mesh() -> Mesh {
    Mesh::with(BalanceOptions::new().profile(Profile::Envoy))
}

/// Endpoints 1 to 10 of priority 0 and 11 to 20 of priority 1; of these health.
fn two(health: impl Fn(u16) -> Health) -> Arc<ClusterEntry> {
    let (first, second): (Vec<u16>, Vec<u16>) = ((1..=10).collect(), (11..=20).collect());
    entry_with(EndpointPolicy::RoundRobin, vec![vec![(1, &first)], vec![(1, &second)]], health)
}

fn unhealthy_if(bad: impl Fn(u16) -> bool) -> impl Fn(u16) -> Health {
    move |number| if bad(number) { Health::Unhealthy } else { Health::Healthy }
}

/// How many of a thousand calls go to endpoints of these numbers.
async fn share(mesh: &Mesh, entry: &Arc<ClusterEntry>, numbers: impl Fn(u16) -> bool) -> usize {
    // Chance is the same in every run.
    fastrand::seed(7);
    mesh.calls(entry, 1000).await.into_iter().filter(|number| numbers(*number)).count()
}

/// Four standard deviations of a share of a thousand.
#[track_caller]
fn assert_about(found: usize, wanted: f64) {
    let deviation = (1000.0 * wanted * (1.0 - wanted)).sqrt();
    assert!((found as f64 - 1000.0 * wanted).abs() <= 4.0 * deviation, "{found} of 1000, not {wanted}");
}

#[tokio::test(start_paused = true)]
async fn a_priority_with_enough_healthy_endpoints_takes_all_calls() {
    let mesh = mesh();
    let entry = two(unhealthy_if(|number| number <= 2));
    mesh.prepare(&entry).await;
    assert_eq!(share(&mesh, &entry, |number| (3..=10).contains(&number)).await, 1000);
    assert_eq!((mesh.network.attempts(1), mesh.network.attempts(11)), (0, 0), "the others are not even connected");
}

#[tokio::test(start_paused = true)]
async fn what_a_priority_cannot_take_spills_over() {
    let mesh = mesh();
    let entry = two(unhealthy_if(|number| number <= 5));
    mesh.prepare(&entry).await;
    assert_about(share(&mesh, &entry, |number| number <= 10).await, 0.7);
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_cannot_be_reached_make_calls_spill_over_until_they_can() {
    let mesh = mesh();
    for number in 1..=5 {
        mesh.network.reach(number, Reach::Refuses);
    }
    let entry = two(unhealthy_if(|_| false));
    mesh.prepare(&entry).await;
    assert_about(share(&mesh, &entry, |number| number <= 10).await, 0.7);
    for number in 6..=10 {
        mesh.network.reach(number, Reach::Refuses);
        mesh.network.cut(number);
    }
    settle().await;
    assert_eq!(share(&mesh, &entry, |number| number > 10).await, 1000);
    for number in 1..=10 {
        mesh.network.reach(number, Reach::Accepts);
    }
    seconds(60.0).await;
    assert_eq!(share(&mesh, &entry, |number| number <= 10).await, 1000);
    assert_eq!(mesh.network.open(11).len(), 1, "kept for a while");
    seconds(25.0 * 60.0).await;
    assert_eq!(mesh.network.open(11).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn ejected_endpoints_make_calls_spill_over_until_they_return() {
    let mesh = mesh();
    let entry = two(unhealthy_if(|_| false));
    let config = entry.config.as_ref().unwrap();
    let ejecting = Some(OutlierDetection { max_ejection_percent: 100, ..OutlierDetection::LOCAL }.into());
    let cluster = Cluster { outlier_detection: ejecting, ..Cluster::clone(&config.cluster) };
    let config = ClusterConfig { cluster: Arc::new(cluster), endpoints: config.endpoints.clone() };
    let entry = Arc::new(ClusterEntry::new(entry.key.clone(), Ok(config)));
    mesh.prepare(&entry).await;
    (1..=5).for_each(|number| mesh.network.answer(number, Answer::Fails(SendErrorKind::Reset(2))));
    let mut failed = 0;
    for _ in 0..100 {
        failed += u32::from(mesh.call(&entry).await.is_err());
    }
    assert_eq!(failed, 25, "five of each in a row");
    assert_about(share(&mesh, &entry, |number| (6..=10).contains(&number)).await, 0.7);
    (1..=5).for_each(|number| mesh.network.answer(number, Answer::Responds));
    seconds(21.0).await;
    assert_eq!(share(&mesh, &entry, |number| number <= 10).await, 1000);
}

#[tokio::test(start_paused = true)]
async fn a_priority_that_is_down_for_long_is_still_looked_after() {
    let mesh = mesh();
    let entry = two(unhealthy_if(|_| false));
    (1..=10).for_each(|number| mesh.network.reach(number, Reach::Refuses));
    for _ in 0..6 {
        assert_eq!(share(&mesh, &entry, |number| number > 10).await, 1000);
        seconds(10.0 * 60.0).await;
    }
    (1..=10).for_each(|number| mesh.network.reach(number, Reach::Accepts));
    seconds(200.0).await;
    assert_eq!(share(&mesh, &entry, |number| number <= 10).await, 1000);
}

#[tokio::test(start_paused = true)]
async fn degraded_endpoints_take_what_healthy_ones_cannot() {
    let mesh = mesh();
    let health = |number| match number {
        1..=5 => Health::Healthy,
        6..=10 => Health::Degraded,
        _ => Health::Unhealthy,
    };
    let entry = two(health);
    mesh.prepare(&entry).await;
    assert_about(share(&mesh, &entry, |number| number <= 5).await, 0.7);
    assert_about(share(&mesh, &entry, |number| (6..=10).contains(&number)).await, 0.3);
}

#[tokio::test(start_paused = true)]
async fn in_a_panic_the_unhealthy_are_called_if_they_are_connected() {
    let mesh = mesh();
    let numbers: Vec<u16> = (1..=10).collect();
    let only = |bad: u16| {
        let health = unhealthy_if(move |number| number <= bad);
        entry_with(EndpointPolicy::RoundRobin, vec![vec![(1, &numbers)]], health)
    };
    let (calm, panic) = (only(5), only(6));
    mesh.prepare(&calm).await;
    assert_eq!(share(&mesh, &calm, |number| number > 5).await, 1000);
    mesh.network.reach(1, Reach::Refuses);
    mesh.clusters.attach(&panic);
    settle().await;
    let calls = mesh.calls(&panic, 900).await;
    assert_eq!((2..=10).map(|number| count(&calls, number)).collect::<Vec<_>>(), [100; 9]);
    mesh.clusters.attach(&only(4));
    settle().await;
    assert_eq!(share(&mesh, &panic, |number| number > 4).await, 1000);
    assert_eq!(mesh.network.open(2).len(), 0, "let go of when it is over");
}

#[tokio::test(start_paused = true)]
async fn weighted_localities_share_what_their_priority_gets() {
    let mesh = mesh();
    let bad = unhealthy_if(|number| number == 9 || number == 10);
    let localities: Vec<(u32, &[u16])> = vec![(3, &[1]), (1, &[2]), (1, &[9, 10])];
    let entry = entry_with(EndpointPolicy::RoundRobin, vec![localities, vec![(1, &[3])]], bad);
    mesh.prepare(&entry).await;
    // Two of four are healthy: 70 % of the calls, three quarters of them to the first locality.
    assert_about(share(&mesh, &entry, |number| number == 1).await, 0.525);
    assert_about(share(&mesh, &entry, |number| number == 2).await, 0.175);
    assert_about(share(&mesh, &entry, |number| number == 3).await, 0.3);
}

#[tokio::test(start_paused = true)]
async fn without_an_endpoint_that_can_be_reached_calls_fail_and_say_why() {
    let mesh = mesh();
    (1..=20).for_each(|number| mesh.network.reach(number, Reach::Refuses));
    let entry = two(unhealthy_if(|_| false));
    let error = mesh.call(&entry).await.unwrap_err();
    assert!(error.report().contains("cluster `greeter` has no ready endpoint: 20 in backoff"), "{}", error.report());
    let empty = entry_with(EndpointPolicy::RoundRobin, vec![], |_| Health::Healthy);
    mesh.clusters.attach(&empty);
    assert!(mesh.call(&empty).await.is_err());
}

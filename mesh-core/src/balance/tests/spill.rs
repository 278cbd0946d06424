//! Envoy's profile: spill over priorities, degraded endpoints, panic.

use super::*;
use crate::connect::SendErrorKind;
use crate::connect::testing::{Answer, Reach};
use crate::profile::Profile;
use crate::resource::outlier_detection::OutlierDetection;
use crate::resource::zone_aware::ZoneAware;

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

/// The cluster, balanced so, with outlier detection that may eject all but the last.
fn ejecting(entry: &Arc<ClusterEntry>, balancing: Balancing) -> Arc<ClusterEntry> {
    let config = entry.config.as_ref().unwrap();
    let ejecting = Some(OutlierDetection { max_ejection_percent: 100, ..OutlierDetection::LOCAL }.into());
    let cluster = Cluster { outlier_detection: ejecting, balancing, ..Cluster::clone(&config.cluster) };
    let config = ClusterConfig { cluster: Arc::new(cluster), endpoints: config.endpoints.clone() };
    Arc::new(ClusterEntry::new(entry.key.clone(), Ok(config)))
}

/// Has these endpoints fail from now on; how many of the next 100 calls do.
async fn fail(mesh: &Mesh, entry: &Arc<ClusterEntry>, numbers: std::ops::RangeInclusive<u16>) -> usize {
    numbers.for_each(|number| mesh.network.answer(number, Answer::Fails(SendErrorKind::Reset(2))));
    let mut failed = 0;
    for _ in 0..100 {
        failed += usize::from(mesh.call(entry).await.is_err());
    }
    failed
}

fn ejected(mesh: &Mesh, entry: &Arc<ClusterEntry>) -> usize {
    mesh.clusters.states(entry).iter().filter(|endpoint| endpoint.ejected.is_some()).count()
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
    let entry = ejecting(&two(unhealthy_if(|_| false)), Balancing::new(true, EndpointPolicy::RoundRobin));
    mesh.prepare(&entry).await;
    assert_eq!(fail(&mesh, &entry, 1..=5).await, 25, "five of each in a row");
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
async fn in_a_panic_the_ejected_are_called_and_when_it_is_over_no_more() {
    let mesh = mesh();
    let numbers: Vec<u16> = (1..=24).collect();
    let of = |count: usize| {
        let entry = entry(EndpointPolicy::RoundRobin, vec![vec![(1, &numbers[..count])]]);
        ejecting(&entry, Balancing::new(true, EndpointPolicy::RoundRobin))
    };
    let ten = of(10);
    mesh.prepare(&ten).await;
    fail(&mesh, &ten, 1..=5).await;
    assert_eq!(share(&mesh, &ten, |number| number > 5).await, 1000, "a half is enough");
    fail(&mesh, &ten, 6..=6).await;
    (1..=6).for_each(|number| mesh.network.answer(number, Answer::Responds));
    let calls = mesh.calls(&ten, 1000).await;
    assert_eq!((1..=10).map(|number| count(&calls, number)).collect::<Vec<_>>(), [100; 10]);
    assert_eq!(ejected(&mesh, &ten), 6, "they are so all the same");
    let more = of(24);
    mesh.clusters.attach(&more);
    settle().await;
    assert_eq!(share(&mesh, &more, |number| number > 6).await, 1000, "of 24, six are few");
    seconds(21.0).await;
    assert_eq!(ejected(&mesh, &more), 0);
    assert!(share(&mesh, &more, |number| number <= 6).await > 0, "they are back");
}

#[tokio::test(start_paused = true)]
async fn in_a_panic_as_ever_the_last_is_not_ejected() {
    let mesh = mesh();
    let entry = ejecting(&cluster(&[1, 2, 3, 4]), Balancing::new(true, EndpointPolicy::RoundRobin));
    mesh.prepare(&entry).await;
    assert_eq!(fail(&mesh, &entry, 1..=4).await, 100);
    assert_eq!(ejected(&mesh, &entry), 3);
}

#[tokio::test(start_paused = true)]
async fn only_the_priority_that_panics_has_its_ejected_called() {
    let mesh = mesh();
    let policy = Balancing::new(true, EndpointPolicy::RoundRobin);
    let entry = ejecting(&two(unhealthy_if(|number| (11..=15).contains(&number))), policy);
    mesh.prepare(&entry).await;
    fail(&mesh, &entry, 1..=8).await;
    (1..=8).for_each(|number| mesh.network.answer(number, Answer::Responds));
    // That they are called makes them no more available for those who choose again.
    mesh.network.cut(9);
    settle().await;
    // Two of ten can take 28 %, five of ten 70 %: not all, and only the two are less than a half.
    assert_about(share(&mesh, &entry, |number| number <= 10).await, 28.0 / 98.0);
    assert_about(share(&mesh, &entry, |number| number <= 8).await, 0.8 * 28.0 / 98.0);
    assert_eq!(share(&mesh, &entry, |number| (11..=15).contains(&number)).await, 0);
}

#[tokio::test(start_paused = true)]
async fn in_a_panic_by_ejections_calls_fail_if_that_is_asked() {
    let mesh = mesh();
    let zones = Some(ZoneAware { fail_traffic_on_panic: true, ..ZoneAware::default() });
    let balancing = Balancing { zones, ..Balancing::new(true, EndpointPolicy::RoundRobin) };
    let (numbers, policy) = ([1, 2, 3, 4, 5, 6], EndpointPolicy::RoundRobin);
    let of_six = entry_with(policy, vec![vec![(1, &numbers)]], unhealthy_if(|number| number == 6));
    let entry = ejecting(&of_six, balancing);
    mesh.prepare(&entry).await;
    fail(&mesh, &entry, 1..=2).await;
    assert_eq!(share(&mesh, &entry, |number| number > 2).await, 1000);
    fail(&mesh, &entry, 3..=3).await;
    let error = mesh.call(&entry).await.unwrap_err();
    assert!(
        error.report().contains("cluster `greeter` has no endpoint for this call: 3 ejected, 2 ready"),
        "{}",
        error.report()
    );
    settle().await;
    assert_eq!(mesh.network.attempts(6), 0, "what takes no calls is not connected for them");
    seconds(21.0).await;
    assert!(mesh.call(&entry).await.is_ok(), "they are back");
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

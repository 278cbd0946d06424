//! Outlier detection in a cluster in use: when it looks, and what it costs while there is nothing to see.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::balance::{Choice, Member, PickRequest, Policy};
use crate::connect::SendErrorKind;
use crate::connect::testing::Answer;
use crate::resource::cluster::{Balancing, EndpointPolicy};
use crate::resource::outlier_detection::{Consecutive, FailurePercentage, OutlierDetection};
use crate::resource::slow_start::SlowStart;
use crate::resource::weighted_round_robin::WeightedRoundRobin;

/// A cluster whose endpoints are ejected for failing most of five calls or more.
fn watched(endpoints: &[u16]) -> Arc<ClusterEntry> {
    let failure_percentage = FailurePercentage { threshold: 50, enforcing: 100, minimum_hosts: 2, request_volume: 5 };
    let policy = OutlierDetection {
        base_ejection_time: Duration::from_secs(30),
        failure_percentage: Some(failure_percentage),
        consecutive_local_origin_failure: None,
        ..OutlierDetection::LOCAL
    };
    watched_by(policy, endpoints)
}

fn watched_by(policy: OutlierDetection, endpoints: &[u16]) -> Arc<ClusterEntry> {
    let entry = cluster(endpoints);
    let config = entry.config.as_ref().unwrap();
    let cluster = Cluster { outlier_detection: Some(policy.into()), ..Cluster::clone(&config.cluster) };
    let config = ClusterConfig { cluster: Arc::new(cluster), endpoints: config.endpoints.clone() };
    Arc::new(ClusterEntry::new(entry.key.clone(), Ok(config)))
}

/// Ends each response, as a call that is not read to its end says nothing of its endpoint.
async fn calls_to_the_end(mesh: &Mesh, entry: &Arc<ClusterEntry>, count: usize) -> usize {
    let mut failed = 0;
    for _ in 0..count {
        match mesh.call(entry).await {
            Ok(response) => drop(http_body_util::BodyExt::collect(response.into_body()).await.unwrap()),
            Err(_) => failed += 1,
        }
    }
    failed
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_is_ejected_at_the_end_of_the_interval_and_returns_at_the_end_of_another() {
    let mesh = Mesh::new();
    let entry = watched(&[1, 2, 3]);
    mesh.prepare(&entry).await;
    mesh.network.answer(1, Answer::Fails(SendErrorKind::Reset(2)));
    assert_eq!(calls_to_the_end(&mesh, &entry, 30).await, 10);
    // The interval of 10 s began before.
    seconds(10.0).await;
    assert_eq!(calls_to_the_end(&mesh, &entry, 30).await, 0);
    assert_eq!(mesh.network.open(1).len(), 1, "its connection is kept");
    mesh.network.answer(1, Answer::Responds);
    seconds(29.0).await;
    assert_eq!(count(&mesh.calls(&entry, 30).await, 1), 0);
    seconds(12.0).await;
    assert!(mesh.calls(&entry, 300).await.contains(&1), "its share grows again");
    seconds(10.0).await;
    assert_eq!(count(&mesh.calls(&entry, 30).await, 1), 10);
}

/// What the first of three endpoints gets of 600 calls at once after its ejection of 30 s is over, 5 s later and after as much
/// again.
async fn back_from_ejection(options: BalanceOptions, policy: EndpointPolicy) -> [usize; 3] {
    // Chance is the same in every run.
    fastrand::seed(7);
    let mesh = Mesh::with(options);
    let entry = watched(&[1, 2, 3]);
    let config = entry.config.as_ref().unwrap();
    let cluster = Cluster { balancing: Balancing::new(true, policy), ..Cluster::clone(&config.cluster) };
    let config = ClusterConfig { cluster: Arc::new(cluster), endpoints: config.endpoints.clone() };
    let entry = Arc::new(ClusterEntry::new(entry.key.clone(), Ok(config)));
    mesh.prepare(&entry).await;
    // None is new any more.
    seconds(100.0).await;
    mesh.network.answer(1, Answer::Fails(SendErrorKind::Reset(2)));
    calls_to_the_end(&mesh, &entry, 60).await;
    seconds(10.5).await;
    assert_eq!(calls_to_the_end(&mesh, &entry, 30).await, 0, "it is ejected");
    mesh.network.answer(1, Answer::Responds);
    // At the end of an interval; the last call may be as far from it as a tick.
    while count(&mesh.calls(&entry, 30).await, 1) == 0 {
        seconds(0.5).await;
    }
    let mut shares = [0; 3];
    for share in &mut shares {
        *share = count(&mesh.calls(&entry, 600).await, 1);
        seconds(5.0).await;
    }
    shares
}

#[tokio::test(start_paused = true)]
async fn after_its_ejection_an_endpoint_gets_its_share_bit_by_bit_by_every_policy_with_shares() {
    let weighted = WeightedRoundRobin { blackout_period: Duration::ZERO, ..WeightedRoundRobin::default() };
    for policy in [
        EndpointPolicy::RoundRobin,
        EndpointPolicy::LeastRequest { choices: 2 },
        EndpointPolicy::Random,
        EndpointPolicy::WeightedRoundRobin(Arc::new(weighted)),
    ] {
        let [at_first, later, at_last] = back_from_ejection(BalanceOptions::new(), policy.clone()).await;
        assert!((1..70).contains(&at_first), "{policy:?}: {at_first} at first");
        assert!((70..160).contains(&later), "{policy:?}: {later} in the middle");
        assert!((160..240).contains(&at_last), "{policy:?}: {at_last} at last");
    }
}

#[tokio::test(start_paused = true)]
async fn code_turns_slow_start_after_ejections_off() {
    let options = BalanceOptions::new().slow_start(Duration::ZERO);
    assert_eq!(back_from_ejection(options, EndpointPolicy::RoundRobin).await, [200; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_policy_of_the_applications_keeps_the_slow_start_of_the_one_in_whose_place_it_is() {
    let turns = |_: &[Member]| Box::new(Turns(AtomicUsize::new(0))) as Box<dyn Policy>;
    let slow_start = SlowStart::evenly(Duration::from_secs(100)).unwrap();
    let slowly = EndpointPolicy::SlowStart { policy: Box::new(EndpointPolicy::RoundRobin), slow_start };
    for (policy, most) in [(slowly, 80), (EndpointPolicy::RoundRobin, 160)] {
        let [at_first, later, _] = back_from_ejection(BalanceOptions::new().policy(turns), policy.clone()).await;
        assert!((1..80).contains(&at_first), "{policy:?}: {at_first} at first");
        assert!((1..most).contains(&later), "{policy:?}: {later} after 5 s");
    }
}

struct Turns(AtomicUsize);

impl Policy for Turns {
    fn pick(&self, members: &[Member], _: &PickRequest<'_>) -> Choice {
        Choice::Endpoint(self.0.fetch_add(1, Ordering::Relaxed) % members.len())
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_longer_than_a_lowered_limit_does_not_keep_its_endpoint() {
    let mesh = Mesh::new();
    let after = |failures| {
        let consecutive_local_origin_failure = Some(Consecutive { failures, enforcing: 100 });
        watched_by(OutlierDetection { consecutive_local_origin_failure, ..OutlierDetection::LOCAL }, &[1, 2])
    };
    let entry = after(100);
    mesh.prepare(&entry).await;
    mesh.network.answer(1, Answer::Fails(SendErrorKind::Reset(2)));
    assert_eq!(calls_to_the_end(&mesh, &entry, 40).await, 20);
    let entry = after(5);
    assert_eq!(calls_to_the_end(&mesh, &entry, 40).await, 5);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_calls_has_no_timer() {
    let mesh = Mesh::new();
    let entry = watched(&[1, 2, 3]);
    mesh.prepare(&entry).await;
    let idle = tasks();
    calls_to_the_end(&mesh, &entry, 1).await;
    assert_eq!(tasks(), idle + 1, "now there is something to look at");
    seconds(10.5).await;
    assert_eq!(tasks(), idle + 1, "there was");
    seconds(10.5).await;
    assert_eq!(tasks(), idle, "nothing happened since");
    calls_to_the_end(&mesh, &entry, 1).await;
    assert_eq!(tasks(), idle + 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_call_in_flight_does_after_the_ejection_changes_nothing() {
    let mesh = Mesh::new();
    let entry = watched(&[1, 2]);
    mesh.prepare(&entry).await;
    mesh.network.answer(1, Answer::Streams);
    let streaming = [mesh.call(&entry).await.unwrap(), mesh.call(&entry).await.unwrap()];
    mesh.network.answer(1, Answer::Fails(SendErrorKind::Reset(2)));
    assert_eq!(calls_to_the_end(&mesh, &entry, 20).await, 10);
    seconds(10.0).await;
    assert_eq!(calls_to_the_end(&mesh, &entry, 20).await, 0);
    let at_the_ejected = streaming.iter().filter(|response| endpoint(response) == 1).count();
    assert_eq!(at_the_ejected, 1, "its call goes on");
    assert_eq!(mesh.network.open(1)[0].in_flight(), 1);
    drop(streaming);
    assert_eq!(mesh.network.open(1)[0].in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_lost_again_and_again_eject_an_endpoint_unless_it_is_the_last() {
    for (endpoints, failed) in [(&[1, 2][..], 5), (&[1], 20)] {
        let mesh = Mesh::with(BalanceOptions::new().backoff(Duration::from_millis(1), Duration::from_millis(1)));
        let entry = cluster(endpoints);
        mesh.prepare(&entry).await;
        mesh.network.answer(1, Answer::Fails(SendErrorKind::ConnectionLost));
        let mut seen = 0;
        for _ in 0..20 {
            seen += calls_to_the_end(&mesh, &entry, endpoints.len()).await;
            mesh.network.cut(1);
            seconds(0.1).await;
        }
        assert_eq!(seen, failed, "of {} endpoints", endpoints.len());
    }
}

//! Endpoints that fail: which take no calls for a while, for how long, and who says so.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use mesh_core::balance::BalanceOptions;
use mesh_core::testing::{ControlPlane, Resources, cluster, endpoints, locality, type_url};
use mesh_core::{ClusterStatus, EndpointStatus, Mesh, Profile};
use mesh_xds_proto::envoy::config::cluster::v3::{Cluster, OutlierDetection};
use mesh_xds_proto::envoy::r#type::v3::Percent;
use tonic::{Code, Status};

use crate::support::backend::Backend;
use crate::support::client::{Client, assert_says, quick};
use crate::support::clock::pass_over_stalls;
use crate::support::frames::{CANCEL, FrameServer};
use crate::support::in_time;
use crate::support::network::BadServer;
use crate::support::timed::timed;

const INTERVAL: Duration = Duration::from_millis(50);
const EJECTION: Duration = Duration::from_millis(600);

fn interval(duration: Duration) -> Option<prost_types::Duration> {
    Some(duration.try_into().expect("a short time"))
}

/// Nothing but what the test adds, with timers that are short enough for it.
fn detection() -> OutlierDetection {
    OutlierDetection {
        interval: interval(INTERVAL),
        base_ejection_time: interval(EJECTION),
        enforcing_success_rate: Some(0),
        ..Default::default()
    }
}

/// So many server errors in a row are too many.
fn consecutive(failures: u32) -> OutlierDetection {
    OutlierDetection { consecutive_5xx: Some(failures), ..detection() }
}

/// `greeter` at these addresses.
async fn client_at(detection: OutlierDetection, addresses: Vec<SocketAddr>) -> (ControlPlane, Mesh, Client) {
    client_by(Profile::default(), detection, addresses).await
}

/// The same, by the rules of this profile.
async fn client_by(
    profile: Profile,
    detection: OutlierDetection,
    addresses: Vec<SocketAddr>,
) -> (ControlPlane, Mesh, Client) {
    pass_over_stalls();
    let control_plane = ControlPlane::new();
    let service = Resources::service("greeter", addresses);
    control_plane.set(service.with(cluster("greeter").outlier_detection(detection)));
    let mesh = quick().control_plane(&control_plane).profile(profile).build().await.expect("a mesh");
    let client = Client::new(&mesh, "xds:///greeter");
    (control_plane, mesh, client)
}

/// `greeter` at these backends, each of which had a call.
async fn client_of(detection: OutlierDetection, backends: &[&Backend]) -> (ControlPlane, Mesh, Client) {
    let set_up = client_at(detection, backends.iter().map(|backend| backend.address()).collect()).await;
    for backend in backends {
        set_up.2.hello_until(backend.name()).await;
    }
    set_up
}

async fn backends<const N: usize>(names: [&str; N]) -> [Backend; N] {
    let mut started = Vec::new();
    for name in names {
        started.push(Backend::start(name).await);
    }
    started.try_into().unwrap_or_else(|_| panic!("as many as names"))
}

fn status_of(mesh: &Mesh) -> ClusterStatus {
    let target = mesh.status().targets.into_iter().next().expect("a target in use");
    target.clusters.into_iter().next().expect("a cluster in use")
}

fn ejected(mesh: &Mesh) -> Vec<EndpointStatus> {
    status_of(mesh).endpoints.into_iter().filter(|endpoint| endpoint.ejection.is_some()).collect()
}

/// Calls until an endpoint is ejected, and says why it is.
async fn until_one_is_ejected(mesh: &Mesh, client: &Client) -> (String, &'static str) {
    let reached = async {
        loop {
            let _ = client.hello().await;
            if let [endpoint] = &ejected(mesh)[..] {
                let method = endpoint.ejection.as_ref().expect("it is ejected").method;
                return (endpoint.address.to_string(), method);
            }
            tokio::task::yield_now().await;
        }
    };
    in_time("an endpoint is ejected", reached).await
}

/// Who answers so many calls, none of which fails.
async fn answers(client: &Client, calls: u32) -> BTreeMap<String, u32> {
    let mut answers = BTreeMap::new();
    for _ in 0..calls {
        *answers.entry(client.hello().await.expect("no call fails")).or_default() += 1;
    }
    answers
}

fn down() -> Status {
    Status::unavailable("not now")
}

/// Each row is counted by itself: what becomes of one changes nothing for the others, as in Envoy.
#[tokio::test]
async fn a_row_of_gateway_failures_that_ejects_nobody_leaves_that_of_server_errors_alone() {
    for gateway in [2, 5] {
        let [a, bad] = backends(["a", "bad"]).await;
        let detection = OutlierDetection {
            consecutive_gateway_failure: Some(gateway),
            enforcing_consecutive_gateway_failure: Some(0),
            ..consecutive(5)
        };
        let (_control_plane, mesh, client) = client_of(detection, &[&a, &bad]).await;
        let before = bad.calls();
        bad.fail(down());
        assert_eq!(until_one_is_ejected(&mesh, &client).await.1, "consecutive_5xx");
        assert_eq!(bad.calls() - before, 5, "with a limit of {gateway}");
    }
}

#[tokio::test]
async fn an_endpoint_that_always_fails_is_ejected_and_returns() {
    timed(async || {
        let [a, b, bad] = backends(["a", "b", "bad"]).await;
        let (_control_plane, mesh, client) = client_of(consecutive(3), &[&a, &b, &bad]).await;
        let before = bad.calls();
        bad.fail(down());
        assert_eq!(until_one_is_ejected(&mesh, &client).await, (bad.address().to_string(), "consecutive_5xx"));
        assert_eq!(bad.calls() - before, 3, "after three failures in a row it gets no calls");
        assert_eq!(answers(&client, 20).await, BTreeMap::from([("a".into(), 10), ("b".into(), 10)]));
        let text = ejected(&mesh)[0].ejection.expect("it is ejected").to_string();
        assert_eq!(text, "ejected by consecutive_5xx, for 1 s more");
        bad.succeed();
        client.hello_until("bad").await;
        assert_eq!(ejected(&mesh).len(), 0);
        assert_eq!(bad.connections(), 1, "it was connected all the time");
        let counted: Vec<_> =
            status_of(&mesh).ejections.iter().map(|one| (one.method, one.unenforced, one.count)).collect();
        assert_eq!(counted, [("consecutive_5xx", None, 1)]);
    })
    .await;
}

#[tokio::test]
async fn each_ejection_in_a_row_is_longer_than_the_one_before() {
    timed(async || {
        let [a, b, bad] = backends(["a", "b", "bad"]).await;
        let policy = OutlierDetection { base_ejection_time: interval(Duration::from_millis(100)), ..consecutive(1) };
        let (_control_plane, mesh, client) = client_of(policy, &[&a, &b, &bad]).await;
        bad.fail(down());
        let mut longest = Vec::new();
        for _ in 0..3 {
            until_one_is_ejected(&mesh, &client).await;
            let remaining = ejected(&mesh).first().and_then(|endpoint| endpoint.ejection?.remaining);
            longest.push(remaining.expect("it was ejected a moment ago"));
            while !ejected(&mesh).is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let at_most = |count: u32| Duration::from_millis(100) * count;
        assert!((1..).zip(&longest).all(|(count, remaining)| *remaining <= at_most(count)), "{longest:?}");
        assert!(longest[1] > at_most(1) && longest[2] > at_most(2), "{longest:?}");
    })
    .await;
}

#[tokio::test]
async fn the_share_of_failures_ejects() {
    let [a, b, bad] = backends(["a", "b", "bad"]).await;
    let policy = OutlierDetection {
        enforcing_failure_percentage: Some(100),
        failure_percentage_threshold: Some(50),
        failure_percentage_minimum_hosts: Some(3),
        failure_percentage_request_volume: Some(2),
        ..detection()
    };
    let (_control_plane, mesh, client) = client_of(policy, &[&a, &b, &bad]).await;
    // A failure that is no server error counts here as any does (A50).
    bad.fail(Status::not_found("nothing here"));
    assert_eq!(until_one_is_ejected(&mesh, &client).await, (bad.address().to_string(), "failure_percentage"));
    answers(&client, 20).await;
}

#[tokio::test]
async fn an_endpoint_far_below_the_others_success_rate_is_ejected() {
    let good = backends(["a", "b", "c", "d", "e"]).await;
    let bad = Backend::start("bad").await;
    let policy = OutlierDetection { enforcing_success_rate: None, success_rate_request_volume: Some(2), ..detection() };
    let all: Vec<&Backend> = good.iter().chain([&bad]).collect();
    let (_control_plane, mesh, client) = client_of(policy, &all).await;
    bad.fail(down());
    assert_eq!(until_one_is_ejected(&mesh, &client).await, (bad.address().to_string(), "success_rate"));
    answers(&client, 20).await;
}

#[tokio::test]
async fn failures_that_are_not_the_servers_end_a_row() {
    let [a, bad] = backends(["a", "bad"]).await;
    let (_control_plane, mesh, client) = client_of(consecutive(3), &[&a, &bad]).await;
    for _ in 0..3 {
        bad.fail(Status::internal("broken"));
        for _ in 0..4 {
            let _ = client.hello().await;
        }
        bad.fail(Status::invalid_argument("your fault"));
        for _ in 0..4 {
            let _ = client.hello().await;
        }
    }
    assert_eq!(ejected(&mesh).len(), 0);
    assert_eq!(status_of(&mesh).ejections, []);
}

#[tokio::test]
async fn no_more_are_ejected_than_the_share_that_may_be_and_never_the_last() {
    let all = backends(["a", "b", "c", "d"]).await;
    for (percent, expected) in [(0, 1), (10, 1), (50, 2), (100, 3)] {
        all.iter().for_each(Backend::succeed);
        let policy = OutlierDetection {
            max_ejection_percent: Some(percent),
            base_ejection_time: interval(Duration::from_secs(30)),
            ..consecutive(2)
        };
        let (_control_plane, mesh, client) = client_of(policy, &all.each_ref()).await;
        all.iter().for_each(|backend| backend.fail(down()));
        for _ in 0..40 {
            let status = client.hello().await.unwrap_err();
            assert_says(&status, &["not now"]);
        }
        assert_eq!(ejected(&mesh).len(), expected, "{percent} %");
        let reason = if percent == 100 { "last_endpoint" } else { "max_ejection_overflow" };
        let unenforced = status_of(&mesh).ejections.iter().filter_map(|one| one.unenforced).collect::<Vec<_>>();
        assert_eq!(unenforced, [reason], "{percent} %");
    }
}

/// As in Envoy, whose panic disregards why an endpoint is not healthy; in gRPC there is none.
#[tokio::test]
async fn in_envoys_profile_ejections_make_a_panic_in_which_the_ejected_are_called() {
    let all = backends(["a", "b", "c", "d"]).await;
    let answer = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    for (profile, while_ejected) in [(Profile::Envoy, answer(&["a", "b", "c", "d"])), (Profile::Grpc, answer(&["d"]))] {
        let policy = OutlierDetection {
            max_ejection_percent: Some(100),
            base_ejection_time: interval(Duration::from_secs(30)),
            ..consecutive(2)
        };
        let addresses = all.iter().map(Backend::address).collect();
        let (control_plane, mesh, client) = client_by(profile, policy.clone(), addresses).await;
        for backend in &all {
            client.hello_until(backend.name()).await;
        }
        let fail = async |bad: &[&Backend]| {
            bad.iter().for_each(|backend| backend.fail(down()));
            for _ in 0..20 {
                let _ = client.hello().await;
            }
            bad.iter().for_each(|backend| backend.succeed());
        };
        let [a, b, c, _] = &all;
        fail(&[a, b]).await;
        assert_eq!(answers(&client, 20).await.into_keys().collect::<Vec<_>>(), ["c", "d"], "a half is enough");
        fail(&[c]).await;
        assert_eq!(ejected(&mesh).len(), 3);
        assert_eq!(answers(&client, 20).await.into_keys().collect::<Vec<_>>(), while_ejected, "{profile:?}");
        control_plane.put(cluster("greeter").outlier_detection(policy).modify(|cluster| {
            cluster.common_lb_config.get_or_insert_default().healthy_panic_threshold = Some(Percent { value: 25.0 });
        }));
        let calm = async { while answers(&client, 8).await.into_keys().ne(["d"]) {} };
        in_time("a quarter is enough, by this threshold", calm).await;
        assert_eq!(ejected(&mesh).len(), 3);
    }
}

#[tokio::test]
async fn what_is_enforced_for_none_is_counted_and_does_nothing() {
    let [a, bad] = backends(["a", "bad"]).await;
    let policy = OutlierDetection { consecutive_gateway_failure: Some(2), ..detection() };
    let (_control_plane, mesh, client) = client_of(policy, &[&a, &bad]).await;
    bad.fail(down());
    for _ in 0..10 {
        let _ = client.hello().await;
    }
    let counted: Vec<_> = status_of(&mesh).ejections.iter().map(|one| (one.method, one.unenforced)).collect();
    assert_eq!(counted, [("consecutive_gateway_failure", Some("enforcement_percentage"))]);
    assert_eq!(ejected(&mesh).len(), 0);
}

#[tokio::test]
async fn calls_that_ran_out_of_time_count_and_calls_that_were_given_up_do_not() {
    let [a, slow] = backends(["a", "slow"]).await;
    let (_control_plane, mesh, client) = client_of(consecutive(2), &[&a, &slow]).await;
    slow.hold();
    for _ in 0..10 {
        // Given up after a while, by the application.
        let _ = tokio::time::timeout(Duration::from_millis(20), client.hello()).await;
    }
    assert_eq!(ejected(&mesh).len(), 0);
    for _ in 0..6 {
        let _ = client.hello_within(Duration::from_millis(20)).await;
    }
    assert_eq!(until_one_is_ejected(&mesh, &client).await, (slow.address().to_string(), "consecutive_5xx"));
    slow.release();
}

#[tokio::test]
async fn connections_that_fail_are_failures_of_local_origin() {
    let good = Backend::start("good").await;
    let bad = BadServer::resetting().await;
    let policy = OutlierDetection { split_external_local_origin_errors: true, ..detection() };
    let (_control_plane, mesh, client) = client_at(policy, vec![good.address(), bad.address()]).await;
    let expected = (bad.address().to_string(), "consecutive_local_origin_failure");
    assert_eq!(until_one_is_ejected(&mesh, &client).await, expected);
    assert!(bad.accepted() >= 5, "{}", bad.accepted());
    answers(&client, 20).await;
}

/// Answers every call by a reset.
async fn resetting_calls() -> FrameServer {
    FrameServer::start(|mut peer| async move {
        peer.greet(&[]).await?;
        loop {
            let call = peer.next_call().await?;
            peer.reset(call, CANCEL).await?;
        }
    })
    .await
}

/// Accepts, and ends the connection with the first call.
async fn hanging_up() -> FrameServer {
    FrameServer::start(|mut peer| async move {
        peer.greet(&[]).await?;
        peer.next_call().await.map(drop)
    })
    .await
}

/// A control plane that says nothing of outlier detection.
async fn silent(addresses: Vec<SocketAddr>, balance: BalanceOptions) -> (ControlPlane, Mesh, Client) {
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", addresses));
    let step = Duration::from_millis(10);
    let mesh = quick().balance(balance.backoff(step, step)).control_plane(&control_plane).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    (control_plane, mesh, client)
}

#[tokio::test]
async fn without_a_word_of_the_control_plane_an_endpoint_that_breaks_every_call_is_ejected() {
    let good = Backend::start("good").await;
    for bad in [resetting_calls().await, hanging_up().await] {
        let addresses = vec![good.address(), bad.address()];
        let (_control_plane, mesh, client) = silent(addresses, BalanceOptions::new()).await;
        let expected = (bad.address().to_string(), "consecutive_local_origin_failure");
        assert_eq!(until_one_is_ejected(&mesh, &client).await, expected);
        assert_eq!(answers(&client, 20).await, BTreeMap::from([("good".into(), 20)]));
    }
}

#[tokio::test]
async fn without_a_word_of_the_control_plane_no_endpoint_is_ejected_for_what_it_answers() {
    let [a, bad] = backends(["a", "bad"]).await;
    let (_control_plane, mesh, client) = silent(vec![a.address(), bad.address()], BalanceOptions::new()).await;
    client.hello_until("bad").await;
    bad.fail(down());
    for _ in 0..30 {
        let _ = client.hello().await;
    }
    bad.hold();
    for _ in 0..20 {
        let _ = client.hello_within(Duration::from_millis(5)).await;
    }
    bad.release();
    assert_eq!(ejected(&mesh).len(), 0);
}

#[tokio::test]
async fn the_only_endpoint_is_not_ejected_and_the_application_can_have_none_ejected() {
    let bad = resetting_calls().await;
    let (_control_plane, mesh, client) = silent(vec![bad.address()], BalanceOptions::new()).await;
    let good = Backend::start("good").await;
    let addresses = vec![good.address(), bad.address()];
    let off = BalanceOptions::new().outlier_detection(false);
    let (_other_control_plane, other_mesh, other_client) = silent(addresses, off).await;
    other_client.recovers().await;
    for _ in 0..30 {
        client.hello().await.unwrap_err();
        let _ = other_client.hello().await;
    }
    assert_eq!((ejected(&mesh).len(), ejected(&other_mesh).len()), (0, 0));
    assert!(status_of(&mesh).ejections.iter().all(|one| one.unenforced == Some("last_endpoint")));
    assert_eq!(status_of(&other_mesh).ejections, []);
}

#[tokio::test]
async fn an_ejection_outlives_updates_and_ends_when_there_is_to_be_none() {
    let [a, b, bad] = backends(["a", "b", "bad"]).await;
    let forever = OutlierDetection { base_ejection_time: interval(Duration::from_secs(60)), ..consecutive(2) };
    let (control_plane, mesh, client) = client_of(forever, &[&a, &bad]).await;
    bad.fail(down());
    until_one_is_ejected(&mesh, &client).await;
    bad.succeed();
    control_plane.put(endpoints("greeter").all([a.address(), b.address(), bad.address()]));
    assert!(client.hello_until("b").await.iter().all(|other| other == "a"));
    assert_eq!(ejected(&mesh).len(), 1);
    control_plane.put(cluster("greeter"));
    client.hello_until("bad").await;
    assert_eq!(ejected(&mesh).len(), 0);
}

#[tokio::test]
async fn a_priority_whose_endpoints_are_ejected_leaves_its_calls_to_the_next() {
    let [first, second] = backends(["first", "second"]).await;
    let policy = OutlierDetection {
        enforcing_failure_percentage: Some(100),
        failure_percentage_minimum_hosts: Some(1),
        failure_percentage_request_volume: Some(2),
        ..detection()
    };
    let (control_plane, mesh, client) = client_of(policy, &[&first]).await;
    control_plane.put(
        endpoints("greeter")
            .locality(locality("near", "", "").endpoint(first.address()))
            .locality(locality("far", "", "").priority(1).endpoint(second.address())),
    );
    control_plane.acked(type_url::ENDPOINTS).await;
    first.fail(down());
    until_one_is_ejected(&mesh, &client).await;
    first.succeed();
    assert_eq!(answers(&client, 10).await, BTreeMap::from([("second".into(), 10)]));
    client.hello_until("first").await;
}

#[tokio::test]
async fn calls_that_find_no_endpoint_are_told_of_those_that_are_ejected() {
    let only = Backend::start("only").await;
    let policy = OutlierDetection {
        base_ejection_time: interval(Duration::from_secs(60)),
        enforcing_failure_percentage: Some(100),
        failure_percentage_minimum_hosts: Some(1),
        failure_percentage_request_volume: Some(2),
        ..detection()
    };
    let (_control_plane, mesh, client) = client_of(policy, &[&only]).await;
    only.fail(down());
    until_one_is_ejected(&mesh, &client).await;
    let status = client.hello().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_says(&status, &["1 ejected", &only.address().to_string(), "ejected by failure_percentage"]);
}

#[tokio::test]
async fn a_bad_policy_is_rejected_by_field_and_the_last_good_one_serves() {
    let [a, bad] = backends(["a", "bad"]).await;
    let (control_plane, mesh, client) = client_of(consecutive(2), &[&a, &bad]).await;
    let cases = [
        (
            OutlierDetection { interval: interval(Duration::ZERO), ..consecutive(1) },
            "interval: must be greater than 0 s",
        ),
        (OutlierDetection { max_ejection_percent: Some(101), ..consecutive(1) }, "max_ejection_percent: 101"),
        (OutlierDetection { enforcing_consecutive_5xx: Some(101), ..consecutive(1) }, "enforcing_consecutive_5xx: 101"),
    ];
    for (policy, complaint) in cases {
        control_plane.modify::<Cluster>("greeter", |cluster| cluster.outlier_detection = Some(policy));
        let (_, text) = control_plane.next_nack().await.error.expect("a NACK says why");
        assert!(text.contains(&format!("outlier_detection.{complaint}")), "{text}");
    }
    let before = bad.calls();
    bad.fail(down());
    until_one_is_ejected(&mesh, &client).await;
    assert_eq!(bad.calls() - before, 2);
}

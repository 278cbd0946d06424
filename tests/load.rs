//! Balancing by load: how long calls take, what endpoints report of themselves, and how long they have been there.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use http::HeaderValue;
use mesh_core::balance::{BalanceOptions, PeakEwma};
use mesh_core::connect::ConnectivityState;
use mesh_core::testing::{self, ControlPlane, Resources, cluster, endpoints, locality, type_url};
use mesh_core::{Address, ClusterBuilder, Mesh, RouteBuilder, Snapshot};
use mesh_xds_proto::envoy::config::cluster::v3::cluster::{LbConfig, LbPolicy, RoundRobinLbConfig, SlowStartConfig};
use mesh_xds_proto::envoy::config::cluster::v3::load_balancing_policy::Policy;
use mesh_xds_proto::envoy::config::cluster::v3::{LoadBalancingPolicy, OutlierDetection};
use mesh_xds_proto::envoy::config::core::v3::TypedExtensionConfig;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::wrr_locality::v3::WrrLocality;
use mesh_xds_proto::xds::data::orca::v3::OrcaLoadReport;
use prost_types::Duration as Interval;
use tokio::time::Instant;
use tonic::Status;

use crate::support::PATIENCE;
use crate::support::backend::Backend;
use crate::support::client::{Client, quick, quick_mesh};
use crate::support::timed::timed;

const SECOND: Duration = Duration::from_secs(1);

async fn backends<const N: usize>() -> [Backend; N] {
    let mut backends = Vec::new();
    for number in 0..N {
        backends.push(Backend::start(&format!("backend-{number}")).await);
    }
    backends.try_into().unwrap_or_else(|_| unreachable!("as many as asked for"))
}

/// Waits until so many endpoints are READY.
async fn ready(mesh: &Mesh, count: usize) {
    let reached = async {
        loop {
            let status = mesh.status();
            let clusters = status.targets.iter().flat_map(|target| &target.clusters);
            let endpoints = clusters.flat_map(|cluster| &cluster.endpoints);
            if endpoints.filter(|endpoint| endpoint.state == Some(ConnectivityState::Ready)).count() == count {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect("the endpoints get READY");
}

/// Answers by name, failures under `failed`, of calls made one after the other.
async fn calls(client: &Client, count: u32) -> BTreeMap<String, u32> {
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        *answers.entry(client.hello().await.unwrap_or_else(|_| "failed".into())).or_default() += 1;
    }
    answers
}

/// Calls in batches until `backend` answers between `least` and `most` of a batch.
async fn share_becomes(client: &Client, backend: &Backend, batch: u32, least: u32, most: u32) {
    let mut last = 0;
    let reached = async {
        while !(least..=most).contains(&last) {
            last = calls(client, batch).await.get(backend.name()).copied().unwrap_or_default();
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, reached).await.is_ok();
    assert!(in_time, "`{}` answered {last} of {batch} last, not {least} to {most}", backend.name());
}

/// A mesh without a control plane and a client of these backends, all of them connected.
async fn client_of(backends: &[Backend], cluster: fn(ClusterBuilder) -> ClusterBuilder) -> (Mesh, Client) {
    let address = |backend: &Backend| Address::Socket(backend.address());
    let built = backends.iter().map(address).fold(ClusterBuilder::new("greeter"), ClusterBuilder::endpoint);
    let snapshot = Snapshot::builder("greeter").cluster(cluster(built)).route(RouteBuilder::any().cluster("greeter"));
    let mesh = quick().snapshot("xds:///greeter", snapshot.build().unwrap()).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    client.recovers().await;
    ready(&mesh, backends.len()).await;
    (mesh, client)
}

/// Calls until the backend had one.
async fn until_tried(client: &Client, backend: &Backend) {
    while backend.calls() == 0 {
        client.hello().await.unwrap();
    }
}

#[tokio::test]
async fn one_slow_endpoint_of_ten_gets_hardly_any_call_once_it_is_known() {
    timed(async || {
        let backends: [Backend; 10] = backends().await;
        backends[3].delay(Duration::from_millis(500));
        let (_mesh, client) = client_of(&backends, |cluster| cluster).await;
        until_tried(&client, &backends[3]).await;
        let answers = calls(&client, 200).await;
        let slow = answers.get("backend-3").copied().unwrap_or_default();
        assert!(slow <= 2, "{answers:?}");
        assert!(answers.len() > 5, "the others share the calls: {answers:?}");
    })
    .await;
}

#[tokio::test]
async fn peak_ewma_in_code_goes_before_what_the_control_plane_says() {
    timed(async || {
        let backends: [Backend; 3] = backends().await;
        backends[1].delay(Duration::from_millis(300));
        let control_plane = ControlPlane::new();
        control_plane.set(Resources::service("greeter", backends.iter().map(Backend::address)));
        let balance = BalanceOptions::new().policy_of("greeter", PeakEwma);
        let mesh = quick().balance(balance).control_plane(&control_plane).build().await.unwrap();
        let client = Client::new(&mesh, "xds:///greeter");
        client.recovers().await;
        ready(&mesh, 3).await;
        until_tried(&client, &backends[1]).await;
        let answers = calls(&client, 30).await;
        assert!(answers.get("backend-1").is_none_or(|calls| *calls <= 1), "round robin: 10 of {answers:?}");
    })
    .await;
}

#[tokio::test]
async fn least_request_in_code_does_not_ask_how_long_calls_take() {
    let backends: [Backend; 2] = backends().await;
    backends[0].delay(Duration::from_millis(100));
    let (_mesh, client) = client_of(&backends, ClusterBuilder::least_request).await;
    // Peak-EWMA would not come back to it for a second.
    for _ in 0..4 {
        let others = client.hello_until("backend-0").await.len();
        assert!(others < 50, "{others} calls in a row went elsewhere");
    }
}

#[tokio::test]
async fn an_endpoint_that_was_slow_once_gets_calls_again_soon() {
    timed(async || {
        let backends: [Backend; 2] = backends().await;
        backends[0].delay(Duration::from_millis(300));
        let (_mesh, client) = client_of(&backends, |cluster| cluster).await;
        until_tried(&client, &backends[0]).await;
        backends[0].delay(Duration::ZERO);
        let begin = Instant::now();
        client.hello_until("backend-0").await;
        let silent = begin.elapsed();
        // By what is forgotten within ten seconds it would be a minute.
        assert!((0.8..5.0).contains(&silent.as_secs_f64()), "{silent:?}");
        let answers = calls(&client, 200).await;
        assert!(answers.get("backend-0").is_some_and(|calls| *calls >= 20), "{answers:?}");
    })
    .await;
}

/// How many of 120 calls of eight callers fail, as an endpoint that was the fastest now fails even faster.
async fn failed_at_once(cluster: fn(ClusterBuilder) -> ClusterBuilder) -> u32 {
    let backends: [Backend; 2] = backends().await;
    backends[1].delay(Duration::from_millis(30));
    let (_mesh, client) = client_of(&backends, cluster).await;
    for backend in &backends {
        until_tried(&client, backend).await;
    }
    backends[0].fail(Status::unavailable("broken"));
    let callers = (0..8).map(|_| {
        let client = client.clone();
        async move { calls(&client, 15).await.get("failed").copied().unwrap_or_default() }
    });
    join_all(callers).await.into_iter().sum()
}

#[tokio::test]
async fn an_endpoint_that_fails_fast_is_not_preferred() {
    timed(async || {
        let by_calls_in_flight = failed_at_once(ClusterBuilder::least_request).await;
        assert!(by_calls_in_flight >= 70, "it attracts calls: {by_calls_in_flight} of 120");
        let by_peak_ewma = failed_at_once(ClusterBuilder::peak_ewma).await;
        assert!(by_peak_ewma <= 45, "it repels them: {by_peak_ewma} of 120");
    })
    .await;
}

fn millis(millis: i32) -> Option<Interval> {
    Some(Interval { seconds: (millis / 1000).into(), nanos: millis % 1000 * 1_000_000 })
}

/// Weights that are used at once and looked at as often as possible.
fn weighted() -> ClientSideWeightedRoundRobin {
    ClientSideWeightedRoundRobin {
        blackout_period: millis(0),
        weight_update_period: millis(100),
        ..ClientSideWeightedRoundRobin::default()
    }
}

/// 100 calls per second at this utilization.
fn report(utilization: f64) -> OrcaLoadReport {
    OrcaLoadReport { rps_fractional: 100.0, application_utilization: utilization, ..OrcaLoadReport::default() }
}

/// A client of these backends, all of them connected, by this policy.
async fn weighted_client(backends: &[Backend], policy: &ClientSideWeightedRoundRobin) -> (ControlPlane, Mesh, Client) {
    let control_plane = ControlPlane::new();
    let service = Resources::service("greeter", backends.iter().map(Backend::address));
    control_plane.set(service.with(cluster("greeter").policy("wrr", policy)));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    client.recovers().await;
    ready(&mesh, backends.len()).await;
    (control_plane, mesh, client)
}

#[tokio::test]
async fn calls_are_shared_by_the_utilization_that_trailers_report() {
    let backends: [Backend; 2] = backends().await;
    backends[0].load().with_calls(&report(0.25));
    backends[1].load().with_calls(&report(0.75));
    let (control_plane, _mesh, client) = weighted_client(&backends, &weighted()).await;
    share_becomes(&client, &backends[0], 40, 29, 31).await;
    backends[1].load().with_calls(&report(0.25));
    share_becomes(&client, &backends[0], 40, 19, 21).await;
    // Each locality weighs its own endpoints.
    let inner = TypedExtensionConfig { name: "wrr".into(), typed_config: Some(mesh_core::testing::any(&weighted())) };
    let policies = vec![Policy { typed_extension_config: Some(inner) }];
    let policy = WrrLocality { endpoint_picking_policy: Some(LoadBalancingPolicy { policies }) };
    backends[1].load().with_calls(&report(0.75));
    control_plane.put(cluster("greeter").policy("wrr_locality", &policy));
    share_becomes(&client, &backends[0], 40, 29, 31).await;
}

#[tokio::test]
async fn what_is_no_report_changes_nothing() {
    let backends: [Backend; 2] = backends().await;
    let (_control_plane, _mesh, client) = weighted_client(&backends, &weighted()).await;
    for garbage in ["", "AAAA", "not base64", "////////////////", &"A".repeat(10_000)] {
        for backend in &backends {
            backend.load().trailer(HeaderValue::from_str(garbage).unwrap());
        }
        let answers = calls(&client, 20).await;
        assert_eq!(answers.get("backend-0"), Some(&10), "{answers:?}");
        assert_eq!(answers.get("backend-1"), Some(&10), "{answers:?}");
    }
}

#[tokio::test]
async fn endpoints_report_out_of_band_if_the_policy_asks_for_it() {
    let backends: [Backend; 2] = backends().await;
    backends[0].load().on_streams(report(0.25));
    backends[1].load().on_streams(report(0.75));
    // Not looked at: they would say the contrary.
    backends[0].load().with_calls(&report(0.75));
    backends[1].load().with_calls(&report(0.25));
    let out_of_band = ClientSideWeightedRoundRobin {
        enable_oob_load_report: Some(true),
        oob_reporting_period: millis(1500),
        ..weighted()
    };
    let (control_plane, _mesh, client) = weighted_client(&backends, &out_of_band).await;
    share_becomes(&client, &backends[0], 40, 29, 31).await;
    backends[0].load().on_streams(report(0.75));
    share_becomes(&client, &backends[0], 40, 19, 21).await;
    for backend in &backends {
        backend.load().streams.wait_for("streams of reports", |streams| *streams == 1).await;
        assert_eq!(*backend.load().asked.lock(), [millis(1500).unwrap()]);
    }
    control_plane.put(cluster("greeter").policy("wrr", &weighted()));
    for backend in &backends {
        backend.load().streams.wait_for("streams of reports", |streams| *streams == 0).await;
    }
    share_becomes(&client, &backends[0], 40, 9, 11).await;
}

#[tokio::test]
async fn a_stream_of_reports_does_not_outlive_its_endpoint_and_returns_with_it() {
    let mut backends: [Backend; 2] = backends().await;
    let out_of_band = ClientSideWeightedRoundRobin { enable_oob_load_report: Some(true), ..weighted() };
    let (control_plane, _mesh, client) = weighted_client(&backends, &out_of_band).await;
    for backend in &backends {
        backend.load().streams.wait_for("streams of reports", |streams| *streams == 1).await;
    }
    backends[0].stop().await;
    backends[0].load().streams.wait_for("streams of reports", |streams| *streams == 0).await;
    backends[0].restart().await;
    backends[0].load().streams.wait_for("streams of reports", |streams| *streams == 1).await;
    control_plane.put(endpoints("greeter").locality(locality("r", "z", "").endpoint(backends[1].address())));
    backends[0].wait_for_connections(0).await;
    assert_eq!(client.hello().await.unwrap(), "backend-1");
}

#[tokio::test]
async fn a_bad_weighted_round_robin_is_rejected_by_name_and_the_last_good_one_serves() {
    let backends: [Backend; 1] = backends().await;
    let (control_plane, _mesh, client) = weighted_client(&backends, &weighted()).await;
    let bad = ClientSideWeightedRoundRobin { error_utilization_penalty: Some(-1.0), ..weighted() };
    control_plane.put(cluster("greeter").policy("wrr", &bad));
    let nack = control_plane.next_nack().await;
    assert_eq!(nack.type_url, type_url::CLUSTER);
    let (_, text) = nack.error.expect("a NACK says why");
    assert!(text.contains("error_utilization_penalty: -1 is not a number from 0"), "{text}");
    assert_eq!(client.hello().await.unwrap(), "backend-0");
}

/// Lets the time go on at once, without anything that happens in it.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Round robin, in which a new endpoint gets its whole share after so many seconds.
fn slowly(seconds: i64) -> testing::ClusterBuilder {
    let slow_start =
        SlowStartConfig { slow_start_window: Some(Interval { seconds, nanos: 0 }), ..SlowStartConfig::default() };
    let config = LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config: Some(slow_start) });
    cluster("greeter").lb(LbPolicy::RoundRobin).modify(|cluster| cluster.lb_config = Some(config))
}

#[tokio::test]
async fn a_new_endpoint_gets_its_share_of_the_calls_bit_by_bit() {
    let backends: [Backend; 3] = backends().await;
    let control_plane = ControlPlane::new();
    let old = backends[..2].iter().map(Backend::address);
    control_plane.set(Resources::service("greeter", old).with(slowly(600)));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    client.recovers().await;
    ready(&mesh, 2).await;
    pass(600 * SECOND).await;
    let all = backends.iter().map(Backend::address).fold(locality("r", "z", ""), |all, one| all.endpoint(one));
    control_plane.put(endpoints("greeter").locality(all));
    ready(&mesh, 3).await;
    // Of its share of a third: a tenth at first, a half in the middle, all at the end.
    for (passed, least, most) in [(0, 1, 40), (300, 40, 120), (300, 133, 134)] {
        pass(passed * SECOND).await;
        let new = calls(&client, 400).await.get("backend-2").copied().unwrap_or_default();
        assert!((least..=most).contains(&new), "{new} of 400 after {passed} s more");
    }
}

/// Ejects the last of three endpoints of `greeter` for `base` at least, and asks for 400 calls at each of the `steps`: seconds
/// after the one before, and what it may get of them.
async fn returns_by(greeter: testing::ClusterBuilder, base: Duration, steps: [(u32, u32, u32); 3]) {
    let backends: [Backend; 3] = backends().await;
    let soon = |duration: Duration| Some(Interval::try_from(duration).unwrap());
    let detection = OutlierDetection {
        interval: soon(Duration::from_millis(50)),
        base_ejection_time: soon(base),
        consecutive_5xx: Some(3),
        ..OutlierDetection::default()
    };
    let control_plane = ControlPlane::new();
    let service = Resources::service("greeter", backends.iter().map(Backend::address));
    control_plane.set(service.with(greeter.outlier_detection(detection)));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    client.recovers().await;
    ready(&mesh, 3).await;
    pass(600 * SECOND).await;
    backends[2].fail(Status::unavailable("broken"));
    let is_ejected = || {
        let status = mesh.status();
        let endpoints =
            status.targets.iter().flat_map(|target| &target.clusters).flat_map(|cluster| &cluster.endpoints);
        endpoints.filter(|endpoint| endpoint.ejection.is_some()).count() > 0
    };
    while !is_ejected() {
        let _ = client.hello().await;
    }
    backends[2].succeed();
    pass(base).await;
    while is_ejected() {
        client.hello().await.unwrap();
    }
    for (passed, least, most) in steps {
        pass(passed * SECOND).await;
        let back = calls(&client, 400).await.get("backend-2").copied().unwrap_or_default();
        assert!((least..=most).contains(&back), "{back} of 400 after {passed} s more");
    }
}

#[tokio::test]
async fn an_endpoint_that_was_ejected_gets_its_share_of_the_calls_bit_by_bit() {
    let base = Duration::from_millis(200);
    returns_by(slowly(600), base, [(0, 1, 40), (300, 40, 120), (300, 133, 134)]).await;
}

#[tokio::test]
async fn without_a_word_of_the_control_plane_an_endpoint_that_was_ejected_gets_its_share_bit_by_bit_too() {
    // Within 10 s. Calls take a while of those, on a machine that has other work, too.
    returns_by(cluster("greeter"), 30 * SECOND, [(0, 1, 80), (4, 40, 125), (10, 133, 134)]).await;
}

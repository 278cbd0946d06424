//! Limits of what is under way to a cluster, and shares of its calls that are dropped.

use std::sync::Arc;

use mesh_core::testing::{ClusterBuilder, ControlPlane, Resources, cluster, endpoints, route, route_config, type_url};
use mesh_core::{ClusterStatus, Mesh};
use mesh_examples::helloworld::HelloRequest;
use mesh_xds_proto::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use mesh_xds_proto::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::support::backend::Backend;
use crate::support::client::{Client, assert_says, quick_mesh};
use crate::support::network::BlackHole;
use crate::support::{in_time, until};

/// `greeter` at the backend, by this cluster.
async fn client_of(cluster: ClusterBuilder, backend: &Backend) -> (ControlPlane, Mesh, Client) {
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", [backend.address()]).with(cluster));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    (control_plane, mesh, client)
}

fn status_of(mesh: &Mesh) -> ClusterStatus {
    let target = mesh.status().targets.into_iter().next().expect("a target in use");
    target.clusters.into_iter().next().expect("a cluster in use")
}

type Started = JoinHandle<Result<String, Status>>;

/// Calls that the backend holds.
async fn held(client: &Client, backend: &Backend, count: u64) -> Vec<Started> {
    backend.hold();
    let before = backend.in_flight();
    let start = |_| {
        let client = client.clone();
        tokio::spawn(async move { client.hello().await })
    };
    let started = (0..count).map(start).collect();
    backend.wait_for_in_flight(before + count).await;
    started
}

async fn answered(calls: Vec<Started>, by: &str) {
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), by);
    }
}

#[tokio::test]
async fn a_request_beyond_the_limit_fails_at_once_and_says_so() {
    let backend = Backend::start("a").await;
    let (_control_plane, mesh, client) = client_of(cluster("greeter").max_requests(3), &backend).await;
    let calls = held(&client, &backend, 3).await;
    let status = client.hello().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_says(&status, &["circuit breaker", "cluster `greeter` may have 3 requests in flight", "max_requests"]);
    let known = status_of(&mesh);
    assert_eq!((known.in_flight, known.refused), (3, 1));
    backend.release();
    answered(calls, "a").await;
    assert_eq!(client.hello().await.unwrap(), "a");
    assert_eq!(status_of(&mesh).in_flight, 0);
    assert_eq!(backend.calls(), 4, "what is refused is not sent");
}

#[tokio::test]
async fn channels_of_a_mesh_count_together_and_meshes_apart() {
    let backend = Backend::start("a").await;
    let (control_plane, mesh, client) = client_of(cluster("greeter").max_requests(2), &backend).await;
    let other_channel = Client::with_authority(&mesh, "xds:///greeter", Some("greeter.test"));
    control_plane.put(route_config("greeter").virtual_host(["*"], [route().cluster("greeter")]));
    let mut calls = held(&client, &backend, 1).await;
    calls.extend(held(&other_channel, &backend, 1).await);
    assert_says(&other_channel.hello().await.unwrap_err(), &["circuit breaker"]);
    assert_says(&client.hello().await.unwrap_err(), &["circuit breaker"]);
    let other_mesh = quick_mesh(&control_plane).await;
    calls.extend(held(&Client::new(&other_mesh, "xds:///greeter"), &backend, 2).await);
    backend.release();
    answered(calls, "a").await;
}

#[tokio::test]
async fn a_stream_counts_until_its_end() {
    let backend = Backend::start("a").await;
    let (_control_plane, _mesh, client) = client_of(cluster("greeter").max_requests(1), &backend).await;
    let (requests, stream) = tokio::sync::mpsc::channel(1);
    requests.send(HelloRequest::default()).await.unwrap();
    let stream = futures_util::stream::unfold(stream, async |mut stream| Some((stream.recv().await?, stream)));
    let mut replies = client.greeter().chat(stream).await.unwrap().into_inner();
    replies.message().await.unwrap().expect("an answer to the first request");
    assert_says(&client.hello().await.unwrap_err(), &["circuit breaker"]);
    drop(requests);
    assert!(replies.message().await.unwrap().is_none());
    assert_eq!(client.hello().await.unwrap(), "a");
    // A stream that the application lets go of is over, too.
    let replies = client.greeter().chat(futures_util::stream::pending()).await.unwrap();
    assert_says(&client.hello().await.unwrap_err(), &["circuit breaker"]);
    drop(replies);
    assert_eq!(client.hello().await.unwrap(), "a");
}

#[tokio::test]
async fn a_limit_of_zero_lets_no_request_pass_and_is_not_retried() {
    let backend = Backend::start("a").await;
    let (control_plane, mesh, client) = client_of(cluster("greeter").max_requests(0), &backend).await;
    control_plane.put(route_config("greeter").routes([route().cluster("greeter").retry_on("unavailable", 4)]));
    for refused in 1..=3 {
        assert_says(&client.hello().await.unwrap_err(), &["may have 0 requests in flight"]);
        assert_eq!(status_of(&mesh).refused, refused);
    }
    assert_eq!(backend.calls(), 0);
}

#[tokio::test]
async fn without_a_limit_there_are_1024_requests_in_flight() {
    let backend = Backend::start("a").await;
    let (_control_plane, mesh, client) = client_of(cluster("greeter"), &backend).await;
    client.hello().await.unwrap();
    backend.hold();
    let start = |_| {
        let client = client.clone();
        tokio::spawn(async move { client.hello().await })
    };
    let calls: Vec<Started> = (0..1024).map(start).collect();
    // The server takes fewer at a time: the others wait for a stream, and count as well.
    let all = async {
        while status_of(&mesh).in_flight < 1024 {
            tokio::task::yield_now().await;
        }
    };
    in_time("all are admitted", all).await;
    assert_says(&client.hello().await.unwrap_err(), &["may have 1024 requests in flight"]);
    backend.release();
    answered(calls, "a").await;
}

#[tokio::test]
async fn a_new_limit_holds_for_what_is_in_flight() {
    let backend = Backend::start("a").await;
    let (control_plane, _mesh, client) = client_of(cluster("greeter").max_requests(4), &backend).await;
    let mut calls = held(&client, &backend, 3).await;
    control_plane.put(cluster("greeter").max_requests(2));
    until_a_call_is(&client, &backend, Some("may have 2 requests")).await;
    control_plane.put(cluster("greeter").max_requests(5));
    until_a_call_is(&client, &backend, None).await;
    backend.wait_for_in_flight(3).await;
    calls.extend(held(&client, &backend, 2).await);
    assert_says(&client.hello().await.unwrap_err(), &["may have 5 requests"]);
    backend.release();
    answered(calls, "a").await;
}

/// Makes calls until one is refused so, or is admitted and held; those are given up.
async fn until_a_call_is(client: &Client, backend: &Backend, refused: Option<&str>) {
    let held = backend.in_flight();
    let reached = async {
        loop {
            let answer = tokio::select! {
                answer = client.hello() => Some(answer.expect_err("what is admitted is held")),
                () = backend.wait_for_in_flight(held + 1) => None,
            };
            backend.wait_for_in_flight(held).await;
            match (answer, refused) {
                (Some(status), Some(complaint)) if status.message().contains(complaint) => return,
                (None, None) => return,
                // A call that fails at once leaves no time for what would make the next one succeed.
                _ => tokio::task::yield_now().await,
            }
        }
    };
    in_time("the limit comes into force", reached).await;
}

/// The limits of one cluster, and of each of its endpoints.
fn limited(cluster_limits: Thresholds, endpoint_limits: Thresholds) -> ClusterBuilder {
    let breakers = CircuitBreakers { thresholds: vec![cluster_limits], per_host_thresholds: vec![endpoint_limits] };
    cluster("greeter").modify(|cluster| cluster.circuit_breakers = Some(breakers))
}

fn connections(limit: u32) -> Thresholds {
    Thresholds { max_connections: Some(limit), ..Default::default() }
}

/// A backend that takes one call at a time of each connection.
async fn one_at_a_time(name: &str) -> Backend {
    Backend::start_with(name, "127.0.0.1:0", |server| server.max_concurrent_streams(1)).await
}

#[tokio::test]
async fn an_endpoint_gets_as_many_connections_as_the_cluster_says() {
    let backend = one_at_a_time("a").await;
    let limits = limited(Thresholds::default(), connections(3));
    let (_control_plane, mesh, client) = client_of(limits, &backend).await;
    let mut calls = held(&client, &backend, 3).await;
    assert_eq!(backend.connections(), 3);
    let more = client.clone();
    calls.push(tokio::spawn(async move { more.hello().await }));
    until("four calls", || status_of(&mesh).in_flight == 4).await;
    assert_eq!(backend.in_flight(), 3, "the fourth waits");
    backend.release();
    answered(calls, "a").await;
    assert_eq!(backend.connections(), 3);
}

#[tokio::test]
async fn the_connections_of_a_cluster_are_bounded_together() {
    let backend = one_at_a_time("a").await;
    let (control_plane, mesh, client) = client_of(limited(connections(2), connections(10)), &backend).await;
    let other = one_at_a_time("b").await;
    control_plane.put(endpoints("greeter").endpoint(backend.address()).endpoint(other.address()));
    client.hello_until("b").await;
    other.hold();
    backend.hold();
    let start = |_| {
        let client = client.clone();
        tokio::spawn(async move { client.hello().await })
    };
    let calls: Vec<Started> = (0..5).map(start).collect();
    until("five calls", || status_of(&mesh).in_flight == 5).await;
    backend.wait_for_in_flight(1).await;
    other.wait_for_in_flight(1).await;
    backend.release();
    other.release();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!((backend.connections(), other.connections()), (1, 1), "each has one, and there is no third");
}

#[tokio::test]
async fn no_more_calls_wait_than_the_cluster_says() {
    let hole = BlackHole::new();
    let limits = limited(Thresholds { max_pending_requests: Some(2), ..Default::default() }, Thresholds::default());
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", [hole.address()]).with(limits));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let calls = (0..3).map(|_| Box::pin(client.hello()));
    let (first, _, others) = futures_util::future::select_all(calls).await;
    assert_says(&first.unwrap_err(), &["2 calls already wait for cluster `greeter`"]);
    assert_eq!(others.len(), 2);
}

#[tokio::test]
async fn drops_are_told_and_counted_by_category() {
    const CALLS: u64 = 2000;
    let backend = Backend::start("a").await;
    let (control_plane, mesh, client) = client_of(cluster("greeter"), &backend).await;
    // Of all calls a quarter, and of those left a third: a quarter of all again.
    let assignment = endpoints("greeter").endpoint(backend.address());
    control_plane.put(assignment.drop_calls("throttle", 250_000).drop_calls("lb", 333_333));
    control_plane.acked(type_url::ENDPOINTS).await;
    let mut told = [0, 0];
    for _ in 0..CALLS {
        let Err(status) = client.hello().await else { continue };
        assert_eq!(status.code(), Code::Unavailable);
        match status.message() {
            message if message.contains("category `throttle`") => told[0] += 1,
            message if message.contains("category `lb`") => told[1] += 1,
            message => panic!("{message}"),
        }
    }
    // Five standard deviations of a binomial distribution around 500 are 97.
    assert!(told.iter().all(|dropped| (400..=600).contains(dropped)), "{told:?}");
    let count = |category: &str, count| (Arc::from(category), count);
    assert_eq!(status_of(&mesh).dropped, [count("lb", told[1]), count("throttle", told[0])]);
    assert_eq!(backend.calls(), CALLS - told[0] - told[1], "what is dropped is not sent");
}

#[tokio::test]
async fn a_bad_limit_is_rejected_by_field_and_the_last_good_one_serves() {
    let backend = Backend::start("a").await;
    let (control_plane, mesh, client) = client_of(cluster("greeter").max_requests(1), &backend).await;
    client.hello().await.unwrap();
    control_plane.modify::<Cluster>("greeter", |cluster| {
        let per_host = Thresholds { max_connections: Some(0), ..Default::default() };
        cluster.circuit_breakers = Some(CircuitBreakers { per_host_thresholds: vec![per_host], ..Default::default() });
    });
    let (_, text) = control_plane.next_nack().await.error.expect("a NACK says why");
    let complaint = "circuit_breakers.per_host_thresholds[0].max_connections: must be greater than 0";
    assert!(text.contains(complaint), "{text}");
    let calls = held(&client, &backend, 1).await;
    assert_says(&client.hello().await.unwrap_err(), &["may have 1 requests in flight"]);
    backend.release();
    answered(calls, "a").await;
    control_plane.put(cluster("greeter").modify(|cluster| {
        let high = Thresholds { priority: 1, max_requests: Some(0), ..Default::default() };
        cluster.circuit_breakers = Some(CircuitBreakers { thresholds: vec![high], ..Default::default() });
    }));
    control_plane.acked(type_url::CLUSTER).await;
    assert_eq!(client.hello().await.unwrap(), "a", "what is said of another priority limits nothing");
    let ignored = mesh.ignored_fields();
    assert!(ignored.iter().any(|field| field.path == "circuit_breakers.thresholds"), "{ignored:?}");
}

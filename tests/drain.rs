//! Endpoints that are replaced, restarted and removed: no call is lost, and no connection is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mesh_core::Mesh;
use mesh_core::balance::BalanceOptions;
use mesh_core::testing::{ControlPlane, Resources, endpoint, endpoints};
use mesh_examples::helloworld::HelloRequest;
use mesh_examples::helloworld::greeter_client::GreeterClient;
use mesh_tonic::MeshChannel;
use mesh_xds_proto::envoy::config::core::v3::HealthStatus;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::support::backend::Backend;
use crate::support::client::quick_mesh;
use crate::support::{in_time, until};

type Client = GreeterClient<MeshChannel>;

async fn start(control_plane: &ControlPlane) -> (Mesh, Client) {
    let options = BalanceOptions::new().backoff(Duration::from_millis(20), Duration::from_millis(50));
    let mesh = Mesh::builder().control_plane(control_plane).balance(options).build().await.unwrap();
    let client = GreeterClient::new(MeshChannel::new(&mesh, "xds:///greeter").unwrap());
    (mesh, client)
}

async fn call(client: &mut Client) -> Result<String, Status> {
    Ok(client.say_hello(HelloRequest::default()).await?.into_inner().message)
}

async fn generation(number: usize) -> Vec<Backend> {
    let mut backends = Vec::new();
    for _ in 0..3 {
        backends.push(Backend::start(&number.to_string()).await);
    }
    backends
}

fn service(backends: &[Backend]) -> Resources {
    Resources::service("greeter", backends.iter().map(Backend::address))
}

/// Callers without pause, who count what became of their calls.
struct Callers {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Vec<Status>>>,
}

impl Callers {
    fn start(client: &Client, count: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let caller = |_| {
            let (mut client, stop, answered) = (client.clone(), stop.clone(), answered.clone());
            tokio::spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match call(&mut client).await {
                        Ok(_) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Err(status) => failures.push(status),
                    }
                }
                failures
            })
        };
        let tasks = (0..count).map(caller).collect();
        Self { stop, answered, tasks }
    }

    /// Waits for so many more answers.
    async fn answers(&self, more: u64) {
        let wanted = self.answered.load(Ordering::Relaxed) + more;
        let reached = async {
            while self.answered.load(Ordering::Relaxed) < wanted {
                tokio::task::yield_now().await;
            }
        };
        in_time("calls go on", reached).await;
    }

    async fn failures(self) -> Vec<Status> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for task in self.tasks {
            failures.extend(task.await.unwrap());
        }
        failures
    }
}

#[tokio::test]
async fn replacing_every_endpoint_in_turn_fails_no_call() {
    let control_plane = ControlPlane::new();
    let mut old = generation(0).await;
    control_plane.set(service(&old));
    let (_mesh, mut client) = start(&control_plane).await;
    call(&mut client).await.unwrap();
    let callers = Callers::start(&client, 8);
    for number in 1..=3 {
        let new = generation(number).await;
        control_plane.set(service(&new));
        for backend in &new {
            backend.wait_for_calls(5).await;
        }
        for mut backend in old {
            backend.drain();
            backend.drained().await;
            backend.wait_for_connections(0).await;
        }
        old = new;
    }
    let failures = callers.failures().await;
    assert!(failures.is_empty(), "{} calls failed, first: {:?}", failures.len(), failures.first());
}

/// GOAWAY comes before the control plane knows: calls move to the endpoints beside it.
#[tokio::test]
async fn an_endpoint_that_drains_and_restarts_fails_no_call_and_is_used_again() {
    let control_plane = ControlPlane::new();
    let mut backends = generation(0).await;
    control_plane.set(service(&backends));
    let (_mesh, mut client) = start(&control_plane).await;
    call(&mut client).await.unwrap();
    let callers = Callers::start(&client, 8);
    for backend in &mut backends {
        backend.wait_for_calls(5).await;
        backend.drain();
        backend.drained().await;
        callers.answers(20).await;
        let before = backend.calls();
        backend.restart().await;
        backend.wait_for_calls(before + 5).await;
    }
    let failures = callers.failures().await;
    assert!(failures.is_empty(), "{} calls failed, first: {:?}", failures.len(), failures.first());
}

#[tokio::test]
async fn an_endpoint_that_is_removed_finishes_its_calls_and_loses_its_connection() {
    let (leaves, stays) = (Backend::start("leaves").await, Backend::start("stays").await);
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", [leaves.address()]));
    let (_mesh, mut client) = start(&control_plane).await;
    leaves.hold();
    let held = tokio::spawn({
        let mut client = client.clone();
        async move { call(&mut client).await }
    });
    leaves.wait_for_in_flight(1).await;
    control_plane.set(Resources::service("greeter", [stays.address()]));
    stays.wait_for_connections(1).await;
    assert_eq!((leaves.connections(), leaves.in_flight()), (1, 1), "the call in flight keeps its connection");
    leaves.release();
    assert_eq!(held.await.unwrap().unwrap(), "leaves");
    leaves.wait_for_connections(0).await;
    assert_eq!(call(&mut client).await.unwrap(), "stays");
    assert_eq!(leaves.calls(), 1);
}

#[tokio::test]
async fn endpoints_that_were_replaced_while_idle_get_no_stale_call() {
    let control_plane = ControlPlane::new();
    let mut old = generation(0).await;
    control_plane.set(service(&old));
    let (_mesh, mut client) = start(&control_plane).await;
    for number in 1..=50 {
        for _ in 0..6 {
            assert_eq!(call(&mut client).await.unwrap(), (number - 1).to_string());
        }
        let new = generation(number).await;
        control_plane.set(service(&new));
        // Nothing calls meanwhile: the new endpoints connect and the old ones are let go without it.
        for (old, new) in old.iter().zip(&new) {
            new.wait_for_connections(1).await;
            old.wait_for_connections(0).await;
        }
        for backend in &mut old {
            backend.stop().await;
        }
        old = new;
    }
}

/// A call that an endpoint cut may have been acted on there: it fails and says so. All others succeed.
#[tokio::test]
async fn an_endpoint_that_is_killed_costs_only_the_calls_that_it_had() {
    let (mut dies, stays) = (Backend::start("dies").await, Backend::start("stays").await);
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", [dies.address(), stays.address()]));
    let (_mesh, mut client) = start(&control_plane).await;
    let both = async {
        while dies.calls() == 0 || stays.calls() == 0 {
            call(&mut client).await.unwrap();
        }
    };
    in_time("calls at both endpoints", both).await;
    let before = stays.calls();
    dies.hold();
    let held: Vec<_> = (0..10)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { call(&mut client).await })
        })
        .collect();
    until("all calls at an endpoint", || dies.in_flight() + stays.calls() - before == 10).await;
    let cut = dies.in_flight();
    assert!(cut > 0);
    dies.stop().await;
    let mut failed = 0;
    for held in held {
        if let Err(status) = held.await.unwrap() {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert!(status.message().contains("connection lost"), "{status}");
            failed += 1;
        }
    }
    assert_eq!(failed, cut);
    for _ in 0..50 {
        assert_eq!(call(&mut client).await.unwrap(), "stays");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_draining_finishes_its_calls_and_gets_no_others() {
    let (stays, leaves) = (Backend::start("stays").await, Backend::start("leaves").await);
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", [stays.address(), leaves.address()]));
    let mesh = quick_mesh(&control_plane).await;
    let client = crate::support::client::Client::new(&mesh, "xds:///greeter");
    client.hello_until("leaves").await;
    client.hello_until("stays").await;
    leaves.hold();
    let held = tokio::spawn({
        let client = client.clone();
        async move { while client.hello().await.unwrap() != "leaves" {} }
    });
    leaves.wait_for_in_flight(1).await;
    let drain = |health| {
        let leaving = endpoint(leaves.address()).health(health);
        control_plane.put(endpoints("greeter").endpoint(stays.address()).endpoint(leaving));
    };
    drain(HealthStatus::Draining);
    // Calls go by the newer configuration when one in turn that would be held is not.
    let in_force = async { while !(stays_away(&client, &leaves).await && stays_away(&client, &leaves).await) {} };
    in_time("the endpoint is draining", in_force).await;
    let before = leaves.calls();
    for _ in 0..20 {
        assert_eq!(client.hello().await.unwrap(), "stays");
    }
    assert_eq!((leaves.calls() - before, leaves.connections()), (0, 1));
    leaves.release();
    held.await.unwrap();
    assert_eq!(leaves.connections(), 1, "it is there for when the endpoint takes calls again");
    drain(HealthStatus::Healthy);
    client.hello_until("leaves").await;
    assert_eq!(leaves.connections(), 1);
    drain(HealthStatus::Unhealthy);
    leaves.wait_for_connections(0).await;
}

/// Whether a call goes elsewhere than to an endpoint that holds one.
async fn stays_away(client: &crate::support::client::Client, leaves: &Backend) -> bool {
    let answered = tokio::select! {
        answer = client.hello() => answer.is_ok(),
        () = leaves.wait_for_in_flight(2) => false,
    };
    leaves.wait_for_in_flight(1).await;
    answered
}

#[tokio::test]
async fn endpoints_of_no_other_health_than_healthy_or_unknown_are_connected() {
    let good = Backend::start("good").await;
    let control_plane = ControlPlane::new();
    let mut others = Vec::new();
    for health in [HealthStatus::Unhealthy, HealthStatus::Draining, HealthStatus::Timeout, HealthStatus::Degraded] {
        others.push((Backend::start("other").await, health));
    }
    let all = others.iter().map(|(backend, health)| endpoint(backend.address()).health(*health));
    control_plane
        .set(Resources::service("greeter", all.chain([endpoint(good.address()).health(HealthStatus::Healthy)])));
    let mesh = quick_mesh(&control_plane).await;
    let client = crate::support::client::Client::new(&mesh, "xds:///greeter");
    for _ in 0..20 {
        assert_eq!(client.hello().await.unwrap(), "good");
    }
    assert!(others.iter().all(|(backend, _)| backend.connections() == 0));
}

#[tokio::test]
async fn a_request_that_is_too_large_for_its_endpoint_is_not_sent_and_the_calls_beside_it_live_on() {
    let endpoints = [Backend::start("a").await, Backend::start("b").await];
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", endpoints.iter().map(Backend::address)));
    let (_mesh, mut client) = start(&control_plane).await;
    let all = async {
        while endpoints.iter().any(|endpoint| endpoint.calls() == 0) {
            call(&mut client).await.unwrap();
        }
    };
    in_time("calls at all endpoints", all).await;
    // In turn: as many at each.
    endpoints.iter().for_each(Backend::hold);
    let calls: Vec<_> =
        (0..10).map(|_| client.clone()).map(|mut client| async move { call(&mut client).await }).collect();
    let calls: Vec<_> = calls.into_iter().map(tokio::spawn).collect();
    for endpoint in &endpoints {
        endpoint.wait_for_in_flight(5).await;
    }

    let mut request = tonic::Request::new(HelloRequest::default());
    for number in 0..200 {
        let name = tonic::metadata::MetadataKey::from_bytes(format!("x-{number}").as_bytes()).unwrap();
        request.metadata_mut().insert(name, "v".repeat(1000).parse().unwrap());
    }
    let status = client.say_hello(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    for part in ["a head of 20", "exceeds the endpoint's limit of 16384", "cluster greeter", "send less metadata"] {
        assert!(status.message().contains(part), "`{part}` is not in: {status}");
    }
    endpoints.iter().for_each(Backend::release);
    for call in calls {
        call.await.unwrap().expect("a call of others");
    }
}

/// A call that is held at an endpoint which the control plane has taken away meanwhile.
async fn held_at_an_endpoint_that_left() -> (Backend, ControlPlane, Mesh, JoinHandle<Result<String, Status>>) {
    let (old, new) = (Backend::start("old").await, Backend::start("new").await);
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", [old.address()]));
    let (mesh, mut client) = start(&control_plane).await;
    call(&mut client).await.unwrap();
    old.hold();
    let mut caller = client.clone();
    let held = tokio::spawn(async move { call(&mut caller).await });
    old.wait_for_in_flight(1).await;
    control_plane.set(Resources::service("greeter", [new.address()]));
    new.wait_for_connections(1).await;
    assert_eq!(call(&mut client).await.unwrap(), "new");
    (old, control_plane, mesh, held)
}

#[tokio::test]
async fn a_shutdown_waits_for_a_call_at_an_endpoint_that_left() {
    let (old, _control_plane, mesh, held) = held_at_an_endpoint_that_left().await;
    let shutdown = tokio::spawn(async move { mesh.shutdown().await });
    // It would be over by now if it did not wait: a shutdown looks every few milliseconds.
    assert!(
        tokio::time::timeout(Duration::from_millis(100), async {
            while !shutdown.is_finished() {
                tokio::task::yield_now().await
            }
        })
        .await
        .is_err()
    );
    old.release();
    assert_eq!(held.await.unwrap().unwrap(), "old");
    shutdown.await.unwrap();
    old.wait_for_connections(0).await;
}

#[tokio::test]
async fn no_call_outlives_its_mesh_at_an_endpoint_that_left() {
    let (old, _control_plane, mesh, held) = held_at_an_endpoint_that_left().await;
    drop(mesh);
    let held = in_time("the call ends with its mesh", held).await;
    assert_eq!(held.unwrap().unwrap_err().code(), Code::Unavailable);
    old.wait_for_connections(0).await;
}

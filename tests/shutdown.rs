//! The end of a mesh: what is told before it, what is left after it, and what its calls say.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use mesh_core::connect::ConnectivityState;
use mesh_core::providers::WorkloadApi;
use mesh_core::testing::{ControlPlane, Resources, cluster, listener, route, route_config};
use mesh_core::{Bootstrap, Mesh};
use mesh_tonic::MeshChannel;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::body::Body;
use tower::ServiceExt;

use crate::bootstrap::{insecure, listening, mesh_with};
use crate::support::agent::{Agent, Svid};
use crate::support::backend::Backend;
use crate::support::client::{Client, assert_says, quick};
use crate::support::frames::{FrameServer, GOAWAY, NO_ERROR};
use crate::support::pki::Authority;
use crate::support::relay::Relay;
use crate::support::secured::{CLIENT, reported};
use crate::support::timed::timed;
use crate::support::{PATIENCE, in_time};

/// A runtime whose tasks stand still while nothing is waited for.
fn process() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A runtime whose tasks run.
fn running() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

async fn mesh_of(control_plane: &ControlPlane) -> Mesh {
    mesh_with(Bootstrap::from_json(&control_plane.bootstrap_json()).expect("a bootstrap")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_call_says_the_control_plane_was_told_it_was_told_before_the_end() {
    timed(async || {
        let bad = route().regex("[a").cluster("greeter");
        let resources = Resources::new()
            .with(listener("greeter").rds("greeter"))
            .with(route_config("greeter").routes([bad]))
            .with(cluster("greeter"));
        let control_plane = ControlPlane::builder().listen("127.0.0.1:0").resources(resources).start().await.unwrap();
        for round in 1..=50 {
            let mesh = mesh_of(&control_plane).await;
            let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
            assert_says(&status, &["regex", "the control plane was told the same (NACK)"]);
            mesh.shutdown().await;
            // It has read them, unless this machine stood still for a second.
            let told = async {
                while control_plane.requests().iter().filter(|request| request.is_nack()).count() < round {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(PATIENCE, told).await.unwrap_or_else(|_| panic!("mesh {round} told nothing"));
        }
    })
    .await;
}

#[tokio::test]
async fn a_control_plane_that_does_not_read_holds_the_end_up_for_a_second() {
    let backend = Backend::start("a").await;
    let control_plane = listening(&backend).await;
    let relay = Relay::start(control_plane.addr()).await;
    let mesh = mesh_with(insecure(&relay.address().to_string())).await;
    Client::new(&mesh, "xds:///greeter").hello().await.unwrap();
    relay.freeze();
    let start = Instant::now();
    mesh.shutdown().await;
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(1) && took < PATIENCE, "{took:?}");
}

#[test]
fn nothing_is_left_of_a_mesh_that_was_shut_down() {
    let servers = running();
    let (backend, control_plane) = servers.block_on(async {
        let backend = Backend::start("a").await;
        let control_plane = listening(&backend).await;
        (backend, control_plane)
    });
    let process = process();
    let (mesh, _client) = process.block_on(async {
        let mesh = mesh_of(&control_plane).await;
        let client = Client::new(&mesh, "xds:///greeter");
        client.hello().await.unwrap();
        mesh.shutdown().await;
        (mesh, client)
    });
    assert_eq!(process.metrics().num_alive_tasks(), 0);
    let status = mesh.status();
    let asked = status.control_plane.expect("it has one");
    assert!(!asked.connected && asked.summary.ends_with("is not asked any more: the mesh was shut down"));
    assert!(status.resources.is_empty());
    assert!(status.targets.iter().all(|target| target.connectivity == ConnectivityState::Shutdown));
    assert_eq!(status.targets.len(), 1);
    servers.block_on(async {
        backend.wait_for_connections(0).await;
        control_plane.wait_for_connections(0).await;
    });
}

/// Its stream is open for as long as the mesh lives.
#[test]
fn nothing_is_left_of_a_provider_that_asks_an_agent() {
    let servers = running();
    let authority = Authority::new();
    let agent = servers.block_on(async { Agent::started(Svid::new(CLIENT, &authority.svid(CLIENT), &authority)) });
    let process = process();
    process.block_on(async {
        let provider = WorkloadApi::at(agent.endpoint()).expect("an endpoint");
        let mesh = quick().certificate_provider("default", provider).build().await.unwrap();
        reported(&mesh, |provider| provider.generation == 1).await;
        assert_eq!(agent.connections().get(), 1);
        mesh.shutdown().await;
    });
    // Its runtime stands still: what is closed was closed before the shutdown was over.
    assert_eq!(process.metrics().num_alive_tasks(), 0);
    servers.block_on(agent.connections().wait_for("connections of the agent", |count| *count == 0));
}

#[tokio::test]
async fn endpoints_are_told_of_the_end_in_order() {
    let (told, mut ends) = mpsc::unbounded_channel();
    let server = FrameServer::start(move |mut peer| {
        let told = told.clone();
        async move {
            peer.greet(&[]).await?;
            let call = peer.next_call().await?;
            peer.answer(call, "a").await?;
            let goaway = peer.next_of(GOAWAY).await?;
            let end = peer.wait_for_end().await.unwrap_err();
            assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof, "{end}");
            told.send(goaway.payload).map_err(io::Error::other)
        }
    })
    .await;
    for orderly in [true, false] {
        let mesh = quick().build().await.unwrap();
        let client = Client::new(&mesh, &format!("static:///{}", server.address()));
        client.hello().await.unwrap();
        if orderly {
            mesh.shutdown().await;
        }
        drop((client, mesh));
        let payload = tokio::time::timeout(PATIENCE, ends.recv()).await.expect("a GOAWAY and the end").unwrap();
        assert_eq!(payload[4..8], NO_ERROR.to_be_bytes(), "{payload:?}");
    }
}

#[tokio::test]
async fn a_call_that_is_cut_off_says_that_the_mesh_was_shut_down() {
    let backend = Backend::start("a").await;
    backend.hold();
    let mesh = quick().drain_timeout(Duration::from_millis(20)).build().await.unwrap();
    let channel = MeshChannel::new(&mesh, &format!("static:///{}", backend.address())).unwrap();
    let message = Body::new(Full::from(Bytes::from_static(&[0; 5])));
    let request =
        Request::post("/helloworld.Greeter/SayHello").header("content-type", "application/grpc").body(message);
    let held = tokio::spawn(channel.oneshot(request.unwrap()));
    backend.wait_for_in_flight(1).await;
    mesh.shutdown().await;
    let error = held.await.unwrap().map(drop).unwrap_err();
    let error = error.mesh_error();
    assert!(error.is_shutdown() && error.request_sent(), "{error:?}");
    assert_eq!(error.endpoint(), Some(&*backend.address().to_string()));
    let text = error.report();
    assert!(
        text.starts_with("call cut off: the mesh was shut down [") && text.contains("raise `drain_timeout`"),
        "{text}"
    );
}

#[test]
fn calls_through_a_mesh_whose_runtime_is_gone_fail_at_once_and_say_so() {
    let (here, process) = (running(), running());
    let backend = here.block_on(Backend::start("a"));
    let target = format!("static:///{}", backend.address());
    let mesh = process.block_on(Mesh::builder().build()).unwrap();
    let client = Client::new(&mesh, &target);
    assert_eq!(here.block_on(client.hello()).unwrap(), "a");
    drop(process);
    let late = Client::new(&mesh, "static:///127.0.0.1:9");
    here.block_on(async {
        for client in [client, late] {
            let status = in_time("it fails at once", client.hello()).await.unwrap_err();
            assert_says(
                &status,
                &["or whose runtime is gone", "keep the `Mesh`, and the runtime it was built on, alive"],
            );
        }
        assert!(mesh.target(&target).unwrap().ready().await.unwrap_err().is_shutdown());
    });
}

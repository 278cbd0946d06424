//! Calls and waits of threads that run in no tokio runtime: they have the timers of the mesh's.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};
use std::time::Duration;

use mesh_core::testing::{ControlPlane, Resources};
use mesh_core::{Mesh, RetryPolicy};
use tokio::runtime::{Builder, Handle, Runtime};
use tonic::Code;

use crate::support::backend::Backend;
use crate::support::client::{Client, SOON, assert_says, impatient_mesh, quick, quick_mesh};
use crate::support::frames::FrameServer;
use crate::support::network::ClosedPort;

/// Wakes the thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread, as an executor does that is not tokio's.
fn outside<F: Future>(future: F) -> F::Output {
    assert!(Handle::try_current().is_err(), "a thread without a runtime");
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// The runtime of the mesh and of the servers.
fn running() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

#[test]
fn calls_are_made_and_end_at_their_deadline_outside_a_runtime() {
    let runtime = running();
    let backend = runtime.block_on(Backend::start("a"));
    let mesh = runtime.block_on(quick().build()).expect("a mesh");
    let client = Client::new(&mesh, &format!("static:///{}", backend.address()));
    outside(mesh.ready()).expect("an endpoint");
    assert_eq!(outside(client.hello()).expect("a call without a deadline"), "a");
    assert_eq!(outside(client.hello_within(Duration::from_secs(10))).expect("one with a deadline"), "a");
    let silent = runtime.block_on(FrameServer::start(|mut peer| async move {
        peer.greet(&[]).await?;
        peer.wait_for_end().await
    }));
    let client = Client::new(&mesh, &format!("static:///{}", silent.address()));
    let status = outside(client.hello_within(SOON)).expect_err("the deadline passed");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

#[test]
fn calls_wait_for_their_configuration_outside_a_runtime() {
    let runtime = running();
    let backend = runtime.block_on(Backend::start("a"));
    let (control_plane, mesh) = runtime.block_on(async {
        let control_plane = ControlPlane::new();
        let mesh = quick_mesh(&control_plane).await;
        (control_plane, mesh)
    });
    let client = Client::new(&mesh, "xds:///greeter");
    let waiting = thread::spawn(move || outside(client.hello()));
    control_plane.set(Resources::service("greeter", [backend.address()]));
    assert_eq!(waiting.join().expect("no panic").expect("a call"), "a");

    let impatient: Mesh = runtime.block_on(async { impatient_mesh(&ControlPlane::new()).await });
    let target = impatient.target("xds:///greeter").expect("a target");
    outside(target.ready()).expect_err("no configuration");
}

#[test]
fn calls_wait_for_an_endpoint_and_are_tried_again_outside_a_runtime() {
    let runtime = running();
    let closed = ClosedPort::new();
    let policy = RetryPolicy::on("unavailable").expect("a known word").max_attempts(3);
    let mesh = runtime.block_on(quick().retry_policy(policy).build()).expect("a mesh");
    let client = Client::new(&mesh, &format!("static:///{}", closed.address()));
    let status = outside(client.hello()).expect_err("nobody listens");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_says(&status, &["attempts 3"]);
}

#[tokio::test(flavor = "current_thread")]
async fn whoever_tries_again_at_once_what_fails_at_once_lets_other_tasks_run() {
    let closed = ClosedPort::new();
    let mesh = quick().build().await.expect("a mesh");
    let client = Client::new(&mesh, &format!("static:///{}", closed.address()));
    client.hello().await.expect_err("nobody listens");
    let other = tokio::spawn(async {});
    for calls in 1.. {
        client.hello().await.expect_err("nobody listens");
        if other.is_finished() {
            break;
        }
        assert!(calls < 10_000, "another task waits for {calls} calls");
    }
}

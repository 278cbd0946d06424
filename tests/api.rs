//! The channel in the shapes in which applications use it.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mesh_core::balance::BalanceOptions;
use mesh_core::connect::ConnectivityState;
use mesh_core::testing::{ControlPlane, Resources};
use mesh_core::{CallInfo, CallOptions, ClusterBuilder, Mesh, RouteBuilder, Snapshot};
use mesh_examples::helloworld::HelloRequest;
use mesh_examples::helloworld::greeter_client::GreeterClient;
use mesh_tonic::MeshChannel;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::{Code, Request};
use tower::ServiceBuilder;

use crate::support::backend::Backend;
use crate::support::network::ClosedPort;

fn hello() -> HelloRequest {
    HelloRequest { name: "mesh".into() }
}

/// A channel to the backends, without a control plane.
fn channel_to(mesh: &Mesh, backends: &[&Backend]) -> MeshChannel {
    let list: Vec<_> = backends.iter().map(|backend| backend.address().to_string()).collect();
    MeshChannel::new(mesh, &format!("static:///{}", list.join(","))).unwrap()
}

#[tonic::async_trait]
trait Caller {
    async fn call(&self) -> String;
}

struct Holder(MeshChannel);

#[tonic::async_trait]
impl Caller for Holder {
    async fn call(&self) -> String {
        GreeterClient::new(self.0.clone()).say_hello(hello()).await.unwrap().into_inner().message
    }
}

async fn generic<C>(channel: C) -> String
where
    C: tonic::client::GrpcService<tonic::body::Body>,
    C::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    C::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <C::ResponseBody as http_body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    GreeterClient::new(channel).say_hello(hello()).await.unwrap().into_inner().message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_works_in_spawned_tasks_boxed_futures_async_trait_and_generic_code() {
    fn is_shareable<T: Clone + Send + Sync + 'static>(_: &T) {}
    let backend = Backend::start("a").await;
    let mesh = Mesh::builder().build().await.unwrap();
    let channel = channel_to(&mesh, &[&backend]);
    is_shareable(&channel);

    let mut client = GreeterClient::new(channel.clone());
    let spawned = tokio::spawn(async move { client.say_hello(hello()).await });
    assert_eq!(spawned.await.unwrap().unwrap().into_inner().message, "a");

    let mut client = GreeterClient::new(channel.clone());
    let boxed: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move { client.say_hello(hello()).await });
    assert_eq!(boxed.await.unwrap().into_inner().message, "a");

    assert_eq!(Holder(channel.clone()).call().await, "a");
    assert_eq!(generic(channel).await, "a");
}

/// A server that answers nothing and tells the authorities of its requests.
async fn authorities() -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, authorities) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let seen = seen.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(socket).await?;
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let _ = seen.send(request.uri().authority().map(ToString::to_string).unwrap_or_default());
                    respond.send_reset(h2::Reason::CANCEL);
                }
                Ok::<_, h2::Error>(())
            });
        }
    });
    (address, authorities)
}

#[tokio::test]
async fn the_authority_is_the_targets_path_and_never_the_endpoints() {
    let (address, mut authorities) = authorities().await;
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", [address]));
    let mesh = Mesh::builder().control_plane(&control_plane).build().await.unwrap();
    let fixed = format!("static:///{address}");
    // Only the second answers, and gets the name of the first.
    let two = format!("static:///{},{address}", ClosedPort::new().address());
    let first = two["static:///".len()..].split(',').next().expect("an address").to_owned();
    for (target, authority, expected) in [
        ("xds:///greeter", None, "greeter"),
        ("xds:///greeter", Some("shop.example:80"), "shop.example:80"),
        (&*fixed, None, &*address.to_string()),
        (&*two, None, &*first),
    ] {
        let mut builder = MeshChannel::builder(&mesh, target);
        if let Some(authority) = authority {
            builder = builder.authority(authority);
        }
        let channel = builder.build().unwrap();
        assert_eq!(channel.target().authority(), expected);
        let status = GreeterClient::new(channel).say_hello(hello()).await.unwrap_err();
        assert_eq!(status.code(), Code::Cancelled, "{status}");
        assert_eq!(authorities.recv().await.unwrap(), expected);
    }
}

#[tokio::test]
async fn the_user_agent_is_the_meshs_behind_the_applications() {
    let backend = Backend::start("a").await;
    let mesh = Mesh::builder().build().await.unwrap();
    let target = format!("static:///{}", backend.address());
    for application in [None, Some("shop/1.0")] {
        let mut builder = MeshChannel::builder(&mesh, &target);
        if let Some(application) = application {
            builder = builder.user_agent(application);
        }
        GreeterClient::new(builder.build().unwrap()).say_hello(hello()).await.unwrap();
        let seen = backend.seen().pop().expect("a call").metadata;
        let user_agent = seen.get("user-agent").expect("a user agent").to_str().unwrap().to_owned();
        assert!(user_agent.starts_with(application.unwrap_or("grpc-rust-mesh")), "{user_agent}");
        assert!(user_agent.contains("grpc-rust-mesh/"), "{user_agent}");
    }
}

#[tokio::test]
async fn a_snapshot_made_in_code_routes_without_a_control_plane() {
    let (stable, canary) = (Backend::start("stable").await, Backend::start("canary").await);
    let endpoint = |backend: &Backend| mesh_core::Address::Socket(backend.address());
    let snapshot = Snapshot::builder("greeter")
        .cluster(ClusterBuilder::new("stable").endpoint(endpoint(&stable)))
        .cluster(ClusterBuilder::new("canary").endpoint(endpoint(&canary)))
        .route(RouteBuilder::path("/helloworld.Greeter/SayHello").cluster("canary"))
        .route(RouteBuilder::any().cluster("stable"))
        .build()
        .unwrap();
    let mesh = Mesh::builder().snapshot("xds:///greeter", snapshot).build().await.unwrap();
    let mut client = GreeterClient::new(MeshChannel::new(&mesh, "xds:///greeter").unwrap());
    let reply = client.say_hello(hello()).await.unwrap();
    assert_eq!(reply.extensions().get::<CallInfo>().unwrap().cluster(), "canary");
    let mut stream = client.say_hello_stream(hello()).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().message, "stable");
}

/// Counts the requests that pass.
fn count<R>(counter: &Arc<AtomicU32>) -> impl Fn(R) -> R + Clone + use<R> {
    let counter = counter.clone();
    move |request| {
        counter.fetch_add(1, Ordering::Relaxed);
        request
    }
}

#[tokio::test]
async fn layers_of_the_application_see_the_call_and_each_attempt() {
    let backend = Backend::start("a").await;
    let mesh = Mesh::builder().build().await.unwrap();
    let (calls, attempts) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let target = format!("static:///{}", backend.address());
    let attempt_layer = tower::util::MapRequestLayer::new(count(&attempts));
    let seen_before = Arc::new(AtomicU32::new(0));
    let second = tower::util::MapRequestLayer::new(copy(&attempts, &seen_before));
    let channel =
        MeshChannel::builder(&mesh, &target).attempt_layer(attempt_layer).attempt_layer(second).build().unwrap();
    let channel = ServiceBuilder::new().layer(tower::util::MapRequestLayer::new(count(&calls))).service(channel);
    let reply = GreeterClient::new(channel).say_hello(hello()).await.unwrap();
    assert_eq!(reply.into_inner().message, "a");
    assert_eq!((calls.load(Ordering::Relaxed), attempts.load(Ordering::Relaxed)), (1, 1));
    assert_eq!(seen_before.load(Ordering::Relaxed), 1, "the first layer is around the second");
}

/// Writes down what was counted so far.
fn copy<R>(from: &Arc<AtomicU32>, to: &Arc<AtomicU32>) -> impl Fn(R) -> R + Clone + use<R> {
    let (from, to) = (from.clone(), to.clone());
    move |request| {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        request
    }
}

#[tokio::test]
async fn a_layer_around_attempts_may_hold_them_back() {
    let backend = Backend::start("a").await;
    let mesh = Mesh::builder().build().await.unwrap();
    let target = format!("static:///{}", backend.address());
    let one_at_a_time = tower::limit::ConcurrencyLimitLayer::new(1);
    let channel = MeshChannel::builder(&mesh, &target).attempt_layer(one_at_a_time).build().unwrap();
    let call = || {
        let mut client = GreeterClient::new(channel.clone());
        tokio::spawn(async move { client.say_hello(hello()).await })
    };
    backend.hold();
    let calls = [call(), call()];
    backend.wait_for_in_flight(1).await;
    backend.release();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().into_inner().message, "a");
    }
    assert_eq!(backend.calls(), 2);
}

#[tokio::test]
async fn dropping_the_mesh_ends_its_streams_and_connections_and_its_calls_say_so() {
    let backend = Backend::start("a").await;
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", [backend.address()]));
    let mesh = Mesh::builder().control_plane(&control_plane).build().await.unwrap();
    let mut client = GreeterClient::new(MeshChannel::new(&mesh, "xds:///greeter").unwrap());
    client.say_hello(hello()).await.unwrap();
    assert_eq!((control_plane.streams(), backend.connections()), (1, 1));
    drop(mesh);
    backend.wait_for_connections(0).await;
    control_plane.wait_for_streams(0).await;
    let status = client.say_hello(hello()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("shut down or dropped"), "{status}");
}

#[tokio::test]
async fn a_shutdown_lets_calls_in_flight_finish() {
    let backend = Backend::start("a").await;
    let mesh = Mesh::builder().build().await.unwrap();
    let channel = channel_to(&mesh, &[&backend]);
    let mut connectivity = channel.target().connectivity();
    let mut client = GreeterClient::new(channel);
    backend.hold();
    let call = tokio::spawn({
        let mut client = client.clone();
        async move { client.say_hello(hello()).await }
    });
    backend.wait_for_in_flight(1).await;
    let shutdown = tokio::spawn(async move { mesh.shutdown().await });
    connectivity.wait_for(|state| *state == ConnectivityState::Shutdown).await.unwrap();
    let late = client.say_hello(hello()).await.unwrap_err();
    assert!(late.message().contains("shut down"), "{late}");
    backend.release();
    assert_eq!(call.await.unwrap().unwrap().into_inner().message, "a");
    shutdown.await.unwrap();
    backend.wait_for_connections(0).await;
}

#[tokio::test]
async fn two_meshes_in_one_process_share_nothing() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let mut replies = Vec::new();
    let mut meshes = Vec::new();
    for backend in [&a, &b] {
        let control_plane = ControlPlane::new();
        control_plane.set(Resources::service("greeter", [backend.address()]));
        let mesh = Mesh::builder().control_plane(&control_plane).build().await.unwrap();
        let mut client = GreeterClient::new(MeshChannel::new(&mesh, "xds:///greeter").unwrap());
        replies.push(client.say_hello(hello()).await.unwrap().into_inner().message);
        meshes.push((mesh, control_plane));
    }
    assert_eq!(replies, ["a", "b"]);
}

#[tokio::test]
async fn a_call_that_waits_for_ready_outlives_a_dead_endpoint() {
    let mut backend = Backend::start("late").await;
    backend.stop().await;
    let options = BalanceOptions::new().backoff(Duration::from_millis(20), Duration::from_millis(50));
    let mesh = Mesh::builder().balance(options).build().await.unwrap();
    let channel = channel_to(&mesh, &[&backend]);
    let status = GreeterClient::new(channel.clone()).say_hello(hello()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("in backoff"), "{status}");
    let waiting = tokio::spawn(async move {
        let mut request = Request::new(hello());
        request.extensions_mut().insert(CallOptions::new().wait_for_ready(true));
        GreeterClient::new(channel).say_hello(request).await
    });
    backend.restart().await;
    assert_eq!(waiting.await.unwrap().unwrap().into_inner().message, "late");
}

#[tokio::test]
async fn a_target_that_cannot_be_opened_is_refused_with_the_cure() {
    let mesh = Mesh::builder().build().await.unwrap();
    let refused = |target: &str| MeshChannel::new(&mesh, target).unwrap_err().report();
    assert!(refused("xds:///greeter").contains("bootstrap_from_env"));
    assert!(refused("greeter").contains("has no port"));
}

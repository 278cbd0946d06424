//! The mesh's layers put together by hand with `tower::ServiceBuilder`, for when `MeshChannel` has them in another order
//! than you want, or has more of them.
//!
//! Both stacks call the same two greeters. The first has a control plane and all layers of a `MeshChannel`, with one of
//! the application's own between them; the second has no mesh at all, only a deadline and a balancer over addresses.

mod greeters;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use http::{HeaderValue, Request};
use mesh_core::balance::BalanceLayer;
use mesh_core::cluster::ClusterLayer;
use mesh_core::connect::Http2Connector;
use mesh_core::discover::DiscoverLayer;
use mesh_core::filter::FilterLayer;
use mesh_core::mirror::{self, MirrorLayer};
use mesh_core::retry::{self, RetryLayer};
use mesh_core::route::RouteLayer;
use mesh_core::testing::{ControlPlane, Resources};
use mesh_core::timeout::{self, TimeoutLayer};
use mesh_core::{Address, Call, CallInfo, Mesh};
use mesh_examples::helloworld::HelloRequest;
use mesh_examples::helloworld::greeter_client::GreeterClient;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, StdError};
use tower::{Layer, ServiceBuilder};

/// The body of an attempt's request: what it can be mirrored and sent again from.
type AttemptBody = retry::RequestBody<mirror::RequestBody<timeout::RequestBody<Body>>>;

/// Calls two greeters through two stacks of layers that are put together by hand.
#[derive(Parser)]
struct Args {}

#[tokio::main]
async fn main() -> Result<(), StdError> {
    let Args {} = Args::parse();
    let addresses = [greeters::start("a").await?, greeters::start("b").await?];
    println!("With a control plane:");
    with_control_plane(addresses).await?;
    println!("A balancer alone:");
    balancer_alone(addresses).await
}

/// The layers of a `MeshChannel`, and a header on each attempt.
async fn with_control_plane(addresses: [SocketAddr; 2]) -> Result<(), StdError> {
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", addresses));
    let mesh = Mesh::builder().control_plane(&control_plane).build().await?;

    let attempt = ServiceBuilder::new()
        // Whether the cluster admits another call.
        .layer(ClusterLayer::new())
        // An endpoint of the cluster, over the mesh's connections.
        .service(mesh.balance().classify(&mesh_tonic::Grpc));

    let stack = ServiceBuilder::new()
        // Tonic finds the status in this error: the code, and the whole report as the message.
        .map_err(mesh_tonic::Error::from)
        // What the layers below tell each other is in the call; here begins one.
        .map_request(begin_call)
        // The configuration in force, once per call.
        .layer(DiscoverLayer::new(mesh.target("xds:///greeter")?))
        // The cluster, once per call.
        .layer(RouteLayer::new())
        // The deadline: the call's, or the route's if that is earlier. The server is told of it, and one that says CANCELLED
        // at the deadline means DEADLINE_EXCEEDED.
        .layer(TimeoutLayer::new().tell_peer(mesh_tonic::encode_timeout).protocol(&mesh_tonic::Grpc))
        // The listener's filters, such as faults, and what the route does to its calls: rewrites, header changes.
        .layer(FilterLayer::new().protocol(&mesh_tonic::Grpc))
        // A copy to another cluster, where the route says so; nothing of it is felt by the call.
        .layer(MirrorLayer::new(attempt.clone()))
        // Attempts, as the route's policy has them; what lies below is one attempt.
        .layer(RetryLayer::new().protocol(&mesh_tonic::Grpc))
        // Any layer of tower's, or your own.
        .map_request(|mut attempt: Request<AttemptBody>| {
            attempt.headers_mut().insert("x-sent-by", HeaderValue::from_static("own-stack"));
            attempt
        })
        .service(attempt);

    greet(GreeterClient::new(stack)).await?;
    mesh.shutdown().await;
    Ok(())
}

/// No mesh: two endpoints in turn, and a deadline.
async fn balancer_alone(addresses: [SocketAddr; 2]) -> Result<(), StdError> {
    let balance = BalanceLayer::default().layer(Http2Connector::default());
    let stack = ServiceBuilder::new()
        .map_err(mesh_tonic::Error::from)
        .map_request(begin_call)
        .layer(TimeoutLayer::new().tell_peer(mesh_tonic::encode_timeout).protocol(&mesh_tonic::Grpc))
        .service(balance.with_endpoints("greeters", addresses.map(Address::Socket)));

    greet(GreeterClient::with_origin(stack, "http://greeters".parse()?)).await
}

/// A call with the deadline that the application gave its request, or one of 1 s.
fn begin_call(mut request: Request<Body>) -> Request<Body> {
    let timeout = mesh_tonic::decode_timeout(request.headers()).unwrap_or(Duration::from_secs(1));
    let call = Call::new(Some(timeout));
    request.extensions_mut().insert(call);
    request
}

async fn greet<S>(mut greeter: GreeterClient<S>) -> Result<(), StdError>
where
    S: GrpcService<Body, Error: Into<StdError>>,
    S::ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
{
    for _ in 0..4 {
        let reply = greeter.say_hello(HelloRequest { name: "stack".to_owned() }).await?;
        let info = reply.extensions().get::<CallInfo>().ok_or("the response has no CallInfo")?;
        let (cluster, endpoint) = (info.cluster().to_owned(), info.endpoint().clone());
        println!("  {}: cluster {cluster}, endpoint {endpoint}", reply.into_inner().message);
    }
    Ok(())
}

//! What calls allocate, in a process of its own: an allocator is the whole program's.

use std::net::SocketAddr;

use alloc_tracker::{Allocator, Session};
use mesh_core::Mesh;
use mesh_core::testing::{ControlPlane, Resources, RouteBuilder, route, route_config};
use mesh_examples::helloworld::greeter_client::GreeterClient;
use mesh_examples::helloworld::greeter_server::{Greeter, GreeterServer};
use mesh_examples::helloworld::{HelloReply, HelloRequest};
use mesh_tonic::MeshChannel;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

#[global_allocator]
static ALLOCATOR: Allocator<std::alloc::System> = Allocator::system();

const CALLS: u64 = 200;

struct Answers;

#[tonic::async_trait]
impl Greeter for Answers {
    async fn say_hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply::default()))
    }
}

/// A server in a thread of its own: allocations are counted by thread.
fn serve() -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        runtime().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let incoming = TcpListenerStream::new(listener);
            Server::builder().add_service(GreeterServer::new(Answers)).serve_with_incoming(incoming).await.unwrap();
        });
    });
    told.recv().unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Of one call by this route on the client's side, in hundredths.
async fn of_a_call(server: SocketAddr, route: RouteBuilder) -> u64 {
    let control_plane = ControlPlane::new();
    let routes = route_config("greeter").routes([route.cluster("greeter")]);
    control_plane.set(Resources::service("greeter", [server]).with(routes));
    let mesh = Mesh::builder().control_plane(&control_plane).build().await.unwrap();
    let mut client = GreeterClient::new(MeshChannel::new(&mesh, "xds:///greeter").unwrap());
    // What the first calls make stays.
    for _ in 0..CALLS {
        client.say_hello(HelloRequest::default()).await.unwrap();
    }
    let session = Session::new();
    {
        let _counted = session.operation("calls").measure_thread();
        for _ in 0..CALLS {
            client.say_hello(HelloRequest::default()).await.unwrap();
        }
    }
    let report = session.to_report();
    let allocations: u64 = report.operations().map(|(_, calls)| calls.total_allocations_count()).sum();
    assert!(allocations > CALLS, "the allocator counts");
    allocations * 100 / CALLS
}

#[test]
fn a_retry_policy_costs_a_call_two_allocations() {
    let server = serve();
    runtime().block_on(async {
        let without = of_a_call(server, route()).await;
        let with = of_a_call(server, route().retry_on("unavailable", 3)).await;
        // A fifth of one for what runs beside the calls.
        assert!(with <= without + 220, "{with} and {without} hundredths of an allocation with the policy and without");
    });
}

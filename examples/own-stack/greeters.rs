//! The greeters that the stacks call.

use std::net::{Ipv4Addr, SocketAddr};

use mesh_core::deadline::DeadlineLayer;
use mesh_examples::helloworld::greeter_server::{Greeter, GreeterServer};
use mesh_examples::helloworld::{HelloReply, HelloRequest};
use tokio::net::TcpListener;
use tonic::codegen::StdError;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Request, Response, Status};

/// Starts a greeter that ends with the process; where it listens.
pub(crate) async fn start(name: &'static str) -> Result<SocketAddr, StdError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    // What a handler calls has no more time than the call that it serves.
    let deadlines = DeadlineLayer::new().protocol(&mesh_tonic::Grpc);
    let server = Server::builder().layer(deadlines).add_service(GreeterServer::new(Named(name)));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))));
    Ok(address)
}

struct Named(&'static str);

#[tonic::async_trait]
impl Greeter for Named {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let message = format!("Hello {}, this is {}", request.into_inner().name, self.0);
        Ok(Response::new(HelloReply { message }))
    }
}

//! Services that serve a call by calling another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::deadline::DeadlineLayer;
use mesh_examples::helloworld::greeter_server::{Greeter, GreeterServer};
use mesh_examples::helloworld::{HelloReply, HelloRequest};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codegen::BoxFuture;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::client::Client;
use super::{Counted, Counter};

/// A greeter whose handler works for a while and then asks the next service.
pub(crate) struct Tier {
    address: SocketAddr,
    calls: Counter,
    in_flight: Counter,
    server: JoinHandle<()>,
}

type Handler = Arc<dyn Fn() -> BoxFuture<String, Status> + Send + Sync>;

impl Tier {
    /// Works for so long, then makes one call, without a deadline of its own.
    pub(crate) async fn start(layer: DeadlineLayer, work: Duration, next: &Client) -> Self {
        let next = next.clone();
        let handler = move || {
            let next = next.clone();
            async move {
                tokio::time::sleep(work).await;
                next.hello().await
            }
        };
        Self::serving(layer, handler).await
    }

    /// Answers as `handler` does. What a failure has in its metadata is not passed on.
    pub(crate) async fn serving<F>(layer: DeadlineLayer, handler: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<String, Status>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let (calls, in_flight) = (Counter::new(), Counter::new());
        let handler: Handler = Arc::new(move || Box::pin(handler()));
        let instance = Instance { calls: calls.clone(), in_flight: in_flight.clone(), handler };
        let server = Server::builder().layer(layer).add_service(GreeterServer::new(instance));
        let serve = server.serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async { serve.await.expect("the listener works") });
        Self { address, calls, in_flight, server }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many calls came, whatever became of them.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.get()
    }

    pub(crate) async fn wait_for_in_flight(&self, exactly: u64) {
        self.in_flight.wait_for("calls in flight", |count| *count == exactly).await;
    }
}

impl Drop for Tier {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Instance {
    calls: Counter,
    in_flight: Counter,
    handler: Handler,
}

impl Instance {
    async fn answer(&self) -> Result<HelloReply, Status> {
        let _in_flight = Counted::by(&self.in_flight);
        self.calls.add(1);
        let answer = (self.handler)().await;
        answer.map(|message| HelloReply { message }).map_err(|status| Status::new(status.code(), status.message()))
    }
}

#[tonic::async_trait]
impl Greeter for Instance {
    async fn say_hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        self.answer().await.map(Response::new)
    }
}

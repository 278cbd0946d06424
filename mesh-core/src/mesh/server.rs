//! Servers of a mesh: how one is set up, and what the mesh tells of those that run.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use parking_lot::Mutex;
use tower_service::Service;

use super::Mesh;
use crate::deadline::InboundProtocol;
use crate::error::{BoxError, Error};
use crate::server::{self, Ended, Listen, RequestBody, ServerOptions, ServerState};
use crate::stack::server::ServerStackBuilder;

/// Sets up a server; [`Mesh::server`] starts one. Adapters have one around it, such as `mesh_tonic::MeshServer`.
///
/// ```
/// use std::convert::Infallible;
/// use http::{Request, Response};
/// use mesh_core::server::RequestBody;
/// use tower::service_fn;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mesh = mesh_core::Mesh::builder().build().await?;
/// let hello = service_fn(async |_: Request<RequestBody>| Ok::<_, Infallible>(Response::new(String::from("hello"))));
/// let address: std::net::SocketAddr = "127.0.0.1:0".parse()?;
/// let stop = async {}; // such as a signal
/// mesh.server().serve(address, hello, stop).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `serve` is called"]
pub struct ServerBuilder {
    mesh: Mesh,
    options: ServerOptions,
    layers: ServerStackBuilder,
}

impl Mesh {
    /// Starts to set up a server.
    pub fn server(&self) -> ServerBuilder {
        ServerBuilder { mesh: self.clone(), options: ServerOptions::default(), layers: ServerStackBuilder::default() }
    }
}

impl ServerBuilder {
    /// Limits of connections, and how the server ends.
    pub fn options(mut self, options: ServerOptions) -> Self {
        self.options = options;
        self
    }

    /// What the callers speak; gRPC's is the adapter's. Default: HTTP, and no call has a deadline.
    pub fn protocol(mut self, protocol: &'static dyn InboundProtocol) -> Self {
        self.layers.protocol = Some(protocol);
        self
    }

    /// The longest a call may take, whatever its caller allows. Default: no limit.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.layers.limit = Some(limit);
        self
    }

    /// Serves until `shutdown` is done or the mesh is shut down, and then until the last call ends, or
    /// [`ServerOptions::shutdown_timeout`] does. Handlers run on the current tokio runtime. Dropped, the future cuts all
    /// connections.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on. What goes wrong later ends no server.
    pub async fn serve<S, R>(
        self,
        listen: impl Into<Listen>,
        service: S,
        shutdown: impl Future<Output = ()>,
    ) -> Result<Ended, Error>
    where
        S: Service<Request<RequestBody>, Response = Response<R>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let (listener, address) = listen.into().bind().await?;
        let state = Arc::new(ServerState::new(address));
        let inner = &self.mesh.inner;
        inner.servers.add(&state);
        let closed = inner.closed.clone();
        let shutdown = async move {
            tokio::select! {
                () = shutdown => {}
                () = closed.cancelled_owned() => {}
            }
        };
        Ok(server::run(listener, self.layers.build(service), self.options, state, shutdown).await)
    }
}

/// How it stands with one server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerStatus {
    /// Where it listens.
    pub address: SocketAddr,
    /// Connections that are open.
    pub connections: usize,
    /// Calls whose response has not ended.
    pub in_flight: usize,
    /// Connections that were served since the start.
    pub accepted: u64,
    /// Connections that were closed without a byte.
    pub refused: u64,
}

impl ServerStatus {
    fn of(state: &ServerState) -> Self {
        Self {
            address: state.address,
            connections: state.connections(),
            in_flight: state.in_flight(),
            accepted: state.accepted(),
            refused: state.refused(),
        }
    }
}

/// The servers that run.
#[derive(Debug, Default)]
pub(super) struct Servers(Mutex<Vec<Weak<ServerState>>>);

impl Servers {
    fn add(&self, state: &Arc<ServerState>) {
        let mut servers = self.0.lock();
        servers.retain(|server| server.strong_count() > 0);
        servers.push(Arc::downgrade(state));
    }

    pub(super) fn status(&self) -> Vec<ServerStatus> {
        let running: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        running.iter().map(|state| ServerStatus::of(state)).collect()
    }
}

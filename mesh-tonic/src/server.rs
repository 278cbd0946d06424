//! The server that takes the place of `tonic::transport::Server`.

use std::convert::Infallible;
use std::fmt;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, Response};
#[cfg(feature = "tls")]
use mesh_core::identity::SpiffeId;
#[cfg(feature = "tls")]
use mesh_core::server::ServerTls;
use mesh_core::server::{ConnectInfo, Ended, Listen, RequestBody, ServerOptions, ServingMode};
use mesh_core::{BoxError, Mesh, ServerBuilder};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;
#[cfg(feature = "health")]
use tonic_health::pb::health_server::HealthServer;
use tower_layer::{Identity, Layer, Stack};

use crate::Grpc;

/// Serves tonic's generated services in the mesh.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// # let greeter = tonic::service::Routes::default();
/// use std::net::SocketAddr;
///
/// let mesh = mesh_core::Mesh::builder().build().await?;
/// let address: SocketAddr = "0.0.0.0:50051".parse()?;
/// let interrupted = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
/// // GreeterServer::new(MyGreeter) is added with `add_service`.
/// mesh_tonic::MeshServer::new(&mesh).routes(greeter).serve_with_shutdown(address, interrupted).await?;
/// # Ok(()) }
/// ```
///
/// Each call is served in a [`Context`](mesh_core::context::Context): its deadline holds for the handler and for all calls
/// that the handler makes through the mesh. A shutdown lets calls end, at most for [`ServerOptions::shutdown_timeout`].
#[must_use = "a server does nothing until `serve` is called"]
pub struct MeshServer<L = Identity> {
    builder: ServerBuilder,
    routes: Routes,
    layer: L,
    hears: Option<Hears>,
    #[cfg(feature = "health")]
    health: crate::ServerHealth,
}

type Hears = Box<dyn Fn(&ServingMode) + Send + Sync>;

impl MeshServer {
    /// A server without services.
    pub fn new(mesh: &Mesh) -> Self {
        Self {
            builder: mesh.server().protocol(&Grpc),
            routes: Routes::default(),
            layer: Identity::new(),
            hears: None,
            #[cfg(feature = "health")]
            health: crate::ServerHealth::new(),
        }
    }
}

impl<L> MeshServer<L> {
    /// Puts a layer around all services, as `tonic::transport::Server::layer` does: one of [`mesh_core::authorize`], or of
    /// tower's. Its requests have passed the filters that the control plane asks for. Of several, the first is the outermost.
    ///
    /// ```no_run
    /// # async fn example(mesh: mesh_core::Mesh, address: std::net::SocketAddr) -> Result<(), mesh_core::Error> {
    /// use tower::limit::ConcurrencyLimitLayer;
    ///
    /// mesh_tonic::MeshServer::new(&mesh).layer(ConcurrencyLimitLayer::new(100)).serve(address).await?;
    /// # Ok(()) }
    /// ```
    pub fn layer<M>(self, layer: M) -> MeshServer<Stack<M, L>> {
        MeshServer {
            builder: self.builder,
            routes: self.routes,
            layer: Stack::new(layer, self.layer),
            hears: self.hears,
            #[cfg(feature = "health")]
            health: self.health,
        }
    }

    /// Adds a generated service.
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.routes = self.routes.add_service(service);
        #[cfg(feature = "health")]
        self.health.add(S::NAME);
        self
    }

    /// The health service of this server (`grpc.health.v1`), to be added to it, or to another that serves it on a port of
    /// its own. It knows the services that are added by [`add_service`](Self::add_service), before or after.
    ///
    /// ```no_run
    /// # async fn example(mesh: mesh_core::Mesh, address: std::net::SocketAddr) -> Result<(), mesh_core::Error> {
    /// let server = mesh_tonic::MeshServer::new(&mesh);
    /// let health = server.health();
    /// server.add_service(health).serve(address).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// On a port of its own, for probes, a mesh with a control plane would ask it for a Listener of that port, too, and not
    /// serve without: [`without_control_plane`](Self::without_control_plane) serves probes whatever the control plane says.
    ///
    /// ```no_run
    /// # use std::net::SocketAddr;
    /// # async fn example(mesh: mesh_core::Mesh, address: SocketAddr, probes: SocketAddr) -> Result<(), mesh_core::Error> {
    /// use mesh_tonic::MeshServer;
    ///
    /// let server = MeshServer::new(&mesh);
    /// let health = MeshServer::new(&mesh).add_service(server.health()).without_control_plane();
    /// // The probes go on while the server's calls end, and see NOT_SERVING.
    /// tokio::spawn(health.serve(probes));
    /// server.serve(address).await?;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "health")]
    pub fn health(&self) -> HealthServer<crate::ServerHealth> {
        HealthServer::new(self.health.clone())
    }

    /// Serves these, in place of what was added before. [`health`](Self::health) does not learn their names: it answers for
    /// the server as a whole, and for services that are added afterwards.
    pub fn routes(mut self, routes: Routes) -> Self {
        self.routes = routes;
        #[cfg(feature = "health")]
        self.health.forget_services();
        self
    }

    /// Limits of connections, and how the server ends.
    pub fn options(mut self, options: ServerOptions) -> Self {
        self.builder = self.builder.options(options);
        self
    }

    /// The longest a call may take, whatever its caller allows. Default: no limit.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.builder = self.builder.timeout(limit);
        self
    }

    /// The header in which calls say how important they are; see [`ServerBuilder::criticality_header`].
    pub fn criticality_header(mut self, name: HeaderName) -> Self {
        self.builder = self.builder.criticality_header(name);
        self
    }

    /// Does not ask the control plane for a listener, though the mesh has one; see
    /// [`ServerBuilder::without_control_plane`].
    pub fn without_control_plane(mut self) -> Self {
        self.builder = self.builder.without_control_plane();
        self
    }

    /// Secures the connections for which the control plane does not say it; see [`ServerBuilder::tls`].
    ///
    /// ```no_run
    /// # async fn example(mesh: mesh_core::Mesh, address: std::net::SocketAddr) -> Result<(), mesh_core::Error> {
    /// use mesh_core::server::ServerTls;
    ///
    /// // The mesh has a certificate provider "default"; callers must show a certificate that its roots vouch for.
    /// mesh_tonic::MeshServer::new(&mesh).tls(ServerTls::new("default")).serve(address).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// A handler finds who calls in its request: `request.extensions().get::<mesh_core::server::Peer>()`.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.builder = self.builder.tls(tls);
        self
    }

    /// Serves callers in plaintext, too, where TLS is asked for; see [`ServerBuilder::permissive`].
    #[cfg(feature = "tls")]
    pub fn permissive(mut self) -> Self {
        self.builder = self.builder.permissive();
        self
    }

    /// Trusts what these callers, such as a gateway, say about others; see [`ServerBuilder::trusted_forwarders`].
    #[cfg(feature = "tls")]
    pub fn trusted_forwarders(mut self, ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        self.builder = self.builder.trusted_forwarders(ids);
        self
    }

    /// Hears of each change between serving, not serving, with the reason (A36), and shutting down. They are logged in any
    /// case.
    pub fn on_serving_mode(mut self, hears: impl Fn(&ServingMode) + Send + Sync + 'static) -> Self {
        self.hears = Some(Box::new(hears));
        self
    }

    /// Serves at an address, or on a listener, until the mesh is shut down.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on; when the mesh has a bootstrap that does not say how the server's listener
    /// is called; when the mesh has no certificate provider of a name that `tls` has; when the server is `permissive`
    /// against the floor.
    pub async fn serve<R>(self, listen: impl Into<Listen>) -> Result<Ended, mesh_core::Error>
    where
        L: Layer<Services>,
        L::Service: Service<Request<RequestBody>, Response = Response<R>> + Clone + Send + 'static,
        <L::Service as Service<Request<RequestBody>>>::Error: Into<BoxError>,
        <L::Service as Service<Request<RequestBody>>>::Future: Send + 'static,
        R: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        self.serve_with_shutdown(listen, std::future::pending()).await
    }

    /// Serves until `shutdown` is done or the mesh is shut down, and then until the last call ends, or
    /// [`ServerOptions::shutdown_timeout`] does.
    ///
    /// # Errors
    ///
    /// As [`serve`](Self::serve).
    pub async fn serve_with_shutdown<R>(
        self,
        listen: impl Into<Listen>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<Ended, mesh_core::Error>
    where
        L: Layer<Services>,
        L::Service: Service<Request<RequestBody>, Response = Response<R>> + Clone + Send + 'static,
        <L::Service as Service<Request<RequestBody>>>::Error: Into<BoxError>,
        <L::Service as Service<Request<RequestBody>>>::Future: Send + 'static,
        R: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let hears = self.hears;
        #[cfg(feature = "health")]
        let health = self.health;
        #[cfg(feature = "health")]
        let _serving = health.until_dropped();
        let builder = self.builder.on_serving_mode(move |mode| {
            #[cfg(feature = "health")]
            health.set(mode);
            if let Some(hears) = &hears {
                hears(mode);
            }
        });
        builder.serve(listen, self.layer.layer(Services(self.routes.prepare())), shutdown).await
    }
}

impl<L> fmt::Debug for MeshServer<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshServer").finish_non_exhaustive()
    }
}

/// The services of a [`MeshServer`], which find their peer where tonic's own server says it.
#[derive(Clone, Debug)]
pub struct Services(Routes);

impl Service<Request<RequestBody>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <Routes as Service<Request<RequestBody>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<RequestBody>>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> Self::Future {
        if let Some(info) = request.extensions().get::<ConnectInfo>().copied() {
            let (local_addr, remote_addr) = (Some(info.local_address), Some(info.peer_address));
            request.extensions_mut().insert(TcpConnectInfo { local_addr, remote_addr });
        }
        self.0.call(request)
    }
}

//! Servers of a mesh: how one is set up, and what the mesh tells of those that run.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body::Body;
use parking_lot::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower_service::Service;

use super::Mesh;
use crate::deadline::InboundProtocol;
use crate::error::{BoxError, Error};
use crate::filter::ConcurrencyStatus;
#[cfg(feature = "tls")]
use crate::identity::SpiffeId;
#[cfg(feature = "tls")]
use crate::server::{AcceptedSecurity, ServerTls};
use crate::server::{
    AuditLog, ConnectionState, Ended, Forwarders, Listen, OnServingMode, RequestBody, Runner, Securing, ServerOptions,
    ServerState, ServingMode,
};
use crate::stack::server::ServerStackBuilder;
#[cfg(feature = "tls")]
use crate::tls::Acceptor;
use crate::xds::XdsClient;

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
#[must_use = "a builder does nothing until `serve` is called"]
pub struct ServerBuilder {
    mesh: Mesh,
    options: ServerOptions,
    layers: ServerStackBuilder,
    without_control_plane: bool,
    on_serving_mode: Option<OnServingMode>,
    #[cfg(feature = "tls")]
    tls: Option<ServerTls>,
    #[cfg(feature = "tls")]
    is_permissive: bool,
    forwarders: Forwarders,
}

impl Mesh {
    /// Starts to set up a server.
    pub fn server(&self) -> ServerBuilder {
        ServerBuilder {
            mesh: self.clone(),
            options: ServerOptions::default(),
            layers: ServerStackBuilder::default(),
            without_control_plane: false,
            on_serving_mode: None,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            is_permissive: false,
            forwarders: Forwarders::default(),
        }
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

    /// The header in which calls say how important they are ([`Criticality`](crate::Criticality)), and in which calls that are
    /// made to serve them do. Default: [`Criticality::HEADER`](crate::Criticality::HEADER).
    pub fn criticality_header(mut self, name: HeaderName) -> Self {
        self.layers.criticality = Some(name);
        self
    }

    /// Does not ask the control plane for a listener, though the mesh has one: every connection and every call is served.
    /// Default: the server does as its Listener says (A36), whose name the bootstrap's
    /// `server_listener_resource_name_template` makes of the address that it listens on; in a mesh without a bootstrap, it
    /// serves everything.
    pub fn without_control_plane(mut self) -> Self {
        self.without_control_plane = true;
        self
    }

    /// Secures the connections for which the control plane does not say it: all of a server without a Listener, and those
    /// of a filter chain without `transport_socket` (A29). Default: they are in plaintext.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Serves callers in plaintext, too, where TLS is asked for: to move callers to mTLS one by one. The first byte of a
    /// connection decides. Such callers have no [`Peer`](crate::server::Peer), whatever certificates are required of others;
    /// [`ServerStatus::plaintext`] counts them and [`ServerStatus::open`] has their addresses. No control plane can ask for
    /// this, and a mesh whose floor has [`require_mtls`](crate::SecurityFloor::require_mtls) or
    /// [`allow_trust_domain`](crate::SecurityFloor::allow_trust_domain) has no such server. While there is no certificate to
    /// show, it serves in plaintext alone, and [`ServerStatus::cannot_secure`] says why. Default: they are refused.
    #[cfg(feature = "tls")]
    pub fn permissive(mut self) -> Self {
        self.is_permissive = true;
        self
    }

    /// Trusts what these callers, such as a gateway, say about others in `x-forwarded-*`, `forwarded` (RFC 7239) and
    /// `x-envoy-*`. Default: nobody, and such headers are taken out of each request (but for `x-envoy-attempt-count`). No
    /// part of them ever becomes a [`Peer`](crate::server::Peer).
    #[cfg(feature = "tls")]
    pub fn trusted_forwarders(mut self, ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        self.forwarders.trusted = ids.into_iter().collect();
        self
    }

    /// Hears of each change between serving, not serving, with the reason (A36), and shutting down; it is called from a task
    /// of the server and must return soon. They are logged in any case.
    pub fn on_serving_mode(mut self, hears: impl Fn(&ServingMode) + Send + Sync + 'static) -> Self {
        self.on_serving_mode = Some(Arc::new(hears));
        self
    }

    /// Serves until `shutdown` is done or the mesh is shut down, and then until the last call ends, or
    /// [`ServerOptions::shutdown_timeout`] does. [`Mesh::shutdown`] waits for that. Handlers run on the current tokio runtime. Dropped, the future cuts all
    /// connections.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on; when the mesh has a bootstrap that does not say how the server's listener
    /// is called; when the mesh has no certificate provider of a name that [`tls`](Self::tls) has; when the
    /// server is [`permissive`](Self::permissive) against the floor. What goes wrong later ends
    /// no server.
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
        let mut this = self;
        let securing = this.securing()?;
        let (listener, address) = listen.into().bind().await?;
        let inner = &this.mesh.inner;
        let name = this.listener_name(address)?;
        let resources = name.as_ref().and_then(|_| inner.xds.as_ref()).map(XdsClient::subscriber);
        let criticality = this.layers.criticality.clone();
        let state = Arc::new(ServerState::new(address, name, &this.options, criticality));
        let running = inner.servers.add(&state, this.options.shutdown_timeout);
        let (closing, closed) = (inner.servers.closing.clone(), inner.life.closed.clone());
        let shutdown = async move {
            tokio::select! {
                () = shutdown => {}
                () = closing.cancelled_owned() => {}
                () = closed.cancelled_owned() => {}
            }
        };
        let audit = inner.servers.audit.clone();
        let Self { options, on_serving_mode, layers, forwarders, .. } = this;
        let (protocol, limit) = (layers.protocol, layers.limit);
        let runner =
            Runner { options, state, protocol, limit, resources, on_serving_mode, securing, forwarders, audit };
        let ended = runner.run(listener, layers.build(service), shutdown).await;
        drop(running);
        Ok(ended)
    }

    #[cfg(feature = "tls")]
    fn securing(&mut self) -> Result<Securing, Error> {
        let providers = &self.mesh.inner.certificate_providers;
        let by_code = self.tls.take().map(ServerTls::into_context);
        for source in by_code.iter().flat_map(|context| context.sources()) {
            providers.of(source)?;
        }
        let floor = &self.mesh.inner.floor;
        if self.is_permissive
            && let Some(demand) = floor.demand_on_callers()
        {
            let message = format!("a server is `permissive`, and the floor of its mesh says otherwise: {demand}");
            return Err(Error::setup(message).with_next_step("drop one of the two"));
        }
        let acceptor = Acceptor::new(providers.clone(), floor.clone());
        Ok(Securing { acceptor, by_code: by_code.map(Arc::new), is_permissive: self.is_permissive })
    }

    #[cfg(not(feature = "tls"))]
    fn securing(&mut self) -> Result<Securing, Error> {
        Ok(Securing { by_code: None, is_permissive: false })
    }

    /// `None`: there is no control plane to ask.
    fn listener_name(&self, address: SocketAddr) -> Result<Option<Arc<str>>, Error> {
        let bootstrap = self.mesh.inner.bootstrap.as_ref().filter(|_| !self.without_control_plane);
        let Some(bootstrap) = bootstrap else { return Ok(None) };
        let name = bootstrap.server_listener_name(address).map(|name| Some(name.into()));
        name.ok_or_else(|| {
            Error::setup(format!("serve on {address}: the bootstrap has no `server_listener_resource_name_template`"))
                .with_next_step("add it (A36), or serve `without_control_plane`")
        })
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder").field("options", &self.options).finish_non_exhaustive()
    }
}

/// The state of one server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerStatus {
    /// Where it listens.
    pub address: SocketAddr,
    /// The name of its Listener at the control plane; `None`: it does not ask for one.
    pub listener: Option<Arc<str>>,
    /// Whether it serves, or why not.
    pub mode: ServingMode,
    /// Connections that are open.
    pub connections: usize,
    /// Calls whose response has not ended.
    pub in_flight: usize,
    /// Connections that were served since the start.
    pub accepted: u64,
    /// Connections that were closed without a byte.
    pub refused: u64,
    /// Calls that the Listener, its routes or its policies do not let be served. Their callers are not told why.
    pub refused_calls: u64,
    /// Why the last of them was refused.
    pub last_refused_call: Option<Arc<str>>,
    /// The limits of concurrency in force, of code and of the Listener's filters: how many calls may be served at a time, and
    /// how many were refused.
    pub concurrency: Vec<ConcurrencyStatus>,
    /// Why some connections cannot be secured, and are closed without a byte, while others are served: the certificate or
    /// the roots of their filter chain are missing or expired, or those of a server that is
    /// [`permissive`](ServerBuilder::permissive).
    pub cannot_secure: Option<Arc<str>>,
    /// What a newer Listener waits for while an older one serves, or why it is held back: it names routes that cannot be had.
    pub waiting_for: Option<Arc<str>>,
    /// Those of the accepted that are in plaintext though TLS is asked for: of a server that is
    /// [`permissive`](ServerBuilder::permissive).
    pub plaintext: u64,
    /// Connections that could not be secured since the start.
    pub failed_handshakes: u64,
    /// Whose handshake failed last, and why.
    pub last_handshake_error: Option<Arc<str>>,
    /// Connections without a call that a shutdown closed a second or two after their client was told of it, as it answered
    /// nothing.
    pub silent: u64,
    /// Connections that were cut as their client sent too many HTTP/2 frames that ask for nothing, such as PING, SETTINGS and
    /// WINDOW_UPDATE: more than what its calls and their messages allow, and 2,000 at once or 100 a second beside. The client is
    /// told by a GOAWAY with ENHANCE_YOUR_CALM; the log has a warning, one a minute at most.
    pub flooding: u64,
    /// The connections that are open.
    pub open: Vec<ServerConnection>,
}

/// The state of one connection of a server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerConnection {
    /// Where it comes from.
    pub peer_address: SocketAddr,
    /// How it is secured: with which certificate, with whom, and until when; `None`: in plaintext, or not yet.
    #[cfg(feature = "tls")]
    pub security: Option<Arc<AcceptedSecurity>>,
    /// Calls whose response has not ended.
    pub in_flight: usize,
}

impl ServerConnection {
    fn of(state: &ConnectionState) -> Self {
        Self {
            peer_address: state.peer_address,
            #[cfg(feature = "tls")]
            security: state.security(),
            in_flight: state.in_flight(),
        }
    }
}

impl ServerStatus {
    fn of(state: &ServerState) -> Self {
        let (failed_handshakes, last_handshake_error) = state.failed_handshakes();
        let (refused_calls, last_refused_call) = state.refused_calls();
        Self {
            address: state.address,
            listener: state.listener.clone(),
            mode: state.gate.mode(),
            connections: state.connections(),
            in_flight: state.in_flight(),
            accepted: state.accepted(),
            refused: state.refused(),
            plaintext: state.plaintext(),
            failed_handshakes,
            last_handshake_error,
            silent: state.silent(),
            flooding: state.flooding(),
            open: state.open().iter().map(|connection| ServerConnection::of(connection)).collect(),
            refused_calls,
            last_refused_call,
            concurrency: state.concurrency(),
            cannot_secure: state.why_not_secured(),
            waiting_for: state.waiting_for(),
        }
    }
}

/// The servers that run.
#[derive(Debug, Default)]
pub(super) struct Servers {
    /// Each with the time that it may take to end.
    states: Mutex<Vec<(Weak<ServerState>, Duration)>>,
    /// They end.
    closing: CancellationToken,
    running: TaskTracker,
    audit: Arc<AuditLog>,
}

impl Servers {
    /// The server runs until the token is dropped.
    fn add(&self, state: &Arc<ServerState>, shutdown_timeout: Duration) -> TaskTrackerToken {
        let mut servers = self.states.lock();
        servers.retain(|(server, _)| server.strong_count() > 0);
        servers.push((Arc::downgrade(state), shutdown_timeout));
        self.running.token()
    }

    fn running(&self) -> Vec<(Arc<ServerState>, Duration)> {
        self.states.lock().iter().filter_map(|(state, time)| Some((state.upgrade()?, *time))).collect()
    }

    pub(super) fn status(&self) -> Vec<ServerStatus> {
        self.running().iter().map(|(state, _)| ServerStatus::of(state)).collect()
    }

    /// Lines of the audit log that were not written.
    pub(super) fn lost_audit_lines(&self) -> u64 {
        self.audit.lost()
    }

    /// Ends when all have ended, and the audit log is written. One whose future nobody polls does not end: it is waited for as long as it might have taken.
    pub(super) async fn shut_down(&self) {
        self.closing.cancel();
        self.running.close();
        let longest = self.running().into_iter().map(|(_, time)| time).max().unwrap_or_default();
        if timeout(longest.saturating_add(super::ENDING), self.running.wait()).await.is_err() {
            tracing::warn!("a server did not end with its mesh: nobody polls the future of its `serve`");
        }
        // Nobody may read it.
        if timeout(super::ENDING, self.audit.written()).await.is_err() {
            tracing::warn!("the audit log was not written to its end: nobody reads the standard output");
        }
    }
}

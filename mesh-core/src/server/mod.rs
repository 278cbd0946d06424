//! The server: connections that are accepted, served over HTTP/2 and ended.
//!
//! ```text
//! follow.rs ─▸ listener.rs: what the control plane says (A36); whether there is anything to accept, and a certificate
//!                 │
//! accept.rs ─▸ connection.rs ─▸ request.rs ─▸ the layers of stack/server.rs ─▸ handler
//!  outlives     secure.rs: TLS,  counts the calls,
//!  EMFILE       age, drain, cut  caller.rs: says who calls
//! ```
//!
//! What ends a server, and each connection of it, is a timer of its own: neither waits for a peer beyond that.

mod accept;
mod access;
mod answer;
pub(crate) mod caller;
mod connection;
mod follow;
mod frames;
mod held;
mod io;
mod listener;
mod mode;
mod open;
mod options;
mod parties;
mod passage;
mod request;
mod secure;
mod stages;
mod state;
mod streams;
#[cfg(feature = "tls")]
mod tls;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;

#[cfg(feature = "rbac")]
pub(crate) use self::access::{NOT_ALLOWED, inbound_call};
pub(crate) use self::caller::Forwarders;
use self::connection::{Ends, Serving};
use self::follow::{Follower, Source as SetupSource};
use self::listener::{Admission, Setup, Watcher};
pub(crate) use self::mode::OnServingMode;
pub use self::mode::ServingMode;
pub use self::options::ServerOptions;
pub(crate) use self::parties::parties_of;
pub use self::request::{ConnectInfo, RequestBody};
pub(crate) use self::secure::Securing;
pub(crate) use self::state::{ConnectionState, ServerState};
#[cfg(feature = "tls")]
pub use self::tls::ServerTls;
use crate::deadline::InboundProtocol;
use crate::error::{BoxError, Error, ErrorKind};
#[cfg(feature = "jwt")]
pub use crate::resource::claims::Claims;
pub(crate) use crate::resource::rbac::audit::AuditLog;
#[cfg(feature = "tls")]
pub use crate::tls::{AcceptedSecurity, Peer};
use crate::xds::Subscriber;

/// Where a server listens: an address, or a listener that is bound already.
#[derive(Debug)]
pub struct Listen(Source);

#[derive(Debug)]
enum Source {
    Address(SocketAddr),
    Bound(TcpListener),
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self(Source::Address(address))
    }
}

impl From<TcpListener> for Listen {
    fn from(listener: TcpListener) -> Self {
        Self(Source::Bound(listener))
    }
}

impl Listen {
    pub(crate) async fn bind(self) -> Result<(TcpListener, SocketAddr), Error> {
        let listener = match self.0 {
            Source::Bound(listener) => listener,
            Source::Address(address) => TcpListener::bind(address)
                .await
                .map_err(|error| Error::new(ErrorKind::Setup, format!("listen on {address}")).with_source(error))?,
        };
        let address = listener.local_addr();
        let address = address
            .map_err(|error| Error::new(ErrorKind::Setup, "learn the address of a listener").with_source(error))?;
        Ok((listener, address))
    }
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// Calls that were still open at the end of `shutdown_timeout`, and were cut.
    pub cut_calls: usize,
    /// Connections without a call that were closed a second or two after their client had been told of the shutdown, as it
    /// answered nothing.
    pub silent_connections: u64,
}

/// What a server needs beside its listener and its handler.
pub(crate) struct Runner {
    pub(crate) options: ServerOptions,
    pub(crate) state: Arc<ServerState>,
    pub(crate) protocol: Option<&'static dyn InboundProtocol>,
    /// The longest a call may take, of which filters may hold it back for some.
    pub(crate) limit: Option<Duration>,
    /// Who asks the control plane for the server's listener; `None`: every connection and call is served.
    pub(crate) resources: Option<Subscriber>,
    pub(crate) on_serving_mode: Option<OnServingMode>,
    pub(crate) securing: Securing,
    pub(crate) forwarders: Forwarders,
    pub(crate) audit: Arc<AuditLog>,
}

impl Runner {
    /// Serves until `shutdown`, and then until the last call ends, or [`ServerOptions::shutdown_timeout`] does. Dropped, it
    /// cuts all connections.
    pub(crate) async fn run<S, R>(self, listener: TcpListener, service: S, shutdown: impl Future<Output = ()>) -> Ended
    where
        S: Service<Request<RequestBody>, Response = Response<R>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let Self { options, state, protocol, limit, resources, on_serving_mode, securing, forwarders, audit } = self;
        let (options, securing, forwarders) = (Arc::new(options), Arc::new(securing), Arc::new(forwarders));
        let tasks = TaskTracker::new();
        let (shutting_down, cut) = (CancellationToken::new(), CancellationToken::new());
        let _cut_on_drop = cut.clone().drop_guard();
        let followed = cut.child_token();
        let mut open = None;
        let source = match resources.zip(state.listener.clone()) {
            None => SetupSource::Code(Arc::new(Setup::without_listener())),
            Some((resources, name)) => {
                let watcher = Watcher::new(name, state.address, &securing);
                open = Some(watcher.open());
                SetupSource::ControlPlane(resources, watcher)
            }
        };
        let mut follower = Follower::new(source, securing.clone(), state.clone(), on_serving_mode.clone());
        follower.look();
        let following = tokio::spawn(followed.clone().run_until_cancelled_owned(follower.follow()));
        let serving = Serving { service, protocol, limit, options: options.clone(), securing, forwarders, audit };
        let mut shutdown = pin!(shutdown);
        loop {
            let (stream, peer_address) = tokio::select! {
                biased;
                () = shutdown.as_mut() => break,
                accepted = accept::accept(&listener, &state, &options) => accepted,
            };
            let local_address = stream.local_addr().unwrap_or(state.address);
            let admission = state.gate.setup().and_then(|setup| setup.admit(local_address, peer_address));
            let Some(Admission { chain, drain }) = admission else {
                state.refuse();
                continue;
            };
            let connected = state.connect(local_address, peer_address);
            let ends = Ends { drain, shutdown: shutting_down.clone(), cut: cut.clone() };
            tasks.spawn(connection::serve(stream, serving.clone(), chain, connected, ends));
        }
        drop(listener);
        followed.cancel();
        // What it has just taken up is told before the shutdown, and never after it.
        let _ = following.await;
        // By what holds at the end, calls that are due to be judged still are.
        let _last = state.gate.setup();
        let judging = async {
            match &open {
                Some(open) => open.judge_all().await,
                None => std::future::pending().await,
            }
        };
        state.gate.set(ServingMode::ShuttingDown, None);
        follow::tell(&state, &ServingMode::ShuttingDown, &on_serving_mode);
        shutting_down.cancel();
        tasks.close();
        let mut cut_calls = 0;
        let ended = async {
            tokio::select! {
                () = tasks.wait() => {}
                () = judging => {}
            }
        };
        if timeout(options.shutdown_timeout, ended).await.is_err() {
            cut_calls = state.in_flight();
            tracing::warn!(address = %state.address, cut_calls, "calls were still open at the end of the shutdown timeout");
            cut.cancel();
            tasks.wait().await;
        }
        Ended { cut_calls, silent_connections: state.silent() }
    }
}

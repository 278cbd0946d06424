//! The server: connections that are accepted, served over HTTP/2 and ended.
//!
//! ```text
//! follow.rs ─▸ listener.rs: what the control plane says (A36); whether there is anything to accept
//!                 │
//! accept.rs ─▸ connection.rs ─▸ request.rs ─▸ the layers of stack/server.rs ─▸ handler
//!  outlives     handshake,       counts the
//!  EMFILE       age, drain, cut  calls
//! ```
//!
//! What ends a server, and each connection of it, is a timer of its own: neither waits for a peer beyond that.

mod accept;
mod access;
mod connection;
mod follow;
mod io;
mod listener;
mod mode;
mod options;
mod request;
mod state;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

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
use self::connection::Ends;
use self::listener::{Admission, Setup, Watcher};
pub(crate) use self::mode::OnServingMode;
pub use self::mode::ServingMode;
pub use self::options::ServerOptions;
use self::request::Calls;
pub use self::request::{ConnectInfo, RequestBody};
pub(crate) use self::state::ServerState;
use crate::deadline::InboundProtocol;
use crate::error::{BoxError, Error, ErrorKind};
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
}

/// What a server needs beside its listener and its handler.
pub(crate) struct Runner {
    pub(crate) options: ServerOptions,
    pub(crate) state: Arc<ServerState>,
    pub(crate) protocol: Option<&'static dyn InboundProtocol>,
    /// Who asks the control plane for the server's listener; `None`: every connection and call is served.
    pub(crate) resources: Option<Subscriber>,
    pub(crate) on_serving_mode: Option<OnServingMode>,
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
        let Self { options, state, protocol, resources, on_serving_mode } = self;
        let options = Arc::new(options);
        let tasks = TaskTracker::new();
        let (shutting_down, cut) = (CancellationToken::new(), CancellationToken::new());
        let _cut_on_drop = cut.clone().drop_guard();
        let followed = cut.child_token();
        let mut following = None;
        match resources.zip(state.listener.clone()) {
            None => {
                state.gate.set(ServingMode::Serving, Some(Arc::new(Setup::without_listener())));
                follow::tell(&state, &ServingMode::Serving, &on_serving_mode);
            }
            Some((resources, name)) => {
                let watcher = Watcher::new(name, state.address);
                let follow = follow::follow(resources, watcher, state.clone(), on_serving_mode.clone());
                following = Some(tokio::spawn(followed.clone().run_until_cancelled_owned(follow)));
            }
        }
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
            let connected = state.connect(ConnectInfo { local_address, peer_address });
            let calls = Calls {
                service: service.clone(),
                connection: connected.state.clone(),
                chain,
                protocol,
                deny_by_default: options.deny_by_default,
            };
            let ends = Ends { drain, shutdown: shutting_down.clone(), cut: cut.clone() };
            tasks.spawn(connection::serve(stream, calls, connected, options.clone(), ends));
        }
        drop(listener);
        followed.cancel();
        if let Some(following) = following {
            // What it has just taken up is told before the shutdown, and never after it.
            let _ = following.await;
        }
        state.gate.set(ServingMode::ShuttingDown, None);
        follow::tell(&state, &ServingMode::ShuttingDown, &on_serving_mode);
        shutting_down.cancel();
        tasks.close();
        if timeout(options.shutdown_timeout, tasks.wait()).await.is_ok() {
            return Ended { cut_calls: 0 };
        }
        let cut_calls = state.in_flight();
        tracing::warn!(address = %state.address, cut_calls, "calls were still open at the end of the shutdown timeout");
        cut.cancel();
        tasks.wait().await;
        Ended { cut_calls }
    }
}

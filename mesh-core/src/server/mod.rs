//! The server: connections that are accepted, served over HTTP/2 and ended.
//!
//! ```text
//! accept.rs ─▸ connection.rs ─▸ request.rs ─▸ the layers of stack/server.rs ─▸ handler
//!  outlives     handshake,       counts the
//!  EMFILE       age, drain, cut  calls
//! ```
//!
//! What ends a server, and each connection of it, is a timer of its own: neither waits for a peer beyond that.

mod accept;
mod connection;
mod io;
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

pub use self::options::ServerOptions;
pub use self::request::{ConnectInfo, RequestBody};
pub(crate) use self::state::ServerState;
use crate::error::{BoxError, Error, ErrorKind};

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

/// Serves until `shutdown`, and then until the last call ends, or [`ServerOptions::shutdown_timeout`] does. Dropped, it
/// cuts all connections.
pub(crate) async fn run<S, R>(
    listener: TcpListener,
    service: S,
    options: ServerOptions,
    state: Arc<ServerState>,
    shutdown: impl Future<Output = ()>,
) -> Ended
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let options = Arc::new(options);
    let tasks = TaskTracker::new();
    let ends = connection::Ends { drain: CancellationToken::new(), cut: CancellationToken::new() };
    let _cut_on_drop = ends.cut.clone().drop_guard();
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, peer_address) = tokio::select! {
            biased;
            () = shutdown.as_mut() => break,
            accepted = accept::accept(&listener, &state, &options) => accepted,
        };
        let local_address = stream.local_addr().unwrap_or(state.address);
        let connected = state.connect(ConnectInfo { local_address, peer_address });
        tasks.spawn(connection::serve(stream, service.clone(), connected, options.clone(), ends.clone()));
    }
    drop(listener);
    ends.drain.cancel();
    tasks.close();
    if timeout(options.shutdown_timeout, tasks.wait()).await.is_ok() {
        return Ended { cut_calls: 0 };
    }
    let cut_calls = state.in_flight();
    tracing::warn!(address = %state.address, cut_calls, "calls were still open at the end of the shutdown timeout");
    ends.cut.cancel();
    tasks.wait().await;
    Ended { cut_calls }
}

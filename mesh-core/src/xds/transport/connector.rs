//! Connections to a control plane, before TLS and HTTP/2.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::StreamError;
use crate::bootstrap::ServerAddress;
use crate::http2::{TcpConfig, connect_tcp};

/// Between the attempts at the addresses of one name.
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// A connection of any kind.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub(crate) type BoxIo = Box<dyn Io>;

/// Makes a connection to a control plane in this process.
pub(crate) type InProcess = Arc<dyn Fn() -> io::Result<BoxIo> + Send + Sync>;

/// Makes connections.
#[derive(Clone)]
pub(crate) enum Connector {
    Address { address: ServerAddress, tcp: TcpConfig },
    InProcess(InProcess),
}

impl Connector {
    /// Connects; the caller bounds the time.
    pub(super) async fn connect(&self) -> Result<BoxIo, StreamError> {
        match self {
            Self::Address { address, tcp } => connect(address, tcp).await,
            Self::InProcess(connect) => connect().map_err(|error| unavailable("in-process control plane", &error)),
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address, .. } => f.debug_tuple("Address").field(address).finish(),
            Self::InProcess(_) => f.write_str("InProcess"),
        }
    }
}

async fn connect(address: &ServerAddress, tcp: &TcpConfig) -> Result<BoxIo, StreamError> {
    match address {
        ServerAddress::Addresses(addresses) => connect_first(addresses.iter().copied(), tcp).await,
        ServerAddress::Host { host, port } => {
            let resolved = tokio::net::lookup_host((host.as_str(), *port)).await;
            let addresses = resolved.map_err(|error| unavailable(&format!("name `{host}`"), &error))?;
            connect_first(addresses, tcp).await
        }
        #[cfg(unix)]
        ServerAddress::Unix(path) => {
            let stream = crate::http2::connect_unix(path, Duration::MAX).await;
            Ok(Box::new(stream.map_err(|error| unavailable(&path.display().to_string(), &error))?))
        }
        #[cfg(not(unix))]
        ServerAddress::Unix(_) => Err(StreamError::new("UNAVAILABLE: there are no Unix sockets on this system")),
        ServerAddress::InProcess(name) => {
            Err(StreamError::new(format!("UNAVAILABLE: no control plane `{name}` was given by code")))
        }
    }
}

/// Whichever address answers first; the next is tried when the last failed, or after a moment, so that an address that
/// leads nowhere does not take all the time there is.
async fn connect_first(mut addresses: impl Iterator<Item = SocketAddr>, tcp: &TcpConfig) -> Result<BoxIo, StreamError> {
    let mut attempts = FuturesUnordered::new();
    let mut failure = StreamError::new("UNAVAILABLE: the name has no address");
    attempts.extend(addresses.next().map(|address| attempt(address, tcp)));
    while !attempts.is_empty() {
        match timeout(NEXT_ADDRESS, attempts.next()).await {
            Ok(Some(Ok(stream))) => return Ok(Box::new(stream)),
            Ok(Some(Err(error))) => failure = error,
            Ok(None) | Err(_) => {}
        }
        attempts.extend(addresses.next().map(|address| attempt(address, tcp)));
    }
    Err(failure)
}

async fn attempt(address: SocketAddr, tcp: &TcpConfig) -> Result<TcpStream, StreamError> {
    connect_tcp(address, tcp, Duration::MAX).await.map_err(|error| unavailable(&address.to_string(), &error))
}

fn unavailable(what: &str, error: &io::Error) -> StreamError {
    StreamError::new(format!("UNAVAILABLE: {what}: {error}"))
}

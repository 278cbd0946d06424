//! Connections to a control plane, before TLS and HTTP/2.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::StreamError;
use crate::bootstrap::ServerAddress;
use crate::http2::{TcpConfig, connect_first};

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
        ServerAddress::Addresses(addresses) => connect_tcp(addresses.iter().copied(), tcp).await,
        ServerAddress::Host { host, port } => {
            let resolved = tokio::net::lookup_host((host.as_str(), *port)).await;
            let addresses = resolved.map_err(|error| unavailable(&format!("name `{host}`"), &error))?;
            connect_tcp(addresses, tcp).await
        }
        #[cfg(unix)]
        ServerAddress::Unix(path) => {
            let stream = tokio::net::UnixStream::connect(path).await;
            Ok(Box::new(stream.map_err(|error| unavailable(&path.display().to_string(), &error))?))
        }
        #[cfg(not(unix))]
        ServerAddress::Unix(_) => Err(StreamError::new("UNAVAILABLE: there are no Unix sockets on this system")),
        ServerAddress::InProcess(name) => {
            Err(StreamError::new(format!("UNAVAILABLE: no control plane `{name}` was given by code")))
        }
    }
}

async fn connect_tcp(addresses: impl IntoIterator<Item = SocketAddr>, tcp: &TcpConfig) -> Result<BoxIo, StreamError> {
    let stream = connect_first(addresses, tcp).await;
    Ok(Box::new(stream.map_err(|error| StreamError::new(format!("UNAVAILABLE: {error}")))?))
}

fn unavailable(what: &str, error: &io::Error) -> StreamError {
    StreamError::new(format!("UNAVAILABLE: {what}: {error}"))
}

//! Sockets whose death the kernel notices.

use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::Path;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Options of a TCP connection.
#[derive(Clone, Debug)]
pub(crate) struct TcpConfig {
    /// Send at once what is written. Default `true`: `h2` writes whole batches.
    pub(crate) nodelay: bool,
    /// How long written bytes may stay unacknowledged (TCP_USER_TIMEOUT, Linux only). Default 20 s, as in gRFC A18.
    pub(crate) user_timeout: Option<Duration>,
    /// Silence before the kernel probes the peer (SO_KEEPALIVE). Default 10 s; `None` for never.
    pub(crate) keepalive: Option<Duration>,
    /// Pause between probes. Default 5 s.
    pub(crate) keepalive_interval: Duration,
    /// Probes without an answer that end the connection. Default 3.
    pub(crate) keepalive_retries: u32,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            nodelay: true,
            user_timeout: Some(Duration::from_secs(20)),
            keepalive: Some(Duration::from_secs(10)),
            keepalive_interval: Duration::from_secs(5),
            keepalive_retries: 3,
        }
    }
}

impl TcpConfig {
    /// Sets the options on a connected socket.
    pub(crate) fn apply(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(self.nodelay)?;
        let socket = SockRef::from(stream);
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        socket.set_tcp_user_timeout(self.user_timeout)?;
        if let Some(after) = self.keepalive {
            let probes = TcpKeepalive::new().with_time(after).with_interval(self.keepalive_interval);
            #[cfg(not(any(target_os = "openbsd", target_os = "redox", target_os = "solaris", target_os = "windows")))]
            let probes = probes.with_retries(self.keepalive_retries);
            socket.set_tcp_keepalive(&probes)?;
        }
        Ok(())
    }
}

/// Connects to `address` within `limit`.
///
/// # Errors
///
/// The socket's own, or [`io::ErrorKind::TimedOut`].
pub(crate) async fn connect_tcp(address: SocketAddr, config: &TcpConfig, limit: Duration) -> io::Result<TcpStream> {
    let stream = timeout(limit, TcpStream::connect(address)).await.unwrap_or_else(|_| Err(timed_out(limit)))?;
    config.apply(&stream)?;
    Ok(stream)
}

/// Connects to the Unix socket at `path` within `limit`.
///
/// # Errors
///
/// As [`connect_tcp`].
#[cfg(unix)]
pub(crate) async fn connect_unix(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    timeout(limit, UnixStream::connect(path)).await.unwrap_or_else(|_| Err(timed_out(limit)))
}

fn timed_out(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("not connected within {limit:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn options_are_set_on_the_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = connect_tcp(address, &TcpConfig::default(), Duration::from_secs(2)).await.unwrap();
        assert!(stream.nodelay().unwrap());
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        {
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(20)));
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(10));
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(5));
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        }
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_as_such() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = connect_tcp(address, &TcpConfig::default(), Duration::from_secs(2)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}

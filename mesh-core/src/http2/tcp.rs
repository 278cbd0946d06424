//! Sockets whose death the kernel notices, and which of a name's addresses to connect them to.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::first::{first_of, interleaved};

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

/// Connects to `address`; the caller bounds the time.
pub(crate) async fn connect_tcp(address: SocketAddr, config: &TcpConfig) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    config.apply(&stream)?;
    Ok(stream)
}

/// Connects to whichever of a name's addresses answers first, as [`first_of`] tries them, the families by turns. The caller
/// bounds the time.
///
/// # Errors
///
/// Of the last address that failed, which it names; [`io::ErrorKind::NotFound`] if there is no address.
pub(crate) async fn connect_first(
    addresses: impl IntoIterator<Item = SocketAddr>,
    config: &TcpConfig,
) -> io::Result<TcpStream> {
    let attempt = async |address: &SocketAddr| {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        connect_tcp(*address, config).await.map_err(named)
    };
    let addresses: Vec<_> = addresses.into_iter().collect();
    let connected = first_of(interleaved(&addresses, SocketAddr::is_ipv6), attempt).await;
    let nobody = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    connected.map_err(|mut failures| failures.pop().unwrap_or_else(nobody))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::http2::NEXT_ADDRESS;

    #[tokio::test]
    async fn options_are_set_on_the_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = connect_tcp(address, &TcpConfig::default()).await.unwrap();
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
        let error = connect_tcp(address, &TcpConfig::default()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    /// A listener whose queue is full: packets to it get no answer (Linux).
    #[cfg(target_os = "linux")]
    fn black_hole() -> (socket2::Socket, std::net::TcpStream, SocketAddr) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let queued = std::net::TcpStream::connect(address).unwrap();
        (socket, queued, address)
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_address_that_leads_nowhere_holds_up_the_next_for_a_moment_only() {
        let (_socket, _queued, hole) = black_hole();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = listener.local_addr().unwrap();
        let before = tokio::time::Instant::now();
        let config = TcpConfig::default();
        let connected = connect_first([hole, alive], &config);
        let stream =
            timeout(Duration::from_secs(10), connected).await.expect("not as long as the first takes").unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive);
        assert!(before.elapsed() >= NEXT_ADDRESS, "the first had its moment: {:?}", before.elapsed());
        let before = tokio::time::Instant::now();
        connect_first([alive, hole], &config).await.unwrap();
        assert!(before.elapsed() < NEXT_ADDRESS, "who answers at once is not waited for");
    }

    #[tokio::test]
    async fn the_first_address_that_answers_is_connected_and_the_last_that_fails_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = listener.local_addr().unwrap();
        let dead = SocketAddr::from(([127, 0, 0, 2], alive.port()));
        let stream = connect_first([dead, alive], &TcpConfig::default()).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive);
        let error = connect_first([dead, dead], &TcpConfig::default()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(error.to_string().starts_with(&format!("{dead}: ")), "{error}");
        let error = connect_first([], &TcpConfig::default()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}

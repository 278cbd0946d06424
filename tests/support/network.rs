//! Places where no server answers: each fails a connection in another way.

use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::Counter;

/// A port that refuses connections while nobody [listens](Self::listen) there, and that nobody else gets meanwhile.
#[derive(Debug)]
pub(crate) struct ClosedPort {
    socket: Socket,
}

impl ClosedPort {
    pub(crate) fn new() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub(crate) fn at(address: SocketAddr) -> Self {
        // Bound and not listening: the kernel answers a SYN with RST.
        Self { socket: shared_socket(address) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        address_of(&self.socket)
    }

    /// Opens it. It is closed again when the listener is.
    pub(crate) fn listen(&self) -> TcpListener {
        let socket = shared_socket(self.address());
        socket.listen(1024).expect("a listener");
        socket.set_nonblocking(true).expect("a socket that does not block");
        TcpListener::from_std(socket.into()).expect("a runtime")
    }
}

/// Of those that may have an address together.
fn shared_socket(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("a port that can be shared");
    socket.bind(&address.into()).expect("a free port");
    socket
}

/// A port whose connections are never answered: its queue is full, so that the kernel drops each SYN.
#[derive(Debug)]
pub(crate) struct BlackHole {
    socket: Socket,
    _queued: Vec<StdTcpStream>,
}

impl BlackHole {
    pub(crate) fn new() -> Self {
        let socket = bound_socket();
        // Linux queues one connection more than it is told to.
        socket.listen(0).expect("a listener");
        let queued = StdTcpStream::connect(address_of(&socket)).expect("the one place in the queue");
        Self { socket, _queued: vec![queued] }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        address_of(&self.socket)
    }
}

fn bound_socket() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    socket
}

fn address_of(socket: &Socket) -> SocketAddr {
    let address = socket.local_addr().ok().and_then(|address| address.as_socket());
    address.expect("a bound socket has an address")
}

/// A port that accepts connections and does nothing good with them.
#[derive(Debug)]
pub(crate) struct BadServer {
    address: SocketAddr,
    accepted: Counter,
    task: JoinHandle<()>,
}

impl BadServer {
    /// Accepts and resets.
    pub(crate) async fn resetting() -> Self {
        Self::start(|stream| {
            SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).expect("a socket that can linger");
            None
        })
        .await
    }

    /// Accepts and closes in order.
    pub(crate) async fn closing() -> Self {
        Self::start(|_| None).await
    }

    /// Accepts, and neither reads nor writes.
    pub(crate) async fn silent() -> Self {
        Self::start(Some).await
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.get()
    }

    pub(crate) async fn wait_for_accepted(&self, at_least: u64) {
        self.accepted.wait_for("accepted connections", |count| *count >= at_least).await;
    }

    /// Keeps what `treat` gives back.
    async fn start(treat: impl Fn(TcpStream) -> Option<TcpStream> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let accepted = Counter::new();
        let counter = accepted.clone();
        let task = tokio::spawn(async move {
            let mut kept = Vec::new();
            loop {
                let stream = accept(&listener).await.expect("a listener that works");
                kept.extend(treat(stream));
                counter.add(1);
            }
        });
        Self { address, accepted, task }
    }
}

impl Drop for BadServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    listener.accept().await.map(|(stream, _)| stream)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt;

    use super::*;

    const A_WHILE: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_closed_port_refuses() {
        let port = ClosedPort::new();
        let error = TcpStream::connect(port.address()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_port_that_was_open_stays_the_tests_own() {
        let port = ClosedPort::new();
        let listener = port.listen();
        let _connection = TcpStream::connect(port.address()).await.unwrap();
        drop(listener);
        assert!(TcpStream::connect(port.address()).await.is_err());
        TcpListener::bind(port.address()).await.expect_err("it is taken");
        let _listener = port.listen();
        TcpStream::connect(port.address()).await.expect("it is open again");
    }

    #[tokio::test]
    async fn a_black_hole_does_not_answer() {
        let hole = BlackHole::new();
        assert!(tokio::time::timeout(A_WHILE, TcpStream::connect(hole.address())).await.is_err());
    }

    #[tokio::test]
    async fn bad_servers_reset_close_and_stay_silent() {
        let resetting = BadServer::resetting().await;
        let mut stream = TcpStream::connect(resetting.address()).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let closing = BadServer::closing().await;
        let mut stream = TcpStream::connect(closing.address()).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let silent = BadServer::silent().await;
        let mut stream = TcpStream::connect(silent.address()).await.unwrap();
        silent.wait_for_accepted(1).await;
        assert!(tokio::time::timeout(A_WHILE, stream.read_u8()).await.is_err());
        assert_eq!(silent.accepted(), 1);
    }
}

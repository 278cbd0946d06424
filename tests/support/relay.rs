//! A TCP relay: the network between a client and a server, which breaks on command.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Counted, Counter};

/// Relays connections to a target. Everything it does concerns connections that are open and those to come.
pub(crate) struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    target: watch::Sender<SocketAddr>,
    weather: watch::Sender<Weather>,
    connections: Counter,
    accepted: Counter,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Weather {
    frozen: bool,
    /// Counts cuts: a connection that is older than the last one ends.
    cuts: u64,
    /// Counts half-opens: a connection that is older than the last one loses its server and keeps its client.
    half_opens: u64,
    refusing: bool,
}

impl Relay {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let shared = Arc::new(Shared {
            target: watch::Sender::new(target),
            weather: watch::Sender::new(Weather::default()),
            connections: Counter::new(),
            accepted: Counter::new(),
        });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Self { address, shared, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends new connections elsewhere.
    pub(crate) fn retarget(&self, target: SocketAddr) {
        self.shared.target.send_replace(target);
    }

    /// Bytes stay where they are, in both directions, and new connections are accepted in silence: nobody is told.
    pub(crate) fn freeze(&self) {
        self.change(|weather| weather.frozen = true);
    }

    /// Bytes flow again.
    pub(crate) fn thaw(&self) {
        self.change(|weather| weather.frozen = false);
    }

    /// Resets all open connections, on both sides.
    pub(crate) fn cut(&self) {
        self.change(|weather| weather.cuts += 1);
    }

    /// Loses the servers of all open connections; the clients' sides stay open, in silence, until they are cut.
    pub(crate) fn half_open(&self) {
        self.change(|weather| weather.half_opens += 1);
    }

    /// Resets new connections, or does not any more.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.change(|weather| weather.refusing = refuse);
    }

    /// How many connections it accepted, refused ones too.
    pub(crate) fn accepted(&self) -> u64 {
        self.shared.accepted.get()
    }

    pub(crate) async fn wait_for_accepted(&self, at_least: u64) {
        self.shared.accepted.wait_for("accepted connections", |count| *count >= at_least).await;
    }

    /// How many connections are open.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.get()
    }

    pub(crate) async fn wait_for_connections(&self, exactly: u64) {
        self.shared.connections.wait_for("connections", |count| *count == exactly).await;
    }

    fn change(&self, change: impl FnOnce(&mut Weather)) {
        self.shared.weather.send_modify(change);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (client, _) = listener.accept().await.expect("a listener that works");
        shared.accepted.add(1);
        if shared.weather.borrow().refusing {
            reset(&client);
            continue;
        }
        let open = Counted::by(&shared.connections);
        let weather = shared.weather.subscribe();
        let target = *shared.target.borrow();
        tokio::spawn(async move {
            relay(client, target, weather).await;
            drop(open);
        });
    }
}

/// One connection, until it is cut or ends by itself.
async fn relay(client: TcpStream, target: SocketAddr, weather: watch::Receiver<Weather>) {
    let born = *weather.borrow();
    let ended_in_order = tokio::select! {
        () = wait_until(&weather, |now| now.cuts != born.cuts) => false,
        ended = serve(&client, target, &weather, born) => ended.is_ok(),
    };
    if !ended_in_order {
        reset(&client);
    }
}

async fn serve(
    client: &TcpStream,
    target: SocketAddr,
    weather: &watch::Receiver<Weather>,
    born: Weather,
) -> io::Result<()> {
    wait_until(weather, |now| !now.frozen).await;
    let server = TcpStream::connect(target).await?;
    server.set_nodelay(true)?;
    let copied = async { tokio::try_join!(copy(client, &server, weather), copy(&server, client, weather)) };
    tokio::select! {
        ended = copied => return ended.map(|_| ()),
        () = wait_until(weather, |now| now.half_opens != born.half_opens) => (),
    }
    drop(server);
    std::future::pending().await
}

/// Copies until the end of the stream, which it passes on.
async fn copy(from: &TcpStream, to: &TcpStream, weather: &watch::Receiver<Weather>) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        from.readable().await?;
        wait_until(weather, |now| !now.frozen).await;
        let length = match from.try_read(&mut buffer) {
            Ok(0) => return SockRef::from(to).shutdown(Shutdown::Write),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        write_all(to, &buffer[..length]).await?;
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Ends for ever with the relay.
async fn wait_until(weather: &watch::Receiver<Weather>, is_so: impl Fn(&Weather) -> bool) {
    if weather.clone().wait_for(is_so).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Makes the close of a connection a reset.
fn reset(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("a socket that can linger");
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const A_WHILE: Duration = Duration::from_millis(50);

    /// A client and a server with a relay between them.
    async fn connected() -> (Relay, TcpListener, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay::start(listener.local_addr().unwrap()).await;
        let client = TcpStream::connect(relay.address()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (relay, listener, client, server)
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_so_does_the_end() {
        let (relay, _listener, mut client, mut server) = connected().await;
        client.write_all(b"ping").await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        server.read_to_string(&mut text).await.unwrap();
        server.write_all(b"pong").await.unwrap();
        drop(server);
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "pingpong");
        relay.wait_for_connections(0).await;
    }

    #[tokio::test]
    async fn a_frozen_relay_goes_on_when_it_thaws() {
        let (relay, _listener, mut client, mut server) = connected().await;
        relay.freeze();
        client.write_all(b"x").await.unwrap();
        assert!(tokio::time::timeout(A_WHILE, server.read_u8()).await.is_err());
        relay.thaw();
        assert_eq!(server.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn a_cut_resets_both_sides_and_new_connections_pass() {
        let (relay, listener, mut client, mut server) = connected().await;
        relay.cut();
        assert_eq!(client.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(server.read_u8().await.is_err());
        let _client = TcpStream::connect(relay.address()).await.unwrap();
        listener.accept().await.unwrap();
        relay.wait_for_connections(1).await;
        assert_eq!((relay.accepted(), relay.connections()), (2, 1));
    }

    #[tokio::test]
    async fn a_half_open_connection_has_lost_its_server() {
        let (relay, _listener, mut client, mut server) = connected().await;
        relay.half_open();
        assert!(server.read_u8().await.is_err());
        client.write_all(b"x").await.unwrap();
        assert!(tokio::time::timeout(A_WHILE, client.read_u8()).await.is_err());
    }

    #[tokio::test]
    async fn a_relay_refuses_and_sends_elsewhere() {
        let (relay, _listener, _client, _server) = connected().await;
        relay.refuse(true);
        let mut refused = TcpStream::connect(relay.address()).await.unwrap();
        assert!(refused.read_u8().await.is_err());
        relay.wait_for_accepted(2).await;
        relay.refuse(false);
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        relay.retarget(other.local_addr().unwrap());
        let _client = TcpStream::connect(relay.address()).await.unwrap();
        other.accept().await.unwrap();
    }
}

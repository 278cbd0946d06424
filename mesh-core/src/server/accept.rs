//! The accept loop: it goes on whatever happens to a connection, and whatever the system runs out of.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::ServerOptions;
use super::state::ServerState;

/// How long the loop waits after the system was out of file descriptors or memory; each time twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The next connection that is to be served. Cancel safe.
pub(super) async fn accept(
    listener: &TcpListener,
    server: &ServerState,
    options: &ServerOptions,
) -> (TcpStream, SocketAddr) {
    let mut pause = FIRST_PAUSE;
    loop {
        match listener.accept().await {
            Ok(_) if server.connections() >= options.max_connections => {
                server.refuse();
                pause = FIRST_PAUSE;
            }
            Ok((stream, peer)) => match options.tcp.apply(&stream) {
                Err(error) if stream.peer_addr().is_err() => tracing::debug!(%peer, %error, "a connection is gone"),
                // A system may lack an option; a connection without it is better than none.
                result => {
                    result.unwrap_or_else(|error| server.socket_is_untuned(&error));
                    return (stream, peer);
                }
            },
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(address = %server.address, %error, ?pause, "no connection can be accepted for now");
                sleep(pause).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        }
    }
}

/// Errors that a connection had before it was accepted (accept(2), "Error handling"): the next may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, NetworkDown};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | NetworkDown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_whose_options_the_system_refuses_is_served() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut options = ServerOptions::new();
        // More than the system knows (tcp(7), TCP_KEEPIDLE).
        options.tcp.keepalive = Some(Duration::from_secs(1_000_000));
        let _client = TcpStream::connect(address).await.unwrap();
        let server = ServerState::new(address, None, &options, None);
        let accepted = accept(&listener, &server, &options);
        tokio::time::timeout(Duration::from_secs(10), accepted).await.expect("the connection is accepted");
    }
}

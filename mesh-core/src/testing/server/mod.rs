//! The server: accepts connections, over TCP and in process, and speaks HTTP/2 on each.

mod stream;
pub(super) mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::shared::{Connection, Shared};
use wire::{Socket, Wired};

/// Large enough for the names of 10,000 clusters in one go.
const WINDOW: u32 = 4 << 20;
/// After a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(20);

/// Accepts until the server stops.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener, stopped: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stopped.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // A connection that is gone already, or no descriptor left: the next one is another try, in a moment.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Responses are small and awaited; without this option they only come later.
        let _ = stream.set_nodelay(true);
        start(&shared, Socket::Tcp(stream));
    }
}

/// Serves a connection in the background; whether it was taken.
pub(super) fn start(shared: &Arc<Shared>, socket: Socket) -> bool {
    let Some(connection) = shared.open_connection() else {
        socket.reset_on_close();
        return false;
    };
    let serve = serve(shared.clone(), connection, socket);
    shared.tasks.spawn_on(serve, &shared.runtime);
    true
}

async fn serve(shared: Arc<Shared>, connection: Arc<Connection>, socket: Socket) {
    let id = connection.id;
    let kill = connection.kill.clone();
    tokio::select! {
        () = kill.cancelled() => (),
        // How a client's connection ends is the client's affair.
        _ = speak(&shared, connection, socket) => (),
    }
    shared.close_connection(id);
}

async fn speak(shared: &Arc<Shared>, connection: Arc<Connection>, socket: Socket) -> Result<(), h2::Error> {
    let go_away = connection.go_away.clone();
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).max_concurrent_streams(1000);
    let mut http2 = builder.handshake::<_, Bytes>(Wired { socket, connection }).await?;
    // Ends with the connection, and every stream in it.
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            () = go_away.cancelled() => break,
            accepted = http2.accept() => match accepted {
                Some(accepted) => {
                    let (request, respond) = accepted?;
                    streams.spawn(stream::serve(shared.clone(), request, respond));
                }
                None => return Ok(()),
            },
        }
    }
    http2.graceful_shutdown();
    while let Some(accepted) = http2.accept().await {
        let (request, respond) = accepted?;
        streams.spawn(stream::serve(shared.clone(), request, respond));
    }
    Ok(())
}

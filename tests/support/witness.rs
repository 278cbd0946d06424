//! A server that resets every request and tells of its head.

use std::net::SocketAddr;

use http::request::Parts;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Its address, and the heads of the requests in the order in which they come.
pub(crate) async fn witness() -> (SocketAddr, mpsc::UnboundedReceiver<Parts>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound listener");
    let (seen, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(tell(socket, seen.clone()));
        }
    });
    (address, requests)
}

async fn tell(socket: TcpStream, seen: mpsc::UnboundedSender<Parts>) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(socket).await?;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        // Nobody may be interested any more.
        let _ = seen.send(request.into_parts().0);
        respond.send_reset(h2::Reason::CANCEL);
    }
    Ok(())
}

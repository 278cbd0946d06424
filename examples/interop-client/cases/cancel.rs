//! cancel_after_begin, cancel_after_first_response.
//!
//! A call is cancelled by dropping it, so there is no status left to look at. What can be seen is that the transport
//! lets go of the call, its request stream included, and that the channel goes on working.

use std::future::pending;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use mesh_examples::grpc_testing::{Empty, StreamingInputCallRequest};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::streaming::output_request;
use super::{Client, check, check_ok, check_zeros};
use crate::Failure;

/// How soon the transport has to let go of a cancelled call.
const RELEASE: Duration = Duration::from_secs(5);

/// Cancelled when the head was sent, and no message yet.
pub(super) async fn after_begin(client: Client) -> Result<(), Failure> {
    let (requests, begun, released) = silent::<StreamingInputCallRequest>();
    let mut cancelled = client.clone();
    let mut call = tokio::spawn(async move { cancelled.streaming_input_call(requests).await });
    tokio::select! {
        // The transport asks for the first message once the head is on its way.
        begun = begun => begun?,
        ended = &mut call => return Err(format!("the call ended before it was cancelled: {ended:?}").into()),
    }
    call.abort();
    let cancelled = call.await.is_err_and(|error| error.is_cancelled());
    check("the call was cancelled", cancelled, true)?;
    is_over(released, client).await
}

/// Cancelled when the first response was there.
pub(super) async fn after_first_response(mut client: Client) -> Result<(), Failure> {
    let (silence, _, released) = silent();
    let requests = stream::iter([output_request(&[31_415], Some(27_182))]).chain(silence);
    let replies = check_ok("FullDuplexCall", client.full_duplex_call(requests).await)?;
    let mut replies = replies.into_inner();
    let reply = check_ok("the first response", replies.message().await)?.ok_or("there is no response")?;
    check_zeros("the first response", reply.payload, 31_415)?;
    drop(replies);
    is_over(released, client).await
}

async fn is_over(released: oneshot::Receiver<()>, mut client: Client) -> Result<(), Failure> {
    let released = timeout(RELEASE, released).await;
    check("the request stream of the cancelled call was dropped", released.is_ok(), true)?;
    check_ok("EmptyCall after the cancelled call", client.empty_call(Empty {}).await).map(drop)
}

/// A stream without items that never ends; tells when it is first asked for one, and when it is dropped.
fn silent<T>() -> (impl Stream<Item = T>, oneshot::Receiver<()>, oneshot::Receiver<()>) {
    let (begin, begun) = oneshot::channel();
    let (release, released) = oneshot::channel();
    let stream = stream::once(async move {
        let _ = begin.send(());
        let _release: oneshot::Sender<()> = release;
        pending().await
    });
    (stream, begun, released)
}

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use crate::replay::Replay;

/// The body of an attempt's request: the call's own, or, where a policy may have the call made again, one that can be
/// sent again.
#[derive(Debug)]
pub struct RequestBody<B>(Source<B>);

#[derive(Debug)]
enum Source<B> {
    Once(B),
    Again { shared: Shared<B>, attempt: u32 },
}

impl<B> RequestBody<B> {
    pub(super) fn once(body: B) -> Self {
        Self(Source::Once(body))
    }
}

/// A body that several attempts send, one after the other.
#[derive(Debug)]
pub(super) struct Shared<B>(Arc<Mutex<Held<B>>>);

struct Held<B> {
    body: Replay<B>,
    /// The number of the attempt that sends it. The one before may still be on its way out.
    attempt: u32,
}

impl<B> Shared<B> {
    pub(super) fn new(body: B) -> Self {
        Self(Arc::new(Mutex::new(Held { body: Replay::new(body), attempt: 0 })))
    }

    /// The body for another attempt, from its start on.
    pub(super) fn again(&self) -> RequestBody<B> {
        let mut held = self.0.lock();
        held.attempt += 1;
        RequestBody(Source::Again { shared: self.clone(), attempt: held.attempt })
    }

    /// Whether the body can be sent from its start.
    pub(super) fn is_held(&self) -> bool {
        self.0.lock().body.is_held()
    }

    /// Ends what the attempt before sends. `false` if the body cannot be sent from its start any more.
    pub(super) fn rewind(&self) -> bool {
        let mut held = self.0.lock();
        let whole = held.body.rewind();
        held.attempt += u32::from(whole);
        whole
    }

    /// There will be no other attempt.
    pub(super) fn commit(&self) {
        self.0.lock().body.forget();
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &mut self.0 {
            Source::Once(body) => Pin::new(body).poll_frame(cx),
            Source::Again { shared, attempt } => {
                let mut held = shared.0.lock();
                // Whoever sends for an attempt that is over is about to be dropped, and must not see an end.
                if held.attempt == *attempt { held.body.poll_next(cx) } else { Poll::Pending }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Once(body) => body.is_end_stream(),
            Source::Again { shared, attempt } => {
                let held = shared.0.lock();
                held.attempt == *attempt && held.body.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Once(body) => body.size_hint(),
            Source::Again { .. } => SizeHint::default(),
        }
    }
}

impl<B> Clone for Shared<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B> std::fmt::Debug for Held<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

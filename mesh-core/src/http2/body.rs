//! The response's body.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;

use super::error::{BodyError, BoxError, Code};
use super::slots::Slot;

/// Bytes after which what the reader took is given back to the peer's window. Far below the smallest window, so the peer
/// never waits for it, and above most unary responses, which so save the call: the end of a stream gives back what is
/// left.
const RELEASE: usize = 16 << 10;

const HELD: &str = "the slot is held until the end";

/// Data and trailers of a response. Holds the slot until the stream ended; dropped earlier, it resets the stream and
/// stops what is left of the request's body.
pub(crate) struct RecvBody {
    // In the order in which they go: the stream, the rest of the request, the slot.
    stream: RecvStream,
    upload: Option<JoinHandle<Result<(), BoxError>>>,
    slot: Option<Slot>,
    unreleased: usize,
    ended: bool,
}

impl RecvBody {
    pub(super) fn new(stream: RecvStream, upload: Option<JoinHandle<Result<(), BoxError>>>, slot: Slot) -> Self {
        Self { stream, upload, slot: Some(slot), unreleased: 0, ended: false }
    }

    fn data(&mut self, data: Bytes) -> Option<Result<Frame<Bytes>, BodyError>> {
        self.unreleased += data.len();
        if self.unreleased >= RELEASE {
            // Fails only for more than was received.
            let _ = self.stream.flow_control().release_capacity(self.unreleased);
            self.unreleased = 0;
        }
        Some(Ok(Frame::data(data)))
    }

    fn trailers(&self, trailers: HeaderMap) -> Result<Frame<Bytes>, BodyError> {
        let slot = self.slot.as_ref().expect(HELD);
        slot.connection().shared.check_headers(&trailers).map_err(BodyError::BadResponse)?;
        Ok(Frame::trailers(trailers))
    }

    /// Nothing more comes. The slot waits for a request that is still being sent: its stream is not over.
    fn end(&mut self) {
        self.ended = true;
        if self.upload.as_ref().is_none_or(JoinHandle::is_finished) {
            self.slot = None;
        }
    }

    fn poll_failed(&mut self, error: &h2::Error, cx: &mut Context<'_>) -> Poll<BodyError> {
        let by_user = error.is_reset() && !error.is_remote() && !error.is_library();
        if by_user
            && let Some(upload) = &mut self.upload
            && let Ok(Err(error)) = ready!(Pin::new(upload).poll(cx))
        {
            self.upload = None;
            return Poll::Ready(BodyError::RequestBody(error));
        }
        Poll::Ready(self.classify(error))
    }

    fn classify(&self, error: &h2::Error) -> BodyError {
        let shared = &self.slot.as_ref().expect(HELD).connection().shared;
        if !error.is_reset() {
            return BodyError::ConnectionLost(shared.explain(error));
        }
        match error.reason().filter(|_| error.is_remote()) {
            Some(code) => BodyError::Reset(Code::from(code)),
            None => BodyError::BadResponse(shared.bad_response(error)),
        }
    }
}

impl Body for RecvBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let me = &mut *self;
        if me.ended {
            return Poll::Ready(None);
        }
        let last = match ready!(me.stream.poll_data(cx)) {
            Some(Ok(data)) => return Poll::Ready(me.data(data)),
            Some(Err(error)) => Err(error),
            None => ready!(me.stream.poll_trailers(cx)),
        };
        let last = match last {
            Ok(trailers) => trailers.map(|trailers| me.trailers(trailers)),
            Err(error) => Some(Err(ready!(me.poll_failed(&error, cx)))),
        };
        me.end();
        Poll::Ready(last)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.ended { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}

impl Drop for RecvBody {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            upload.abort();
        }
    }
}

impl fmt::Debug for RecvBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvBody").field("ended", &self.ended).finish_non_exhaustive()
    }
}

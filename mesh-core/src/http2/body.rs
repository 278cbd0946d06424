//! The response's body.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;

use super::connection::Slot;
use super::error::{BodyError, BoxError, Code};

/// Bytes after which what the reader took is given back to the peer's window. Far below the smallest window, so the peer
/// never waits for it, and above most unary responses, which so save the call: the end of a stream gives back what is
/// left.
const RELEASE: usize = 16 << 10;

const HELD: &str = "the slot is held until the end";

/// Data and trailers of a response. Holds the slot until the stream ended; dropped earlier, it resets the stream and
/// stops what is left of the request's body.
pub(crate) struct RecvBody {
    // In the order in which they go: the stream (`None` once it ended), the rest of the request, the slot.
    stream: Option<RecvStream>,
    upload: Option<JoinHandle<Result<(), BoxError>>>,
    slot: Option<Slot>,
    unreleased: usize,
}

impl RecvBody {
    pub(super) fn new(stream: RecvStream, upload: Option<JoinHandle<Result<(), BoxError>>>, slot: Slot) -> Self {
        Self { stream: Some(stream), upload, slot: Some(slot), unreleased: 0 }
    }

    fn trailers(&self, trailers: HeaderMap) -> Result<Frame<Bytes>, BodyError> {
        let slot = self.slot.as_ref().expect(HELD);
        slot.connection().shared.check_headers(&trailers).map_err(BodyError::BadResponse)?;
        Ok(Frame::trailers(trailers))
    }

    /// Nothing more comes. The slot waits for a request that is still being sent: its stream is not over.
    fn end(&mut self) {
        let stream = self.stream.take();
        if self.upload.as_ref().is_none_or(JoinHandle::is_finished) {
            let slot = self.slot.take();
            stream.zip(slot).into_iter().for_each(|(stream, slot)| slot.connection().retire(stream));
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
        let Some(stream) = &mut me.stream else { return Poll::Ready(None) };
        let last = match ready!(stream.poll_data(cx)) {
            Some(Ok(data)) => {
                me.unreleased += data.len();
                if me.unreleased >= RELEASE {
                    // Fails only for more than was received.
                    let _ = stream.flow_control().release_capacity(std::mem::take(&mut me.unreleased));
                }
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Some(Err(error)) => Err(error),
            None => ready!(stream.poll_trailers(cx)),
        };
        let last = match last {
            Ok(trailers) => trailers.map(|trailers| me.trailers(trailers)),
            Err(error) => Some(Err(ready!(me.poll_failed(&error, cx)))),
        };
        me.end();
        Poll::Ready(last)
    }

    fn is_end_stream(&self) -> bool {
        self.stream.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        if self.stream.is_none() { SizeHint::with_exact(0) } else { SizeHint::default() }
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
        f.debug_struct("RecvBody").field("ended", &self.stream.is_none()).finish_non_exhaustive()
    }
}

//! The request's body, from the caller's frames to `h2`'s queue, as far as the peer's window lets it.
//!
//! `h2` takes more than the window and keeps it until the peer makes room. A peer that answers early makes none: for it the
//! stream would stay half open, and what it did not take would stay in `h2`. So what is large stays here, from where it is
//! dropped with the stream's end, which resets the stream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::{Reason, SendStream, StreamId};
use http::HeaderMap;
use http_body::Body;

use super::ahead::Ahead;
use super::error::BoxError;
use super::shared::Shared;
use crate::replay::Replay;

/// Frames in a row before other tasks get their turn.
const BURST: usize = 128;

/// So much of a body goes to `h2` with the head, whatever the window: most messages are shorter.
const WHOLE: usize = 16 << 10;

/// What of the body is there when the head is sent.
pub(super) enum Opening {
    /// All of it, and it is short: one DATA frame with END_STREAM, or none.
    Whole(Option<Bytes>),
    /// All of it, with trailers.
    Trailed(Option<Bytes>, HeaderMap),
    /// A part that goes out now, and a frame beyond it.
    Part(Option<Bytes>, Option<Bytes>),
}

impl Opening {
    /// Looks one frame ahead, so that a unary message carries the end of its stream.
    pub(super) fn poll<B>(body: &mut Replay<B>, cx: &mut Context<'_>) -> Result<Self, BoxError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let mut now = None;
        loop {
            if body.is_end_stream() {
                return Ok(Self::Whole(now));
            }
            let frame = match body.poll_next(cx) {
                Poll::Pending => return Ok(Self::Part(now, None)),
                Poll::Ready(None) => return Ok(Self::Whole(now)),
                Poll::Ready(Some(frame)) => frame.map_err(Into::into)?,
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) if now.is_some() => return Ok(Self::Part(now, Some(data))),
                Ok(mut data) if data.len() > WHOLE => {
                    let first = data.split_to(WHOLE);
                    return Ok(Self::Part(Some(first), Some(data)));
                }
                Ok(data) => now = Some(data),
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return Ok(Self::Trailed(now, trailers));
                    }
                }
            }
        }
    }

    /// Whether the head alone is the whole request.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Whole(None))
    }
}

/// A body on its way out.
pub(super) struct Upload<B> {
    pub(super) body: Replay<B>,
    /// `None` once the end is queued, or the peer wants no more.
    rest: Option<Box<Rest>>,
}

/// What a body needs that does not go out in one go.
struct Rest {
    stream: SendStream<Bytes>,
    ahead: Ahead,
    shared: Arc<Shared>,
    /// Writes on the connection before the last frame was queued.
    writes: u64,
    /// The waker that was last given to wait for a write, and since which. It is kept until there was one.
    waits: Option<(StreamId, u64, Waker)>,
}

impl<B> Upload<B> {
    pub(super) fn new(body: Replay<B>) -> Self {
        Self { body, rest: None }
    }

    /// Fails to send only when the stream has ended, of which the response tells.
    pub(super) fn begin(&mut self, mut stream: SendStream<Bytes>, opening: Opening, shared: &Arc<Shared>) {
        match opening {
            Opening::Whole(None) => {}
            Opening::Whole(Some(data)) => drop(stream.send_data(data, true)),
            Opening::Trailed(data, trailers) => send_trailed(&mut stream, data, trailers),
            Opening::Part(data, ahead) => {
                let shared = Arc::clone(shared);
                let mut rest = Box::new(Rest { stream, ahead: Ahead::Nothing, shared, writes: 0, waits: None });
                if data.is_none_or(|data| rest.send_data(data)) {
                    ahead.into_iter().for_each(|ahead| drop(rest.ahead.push(ahead)));
                    self.rest = Some(rest);
                }
            }
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.rest.is_none()
    }
}

fn send_trailed(stream: &mut SendStream<Bytes>, data: Option<Bytes>, trailers: HeaderMap) {
    if let Some(data) = data {
        let _ = stream.send_data(data, false);
    }
    let _ = stream.send_trailers(trailers);
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Ready when all is queued or the peer wants no more; an error is the body's, and the stream was reset.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        for _ in 0..BURST {
            let Some(rest) = &mut self.rest else { return Poll::Ready(Ok(())) };
            if !ready!(rest.poll_room(cx)) {
                self.rest = None;
                continue;
            }
            if self.body.is_end_stream() {
                self.finish();
                continue;
            }
            match self.body.poll_next(cx) {
                Poll::Pending => return self.idle(cx),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.fail(error.into()))),
                Poll::Ready(None) => self.finish(),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.push(data),
                    Err(frame) => frame.into_trailers().into_iter().for_each(|trailers| self.finish_with(trailers)),
                },
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The body has nothing now: send what it gave, and be woken if the stream ends meanwhile.
    fn idle(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let Some(rest) = &mut self.rest else { return Poll::Ready(Ok(())) };
        if !rest.flush(cx) || rest.stream.poll_reset(cx).is_ready() {
            self.rest = None;
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    fn push(&mut self, data: Bytes) {
        // An empty frame says nothing, and peers take many of them for an attack.
        if data.is_empty() {
            return;
        }
        let Some(rest) = &mut self.rest else { return };
        if !rest.ahead.push(data).is_none_or(|before| rest.send_data(before)) {
            self.rest = None;
        }
    }

    fn finish(&mut self) {
        if let Some(mut rest) = self.rest.take() {
            let _ = rest.stream.send_data(rest.ahead.take().unwrap_or_default(), true);
        }
    }

    fn finish_with(&mut self, trailers: HeaderMap) {
        if let Some(mut rest) = self.rest.take() {
            send_trailed(&mut rest.stream, rest.ahead.take(), trailers);
        }
    }

    fn fail(&mut self, error: BoxError) -> BoxError {
        if let Some(mut rest) = self.rest.take() {
            rest.stream.send_reset(Reason::CANCEL);
        }
        error
    }
}

impl Rest {
    /// Queues a frame; `false` if the stream takes no more.
    fn send_data(&mut self, data: Bytes) -> bool {
        self.writes = self.shared.writes();
        self.stream.send_data(data, false).is_ok()
    }

    /// Ready when what waits has room in the peer's window and in `h2`'s buffer, or can take more before it goes out; what
    /// has room before goes out. `false` if the stream takes no more.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        while let Some(length) = self.ahead.large() {
            self.stream.reserve_capacity(length);
            match self.stream.capacity() {
                0 => {
                    if !matches!(ready!(self.stream.poll_capacity(cx)), Some(Ok(_))) {
                        return Poll::Ready(false);
                    }
                }
                room if room >= length => break,
                room => {
                    let now = self.ahead.take_some(room);
                    if !now.is_none_or(|now| self.send_data(now)) {
                        return Poll::Ready(false);
                    }
                }
            }
        }
        Poll::Ready(true)
    }

    /// Queues what waits; but not a small frame while the one before it has not left, as more may come to join it.
    fn flush(&mut self, cx: &Context<'_>) -> bool {
        if self.ahead.is_small() && self.poll_written(cx).is_pending() {
            return true;
        }
        self.ahead.take().is_none_or(|data| self.send_data(data))
    }

    /// Ready when the connection has written since the last frame was queued. That frame makes it write, now or when
    /// the peer's window or the socket lets it.
    fn poll_written(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.shared.writes() != self.writes {
            return Poll::Ready(());
        }
        if !self.waits.as_ref().is_some_and(|(_, writes, waker)| *writes == self.writes && waker.will_wake(cx.waker()))
        {
            let stream = self.stream.stream_id();
            self.waits = Some((stream, self.writes, cx.waker().clone()));
            self.shared.wake_when_written(stream, self.writes, cx.waker());
        }
        // Once more: it may have written before it could see this waker.
        if self.shared.writes() != self.writes { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// However the upload ends, nothing of it is kept while the socket takes nothing.
impl Drop for Rest {
    fn drop(&mut self) {
        if let Some((stream, ..)) = self.waits {
            self.shared.forget_upload(stream);
        }
    }
}

/// What is left of a body after the response's head came; a task of its own, as the response's reader may wait for
/// something else.
impl<B> Future for Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Output = Result<(), BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().poll(cx)
    }
}

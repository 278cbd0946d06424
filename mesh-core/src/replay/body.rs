//! A body whose data are held as long as they may be needed again.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use smallvec::SmallVec;

/// What is held of a body for sending it again, per call.
const MAX_KEPT: usize = 64 << 10;

/// A body that holds on to its first 64 KiB of data (reference counts, not copies) until it is certain that they need
/// not be sent again.
pub(crate) struct Replay<B> {
    body: B,
    kept: SmallVec<[Bytes; 1]>,
    trailers: Option<Box<HeaderMap>>,
    bytes: usize,
    /// The next of `kept` to yield; beyond its end, the trailers, then the body itself.
    next: usize,
    keeping: bool,
    ended: bool,
}

impl<B> Replay<B> {
    pub(crate) fn new(body: B) -> Self {
        Self { body, kept: SmallVec::new(), trailers: None, bytes: 0, next: 0, keeping: true, ended: false }
    }

    /// Back to the start, if all that was yielded is still held; whether it is.
    pub(crate) fn rewind(&mut self) -> bool {
        if self.keeping {
            self.next = 0;
        }
        self.keeping
    }

    /// It will not be sent again.
    pub(crate) fn forget(&mut self) {
        self.keeping = false;
        if self.next > self.kept.len() {
            self.trailers = None;
        }
        self.kept.drain(..self.next.min(self.kept.len()));
        self.next = 0;
    }

    fn keep(&mut self, data: &Bytes) {
        self.bytes = self.bytes.saturating_add(data.len());
        if self.bytes > MAX_KEPT {
            self.keeping = false;
            self.kept = SmallVec::new();
            self.next = 0;
        } else {
            self.kept.push(data.clone());
            self.next += 1;
        }
    }

    fn keep_trailers(&mut self, trailers: &HeaderMap) {
        self.trailers = Some(Box::new(trailers.clone()));
        self.next += 1;
        self.ended = true;
    }

    /// What was yielded before a rewind.
    fn again(&mut self) -> Option<Frame<Bytes>> {
        let frame = match self.kept.get(self.next) {
            Some(data) => Frame::data(data.clone()),
            None if self.next == self.kept.len() => Frame::trailers(self.trailers.as_deref()?.clone()),
            None => return None,
        };
        self.next += 1;
        Some(frame)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Replay<B> {
    pub(crate) fn is_end_stream(&self) -> bool {
        self.next >= self.kept.len() + usize::from(self.trailers.is_some()) && (self.ended || self.body.is_end_stream())
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(frame) = self.again() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()?;
        if self.keeping {
            match frame.as_ref().map(|frame| (frame.data_ref(), frame.trailers_ref())) {
                Some((Some(data), _)) => self.keep(data),
                Some((_, Some(trailers))) => self.keep_trailers(trailers),
                _ => {}
            }
        }
        self.ended |= frame.is_none();
        Poll::Ready(frame.map(Ok))
    }
}

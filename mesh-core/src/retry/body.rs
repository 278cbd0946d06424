//! The body of a request that several attempts send, one after the other or beside each other.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Extensions, HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::budget::Budgets;
use super::following::Following;
use super::kept::Kept;
use crate::call::{Follow, Progress};

/// The body of an attempt's request: the call's own, or, where a policy may have the call made again, one that can be
/// sent again.
#[derive(Debug)]
pub struct RequestBody<B>(Source<B>);

#[derive(Debug)]
enum Source<B> {
    Once(B),
    Again(Reader<B>),
}

impl<B> RequestBody<B> {
    pub(super) fn once(body: B) -> Self {
        Self(Source::Once(body))
    }
}

/// One attempt's reading of the shared body.
#[derive(Debug)]
struct Reader<B> {
    shared: Arc<Shared<B>>,
    number: u32,
}

/// What the attempts of one call share, in one allocation.
pub(super) struct Shared<B> {
    body: Mutex<Held<B>>,
    pub(super) following: Following,
}

/// A body that can be read several times, while what was read of it is held (reference counts, not copies).
struct Held<B> {
    body: B,
    kept: Kept,
    ended: bool,
    /// How many frames each reader has had, from number 1 on.
    read: SmallVec<[usize; 2]>,
    /// The number of the oldest that still reads.
    oldest: u32,
    /// From now on this one alone reads, and nobody after it: what it has read is not held any more.
    only: Option<u32>,
    /// Whoever waits for the body, which itself wakes the last only; `None`: there is one reader at a time.
    waiting: Option<Vec<(u32, Waker)>>,
}

impl<B> Shared<B> {
    /// `concurrent`: several attempts read it at the same time.
    pub(super) fn new(body: B, concurrent: bool, budgets: Budgets, following: Following) -> Arc<Self> {
        let waiting = concurrent.then(Vec::new);
        let kept = Kept::new(budgets);
        let held = Held { body, kept, ended: false, read: SmallVec::new(), oldest: 1, only: None, waiting };
        Arc::new(Self { body: Mutex::new(held), following })
    }

    /// The body for another attempt, whose number is one more than the last one's, from its start on.
    pub(super) fn again(self: &Arc<Self>) -> RequestBody<B> {
        let mut held = self.body.lock();
        held.read.push(0);
        RequestBody(Source::Again(Reader { shared: self.clone(), number: held.newest() }))
    }

    /// Whether the body can be sent from its start.
    pub(super) fn is_held(&self) -> bool {
        self.body.lock().only.is_none()
    }

    /// Ends whatever attempts so far still send.
    pub(super) fn end_readers(&self) {
        let mut held = self.body.lock();
        held.oldest = held.newest() + 1;
    }

    /// There will be no other attempt than this one.
    pub(super) fn commit(&self, attempt: u32) {
        self.body.lock().commit(attempt);
    }
}

impl<B> Held<B> {
    fn newest(&self) -> u32 {
        u32::try_from(self.read.len()).unwrap_or(u32::MAX)
    }

    fn read(&self, reader: u32) -> usize {
        self.read[reader as usize - 1]
    }

    fn advance(&mut self, reader: u32) {
        self.read[reader as usize - 1] += 1;
    }

    fn commit(&mut self, reader: u32) {
        self.only.get_or_insert(reader);
        if self.only == Some(reader) && self.read(reader) >= self.kept.frames() {
            self.kept.clear();
        }
    }

    /// Whoever sends for an attempt that is over is about to be dropped, and must not see an end.
    fn may_read(&self, reader: u32) -> bool {
        reader >= self.oldest && self.only.is_none_or(|only| only == reader)
    }

    /// What an earlier reader had already.
    fn again(&mut self, reader: u32) -> Option<Frame<Bytes>> {
        let frame = self.kept.frame(self.read(reader))?;
        self.advance(reader);
        Some(frame)
    }

    /// Holds a frame that was read, or commits the call to its reader.
    fn keep(&mut self, frame: &Frame<Bytes>, reader: u32) {
        self.advance(reader);
        if self.only.is_some() {
            self.kept.clear();
        } else if !self.kept.push(frame) {
            self.commit(reader);
        }
    }

    fn wake_others(&mut self, reader: u32) {
        for (number, waker) in self.waiting.iter_mut().flat_map(|waiting| waiting.drain(..)) {
            if number != reader {
                waker.wake();
            }
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Held<B> {
    fn poll_next(&mut self, reader: u32, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if !self.may_read(reader) {
            return Poll::Pending;
        }
        if let Some(frame) = self.again(reader) {
            return Poll::Ready(Some(Ok(frame)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(waiting) = &mut self.waiting {
            waiting.retain(|(number, _)| *number != reader);
            waiting.push((reader, cx.waker().clone()));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.wake_others(reader);
        match &frame {
            Some(Ok(frame)) => {
                self.ended = frame.is_trailers();
                self.keep(frame, reader);
            }
            Some(Err(_)) => self.commit(reader),
            None => self.ended = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self, reader: u32) -> bool {
        self.may_read(reader) && self.read(reader) >= self.kept.frames() && (self.ended || self.body.is_end_stream())
    }
}

impl<B> Drop for Reader<B> {
    fn drop(&mut self) {
        let mut held = self.shared.body.lock();
        // The body may have remembered this one's waker alone.
        held.wake_others(self.number);
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
            Source::Again(reader) => reader.shared.body.lock().poll_next(reader.number, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Once(body) => body.is_end_stream(),
            Source::Again(reader) => reader.shared.body.lock().is_end_stream(reader.number),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Once(body) => body.size_hint(),
            Source::Again(_) => SizeHint::default(),
        }
    }
}

impl<B: Send + 'static> Follow for Shared<B> {
    fn progress(&self) -> &Progress {
        self.following.progress()
    }

    fn may_repeat(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        self.following.may_repeat(status, headers)
    }

    fn take_back(&self, extensions: Extensions) {
        self.following.take_back(extensions);
    }
}

impl<B> std::fmt::Debug for Shared<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("following", &self.following).finish_non_exhaustive()
    }
}

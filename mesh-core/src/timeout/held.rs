//! A body that goes on, where its deadline can get at it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Timer;
use super::idle::Idle;
use super::timer::Terms;
use crate::error::Error;

/// The reader's hold on a body. The timer wakes what is behind it, and no task: to end a body takes none.
#[derive(Debug)]
pub(super) struct Held<R>(Arc<Ending<R>>);

#[derive(Debug)]
struct Ending<R> {
    deadline: Instant,
    idle: Option<Idle>,
    place: Mutex<Place<R>>,
}

#[derive(Debug)]
struct Place<R> {
    /// `None` once the deadline passed, or nothing moved for too long.
    body: Option<R>,
    reader: Option<Waker>,
}

impl<R: Send + 'static> Held<R> {
    pub(super) fn new(body: R, timer: &mut Timer) -> Self {
        let place = Mutex::new(Place { body: Some(body), reader: None });
        let Terms { deadline, idle, .. } = timer.terms();
        let ending = Arc::new(Ending { deadline: *deadline, idle: idle.clone(), place });
        timer.set_waker(&Waker::from(Arc::clone(&ending)));
        Self(ending)
    }
}

impl<R> Held<R>
where
    R: Body<Data = Bytes, Error: Into<Error>> + Send + Unpin + 'static,
{
    /// What is ahead, then the body's; the deadline's error once it has passed.
    pub(super) fn poll_frame(
        &mut self,
        timer: &mut Timer,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        // A response that always has a frame ready must end at its deadline, too.
        if timer.terms().has_expired() {
            return Poll::Ready(Some(Err(timer.terms().error())));
        }
        if let Some(frame) = timer.ahead().next() {
            return Poll::Ready(Some(frame));
        }
        let mut place = self.0.place.lock();
        let Some(body) = &mut place.body else { return Poll::Ready(Some(Err(timer.terms().error()))) };
        let frame = Pin::new(body).poll_frame(cx);
        if frame.is_pending() {
            match &mut place.reader {
                Some(reader) => reader.clone_from(cx.waker()),
                reader => *reader = Some(cx.waker().clone()),
            }
        }
        drop(place);
        if let Some(idle) = &self.0.idle {
            match frame.is_pending() {
                // The end may be later than it was.
                true => timer.set_waker(&Waker::from(Arc::clone(&self.0))),
                false => idle.activity().note(),
            }
        }
        Poll::Ready(ready!(frame).map(|frame| timer.terms().check(frame.map_err(Into::into))))
    }
}

impl<R> Ending<R> {
    fn end(&self) -> Instant {
        self.idle.as_ref().map_or(self.deadline, |idle| idle.end().min(self.deadline))
    }
}

impl<R: Send + 'static> Wake for Ending<R> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut place = self.place.lock();
        // Timers also wake when their runtime ends, of which the body itself tells.
        let body = place.body.take_if(|_| self.end() <= Instant::now());
        let reader = place.reader.take();
        drop(place);
        drop(body);
        reader.into_iter().for_each(Waker::wake);
    }
}

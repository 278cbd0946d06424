//! A body that goes on, where its deadline can get at it.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::Timer;
use super::idle::Idle;
use super::timer::Terms;
use crate::error::Error;

/// The reader's hold on a body. The timer wakes what is behind it, and no task: to end a body at its deadline takes none.
#[derive(Debug)]
pub(super) struct Held<R> {
    ending: Arc<Ending<R>>,
    /// Of a call that may not be idle: its end moves with all that moves, and nobody may be there to read.
    _watching: Option<AbortOnDropHandle<()>>,
}

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
        let _watching = match &ending.idle {
            Some(_) => Some(AbortOnDropHandle::new(tokio::spawn(watch(ending.end(), Arc::downgrade(&ending))))),
            None => {
                timer.set_waker(&Waker::from(Arc::clone(&ending)));
                None
            }
        };
        Self { ending, _watching }
    }
}

/// Waits for the end of a body that may come later than it is known.
async fn watch<R>(mut end: Instant, ending: Weak<Ending<R>>) {
    loop {
        sleep_until(end).await;
        let Some(ending) = ending.upgrade() else { return };
        if ending.end_if_over() {
            return;
        }
        end = ending.end();
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
        let mut place = self.ending.place.lock();
        let Some(body) = &mut place.body else { return Poll::Ready(Some(Err(timer.terms().error()))) };
        let frame = Pin::new(body).poll_frame(cx);
        if frame.is_pending() {
            match &mut place.reader {
                Some(reader) => reader.clone_from(cx.waker()),
                reader => *reader = Some(cx.waker().clone()),
            }
        }
        drop(place);
        if let Some(idle) = self.ending.idle.as_ref().filter(|_| frame.is_ready()) {
            idle.activity().note();
        }
        Poll::Ready(ready!(frame).map(|frame| timer.terms().check(frame.map_err(Into::into))))
    }
}

impl<R> Ending<R> {
    fn end(&self) -> Instant {
        self.idle.as_ref().map_or(self.deadline, |idle| idle.end().min(self.deadline))
    }

    /// Lets go of the body if its time is over, and has its reader look.
    fn end_if_over(&self) -> bool {
        let mut place = self.place.lock();
        let body = place.body.take_if(|_| self.end() <= Instant::now());
        let is_over = place.body.is_none();
        let reader = place.reader.take();
        drop(place);
        drop(body);
        reader.into_iter().for_each(Waker::wake);
        is_over
    }
}

impl<R: Send + 'static> Wake for Ending<R> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Timers also wake when their runtime ends, of which the body itself tells.
        self.end_if_over();
    }
}

//! What a call's request yields, held until its copy's connection has sent it: reference counts, not copies.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use parking_lot::Mutex;

use super::bounds::Bounds;
use crate::error::{Error, ErrorKind};

/// The side of the call.
#[derive(Debug)]
pub(super) struct Feed(Arc<Shared>);

/// The body of a copy's request.
#[derive(Debug)]
pub struct CopyBody(Arc<Shared>);

/// Sees a copy's request come to a bad end, which its connection does not while it waits for the peer's window.
#[derive(Debug)]
pub(super) struct Watch(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// What all of it costs that is not sent yet.
    held: AtomicUsize,
    bounds: Arc<Bounds>,
}

#[derive(Debug, Default)]
struct Queue {
    data: VecDeque<Held>,
    trailers: Option<HeaderMap>,
    state: State,
    /// Whether the copy's connection asked for any of it.
    is_read: bool,
    reader: Option<Waker>,
    watch: Option<Waker>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// There is more to come.
    #[default]
    Open,
    /// Nothing comes after what is held.
    Complete,
    /// What is held is not all there was, or nobody reads it.
    Broken,
}

pub(super) fn tee(bounds: &Arc<Bounds>) -> (Feed, CopyBody, Watch) {
    let shared = Arc::new(Shared { queue: Mutex::default(), held: AtomicUsize::new(0), bounds: bounds.clone() });
    (Feed(shared.clone()), CopyBody(shared.clone()), Watch(shared))
}

/// Data that counts until the last reference to it is gone.
#[derive(Debug)]
struct Held {
    data: Bytes,
    shared: Arc<Shared>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let cost = cost(&self.data);
        self.shared.held.fetch_sub(cost, Relaxed);
        self.shared.bounds.release(cost);
    }
}

/// A frame of a byte is not held for the price of a byte.
fn cost(data: &Bytes) -> usize {
    data.len() + size_of::<Bytes>()
}

impl Feed {
    /// Hands on a frame that the call sends, unless the copy is over.
    pub(super) fn push(&self, frame: &Frame<Bytes>) {
        let mut queue = self.0.queue.lock();
        if queue.state != State::Open {
            return;
        }
        if let Some(trailers) = frame.trailers_ref() {
            queue.trailers = Some(trailers.clone());
            queue.state = State::Complete;
        } else if let Some(data) = frame.data_ref() {
            self.0.hold(data.clone(), &mut queue);
        }
        queue.wake();
    }

    /// The call's request is complete.
    pub(super) fn complete(&self) {
        let mut queue = self.0.queue.lock();
        if queue.state == State::Open {
            queue.state = State::Complete;
            queue.wake();
        }
    }
}

impl Drop for Feed {
    /// A request that ends before it is complete must not look complete.
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        if queue.state == State::Open {
            self.0.give_up(&mut queue);
        }
    }
}

impl Shared {
    fn hold(self: &Arc<Self>, data: Bytes, queue: &mut Queue) {
        let cost = cost(&data);
        let held = self.held.load(Relaxed).saturating_add(cost);
        if held > self.bounds.limits.held_per_call || !self.bounds.hold(cost) {
            self.bounds.cut();
            return self.give_up(queue);
        }
        self.held.fetch_add(cost, Relaxed);
        queue.data.push_back(Held { data, shared: self.clone() });
    }

    fn give_up(&self, queue: &mut Queue) {
        queue.state = State::Broken;
        queue.data = VecDeque::new();
        queue.wake();
    }
}

impl Queue {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        if self.state == State::Broken
            && let Some(watch) = self.watch.take()
        {
            watch.wake();
        }
    }
}

impl Body for CopyBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut queue = self.0.queue.lock();
        queue.is_read = true;
        if let Some(held) = queue.data.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(held)))));
        }
        match queue.state {
            State::Open => {
                queue.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Complete => Poll::Ready(queue.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
            State::Broken => Poll::Ready(Some(Err(Error::new(ErrorKind::RequestBody, "send a whole copy of a call")))),
        }
    }

    fn is_end_stream(&self) -> bool {
        let queue = self.0.queue.lock();
        queue.state == State::Complete && queue.data.is_empty() && queue.trailers.is_none()
    }
}

impl Drop for CopyBody {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        match queue.state {
            State::Open => self.0.give_up(&mut queue),
            State::Complete | State::Broken => queue.data = VecDeque::new(),
        }
    }
}

impl Watch {
    /// Whether a connection took the copy.
    pub(super) fn is_read(&self) -> bool {
        self.0.queue.lock().is_read
    }

    /// Resolves when what the mirror gets is not the whole request.
    pub(super) async fn broken(&self) {
        poll_fn(|cx| {
            let mut queue = self.0.queue.lock();
            if queue.state == State::Broken {
                return Poll::Ready(());
            }
            queue.watch = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

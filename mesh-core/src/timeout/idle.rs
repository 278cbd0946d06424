//! How long nothing of a call may move, and the request's body, which says that something did.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Extensions;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::Instant;

use crate::call;

/// Later than any call ends.
const NEVER: Duration = Duration::from_secs(30 * 365 * 86_400);

/// What ends a call of which nothing moves.
#[derive(Clone, Debug)]
pub(super) struct Idle {
    /// For the whole call, as its route or the listener says.
    of_stream: Option<Duration>,
    /// For the attempt that was answered, from its head on: until there, it is the retries' to say.
    of_attempt: Option<Duration>,
    has_head: bool,
    activity: Arc<Activity>,
}

/// When something of a call last moved.
#[derive(Debug)]
pub(super) struct Activity {
    start: Instant,
    /// In nanoseconds since the start.
    last: AtomicU64,
}

impl Activity {
    pub(super) fn note(&self) {
        let since = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.last.fetch_max(since, Relaxed);
    }

    fn last(&self) -> Instant {
        self.start + Duration::from_nanos(self.last.load(Relaxed))
    }
}

impl Idle {
    /// From now on; `None`: neither says anything.
    pub(super) fn new(of_stream: Option<Duration>, of_attempt: Option<Duration>) -> Option<Self> {
        let activity = || Arc::new(Activity { start: Instant::now(), last: AtomicU64::new(0) });
        let limits = of_stream.or(of_attempt);
        limits.map(|_| Self { of_stream, of_attempt, has_head: false, activity: activity() })
    }

    /// Whether it says anything of this call: one that is made once has no policy.
    pub(super) fn is_for(&self, extensions: &Extensions) -> bool {
        self.of_stream.is_some() || call::may_retry(extensions)
    }

    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// The head of the response is there.
    pub(super) fn begin_response(&mut self) {
        self.has_head = true;
        self.activity.note();
    }

    /// How long nothing may move at this stage.
    pub(super) fn limit(&self) -> Option<Duration> {
        let of_attempt = self.of_attempt.filter(|_| self.has_head);
        self.of_stream.into_iter().chain(of_attempt).min()
    }

    /// When the call ends, unless something moves.
    pub(super) fn end(&self) -> Instant {
        let last = self.activity.last();
        self.limit().and_then(|limit| last.checked_add(limit)).unwrap_or_else(|| never(last))
    }
}

/// A time that no call lives to see.
pub(super) fn never(now: Instant) -> Instant {
    now.checked_add(NEVER).unwrap_or(now)
}

/// The body of a call's request. What is taken of it shows that the call is not idle.
#[pin_project]
#[derive(Debug)]
pub struct RequestBody<B> {
    #[pin]
    inner: B,
    activity: Option<Arc<Activity>>,
}

impl<B> RequestBody<B> {
    pub(super) fn new(inner: B, activity: Option<Arc<Activity>>) -> Self {
        Self { inner, activity }
    }
}

impl<B: Body<Data = Bytes>> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let me = self.project();
        let Some(activity) = me.activity else { return me.inner.poll_frame(cx) };
        let frame = ready!(me.inner.poll_frame(cx));
        activity.note();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

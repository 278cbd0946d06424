//! The running deadline of one call, and what is said when it passes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use pin_project::pin_project;
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

use super::ahead::Ahead;
use super::idle::{Activity, Idle};
use crate::call::{Classify, Progress, Stage};
use crate::error::{Error, ErrorKind};
use crate::resource::endpoints::Address;
use crate::snapshot::ClusterEntry;

/// With this HTTP/2 error code a peer resets a stream that it has given up.
pub(super) const CANCEL: u32 = 0x8;
/// A peer's clock may be that much ahead of the timers here,
const ROUNDING: Duration = Duration::from_millis(1);
/// and run faster by the limit's share of this: twice what NTP does to a clock that it corrects.
const DRIFT: u32 = 1000;

const WAITED: &str = "see why the cluster had no endpoint for the call, or give the call more time";
const SLOW: &str = "see why the endpoint took so long, or give the call more time";

/// What wakes a call at its deadline. One reference: a call without a deadline moves the room for it, too.
#[derive(Debug)]
pub(super) struct Timer(Pin<Box<Running>>);

#[pin_project]
#[derive(Debug)]
struct Running {
    #[pin]
    sleep: Sleep,
    terms: Terms,
    ahead: Ahead,
}

/// A deadline, and what its error tells.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) deadline: Instant,
    pub(super) limit: Duration,
    /// It is that of the call that is being served.
    pub(super) inherited: bool,
    /// What ends a call before its deadline if nothing of it moves.
    pub(super) idle: Option<Idle>,
    pub(super) progress: Arc<Progress>,
    pub(super) cluster: Option<Arc<ClusterEntry>>,
    pub(super) route: Option<Arc<str>>,
    pub(super) protocol: Option<&'static dyn Classify>,
}

impl Timer {
    pub(super) fn new(terms: Terms) -> Self {
        Self(Box::pin(Running { sleep: sleep_until(terms.end()), terms, ahead: Ahead::default() }))
    }

    /// Where what moves of the call is noted, if anybody asks.
    pub(super) fn activity(&self) -> Option<Arc<Activity>> {
        self.terms().idle.as_ref().map(|idle| idle.activity().clone())
    }

    /// The head of the response is there.
    pub(super) fn begin_response(&mut self) {
        if let Some(idle) = self.0.as_mut().project().terms.idle.as_mut() {
            idle.begin_response();
        }
    }

    pub(super) fn terms(&self) -> &Terms {
        &self.0.terms
    }

    /// Ready with the error of the call once its deadline has passed.
    pub(super) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let mut running = self.0.as_mut().project();
        loop {
            ready!(running.sleep.as_mut().poll(cx));
            if running.terms.is_over() {
                return Poll::Ready(running.terms.error());
            }
            // Something moved since.
            running.sleep.as_mut().reset(running.terms.end());
        }
    }

    /// From now on it is `waker` that is woken at the call's deadline, and only then.
    pub(super) fn set_waker(&mut self, waker: &Waker) {
        // A task's budget would have it woken now, and not then.
        let sleep = unconstrained(self.0.as_mut().project().sleep);
        if std::pin::pin!(sleep).poll(&mut Context::from_waker(waker)).is_ready() {
            waker.wake_by_ref();
        }
    }

    /// Reads of `body` what came with its head. Returns whether that is all.
    pub(super) fn look_ahead<R>(&mut self, body: &mut R, cx: &mut Context<'_>) -> bool
    where
        R: Body<Data = Bytes, Error: Into<Error>> + Unpin,
    {
        let running = self.0.as_mut().project();
        running.ahead.read(body, running.terms, cx)
    }

    /// What was read ahead and waits.
    pub(super) fn waiting(&self) -> &Ahead {
        &self.0.ahead
    }

    /// The same, to take from.
    pub(super) fn ahead(&mut self) -> &mut Ahead {
        self.0.as_mut().project().ahead
    }
}

impl Terms {
    /// What the call failed of. The peer knows the deadline too, and can end the call before the timer here fires:
    /// that is the deadline's doing and not a cancellation.
    pub(super) fn reason(&self, error: Error) -> Error {
        if error.reset_code() == Some(CANCEL) && self.has_passed_there() { self.error() } else { error }
    }

    /// The error of a call whose peer says that it was cancelled, and means its deadline.
    pub(super) fn check_end(&self, trailers: &HeaderMap) -> Result<(), Error> {
        let cancelled = self.protocol.is_some_and(|protocol| protocol.is_cancelled(trailers));
        if cancelled && self.has_passed_there() { Err(self.error()) } else { Ok(()) }
    }

    /// A frame of the response, if it is not the end that the deadline made.
    pub(super) fn check(&self, frame: Result<Frame<Bytes>, Error>) -> Result<Frame<Bytes>, Error> {
        let frame = frame.map_err(|error| self.reason(error))?;
        frame.trailers_ref().map_or(Ok(()), |trailers| self.check_end(trailers))?;
        Ok(frame)
    }

    /// Whether the deadline may have passed on the peer's clock.
    fn has_passed_there(&self) -> bool {
        self.deadline <= Instant::now() + ROUNDING + self.limit / DRIFT
    }

    pub(super) fn has_expired(&self) -> bool {
        self.deadline <= Instant::now()
    }

    /// When the call ends, unless something moves.
    pub(super) fn end(&self) -> Instant {
        self.idle.as_ref().map_or(self.deadline, |idle| idle.end().min(self.deadline))
    }

    /// Whether the deadline passed, or nothing moved for too long.
    pub(super) fn is_over(&self) -> bool {
        self.idle.is_none() || self.end() <= Instant::now()
    }

    pub(super) fn error(&self) -> Error {
        let mut error = self.exceeded();
        let context = error.context_mut();
        context.cluster = self.cluster.as_ref().map(|cluster| cluster.key.name.clone());
        context.route = self.route.clone();
        error
    }

    fn exceeded(&self) -> Error {
        let limit = self.limit;
        let idle = self.idle.as_ref().filter(|_| !self.has_expired()).and_then(Idle::limit);
        let exceeded = |so_far: &str| {
            let message = match (idle, self.inherited) {
                (Some(idle), _) => format!("nothing moved for the {idle:?} that a stream may be idle, {so_far}"),
                (None, true) => format!("what was left of the inbound call's deadline, {limit:?}, exceeded {so_far}"),
                (None, false) => format!("deadline of {limit:?} exceeded {so_far}"),
            };
            Error::new(ErrorKind::Deadline, message)
        };
        match self.progress.stage() {
            Stage::Waiting => exceeded("before an endpoint could take the call").with_next_step(WAITED),
            Stage::Delayed => exceeded("while a fault of the configuration delayed the call"),
            Stage::Sent(endpoint) => at(exceeded("while waiting for the response"), &endpoint),
            Stage::Responding(endpoint) => at(exceeded("while reading the response"), &endpoint),
        }
    }
}

fn at(mut error: Error, endpoint: &Address) -> Error {
    error.context_mut().endpoint = Some(endpoint.to_string());
    error.with_next_step(SLOW).sent()
}

//! Attempts beside each other (A6, hedging): the first that succeeds is the call's, and ends the others.
//!
//! ```text
//! attempt 1 ─────────────────────────────────┐
//!   delay ─▸ attempt 2 ──── fails            ├─▸ the first answer that the policy does not name
//!                              └─▸ attempt 3 ┘
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response};
use tokio::time::{Instant, Sleep};
use tower_service::Service;

use super::body::RequestBody;
use super::plan::{Final, Next, Plan};
use crate::call::{Follow, Progress};
use crate::error::Error;
use crate::resource::retry_policy::Hedge;

type Outcome<R> = Result<Response<R>, Error>;
/// The number of the attempt, and what became of it.
type Failure<R, E> = (u32, Result<R, E>);

/// The attempts of one call.
pub(super) struct Hedged<S, B>
where
    S: Service<Request<RequestBody<B>>>,
{
    service: S,
    plan: Plan<B>,
    hedge: Hedge,
    running: Vec<Running<S::Future>>,
    /// When the next attempt starts; `None`: there is none.
    next: Option<Pin<Box<Sleep>>>,
    /// A server asked for no further attempt, whatever becomes of those that run (A6).
    is_forbidden: bool,
    /// Why there is none.
    why: Final,
    /// The last failure, told if no other attempt succeeds.
    failure: Option<Failure<S::Response, S::Error>>,
}

struct Running<F> {
    number: u32,
    follower: Arc<dyn Follow>,
    attempt: Pin<Box<F>>,
}

impl<S, B> Hedged<S, B>
where
    S: Service<Request<RequestBody<B>>>,
    B: Send + 'static,
{
    /// Makes the first attempt; `service` is ready for it.
    pub(super) fn start(service: S, mut plan: Plan<B>, hedge: Hedge, first: Parts) -> Self {
        let (first, follower) = (plan.first(first), plan.follower());
        let mut hedged = Self {
            service,
            plan,
            hedge,
            running: Vec::new(),
            next: None,
            is_forbidden: false,
            why: Final::ByPolicy,
            failure: None,
        };
        hedged.attempt(first, follower);
        hedged
    }

    fn attempt(&mut self, request: Request<RequestBody<B>>, follower: Arc<dyn Follow>) {
        let attempt = Box::pin(self.service.call(request));
        self.running.push(Running { number: self.plan.made(), follower, attempt });
        self.next = None;
        self.schedule(self.hedge.delay);
    }

    /// The next attempt starts after `delay`, if it was not to start earlier.
    fn schedule(&mut self, delay: Duration) {
        let at = Instant::now() + delay;
        if self.is_forbidden {
            return;
        }
        if self.plan.is_possible(delay) && self.next.as_ref().is_none_or(|next| at < next.deadline()) {
            self.next = Some(Box::pin(tokio::time::sleep_until(at)));
        }
    }
}

impl<S, B, R> Hedged<S, B>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>, Error = Error>,
    B: Send + 'static,
{
    /// Ready when an attempt was started, or when there is none to start any more.
    fn poll_start(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Some(next) = &mut self.next else { return Poll::Pending };
        ready!(next.as_mut().poll(cx));
        ready!(self.service.poll_ready(cx))?;
        if let Err(why) = self.plan.allow(Duration::ZERO) {
            (self.next, self.why) = (None, why);
            return Poll::Ready(Ok(()));
        }
        for running in &self.running {
            self.plan.avoid(running.follower.progress().stage());
        }
        let follower: Arc<dyn Follow> = Arc::new(Progress::default());
        let request = self.plan.beside(follower.clone());
        self.attempt(request, follower);
        Poll::Ready(Ok(()))
    }

    /// The first attempt that is over; it does not run any more.
    fn poll_running(&mut self, cx: &mut Context<'_>) -> Poll<(Running<S::Future>, Outcome<R>)> {
        for index in 0..self.running.len() {
            if let Poll::Ready(outcome) = self.running[index].attempt.as_mut().poll(cx) {
                return Poll::Ready((self.running.remove(index), outcome));
            }
        }
        Poll::Pending
    }

    /// An attempt failed in a way that the policy names.
    fn failed(&mut self, attempt: &Running<S::Future>, outcome: Outcome<R>) {
        self.plan.avoid(attempt.follower.progress().stage());
        match self.plan.delay(&outcome) {
            // Those that run go on (A6).
            Next::Never => (self.next, self.is_forbidden) = (None, true),
            Next::AsTold(delay) => {
                self.next = None;
                self.schedule(delay);
            }
            Next::Backoff(_) if self.hedge.at_once => self.schedule(Duration::ZERO),
            Next::Backoff(delay) => self.schedule(delay),
        }
        self.failure = Some((attempt.number, outcome));
    }

    /// An attempt that never left, for whatever reason, is no answer while another may bring one.
    fn is_moot(&self, outcome: &Outcome<R>) -> bool {
        !self.running.is_empty() && outcome.as_ref().is_err_and(|error| !error.request_sent())
    }

    /// Ends the attempts that still run.
    fn finish(&mut self, attempt: u32, outcome: Outcome<R>, why: Final) -> Result<Response<R>, Error> {
        self.running.clear();
        self.plan.finish(outcome, attempt, why)
    }
}

impl<S, B, R> Future for Hedged<S, B>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>, Error = Error>,
    B: Send + 'static,
{
    type Output = Result<Response<R>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match self.poll_running(cx) {
                Poll::Ready((attempt, outcome)) if self.plan.failed(&outcome) => self.failed(&attempt, outcome),
                Poll::Ready((attempt, outcome)) if self.is_moot(&outcome) => {
                    self.failure.get_or_insert((attempt.number, outcome));
                }
                Poll::Ready((attempt, outcome)) => {
                    self.plan.progress().set(attempt.follower.progress().stage());
                    return Poll::Ready(self.finish(attempt.number, outcome, Final::ByPolicy));
                }
                Poll::Pending => match self.poll_start(cx)? {
                    Poll::Ready(()) => {}
                    Poll::Pending if self.running.is_empty() && self.next.is_none() => {
                        let (attempt, outcome) =
                            self.failure.take().expect("an attempt failed, and none runs any more");
                        let why = self.why;
                        return Poll::Ready(self.finish(attempt, outcome, why));
                    }
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }
}

/// Each attempt is pinned in a box of its own.
impl<S, B> Unpin for Hedged<S, B> where S: Service<Request<RequestBody<B>>> {}

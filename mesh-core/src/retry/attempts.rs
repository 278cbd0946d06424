//! The attempts of one call that has a policy.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response};
use pin_project::pin_project;
use tokio::time::{Instant, Sleep};
use tower_service::Service;

use super::body::{RequestBody, Shared};
use super::budget::Budgets;
use super::observer::pass_on;
use super::outcome::is_retriable;
use crate::backoff::Backoff;
use crate::call::{self, Progress, Pushback, RetryProtocol, Stage};
use crate::error::{Error, ErrorKind};
use crate::resource::retry_policy::RetryPolicy;

/// Attempts, and the delays between them.
#[pin_project]
pub(super) struct Attempts<S, B>
where
    S: Service<Request<RequestBody<B>>>,
{
    service: S,
    plan: Plan<B>,
    #[pin]
    state: State<S::Future>,
}

#[pin_project(project = StateProjection)]
enum State<F> {
    /// The service may not be ready for the next attempt.
    Starting,
    Attempting {
        #[pin]
        attempt: F,
        #[pin]
        limit: Option<Sleep>,
    },
    BackingOff(#[pin] Sleep),
}

/// What the next attempt is made of, and whether there is one.
struct Plan<B> {
    /// Of the request, with the call as it was before the first attempt.
    head: Parts,
    body: Shared<B>,
    policy: Arc<RetryPolicy>,
    backoff: Backoff,
    budgets: Budgets,
    protocol: Option<&'static dyn RetryProtocol>,
    /// Where the attempt stands, so that a next one can go elsewhere.
    progress: Arc<Progress>,
    /// Attempts so far.
    made: u32,
}

/// Why an attempt is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Final {
    /// It is what the policy wants.
    ByPolicy,
    /// The cluster has used up its budget.
    OutOfBudget,
}

impl<S, B> Attempts<S, B>
where
    S: Service<Request<RequestBody<B>>>,
{
    /// Makes the first attempt; `service` is ready for it.
    pub(super) fn start(
        mut service: S,
        request: Request<B>,
        policy: Arc<RetryPolicy>,
        budgets: Budgets,
        protocol: Option<&'static dyn RetryProtocol>,
    ) -> Self {
        let (mut head, body) = request.into_parts();
        let call = call::of(&mut head.extensions);
        let progress = call.progress.get_or_insert_default().clone();
        if let Some(cluster) = &call.cluster {
            budgets.deposit(cluster);
        }
        let (body, backoff) = (Shared::new(body), Backoff::new(policy.backoff));
        let mut plan = Plan { head, body, policy, backoff, budgets, protocol, progress, made: 0 };
        let state = plan.attempt(&mut service);
        Self { service, plan, state }
    }
}

impl<S, B, R> Future for Attempts<S, B>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>, Error = Error>,
{
    type Output = Result<Response<R>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut me = self.project();
        loop {
            let next = match me.state.as_mut().project() {
                StateProjection::Starting => {
                    ready!(me.service.poll_ready(cx))?;
                    me.plan.attempt(me.service)
                }
                StateProjection::BackingOff(delay) => {
                    ready!(delay.poll(cx));
                    State::Starting
                }
                StateProjection::Attempting { attempt, limit } => {
                    let outcome = match (attempt.poll(cx), limit.as_pin_mut()) {
                        (Poll::Ready(outcome), _) => outcome,
                        (Poll::Pending, None) => return Poll::Pending,
                        (Poll::Pending, Some(limit)) => {
                            ready!(limit.poll(cx));
                            Err(me.plan.timed_out())
                        }
                    };
                    match me.plan.delay(&outcome) {
                        Ok(delay) => State::BackingOff(tokio::time::sleep(delay)),
                        Err(why) => return Poll::Ready(me.plan.finish(outcome, why)),
                    }
                }
            };
            // The attempt that is over is dropped here, and with it what it still sends.
            me.state.set(next);
        }
    }
}

impl<B> Plan<B> {
    fn attempt<S>(&mut self, service: &mut S) -> State<S::Future>
    where
        S: Service<Request<RequestBody<B>>>,
    {
        let attempt = service.call(self.request());
        State::Attempting { attempt, limit: self.policy.per_try_timeout.map(tokio::time::sleep) }
    }

    fn request(&mut self) -> Request<RequestBody<B>> {
        let previous = self.made;
        self.made += 1;
        let mut head = self.head.clone();
        let call = call::of(&mut head.extensions);
        call.attempt = self.made;
        if previous > 0 {
            let told = self.protocol.map(|protocol| protocol.tell_attempts(previous));
            let deadline = call.tell_deadline.zip(call.remaining()).map(|(encode, remaining)| encode(remaining));
            for (name, mut value) in told.into_iter().chain(deadline) {
                value.set_sensitive(true);
                head.headers.insert(name, value);
            }
        }
        let body = self.body.again();
        if self.made == self.policy.max_attempts {
            self.body.commit();
        }
        Request::from_parts(head, body)
    }

    /// How long to wait before the next attempt, or why there is none.
    fn delay<R>(&mut self, outcome: &Result<Response<R>, Error>) -> Result<Duration, Final> {
        if !is_retriable(&self.policy, self.protocol, outcome) || self.made >= self.policy.max_attempts {
            return Err(Final::ByPolicy);
        }
        let pushback = outcome.as_ref().ok().zip(self.protocol);
        let delay = match pushback.and_then(|(response, protocol)| protocol.pushback(response.headers())) {
            Some(Pushback::Stop) => return Err(Final::ByPolicy),
            Some(Pushback::After(delay)) => {
                self.backoff.reset();
                delay
            }
            None => self.backoff.next_delay(fastrand::f64()),
        };
        let call = call::of(&mut self.head.extensions);
        // Whatever would come after the deadline tells the caller less than this outcome.
        if call.deadline.is_some_and(|deadline| Instant::now() + delay >= deadline) || !self.body.is_held() {
            return Err(Final::ByPolicy);
        }
        if call.cluster.as_ref().is_some_and(|cluster| !self.budgets.withdraw(cluster)) {
            return Err(Final::OutOfBudget);
        }
        if !self.body.rewind() {
            return Err(Final::ByPolicy);
        }
        if let Stage::Sent(endpoint) | Stage::Responding(endpoint) = self.progress.stage() {
            call.failed_at(&endpoint);
        }
        self.progress.set(Stage::Waiting);
        Ok(delay)
    }

    /// The attempt took longer than one may.
    fn timed_out(&self) -> Error {
        let limit = self.policy.per_try_timeout.unwrap_or_default();
        let mut error =
            Error::new(ErrorKind::Deadline, format!("attempt took longer than the route's {limit:?} per try"));
        if let Stage::Sent(endpoint) | Stage::Responding(endpoint) = self.progress.stage() {
            error.context_mut().endpoint = Some(endpoint.to_string());
            error = error.sent();
        }
        error
    }

    fn finish<R>(&mut self, mut outcome: Result<Response<R>, Error>, why: Final) -> Result<Response<R>, Error> {
        self.body.commit();
        let made = self.made;
        let call = call::of(&mut self.head.extensions);
        if let Ok(response) = &outcome {
            pass_on(&call.context, self.protocol, response);
        }
        if why == Final::OutOfBudget {
            call.context.forbid_retry();
            let cluster = call.cluster.as_ref().map(|cluster| &*cluster.key.name);
            tracing::debug!(cluster, attempts = made, "retry budget used up");
        }
        if let Err(error) = &mut outcome {
            call.explain(error);
            error.context_mut().attempts = match why {
                Final::OutOfBudget => Some(format!("{made}, then the cluster's retry budget was used up")),
                Final::ByPolicy if made > 1 => Some(made.to_string()),
                Final::ByPolicy => None,
            };
        }
        outcome
    }
}

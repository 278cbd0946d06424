//! Attempts one after the other, and the delays between them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response};
use pin_project::pin_project;
use tokio::time::Sleep;
use tower_service::Service;

use super::body::RequestBody;
use super::plan::{Final, Next, Plan};
use crate::error::Error;

/// The attempts of one call.
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

impl<S, B> Attempts<S, B>
where
    S: Service<Request<RequestBody<B>>>,
    B: Send + 'static,
{
    /// Makes the first attempt; `service` is ready for it.
    pub(super) fn start(service: S, plan: Plan<B>, first: Parts) -> Pin<Box<Self>> {
        // Made where it stays: a future in it, and the head for later attempts, are much to move.
        let mut attempts = Box::pin(Self { service, plan, state: State::Starting });
        let mut me = attempts.as_mut().project();
        let state = attempt(me.plan.first(first), me.plan, me.service);
        me.state.set(state);
        attempts
    }
}

fn attempt<S, B>(request: Request<RequestBody<B>>, plan: &Plan<B>, service: &mut S) -> State<S::Future>
where
    S: Service<Request<RequestBody<B>>>,
{
    let attempt = service.call(request);
    State::Attempting { attempt, limit: plan.policy().until_head().map(tokio::time::sleep) }
}

impl<S, B, R> Future for Attempts<S, B>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>, Error = Error>,
    B: Send + 'static,
{
    type Output = Result<Response<R>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut me = self.project();
        loop {
            let next = match me.state.as_mut().project() {
                StateProjection::Starting => {
                    ready!(me.service.poll_ready(cx))?;
                    attempt(me.plan.next(), me.plan, me.service)
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
                    // The attempt is over: with it goes what it still sends, and its call comes back.
                    me.state.set(State::Starting);
                    me.plan.regain();
                    match next_delay(me.plan, &outcome) {
                        Ok(delay) => State::BackingOff(tokio::time::sleep(delay)),
                        Err(why) => return Poll::Ready(me.plan.finish(outcome, me.plan.made(), why)),
                    }
                }
            };
            me.state.set(next);
        }
    }
}

/// How long to wait before the next attempt, or why there is none.
fn next_delay<B, R>(plan: &mut Plan<B>, outcome: &Result<Response<R>, Error>) -> Result<Duration, Final> {
    if !plan.failed(outcome) || !plan.has_attempts() {
        return Err(Final::ByPolicy);
    }
    let delay = match plan.delay(outcome) {
        Next::Never => return Err(Final::ByPolicy),
        Next::AsTold(delay) | Next::Backoff(delay) => delay,
    };
    plan.allow(delay)?;
    plan.end_attempts();
    Ok(delay)
}

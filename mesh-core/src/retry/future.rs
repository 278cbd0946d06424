use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use pin_project::pin_project;
use tower_service::Service;

use super::RequestBody;
use super::attempts::Attempts;
use super::hedge::Hedged;
use super::observer::Observer;
use crate::error::Error;

/// The future of [`Retry`](super::Retry).
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<S, B>
where
    S: Service<Request<RequestBody<B>>>,
{
    #[pin]
    state: State<S, B>,
}

#[pin_project(project = StateProjection)]
enum State<S, B>
where
    S: Service<Request<RequestBody<B>>>,
{
    /// The call has no policy: all of it is one attempt.
    Once {
        #[pin]
        attempt: S::Future,
        observer: Observer,
    },
    /// Boxed: only calls with a policy pay for it.
    Retrying(Pin<Box<Attempts<S, B>>>),
    Hedging(Pin<Box<Hedged<S, B>>>),
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<RequestBody<B>>>,
{
    pub(super) fn once(attempt: S::Future, observer: Observer) -> Self {
        Self { state: State::Once { attempt, observer } }
    }

    pub(super) fn retrying(attempts: Pin<Box<Attempts<S, B>>>) -> Self {
        Self { state: State::Retrying(attempts) }
    }

    pub(super) fn hedging(attempts: Hedged<S, B>) -> Self {
        Self { state: State::Hedging(Box::pin(attempts)) }
    }
}

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>, Error = Error>,
    B: Send + 'static,
{
    type Output = Result<Response<R>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Once { attempt, observer } => {
                let outcome = ready!(attempt.poll(cx));
                if let Ok(response) = &outcome {
                    observer.see(response);
                }
                Poll::Ready(outcome)
            }
            StateProjection::Retrying(attempts) => attempts.as_mut().poll(cx),
            StateProjection::Hedging(attempts) => attempts.as_mut().poll(cx),
        }
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<RequestBody<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

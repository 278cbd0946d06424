use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use pin_project::pin_project;
use tokio::task::coop;
use tower_service::Service;

use super::target::is_outside_runtimes;
use super::{ResponseBody, Target};
use crate::call;
use crate::error::Error;
use crate::snapshot::Snapshot;

/// A first snapshot, or why there is none.
pub(super) type Wait = Pin<Box<dyn Future<Output = Result<Arc<Snapshot>, Error>> + Send>>;

/// The future of [`Discover`](super::Discover).
#[pin_project]
pub struct ResponseFuture<S, R>
where
    S: Service<R>,
{
    /// The response's body has it in the end.
    target: Option<Target>,
    #[pin]
    state: State<S, R>,
}

#[pin_project(project = StateProjection)]
enum State<S, R>
where
    S: Service<R>,
{
    /// Boxed: only the first calls of a target pay for it.
    Waiting(Box<Waiting<S, R>>),
    Calling(#[pin] S::Future),
}

/// A call that came before the first snapshot.
struct Waiting<S, R> {
    wait: Wait,
    /// Ready for the call.
    service: S,
    request: Option<R>,
}

impl<S: Service<R>, R> ResponseFuture<S, R> {
    pub(super) fn calling(inner: S::Future, target: Target) -> Self {
        Self { target: Some(target), state: State::Calling(inner) }
    }

    pub(super) fn waiting(wait: Wait, service: S, request: R, target: Target) -> Self {
        let waiting = Waiting { wait, service, request: Some(request) };
        Self { target: Some(target), state: State::Waiting(Box::new(waiting)) }
    }
}

const POLLED: &str = "not polled again after it was ready";

impl<S, B, R> Future for ResponseFuture<S, Request<B>>
where
    S: Service<Request<B>, Response = Response<R>, Error = Error>,
{
    type Output = Result<Response<ResponseBody<R>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !is_outside_runtimes() {
            return self.advance(cx);
        }
        let target = self.target.clone();
        let _entered = target.as_ref().map(Target::enter);
        self.advance(cx)
    }
}

impl<S, B, R> ResponseFuture<S, Request<B>>
where
    S: Service<Request<B>, Response = Response<R>, Error = Error>,
{
    fn advance(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<<Self as Future>::Output> {
        let mut this = self.project();
        // Whoever tries again and again what fails at once must let the other tasks of its thread run, the mesh's own among them.
        let turn = ready!(coop::poll_proceed(cx));
        loop {
            let calling = match this.state.as_mut().project() {
                StateProjection::Calling(inner) => {
                    let result = ready!(inner.poll(cx));
                    turn.made_progress();
                    let target = this.target.take().expect(POLLED);
                    return Poll::Ready(match result {
                        Ok(response) => Ok(response.map(|body| ResponseBody::new(body, target))),
                        Err(error) => Err(target.explain(error)),
                    });
                }
                StateProjection::Waiting(waiting) => match ready!(waiting.wait.as_mut().poll(cx)) {
                    Ok(snapshot) => {
                        let mut request = waiting.request.take().expect(POLLED);
                        call::of(request.extensions_mut()).snapshot = Some(snapshot);
                        waiting.service.call(request)
                    }
                    Err(error) => {
                        turn.made_progress();
                        return Poll::Ready(Err(this.target.take().expect(POLLED).explain(error)));
                    }
                },
            };
            this.state.set(State::Calling(calling));
        }
    }
}

impl<S: Service<R>, R> fmt::Debug for ResponseFuture<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("target", &self.target).finish_non_exhaustive()
    }
}

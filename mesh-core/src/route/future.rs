use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Request;
use pin_project::pin_project;
use tower_service::Service;

use super::{beside, send_to};
use crate::error::Error;
use crate::snapshot::ClusterEntry;

/// The future of [`Route`](super::Route).
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    #[pin]
    state: State<S, B>,
}

#[pin_project(project = StateProjection)]
enum State<S, B>
where
    S: Service<Request<B>>,
{
    Calling(#[pin] S::Future),
    Failed(Option<Error>),
    /// Boxed: only calls that are the first to name a cluster wait.
    Waiting(Box<Waiting<S, B>>),
}

/// The verdict on a cluster that the control plane is asked for.
pub(super) type Wait = Pin<Box<dyn Future<Output = Result<Arc<ClusterEntry>, Error>> + Send>>;

/// A call that waits for its cluster.
struct Waiting<S, B> {
    wait: Wait,
    /// The service is ready for the call.
    held: Option<(S, Request<B>)>,
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    pub(super) fn calling(inner: S::Future) -> Self {
        Self { state: State::Calling(inner) }
    }

    pub(super) fn failed(error: Error) -> Self {
        Self { state: State::Failed(Some(error)) }
    }

    pub(super) fn waiting(wait: Wait, inner: S, request: Request<B>) -> Self {
        Self { state: State::Waiting(Box::new(Waiting { wait, held: Some((inner, request)) })) }
    }
}

const POLLED: &str = "not polled again after it was ready";

impl<S, B> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Error = Error>,
{
    type Output = Result<S::Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let call = match state.as_mut().project() {
                StateProjection::Calling(inner) => return inner.poll(cx),
                StateProjection::Failed(error) => return Poll::Ready(Err(error.take().expect(POLLED))),
                StateProjection::Waiting(waiting) => {
                    let entry = ready!(waiting.wait.as_mut().poll(cx))?;
                    let (mut inner, mut request) = waiting.held.take().expect(POLLED);
                    beside(&mut request, |request, extensions| send_to(entry, request, extensions));
                    inner.call(request)
                }
            };
            state.set(State::Calling(call));
        }
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

//! The future of an attempt that was admitted, or was not.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project::pin_project;

use super::body::ResponseBody;
use super::breaker::Permit;
use crate::error::Error;

/// The future of [`Cluster`](super::Cluster).
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<F> {
    #[pin]
    state: State<F>,
}

#[pin_project(project = StateProjection)]
#[derive(Debug)]
enum State<F> {
    Calling {
        #[pin]
        inner: F,
        permit: Option<Permit>,
    },
    Failed(Option<Error>),
}

impl<F> ResponseFuture<F> {
    pub(super) fn calling(inner: F, permit: Option<Permit>) -> Self {
        Self { state: State::Calling { inner, permit } }
    }

    pub(super) fn failed(error: Error) -> Self {
        Self { state: State::Failed(Some(error)) }
    }
}

impl<F, R> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, Error>>,
{
    type Output = Result<Response<ResponseBody<R>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Calling { inner, permit } => {
                let outcome = ready!(inner.poll(cx));
                let permit = permit.take();
                Poll::Ready(outcome.map(|response| response.map(|body| ResponseBody::new(body, permit))))
            }
            StateProjection::Failed(error) => Poll::Ready(Err(error.take().expect("polled after it was ready"))),
        }
    }
}

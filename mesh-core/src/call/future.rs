use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;

use crate::error::Error;

/// The future of a layer that hands a call on to its inner service, or fails it at once.
#[pin_project]
#[derive(Debug)]
pub struct ResponseFuture<F> {
    #[pin]
    state: State<F>,
}

#[pin_project(project = StateProjection)]
#[derive(Debug)]
enum State<F> {
    Calling(#[pin] F),
    Failed(Option<Error>),
}

impl<F> ResponseFuture<F> {
    pub(crate) fn calling(inner: F) -> Self {
        Self { state: State::Calling(inner) }
    }

    pub(crate) fn failed(error: Error) -> Self {
        Self { state: State::Failed(Some(error)) }
    }
}

impl<F, T> Future for ResponseFuture<F>
where
    F: Future<Output = Result<T, Error>>,
{
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Calling(inner) => inner.poll(cx),
            StateProjection::Failed(error) => Poll::Ready(Err(error.take().expect("polled after it was ready"))),
        }
    }
}

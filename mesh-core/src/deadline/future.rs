use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project::pin_project;

use super::{ResponseBody, Serving};
use crate::context::Scope;

/// The future of [`Deadline`](super::Deadline).
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<F: Future> {
    /// Dropped at the deadline, whoever holds this future then.
    #[pin]
    handler: Option<Scope<F>>,
    serving: Option<Serving>,
}

impl<F: Future> ResponseFuture<F> {
    pub(super) fn serving(handler: F, serving: Serving) -> Self {
        Self { handler: Some(serving.context.clone().scope(handler)), serving: Some(serving) }
    }

    pub(super) fn expired(serving: Serving) -> Self {
        Self { handler: None, serving: Some(serving) }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // The handler first: an answer that is ready at the deadline is better than none.
        let answer = match this.handler.as_mut().as_pin_mut().map(|handler| handler.poll(cx)) {
            Some(Poll::Ready(answer)) => Some(answer?),
            Some(Poll::Pending) => {
                let serving = this.serving.as_mut().expect("polled after it was ready");
                ready!(serving.poll_expired(cx));
                None
            }
            None => None,
        };
        this.handler.set(None);
        let serving = this.serving.take().expect("polled after it was ready");
        Poll::Ready(Ok(match answer {
            Some(mut response) => {
                serving.see_off(response.headers_mut());
                response.map(|body| ResponseBody::new(body, serving))
            }
            None => serving.expired(),
        }))
    }
}

impl<F: Future> std::fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture").field("serving", &self.serving).finish_non_exhaustive()
    }
}

//! The answer to a call: the handler's, or the one that its caller gets in the place of that.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use pin_project::pin_project;

use super::ResponseBody;

/// The future of this module's services.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<F> {
    #[pin]
    inner: Option<F>,
    refused: Option<Response<Bytes>>,
}

impl<F> ResponseFuture<F> {
    pub(super) fn serve(inner: F) -> Self {
        Self { inner: Some(inner), refused: None }
    }

    pub(super) fn refuse(answer: Response<Bytes>) -> Self {
        Self { inner: None, refused: Some(answer) }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(match this.inner.as_pin_mut() {
            Some(inner) => ready!(inner.poll(cx)).map(|response| response.map(ResponseBody::passed)),
            None => Ok(this.refused.take().expect("polled after it was ready").map(ResponseBody::own)),
        })
    }
}

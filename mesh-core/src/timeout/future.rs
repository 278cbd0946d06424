use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project::pin_project;

use super::{ResponseBody, Timer};
use crate::error::Error;

/// The future of [`Timeout`](super::Timeout).
#[pin_project]
#[derive(Debug)]
pub struct ResponseFuture<F> {
    /// `None`: the deadline had passed before the call began.
    #[pin]
    inner: Option<F>,
    timer: Option<Timer>,
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(inner: F, timer: Option<Timer>) -> Self {
        Self { inner: Some(inner), timer }
    }

    pub(super) fn expired(timer: Timer) -> Self {
        Self { inner: None, timer: Some(timer) }
    }
}

impl<F, R> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, Error>>,
    R: Body<Data = Bytes, Error: Into<Error>> + Send + Unpin + 'static,
{
    type Output = Result<Response<ResponseBody<R>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // The inner future first: what it says about its own end is more exact than what the timer can say.
        let Some(inner) = this.inner.as_pin_mut() else {
            let timer = this.timer.take().expect("polled after it was ready");
            return Poll::Ready(Err(timer.terms().error()));
        };
        if let Poll::Ready(result) = inner.poll(cx) {
            let timer = this.timer.take();
            return Poll::Ready(match (result, timer) {
                (Ok(response), None) => Ok(response.map(ResponseBody::unlimited)),
                (Ok(response), Some(timer)) => limited(response, timer, cx),
                (Err(error), Some(timer)) => Err(timer.terms().reason(error)),
                (Err(error), None) => Err(error),
            });
        }
        match this.timer {
            Some(timer) => timer.poll_expired(cx).map(Err),
            None => Poll::Pending,
        }
    }
}

fn limited<R>(response: Response<R>, mut timer: Timer, cx: &mut Context<'_>) -> Result<Response<ResponseBody<R>>, Error>
where
    R: Body<Data = Bytes, Error: Into<Error>> + Send + Unpin + 'static,
{
    if response.body().is_end_stream() {
        timer.terms().check_end(response.headers())?;
    }
    timer.begin_response();
    Ok(response.map(|body| ResponseBody::limited(body, timer, cx)))
}

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use super::Timer;
use crate::error::Error;

/// A response body that fails when the deadline of its call passes.
#[pin_project]
#[derive(Debug)]
pub struct ResponseBody<R> {
    #[pin]
    inner: R,
    timer: Option<Timer>,
}

impl<R> ResponseBody<R> {
    pub(super) fn new(inner: R, timer: Option<Timer>) -> Self {
        Self { inner, timer }
    }
}

impl<R> Body for ResponseBody<R>
where
    R: Body<Data = Bytes, Error = Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.project();
        if let Poll::Ready(frame) = this.inner.poll_frame(cx) {
            return Poll::Ready(match frame {
                // A response that always has a frame ready must end at its deadline, too.
                Some(Ok(frame)) => match this.timer {
                    Some(timer) if frame.is_data() && timer.has_expired() => Some(Err(timer.error())),
                    _ => Some(Ok(frame)),
                },
                ended => ended.map(|failed| match this.timer.take() {
                    Some(timer) => failed.map_err(|error| timer.reason(error)),
                    None => failed,
                }),
            });
        }
        match this.timer {
            Some(timer) => timer.poll_expired(cx).map(|error| Some(Err(error))),
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

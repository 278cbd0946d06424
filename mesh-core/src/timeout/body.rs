use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use super::Timer;
use crate::error::Error;

/// A response body that fails when the deadline of its call passes.
#[pin_project]
#[derive(Debug)]
pub struct ResponseBody<R> {
    /// `None` once the deadline ended it: its stream is reset then, not when the reader lets go of this.
    #[pin]
    inner: Option<R>,
    timer: Option<Timer>,
}

impl<R> ResponseBody<R> {
    pub(super) fn new(inner: R, timer: Option<Timer>) -> Self {
        Self { inner: Some(inner), timer }
    }
}

impl<R> Body for ResponseBody<R>
where
    R: Body<Data = Bytes, Error = Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let expired = match inner.poll_frame(cx) {
            // A response that always has a frame ready must end at its deadline, too.
            Poll::Ready(Some(Ok(frame))) => match this.timer {
                Some(timer) if frame.is_data() && timer.has_expired() => timer.error(),
                _ => return Poll::Ready(Some(Ok(frame))),
            },
            Poll::Ready(ended) => {
                return Poll::Ready(ended.map(|failed| match this.timer.take() {
                    Some(timer) => failed.map_err(|error| timer.reason(error)),
                    None => failed,
                }));
            }
            Poll::Pending => match this.timer {
                Some(timer) => ready!(timer.poll_expired(cx)),
                None => return Poll::Pending,
            },
        };
        this.inner.set(None);
        Poll::Ready(Some(Err(expired)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

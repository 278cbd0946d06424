//! The body of a response, which keeps its attempt counted to its end.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use super::breaker::Permit;

/// The body of a response. The attempt counts as in flight to its cluster until the body has ended or is dropped.
#[derive(Debug)]
#[pin_project]
pub struct ResponseBody<R> {
    #[pin]
    inner: R,
    permit: Option<Permit>,
}

impl<R> ResponseBody<R> {
    pub(super) fn new(inner: R, permit: Option<Permit>) -> Self {
        Self { inner, permit }
    }
}

impl<R: Body> Body for ResponseBody<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        let me = self.project();
        // Passed on where it is: frames are large.
        let polled = me.inner.poll_frame(cx);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => {}
            Poll::Ready(_) => *me.permit = None,
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

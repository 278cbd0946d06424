use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use super::Target;
use crate::error::Error;

/// A response body whose errors name the target, its control plane and the node, as those of the head do.
///
/// It keeps the target in use until it is dropped.
#[pin_project]
pub struct ResponseBody<R> {
    #[pin]
    inner: R,
    target: Target,
}

impl<R> ResponseBody<R> {
    pub(super) fn new(inner: R, target: Target) -> Self {
        Self { inner, target }
    }
}

impl<R: Body<Error = Error>> Body for ResponseBody<R> {
    type Data = R::Data;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<R::Data>, Error>>> {
        let this = self.project();
        // Passed on where it is: frames are large, and errors few.
        match this.inner.poll_frame(cx) {
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(this.target.explain(error)))),
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<R: fmt::Debug> fmt::Debug for ResponseBody<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").field("inner", &self.inner).field("target", &self.target).finish()
    }
}

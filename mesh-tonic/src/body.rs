use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use crate::Error;

/// A response body whose errors tonic understands.
#[pin_project]
#[derive(Debug)]
pub struct ResponseBody<R> {
    #[pin]
    inner: R,
}

impl<R> ResponseBody<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner }
    }
}

impl<R> Body for ResponseBody<R>
where
    R: Body<Data = Bytes, Error = mesh_core::Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.project().inner.poll_frame(cx).map(|frame| frame.map(|result| result.map_err(Error::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

/// The body of a response: the inner service's, or that of a filter's own answer.
#[pin_project]
#[derive(Debug)]
pub struct ResponseBody<R> {
    #[pin]
    source: Source<R>,
}

#[pin_project(project = SourceProjection)]
#[derive(Debug)]
enum Source<R> {
    Passed(#[pin] R),
    /// What is left of it.
    Own(Bytes),
}

impl<R> ResponseBody<R> {
    pub(crate) fn passed(inner: R) -> Self {
        Self { source: Source::Passed(inner) }
    }

    pub(crate) fn own(body: Bytes) -> Self {
        Self { source: Source::Own(body) }
    }
}

impl<R: Body<Data = Bytes>> Body for ResponseBody<R> {
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        match self.project().source.project() {
            SourceProjection::Passed(inner) => inner.poll_frame(cx),
            SourceProjection::Own(body) if body.is_empty() => Poll::Ready(None),
            SourceProjection::Own(body) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(body))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Passed(inner) => inner.is_end_stream(),
            Source::Own(body) => body.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Passed(inner) => inner.size_hint(),
            Source::Own(body) => SizeHint::with_exact(body.len() as u64),
        }
    }
}

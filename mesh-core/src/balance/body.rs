//! The body of a response, which keeps its call in flight to its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use super::error;
use super::recorder::Recorder;
use crate::connect::StreamError;
use crate::error::Error;

/// The body of a response. The call counts as in flight at its endpoint until the body has ended or is dropped.
#[derive(Debug)]
#[pin_project]
pub struct ResponseBody<D> {
    // Before the guard: the slot is free when the next call in the queue is woken.
    #[pin]
    inner: D,
    recorder: Option<Recorder>,
    /// The route of the call, which is gone by now.
    route: Option<Arc<str>>,
}

impl<D> ResponseBody<D> {
    pub(crate) fn new(inner: D, recorder: Recorder, route: Option<Arc<str>>) -> Self {
        Self { inner, recorder: Some(recorder), route }
    }
}

impl<D: Body<Data = Bytes, Error = StreamError>> Body for ResponseBody<D> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let me = self.project();
        let frame = match ready!(me.inner.poll_frame(cx)) {
            Some(Ok(frame)) if frame.is_data() => return Poll::Ready(Some(Ok(frame))),
            frame => frame,
        };
        let mut recorder = me.recorder.take();
        if let Some(recorder) = &mut recorder {
            match &frame {
                Some(Ok(frame)) => recorder.handle_end(frame.trailers_ref()),
                Some(Err(error)) => recorder.handle_error(error.kind()),
                None => recorder.handle_end(None),
            }
        }
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| {
                let mut error = error::stream(error, recorder.as_ref().map(Recorder::in_flight));
                error.context_mut().route = me.route.take();
                error
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

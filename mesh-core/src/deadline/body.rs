use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use super::Serving;

/// The body of an answer, made in the call's context as well: a handler that streams makes its calls here. Where the
/// protocol has trailers for it, it ends at the deadline.
#[pin_project]
#[derive(Debug)]
pub struct ResponseBody<R> {
    /// `None`: there is nothing, or nothing any more.
    #[pin]
    inner: Option<R>,
    serving: Option<Serving>,
}

impl<R> ResponseBody<R> {
    pub(super) fn new(inner: R, serving: Serving) -> Self {
        Self { inner: Some(inner), serving: Some(serving) }
    }

    pub(super) fn empty() -> Self {
        Self { inner: None, serving: None }
    }
}

impl<R: Body> Body for ResponseBody<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        let mut this = self.project();
        let (Some(inner), Some(serving)) = (this.inner.as_mut().as_pin_mut(), this.serving) else {
            return Poll::Ready(None);
        };
        let protocol = serving.protocol.filter(|_| serving.timer.is_some());
        match (serving.context.enter(|| inner.poll_frame(cx)), protocol) {
            // A body that always has a frame ready must end at its deadline, too.
            (Poll::Ready(Some(Ok(frame))), Some(_)) if frame.is_data() && serving.has_expired() => {}
            (Poll::Ready(Some(Ok(mut frame))), _) => {
                if let Some(trailers) = frame.trailers_mut() {
                    serving.see_off(trailers);
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            (Poll::Ready(end), _) => return Poll::Ready(end),
            (Poll::Pending, Some(_)) => ready!(serving.poll_expired(cx)),
            (Poll::Pending, None) => return Poll::Pending,
        }
        this.inner.set(None);
        let mut trailers = protocol.map(|protocol| protocol.expired_trailers()).unwrap_or_default();
        serving.see_off(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

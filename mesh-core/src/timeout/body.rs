use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::Timer;
use super::held::Held;
use crate::error::Error;

/// A response body that ends when the deadline of its call passes, whether or not anybody reads it then: what is below is
/// let go of, which resets its stream, and the reader finds an error.
#[derive(Debug)]
pub struct ResponseBody<R>(Source<R>);

#[derive(Debug)]
enum Source<R> {
    Unlimited(R),
    /// All of it came with the head, in time, and waits in the timer.
    Whole(Timer),
    /// It goes on, after what waits in the timer.
    Going(Timer, Held<R>),
    Over,
}

impl<R> ResponseBody<R> {
    pub(super) fn unlimited(inner: R) -> Self {
        Self(Source::Unlimited(inner))
    }
}

impl<R> ResponseBody<R>
where
    R: Body<Data = Bytes, Error: Into<Error>> + Send + Unpin + 'static,
{
    /// Looks for the end of the body: most come whole, and nothing has to watch them.
    pub(super) fn limited(mut inner: R, mut timer: Timer, cx: &mut Context<'_>) -> Self {
        if timer.look_ahead(&mut inner, cx) {
            return Self(Source::Whole(timer));
        }
        let held = Held::new(inner, &mut timer);
        Self(Source::Going(timer, held))
    }
}

impl<R> Body for ResponseBody<R>
where
    R: Body<Data = Bytes, Error: Into<Error>> + Send + Unpin + 'static,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match &mut self.0 {
            Source::Unlimited(inner) => return Pin::new(inner).poll_frame(cx).map_err(Into::into),
            Source::Over => return Poll::Ready(None),
            Source::Whole(timer) => timer.ahead().next(),
            Source::Going(timer, held) => match held.poll_frame(timer, cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => return Poll::Pending,
            },
        };
        if !matches!(&frame, Some(Ok(frame)) if frame.is_data()) {
            self.0 = Source::Over;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Unlimited(inner) => inner.is_end_stream(),
            Source::Whole(timer) => timer.waiting().is_empty(),
            Source::Going(..) => false,
            Source::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Unlimited(inner) => inner.size_hint(),
            Source::Whole(timer) => SizeHint::with_exact(timer.waiting().bytes()),
            Source::Going(..) => SizeHint::default(),
            Source::Over => SizeHint::with_exact(0),
        }
    }
}

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use smallvec::SmallVec;

use super::tee::Feed;

/// The body of a call's request, whose copies are fed with what is read of it.
#[pin_project]
#[derive(Debug)]
pub struct RequestBody<B> {
    #[pin]
    inner: B,
    /// Boxed: most calls have none.
    feeds: Option<Box<SmallVec<[Feed; 1]>>>,
}

impl<B> RequestBody<B> {
    pub(super) fn passed(inner: B) -> Self {
        Self { inner, feeds: None }
    }
}

impl<B: Body<Data = Bytes>> RequestBody<B> {
    pub(super) fn copied(inner: B, feeds: SmallVec<[Feed; 1]>) -> Self {
        let is_end = inner.is_end_stream();
        let feeds = (!feeds.is_empty()).then(|| Box::new(feeds));
        if let Some(feeds) = feeds.as_deref().filter(|_| is_end) {
            feeds.iter().for_each(Feed::complete);
        }
        Self { inner, feeds }
    }
}

impl<B: Body<Data = Bytes>> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut me = self.project();
        let Some(feeds) = me.feeds else { return me.inner.poll_frame(cx) };
        let frame = ready!(me.inner.as_mut().poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => feeds.iter().for_each(|feed| feed.push(frame)),
            Some(Err(_)) => *me.feeds = None,
            None => feeds.iter().for_each(Feed::complete),
        }
        // Nobody need ask again after the last frame.
        if let Some(feeds) = me.feeds.as_ref().filter(|_| me.inner.is_end_stream()) {
            feeds.iter().for_each(Feed::complete);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

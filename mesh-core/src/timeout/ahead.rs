//! The frames of a body that come with its head.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::timer::Terms;
use crate::error::Error;

/// A message and trailers, which is all of most responses.
const FRAMES: usize = 2;

/// Frames that were read before anybody asked for them.
#[derive(Debug, Default)]
pub(super) struct Ahead([Option<Result<Frame<Bytes>, Error>>; FRAMES]);

impl Ahead {
    /// Reads what there is. Returns whether the body has come to its end.
    pub(super) fn read<R>(&mut self, body: &mut R, terms: &Terms, cx: &mut Context<'_>) -> bool
    where
        R: Body<Data = Bytes, Error: Into<Error>> + Unpin,
    {
        for place in &mut self.0 {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => return false,
                Poll::Ready(None) => return true,
                Poll::Ready(Some(frame)) => {
                    let is_last = !matches!(&frame, Ok(frame) if frame.is_data());
                    *place = Some(terms.check(frame.map_err(Into::into)));
                    if is_last {
                        return true;
                    }
                }
            }
        }
        body.is_end_stream()
    }

    /// The next one, if there is one.
    pub(super) fn next(&mut self) -> Option<Result<Frame<Bytes>, Error>> {
        self.0.iter_mut().find_map(Option::take)
    }

    /// Whether all was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Of data.
    pub(super) fn bytes(&self) -> u64 {
        let data = self.0.iter().flatten().flatten().filter_map(Frame::data_ref);
        data.map(|data| data.len() as u64).sum()
    }
}

//! What was read of a request's body, held for sending it again: reference counts, not copies.

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use smallvec::SmallVec;

use super::budget::Budgets;

/// What is held of one call.
const MAX_KEPT: usize = 64 << 10;

/// The frames so far, of which all calls together hold no more than the budget has bytes.
pub(super) struct Kept {
    data: SmallVec<[Bytes; 1]>,
    trailers: Option<Box<HeaderMap>>,
    bytes: usize,
    budgets: Budgets,
}

impl Kept {
    pub(super) fn new(budgets: Budgets) -> Self {
        Self { data: SmallVec::new(), trailers: None, bytes: 0, budgets }
    }

    pub(super) fn frames(&self) -> usize {
        self.data.len() + usize::from(self.trailers.is_some())
    }

    pub(super) fn frame(&self, index: usize) -> Option<Frame<Bytes>> {
        match self.data.get(index) {
            Some(data) => Some(Frame::data(data.clone())),
            None if index == self.data.len() => Some(Frame::trailers(self.trailers.as_deref()?.clone())),
            None => None,
        }
    }

    /// `false`: it is too much, for one call or for all.
    pub(super) fn push(&mut self, frame: &Frame<Bytes>) -> bool {
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(Box::new(trailers.clone()));
        }
        frame.data_ref().is_none_or(|data| self.push_data(data))
    }

    fn push_data(&mut self, data: &Bytes) -> bool {
        if self.bytes.saturating_add(data.len()) > MAX_KEPT || !self.budgets.hold(data.len()) {
            return false;
        }
        self.bytes += data.len();
        self.data.push(data.clone());
        true
    }

    pub(super) fn clear(&mut self) {
        self.data = SmallVec::new();
        self.trailers = None;
        self.budgets.release(std::mem::take(&mut self.bytes));
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.clear();
    }
}

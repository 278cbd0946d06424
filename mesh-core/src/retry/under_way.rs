//! What is under way at a moment: calls and retries of one cluster, and bytes of all that are held.

use crate::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Calls that have a policy, and retries, of one cluster.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    calls: AtomicU32,
    retries: AtomicU32,
}

impl UnderWay {
    pub(super) fn begin_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end_call(&self) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }

    /// Begins a retry, unless there are `most`, of so many calls.
    pub(super) fn begin_retry(&self, most: impl FnOnce(u32) -> u32) -> bool {
        let most = most(self.calls.load(Ordering::Relaxed));
        let room = |retries| (retries < most).then_some(retries + 1);
        self.retries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    pub(super) fn end_retries(&self, number: u32) {
        self.retries.fetch_sub(number, Ordering::Relaxed);
    }
}

/// Bytes that are held.
#[derive(Debug, Default)]
pub(super) struct Held(AtomicUsize);

impl Held {
    /// Whether there is room for so many bytes more within `limit`; they are held, until [`release`](Self::release).
    pub(super) fn hold(&self, bytes: usize, limit: usize) -> bool {
        // Never above the limit, not even for a moment: that would refuse others for which there is room.
        let room = |held: usize| held.checked_add(bytes).filter(|held| *held <= limit);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    pub(super) fn release(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

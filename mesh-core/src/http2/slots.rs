//! The calls that a connection may carry at a time, counted here because `h2` queues what exceeds the peer's
//! MAX_CONCURRENT_STREAMS without bound.

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const ONE: u64 = 1;
const IN_FLIGHT: u64 = (1 << 32) - 1;
/// So that the count never reaches the bits beside it.
const MAX_LIMIT: u32 = u32::MAX - 1;
const DRAINING: u64 = 1 << 62;
const CLOSED: u64 = 1 << 63;

/// Why there is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// All that the peer allows are taken.
    Full,
    /// The connection takes no new calls: the peer sent GOAWAY, or it is drained here.
    Draining,
    /// The connection ended.
    Closed,
}

/// Calls in flight and the end of the connection in one word: to take a slot is one atomic exchange, to give it back
/// another.
#[derive(Debug)]
pub(super) struct Slots {
    word: AtomicU64,
    limit: AtomicU32,
}

impl Slots {
    pub(super) fn new(limit: usize) -> Self {
        let slots = Self { word: AtomicU64::new(0), limit: AtomicU32::new(0) };
        slots.set_limit(limit);
        slots
    }

    pub(super) fn try_acquire(&self) -> Result<(), Unavailable> {
        let limit = u64::from(self.limit.load(Ordering::Relaxed));
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            check(word, limit)?;
            match self.word.compare_exchange_weak(word, word + ONE, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }

    pub(super) fn release(&self) {
        self.word.fetch_sub(ONE, Ordering::AcqRel);
    }

    /// Follows the peer's MAX_CONCURRENT_STREAMS; calls beyond a lowered limit go on.
    pub(super) fn set_limit(&self, limit: usize) {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX).min(MAX_LIMIT);
        if self.limit.load(Ordering::Relaxed) != limit {
            self.limit.store(limit, Ordering::Relaxed);
        }
    }

    /// Takes no new calls from now on.
    pub(super) fn drain(&self) {
        self.word.fetch_or(DRAINING, Ordering::AcqRel);
    }

    /// The connection is gone.
    pub(super) fn close(&self) {
        self.word.fetch_or(CLOSED, Ordering::AcqRel);
    }

    pub(super) fn in_flight(&self) -> u32 {
        u32::try_from(self.word.load(Ordering::Relaxed) & IN_FLIGHT).expect("32 bits")
    }

    /// Whether there is none left.
    pub(super) fn are_taken(&self) -> bool {
        self.in_flight() >= self.limit()
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }
}

fn check(word: u64, limit: u64) -> Result<(), Unavailable> {
    if word & (CLOSED | DRAINING) != 0 {
        return Err(if word & CLOSED != 0 { Unavailable::Closed } else { Unavailable::Draining });
    }
    if word & IN_FLIGHT >= limit { Err(Unavailable::Full) } else { Ok(()) }
}

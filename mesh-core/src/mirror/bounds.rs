//! How much copies may take of what calls share, and what was counted of them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use tokio::time::Instant;

use crate::call::Call;
use crate::origin::Origin;

/// The bounds of all copies together, and how near they are.
#[derive(Debug)]
pub(super) struct Bounds {
    pub(super) limits: Limits,
    /// What the clock counts from.
    start: Instant,
    in_flight: AtomicUsize,
    held: AtomicUsize,
    sent: AtomicU64,
    skipped: AtomicU64,
    cut: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) in_flight: usize,
    /// Bytes of requests that are not sent yet, of all copies together.
    pub(super) held: usize,
    /// Bytes of one request.
    pub(super) held_per_call: usize,
    /// How long a copy may take.
    pub(super) duration: Duration,
    /// Who set them.
    pub(super) origin: Origin,
}

/// What became of the calls that were to be mirrored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MirrorCounts {
    /// Copies that were begun.
    pub sent: u64,
    /// Copies that were not begun, as there were too many in flight, or as the mirror could not be reached in the 100 ms
    /// before.
    pub skipped: u64,
    /// Copies that were given up, as their mirror took their requests too slowly.
    pub cut: u64,
    /// Copies in flight now.
    pub in_flight: usize,
    /// Bytes of requests held for them now.
    pub held: usize,
}

impl Limits {
    pub(super) const DEFAULT: Self = Self {
        in_flight: 128,
        held: 16 << 20,
        held_per_call: 1 << 20,
        duration: Duration::from_secs(15),
        origin: Origin::Default,
    };
}

impl Bounds {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            start: Instant::now(),
            in_flight: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            cut: AtomicU64::new(0),
        })
    }

    /// Milliseconds that only grow.
    fn clock(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether a mirror is to be left alone, as it could not be reached a moment ago.
    pub(super) fn rests(&self, until: &AtomicU64) -> bool {
        let rests = until.load(Relaxed) > self.clock();
        if rests {
            self.skipped.fetch_add(1, Relaxed);
        }
        rests
    }

    /// Leaves a mirror alone for a moment: what cannot be sent costs as much as what can.
    pub(super) fn rest(&self, until: &AtomicU64) {
        const MOMENT: u64 = 100;
        until.store(self.clock().saturating_add(MOMENT), Relaxed);
    }

    /// `None`: there are as many copies in flight as there may be.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Permit> {
        let before = self.in_flight.fetch_add(1, Relaxed);
        let permit = Permit(self.clone());
        let counter = if before < self.limits.in_flight { &self.sent } else { &self.skipped };
        counter.fetch_add(1, Relaxed);
        (before < self.limits.in_flight).then_some(permit)
    }

    /// When a copy must have ended: with its call, and never later than any may.
    pub(super) fn deadline(&self, call: Option<&Call>) -> Instant {
        let longest = Instant::now() + self.limits.duration;
        call.and_then(|call| call.deadline).map_or(longest, |deadline| deadline.min(longest))
    }

    /// Whether so many bytes more may be held.
    pub(super) fn hold(&self, bytes: usize) -> bool {
        let before = self.held.fetch_add(bytes, Relaxed);
        let fits = before.saturating_add(bytes) <= self.limits.held;
        if !fits {
            self.release(bytes);
        }
        fits
    }

    pub(super) fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Relaxed);
    }

    pub(super) fn cut(&self) {
        self.cut.fetch_add(1, Relaxed);
    }

    pub(super) fn counts(&self) -> MirrorCounts {
        MirrorCounts {
            sent: self.sent.load(Relaxed),
            skipped: self.skipped.load(Relaxed),
            cut: self.cut.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            held: self.held.load(Relaxed),
        }
    }
}

/// A copy in flight.
#[derive(Debug)]
pub(super) struct Permit(Arc<Bounds>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

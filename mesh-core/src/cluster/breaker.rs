//! A counter with a limit: how many attempts are in flight to a cluster (A32).

use std::sync::Arc;

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Counts the attempts in flight to one cluster; the limit comes with each, as configurations change.
#[derive(Debug, Default)]
pub(super) struct CircuitBreaker {
    in_flight: AtomicU32,
    refused: AtomicU64,
}

/// One attempt in flight, until this is dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<CircuitBreaker>);

impl CircuitBreaker {
    /// Takes one in, unless `max` are in flight.
    pub(super) fn acquire(self: &Arc<Self>, max: u32) -> Option<Permit> {
        // Never above the limit, not even for a moment: that would refuse another which has a place.
        let room = |in_flight| (in_flight < max).then_some(in_flight + 1);
        match self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room) {
            Ok(_) => Some(Permit(self.clone())),
            Err(_) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How many were refused so far.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_may_change_while_attempts_are_in_flight() {
        let breaker = Arc::<CircuitBreaker>::default();
        assert!(breaker.acquire(0).is_none());
        let (first, second) = (breaker.acquire(2), breaker.acquire(2));
        assert!(first.is_some() && second.is_some() && breaker.acquire(2).is_none());
        assert!(breaker.acquire(1).is_none(), "fewer are allowed now than are in flight");
        drop(first);
        assert!(breaker.acquire(1).is_none() && breaker.acquire(u32::MAX).is_some());
        drop(second);
        assert_eq!((breaker.in_flight(), breaker.refused()), (0, 4));
    }

    #[test]
    fn threads_never_exceed_the_limit_and_leave_nothing_behind() {
        const LIMIT: u32 = 3;
        const TRIES: u64 = 20_000;
        let breaker = Arc::<CircuitBreaker>::default();
        let inside = AtomicU32::new(0);
        let admitted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..TRIES {
                        let Some(_permit) = breaker.acquire(LIMIT) else { continue };
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < LIMIT);
                        admitted.fetch_add(1, Ordering::Relaxed);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(breaker.in_flight(), 0);
        assert_eq!(admitted.into_inner() + breaker.refused(), 8 * TRIES);
    }
}

//! Round robin: each endpoint in turn, from a random start, so that many clients do not begin with the same one.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Choice, Member, PickRequest, Policy};

/// The turn. On cache lines of its own: it is written by every call, what lies beside it is only read.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct RoundRobin(AtomicUsize);

impl RoundRobin {
    pub(super) fn new(random: usize) -> Self {
        Self(AtomicUsize::new(random))
    }

    fn next(&self, len: usize) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed) % len
    }
}

impl Policy for RoundRobin {
    fn pick(&self, members: &[Member], _: &PickRequest<'_>) -> Choice {
        Choice::Endpoint(self.next(members.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_gets_its_turn() {
        let round_robin = RoundRobin::new(usize::MAX / 3);
        let mut counts = [0; 7];
        (0..700).for_each(|_| counts[round_robin.next(7)] += 1);
        assert_eq!(counts, [100; 7]);
    }
}

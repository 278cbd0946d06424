//! Least request (A48): of a few endpoints chosen at random, the one with the fewest calls in flight.

use super::{Choice, Member, PickRequest, Policy};

#[derive(Debug)]
pub(super) struct LeastRequest {
    choices: u32,
}

impl LeastRequest {
    /// Draws so many endpoints; at least 1.
    pub(super) fn new(choices: u32) -> Self {
        Self { choices }
    }
}

impl Policy for LeastRequest {
    fn pick(&self, members: &[Member], _: &PickRequest<'_>) -> Choice {
        Choice::Endpoint(pick(members.len(), self.choices, |index| members[index].stats.in_flight()))
    }
}

/// An index below `len`, which is not 0. As A48 has it, the same endpoint may be drawn more than once, and the first of
/// equals wins.
fn pick(len: usize, choices: u32, load: impl Fn(usize) -> u32) -> usize {
    let mut best = fastrand::usize(..len);
    let mut least = load(best);
    for _ in 1..choices {
        let other = fastrand::usize(..len);
        let more = load(other);
        if more < least {
            (best, least) = (other, more);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_endpoints_are_drawn_only_against_themselves() {
        let mut busy = 0;
        for _ in 0..10_000 {
            let picked = pick(10, 2, |index| if index == 3 { 50 } else { 1 });
            busy += u32::from(picked == 3);
        }
        // Expected: 1 in 100, when both draws hit it.
        assert!((50..200).contains(&busy), "{busy}");
    }

    #[test]
    fn one_endpoint_takes_all() {
        assert_eq!(pick(1, 10, |_| 7), 0);
    }
}

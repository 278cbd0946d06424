//! Groups of endpoints without connections.

use super::{Candidate, Member};
use crate::connect::ConnectivityState;
use crate::connect::testing::stats;

/// Candidates by key and weight, all of one locality.
pub(super) fn candidates<'a>(keys: &[(&'a str, u32)]) -> Vec<Candidate<'a>> {
    let keys = (0..).zip(keys);
    let candidate = |(index, (key, weight)): (u32, &(&'a str, u32))| Candidate {
        index,
        key: (*key).into(),
        weight: *weight,
        locality: 0,
        locality_weight: 1,
    };
    keys.map(candidate).collect()
}

/// Members in these states, each of weight 1 at an address of its own.
pub(super) fn members(states: &[ConnectivityState]) -> Vec<Member> {
    (1..).zip(states).map(|(number, state)| Member { stats: stats(number), weight: 1, state: *state }).collect()
}

/// So many members, all READY.
pub(super) fn ready(count: usize) -> Vec<Member> {
    members(&vec![ConnectivityState::Ready; count])
}

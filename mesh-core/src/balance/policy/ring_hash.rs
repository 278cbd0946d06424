//! Ring hash (A42, A61, A76): the same hash is served by the same endpoint, and when endpoints come or go, few hashes move.
//!
//! Each endpoint has entries on a ring of 64-bit numbers, in proportion to its weight; a call goes to the owner of the
//! first entry from its hash on. The ring is the one of gRPC C-core, entry by entry, so that clients in both choose the
//! same endpoint; Envoy's is the same as long as it has no more than 4,096 entries and the localities weigh alike.

use std::fmt::Write as _;
use std::sync::Arc;

use super::{Candidate, Choice, Member, PickRequest, Policy, is_dead, walk};
use crate::resource::cluster::RingHash as Config;
use crate::resource::hash_policy::xxh64;

/// Rings are not larger than this, whatever the configuration allows (A42).
const MAX_SIZE: u64 = 4096;

/// The entries, by their hash; beside each the candidate that owns it. Apart, so that the search touches hashes only.
#[derive(Debug)]
pub(crate) struct Ring {
    hashes: Box<[u64]>,
    owners: Box<[u32]>,
}

impl Ring {
    pub(super) fn new(config: &Config, candidates: &[Candidate<'_>]) -> Self {
        let mut entries = entries(config, candidates);
        entries.sort_unstable();
        let (hashes, owners): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
        Self { hashes: hashes.into(), owners: owners.into() }
    }

    /// The owners of the entries from `hash` on, once around.
    fn from(&self, hash: u64) -> impl Iterator<Item = usize> {
        let first = self.hashes.partition_point(|entry| *entry < hash);
        let (before, after) = self.owners.split_at(first);
        after.iter().chain(before).map(|owner| *owner as usize)
    }
}

/// As many entries for each candidate as its share of the ring: the size is such that the lightest gets a whole number,
/// and what the others have beyond whole numbers adds up over them.
fn entries(config: &Config, candidates: &[Candidate<'_>]) -> Vec<(u64, u32)> {
    let weight = |candidate: &Candidate<'_>| u64::from(candidate.weight) * u64::from(candidate.locality_weight);
    let sum: u128 = candidates.iter().map(|candidate| u128::from(weight(candidate))).sum();
    let share = |candidate: &Candidate<'_>| weight(candidate) as f64 / sum as f64;
    let lightest = candidates.iter().map(share).fold(1.0, f64::min);
    let (min, max) = (config.min_size.min(MAX_SIZE), config.max_size.min(MAX_SIZE));
    let size = ((lightest * min as f64).ceil() / lightest).min(max as f64);
    let mut entries = Vec::with_capacity(size.ceil() as usize);
    let (mut made, mut wanted) = (0.0, 0.0);
    let mut text = String::new();
    for candidate in candidates {
        wanted += size * share(candidate);
        for number in 0.. {
            if made >= wanted {
                break;
            }
            text.clear();
            // Writing to a string cannot fail.
            let _ = write!(text, "{}_{number}", candidate.key);
            entries.push((xxh64(text.as_bytes()), candidate.index));
            made += 1.0;
        }
    }
    entries
}

/// The ring at work.
pub(super) struct RingHash {
    ring: Arc<Ring>,
    /// A call without a hash takes any READY endpoint rather than wait for one: its header is missing (A76).
    random_is_impatient: bool,
    dead: bool,
}

impl RingHash {
    pub(super) fn new(config: &Config, ring: &Arc<Ring>, members: &[Member]) -> Self {
        Self { ring: ring.clone(), random_is_impatient: config.header.is_some(), dead: is_dead(members) }
    }
}

impl Policy for RingHash {
    fn pick(&self, members: &[Member], request: &PickRequest<'_>) -> Choice {
        if self.dead {
            return Choice::Fail;
        }
        let hash = request.hash.unwrap_or_else(|| fastrand::u64(..));
        let patient = request.hash.is_some() || !self.random_is_impatient;
        walk(self.ring.from(hash), members, request.avoid, patient)
    }

    fn is_sticky(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::balance::policy::testing::{candidates, members};
    use crate::connect::ConnectivityState::{Connecting, Ready, TransientFailure};
    use crate::resource::matcher::header::HeaderSource;

    fn config(min_size: u64, max_size: u64) -> Config {
        Config { min_size, max_size, header: None }
    }

    fn ring(min_size: u64, keys: &[(&str, u32)]) -> Ring {
        Ring::new(&config(min_size, MAX_SIZE), &candidates(keys))
    }

    fn owner(ring: &Ring, hash: u64) -> usize {
        ring.from(hash).next().unwrap()
    }

    /// The model: the entry with the least hash that is not below, looked for one by one.
    fn model(keys: &[(&str, u32)], entries_each: &[u32], hash: u64) -> usize {
        let mut all: Vec<(u64, usize)> = Vec::new();
        for (index, (key, _)) in keys.iter().enumerate() {
            all.extend((0..entries_each[index]).map(|number| (xxh64(format!("{key}_{number}").as_bytes()), index)));
        }
        let from = all.iter().filter(|(entry, _)| *entry >= hash).min();
        from.or(all.iter().min()).unwrap().1
    }

    #[test]
    fn equal_weights_have_equal_entries_in_a_ring_of_at_least_the_minimum() {
        for (endpoints, min, expected) in [(1, 1024, 1024), (3, 1024, 342), (10, 1024, 103), (2000, 1024, 1), (3, 1, 1)]
        {
            let keys: Vec<String> = (0..endpoints).map(|number| format!("10.0.0.1:{number}")).collect();
            let keys: Vec<(&str, u32)> = keys.iter().map(|key| (key.as_str(), 1)).collect();
            let ring = ring(min, &keys);
            let mut counts = BTreeMap::<u32, u32>::new();
            ring.owners.iter().for_each(|owner| *counts.entry(*owner).or_default() += 1);
            assert_eq!(counts.len(), endpoints);
            assert!(counts.values().all(|count| *count == expected), "{endpoints} of {min}: {counts:?}");
        }
    }

    #[test]
    fn weights_are_shares_of_the_ring_and_the_lightest_has_a_whole_number() {
        let ring = ring(10, &[("a", 1), ("b", 2), ("c", 5)]);
        let count = |owner| ring.owners.iter().filter(|other| **other == owner).count();
        // 10 / 8 entries for the lightest are 2: the ring has 16.
        assert_eq!([0, 1, 2].map(count), [2, 4, 10]);
    }

    #[test]
    fn a_ring_is_never_larger_than_its_cap() {
        let heavy = ring(1 << 23, &[("a", 1), ("b", u32::MAX)]);
        assert_eq!(heavy.owners.len(), 4096);
        let small = Ring::new(&config(4, 4), &candidates(&[("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1)]));
        assert_eq!(small.owners.len(), 4, "some have no entry");
    }

    #[test]
    fn the_walk_takes_ready_waits_for_connecting_and_passes_failed_endpoints() {
        let keys = [("a", 1), ("b", 1), ("c", 1)];
        let ring = Arc::new(ring(1024, &keys));
        let order = |hash| {
            let mut seen = Vec::new();
            ring.from(hash).for_each(|owner| {
                if !seen.contains(&owner) {
                    seen.push(owner)
                }
            });
            seen
        };
        for hash in [0, 1 << 60, u64::MAX] {
            let order = order(hash);
            let pick = |states: [_; 3], header: bool, with_hash: bool| {
                let mut by_owner = states;
                order.iter().zip(states).for_each(|(owner, state)| by_owner[*owner] = state);
                let members = members(&by_owner);
                let config = Config { header: header.then(|| HeaderSource::of("user").unwrap()), ..config(1024, 4096) };
                let request = PickRequest { hash: with_hash.then_some(hash), ..PickRequest::default() };
                RingHash::new(&config, &ring, &members).pick(&members, &request)
            };
            assert_eq!(pick([Ready, Ready, Ready], false, true), Choice::Endpoint(order[0]));
            assert_eq!(pick([Connecting, Ready, Ready], false, true), Choice::Wait);
            assert_eq!(pick([TransientFailure, Ready, Ready], false, true), Choice::Endpoint(order[1]));
            assert_eq!(pick([TransientFailure, Connecting, Ready], false, true), Choice::Wait);
            assert_eq!(pick([TransientFailure, TransientFailure, Ready], false, true), Choice::Endpoint(order[2]));
            assert_eq!(pick([TransientFailure; 3], false, true), Choice::Fail);
            assert_eq!(pick([Connecting, Connecting, Ready], true, false), Choice::Endpoint(order[2]));
            assert_eq!(pick([Connecting, Connecting, TransientFailure], true, false), Choice::Wait);
        }
    }

    #[test]
    fn a_failed_attempt_goes_to_the_next_ready_endpoint_of_the_ring() {
        let ring = Arc::new(ring(1024, &[("a", 1), ("b", 1), ("c", 1)]));
        let members = members(&[Ready; 3]);
        let policy = RingHash::new(&config(1024, 4096), &ring, &members);
        let mut avoid = Vec::new();
        let mut picked = Vec::new();
        for _ in 0..4 {
            let request = PickRequest { avoid: &avoid, hash: Some(7), session: None, now: None };
            let Choice::Endpoint(index) = policy.pick(&members, &request) else { panic!("all are READY") };
            picked.push(index);
            avoid.push(members[index].stats.address.clone());
        }
        assert_eq!(picked[3], picked[0], "all failed: back to the first");
        picked.truncate(3);
        picked.sort_unstable();
        assert_eq!(picked, [0, 1, 2]);
    }

    proptest! {
        #[test]
        fn the_owner_is_the_one_of_a_plain_search(hashes in prop::collection::vec(any::<u64>(), 50), count in 1..20_usize) {
            let keys: Vec<String> = (0..count).map(|number| format!("10.1.{number}.9:80")).collect();
            let keys: Vec<(&str, u32)> = keys.iter().map(|key| (key.as_str(), 3)).collect();
            let ring = ring(128, &keys);
            let each = vec![u32::try_from(128_usize.div_ceil(count)).unwrap(); count];
            for hash in hashes.into_iter().chain(ring.hashes.iter().copied().take(20)).chain([0, u64::MAX]) {
                prop_assert_eq!(owner(&ring, hash), model(&keys, &each, hash));
            }
        }

        #[test]
        fn an_endpoint_that_goes_moves_only_its_own_hashes(hashes in prop::collection::vec(any::<u64>(), 200), gone in 0..16_usize) {
            let keys: Vec<String> = (0..16).map(|number| format!("10.1.{number}.9:80")).collect();
            let all: Vec<(&str, u32)> = keys.iter().map(|key| (key.as_str(), 1)).collect();
            let mut fewer = all.clone();
            fewer.remove(gone);
            // Each has 64 entries, before and after.
            let before = ring(64 * 16, &all);
            let same_size = ring(64 * 15, &fewer);
            for hash in hashes {
                let (old, new) = (owner(&before, hash), owner(&same_size, hash));
                let new = new + usize::from(new >= gone);
                prop_assert!(old == gone || old == new);
            }
        }
    }
}

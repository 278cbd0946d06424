//! Maglev: the same hash is served by the same endpoint, found by one look into a table.
//!
//! gRPC has no such policy; the table is Envoy's, entry by entry, so that Envoy and we choose the same endpoint. Each
//! endpoint has an order of its own of all places; in turn each takes the first of its places that is free, one of half
//! the weight every second turn.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use twox_hash::XxHash64;

use super::{Candidate, Choice, Member, PickRequest, Policy, is_dead, walk};
use crate::resource::cluster::Maglev as Config;

/// The owner of each place: the index of a member.
#[derive(Debug)]
pub(crate) struct Table(Box<[u32]>);

/// An endpoint while the table is filled.
struct Entry {
    owner: u32,
    /// The places in its order are this far apart.
    skip: u64,
    /// The next place in its order.
    place: u64,
    weight: f64,
    /// What `weight`, added up over the turns, must reach before it takes the next place.
    target: f64,
}

impl Table {
    pub(super) fn new(config: &Config, mut candidates: Vec<Candidate<'_>>) -> Self {
        let size = u64::from(config.table_size);
        if candidates.is_empty() {
            return Self(Box::default());
        }
        candidates.sort_by(|one, other| one.key.cmp(&other.key));
        let share = shares(config, &candidates);
        let entry = |candidate: &Candidate<'_>| Entry {
            owner: candidate.index,
            skip: XxHash64::oneshot(1, candidate.key.as_bytes()) % (size - 1) + 1,
            place: XxHash64::oneshot(0, candidate.key.as_bytes()) % size,
            weight: share(candidate),
            target: 0.0,
        };
        let mut entries: Vec<Entry> = candidates.iter().map(entry).collect();
        let heaviest = entries.iter().map(|entry| entry.weight).fold(0.0, f64::max);
        Self(fill(&mut entries, heaviest, size))
    }

    /// The owners of the places from that of `hash` on, once around.
    fn from(&self, hash: u64) -> impl Iterator<Item = usize> {
        let first = usize::try_from(hash % self.0.len().max(1) as u64).unwrap_or(0);
        let (before, after) = self.0.split_at(first);
        after.iter().chain(before).map(|owner| *owner as usize)
    }
}

/// The part of the table that an endpoint is to have: by its weight among all, or, if localities count, among those of its
/// locality, which has its own part.
fn shares(config: &Config, candidates: &[Candidate<'_>]) -> impl Fn(&Candidate<'_>) -> f64 {
    let by_locality = config.locality_weighted;
    let mut sums = BTreeMap::<u32, (u64, u32)>::new();
    for candidate in candidates {
        let locality = if by_locality { candidate.locality } else { 0 };
        let (sum, weight) = sums.entry(locality).or_default();
        *sum += u64::from(candidate.weight);
        *weight = if by_locality { candidate.locality_weight } else { 1 };
    }
    let all: u64 = sums.values().map(|(_, weight)| u64::from(*weight)).sum();
    move |candidate| {
        let (sum, weight) = sums[&if by_locality { candidate.locality } else { 0 }];
        f64::from(candidate.weight) * (f64::from(weight) / all as f64) / sum as f64
    }
}

/// One turn after the other, until every place is taken. In a turn the entries take places in their order; turns in which
/// a light one takes none are not looked at.
fn fill(entries: &mut [Entry], heaviest: f64, size: u64) -> Box<[u32]> {
    const FREE: u32 = u32::MAX;
    let mut table = vec![FREE; usize::try_from(size).unwrap_or(0)];
    let mut due: BinaryHeap<Reverse<(u64, usize)>> = (0..entries.len()).map(|index| Reverse((1, index))).collect();
    for _ in 0..table.len() {
        let Some(Reverse((turn, index))) = due.pop() else { break };
        let entry = &mut entries[index];
        while table[entry.place as usize] != FREE {
            entry.place = (entry.place + entry.skip) % size;
        }
        table[entry.place as usize] = entry.owner;
        entry.place = (entry.place + entry.skip) % size;
        entry.target += heaviest;
        due.push(Reverse((entry.turn_after(turn), index)));
    }
    table.into()
}

impl Entry {
    /// The first turn after this one that makes up for its target.
    fn turn_after(&self, turn: u64) -> u64 {
        let mut next = ((self.target / self.weight) as u64).saturating_sub(1).max(turn + 1);
        while (next as f64) * self.weight < self.target {
            next += 1;
        }
        next
    }
}

/// The table at work.
pub(super) struct Maglev {
    table: Arc<Table>,
    dead: bool,
}

impl Maglev {
    pub(super) fn new(table: &Arc<Table>, members: &[Member]) -> Self {
        Self { table: table.clone(), dead: is_dead(members) }
    }
}

impl Policy for Maglev {
    fn pick(&self, members: &[Member], request: &PickRequest<'_>) -> Choice {
        if self.dead {
            return Choice::Fail;
        }
        walk(self.table.from(request.hash.unwrap_or_else(|| fastrand::u64(..))), members, request.avoid, true)
    }

    fn is_sticky(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::balance::policy::testing::{candidates, members};
    use crate::connect::ConnectivityState::{Connecting, Ready, TransientFailure};

    fn table(table_size: u32, keys: &[(&str, u32)]) -> Table {
        Table::new(&Config { table_size, ..Config::default() }, candidates(keys))
    }

    fn places(table: &Table, owner: u32) -> usize {
        table.0.iter().filter(|other| **other == owner).count()
    }

    /// The same, as the paper writes it: whole permutations, and one turn of the heaviest is one for all of equal weight.
    fn model(size: u64, keys: &[&str]) -> Vec<u32> {
        let mut sorted: Vec<(usize, &str)> = keys.iter().copied().enumerate().collect();
        sorted.sort_by_key(|(_, key)| *key);
        let order = |key: &str| -> Vec<u64> {
            let (offset, skip) =
                (XxHash64::oneshot(0, key.as_bytes()) % size, XxHash64::oneshot(1, key.as_bytes()) % (size - 1) + 1);
            (0..size).map(|number| (offset + number * skip) % size).collect()
        };
        let orders: Vec<(usize, Vec<u64>)> = sorted.into_iter().map(|(index, key)| (index, order(key))).collect();
        let mut table = vec![None; size as usize];
        while table.contains(&None) {
            for (index, order) in &orders {
                if let Some(free) = order.iter().find(|place| table[**place as usize].is_none()) {
                    table[*free as usize] = Some(*index as u32);
                }
            }
        }
        table.into_iter().flatten().collect()
    }

    #[test]
    fn equal_weights_have_equal_places_but_for_one() {
        let table = table(65_537, &[("a", 7), ("b", 7), ("c", 7)]);
        let counts = [0, 1, 2].map(|owner| places(&table, owner));
        assert_eq!(counts.iter().sum::<usize>(), 65_537);
        assert!(counts.iter().all(|count| (21_845..=21_846).contains(count)), "{counts:?}");
    }

    #[test]
    fn weights_are_shares_of_the_places() {
        let table = table(65_537, &[("a", 1), ("b", 2), ("c", 5)]);
        for (owner, share) in [(0, 0.125), (1, 0.25), (2, 0.625)] {
            let places = places(&table, owner) as f64 / 65_537.0;
            assert!((places - share).abs() < 0.001, "{owner}: {places}");
        }
    }

    /// Turn by turn, as Envoy does it.
    fn by_turns(size: u64, keys: &[(&str, u32)]) -> Vec<u32> {
        let config = Config { table_size: size as u32, ..Config::default() };
        let mut candidates = candidates(keys);
        candidates.sort_by(|one, other| one.key.cmp(&other.key));
        let share = shares(&config, &candidates);
        let heaviest = candidates.iter().map(&share).fold(0.0, f64::max);
        let mut table = vec![u32::MAX; size as usize];
        let mut targets = vec![0.0; candidates.len()];
        for turn in 1.. {
            for (candidate, target) in candidates.iter().zip(&mut targets) {
                if f64::from(turn) * share(candidate) < *target {
                    continue;
                }
                *target += heaviest;
                let (offset, skip) =
                    (XxHash64::oneshot(0, candidate.key.as_bytes()), XxHash64::oneshot(1, candidate.key.as_bytes()));
                let order = (0..size).map(|number| (offset % size + number * (skip % (size - 1) + 1)) % size);
                let Some(free) = { order }.find(|place| table[*place as usize] == u32::MAX) else { return table };
                table[free as usize] = candidate.index;
            }
        }
        table
    }

    #[test]
    fn localities_have_their_shares_if_they_count() {
        let mut candidates = candidates(&[("a", 1), ("b", 3), ("c", 8)]);
        for (index, (locality, weight)) in [(0, 30), (0, 30), (1, 10)].into_iter().enumerate() {
            (candidates[index].locality, candidates[index].locality_weight) = (locality, weight);
        }
        for (locality_weighted, expected) in [(true, [0.1875, 0.5625, 0.25]), (false, [1.0 / 12.0, 0.25, 2.0 / 3.0])] {
            let table = Table::new(&Config { locality_weighted, ..Config::default() }, candidates.clone());
            for (owner, share) in (0..).zip(expected) {
                let places = places(&table, owner) as f64 / 65_537.0;
                assert!((places - share).abs() < 0.001, "{owner}: {places}");
            }
        }
    }

    #[test]
    fn an_endpoint_that_fails_is_passed_over_and_one_that_connects_is_waited_for() {
        let table = Arc::new(table(11, &[("a", 1), ("b", 1)]));
        let first = table.from(5).next().unwrap();
        let pick = |own, other| {
            let members = members(&if first == 0 { [own, other] } else { [other, own] });
            Maglev::new(&table, &members).pick(&members, &PickRequest { hash: Some(5), ..PickRequest::default() })
        };
        assert_eq!(pick(Ready, Ready), Choice::Endpoint(first));
        assert_eq!(pick(TransientFailure, Ready), Choice::Endpoint(1 - first));
        assert_eq!(pick(Connecting, Ready), Choice::Wait);
        assert_eq!(pick(TransientFailure, TransientFailure), Choice::Fail);
    }

    #[test]
    fn without_endpoints_there_is_no_table() {
        assert_eq!(table(11, &[]).from(3).next(), None);
    }

    proptest! {
        #[test]
        fn weights_fill_the_table_turn_by_turn(weights in prop::collection::vec(1..40_u32, 1..8)) {
            let keys: Vec<String> = (0..weights.len()).map(|number| format!("10.{number}.0.1:80")).collect();
            let keys: Vec<(&str, u32)> = keys.iter().map(String::as_str).zip(weights).collect();
            prop_assert_eq!(table(101, &keys).0.to_vec(), by_turns(101, &keys));
        }

        #[test]
        fn the_table_is_the_papers(count in 1..12_usize, salt in any::<u16>()) {
            let keys: Vec<String> = (0..count).map(|number| format!("10.{number}.0.{salt}:80")).collect();
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let weighted: Vec<(&str, u32)> = keys.iter().map(|key| (*key, 3)).collect();
            prop_assert_eq!(table(251, &weighted).0.to_vec(), model(251, &keys));
        }

        #[test]
        fn an_endpoint_that_goes_moves_few_other_places(count in 4..20_usize, gone in 0..4_usize) {
            let keys: Vec<String> = (0..count).map(|number| format!("10.{number}.0.1:80")).collect();
            let all: Vec<(&str, u32)> = keys.iter().map(|key| (key.as_str(), 1)).collect();
            let mut fewer = all.clone();
            fewer.remove(gone);
            let (before, after) = (table(2_053, &all), table(2_053, &fewer));
            let kept = before.0.iter().zip(&after.0).filter(|(old, new)| {
                let new = **new as usize + usize::from(**new as usize >= gone);
                **old as usize == gone || **old as usize == new
            });
            // Maglev trades some of the stability of a ring for equal shares.
            prop_assert!(kept.count() > 2_053 * 3 / 4);
        }
    }
}

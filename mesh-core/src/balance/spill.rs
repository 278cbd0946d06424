//! The choice in [`Profile::Envoy`](crate::Profile): calls spill over priorities, each of which has two parts, its healthy
//! endpoints and its degraded ones.
//!
//! An endpoint counts as available while the control plane calls it healthy and it can be connected, or may be soon. A
//! panic disregards what the control plane says, not what the network does: only connected endpoints are picked.

use tokio::time::Instant;

use super::active::{Active, Outlook, aggregate};
use super::load::{Census, FACTOR, Share, distribute, panics};
use super::picker::{Group, Picker, Spread};
use crate::connect::{Connect, ConnectivityState};
use crate::resource::endpoints::{Endpoint, Health, LocalityEndpoints, Priority};

/// A group's share is split among its localities in so many parts of a percent.
const PARTS: u64 = 10_000_000;

/// Which endpoints of a priority belong to a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    Healthy,
    Degraded,
    /// In a panic.
    All,
}

impl Takes {
    pub(super) fn of(self, locality: &LocalityEndpoints) -> impl Iterator<Item = &Endpoint> {
        locality.endpoints.iter().filter(move |endpoint| self.takes(endpoint.health))
    }

    pub(super) fn takes(self, health: Health) -> bool {
        match self {
            Takes::Healthy => health.is_usable(),
            Takes::Degraded => health == Health::Degraded,
            Takes::All => true,
        }
    }
}

/// The place of a priority's healthy part; that of its degraded part is the next one.
fn healthy(priority: usize) -> usize {
    2 * priority
}

impl<C: Connect> Active<C> {
    /// Chooses the parts that take calls, and creates those it needs for that.
    pub(super) fn spill(&mut self, now: Instant) -> Outlook<C> {
        let endpoints = self.config.endpoints.clone();
        let factor = endpoints.overprovisioning.unwrap_or(FACTOR);
        let by_health: Vec<Census> = endpoints.priorities.iter().map(census).collect();
        let panics = panics(&by_health, factor, self.config.cluster.panic_threshold.value);
        if panics != self.panics {
            self.panics = panics;
            self.regather();
        }
        let shares = loop {
            let reachable: Vec<Census> =
                (0..by_health.len()).map(|index| self.reachable(index, by_health[index])).collect();
            let shares = self.by_part(&distribute(&reachable, factor, &self.panics));
            let is_missing = |part: &usize| shares[*part] > 0 && self.members[*part].is_none();
            match (0..shares.len()).find(is_missing) {
                Some(part) => self.create(part, now),
                None => break shares,
            }
        };
        self.priorities.keep(&needed(&shares), now);
        self.outlook_of(&shares)
    }

    /// What of a priority can be connected, or may be soon; what was not tried may be.
    fn reachable(&self, priority: usize, by_health: Census) -> Census {
        let part = healthy(priority);
        let count = |part: usize, takes: Takes| {
            let members = self.members.get(part)?.as_ref()?;
            if members.is_lazy() {
                return (members.state() == ConnectivityState::TransientFailure).then_some(0);
            }
            let placed = members.placed().filter(|placed| takes.takes(placed.health));
            Some(placed.filter(|placed| placed.subchannel.state() != ConnectivityState::TransientFailure).count())
        };
        let panics = self.panics.get(priority).is_some_and(|panics| *panics);
        let degraded = if panics { part } else { part + 1 };
        Census {
            healthy: count(part, Takes::Healthy).unwrap_or(by_health.healthy),
            degraded: count(degraded, Takes::Degraded).unwrap_or(by_health.degraded),
            total: by_health.total,
        }
    }

    /// In a panic all endpoints of the priority are in the part of the healthy ones.
    fn by_part(&self, shares: &[Share]) -> Vec<u32> {
        let parts = |share: &Share| match share.panic {
            true => [share.healthy + share.degraded, 0],
            false => [share.healthy, share.degraded],
        };
        shares.iter().flat_map(parts).collect()
    }

    fn outlook_of(&self, shares: &[u32]) -> Outlook<C> {
        let mut groups = Vec::new();
        let mut states = Vec::new();
        for (share, members) in shares.iter().zip(&self.members) {
            if let (true, Some(members)) = (*share > 0, members) {
                states.push(members.state());
                groups.extend(scaled(*share, members.look()));
            }
        }
        if !states.is_empty() && states.iter().all(|state| *state == ConnectivityState::Idle) {
            return Outlook { picker: Picker::Idle, state: ConnectivityState::Idle };
        }
        let hope = aggregate(states.into_iter()) != ConnectivityState::TransientFailure;
        let spread = Spread::new(groups);
        let state = match hope {
            _ if spread.as_ref().is_some_and(Spread::is_ready) => ConnectivityState::Ready,
            true => ConnectivityState::Connecting,
            false => ConnectivityState::TransientFailure,
        };
        Outlook { picker: Picker::new(spread, hope), state }
    }
}

/// The groups of a part with its share of the calls, split by their weights.
fn scaled<C: Connect>(share: u32, groups: Vec<(u32, Group<C>)>) -> impl Iterator<Item = (u32, Group<C>)> {
    let ready = groups.iter().filter(|(_, group)| group.is_ready()).map(|(weight, _)| u64::from(*weight));
    let sum = ready.sum::<u64>().max(1);
    groups.into_iter().map(move |(weight, group)| {
        let scaled = u64::from(share) * PARTS * u64::from(weight) / sum;
        (u32::try_from(scaled).unwrap_or(u32::MAX).max(1), group)
    })
}

fn census(priority: &Priority) -> Census {
    let endpoints = || priority.localities.iter().flat_map(|locality| &locality.endpoints);
    let count = |takes: Takes| endpoints().filter(|endpoint| takes.takes(endpoint.health)).count();
    Census { healthy: count(Takes::Healthy), degraded: count(Takes::Degraded), total: endpoints().count() }
}

/// Which parts are looked after: those that take calls and, so that it is known when they return, those that go before
/// them: the healthy ones in the order of the priorities, then the degraded ones.
fn needed(shares: &[u32]) -> Vec<bool> {
    let order = || (0..shares.len()).step_by(2).chain((1..shares.len()).step_by(2));
    let last = order().enumerate().filter(|(_, part)| shares[*part] > 0).map(|(rank, _)| rank).last();
    let mut needed = vec![false; shares.len()];
    order().take(last.map_or(0, |last| last + 1)).for_each(|part| needed[part] = true);
    needed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_before_those_that_take_calls_are_looked_after() {
        assert_eq!(needed(&[0, 0, 100, 0, 0, 0]), [true, false, true, false, false, false]);
        assert_eq!(needed(&[10, 90, 0, 0]), [true, true, true, false]);
        assert_eq!(needed(&[0, 0]), [false, false]);
    }
}

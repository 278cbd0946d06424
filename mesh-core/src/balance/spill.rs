//! The choice in [`Profile::Envoy`](crate::Profile): calls spill over priorities, each of which has two parts, its healthy
//! endpoints and its degraded ones.
//!
//! An endpoint counts as available while the control plane calls it healthy, outlier detection has not ejected it, and it
//! can be connected, or may be soon. A panic disregards what the control plane and outlier detection say, not what the
//! network does: only connected endpoints are picked.

use tokio::time::Instant;

use super::active::{Active, Outlook, aggregate};
use super::load::{Census, FACTOR, Share, distribute, panics};
use super::picker::{Group, Picker, Spread};
use super::zones::Zone;
use crate::connect::{Connect, ConnectivityState, Subchannel};
use crate::resource::endpoints::{Endpoint, Health, LocalityEndpoints};

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
        let by_health: Vec<Census> = endpoints
            .priorities
            .iter()
            .map(|priority| Census::of(priority, |address| self.is_ejected(address)))
            .collect();
        let panics = panics(&by_health, factor, self.config.cluster.panic_threshold.value);
        if panics != self.panics {
            self.panics = panics;
            self.regather();
        }
        let (shares, failing) = loop {
            let reachable: Vec<Census> =
                (0..by_health.len()).map(|index| self.reachable(index, by_health[index])).collect();
            let (shares, failing) = self.by_part(&distribute(&reachable, factor, &self.panics));
            let is_missing = |part: &usize| shares[*part] > 0 && self.members[*part].is_none();
            match (0..shares.len()).find(is_missing) {
                Some(part) => self.create(part, now),
                None => break (shares, failing),
            }
        };
        self.priorities.keep(&needed(&shares), now);
        self.admit_ejected();
        self.go_by_zones();
        self.outlook_of(&shares, failing)
    }

    /// Finds how the localities of the first priority share its calls, if those go by zones.
    fn go_by_zones(&mut self) {
        let before = self.zones.is_some();
        self.zones = self.zones();
        if self.zones.is_some() != before {
            // One policy for each locality, or one for all.
            self.regather();
        }
    }

    /// `None`: they do not.
    fn zones(&self) -> Option<Vec<u32>> {
        let (config, local) = self.zone_aware()?;
        if self.panics.first().is_none_or(|panics| *panics) {
            return None;
        }
        let zones: Vec<Zone> = self.members[healthy(0)].as_ref()?.zones(&self.config.endpoints.priorities[0]);
        local.weights(config, &zones, self.config.cluster.panic_threshold.value)
    }

    /// Whether a panic has a priority use all of its endpoints.
    pub(super) fn disregards_health(&self, priority: usize) -> bool {
        self.panics.get(priority).is_some_and(|panics| *panics) && !self.fails_in_panics()
    }

    fn fails_in_panics(&self) -> bool {
        self.config.cluster.balancing.zones.is_some_and(|zones| zones.fail_traffic_on_panic)
    }

    /// Lets ejected endpoints take calls in a panic of their priority, and keeps them from calls otherwise.
    fn admit_ejected(&self) {
        let panicking = (0..self.panics.len()).filter(|priority| self.disregards_health(*priority));
        self.keep_ejected_but_of(panicking.filter_map(|priority| self.members[healthy(priority)].as_ref()));
    }

    /// What of a priority can be connected, or may be soon; what was not tried may be.
    fn reachable(&self, priority: usize, by_health: Census) -> Census {
        let part = healthy(priority);
        let count = |part: usize, takes: Takes| {
            let members = self.members.get(part)?.as_ref()?;
            if members.is_lazy() {
                return (members.state() == ConnectivityState::TransientFailure).then_some(0);
            }
            let is_reachable = |subchannel: &Subchannel<C>| {
                !self.is_ejected(subchannel.address()) && subchannel.state() != ConnectivityState::TransientFailure
            };
            let placed = members.placed().filter(|placed| takes.takes(placed.health));
            Some(placed.filter(|placed| is_reachable(&placed.subchannel)).count())
        };
        let degraded = if self.disregards_health(priority) { part } else { part + 1 };
        Census {
            healthy: count(part, Takes::Healthy).unwrap_or(by_health.healthy),
            degraded: count(degraded, Takes::Degraded).unwrap_or(by_health.degraded),
            total: by_health.total,
        }
    }

    /// What each part gets, and how many calls fail instead. In a panic all endpoints of the priority are in the part of the
    /// healthy ones, unless its calls are to fail then.
    fn by_part(&self, shares: &[Share]) -> (Vec<u32>, u32) {
        let fails = self.fails_in_panics();
        let parts = |share: &Share| match share.panic {
            true if fails => [0, 0],
            true => [share.healthy + share.degraded, 0],
            false => [share.healthy, share.degraded],
        };
        let parts: Vec<u32> = shares.iter().flat_map(parts).collect();
        let all: u32 = shares.iter().map(|share| share.healthy + share.degraded).sum();
        let failing = all - parts.iter().sum::<u32>();
        (parts, failing)
    }

    fn outlook_of(&self, shares: &[u32], failing: u32) -> Outlook<C> {
        let mut groups = Vec::new();
        let mut states = Vec::new();
        for (part, (share, members)) in shares.iter().zip(&self.members).enumerate() {
            if let (true, Some(members)) = (*share > 0, members) {
                states.push(members.state());
                let mut looked = members.look(self.returning());
                if let (true, Some(zones)) = (part == healthy(0), &self.zones) {
                    looked.iter_mut().zip(zones).for_each(|((weight, _), zone)| *weight = *zone);
                }
                groups.extend(scaled(*share, looked));
            }
        }
        if !states.is_empty() && states.iter().all(|state| *state == ConnectivityState::Idle) {
            return Outlook { picker: Picker::Idle, state: ConnectivityState::Idle };
        }
        let hope = aggregate(states.into_iter()) != ConnectivityState::TransientFailure;
        let failing = u64::from(failing) * PARTS;
        let spread = Spread::new(groups).map(|spread| spread.failing(u32::try_from(failing).unwrap_or(u32::MAX)));
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
        // A locality without weight is one that zones pass over: better than none at all, when all others are full.
        (u32::try_from(scaled).unwrap_or(u32::MAX).max(weight.min(1)), group)
    })
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

//! The groups of a cluster that is balanced by pick first: which of their endpoints have a subchannel.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::time::Instant;

use super::Active;
use super::members::Members;
use crate::balance::policy::{PickFirst, order};
use crate::balance::spill::Takes;
use crate::connect::{Connect, ConnectivityState, Subchannel};
use crate::resource::cluster::EndpointPolicy;
use crate::resource::endpoints::{Address, LocalityEndpoints, Priority};

impl<C: Connect> Active<C> {
    /// The machines of a part's groups; none if its policy is another.
    pub(super) fn firsts(
        &self,
        priority: &Priority,
        takes: Takes,
        subset: Option<&HashSet<&Address>>,
        old: Option<&mut Members<C>>,
    ) -> Vec<PickFirst> {
        let shuffle = match self.config.cluster.balancing.policy {
            EndpointPolicy::PickFirst { shuffle } if self.own.is_none() => shuffle,
            _ => return Vec::new(),
        };
        let by_locality = self.config.cluster.balancing.by_locality;
        let size = if by_locality { 1 } else { priority.localities.len().max(1) };
        let mut old: HashMap<_, _> = old.into_iter().flat_map(|old| old.take_firsts(by_locality)).collect();
        let (salt, now) = (shuffle.then_some(self.salt), Instant::now());
        let first = |group: &[LocalityEndpoints]| {
            let order = order(weighed(group, takes, subset), salt);
            let key = by_locality.then(|| group[0].locality.clone());
            match old.remove(&key) {
                Some(mut known) => {
                    known.handle_update(order, now);
                    known
                }
                None => PickFirst::new(order, self.environment.backoff.initial, now),
            }
        };
        priority.localities.chunks(size).map(first).collect()
    }

    /// Lets the groups go on to other endpoints, as far as it is time for that.
    pub(super) fn advance(&mut self, now: Instant) {
        let Self { members, subchannels, .. } = self;
        let mut changed = false;
        for members in members.iter_mut().flatten() {
            let alone = members.firsts.len() == 1;
            for first in &mut members.firsts {
                changed |= first.handle_states(now, |address| state(subchannels, address));
                // Among others that take calls no call would wake it.
                changed |= !alone && first.exit_idle(now);
            }
        }
        if changed {
            self.regather();
        }
    }

    /// A call is there: groups that are idle connect. Whether there was one.
    pub(crate) fn exit_idle(&mut self, now: Instant) -> bool {
        let firsts = self.members.iter_mut().flatten().flat_map(|members| &mut members.firsts);
        let changed = firsts.fold(false, |changed, first| first.exit_idle(now) | changed);
        if changed {
            self.regather();
        }
        changed
    }

    /// When [`advance`](Self::advance) has something to do though nothing happened.
    pub(super) fn next_turn(&self) -> Option<Instant> {
        let firsts = self.members.iter().flatten().flat_map(|members| &members.firsts);
        firsts.filter_map(PickFirst::next_turn).min()
    }
}

fn state<C: Connect>(subchannels: &HashMap<Address, Arc<Subchannel<C>>>, address: &Address) -> ConnectivityState {
    subchannels.get(address).map_or(ConnectivityState::Idle, |subchannel| subchannel.state())
}

/// The endpoints of a group with their shares of its weight: the locality's, and the endpoint's in it (A113).
fn weighed<'e>(
    group: &'e [LocalityEndpoints],
    takes: Takes,
    subset: Option<&HashSet<&'e Address>>,
) -> impl Iterator<Item = (&'e Address, f64)> {
    let used = move |address: &Address| subset.is_none_or(|subset| subset.contains(address));
    group.iter().flat_map(move |locality| {
        let sum: f64 = takes.of(locality).map(|endpoint| f64::from(endpoint.weight)).sum();
        let share = f64::from(locality.weight) / sum;
        let endpoints = takes.of(locality).filter(move |endpoint| used(&endpoint.address));
        endpoints.map(move |endpoint| (&endpoint.address, share * f64::from(endpoint.weight)))
    })
}

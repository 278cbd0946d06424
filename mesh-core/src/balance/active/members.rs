//! The usable endpoints of a part, by locality: what they are taken together, and what policies make of them.

use std::borrow::Cow;
use std::sync::Arc;

use crate::balance::picker::{Group, Spread};
use crate::balance::policy::{Candidate, Member, PickFirst, Plan};
use crate::balance::zones::{Counted, Zone};
use crate::connect::{Connect, Connections, ConnectivityState, Subchannel};
use crate::resource::cluster::EndpointPolicy;
use crate::resource::endpoints::{Health, Locality as LocalityId, LocalityEndpoints, Priority};
use crate::resource::slow_start::SlowStart;

/// The usable endpoints of one part.
pub(in crate::balance) struct Members<C: Connect> {
    pub(super) policy: EndpointPolicy,
    pub(super) localities: Vec<Locality<C>>,
    /// Of each group, which is a locality or all of them.
    pub(super) plans: Vec<Plan>,
    /// Of each group that is balanced by pick first.
    pub(super) firsts: Vec<PickFirst>,
}

/// The usable endpoints of one locality.
pub(super) struct Locality<C: Connect> {
    pub(super) id: Arc<LocalityId>,
    pub(super) weight: u32,
    pub(super) endpoints: Vec<Placed<C>>,
}

/// One endpoint and what it is in its locality.
pub(in crate::balance) struct Placed<C: Connect> {
    pub(in crate::balance) subchannel: Arc<Subchannel<C>>,
    pub(in crate::balance) health: Health,
    pub(super) weight: u32,
    pub(super) hash_key: Option<Arc<str>>,
}

impl<C: Connect> Members<C> {
    pub(in crate::balance) fn placed(&self) -> impl Iterator<Item = &Placed<C>> {
        self.localities.iter().flat_map(|locality| &locality.endpoints)
    }

    /// How the localities of the priority can take calls at the moment.
    pub(in crate::balance) fn zones(&self, priority: &Priority) -> Vec<Zone> {
        let is_reachable = |placed: &&Placed<C>| placed.subchannel.state() != ConnectivityState::TransientFailure;
        let zone = |(locality, described): (&Locality<C>, &LocalityEndpoints)| {
            let counted = |endpoints: &[&Placed<C>]| Counted {
                number: endpoints.len() as u64,
                weight: endpoints.iter().map(|placed| u64::from(placed.weight)).sum(),
            };
            let reachable: Vec<_> = locality.endpoints.iter().filter(is_reachable).collect();
            let is_ready = |placed: &&&Placed<C>| placed.subchannel.state() == ConnectivityState::Ready;
            let ready: Vec<_> = reachable.iter().filter(is_ready).copied().collect();
            Zone {
                locality: locality.id.clone(),
                total: described.endpoints.len() as u64,
                healthy: counted(&reachable),
                ready: counted(&ready),
            }
        };
        self.localities.iter().zip(&priority.localities).map(zone).collect()
    }

    pub(super) fn subchannels(&self) -> impl Iterator<Item = &Arc<Subchannel<C>>> {
        self.placed().map(|endpoint| &endpoint.subchannel)
    }

    /// That of all its endpoints taken together.
    pub(in crate::balance) fn state(&self) -> ConnectivityState {
        match &self.firsts[..] {
            [] => aggregate(self.subchannels().map(|subchannel| subchannel.state())),
            [first] => first.state(),
            firsts => aggregate(firsts.iter().map(PickFirst::state)),
        }
    }

    /// Whether nothing is connected until a call comes.
    pub(in crate::balance) fn is_idle(&self) -> bool {
        !self.firsts.is_empty() && self.firsts.iter().all(|first| first.state() == ConnectivityState::Idle)
    }

    /// Whether only some of the endpoints are ever connected.
    pub(in crate::balance) fn is_lazy(&self) -> bool {
        !self.firsts.is_empty()
    }

    /// The machines of its groups, by what tells the groups apart.
    pub(super) fn take_firsts(&mut self, by_locality: bool) -> Vec<(Option<Arc<LocalityId>>, PickFirst)> {
        let keys = self.localities.iter().map(|locality| by_locality.then(|| locality.id.clone()));
        keys.zip(std::mem::take(&mut self.firsts)).collect()
    }

    /// The localities of each group, and what its policy made of them.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&[Locality<C>], &Plan)> {
        let size = self.localities.len() / self.plans.len().max(1);
        self.localities.chunks(size.max(1)).zip(&self.plans)
    }

    /// The endpoints as they are now; `None` if there is none that the policy could choose.
    pub(super) fn spread(&self, returning: Option<SlowStart>) -> Option<Spread<C>> {
        Spread::new(self.look(returning))
    }

    /// Of each group its weight, and the endpoints as they are now.
    pub(in crate::balance) fn look(&self, returning: Option<SlowStart>) -> Vec<(u32, Group<C>)> {
        let group =
            |(localities, plan): (&[Locality<C>], &Plan)| (localities[0].weight, group(plan, returning, localities));
        self.groups().map(group).collect()
    }
}

/// Whether a policy would make the same of both groups.
pub(super) fn is_same<C: Connect>(one: &[Locality<C>], other: &[Locality<C>]) -> bool {
    let same_endpoint = |(one, other): (&Placed<C>, &Placed<C>)| {
        one.subchannel.address() == other.subchannel.address()
            && one.weight == other.weight
            && one.hash_key == other.hash_key
    };
    let same_locality = |(one, other): (&Locality<C>, &Locality<C>)| {
        one.id == other.id
            && one.weight == other.weight
            && one.endpoints.len() == other.endpoints.len()
            && one.endpoints.iter().zip(&other.endpoints).all(same_endpoint)
    };
    one.len() == other.len() && one.iter().zip(other).all(same_locality)
}

/// The endpoints of a group, by locality as gRPC C-core sorts them, and in each as the control plane does.
pub(super) fn candidates<C: Connect>(group: &[Locality<C>]) -> Vec<Candidate<'_>> {
    let mut first = 0;
    let mut numbered: Vec<(&Locality<C>, u32)> = Vec::with_capacity(group.len());
    for locality in group {
        numbered.push((locality, first));
        first += u32::try_from(locality.endpoints.len()).unwrap_or(u32::MAX);
    }
    numbered.sort_by(|(one, _), (other, _)| one.id.cmp(&other.id));
    let mut candidates = Vec::new();
    for (number, (locality, first)) in (0..).zip(numbered) {
        candidates.extend(locality.endpoints.iter().zip(first..).map(|(endpoint, index)| Candidate {
            index,
            key: endpoint.hash_key(),
            weight: endpoint.weight,
            locality: number,
            locality_weight: locality.weight,
        }));
    }
    candidates
}

fn group<C: Connect>(plan: &Plan, returning: Option<SlowStart>, localities: &[Locality<C>]) -> Group<C> {
    let endpoints = localities.iter().flat_map(|locality| &locality.endpoints).map(Placed::look);
    let wants_all = plan.wants_all();
    let wanted = endpoints.filter(|(member, _)| wants_all || member.state == ConnectivityState::Ready);
    Group::new(plan, returning, wanted)
}

impl<C: Connect> Placed<C> {
    /// What stands for it where hashes are compared.
    fn hash_key(&self) -> Cow<'_, str> {
        match &self.hash_key {
            Some(key) => Cow::Borrowed(key),
            None => Cow::Owned(self.subchannel.address().to_string()),
        }
    }

    fn look(&self) -> (Member, Connections<C::Connection>) {
        let connections = self.subchannel.connections();
        let state = match connections.is_empty() {
            true => self.subchannel.state(),
            false => ConnectivityState::Ready,
        };
        (Member { stats: self.subchannel.stats.clone(), weight: self.weight, state }, connections)
    }
}

/// The state of several endpoints taken together (gRPC's `round_robin`): as good as the best of them.
pub(in crate::balance) fn aggregate(states: impl Iterator<Item = ConnectivityState>) -> ConnectivityState {
    let mut best = ConnectivityState::TransientFailure;
    for state in states {
        match state {
            ConnectivityState::Ready => return ConnectivityState::Ready,
            ConnectivityState::Connecting | ConnectivityState::Idle => best = ConnectivityState::Connecting,
            _ => {}
        }
    }
    best
}

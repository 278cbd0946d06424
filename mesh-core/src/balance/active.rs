//! The endpoints of a cluster in use: which have a subchannel, what they are taken together, and the picker they give.

mod ejections;
mod pick_first;
mod sessions;

use std::borrow::Cow;
use std::cell::LazyCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use self::ejections::Ejected;
use self::ejections::Ejections;
pub(super) use self::ejections::outlier_policy;
use super::options::BalanceOptions;
use super::picker::{Group, Picker, Spread};
use super::policy::{Candidate, Member, OwnPolicy, PickFirst, Plan};
use super::priority::{Choice, Priorities};
use super::spill::Takes;
use super::subset;
use crate::connect::{Connect, Connections, ConnectivityState, Environment, Subchannel, SubchannelStatus};
use crate::profile::Profile;
use crate::resource::cluster::{Balancing, EndpointPolicy, Subset};
use crate::resource::endpoints::{Address, Endpoint, Health, Locality as LocalityId, LocalityEndpoints, Priority};
use crate::resource::weighted_round_robin::WeightedRoundRobin;
use crate::snapshot::ClusterConfig;

/// What there is only while the cluster is in use: 10,000 known clusters must stay cheap.
pub(crate) struct Active<C: Connect> {
    pub(crate) environment: Arc<Environment<C>>,
    pub(super) config: ClusterConfig,
    profile: Profile,
    subchannels: HashMap<Address, Arc<Subchannel<C>>>,
    /// The endpoints of each part that was created: of a priority, or in Envoy's profile of its healthy and of its
    /// degraded endpoints.
    pub(super) members: Vec<Option<Members<C>>>,
    pub(super) priorities: Priorities,
    /// In Envoy's profile, the priorities whose health is disregarded.
    pub(super) panics: Vec<bool>,
    stamp: u64,
    /// Makes this client's subset of the endpoints (A68) its own.
    salt: u64,
    /// The application's policy, which goes before the configured one.
    own: Option<OwnPolicy>,
    /// Whether there ever was an endpoint of several addresses.
    may_move: bool,
    /// Whether endpoints were ever asked to report beside their calls.
    may_report: bool,
    ejections: Ejections,
    /// The priority whose endpoints take the calls.
    in_use: Option<usize>,
    /// Endpoints that are connected for sessions alone.
    for_sessions: HashSet<Address>,
}

/// The usable endpoints of one part.
pub(super) struct Members<C: Connect> {
    policy: EndpointPolicy,
    localities: Vec<Locality<C>>,
    /// Of each group, which is a locality or all of them.
    plans: Vec<Plan>,
    /// Of each group that is balanced by pick first.
    firsts: Vec<PickFirst>,
}

/// The usable endpoints of one locality.
struct Locality<C: Connect> {
    id: Arc<LocalityId>,
    weight: u32,
    endpoints: Vec<Placed<C>>,
}

/// One endpoint and what it is in its locality.
pub(super) struct Placed<C: Connect> {
    pub(super) subchannel: Arc<Subchannel<C>>,
    pub(super) health: Health,
    weight: u32,
    hash_key: Option<Arc<str>>,
}

/// What calls do from now on.
pub(crate) struct Outlook<C: Connect> {
    pub(crate) picker: Picker<C>,
    pub(crate) state: ConnectivityState,
}

impl<C: Connect> Active<C> {
    pub(crate) fn new(config: ClusterConfig, environment: Arc<Environment<C>>, options: &BalanceOptions) -> Self {
        let mut active = Self {
            environment,
            config: config.clone(),
            profile: options.profile,
            subchannels: HashMap::new(),
            members: Vec::new(),
            priorities: Priorities::new(options.failover_timeout.value, options.retention),
            panics: Vec::new(),
            stamp: 0,
            salt: fastrand::u64(..),
            own: options.own_policy(&config.cluster.name).cloned(),
            may_move: false,
            may_report: false,
            ejections: Ejections::new(options.outlier_detection.value),
            in_use: None,
            for_sessions: HashSet::new(),
        };
        active.update(config);
        active
    }

    /// Takes in a new configuration. Endpoints that stay keep their connections, wherever they moved.
    pub(crate) fn update(&mut self, config: ClusterConfig) {
        self.config = config;
        let priorities = self.config.endpoints.priorities.len();
        let parts = match self.profile {
            Profile::Grpc => priorities,
            Profile::Envoy => 2 * priorities,
        };
        self.priorities.handle_update(parts);
        self.members.resize_with(parts, || None);
        self.regather();
    }

    /// Takes in again which endpoints the parts have.
    pub(super) fn regather(&mut self) {
        let before = self.stamp;
        self.environment.criteria.weigh_reports(self.reports());
        for part in 0..self.members.len() {
            if let Some(mut old) = self.members[part].take() {
                self.members[part] = Some(self.gather(part, Some(&mut old)));
            }
        }
        self.release(before);
        self.configure_ejections();
    }

    /// How the endpoints' reports of their load are weighed, if the policy in force asks for them.
    fn reports(&self) -> Option<&Arc<WeightedRoundRobin>> {
        self.config.cluster.balancing.policy.reports().filter(|_| self.own.is_none())
    }

    /// How often the policy must be told the time, if it must.
    pub(crate) fn tick_period(&self) -> Option<Duration> {
        self.reports().map(|config| config.weight_update_period)
    }

    /// The priority of a part, and which of its endpoints belong to it.
    fn part(&self, part: usize) -> (usize, Takes) {
        let panics = |priority: usize| self.panics.get(priority).is_some_and(|panics| *panics);
        match (self.profile, part % 2) {
            (Profile::Grpc, _) => (part, Takes::Healthy),
            (Profile::Envoy, 0) if panics(part / 2) => (part / 2, Takes::All),
            (Profile::Envoy, 0) => (part / 2, Takes::Healthy),
            (Profile::Envoy, _) => (part / 2, Takes::Degraded),
        }
    }

    /// The endpoints of a part, and what their policies make of them.
    fn gather(&mut self, part: usize, mut old: Option<&mut Members<C>>) -> Members<C> {
        let (priority, takes) = self.part(part);
        let endpoints = self.config.endpoints.clone();
        let priority = &endpoints.priorities[priority];
        let subset = self.subset(priority, takes);
        let firsts = self.firsts(priority, takes, subset.as_ref(), old.as_deref_mut());
        let old = old.as_deref();
        let localities = if firsts.is_empty() {
            self.place(priority, takes, subset.as_ref(), old)
        } else {
            let wanted = firsts.iter().flat_map(PickFirst::wanted).collect();
            self.place(priority, takes, Some(&wanted), old)
        };
        let Balancing { by_locality, policy, .. } = &self.config.cluster.balancing;
        let size = if *by_locality { 1 } else { localities.len().max(1) };
        let old = old.filter(|old| policy.is_hashing() && old.policy == *policy);
        let plan = |group: &[Locality<C>]| {
            if let Some(own) = &self.own {
                return Plan::Own(own.clone());
            }
            let unchanged = |(other, _): &(&[Locality<C>], &Plan)| is_same(other, group);
            let kept = old.and_then(|old| old.groups().find(unchanged)).map(|(_, plan)| plan.clone());
            kept.unwrap_or_else(|| Plan::new(policy, || candidates(group)))
        };
        let plans = localities.chunks(size).map(plan).collect();
        let period = self.reports().and_then(|config| config.out_of_band());
        self.may_report |= period.is_some();
        if self.may_report {
            let endpoints = localities.iter().flat_map(|locality| &locality.endpoints);
            endpoints.for_each(|endpoint| endpoint.subchannel.report_every(period));
        }
        Members { policy: policy.clone(), localities, plans, firsts }
    }

    /// The subchannels of a priority, or of those of its endpoints that are `used`. Most endpoints are where they were in
    /// `old`, but for those that came or went before them, which spares looking them up.
    fn place(
        &mut self,
        priority: &Priority,
        takes: Takes,
        used: Option<&HashSet<&Address>>,
        old: Option<&Members<C>>,
    ) -> Vec<Locality<C>> {
        let old: Vec<_> = old.into_iter().flat_map(Members::subchannels).collect();
        let mut at = 0;
        let mut localities = Vec::with_capacity(priority.localities.len());
        for locality in &priority.localities {
            self.stamp += 1;
            let mut endpoints = Vec::with_capacity(locality.endpoints.len());
            for endpoint in
                takes.of(locality).filter(|endpoint| used.is_none_or(|used| used.contains(&endpoint.address)))
            {
                let here = |at: &usize| old.get(*at).is_some_and(|old| *old.address() == endpoint.address);
                let subchannel = match [at, at + 1].into_iter().find(here) {
                    Some(found) => {
                        at = found + 1;
                        old[found].clone()
                    }
                    None => self.subchannel(endpoint),
                };
                self.may_move |= endpoint.reached_at.is_some();
                if self.may_move {
                    subchannel.move_to(&endpoint.reached_at);
                }
                // An endpoint listed twice counts once (A48).
                if subchannel.stamp.swap(self.stamp, Ordering::Relaxed) != self.stamp {
                    let hash_key = endpoint.hash_key.clone();
                    let health = endpoint.health;
                    endpoints.push(Placed { subchannel, health, weight: endpoint.weight, hash_key });
                }
            }
            localities.push(Locality { id: locality.locality.clone(), weight: locality.weight, endpoints });
        }
        localities
    }

    /// The endpoints of the priority that are used; `None`: all of them.
    fn subset<'e>(&self, priority: &'e Priority, takes: Takes) -> Option<HashSet<&'e Address>> {
        let addresses = |locality: &'e LocalityEndpoints| takes.of(locality).map(|endpoint| &endpoint.address);
        let localities = priority.localities.iter();
        Some(match self.config.cluster.balancing.subset? {
            Subset::OfPriority(size) => subset::choose(localities.flat_map(addresses), size, self.salt),
            Subset::OfLocality(size) => {
                localities.flat_map(|locality| subset::choose(addresses(locality), size, self.salt)).collect()
            }
        })
    }

    fn subchannel(&mut self, endpoint: &Endpoint) -> Arc<Subchannel<C>> {
        let Endpoint { address, reached_at, .. } = endpoint;
        if let Some(subchannel) = self.subchannels.get(address) {
            return subchannel.clone();
        }
        let subchannel = Subchannel::start(address.clone(), reached_at.clone(), &self.environment);
        self.subchannels.insert(address.clone(), subchannel.clone());
        subchannel
    }

    /// Lets go of the subchannels that were not stamped since. What is draining takes no calls, and keeps its connections
    /// and the calls it has, until it is gone or takes calls again.
    fn release(&mut self, before: u64) {
        let endpoints = self.config.endpoints.clone();
        let draining = LazyCell::new(|| {
            let endpoints = endpoints.priorities.iter().flat_map(|priority| &priority.localities);
            let endpoints = endpoints.flat_map(|locality| &locality.endpoints);
            let draining = endpoints.filter(|endpoint| endpoint.health == Health::Draining);
            draining.map(|endpoint| &endpoint.address).collect::<HashSet<_>>()
        });
        self.keep_for_sessions();
        let Self { subchannels, for_sessions, .. } = self;
        subchannels.retain(|address, subchannel| {
            let used = subchannel.stamp.load(Ordering::Relaxed) > before
                || for_sessions.contains(address)
                || draining.contains(address);
            if !used {
                subchannel.drain();
            }
            used
        });
    }

    /// Chooses who takes the calls, and creates what it needs for that.
    pub(crate) fn choose(&mut self, now: Instant) -> Outlook<C> {
        self.advance(now);
        match self.profile {
            Profile::Grpc => self.choose_priority(now),
            Profile::Envoy => self.spill(now),
        }
    }

    fn choose_priority(&mut self, now: Instant) -> Outlook<C> {
        for priority in self.priorities.created() {
            self.look(priority, now);
        }
        loop {
            match self.priorities.choose(now) {
                Choice::Create(priority) => {
                    self.create(priority, now);
                    self.look(priority, now);
                }
                Choice::Use { priority, hope } => {
                    self.in_use = Some(priority);
                    return self.outlook(priority, hope);
                }
                Choice::None => return Outlook { picker: Picker::Failing, state: ConnectivityState::TransientFailure },
            }
        }
    }

    pub(super) fn create(&mut self, part: usize, now: Instant) {
        self.members[part] = Some(self.gather(part, None));
        self.priorities.handle_created(part, now);
    }

    fn look(&mut self, priority: usize, now: Instant) {
        let state = self.members[priority].as_ref().map_or(ConnectivityState::TransientFailure, Members::state);
        self.priorities.handle_state(priority, state, now);
    }

    fn outlook(&self, priority: usize, hope: bool) -> Outlook<C> {
        let members = self.members[priority].as_ref();
        if members.is_some_and(Members::is_idle) {
            return Outlook { picker: Picker::Idle, state: ConnectivityState::Idle };
        }
        let spread = members.and_then(Members::spread);
        let state = match hope {
            _ if spread.as_ref().is_some_and(Spread::is_ready) => ConnectivityState::Ready,
            true => ConnectivityState::Connecting,
            false => ConnectivityState::TransientFailure,
        };
        Outlook { picker: Picker::new(spread, hope), state }
    }

    /// When [`choose`](Self::choose) must be asked although nothing happened.
    pub(crate) fn next_failover(&self, now: Instant) -> Option<Instant> {
        self.priorities.next_failover(now).into_iter().chain(self.next_turn()).min()
    }

    /// Lets go of priorities that were not needed for long.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.expire_sessions() {
            self.regather();
        }
        if !self.priorities.expire(now) {
            return;
        }
        let before = self.stamp;
        self.stamp += 1;
        for (priority, members) in self.members.iter_mut().enumerate() {
            if !self.priorities.is_created(priority) {
                *members = None;
            }
            for subchannel in members.iter().flat_map(Members::subchannels) {
                subchannel.stamp.store(self.stamp, Ordering::Relaxed);
            }
        }
        self.release(before);
    }

    /// Endpoints that are connected or being connected.
    pub(crate) fn len(&self) -> usize {
        self.subchannels.len()
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.subchannels.values().map(|subchannel| subchannel.stats.in_flight()).sum()
    }

    /// One more connection to an endpoint whose slots are all taken.
    pub(crate) fn expand(&self, address: &Address) {
        let open = || self.subchannels.values().map(|subchannel| subchannel.open()).sum::<usize>();
        let in_all = self.environment.limits.lock().in_all;
        if let Some(subchannel) = self.subchannels.get(address)
            && (in_all == usize::MAX || open() < in_all)
        {
            subchannel.expand();
        }
    }

    pub(crate) fn status(&self, address: &Address) -> Option<(SubchannelStatus, u32, Option<Ejected>)> {
        let subchannel = self.subchannels.get(address)?;
        Some((subchannel.status(), subchannel.stats.in_flight(), self.ejections.of(address)))
    }

    /// Closes every connection now.
    pub(crate) fn close(&self) {
        self.subchannels.values().for_each(|subchannel| subchannel.close());
    }
}

impl<C: Connect> Drop for Active<C> {
    fn drop(&mut self) {
        self.subchannels.values().for_each(|subchannel| subchannel.drain());
    }
}

impl<C: Connect> Members<C> {
    pub(super) fn placed(&self) -> impl Iterator<Item = &Placed<C>> {
        self.localities.iter().flat_map(|locality| &locality.endpoints)
    }

    fn subchannels(&self) -> impl Iterator<Item = &Arc<Subchannel<C>>> {
        self.placed().map(|endpoint| &endpoint.subchannel)
    }

    /// That of all its endpoints taken together.
    pub(super) fn state(&self) -> ConnectivityState {
        match &self.firsts[..] {
            [] => aggregate(self.subchannels().map(|subchannel| subchannel.state())),
            [first] => first.state(),
            firsts => aggregate(firsts.iter().map(PickFirst::state)),
        }
    }

    /// Whether nothing is connected until a call comes.
    pub(super) fn is_idle(&self) -> bool {
        !self.firsts.is_empty() && self.firsts.iter().all(|first| first.state() == ConnectivityState::Idle)
    }

    /// Whether only some of the endpoints are ever connected.
    pub(super) fn is_lazy(&self) -> bool {
        !self.firsts.is_empty()
    }

    /// The machines of its groups, by what tells the groups apart.
    fn take_firsts(&mut self, by_locality: bool) -> Vec<(Option<Arc<LocalityId>>, PickFirst)> {
        let keys = self.localities.iter().map(|locality| by_locality.then(|| locality.id.clone()));
        keys.zip(std::mem::take(&mut self.firsts)).collect()
    }

    /// The localities of each group, and what its policy made of them.
    fn groups(&self) -> impl Iterator<Item = (&[Locality<C>], &Plan)> {
        let size = self.localities.len() / self.plans.len().max(1);
        self.localities.chunks(size.max(1)).zip(&self.plans)
    }

    /// The endpoints as they are now; `None` if there is none that the policy could choose.
    fn spread(&self) -> Option<Spread<C>> {
        Spread::new(self.look())
    }

    /// Of each group its weight, and the endpoints as they are now.
    pub(super) fn look(&self) -> Vec<(u32, Group<C>)> {
        self.groups().map(|(localities, plan)| (localities[0].weight, group(plan, localities))).collect()
    }
}

/// Whether a policy would make the same of both groups.
fn is_same<C: Connect>(one: &[Locality<C>], other: &[Locality<C>]) -> bool {
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
fn candidates<C: Connect>(group: &[Locality<C>]) -> Vec<Candidate<'_>> {
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

fn group<C: Connect>(plan: &Plan, localities: &[Locality<C>]) -> Group<C> {
    let endpoints = localities.iter().flat_map(|locality| &locality.endpoints).map(Placed::look);
    let wants_all = plan.wants_all();
    Group::new(plan, endpoints.filter(|(member, _)| wants_all || member.state == ConnectivityState::Ready))
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
pub(super) fn aggregate(states: impl Iterator<Item = ConnectivityState>) -> ConnectivityState {
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

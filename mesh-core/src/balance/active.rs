//! The endpoints of a cluster in use: which have a subchannel, what they are taken together, and the picker they give.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::options::BalanceOptions;
use super::picker::{Group, Picker, Spread};
use super::policy::{Member, Plan};
use super::priority::{Choice, Priorities};
use crate::connect::{Connect, Connections, ConnectivityState, Environment, Subchannel, SubchannelStatus};
use crate::resource::endpoints::{Address, Priority};
use crate::snapshot::ClusterConfig;

/// What there is only while the cluster is in use: 10,000 known clusters must stay cheap.
pub(crate) struct Active<C: Connect> {
    pub(crate) environment: Arc<Environment<C>>,
    config: ClusterConfig,
    subchannels: HashMap<Address, Arc<Subchannel<C>>>,
    /// The endpoints of each priority that was created.
    members: Vec<Option<Members<C>>>,
    priorities: Priorities,
    stamp: u64,
}

/// The usable endpoints of one priority.
struct Members<C: Connect> {
    localities: Vec<Locality<C>>,
    /// Of each group, which is a locality or all of them.
    plans: Vec<Plan>,
}

/// The usable endpoints of one locality.
struct Locality<C: Connect> {
    weight: u32,
    endpoints: Vec<Placed<C>>,
}

/// One endpoint and what it is in its locality.
struct Placed<C: Connect> {
    subchannel: Arc<Subchannel<C>>,
    weight: u32,
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
            subchannels: HashMap::new(),
            members: Vec::new(),
            priorities: Priorities::new(options.failover_timeout, options.retention),
            stamp: 0,
        };
        active.update(config);
        active
    }

    /// Takes in a new configuration. Endpoints that stay keep their connections, wherever they moved.
    pub(crate) fn update(&mut self, config: ClusterConfig) {
        self.config = config;
        let before = self.stamp;
        let priorities = &self.config.endpoints.clone().priorities;
        self.priorities.handle_update(priorities.len());
        self.members.resize_with(priorities.len(), || None);
        for (index, priority) in priorities.iter().enumerate() {
            if let Some(old) = self.members[index].take() {
                self.members[index] = Some(self.gather(priority, Some(&old)));
            }
        }
        self.release(before);
    }

    /// The endpoints of a priority, and what their policies make of them.
    fn gather(&mut self, priority: &Priority, old: Option<&Members<C>>) -> Members<C> {
        let localities = self.place(priority, old);
        let balancing = &self.config.cluster.balancing;
        let groups = if balancing.by_locality { localities.len() } else { 1 };
        let plans = (0..groups).map(|_| Plan::new(&balancing.policy)).collect();
        Members { localities, plans }
    }

    /// The subchannels of a priority. Most endpoints are where they were in `old`, but for those that came or went before
    /// them, which spares looking them up.
    fn place(&mut self, priority: &Priority, old: Option<&Members<C>>) -> Vec<Locality<C>> {
        let old: Vec<_> = old.into_iter().flat_map(Members::subchannels).collect();
        let mut at = 0;
        let mut localities = Vec::with_capacity(priority.localities.len());
        for locality in &priority.localities {
            self.stamp += 1;
            let mut endpoints = Vec::with_capacity(locality.endpoints.len());
            for endpoint in locality.endpoints.iter().filter(|endpoint| endpoint.health.is_usable()) {
                let here = |at: &usize| old.get(*at).is_some_and(|old| *old.address() == endpoint.address);
                let subchannel = match [at, at + 1].into_iter().find(here) {
                    Some(found) => {
                        at = found + 1;
                        old[found].clone()
                    }
                    None => self.subchannel(&endpoint.address),
                };
                // An endpoint listed twice counts once (A48).
                if subchannel.stamp.swap(self.stamp, Ordering::Relaxed) != self.stamp {
                    endpoints.push(Placed { subchannel, weight: endpoint.weight });
                }
            }
            localities.push(Locality { weight: locality.weight, endpoints });
        }
        localities
    }

    fn subchannel(&mut self, address: &Address) -> Arc<Subchannel<C>> {
        if let Some(subchannel) = self.subchannels.get(address) {
            return subchannel.clone();
        }
        let subchannel = Subchannel::start(address.clone(), &self.environment);
        self.subchannels.insert(address.clone(), subchannel.clone());
        subchannel
    }

    /// Lets go of the subchannels that were not stamped since.
    fn release(&mut self, before: u64) {
        self.subchannels.retain(|_, subchannel| {
            let used = subchannel.stamp.load(Ordering::Relaxed) > before;
            if !used {
                subchannel.drain();
            }
            used
        });
    }

    /// Chooses the priority that takes the calls, and creates those it needs for that.
    pub(crate) fn choose(&mut self, now: Instant) -> Outlook<C> {
        for priority in self.priorities.created() {
            self.look(priority, now);
        }
        loop {
            match self.priorities.choose(now) {
                Choice::Create(priority) => {
                    let endpoints = self.config.endpoints.clone();
                    self.members[priority] = Some(self.gather(&endpoints.priorities[priority], None));
                    self.priorities.handle_created(priority, now);
                    self.look(priority, now);
                }
                Choice::Use { priority, hope } => return self.outlook(priority, hope),
                Choice::None => return Outlook { picker: Picker::Failing, state: ConnectivityState::TransientFailure },
            }
        }
    }

    fn look(&mut self, priority: usize, now: Instant) {
        let subchannels = self.members[priority].iter().flat_map(Members::subchannels);
        let state = aggregate(subchannels.map(|subchannel| subchannel.state()));
        self.priorities.handle_state(priority, state, now);
    }

    fn outlook(&self, priority: usize, hope: bool) -> Outlook<C> {
        let spread = self.members[priority].as_ref().and_then(Members::spread);
        let state = match hope {
            _ if spread.as_ref().is_some_and(Spread::is_ready) => ConnectivityState::Ready,
            true => ConnectivityState::Connecting,
            false => ConnectivityState::TransientFailure,
        };
        let picker = match (spread, hope) {
            (Some(spread), _) => Picker::Choosing(spread),
            (None, true) => Picker::Connecting,
            (None, false) => Picker::Failing,
        };
        Outlook { picker, state }
    }

    /// When [`choose`](Self::choose) must be asked although nothing happened.
    pub(crate) fn next_failover(&self, now: Instant) -> Option<Instant> {
        self.priorities.next_failover(now)
    }

    /// Lets go of priorities that were not needed for long.
    pub(crate) fn expire(&mut self, now: Instant) {
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
        if let Some(subchannel) = self.subchannels.get(address) {
            subchannel.expand();
        }
    }

    pub(crate) fn status(&self, address: &Address) -> Option<(SubchannelStatus, u32)> {
        let subchannel = self.subchannels.get(address)?;
        Some((subchannel.status(), subchannel.stats.in_flight()))
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
    fn subchannels(&self) -> impl Iterator<Item = &Arc<Subchannel<C>>> {
        self.localities.iter().flat_map(|locality| &locality.endpoints).map(|endpoint| &endpoint.subchannel)
    }

    /// The endpoints as they are now; `None` if there is none that the policy could choose.
    fn spread(&self) -> Option<Spread<C>> {
        let groups = match &*self.plans {
            [plan] => vec![(1, group(plan, &self.localities))],
            plans => {
                let localities = plans.iter().zip(self.localities.chunks(1));
                localities.map(|(plan, locality)| (locality[0].weight, group(plan, locality))).collect()
            }
        };
        Spread::new(groups)
    }
}

fn group<C: Connect>(plan: &Plan, localities: &[Locality<C>]) -> Group<C> {
    let endpoints = localities.iter().flat_map(|locality| &locality.endpoints).map(Placed::look);
    let wants_all = plan.wants_all();
    Group::new(plan, endpoints.filter(|(member, _)| wants_all || member.state == ConnectivityState::Ready))
}

impl<C: Connect> Placed<C> {
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
fn aggregate(states: impl Iterator<Item = ConnectivityState>) -> ConnectivityState {
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

//! The endpoints of a cluster in use: which have a subchannel, what they are taken together, and the picker they give.

mod ejections;
mod members;
mod pick_first;
mod place;
mod sessions;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use self::ejections::Ejected;
use self::ejections::Ejections;
pub(super) use self::ejections::{outlier_policy, slow_start};
use self::members::Members;
pub(super) use self::members::aggregate;
use super::options::{BalanceOptions, RETENTION};
use super::picker::{Picker, Spread};
use super::policy::OwnPolicy;
use super::priority::{Choice, Priorities};
use super::zones::LocalCluster;
use crate::connect::{Connect, ConnectivityState, Environment, Subchannel, SubchannelStatus};
use crate::profile::Profile;
use crate::resource::cluster::EndpointPolicy;
use crate::resource::endpoints::Address;
use crate::resource::named_policy::NamedPolicy;
use crate::resource::weighted_round_robin::WeightedRoundRobin;
use crate::snapshot::ClusterConfig;
#[cfg(feature = "tls")]
use crate::tls::SecurityFloor;

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
    local_cluster: Option<Arc<LocalCluster>>,
    /// How the localities of the first priority share its calls, if those go by zones.
    pub(super) zones: Option<Vec<u32>>,
    stamp: u64,
    /// Subchannels of a later stamp belong to a part: of one that is being gathered, to one before it or to itself.
    released: u64,
    /// Makes this client's subset of the endpoints (A68) its own.
    salt: u64,
    /// The application's policy, which goes before the configured one.
    own: Option<OwnPolicy>,
    /// The application's policy that the control plane asks for by its name; it stays as long as its configuration does.
    named: Option<NamedPolicy>,
    /// Whether there ever was an endpoint of several addresses.
    may_move: bool,
    /// Whether there ever was an endpoint with a host name.
    may_be_named: bool,
    /// Whether endpoints were ever asked to report beside their calls.
    may_report: bool,
    ejections: Ejections,
    /// The priority whose endpoints take the calls.
    in_use: Option<usize>,
    /// Endpoints that are connected for sessions alone.
    for_sessions: HashSet<Address>,
    #[cfg(feature = "tls")]
    floor: SecurityFloor,
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
            priorities: Priorities::new(options.failover_timeout.value, RETENTION),
            panics: Vec::new(),
            local_cluster: options.local_cluster.clone(),
            zones: None,
            stamp: 0,
            released: 0,
            salt: fastrand::u64(..),
            own: options.own_policy(&config.cluster.name).cloned(),
            named: None,
            may_move: false,
            may_be_named: false,
            may_report: false,
            ejections: Ejections::new(options),
            in_use: None,
            for_sessions: HashSet::new(),
            #[cfg(feature = "tls")]
            floor: options.floor.clone(),
        };
        active.update(config);
        active
    }

    /// Takes in a new configuration. Endpoints that stay keep their connections, wherever they moved.
    pub(crate) fn update(&mut self, config: ClusterConfig) {
        let before = std::mem::replace(&mut self.config, config);
        if !before.cluster.secures_as(&self.config.cluster) {
            self.forget_secured_otherwise();
        }
        let named = match &self.config.cluster.balancing.policy {
            EndpointPolicy::Named(policy) => Some(policy),
            _ => None,
        };
        if self.named.as_ref() != named {
            self.named = named.cloned();
        }
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
        self.released = before;
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
        let spread = members.and_then(|members| members.spread(self.returning()));
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
        self.released = before;
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

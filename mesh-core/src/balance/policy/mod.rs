//! The policies: which endpoint of a group takes a call.
//!
//! A group is a locality, or a whole priority. What a policy works out from the configuration and the endpoints is its
//! [`Plan`], made anew only when one of them changes; [`Plan::start`] makes of it the [`Policy`] that calls ask, whenever a
//! connection came or went. A policy has a file of its own and its configuration in
//! [`EndpointPolicy`](crate::resource::cluster::EndpointPolicy).

mod least_request;
mod maglev;
mod own;
mod peak_ewma;
mod pick_first;
mod random;
mod ring_hash;
mod round_robin;
mod slow_start;
mod static_stride;
#[cfg(test)]
mod testing;
mod weighted_round_robin;

use std::borrow::Cow;
use std::sync::Arc;

use tokio::time::Instant;

use self::least_request::LeastRequest;
use self::maglev::{Maglev, Table};
pub use self::own::PolicyFactory;
pub(crate) use self::own::{OwnPolicy, make_policy};
pub use self::peak_ewma::PeakEwma;
use self::pick_first::Chosen;
pub(crate) use self::pick_first::{PickFirst, order};
use self::random::Random;
use self::ring_hash::{Ring, RingHash};
use self::round_robin::RoundRobin;
use self::slow_start::{SlowStarting, Who};
use self::weighted_round_robin::WeightedRoundRobin;
use crate::call::Session;
use crate::connect::ConnectivityState::{self, Connecting, Idle, Ready, Shutdown, TransientFailure};
use crate::connect::EndpointStats;
use crate::resource::cluster::{EndpointPolicy, RingHash as RingHashConfig};
use crate::resource::endpoints::Address;
use crate::resource::slow_start::SlowStart;
use crate::resource::weighted_round_robin::WeightedRoundRobin as WeightedRoundRobinConfig;

/// Chooses among the endpoints of a group: a locality, or a whole priority.
///
/// It is asked by every call, from many threads at once: a lock or an allocation would be felt. A policy of your own is
/// started by a [`PolicyFactory`].
pub trait Policy: Send + Sync {
    /// The choice among `members`, which are those that the policy was started with, and are not empty. If the endpoint
    /// has no slot for the call, the policy is asked again a few times, then any other is taken.
    ///
    /// In a slow start, too, the policy is asked again, seven times at most, while what it chooses is not to have its whole
    /// share yet; its last choice then stands. A policy that chooses the same again, as one that goes by
    /// [`hash`](PickRequest::hash) or by the fewest calls of all does, therefore has no slow start: not where the control
    /// plane asks for it, nor after an ejection ([`BalanceOptions::slow_start`](super::BalanceOptions::slow_start)).
    fn pick(&self, members: &[Member], request: &PickRequest<'_>) -> Choice;

    /// Whether a call waits for the endpoint that was chosen for it when that has no slot, rather than going elsewhere.
    /// Such a policy keeps clear of [`PickRequest::avoid`] itself, and has no slow start around it. Default: no.
    fn is_sticky(&self) -> bool {
        false
    }

    /// Whether it judges endpoints by how long their calls take: only then the clock is read for each call.
    #[doc(hidden)]
    fn times_calls(&self) -> bool {
        false
    }

    /// Tells the time, as often as the mesh's own policies ask for it.
    #[doc(hidden)]
    fn handle_tick(&self, _members: &[Member], _now: Instant) {}
}

/// One endpoint of a group, as a policy sees it.
#[derive(Debug)]
pub struct Member {
    pub(crate) stats: Arc<EndpointStats>,
    /// At least 1. Most policies weigh all alike.
    pub(crate) weight: u32,
    /// READY, unless the plan [wants all](Plan::wants_all) endpoints.
    pub(crate) state: ConnectivityState,
}

impl Member {
    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.stats.address
    }

    /// Its `load_balancing_weight`, 1 if it has none.
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// Calls of this process that were sent to it and have not ended.
    pub fn in_flight(&self) -> u32 {
        self.stats.in_flight()
    }
}

/// What a policy may know of a call.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickRequest<'a> {
    /// Endpoints at which attempts of this call failed: any other is better.
    pub(crate) avoid: &'a [Address],
    /// The hash of the request (A42); `None`: nothing asks for one, or the request has nothing to hash.
    pub(crate) hash: Option<u64>,
    /// When the call is made, for a policy that [times calls](Policy::times_calls).
    pub(crate) now: Option<Instant>,
    /// The endpoint that has the call's session goes before what a policy chooses.
    pub(crate) session: Option<&'a Session>,
}

impl PickRequest<'_> {
    /// Endpoints at which attempts of this call failed: any other is better.
    pub fn avoid(&self) -> &[Address] {
        self.avoid
    }

    /// The hash of the request (A42); `None` if there was nothing to hash, or the control plane gave the cluster a policy
    /// without hashes.
    pub fn hash(&self) -> Option<u64> {
        self.hash
    }
}

/// What a policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Choice {
    /// The index of a member that is READY; one beyond the end is taken for the last.
    Endpoint(usize),
    /// The endpoint for this call may be READY soon.
    Wait,
    /// No endpoint is left that could take this call.
    Fail,
}

/// One endpoint of a group, whatever the state of its connections.
#[derive(Clone, Debug)]
pub(crate) struct Candidate<'a> {
    /// Its index among the members of the group.
    pub(crate) index: u32,
    /// What stands for it where hashes are compared: its `hash_key` (A76), or its address.
    pub(crate) key: Cow<'a, str>,
    /// At least 1.
    pub(crate) weight: u32,
    /// Its locality: any number that the others of the locality have, and none else.
    pub(crate) locality: u32,
    /// At least 1.
    pub(crate) locality_weight: u32,
}

/// What a policy made of its configuration and the endpoints of a group, whatever the state of their connections.
#[derive(Clone, Debug)]
pub(crate) enum Plan {
    RoundRobin,
    LeastRequest { choices: u32 },
    Random,
    RingHash(RingHashConfig, Arc<Ring>),
    Maglev(Arc<Table>),
    PickFirst,
    Own(OwnPolicy),
    PeakEwma,
    WeightedRoundRobin(Arc<WeightedRoundRobinConfig>),
    SlowStart { plan: Box<Plan>, slow_start: SlowStart },
}

impl Plan {
    /// Only a policy that [wants all](Self::wants_all) endpoints looks at the candidates; they are sorted by locality.
    pub(crate) fn new<'a>(config: &EndpointPolicy, candidates: impl FnOnce() -> Vec<Candidate<'a>>) -> Self {
        match config {
            EndpointPolicy::RoundRobin => Self::RoundRobin,
            EndpointPolicy::LeastRequest { choices } => Self::LeastRequest { choices: *choices },
            EndpointPolicy::Random => Self::Random,
            EndpointPolicy::RingHash(config) => {
                Self::RingHash(config.clone(), Arc::new(Ring::new(config, &candidates())))
            }
            EndpointPolicy::PickFirst { .. } => Self::PickFirst,
            EndpointPolicy::Named(policy) => Self::Own(OwnPolicy::of(policy)),
            EndpointPolicy::Maglev(config) => Self::Maglev(Arc::new(Table::new(config, candidates()))),
            EndpointPolicy::PeakEwma => Self::PeakEwma,
            EndpointPolicy::WeightedRoundRobin(config) => Self::WeightedRoundRobin(config.clone()),
            EndpointPolicy::SlowStart { policy, slow_start } => {
                Self::SlowStart { plan: Box::new(Self::new(policy, candidates)), slow_start: *slow_start }
            }
        }
    }

    /// That of the application, with the slow start that is configured for the policy in whose place it is.
    pub(crate) fn own(policy: OwnPolicy, slow_start: Option<SlowStart>) -> Self {
        let plan = Self::Own(policy);
        match slow_start {
            Some(slow_start) => Self::SlowStart { plan: Box::new(plan), slow_start },
            None => plan,
        }
    }

    /// Whether the policy must see every endpoint of the group, or only those that are READY.
    pub(crate) fn wants_all(&self) -> bool {
        match self {
            Self::RingHash(..) | Self::Maglev(_) => true,
            Self::SlowStart { plan, .. } => plan.wants_all(),
            _ => false,
        }
    }

    /// Whether endpoints that return are among the new ones, which get their share bit by bit.
    fn starts_slowly(&self) -> bool {
        match self {
            Self::SlowStart { .. } => true,
            Self::WeightedRoundRobin(config) => config.slow_start.is_some(),
            _ => false,
        }
    }

    /// As [`start`](Self::start), where endpoints may be just back from an ejection: those get their share as `returning`
    /// says, unless the plan says it of all that are new.
    pub(crate) fn start_with_returned(&self, members: &[Member], returning: SlowStart) -> Box<dyn Policy> {
        let policy = self.start(members);
        if self.starts_slowly() {
            return policy;
        }
        SlowStarting::around(policy, returning, Who::Returned, members, Instant::now())
    }

    /// The policy among these members: all of the group in the order of their indices, or the READY ones.
    pub(crate) fn start(&self, members: &[Member]) -> Box<dyn Policy> {
        match self {
            Self::RoundRobin => Box::new(RoundRobin::new(fastrand::usize(..))),
            Self::LeastRequest { choices } => Box::new(LeastRequest::new(*choices)),
            Self::Random => Box::new(Random),
            Self::PickFirst => Box::new(Chosen),
            Self::Own(policy) => policy.0.start(members),
            Self::Maglev(table) => Box::new(Maglev::new(table, members)),
            Self::RingHash(config, ring) => Box::new(RingHash::new(config, ring, members)),
            Self::PeakEwma => Box::new(PeakEwma),
            Self::WeightedRoundRobin(config) => {
                Box::new(WeightedRoundRobin::new(config.clone(), members, fastrand::u64(..), Instant::now()))
            }
            Self::SlowStart { plan, slow_start } => {
                SlowStarting::around(plan.start(members), *slow_start, Who::New, members, Instant::now())
            }
        }
    }
}

/// Whether all have failed, so that nobody need look for one that has not.
fn is_dead(members: &[Member]) -> bool {
    let failed = |member: &Member| matches!(member.state, TransientFailure | Shutdown);
    members.iter().all(failed)
}

/// The first endpoint in this order that takes the call (A61): a READY one is taken, one that connects is waited for by
/// the `patient`, one that failed is passed over. Those to avoid are taken when there is no other.
fn walk(order: impl Iterator<Item = usize>, members: &[Member], avoid: &[Address], patient: bool) -> Choice {
    let (mut avoided, mut connecting) = (None, false);
    for index in order {
        let member = &members[index];
        match member.state {
            Ready if avoid.is_empty() || !avoid.contains(&member.stats.address) => return Choice::Endpoint(index),
            Ready => avoided = avoided.or(Some(index)),
            Connecting | Idle if patient && avoided.is_none() => return Choice::Wait,
            Connecting | Idle => connecting = true,
            TransientFailure | Shutdown => {}
        }
    }
    match avoided {
        Some(index) => Choice::Endpoint(index),
        None if connecting => Choice::Wait,
        None => Choice::Fail,
    }
}

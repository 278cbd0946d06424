//! The picker: what calls read of a cluster. Immutable but for counters; replaced whole by the cluster's owner.

use std::sync::Arc;

use super::locality::Weights;
use super::round_robin::RoundRobin;
use super::{least_request, random};
use crate::connect::{Connect, Connection, Connections, EndpointStats, InFlight, Unavailable};
use crate::resource::cluster::EndpointPolicy;
use crate::resource::endpoints::Address;

/// Picks by the policy before all endpoints are looked at: a cluster whose slots are all taken is rare.
const TRIES: usize = 8;

/// What a call to a cluster does at the moment.
pub(crate) enum Picker<C: Connect> {
    /// Nothing is connected, as no call came for long: the call makes the cluster connect, and waits.
    Idle,
    /// No endpoint is ready, but there is hope: the call waits.
    Connecting,
    /// No endpoint is ready and there is no hope: the call fails, unless it wants to wait.
    Failing,
    /// Some endpoints are ready.
    Ready(Spread<C>),
    /// The mesh was shut down.
    Shutdown,
}

/// The READY endpoints of the priority in use.
pub(crate) struct Spread<C: Connect> {
    weights: Weights,
    localities: Box<[Group<C>]>,
}

/// Endpoints among which one policy chooses.
pub(crate) struct Group<C: Connect> {
    policy: Policy,
    endpoints: Box<[Ready<C>]>,
}

/// One READY endpoint.
pub(crate) struct Ready<C: Connect> {
    pub(crate) stats: Arc<EndpointStats>,
    pub(crate) connections: Connections<C::Connection>,
}

enum Policy {
    RoundRobin(RoundRobin),
    LeastRequest { choices: u32 },
    Random,
}

/// A call's endpoint, with the right to one stream on it.
pub(crate) struct Picked<C: Connect> {
    pub(crate) slot: Slot<C>,
    pub(crate) in_flight: InFlight,
}

/// The slot of a connection that `C` makes.
pub(crate) type Slot<C> = <<C as Connect>::Connection as Connection>::Slot;

/// Why no endpoint was picked.
pub(crate) enum Blocked {
    Idle,
    Connecting,
    Failing,
    Shutdown,
    /// Every slot is taken; the endpoint is the one the policy would have chosen.
    Full(Arc<EndpointStats>),
    /// The connections ended a moment ago; a picker without them is on its way.
    Stale,
}

impl<C: Connect> Picker<C> {
    /// Picks an endpoint and takes a slot, if possible at another endpoint than those to `avoid`.
    pub(crate) fn pick(&self, avoid: &[Address]) -> Result<Picked<C>, Blocked> {
        match self {
            Picker::Ready(spread) => spread.pick(avoid),
            Picker::Idle => Err(Blocked::Idle),
            Picker::Connecting => Err(Blocked::Connecting),
            Picker::Failing => Err(Blocked::Failing),
            Picker::Shutdown => Err(Blocked::Shutdown),
        }
    }
}

impl<C: Connect> Spread<C> {
    /// Of each locality its weight and its READY endpoints; `None` if there are none.
    pub(crate) fn new(policy: EndpointPolicy, localities: Vec<(u32, Vec<Ready<C>>)>) -> Option<Self> {
        let (weights, groups): (Vec<u32>, Vec<Group<C>>) = localities
            .into_iter()
            .filter(|(_, endpoints)| !endpoints.is_empty())
            .map(|(weight, endpoints)| (weight, Group::new(policy, endpoints)))
            .unzip();
        let weights = Weights::new(weights.into_iter())?;
        Some(Self { weights, localities: groups.into() })
    }

    fn pick(&self, avoid: &[Address]) -> Result<Picked<C>, Blocked> {
        let first = self.choose();
        if avoid.is_empty()
            && let Ok(picked) = first.take()
        {
            return Ok(picked);
        }
        self.pick_other(first, avoid)
    }

    fn choose(&self) -> &Ready<C> {
        self.localities[self.weights.pick()].choose()
    }

    /// The first choice is full, gone or to be avoided: any other is better than none.
    #[cold]
    fn pick_other(&self, first: &Ready<C>, avoid: &[Address]) -> Result<Picked<C>, Blocked> {
        let allowed = |ready: &&Ready<C>| !avoid.contains(&ready.stats.address);
        let all = || self.localities.iter().flat_map(|group| group.endpoints.iter());
        let chosen = std::iter::once(first).chain((0..TRIES).map(|_| self.choose()));
        let last_resort = (!avoid.is_empty()).then(all).into_iter().flatten();
        let mut full = None;
        for ready in chosen.chain(all()).filter(allowed).chain(last_resort) {
            match ready.take() {
                Ok(picked) => return Ok(picked),
                Err(Unavailable::Full) => full = full.or(Some(&ready.stats)),
                Err(_) => {}
            }
        }
        Err(full.map_or(Blocked::Stale, |stats| Blocked::Full(stats.clone())))
    }
}

impl<C: Connect> Group<C> {
    fn new(policy: EndpointPolicy, endpoints: Vec<Ready<C>>) -> Self {
        let policy = match policy {
            EndpointPolicy::RoundRobin => Policy::RoundRobin(RoundRobin::new(fastrand::usize(..))),
            EndpointPolicy::LeastRequest { choices } => Policy::LeastRequest { choices },
            EndpointPolicy::Random => Policy::Random,
        };
        Self { policy, endpoints: endpoints.into() }
    }

    fn choose(&self) -> &Ready<C> {
        let len = self.endpoints.len();
        let index = match &self.policy {
            Policy::RoundRobin(turn) => turn.pick(len),
            Policy::LeastRequest { choices } => {
                least_request::pick(len, *choices, |index| self.endpoints[index].stats.in_flight())
            }
            Policy::Random => random::pick(len),
        };
        &self.endpoints[index]
    }
}

impl<C: Connect> Ready<C> {
    fn take(&self) -> Result<Picked<C>, Unavailable> {
        let mut refusal = Unavailable::Closed;
        for connection in &self.connections {
            match connection.try_acquire() {
                Ok(slot) => return Ok(Picked { slot, in_flight: InFlight::new(&self.stats) }),
                Err(Unavailable::Full) => refusal = Unavailable::Full,
                Err(_) => {}
            }
        }
        Err(refusal)
    }
}

//! The picker: what calls read of a cluster. Immutable but for counters; replaced whole by the cluster's owner.

use std::sync::Arc;

use tokio::time::Instant;

use super::locality::Weights;
use super::policy::{Choice, Member, PickRequest, Plan, Policy};
use crate::connect::{Connect, Connection, Connections, ConnectivityState, EndpointStats, InFlight, Unavailable};
use crate::resource::endpoints::Address;
use crate::resource::slow_start::SlowStart;

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
    /// A policy chooses among the endpoints.
    Choosing(Spread<C>),
    /// The mesh was shut down.
    Shutdown,
}

/// The endpoints of the priority in use.
pub(crate) struct Spread<C: Connect> {
    /// Of each locality; one more is that of the calls which fail.
    weights: Weights,
    localities: Box<[Group<C>]>,
}

/// Endpoints among which one policy chooses.
pub(crate) struct Group<C: Connect> {
    policy: Box<dyn Policy>,
    times_calls: bool,
    members: Box<[Member]>,
    /// Of each member its open connections: none unless it is READY.
    connections: Box<[Connections<C::Connection>]>,
}

/// A call's endpoint, with the right to one stream on it.
pub(crate) struct Picked<C: Connect> {
    pub(crate) slot: Slot<C>,
    pub(crate) in_flight: InFlight,
    /// When the call began, if the policy [times calls](Policy::times_calls).
    pub(crate) timed_from: Option<Instant>,
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
    /// Every slot is taken of the one endpoint that takes this call.
    Pinned(Arc<EndpointStats>),
    /// The endpoint that has the call's session cannot take it, and no other may.
    NoSession,
    /// The connections ended a moment ago; a picker without them is on its way.
    Stale,
}

impl<C: Connect> Picker<C> {
    /// Chooses among what there is; without that, calls wait while there is hope.
    pub(crate) fn new(spread: Option<Spread<C>>, hope: bool) -> Self {
        match (spread, hope) {
            (Some(spread), _) => Picker::Choosing(spread),
            (None, true) => Picker::Connecting,
            (None, false) => Picker::Failing,
        }
    }

    /// Picks an endpoint and takes a slot.
    pub(crate) fn pick(&self, request: &PickRequest<'_>) -> Result<Picked<C>, Blocked> {
        match self {
            Picker::Choosing(spread) => spread.pick(request),
            Picker::Idle => Err(Blocked::Idle),
            Picker::Connecting => Err(Blocked::Connecting),
            Picker::Failing => Err(Blocked::Failing),
            Picker::Shutdown => Err(Blocked::Shutdown),
        }
    }

    /// Tells the policies the time.
    pub(crate) fn handle_tick(&self, now: Instant) {
        if let Picker::Choosing(spread) = self {
            spread.handle_tick(now);
        }
    }

    /// Whether a policy is to know how long calls take.
    pub(crate) fn times_calls(&self) -> bool {
        matches!(self, Picker::Choosing(spread) if spread.localities.iter().any(|group| group.times_calls))
    }
}

impl<C: Connect> Spread<C> {
    /// Of each group its weight. Groups without a READY endpoint leave their share to the others; `None` if that leaves
    /// nothing to choose from.
    pub(crate) fn new(groups: Vec<(u32, Group<C>)>) -> Option<Self> {
        let any_ready = groups.iter().any(|(_, group)| group.is_ready());
        let chosen = groups.into_iter().filter(|(_, group)| !group.members.is_empty() && group.is_ready() == any_ready);
        let (weights, localities): (Vec<u32>, Vec<Group<C>>) = chosen.unzip();
        // Those of all that are ready may be 0, where another was when the weights were found.
        let equal = || Weights::new(weights.iter().map(|_| 1));
        let weights = Weights::new(weights.iter().copied()).or_else(equal)?;
        Some(Self { weights, localities: localities.into() })
    }

    /// Calls of this weight, beside those of the groups, fail.
    pub(crate) fn failing(self, weight: u32) -> Self {
        match weight {
            0 => self,
            _ => Self { weights: self.weights.and(weight), ..self },
        }
    }

    /// Tells the policies the time.
    pub(crate) fn handle_tick(&self, now: Instant) {
        self.localities.iter().for_each(|group| group.policy.handle_tick(&group.members, now));
    }

    /// Whether any endpoint is READY.
    pub(crate) fn is_ready(&self) -> bool {
        self.localities.iter().any(Group::is_ready)
    }

    fn pick(&self, request: &PickRequest<'_>) -> Result<Picked<C>, Blocked> {
        let group = self.group()?;
        let request = &PickRequest { now: group.times_calls.then(Instant::now), ..*request };
        let first = group.choose(request)?;
        if request.avoid.is_empty() || group.policy.is_sticky() {
            match group.take(first, request) {
                Ok(picked) => return Ok(picked),
                Err(Unavailable::Full) if group.policy.is_sticky() => return Err(Blocked::Pinned(group.stats(first))),
                Err(_) if group.policy.is_sticky() => return Err(Blocked::Stale),
                Err(_) => {}
            }
        }
        self.pick_other((group, first), request)
    }

    fn group(&self) -> Result<&Group<C>, Blocked> {
        self.localities.get(self.weights.pick()).ok_or(Blocked::Failing)
    }

    /// The first choice is full, gone or to be avoided: any other is better than none.
    #[cold]
    fn pick_other(&self, first: (&Group<C>, usize), request: &PickRequest<'_>) -> Result<Picked<C>, Blocked> {
        let allowed = |(group, index): &(&Group<C>, usize)| !request.avoid.contains(group.address(*index));
        let all = || self.localities.iter().flat_map(|group| (0..group.members.len()).map(move |index| (group, index)));
        let again = || {
            let group = self.group().ok()?;
            Some((group, group.choose(request).ok()?))
        };
        let chosen = std::iter::once(first).chain((0..TRIES).filter_map(|_| again()));
        let last_resort = (!request.avoid.is_empty()).then(all).into_iter().flatten();
        let mut full = None;
        for (group, index) in chosen.chain(all()).filter(allowed).chain(last_resort) {
            match group.take(index, request) {
                Ok(picked) => return Ok(picked),
                Err(Unavailable::Full) => full = full.or(Some((group, index))),
                Err(_) => {}
            }
        }
        Err(full.map_or(Blocked::Stale, |(group, index)| Blocked::Full(group.stats(index))))
    }
}

impl<C: Connect> Group<C> {
    /// Of each endpoint its connections. Those just back from an ejection get their share as `returning` says.
    pub(crate) fn new(
        plan: &Plan,
        returning: Option<SlowStart>,
        endpoints: impl Iterator<Item = (Member, Connections<C::Connection>)>,
    ) -> Self {
        let (members, connections): (Vec<Member>, Vec<_>) = endpoints.unzip();
        let policy = match returning {
            Some(returning) => plan.start_with_returned(&members, returning),
            None => plan.start(&members),
        };
        let times_calls = policy.times_calls();
        Self { policy, times_calls, members: members.into(), connections: connections.into() }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.members.iter().any(|member| member.state == ConnectivityState::Ready)
    }

    /// Only groups with members are asked.
    fn choose(&self, request: &PickRequest<'_>) -> Result<usize, Blocked> {
        match self.policy.pick(&self.members, request) {
            Choice::Endpoint(index) => Ok(index.min(self.members.len() - 1)),
            Choice::Wait => Err(Blocked::Connecting),
            Choice::Fail => Err(Blocked::Failing),
        }
    }

    fn address(&self, index: usize) -> &Address {
        &self.members[index].stats.address
    }

    fn take(&self, index: usize, request: &PickRequest<'_>) -> Result<Picked<C>, Unavailable> {
        let slot = take::<C>(&self.connections[index])?;
        let in_flight = InFlight::new(&self.members[index].stats);
        Ok(Picked { slot, in_flight, timed_from: request.now })
    }

    fn stats(&self, index: usize) -> Arc<EndpointStats> {
        self.members[index].stats.clone()
    }
}

/// A slot of one of an endpoint's connections.
pub(super) fn take<C: Connect>(connections: &Connections<C::Connection>) -> Result<Slot<C>, Unavailable> {
    let mut refusal = Unavailable::Closed;
    for connection in connections {
        match connection.try_acquire() {
            Ok(slot) => return Ok(slot),
            Err(Unavailable::Full) => refusal = Unavailable::Full,
            Err(_) => {}
        }
    }
    Err(refusal)
}

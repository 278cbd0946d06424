//! Pick first (A62): all calls go to the first endpoint that can be connected, and only that one has a connection.
//!
//! The endpoints are tried in their order, each 250 ms after the one before it or as soon as that one failed (A61). When all
//! have failed once, all are tried again, each with its own backoff, and calls fail until one is READY. A connection that
//! ends leaves the group IDLE: the next call starts from the first endpoint again.

use std::time::Duration;

use tokio::time::Instant;
use twox_hash::XxHash64;

use super::{Choice, Member, PickRequest, Policy};
use crate::connect::ConnectivityState::{self, Connecting, Idle, Ready, TransientFailure};
use crate::connect::is_v6;
use crate::http2::{NEXT_ADDRESS, interleaved};
use crate::resource::endpoints::Address;

/// Which endpoints of a group are connected; without I/O: their states and the time come in.
#[derive(Debug)]
pub(crate) struct PickFirst {
    order: Vec<Address>,
    stage: Stage,
    /// Every endpoint failed since there was a connection: until the next one there is no hope.
    failed: bool,
    /// A connection that ends sooner was of no use: its endpoint is tried again with the others, and keeps its backoff.
    stable: Duration,
}

#[derive(Debug)]
enum Stage {
    /// Nothing is connected until a call comes.
    Idle,
    /// The first so many are tried, and one that was lost; the next one's turn comes then.
    Trying { started: usize, next: Instant, lost: Option<Address> },
    /// This one is connected, and no other.
    Chosen { address: Address, since: Instant },
}

impl PickFirst {
    pub(crate) fn new(order: Vec<Address>, stable: Duration, now: Instant) -> Self {
        Self { order, stage: Stage::trying(now), failed: false, stable }
    }

    /// The endpoints are others now. The chosen one stays while it is among them, and so does what was reached of the order.
    pub(crate) fn handle_update(&mut self, order: Vec<Address>, now: Instant) {
        self.order = order;
        match &mut self.stage {
            Stage::Trying { started, .. } if self.failed => *started = self.order.len(),
            Stage::Chosen { address, .. } if !self.order.contains(address) => self.stage = Stage::trying(now),
            Stage::Idle | Stage::Trying { .. } | Stage::Chosen { .. } => {}
        }
    }

    /// Takes in what became of the endpoints: whether others are to be connected now.
    pub(crate) fn handle_states(&mut self, now: Instant, state: impl Fn(&Address) -> ConnectivityState) -> bool {
        match &mut self.stage {
            Stage::Idle => false,
            Stage::Chosen { address, since } => {
                let state = state(address);
                if state == Ready {
                    return false;
                }
                let useless = state == TransientFailure || now.duration_since(*since) < self.stable;
                let lost = Some(address.clone());
                self.stage =
                    if useless { Stage::Trying { started: 1, next: now + NEXT_ADDRESS, lost } } else { Stage::Idle };
                true
            }
            Stage::Trying { started, next, lost } => {
                let tried = || self.order.iter().take(*started).chain(lost.iter());
                if let Some(ready) = tried().find(|address| state(address) == Ready) {
                    self.stage = Stage::Chosen { address: ready.clone(), since: now };
                    self.failed = false;
                    return true;
                }
                let before = *started;
                while let Some(last) = self.order.get(started.saturating_sub(1))
                    && *started < self.order.len()
                    && (now >= *next || state(last) == TransientFailure)
                {
                    *started += 1;
                    *next = now + NEXT_ADDRESS;
                }
                let all = before >= self.order.len();
                self.failed |= all && self.order.iter().all(|address| state(address) == TransientFailure);
                *started != before
            }
        }
    }

    /// A call is there: whether endpoints are to be connected that were not.
    pub(crate) fn exit_idle(&mut self, now: Instant) -> bool {
        let idle = matches!(self.stage, Stage::Idle);
        if idle {
            self.stage = Stage::trying(now);
        }
        idle
    }

    /// The endpoints to be connected.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = &Address> {
        let (started, lone) = match &self.stage {
            Stage::Idle => (0, None),
            Stage::Trying { started, lost, .. } => (*started, lost.as_ref()),
            Stage::Chosen { address, .. } => (0, Some(address)),
        };
        self.order.iter().take(started).chain(lone)
    }

    pub(crate) fn state(&self) -> ConnectivityState {
        match self.stage {
            _ if self.order.is_empty() => TransientFailure,
            Stage::Idle => Idle,
            Stage::Chosen { .. } => Ready,
            Stage::Trying { .. } if self.failed => TransientFailure,
            Stage::Trying { .. } => Connecting,
        }
    }

    /// When [`handle_states`](Self::handle_states) has news though no endpoint has.
    pub(crate) fn next_turn(&self) -> Option<Instant> {
        match self.stage {
            Stage::Trying { started, next, .. } => (started < self.order.len()).then_some(next),
            Stage::Idle | Stage::Chosen { .. } => None,
        }
    }
}

impl Stage {
    fn trying(now: Instant) -> Self {
        Self::Trying { started: 1, next: now + NEXT_ADDRESS, lost: None }
    }
}

/// The order in which endpoints are tried: that of the configuration, or with a `salt` by chance, the heavier ones rather
/// first (A113); the address families by turns (A61). With the same salt, endpoints that stay keep their order.
pub(crate) fn order<'a>(endpoints: impl Iterator<Item = (&'a Address, f64)>, salt: Option<u64>) -> Vec<Address> {
    let mut endpoints: Vec<_> = endpoints.collect();
    if let Some(salt) = salt {
        // u^(1/w), from great to small; its logarithm does not underflow.
        let key = |address: &Address, weight: f64| {
            let hash = XxHash64::oneshot(salt, address.to_string().as_bytes());
            ((hash as f64 + 1.0) / (u64::MAX as f64 + 2.0)).ln() / weight
        };
        endpoints.sort_by(|(one, weight), (other, others)| key(other, *others).total_cmp(&key(one, *weight)));
    }
    let mut addresses: Vec<Address> = Vec::with_capacity(endpoints.len());
    let mut seen = std::collections::HashSet::with_capacity(endpoints.len());
    addresses
        .extend(endpoints.iter().filter(|(address, _)| seen.insert(*address)).map(|(address, _)| (*address).clone()));
    interleaved(&addresses, is_v6).into_iter().cloned().collect()
}

/// The policy at work: there is one endpoint.
pub(super) struct Chosen;

impl Policy for Chosen {
    fn pick(&self, _: &[Member], _: &PickRequest<'_>) -> Choice {
        Choice::Endpoint(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::connect::testing::address;

    struct Group {
        machine: PickFirst,
        now: Instant,
        states: HashMap<Address, ConnectivityState>,
    }

    impl Group {
        fn new(count: u16) -> Self {
            let now = Instant::now();
            let machine = PickFirst::new(addresses(count), Duration::from_secs(1), now);
            Self { machine, now, states: HashMap::new() }
        }

        fn after(&mut self, millis: u64) -> &mut Self {
            self.now += Duration::from_millis(millis);
            self.look()
        }

        fn state(&mut self, number: u16, state: ConnectivityState) -> &mut Self {
            self.states.insert(address(number), state);
            self.look()
        }

        fn look(&mut self) -> &mut Self {
            let states = &self.states;
            self.machine.handle_states(self.now, |address| *states.get(address).unwrap_or(&Connecting));
            let wanted: Vec<_> = self.machine.wanted().cloned().collect();
            self.states.retain(|address, _| wanted.contains(address));
            self
        }

        fn wanted(&self) -> Vec<Address> {
            self.machine.wanted().cloned().collect()
        }
    }

    fn addresses(count: u16) -> Vec<Address> {
        (0..count).map(address).collect()
    }

    #[test]
    fn the_next_endpoint_is_tried_after_a_while_or_a_failure_and_the_first_that_connects_is_chosen() {
        let mut group = Group::new(4);
        assert_eq!(group.wanted(), addresses(1));
        assert_eq!(group.after(249).wanted(), addresses(1));
        assert_eq!(group.after(1).wanted(), addresses(2));
        assert_eq!(group.state(1, TransientFailure).wanted(), addresses(3));
        assert_eq!(group.machine.next_turn(), Some(group.now + NEXT_ADDRESS));
        assert_eq!(group.state(0, Ready).wanted(), addresses(1), "an earlier one that took its time");
        assert_eq!((group.machine.state(), group.machine.next_turn()), (Ready, None));
    }

    #[test]
    fn when_all_failed_once_all_are_tried_and_there_is_no_hope_until_one_connects() {
        let mut group = Group::new(2);
        group.state(0, TransientFailure);
        assert_eq!(group.machine.state(), Connecting);
        assert_eq!(group.state(1, TransientFailure).machine.state(), TransientFailure);
        assert_eq!(group.state(0, Connecting).machine.state(), TransientFailure);
        group.machine.handle_update(addresses(4), group.now);
        assert_eq!((group.wanted(), group.machine.state()), (addresses(4), TransientFailure));
        assert_eq!(group.state(1, Ready).wanted(), [address(1)]);
        assert_eq!(group.machine.state(), Ready);
    }

    #[test]
    fn a_connection_that_ends_leaves_it_idle_and_the_next_call_begins_with_the_first() {
        let mut group = Group::new(2);
        group.state(0, TransientFailure).state(1, Ready);
        assert_eq!(group.after(1000).state(1, Connecting).machine.state(), Idle);
        assert!(group.wanted().is_empty());
        group.machine.handle_update(addresses(3), group.now);
        assert_eq!(group.machine.state(), Idle, "an update is no call");
        assert!(group.machine.exit_idle(group.now) && !group.machine.exit_idle(group.now));
        assert_eq!(group.wanted(), addresses(1));
    }

    #[test]
    fn an_endpoint_that_hangs_up_at_once_keeps_its_backoff() {
        let mut group = Group::new(2);
        group.state(0, TransientFailure).state(1, Ready);
        assert_eq!(group.after(999).state(1, Connecting).machine.state(), Connecting);
        assert_eq!(group.wanted(), addresses(2));
    }

    #[test]
    fn an_endpoint_that_stays_is_kept_and_one_that_goes_is_replaced() {
        let mut group = Group::new(2);
        group.state(0, TransientFailure).state(1, Ready);
        group.machine.handle_update(vec![address(7), address(1)], group.now);
        assert_eq!((group.wanted(), group.machine.state()), (vec![address(1)], Ready));
        group.machine.handle_update(vec![address(7), address(8)], group.now);
        assert_eq!((group.wanted(), group.machine.state()), (vec![address(7)], Connecting));
        group.machine.handle_update(Vec::new(), group.now);
        assert_eq!((group.look().wanted(), group.machine.state()), (vec![], TransientFailure));
    }

    #[test]
    fn endpoints_are_first_in_proportion_to_their_weights_and_keep_their_order() {
        let all = addresses(3);
        let weights = [1.0, 2.0, 5.0];
        let mut firsts = [0; 3];
        for salt in 0..8_000 {
            let ordered = order(all.iter().zip(weights), Some(salt));
            firsts[all.iter().position(|address| *address == ordered[0]).unwrap()] += 1;
            let fewer = order(all.iter().zip(weights).skip(1), Some(salt));
            let stayed: Vec<_> = ordered.into_iter().filter(|other| *other != all[0]).collect();
            assert_eq!(fewer, stayed);
        }
        // 1,000, 2,000 and 5,000 expected; the deviations are 30, 39 and 43.
        for (count, expected) in firsts.into_iter().zip([1_000_i32, 2_000, 5_000]) {
            assert!((count - expected).abs() < 180, "{firsts:?}");
        }
        assert_eq!(order(all.iter().chain(&all).map(|address| (address, 1.0)), None), all);
    }
}

//! Which priority takes the calls (A56), without I/O: states and the time in, the priority to use out.
//!
//! Lower priorities are created only when those above them fail, and stay connected for a while when one above returns,
//! lest a flapping priority makes them connect again and again. One that leaves the configuration goes at once (A115).

use std::time::Duration;

use tokio::time::Instant;

use crate::connect::ConnectivityState;

/// The priorities of one cluster.
#[derive(Debug)]
pub(crate) struct Priorities {
    children: Vec<Option<Child>>,
    failover: Duration,
    retention: Duration,
}

/// A priority that was created.
#[derive(Debug)]
struct Child {
    state: ConnectivityState,
    /// Until when those below it wait for it to connect.
    failover: Option<Instant>,
    /// Until when calls may hope that it connects, if there is nothing better.
    hope: Option<Instant>,
    /// Whether it was READY or IDLE since it last failed: only then a new CONNECTING deserves a wait.
    reached: bool,
    deactivated: Option<Instant>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// There is no priority at all.
    None,
    /// Connect the endpoints of this one, [`handle_created`](Priorities::handle_created), and ask again.
    Create(usize),
    /// Its calls are those of this one.
    Use {
        priority: usize,
        /// Whether a call may hope that it gets READY soon.
        hope: bool,
    },
}

impl Priorities {
    /// Lower priorities are tried `failover` after a higher one started to connect, and forgotten `retention` after they
    /// were last needed.
    pub(crate) fn new(failover: Duration, retention: Duration) -> Self {
        Self { children: Vec::new(), failover, retention }
    }

    /// The configuration has `count` priorities now.
    pub(crate) fn handle_update(&mut self, count: usize) {
        self.children.resize_with(count, || None);
    }

    /// The priorities are others now: for each, the place it had before, if it was there.
    pub(crate) fn rearrange(&mut self, from: &[Option<usize>]) {
        let mut old = std::mem::take(&mut self.children);
        let child = |from: &Option<usize>| old.get_mut((*from)?).and_then(Option::take);
        self.children = from.iter().map(child).collect();
    }

    /// None was created any more.
    pub(crate) fn forget(&mut self) {
        self.children.fill_with(|| None);
    }

    /// The created ones that are not needed are forgotten after a while.
    pub(crate) fn keep(&mut self, needed: &[bool], now: Instant) {
        for (child, needed) in self.children.iter_mut().zip(needed) {
            if let Some(child) = child {
                child.deactivated = if *needed { None } else { child.deactivated.or(Some(now)) };
            }
        }
    }

    pub(crate) fn is_created(&self, priority: usize) -> bool {
        self.children.get(priority).is_some_and(Option::is_some)
    }

    pub(crate) fn created(&self) -> impl Iterator<Item = usize> + use<> {
        let created: smallvec::SmallVec<[usize; 8]> =
            (0..self.children.len()).filter(|priority| self.is_created(*priority)).collect();
        created.into_iter()
    }

    /// The priority's endpoints started to connect; some may have been connected for another priority.
    pub(crate) fn handle_created(&mut self, priority: usize, now: Instant) {
        let child = Child {
            state: ConnectivityState::Connecting,
            failover: Some(now + self.failover),
            hope: Some(now + self.failover),
            reached: false,
            deactivated: None,
        };
        if let Some(place) = self.children.get_mut(priority) {
            *place = Some(child);
        }
    }

    /// The endpoints of a created priority are, taken together, in this state.
    pub(crate) fn handle_state(&mut self, priority: usize, state: ConnectivityState, now: Instant) {
        let until = Some(now + self.failover);
        let Some(Some(child)) = self.children.get_mut(priority) else { return };
        match state {
            ConnectivityState::Connecting if child.state == ConnectivityState::Connecting => {}
            ConnectivityState::Connecting => {
                child.hope = until;
                child.failover = until.filter(|_| child.reached);
            }
            ConnectivityState::Ready | ConnectivityState::Idle => {
                (child.reached, child.failover, child.hope) = (true, None, None);
            }
            ConnectivityState::TransientFailure | ConnectivityState::Shutdown => {
                (child.reached, child.failover, child.hope) = (false, None, None);
            }
        }
        child.state = state;
    }

    /// Chooses. With the same states and time, the choice is the same.
    pub(crate) fn choose(&mut self, now: Instant) -> Choice {
        for priority in 0..self.children.len() {
            let Some(child) = &mut self.children[priority] else { return Choice::Create(priority) };
            child.deactivated = None;
            if matches!(child.state, ConnectivityState::Ready | ConnectivityState::Idle) {
                self.deactivate_below(priority, now);
                return Choice::Use { priority, hope: true };
            }
            if child.failover.is_some_and(|until| now < until) {
                return Choice::Use { priority, hope: true };
            }
        }
        self.choose_without_ready(now)
    }

    /// The first that connects, though its time to do so may be over; else the last.
    fn choose_without_ready(&self, now: Instant) -> Choice {
        let connecting = |child: &Child| child.state == ConnectivityState::Connecting;
        let first = self.children.iter().position(|child| child.as_ref().is_some_and(connecting));
        let Some(priority) = first.or(self.children.len().checked_sub(1)) else { return Choice::None };
        let hope = self.children.iter().flatten().any(|child| child.hope.is_some_and(|until| now < until));
        Choice::Use { priority, hope }
    }

    fn deactivate_below(&mut self, priority: usize, now: Instant) {
        for child in self.children[priority + 1..].iter_mut().flatten() {
            child.deactivated.get_or_insert(now);
        }
    }

    /// When [`choose`](Self::choose) may answer otherwise although no state changed.
    pub(crate) fn next_failover(&self, now: Instant) -> Option<Instant> {
        let timers = self.children.iter().flatten().flat_map(|child| [child.failover, child.hope]);
        timers.flatten().filter(|until| *until > now).min()
    }

    /// Forgets the priorities that were not needed for long; `true` if there were any.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        let mut any = false;
        for place in &mut self.children {
            let deactivated = place.as_ref().and_then(|child| child.deactivated);
            if deactivated.is_some_and(|since| now.duration_since(since) >= self.retention) {
                *place = None;
                any = true;
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::ConnectivityState::{Connecting, Ready, TransientFailure};
    use super::*;

    const FAILOVER: Duration = Duration::from_secs(10);

    struct Machine {
        priorities: Priorities,
        now: Instant,
        created: Vec<usize>,
    }

    impl Machine {
        fn new(count: usize) -> Self {
            let mut priorities = Priorities::new(FAILOVER, Duration::from_secs(900));
            priorities.handle_update(count);
            Self { priorities, now: Instant::now(), created: Vec::new() }
        }

        fn after(&mut self, seconds: u64) -> &mut Self {
            self.now += Duration::from_secs(seconds);
            self
        }

        fn state(&mut self, priority: usize, state: ConnectivityState) -> &mut Self {
            self.priorities.handle_state(priority, state, self.now);
            self
        }

        fn choice(&mut self) -> Choice {
            loop {
                match self.priorities.choose(self.now) {
                    Choice::Create(priority) => {
                        self.created.push(priority);
                        self.priorities.handle_created(priority, self.now);
                    }
                    choice => return choice,
                }
            }
        }
    }

    fn used(priority: usize, hope: bool) -> Choice {
        Choice::Use { priority, hope }
    }

    #[test]
    fn without_priorities_there_is_no_choice() {
        assert_eq!(Machine::new(0).choice(), Choice::None);
    }

    #[test]
    fn lower_priorities_are_created_only_when_those_above_failed() {
        let mut machine = Machine::new(3);
        assert_eq!(machine.choice(), used(0, true));
        assert_eq!(machine.created, [0]);
        assert_eq!(machine.state(0, TransientFailure).choice(), used(1, true));
        assert_eq!(machine.created, [0, 1]);
        assert_eq!(machine.state(1, Ready).choice(), used(1, true));
        assert_eq!(machine.created, [0, 1]);
    }

    #[test]
    fn the_failover_timer_ends_the_wait_for_a_connecting_priority() {
        let mut machine = Machine::new(2);
        assert_eq!(machine.choice(), used(0, true));
        let due = machine.priorities.next_failover(machine.now);
        assert_eq!(due, Some(machine.now + FAILOVER));
        assert_eq!(machine.after(9).choice(), used(0, true));
        assert_eq!(machine.after(1).choice(), used(1, true));
        assert_eq!(machine.after(10).choice(), used(0, false), "the first that still connects, without hope");
    }

    #[test]
    fn a_priority_that_returns_takes_over_at_once() {
        let mut machine = Machine::new(2);
        machine.choice();
        machine.state(0, TransientFailure).choice();
        assert_eq!(machine.state(1, Ready).choice(), used(1, true));
        assert_eq!(machine.state(0, Ready).choice(), used(0, true));
    }

    #[test]
    fn a_lost_priority_is_waited_for_and_a_failed_one_is_not() {
        let mut machine = Machine::new(2);
        machine.choice();
        machine.state(0, Ready).choice();
        assert_eq!(machine.after(60).state(0, Connecting).choice(), used(0, true));
        assert_eq!(machine.created, [0]);
        machine.state(0, TransientFailure).choice();
        machine.state(1, Ready);
        assert_eq!(machine.state(0, Connecting).choice(), used(1, true), "connecting after a failure");
    }

    #[test]
    fn new_endpoints_of_a_failed_priority_are_a_hope_for_a_while() {
        let mut machine = Machine::new(1);
        machine.choice();
        assert_eq!(machine.state(0, TransientFailure).choice(), used(0, false));
        assert_eq!(machine.state(0, Connecting).choice(), used(0, true));
        assert_eq!(machine.priorities.next_failover(machine.now), Some(machine.now + FAILOVER));
        assert_eq!(machine.after(10).state(0, Connecting).choice(), used(0, false));
    }

    #[test]
    fn all_failed_leaves_the_last_without_hope() {
        let mut machine = Machine::new(2);
        machine.choice();
        machine.state(0, TransientFailure).choice();
        assert_eq!(machine.state(1, TransientFailure).choice(), used(1, false));
    }

    #[test]
    fn an_unneeded_priority_is_kept_for_its_retention() {
        let mut machine = Machine::new(2);
        machine.choice();
        machine.state(0, TransientFailure).choice();
        machine.state(1, Ready).choice();
        machine.state(0, Ready).choice();
        let now = machine.after(899).now;
        assert!(!machine.priorities.expire(now));
        machine.choice();
        let now = machine.after(1).now;
        assert!(machine.priorities.expire(now));
        assert!(!machine.priorities.is_created(1) && machine.priorities.is_created(0));
    }

    #[test]
    fn a_priority_needed_again_is_not_forgotten() {
        let mut machine = Machine::new(2);
        machine.choice();
        machine.state(0, TransientFailure).choice();
        machine.state(1, Ready).choice();
        machine.state(0, Ready).choice();
        assert_eq!(machine.after(600).state(0, TransientFailure).choice(), used(1, true));
        let now = machine.after(600).now;
        assert!(!machine.priorities.expire(now));
    }

    #[test]
    fn a_removed_priority_is_created_anew_when_it_returns() {
        let mut machine = Machine::new(2);
        machine.choice();
        machine.state(0, TransientFailure).choice();
        machine.priorities.handle_update(1);
        assert_eq!(machine.choice(), used(0, false));
        machine.priorities.handle_update(2);
        machine.created.clear();
        machine.choice();
        assert_eq!(machine.created, [1]);
    }
}

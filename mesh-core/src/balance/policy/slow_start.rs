//! Slow start around another policy: what that chooses is passed over now and then while it is new (Envoy's
//! `slow_start_config`; the share grows as A100 has it), or while it is just back from an ejection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::{Choice, Member, PickRequest, Policy};
use crate::resource::slow_start::SlowStart;

/// Choices that are passed over at most; where all endpoints are new there is nothing better.
const TRIES: usize = 8;

/// Whose share grows bit by bit.
#[derive(Clone, Copy, Debug)]
pub(super) enum Who {
    /// That of all that begin to take calls.
    New,
    /// That of those which outlier detection let return.
    Returned,
}

impl Who {
    /// Since when the share of a member grows, if it ever did.
    fn age(self, member: &Member, now: Instant) -> Option<Duration> {
        match self {
            Self::New => member.stats.load.ready_for(now),
            Self::Returned => member.stats.load.back_for(now),
        }
    }
}

/// A policy that asks another one, until every endpoint has its whole share.
pub(super) struct SlowStarting {
    policy: Box<dyn Policy>,
    slow_start: SlowStart,
    who: Who,
    until: Instant,
    over: AtomicBool,
}

impl SlowStarting {
    /// `policy` itself if no member is new `now`, or if calls wait for the endpoint that it chooses: then another one is none
    /// for them.
    pub(super) fn around(
        policy: Box<dyn Policy>,
        slow_start: SlowStart,
        who: Who,
        members: &[Member],
        now: Instant,
    ) -> Box<dyn Policy> {
        let window = slow_start.window();
        if policy.is_sticky() {
            return policy;
        }
        let remaining = |member: &Member| who.age(member, now).map(|age| window.saturating_sub(age));
        let longest = members.iter().filter_map(remaining).max().unwrap_or_default();
        match now.checked_add(longest) {
            Some(until) if !longest.is_zero() => {
                Box::new(Self { policy, slow_start, who, until, over: AtomicBool::new(false) })
            }
            _ => policy,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        let over = now >= self.until;
        self.over.store(over, Ordering::Relaxed);
        over
    }

    /// Whether a member that was chosen takes the call: with the chance that is its part of a whole share.
    fn admits(&self, member: &Member, now: Instant) -> bool {
        let age = match self.who {
            Who::New => self.who.age(member, now).unwrap_or_default(),
            Who::Returned => self.who.age(member, now).unwrap_or(Duration::MAX),
        };
        let factor = self.slow_start.factor(age);
        factor >= 1.0 || fastrand::f64() < factor
    }

    fn pick_admitted(&self, members: &[Member], request: &PickRequest<'_>) -> Choice {
        let now = request.now.unwrap_or_else(Instant::now);
        let mut choice = self.policy.pick(members, request);
        if self.is_over(now) {
            return choice;
        }
        for _ in 1..TRIES {
            match choice {
                Choice::Endpoint(index) if !self.admits(&members[index], now) => {
                    choice = self.policy.pick(members, request);
                }
                admitted => return admitted,
            }
        }
        choice
    }
}

impl Policy for SlowStarting {
    fn pick(&self, members: &[Member], request: &PickRequest<'_>) -> Choice {
        match self.over.load(Ordering::Relaxed) {
            true => self.policy.pick(members, request),
            false => self.pick_admitted(members, request),
        }
    }

    fn times_calls(&self) -> bool {
        self.policy.times_calls()
    }

    fn handle_tick(&self, members: &[Member], now: Instant) {
        self.policy.handle_tick(members, now);
    }
}

#[cfg(test)]
mod tests {
    use super::super::least_request::LeastRequest;
    use super::super::round_robin::RoundRobin;
    use super::super::testing::ready as members;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const WINDOW: Duration = Duration::from_secs(100);

    fn round_robin() -> Box<dyn Policy> {
        Box::new(RoundRobin::new(0))
    }

    fn around(policy: Box<dyn Policy>, members: &[Member], now: Instant) -> Box<dyn Policy> {
        let slow_start = SlowStart::new(WINDOW, 1.0, 10.0).expect("a window");
        SlowStarting::around(policy, slow_start, Who::New, members, now)
    }

    /// Members of which all but the last have been READY for long.
    fn one_new(count: usize) -> (Vec<Member>, Instant) {
        let members = members(count);
        let start = Instant::now();
        let now = start + 2 * WINDOW;
        let (new, old) = members.split_last().expect("a member");
        old.iter().for_each(|member| member.stats.load.handle_ready(start));
        new.stats.load.handle_ready(now);
        (members, now)
    }

    /// The part that the last member gets of a whole share.
    fn part(policy: &dyn Policy, members: &[Member], now: Instant) -> f64 {
        const PICKS: u32 = 20_000;
        // Chance is the same in every run.
        fastrand::seed(7);
        let request = PickRequest { now: Some(now), ..PickRequest::default() };
        let last = Choice::Endpoint(members.len() - 1);
        let picks = (0..PICKS).filter(|_| policy.pick(members, &request) == last).count();
        picks as f64 * members.len() as f64 / f64::from(PICKS)
    }

    #[test]
    fn a_new_endpoint_gets_its_share_bit_by_bit_by_any_policy() {
        let least_request: fn() -> Box<dyn Policy> = || Box::new(LeastRequest::new(2));
        for policy in [round_robin, least_request] {
            let (members, now) = one_new(10);
            let policy = around(policy(), &members, now);
            for (seconds, expected) in [(0, 0.1), (50, 0.5), (80, 0.8), (100, 1.0), (200, 1.0)] {
                let part = part(&*policy, &members, now + seconds * SECOND);
                assert!((part / expected - 1.0).abs() < 0.25, "{part} after {seconds} s");
            }
        }
    }

    /// envoyproxy/envoy issue 29008: the window of one endpoint ended when another came.
    #[test]
    fn an_endpoint_that_comes_later_does_not_end_the_window_of_another() {
        let (mut members, now) = one_new(9);
        let later = now + 50 * SECOND;
        members.insert(0, super::super::testing::ready(1).remove(0));
        members[0].stats.load.handle_ready(later);
        let policy = around(round_robin(), &members, later);
        let part = part(&*policy, &members, later);
        assert!((0.4..0.7).contains(&part), "{part}");
    }

    /// envoyproxy/envoy issue 19526: an endpoint passed over in its window got nothing for long after.
    #[test]
    fn after_its_window_an_endpoint_gets_its_whole_share_at_once() {
        let (members, now) = one_new(2);
        let policy = around(round_robin(), &members, now);
        assert!(part(&*policy, &members, now) < 0.4);
        let part = part(&*policy, &members, now + WINDOW);
        assert!((part - 1.0).abs() < 0.01, "{part}");
    }

    /// envoyproxy/envoy issue 18351: the window began when the endpoint was made known, not when it took calls, and did
    /// not begin again.
    #[test]
    fn the_window_begins_when_the_endpoint_is_ready_and_again_when_it_returns() {
        let (members, now) = one_new(10);
        let long_after = now + 10 * WINDOW;
        members[9].stats.load.handle_ready(long_after);
        let returned = around(round_robin(), &members, long_after);
        assert!(part(&*returned, &members, long_after) < 0.2);
        assert!(part(&*returned, &members, long_after + 50 * SECOND) > 0.4);
    }

    /// envoyproxy/envoy issue 19437: what was configured for round robin had no effect. Here, a cluster without new
    /// endpoints pays nothing.
    #[test]
    fn where_no_endpoint_is_new_the_policy_is_asked_itself() {
        let (members, now) = one_new(10);
        let policy = around(round_robin(), &members, now + WINDOW);
        assert!((part(&*policy, &members, now) - 1.0).abs() < 0.01, "not passed over, whatever the time");
    }

    #[test]
    fn of_those_that_take_calls_for_the_first_time_none_counts_as_returned() {
        let (members, now) = one_new(10);
        let slow_start = SlowStart::new(WINDOW, 1.0, 10.0).expect("a window");
        let started = || SlowStarting::around(round_robin(), slow_start, Who::Returned, &members, now);
        assert!((part(&*started(), &members, now) - 1.0).abs() < 0.01);
        members[9].stats.restore(now);
        let returned = started();
        assert!(part(&*returned, &members, now) < 0.2);
        assert!((part(&*returned, &members, now + 50 * SECOND) - 0.5).abs() < 0.1);
        // It is passed over no longer for having lost its connection meanwhile.
        members[9].stats.load.handle_ready(now + WINDOW);
        assert!((part(&*returned, &members, now + WINDOW) - 1.0).abs() < 0.01);
    }

    /// Always the last.
    struct Insists;

    impl Policy for Insists {
        fn pick(&self, members: &[Member], _: &PickRequest<'_>) -> Choice {
            Choice::Endpoint(members.len() - 1)
        }
    }

    #[test]
    fn a_policy_that_chooses_the_same_again_is_obeyed() {
        let (members, now) = one_new(10);
        let part = part(&*around(Box::new(Insists), &members, now), &members, now);
        assert!((part - 10.0).abs() < f64::EPSILON, "{part}");
    }

    #[test]
    fn where_all_endpoints_are_new_each_has_the_same_share() {
        let members = members(10);
        let now = Instant::now();
        members.iter().for_each(|member| member.stats.load.handle_ready(now));
        let part = part(&*around(round_robin(), &members, now), &members, now);
        assert!((0.8..1.2).contains(&part), "{part}");
    }
}

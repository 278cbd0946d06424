//! Peak-EWMA (Finagle, linkerd): of two endpoints chosen at random, the one that is expected to answer sooner, judged by
//! how long its calls took and how many it has now. No protocol names it; it serves unequal endpoints best.
//!
//! Which would starve the one of which nothing is heard since it was slow once: a call now and then finds out.

use tokio::time::Instant;

use super::{Choice, Member, PickRequest, Policy, PolicyFactory};
use crate::connect::{EndpointStats, Stamp};

/// Of so many calls to which the better of two endpoints is known one at most goes to the other, of which nothing was heard
/// for long: where calls are few, they are not to be slow for that.
const PROBES: u32 = 100;

/// Of two endpoints drawn at random, the call goes to the one that is expected to answer sooner: by how long its calls took
/// (a peak counts at once and is forgotten within some ten seconds), how many it has now, and how many of its calls failed.
///
/// An endpoint that was slow, and therefore gets no calls, is asked again after a second of silence, by a call a second and by
/// one in a hundred at most; what that answers replaces what was known of it. One that fails calls, or has not answered
/// those it has, is not; a stream is answered once its response's head came.
///
/// Targets without a control plane are balanced so. Its clusters are if the application says so, whatever their `lb_policy`:
///
/// ```
/// use mesh_core::balance::{BalanceOptions, PeakEwma};
///
/// let all = BalanceOptions::new().policy(PeakEwma);
/// let one = BalanceOptions::new().policy_of("outbound|80||greeter", PeakEwma);
/// # let _ = (all, one);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct PeakEwma;

impl PolicyFactory for PeakEwma {
    fn start(&self, _: &[Member]) -> Box<dyn Policy> {
        Box::new(Self)
    }
}

impl Policy for PeakEwma {
    fn pick(&self, members: &[Member], request: &PickRequest<'_>) -> Choice {
        let now = Stamp::of(request.now.unwrap_or_else(Instant::now));
        let cost = |index: usize| {
            let stats = &members[index].stats;
            stats.load.cost(stats.in_flight(), now)
        };
        let (first, Some(second)) = two(members.len()) else { return Choice::Endpoint(0) };
        let (better, worse) = if cost(second) < cost(first) { (second, first) } else { (first, second) };
        let asks = request.avoid.is_empty() && asks_again(&members[worse].stats, now);
        Choice::Endpoint(if asks { worse } else { better })
    }

    fn times_calls(&self) -> bool {
        true
    }
}

/// Whether a call goes there although another endpoint is expected to answer sooner. Only an endpoint that gets no calls is
/// looked at twice.
fn asks_again(stats: &EndpointStats, now: Stamp) -> bool {
    stats.load.is_silent(now) && !stats.has_unanswered() && fastrand::u32(..PROBES) == 0 && stats.load.ask_again(now)
}

/// Two indexes below `len`, which is not 0, that are not the same: else the slowest endpoint would be drawn only against
/// itself now and then.
fn two(len: usize) -> (usize, Option<usize>) {
    let first = fastrand::usize(..len);
    if len == 1 {
        return (first, None);
    }
    let other = fastrand::usize(..len - 1);
    (first, Some(other + usize::from(other >= first)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http::Response;
    use http_body_util::Full;

    use super::super::testing::ready as members;
    use super::*;
    use crate::balance::recorder::Recorder;
    use crate::call::HttpStatus;
    use crate::connect::InFlight;
    use crate::resource::endpoints::Address;

    const SECOND: Duration = Duration::from_secs(1);

    fn pick(members: &[Member], avoid: &[Address], now: Instant) -> usize {
        let request = PickRequest { now: Some(now), avoid, ..PickRequest::default() };
        let Choice::Endpoint(index) = PeakEwma.pick(members, &request) else { panic!("a choice") };
        index
    }

    /// How many of 1,000 picks at the same moment each endpoint gets.
    fn picks(members: &[Member], now: Instant) -> Vec<u32> {
        let mut picks = vec![0; members.len()];
        (0..1_000).for_each(|_| picks[pick(members, &[], now)] += 1);
        picks
    }

    /// How many of 10,000 picks at the same moment the first gets, of which nothing is heard.
    fn asked(members: &[Member], avoid: &[Address], now: Instant) -> usize {
        members[1..].iter().for_each(|member| member.stats.load.handle_success(Duration::from_millis(5), now));
        (0..10_000).filter(|_| pick(members, avoid, now) == 0).count()
    }

    /// Two, of which the first answered slowly.
    fn one_slow() -> (Vec<Member>, Instant) {
        // Chance is the same in every run.
        fastrand::seed(7);
        let (members, now) = (members(2), Instant::now());
        members[0].stats.load.handle_success(Duration::from_millis(500), now);
        (members, now)
    }

    #[test]
    fn the_two_drawn_are_never_the_same_and_each_has_its_chance() {
        assert_eq!(two(1), (0, None));
        let mut seen = [0; 9];
        for _ in 0..900 {
            let (first, second) = two(3);
            let second = second.expect("two of three");
            assert_ne!(first, second);
            seen[3 * first + second] += 1;
        }
        assert!([1, 2, 3, 5, 6, 7].iter().all(|pair| seen[*pair] > 90), "{seen:?}");
    }

    #[test]
    fn the_slowest_of_all_is_not_picked_until_it_may_have_recovered() {
        let members = members(10);
        let now = Instant::now();
        for (index, member) in members.iter().enumerate() {
            let took = Duration::from_millis(if index == 3 { 500 } else { 5 });
            member.stats.load.handle_success(took, now);
        }
        let seen = picks(&members, now);
        assert_eq!(seen[3], 0, "{seen:?}");
        assert!(seen.iter().enumerate().all(|(index, picks)| index == 3 || *picks > 50), "{seen:?}");
        // The others answer on; of this one nothing is heard.
        let later = now + Duration::from_secs(60);
        for (index, member) in members.iter().enumerate() {
            if index != 3 {
                member.stats.load.handle_success(Duration::from_millis(5), later);
            }
        }
        assert!(picks(&members, later)[3] > 100, "tried again");
    }

    #[test]
    fn one_that_was_slow_is_asked_again_after_a_second_by_one_call_a_second() {
        let (members, now) = one_slow();
        for (millis, expected) in [(0, 0), (900, 0), (1_000, 1), (1_900, 0), (2_000, 1), (3_500, 1)] {
            let now = now + Duration::from_millis(millis);
            assert_eq!(asked(&members, &[], now), expected, "after {millis} ms");
        }
    }

    #[test]
    fn where_calls_are_few_it_is_one_in_a_hundred_that_asks() {
        let (members, mut now) = one_slow();
        let mut slow = 0;
        for _ in 0..20_000 {
            now += SECOND / 10;
            let index = pick(&members, &[], now);
            members[index].stats.load.handle_success(Duration::from_millis(if index == 0 { 500 } else { 5 }), now);
            slow += usize::from(index == 0);
        }
        assert!((100..250).contains(&slow), "{slow} of 20,000");
    }

    #[test]
    fn one_that_fails_or_has_a_call_unanswered_is_not_asked_and_no_call_asks_that_failed_elsewhere() {
        let (members, now) = one_slow();
        let later = now + 2 * SECOND;
        let failed = [members[1].address().clone()];
        assert_eq!(asked(&members, &failed, later), 0);
        let hanging = InFlight::new(&members[0].stats);
        assert_eq!(asked(&members, &[], later), 0);
        drop(hanging);
        members[0].stats.load.handle_failure(Duration::from_micros(10), now);
        assert_eq!(asked(&members, &[], later), 0);
        assert_eq!(asked(&members, &[], later + 8 * SECOND), 1, "that was long ago");
    }

    #[test]
    fn one_whose_streams_were_answered_is_asked_while_they_go_on() {
        let (members, now) = one_slow();
        let later = now + 2 * SECOND;
        let stream = || Recorder::new(InFlight::new(&members[0].stats), Some(now), &HttpStatus, None);
        let (mut first, mut second) = (stream(), stream());
        let head = Response::new(Full::new(Bytes::from_static(b"and so on")));
        first.handle_head(&head);
        assert_eq!(asked(&members, &[], later), 0, "the second hangs");
        second.handle_head(&head);
        assert_eq!(asked(&members, &[], later), 1);
        drop((first, second));
        let hanging = stream();
        assert_eq!(asked(&members, &[], later + 2 * SECOND), 0, "the streams that ended count no more");
        drop(hanging);
        assert_eq!(asked(&members, &[], later + 2 * SECOND), 1);
        assert_eq!(members[0].in_flight(), 0);
    }

    #[test]
    fn one_that_fails_fast_is_not_preferred() {
        let members = members(10);
        let now = Instant::now();
        for (index, member) in members.iter().enumerate() {
            match index {
                3 => (0..10).for_each(|_| member.stats.load.handle_failure(Duration::from_micros(10), now)),
                _ => member.stats.load.handle_success(Duration::from_millis(50), now),
            }
        }
        assert_eq!(picks(&members, now)[3], 0);
    }
}

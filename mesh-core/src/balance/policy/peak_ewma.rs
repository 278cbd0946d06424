//! Peak-EWMA (Finagle, linkerd): of two endpoints chosen at random, the one that is expected to answer sooner, judged by
//! how long its calls took and how many it has now. No protocol names it; it serves unequal endpoints best.

use tokio::time::Instant;

use super::{Choice, Member, PickRequest, Policy, PolicyFactory};

/// Of two endpoints drawn at random, the call goes to the one that is expected to answer sooner: by how long its calls took
/// (a peak counts at once and is forgotten within some ten seconds), how many it has now, and how many of its calls failed.
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
        let now = request.now.unwrap_or_else(Instant::now);
        let cost = |index: usize| {
            let stats = &members[index].stats;
            stats.load.cost(stats.in_flight(), now)
        };
        Choice::Endpoint(match two(members.len()) {
            (first, Some(second)) if cost(second) < cost(first) => second,
            (first, _) => first,
        })
    }

    fn times_calls(&self) -> bool {
        true
    }
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

    use super::super::testing::ready as members;
    use super::*;

    /// How many of 1,000 picks at the same moment each endpoint gets.
    fn picks(members: &[Member], now: Instant) -> Vec<u32> {
        let mut picks = vec![0; members.len()];
        for _ in 0..1_000 {
            let request = PickRequest { now: Some(now), ..PickRequest::default() };
            let Choice::Endpoint(index) = PeakEwma.pick(members, &request) else { panic!("a choice") };
            picks[index] += 1;
        }
        picks
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

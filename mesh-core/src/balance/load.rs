//! How calls spill over priorities in [`Profile::Envoy`](crate::Profile): a pure function of the endpoints' health.
//!
//! A priority takes as much as its share of available endpoints times the overprovisioning factor allows, at most all;
//! what is left goes to the next one, and to degraded endpoints when no healthy ones are left. When all of them together
//! cannot take everything, each takes in proportion, and a priority whose share of available endpoints is below the panic
//! threshold uses all of its endpoints: the few that are left would not survive the load.

use super::spill::Takes;
use crate::resource::endpoints::{Address, Endpoint, Priority};

/// The endpoints of one priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) healthy: usize,
    pub(crate) degraded: usize,
    /// Those that are neither, too.
    pub(crate) total: usize,
}

impl Census {
    /// As the control plane sees them, but that those which outlier detection ejected are no better than unhealthy.
    pub(crate) fn of(priority: &Priority, is_ejected: impl Fn(&Address) -> bool) -> Self {
        let endpoints = || priority.localities.iter().flat_map(|locality| &locality.endpoints);
        let is_available =
            |takes: Takes, endpoint: &Endpoint| takes.takes(endpoint.health) && !is_ejected(&endpoint.address);
        let count = |takes: Takes| endpoints().filter(|endpoint| is_available(takes, endpoint)).count();
        Self { healthy: count(Takes::Healthy), degraded: count(Takes::Degraded), total: endpoints().count() }
    }

    /// Whether less than so many percent are available.
    pub(crate) fn is_below(&self, threshold: u32) -> bool {
        // Without endpoints 0 % are available.
        let available = (self.healthy + self.degraded) * 100;
        available < self.total * as_usize(threshold) || (self.total == 0 && threshold > 0)
    }
}

/// What one priority gets, in percent of the calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// For its healthy endpoints; in a panic for all of them.
    pub(crate) healthy: u32,
    /// For its degraded endpoints; in a panic for all of them.
    pub(crate) degraded: u32,
    /// Whether it uses all of its endpoints.
    pub(crate) panic: bool,
}

/// What Envoy takes for the overprovisioning factor when nothing is said, in percent.
pub(crate) const FACTOR: u32 = 140;

/// The priorities that panic: those of which less than `threshold` percent are available, if together they cannot take
/// all calls.
pub(crate) fn panics(priorities: &[Census], factor: u32, threshold: u32) -> Vec<bool> {
    let is_enough = availability(priorities, factor).total == 100;
    priorities.iter().map(|census| !is_enough && census.is_below(threshold)).collect()
}

/// The shares, which add up to 100 unless there are no priorities.
pub(crate) fn distribute(priorities: &[Census], factor: u32, panics: &[bool]) -> Vec<Share> {
    let mut shares: Vec<Share> = panics.iter().map(|panic| Share { panic: *panic, ..Share::default() }).collect();
    let Availability { healthy, degraded, total } = availability(priorities, factor);
    if panics.iter().all(|panic| *panic) {
        by_size(priorities, &mut shares);
        return shares;
    }
    if total == 0 {
        // Nobody can take calls; to fail they go to the first.
        shares[0].healthy = 100;
        return shares;
    }
    let mut left = 100;
    let mut take = |available: u32| {
        let load = left.min(available * 100 / total);
        left -= load;
        load
    };
    shares.iter_mut().zip(&healthy).for_each(|(share, available)| share.healthy = take(*available));
    shares.iter_mut().zip(&degraded).for_each(|(share, available)| share.degraded = take(*available));
    // What rounding left.
    let first = |available: &[u32]| available.iter().position(|available| *available > 0);
    match (first(&healthy), first(&degraded)) {
        (Some(first), _) => shares[first].healthy += left,
        (None, Some(first)) => shares[first].degraded += left,
        (None, None) => {}
    }
    shares
}

/// When every priority panics: in proportion to the number of endpoints.
fn by_size(priorities: &[Census], shares: &mut [Share]) {
    let all: usize = priorities.iter().map(|census| census.total).sum();
    let mut left = 100;
    for (share, census) in shares.iter_mut().zip(priorities) {
        share.healthy = u32::try_from(census.total * 100 / all.max(1)).unwrap_or(100);
        left -= share.healthy;
    }
    let first = priorities.iter().position(|census| census.total > 0).unwrap_or(0);
    if let Some(share) = shares.get_mut(first) {
        share.healthy += left;
    }
}

/// What each priority could take, in percent of all calls.
struct Availability {
    healthy: Vec<u32>,
    degraded: Vec<u32>,
    /// Of all together, at most 100.
    total: u32,
}

fn availability(priorities: &[Census], factor: u32) -> Availability {
    let of = |count: usize, census: &Census| {
        let percent = as_usize(factor).saturating_mul(count) / census.total.max(1);
        u32::try_from(percent.min(100)).unwrap_or(100)
    };
    let healthy: Vec<u32> = priorities.iter().map(|census| of(census.healthy, census)).collect();
    let degraded: Vec<u32> = priorities.iter().map(|census| of(census.degraded, census)).collect();
    let total = healthy.iter().chain(&degraded).fold(0, |sum: u32, available| sum.saturating_add(*available)).min(100);
    Availability { healthy, degraded, total }
}

fn as_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(priorities: &[Census], factor: u32, threshold: u32) -> Vec<Share> {
        distribute(priorities, factor, &panics(priorities, factor, threshold))
    }

    /// Of a hundred endpoints each, so many are healthy and so many degraded.
    fn percent(priorities: &[(usize, usize)]) -> Vec<Census> {
        priorities
            .iter()
            .map(|(healthy, degraded)| Census { healthy: *healthy, degraded: *degraded, total: 100 })
            .collect()
    }

    /// Envoy's documentation, "Priority levels": healthy endpoints of each priority, and what each gets.
    #[test]
    fn calls_spill_over_priorities_as_in_envoys_tables() {
        let rows: &[(&[usize], &[u32])] = &[
            (&[100, 100], &[100, 0]),
            (&[72, 100], &[100, 0]),
            (&[71, 100], &[99, 1]),
            (&[50, 100], &[70, 30]),
            (&[25, 100], &[35, 65]),
            (&[0, 100], &[0, 100]),
            (&[72, 72], &[100, 0]),
            (&[71, 71], &[99, 1]),
            (&[50, 50], &[70, 30]),
            (&[25, 25], &[50, 50]),
            (&[5, 65], &[8, 92]),
            (&[25, 25, 100], &[35, 35, 30]),
            // The table rounds to 36 and 36; Envoy counts in whole percents, and the first gets what is left.
            (&[25, 25, 20], &[37, 35, 28]),
        ];
        for (healthy, wanted) in rows {
            let priorities = percent(&healthy.iter().map(|healthy| (*healthy, 0)).collect::<Vec<_>>());
            let found: Vec<u32> = shares(&priorities, FACTOR, 0).iter().map(|share| share.healthy).collect();
            assert_eq!(found, *wanted, "{healthy:?}");
        }
    }

    /// The same, "Degraded endpoints": of one priority, and what its healthy and degraded endpoints get.
    #[test]
    fn degraded_endpoints_take_what_healthy_ones_cannot() {
        for (healthy, degraded, wanted) in
            [(100, 0, (100, 0)), (71, 0, (100, 0)), (71, 29, (99, 1)), (25, 65, (35, 65)), (5, 0, (100, 0))]
        {
            let share = shares(&percent(&[(healthy, degraded)]), FACTOR, 0)[0];
            assert_eq!((share.healthy, share.degraded), wanted, "{healthy} healthy, {degraded} degraded");
        }
        // The example of the code's comment: degraded ones come after the healthy ones of every priority.
        let found = shares(&percent(&[(10, 20), (20, 10), (10, 0)]), 100, 0);
        let parts: Vec<_> = found.iter().map(|share| (share.healthy, share.degraded)).collect();
        assert_eq!(parts, [(16, 28), (28, 14), (14, 0)]);
    }

    /// The same, "Panic threshold", at 50 %.
    #[test]
    fn a_priority_panics_only_when_all_together_cannot_take_everything() {
        let rows: &[(&[usize], &[bool])] = &[
            (&[50, 100], &[false, false]),
            (&[0, 100], &[false, false]),
            (&[50, 60], &[false, false]),
            (&[25, 25], &[true, true]),
            (&[5, 65], &[true, false]),
            (&[0], &[true]),
            (&[49], &[true]),
            (&[50], &[false]),
        ];
        for (healthy, wanted) in rows {
            let priorities = percent(&healthy.iter().map(|healthy| (*healthy, 0)).collect::<Vec<_>>());
            assert_eq!(panics(&priorities, FACTOR, 50), *wanted, "{healthy:?}");
        }
    }

    #[test]
    fn when_every_priority_panics_the_number_of_endpoints_counts() {
        let of = |total| Census { healthy: 0, degraded: 0, total };
        let found: Vec<u32> = shares(&[of(0), of(3), of(1)], FACTOR, 50).iter().map(|share| share.healthy).collect();
        assert_eq!(found, [0, 75, 25]);
        assert_eq!(shares(&[of(0)], FACTOR, 50)[0].healthy, 100);
        let never = shares(&[of(2), of(1)], FACTOR, 0);
        assert_eq!(never, [Share { healthy: 100, ..Share::default() }, Share::default()]);
        assert!(shares(&[], FACTOR, 50).is_empty());
    }

    fn census() -> impl Strategy<Value = Census> {
        (0..50_usize, 0..50_usize, 0..50_usize).prop_map(|(healthy, degraded, rest)| Census {
            healthy,
            degraded,
            total: healthy + degraded + rest,
        })
    }

    /// The documentation's pseudo code, in fractions and without degraded endpoints.
    fn documented(priorities: &[Census], factor: u32) -> Vec<f64> {
        let health = |census: &Census| {
            let share = if census.total == 0 { 0.0 } else { census.healthy as f64 / census.total as f64 };
            (f64::from(factor) * share).min(100.0)
        };
        let total = priorities.iter().map(health).sum::<f64>().min(100.0);
        let mut left: f64 = 100.0;
        let load = |census: &Census| {
            let load = left.min(health(census) * 100.0 / total);
            left -= load;
            load
        };
        priorities.iter().map(load).collect()
    }

    proptest! {
        #[test]
        fn the_shares_are_all_calls_and_only_go_where_endpoints_are(
            priorities in prop::collection::vec(census(), 1..6),
            factor in 1..400_u32,
            threshold in 0..=100_u32,
        ) {
            let found = shares(&priorities, factor, threshold);
            prop_assert_eq!(found.iter().map(|share| share.healthy + share.degraded).sum::<u32>(), 100);
            let any = priorities.iter().any(|census| census.healthy + census.degraded > 0);
            for (share, census) in found.iter().zip(&priorities) {
                let panics = found.iter().all(|share| share.panic);
                prop_assert!(share.healthy == 0 || census.healthy > 0 || panics || !any || availability(&priorities, factor).total == 0);
                prop_assert!(share.degraded == 0 || census.degraded > 0);
            }
        }

        #[test]
        fn the_shares_are_those_of_the_documentation(
            priorities in prop::collection::vec(census(), 1..6),
            factor in 100..400_u32,
        ) {
            let healthy: Vec<Census> = priorities.iter().map(|census| Census { degraded: 0, ..*census }).collect();
            prop_assume!(healthy.iter().any(|census| census.healthy > 0));
            // Envoy counts in whole percents, of which each priority may lose one or two and the first get them.
            let slack = 2.0 * (healthy.len() as f64 + 1.0);
            for (share, wanted) in shares(&healthy, factor, 0).iter().zip(documented(&healthy, factor)) {
                prop_assert!((f64::from(share.healthy) - wanted).abs() <= slack, "{share:?}, {wanted}");
            }
        }

        #[test]
        fn more_health_above_never_sends_more_below(
            mut priorities in prop::collection::vec(census(), 2..6),
            factor in 100..400_u32,
        ) {
            priorities.iter_mut().for_each(|census| census.degraded = 0);
            prop_assume!(availability(&priorities, factor).total == 100 && priorities[0].healthy < priorities[0].total);
            let below = |shares: &[Share]| shares[1..].iter().map(|share| share.healthy).sum::<u32>();
            let before = below(&shares(&priorities, factor, 0));
            priorities[0].healthy += 1;
            prop_assert!(below(&shares(&priorities, factor, 0)) <= before);
        }
    }
}

//! A schedule of weighted turns: each index comes up in proportion to its weight, spread out evenly, without a queue.
//!
//! The picks are those of an earliest-deadline-first queue (A58) to within the rounding of weights to 16 bits, as gRPC's
//! static stride scheduler makes them: index by index, round after round, each is passed over in the rounds in which its
//! weight, added up, does not reach the next multiple of the largest weight.

use std::sync::atomic::{AtomicU64, Ordering};

/// The largest weight is scaled to this.
const MAX: u16 = u16::MAX;
/// A weight counts at most so many times the mean, lest all others be picked only after many that are passed over.
const MAX_RATIO: f64 = 10.0;
/// A weight counts at least as this part of the mean, lest an endpoint never be heard of again.
const MIN_RATIO: f64 = 0.01;

/// One immutable schedule; where it stands is in a [`Turn`].
#[derive(Debug)]
pub(super) struct StaticStride {
    weights: Box<[u16]>,
}

/// Which turn it is. On cache lines of its own: it is written by every call, what lies beside it is only read.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Turn(AtomicU64);

impl Turn {
    pub(super) fn new(random: u64) -> Self {
        // Far from the end of the numbers, wherever it starts.
        Self(AtomicU64::new(random >> 32))
    }

    /// The next index below `len`, which is not 0, where all have the same weight.
    #[expect(clippy::cast_possible_truncation, reason = "below a length")]
    pub(super) fn among(&self, len: usize) -> usize {
        (self.next() % len as u64) as usize
    }

    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

impl StaticStride {
    /// A schedule by these weights, all of them finite and above 0; `None` if they are all alike and turns need none.
    pub(super) fn new(weights: &[f64]) -> Option<Self> {
        let first = *weights.first()?;
        if weights.iter().all(|weight| *weight == first) {
            return None;
        }
        let max = weights.iter().copied().fold(0.0, f64::max);
        // Divided first: the sum of large weights may be no number.
        let mean = weights.iter().map(|weight| weight / max).sum::<f64>() / count(weights);
        let cap = (mean * MAX_RATIO).min(1.0);
        let floor = (mean * MIN_RATIO).min(cap);
        let scale = f64::from(MAX) / cap;
        let scaled = weights.iter().map(|weight| round((weight / max).clamp(floor, cap) * scale));
        Some(Self { weights: scaled.collect() })
    }

    /// The next index.
    pub(super) fn pick(&self, turn: &Turn) -> usize {
        let len = self.weights.len() as u64;
        loop {
            let number = turn.next();
            let (round, index) = (number / len, number % len);
            // Rounds of neighbours are shifted against each other, lest all heavy ones be passed over in the same.
            let shift = index * u64::from(MAX / 2);
            #[expect(clippy::cast_possible_truncation, reason = "below a length")]
            let index = index as usize;
            let weight = u64::from(self.weights[index]);
            let reached = weight.wrapping_mul(round).wrapping_add(shift) % u64::from(MAX);
            if reached + weight >= u64::from(MAX) {
                return index;
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of endpoints")]
fn count<T>(slice: &[T]) -> f64 {
    slice.len() as f64
}

/// To 16 bits, and never to nothing.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to the largest")]
fn round(scaled: f64) -> u16 {
    (scaled.round() as u16).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        /// The model is the definition: of so many rounds as the largest weight has units, each takes part in as many as
        /// it has itself.
        #[test]
        fn in_a_whole_cycle_each_comes_up_as_often_as_it_weighs(weights in prop::collection::vec(0.1..10.0_f64, 2..4)) {
            prop_assume!(weights.iter().any(|weight| *weight != weights[0]));
            let schedule = StaticStride::new(&weights).expect("unequal weights");
            let expected: Vec<usize> = schedule.weights.iter().map(|weight| usize::from(*weight)).collect();
            prop_assert_eq!(counts(&weights, expected.iter().sum()), expected);
        }
    }

    fn counts(weights: &[f64], picks: usize) -> Vec<usize> {
        let schedule = StaticStride::new(weights).expect("unequal weights");
        let turn = Turn::new(0);
        let mut counts = vec![0; weights.len()];
        (0..picks).for_each(|_| counts[schedule.pick(&turn)] += 1);
        counts
    }

    #[test]
    fn each_index_is_picked_in_proportion_to_its_weight() {
        assert_eq!(counts(&[1.0, 2.0, 3.0], 6_000), [1_000, 2_000, 3_000]);
        assert_eq!(counts(&[0.1, 0.7], 800), [100, 700]);
        let [small, large] = counts(&[1.0, 9.0], 10_000)[..] else { unreachable!("two weights") };
        assert!(small.abs_diff(1_000) <= 1 && large.abs_diff(9_000) <= 1, "{small} {large}");
    }

    #[test]
    fn picks_of_one_index_are_spread_out() {
        let schedule = StaticStride::new(&[1.0, 1.0, 2.0]).expect("unequal weights");
        let turn = Turn::new(0);
        let picks: Vec<usize> = (0..12).map(|_| schedule.pick(&turn)).collect();
        for window in picks.windows(4) {
            let heavy = window.iter().filter(|index| **index == 2).count();
            assert_eq!(heavy, 2, "{picks:?}");
        }
    }

    #[test]
    fn shares_are_right_from_any_start_and_for_many_weights() {
        let seed = 7;
        let mut random = fastrand::Rng::with_seed(seed);
        let weights: Vec<f64> = (0..1_000).map(|_| 0.5 + random.f64()).collect();
        let schedule = StaticStride::new(&weights).expect("unequal weights");
        let turn = Turn::new(random.u64(..));
        let mut counts = vec![0_u32; weights.len()];
        (0..1_000_000).for_each(|_| counts[schedule.pick(&turn)] += 1);
        let sum: f64 = weights.iter().sum();
        for (index, (count, weight)) in counts.iter().zip(&weights).enumerate() {
            let expected = weight / sum * 1e6;
            assert!((f64::from(*count) - expected).abs() < 0.02 * expected, "seed {seed}, {index}: {count} {expected}");
        }
    }

    #[test]
    fn equal_weights_need_no_schedule() {
        assert!(StaticStride::new(&[]).is_none());
        assert!(StaticStride::new(&[3.0]).is_none());
        assert!(StaticStride::new(&[3.0, 3.0]).is_none());
    }

    #[test]
    fn extreme_weights_are_brought_within_bounds() {
        let ratio = |weights: &[f64]| {
            let counts = counts(weights, 200_000);
            counts[0] as f64 / counts[1] as f64
        };
        let many = |first: f64| [vec![first], vec![1.0; 99]].concat();
        let (largest, smallest) = (ratio(&many(1e12)), ratio(&many(1e-12)));
        assert!((900.0..1_100.0).contains(&largest), "ten times the mean, to a hundredth of it: {largest}");
        assert!((0.009..0.011).contains(&smallest), "a hundredth of the mean: {smallest}");
        let heavy = ratio(&many(50.0));
        assert!((14.0..16.0).contains(&heavy), "ten times the mean of 1.49: {heavy}");
        assert!(ratio(&[f64::MAX, f64::MAX, f64::MIN_POSITIVE]).is_finite());
    }
}

//! Weighted localities (`wrr_locality`, A27): each locality that has READY endpoints gets its weight's share of the
//! calls.

/// Chooses an index with the chance of its weight, by binary search in the running sums.
#[derive(Debug)]
pub(crate) struct Weights {
    sums: Box<[u64]>,
}

impl Weights {
    /// `None` if no weight is above 0. At most 2³² weights of 32 bits: their sum fits.
    pub(crate) fn new(weights: impl Iterator<Item = u32>) -> Option<Self> {
        let mut sum = 0_u64;
        let sums: Box<[u64]> = weights
            .map(|weight| {
                sum += u64::from(weight);
                sum
            })
            .collect();
        (sum > 0).then_some(Self { sums })
    }

    /// One more weight, after the others.
    pub(crate) fn and(self, weight: u32) -> Self {
        let last = self.sums.last().copied().unwrap_or(0);
        let sums = self.sums.iter().copied().chain([last + u64::from(weight)]);
        Self { sums: sums.collect() }
    }

    pub(crate) fn pick(&self) -> usize {
        match &*self.sums {
            [_] => 0,
            sums => self.at(fastrand::u64(..sums.last().copied().unwrap_or(1).max(1))),
        }
    }

    fn at(&self, point: u64) -> usize {
        self.sums.partition_point(|sum| *sum <= point)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The model goes from weight to weight and takes each off the point, until one is not used up.
        #[test]
        fn a_point_falls_where_a_plain_walk_finds_it(weights in prop::collection::vec(0..5_u32, 1..20), any in any::<u64>()) {
            let total: u32 = weights.iter().sum();
            prop_assume!(total > 0);
            let made = Weights::new(weights.iter().copied()).expect("a weight above 0");
            let point = any % u64::from(total);
            let mut left = point;
            let walk = weights.iter().position(|weight| match left.checked_sub(u64::from(*weight)) {
                Some(rest) => { left = rest; false }
                None => true,
            });
            prop_assert_eq!(Some(made.at(point)), walk);
        }
    }

    #[test]
    fn every_point_belongs_to_the_weight_it_lies_in() {
        let weights = Weights::new([0, 9, 0, 1].into_iter()).unwrap();
        let at: Vec<usize> = (0..10).map(|point| weights.at(point)).collect();
        assert_eq!(at, [1, 1, 1, 1, 1, 1, 1, 1, 1, 3]);
        assert!(Weights::new([0, 0].into_iter()).is_none());
        assert!(Weights::new(std::iter::empty()).is_none());
    }

    #[test]
    fn the_largest_weights_do_not_overflow() {
        let weights = Weights::new([u32::MAX; 1000].into_iter()).unwrap();
        assert!((0..1000).contains(&weights.pick()));
        assert_eq!(weights.at(u64::from(u32::MAX) * 1000 - 1), 999);
    }
}

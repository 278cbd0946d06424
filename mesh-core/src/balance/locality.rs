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
    use super::*;

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

//! Values that may stand in a resource once only.

use std::collections::HashSet;
use std::hash::Hash;

use smallvec::SmallVec;

/// Up to this many values are compared one by one, which takes less than to hash them.
const FEW: usize = 16;

/// The values that were met so far.
#[derive(Debug)]
pub(super) struct Seen<T> {
    few: SmallVec<[T; FEW]>,
    /// All of them, once they are more: the sender decides how many there are, and each must not be compared with all.
    many: HashSet<T>,
}

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self { few: SmallVec::new(), many: HashSet::new() }
    }
}

impl<T: Eq + Hash> Seen<T> {
    /// Has room for so many values, if they are not few.
    pub(super) fn with_room(count: usize) -> Self {
        let many = if count > FEW { HashSet::with_capacity(count) } else { HashSet::new() };
        Self { few: SmallVec::new(), many }
    }

    /// Whether the value was not met before.
    pub(super) fn insert(&mut self, value: T) -> bool {
        if self.few.contains(&value) {
            return false;
        }
        if self.many.is_empty() && self.few.len() < FEW {
            self.few.push(value);
            return true;
        }
        self.many.extend(self.few.drain(..));
        self.many.insert(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_new_once_however_many_there_are() {
        for count in [1, FEW, FEW + 1, 10 * FEW] {
            let mut seen = Seen::default();
            assert!((0..count).all(|value| seen.insert(value)), "{count}");
            assert!(!(0..count).any(|value| seen.insert(value)), "{count}");
        }
    }
}

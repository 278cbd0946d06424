//! Random subsetting (A68): of many endpoints each client connects to a few of its own, so that a large cluster has few
//! connections, and every endpoint about as many as the others.
//!
//! Rendezvous hashing: the endpoints whose address, hashed with the client's salt, is least. One that comes or goes changes
//! at most one of the subset.

use std::collections::HashSet;

use twox_hash::XxHash64;

use crate::resource::endpoints::Address;

/// Those of the endpoints that are used: `size` of them, or all if there are no more.
pub(crate) fn choose<'a>(endpoints: impl Iterator<Item = &'a Address>, size: u32, salt: u64) -> HashSet<&'a Address> {
    let hash = |address: &'a Address| (XxHash64::oneshot(salt, address.to_string().as_bytes()), address);
    let mut hashed: Vec<_> = endpoints.map(hash).collect();
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if size < hashed.len() {
        hashed.select_nth_unstable(size);
        hashed.truncate(size);
    }
    hashed.into_iter().map(|(_, address)| address).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::connect::testing::address;

    fn addresses(count: u16) -> Vec<Address> {
        (0..count).map(address).collect()
    }

    #[test]
    fn each_endpoint_is_in_as_many_subsets_as_the_others() {
        let addresses = addresses(20);
        let mut counts = [0; 20];
        for salt in 0..2_000 {
            let subset = choose(addresses.iter(), 5, salt);
            assert_eq!(subset.len(), 5);
            counts
                .iter_mut()
                .zip(&addresses)
                .for_each(|(count, address)| *count += u32::from(subset.contains(address)));
        }
        // 500 expected, with a deviation of 19.
        assert!(counts.iter().all(|count| (400..600).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn an_endpoint_more_changes_at_most_one(count in 0..40_u16, size in 1..12_u32, salt in any::<u64>()) {
            let addresses = addresses(count + 1);
            let before = choose(addresses[1..].iter(), size, salt);
            let after = choose(addresses.iter(), size, salt);
            prop_assert_eq!(before.len(), usize::from(count).min(size as usize));
            prop_assert!(before.difference(&after).count() <= 1);
            prop_assert!(after.difference(&before).count() <= 1);
        }
    }
}

//! Whom outcomes are told to.

use crate::outcomes::Streak;
use crate::resource::endpoints::Address;

/// The part of mesh-core's trait that outcomes use.
pub(crate) trait Observer: Send + Sync {
    fn endpoint_failed(&self, endpoint: &Address, streak: Streak);

    fn outcomes_arrive(&self);
}

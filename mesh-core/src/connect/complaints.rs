//! The endpoints that complained of too many PINGs: their next connections send fewer (gRFC A8).

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::http2::Keepalive;
use crate::resource::endpoints::Address;

/// Endpoints that are remembered. Those that complain are rare, and an endpoint that is forgotten complains again.
const MAX: usize = 1024;
/// After this many complaints, the interval is 1,024 times the first.
const MAX_COMPLAINTS: u32 = 10;

/// Complaints by endpoint.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<HashMap<Address, u32>>);

impl Complaints {
    /// What to send on the next connection.
    pub(super) fn keepalive(&self, address: &Address, first: Keepalive) -> Keepalive {
        let complaints = self.0.lock().get(address).copied().unwrap_or(0);
        (0..complaints).fold(first, |keepalive, _| keepalive.slower())
    }

    pub(super) fn complained(&self, address: &Address) {
        let mut complaints = self.0.lock();
        if complaints.len() >= MAX {
            complaints.clear();
        }
        let count = complaints.entry(address.clone()).or_default();
        *count = (*count + 1).min(MAX_COMPLAINTS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_complaint_halves_the_pings_of_that_endpoint_alone() {
        let complaints = Complaints::default();
        let here = Address::Socket(([127, 0, 0, 1], 1).into());
        let there = Address::Socket(([127, 0, 0, 1], 2).into());
        let first = Keepalive::default();
        complaints.complained(&here);
        complaints.complained(&here);
        assert_eq!(complaints.keepalive(&here, first).interval, first.interval * 4);
        assert_eq!(complaints.keepalive(&there, first).interval, first.interval);
        (0..100).for_each(|_| complaints.complained(&here));
        assert_eq!(complaints.keepalive(&here, first).interval, first.interval * 1024);
    }

    #[test]
    fn the_memory_is_bounded() {
        let complaints = Complaints::default();
        (0..5000).for_each(|port| complaints.complained(&Address::Socket(([127, 0, 0, 1], port).into())));
        assert!(complaints.0.lock().len() <= MAX);
    }
}

use std::time::{Duration, SystemTime};

use crate::identity::SpiffeId;
use crate::tls::Peer;

/// A caller with an SVID of this ID for an hour: for tests of handlers and layers that ask who calls, without TLS.
///
/// ```
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(mesh_core::testing::peer("spiffe://cluster.local/ns/shop/sa/cart"));
/// ```
///
/// # Panics
///
/// If it is no SPIFFE ID.
pub fn peer(id: &str) -> Peer {
    let spiffe_id: SpiffeId = id.parse().expect("a SPIFFE ID");
    Peer::with_svid(spiffe_id, SystemTime::now() + Duration::from_secs(3600))
}

//! Whom a connection leads to, as far as that was verified.

#[cfg(feature = "tls")]
use std::sync::Arc;

#[cfg(feature = "tls")]
use crate::tls::Peer;

/// The verified peer of a connection; the default is none, as in plaintext.
#[derive(Clone, Debug, Default)]
pub struct VerifiedPeer {
    #[cfg(feature = "tls")]
    peer: Option<Arc<Peer>>,
}

#[cfg(feature = "tls")]
impl VerifiedPeer {
    pub(super) fn new(peer: Option<Arc<Peer>>) -> Self {
        Self { peer }
    }

    pub(crate) fn get(&self) -> Option<&Arc<Peer>> {
        self.peer.as_ref()
    }
}

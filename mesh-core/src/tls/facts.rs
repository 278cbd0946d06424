//! What is known of a connection that TLS secures.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::identity::{Identity, Leaf, SpiffeId, Utc};
#[cfg(feature = "server")]
use crate::resource::rbac::Callers;

/// Whom a connection leads to, as the peer's verified certificate says.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Peer {
    /// Its SPIFFE ID, if its certificate is an SVID.
    pub spiffe_id: Option<SpiffeId>,
    /// The URIs of its certificate, a SPIFFE ID among them.
    pub uris: Vec<String>,
    /// The DNS names of its certificate.
    pub dns_names: Vec<String>,
    /// The subject of its certificate as RFC 2253 writes it (`CN=a,O=b`); empty if it has none.
    pub subject: String,
    /// The serial number of its certificate, in hexadecimal digits.
    pub serial: String,
    /// When its certificate expires.
    pub not_after: SystemTime,
}

/// How one connection is secured.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ConnectionSecurity {
    /// `TLSv1.3` or `TLSv1.2`.
    pub protocol: &'static str,
    /// Whom it leads to.
    pub peer: Peer,
    /// The certificate that was shown to the peer if it asked for one; `None`: the cluster asks for none.
    pub identity: Option<Identity>,
    /// Why another connection is to take its place; `None`: none is. Until that one serves, this one goes on.
    pub replaced: Option<Arc<str>>,
}

impl ConnectionSecurity {
    /// The earlier end of the two certificates. The connection is closed then, whatever calls it has.
    pub fn expires(&self) -> SystemTime {
        let own = self.identity.as_ref().map(Identity::not_after);
        own.map_or(self.peer.not_after, |own| own.min(self.peer.not_after))
    }
}

impl Peer {
    pub(super) fn new(leaf: &Leaf) -> Self {
        Self {
            spiffe_id: leaf.spiffe_id().ok(),
            uris: leaf.names.uris().map(str::to_owned).collect(),
            dns_names: leaf.names.dns().map(str::to_owned).collect(),
            subject: leaf.subject.clone().into(),
            serial: leaf.serial(),
            not_after: leaf.not_after,
        }
    }
}

impl Peer {
    /// By the names that count (A41).
    #[cfg(feature = "server")]
    pub(crate) fn caller(&self) -> Callers<'_> {
        match (&self.uris[..], &self.dns_names[..]) {
            ([], []) => Callers::Subject(&self.subject),
            ([], names) | (names, _) => Callers::Names(names),
        }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("spiffe_id", &self.spiffe_id)
            .field("uris", &self.uris)
            .field("dns_names", &self.dns_names)
            .field("subject", &self.subject)
            .field("serial", &self.serial)
            .field("not_after", &format_args!("{}", Utc(self.not_after)))
            .finish()
    }
}

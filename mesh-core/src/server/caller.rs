//! Who calls on a connection: what its requests say of it, and what they must not say.

use http::{HeaderMap, HeaderName, Request};

use super::secure::AcceptedSecurity;
#[cfg(feature = "tls")]
use crate::identity::SpiffeId;
#[cfg(feature = "tls")]
use crate::tls::Peer;

/// Headers by which proxies tell a server who called them, and what it is to do for them.
const FORWARDED: &str = "forwarded";
const FROM_PROXIES: [&str; 2] = ["x-forwarded-", "x-envoy-"];
/// Which attempt it is claims nothing and changes nothing.
const ATTEMPT: &str = "x-envoy-attempt-count";

/// Whom a server believes what those headers say: proxies by their SPIFFE IDs, nobody by default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forwarders {
    #[cfg(feature = "tls")]
    pub(crate) trusted: std::collections::BTreeSet<SpiffeId>,
}

/// The caller of one connection.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// As its certificate says; `None`: it showed none.
    #[cfg(feature = "tls")]
    peer: Option<Peer>,
    /// What it forwards is believed.
    is_trusted: bool,
}

impl Caller {
    #[cfg(feature = "tls")]
    pub(super) fn new(security: Option<&AcceptedSecurity>, forwarders: &Forwarders) -> Self {
        let peer = security.and_then(|security| security.peer.clone());
        let id = peer.as_ref().and_then(|peer| peer.spiffe_id.as_ref());
        Self { is_trusted: id.is_some_and(|id| forwarders.trusted.contains(id)), peer }
    }

    #[cfg(not(feature = "tls"))]
    pub(super) fn new(_: Option<&AcceptedSecurity>, _: &Forwarders) -> Self {
        Self { is_trusted: false }
    }

    /// Takes out of a request what its caller may not claim, and says who the caller is.
    pub(super) fn introduce<B>(&self, request: &mut Request<B>) {
        if !self.is_trusted {
            sanitize(request.headers_mut());
        }
        #[cfg(feature = "tls")]
        if let Some(peer) = &self.peer {
            request.extensions_mut().insert(peer.clone());
        }
    }
}

/// Takes out what nobody may claim who is not trusted.
pub(crate) fn sanitize(headers: &mut HeaderMap) {
    let is_claim = |name: &str| {
        name == FORWARDED || (FROM_PROXIES.iter().any(|prefix| name.starts_with(prefix)) && name != ATTEMPT)
    };
    let first = headers.keys().find(|name| is_claim(name.as_str())).cloned();
    let mut next: Option<HeaderName> = first;
    while let Some(name) = next {
        headers.remove(&name);
        next = headers.keys().find(|name| is_claim(name.as_str())).cloned();
    }
}

//! What access control sees of a call, and what a caller hears of it.

use http::Request;

use super::ConnectInfo;
use crate::error::{Error, ErrorKind};
use crate::resource::matcher::RequestHead;
use crate::resource::rbac::access::Refusal;
use crate::resource::rbac::{Callers, InboundCall};

/// All that a caller is told: neither rules nor names.
pub(crate) const NOT_ALLOWED: &str = "the server does not allow this call";

/// A request with its caller and its connection, as its extensions say them.
pub(crate) fn inbound_call<B>(request: &Request<B>) -> InboundCall<'_> {
    let connection = request.extensions().get::<ConnectInfo>();
    InboundCall {
        head: RequestHead::of(request),
        addresses: connection.map(|connection| (connection.local_address, connection.peer_address)),
        caller: caller(request, connection.is_some_and(|connection| connection.is_secured)),
    }
}

#[cfg(feature = "tls")]
fn caller<B>(request: &Request<B>, is_secured: bool) -> Callers<'_> {
    let peer = request.extensions().get::<crate::tls::Peer>();
    peer.map_or(Callers::unverified(is_secured), crate::tls::Peer::caller)
}

#[cfg(not(feature = "tls"))]
fn caller<B>(_: &Request<B>, is_secured: bool) -> Callers<'_> {
    Callers::unverified(is_secured)
}

/// Tells the log why, and the caller only that.
pub(super) fn denied(refusal: Refusal<'_>, call: &InboundCall<'_>, route: &str) -> Error {
    refusal.log(call, route);
    Error::new(ErrorKind::PermissionDenied, NOT_ALLOWED)
}

//! What access control sees of a call, and what a caller hears of it.

use http::request::Parts;
use http::{Extensions, Request};

use super::ConnectInfo;
use crate::error::{Error, ErrorKind};
use crate::resource::matcher::RequestHead;
use crate::resource::rbac::access::Refusal;
use crate::resource::rbac::metadata::Known;
use crate::resource::rbac::{Callers, InboundCall};

/// All that a caller is told: neither rules nor names.
pub(crate) const NOT_ALLOWED: &str = "the server does not allow this call";

/// A request with its caller and its connection, as its extensions say them.
pub(crate) fn inbound_call<B>(request: &Request<B>) -> InboundCall<'_> {
    seen(RequestHead::of(request), request.extensions())
}

/// As [`inbound_call`], of a request without its body.
pub(super) fn inbound_head(head: &Parts) -> InboundCall<'_> {
    seen(RequestHead::of_parts(head), &head.extensions)
}

fn seen<'a>(head: RequestHead<'a>, extensions: &'a Extensions) -> InboundCall<'a> {
    let connection = extensions.get::<ConnectInfo>();
    InboundCall {
        head,
        addresses: connection.map(|connection| (connection.local_address, connection.peer_address)),
        caller: caller(extensions, connection.is_some_and(|connection| connection.is_secured)),
        known: Known::of(extensions),
    }
}

#[cfg(feature = "tls")]
fn caller(extensions: &Extensions, is_secured: bool) -> Callers<'_> {
    let peer = extensions.get::<crate::tls::Peer>();
    peer.map_or(Callers::unverified(is_secured), crate::tls::Peer::caller)
}

#[cfg(not(feature = "tls"))]
fn caller(_: &Extensions, is_secured: bool) -> Callers<'_> {
    Callers::unverified(is_secured)
}

/// Why, for the server's operator.
pub(super) fn denied(refusal: Refusal<'_>, call: &InboundCall<'_>, route: &str) -> Error {
    let message = format!("access control refuses the call: {}", refusal.describe(call, route));
    let next = "if it is to be served, have the control plane send a policy that allows it";
    Error::new(ErrorKind::PermissionDenied, message).with_next_step(next)
}

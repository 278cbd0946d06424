//! `DownstreamTlsContext` (A29).
//!
//! As in `upstream_tls.rs`, nothing that protects a connection is left out.

use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as proto;

use super::http_filter::Side;
use super::place::At;
use super::tls_context::{identity, validation};
use crate::resource::downstream_tls::{Callers, DownstreamTls};
use crate::resource::upstream_tls::RootsFrom;
use crate::resource::verdict::Fields;

pub(super) fn downstream_tls(message: &proto::DownstreamTlsContext, at: &At<'_>) -> Option<DownstreamTls> {
    message.judge(at);
    let asks = message.require_client_certificate == Some(true);
    let place = at;
    let common = at.required("common_tls_context", message.common_tls_context.as_ref())?;
    let at = &at.field("common_tls_context");
    common.judge(at);
    let identity = identity(common, at);
    if identity == Some(None) {
        at.error(
            "a server shows a certificate: set `tls_certificate_provider_instance` (A29), `tls_certificates` or a \
             secret (SDS)",
        );
    }
    let validation = validation(common, Side::Server, at)?;
    let callers = match validation.roots {
        Some(RootsFrom::Source(roots)) => {
            // In Envoy, too, callers show a certificate wherever there is its validator for SPIFFE.
            let is_required = asks || roots.is_of_spiffe_validator();
            Some(Callers { roots, revoked: validation.revoked, names: validation.names, is_required })
        }
        _ => None,
    };
    if asks && callers.is_none() {
        let problem =
            "no roots vouch for clients: set `ca_certificate_provider_instance` in the validation context (A29)";
        place.field("require_client_certificate").error(problem);
    }
    Some(DownstreamTls { identity: identity??, callers })
}

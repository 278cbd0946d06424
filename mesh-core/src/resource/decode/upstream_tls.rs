//! `UpstreamTlsContext` (A29, A82, A101).
//!
//! What would leave a connection less protected than the context asks is refused, as nothing here is ever left out.

use std::sync::Arc;

use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as proto;
use rustls_pki_types::DnsName;

use super::http_filter::Side;
use super::place::{At, quoted};
use super::tls_context::{identity, validation};
use crate::resource::upstream_tls::{RootsFrom, UpstreamTls};
use crate::resource::verdict::Fields;

/// As in Envoy and A101.
const MAX_SNI: usize = 255;

pub(super) fn upstream_tls(message: &proto::UpstreamTlsContext, at: &At<'_>) -> Option<UpstreamTls> {
    message.judge(at);
    let sni = sni(&message.sni, &at.field("sni"));
    let common = at.required("common_tls_context", message.common_tls_context.as_ref())?;
    let at = &at.field("common_tls_context");
    common.judge(at);
    let identity = identity(common, at);
    let validation = validation(common, Side::Client, at)?;
    let roots = validation.roots?;
    let is_checked = !validation.names.is_empty() || message.auto_sni_san_validation;
    if roots == RootsFrom::System && !is_checked {
        let problem = "with the system's roots every certificate of the web would do: match names of the peer, or set \
                       `auto_sni_san_validation`";
        at.error(problem);
    }
    Some(UpstreamTls {
        identity: identity?,
        roots,
        revoked: validation.revoked,
        names: validation.names,
        sni,
        auto_host_sni: message.auto_host_sni,
        auto_sni_san_validation: message.auto_sni_san_validation,
    })
}

fn sni(name: &str, at: &At<'_>) -> Option<Arc<str>> {
    if name.len() > MAX_SNI {
        at.error(format!("is longer than {MAX_SNI} bytes (A101)"));
    } else if !name.is_empty() && DnsName::try_from(name).is_err() {
        at.error(format!("{} is not a DNS name", quoted(name)));
    }
    (!name.is_empty()).then(|| name.into())
}

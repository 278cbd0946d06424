//! Certificates, keys and roots in data sources (Envoy): sent along, or in files that are named.

use std::sync::Arc;

use mesh_xds_proto::envoy::config::core::v3::DataSource;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as proto;

use super::data_source::{Source, source};
use super::place::At;
use crate::identity::{Carried, CarriedFiles, Content, FilesOf, Identity, KeyMaterial, TrustBundle, Vouching};
use crate::resource::verdict::Fields;

/// What is sent along is no larger; the largest bundles of roots have some 300 KiB.
const MAX_INLINE: usize = 1 << 20;

/// A certificate with its key.
pub(super) fn certificate(message: &proto::TlsCertificate, at: &At<'_>) -> Option<Arc<Carried>> {
    message.judge(at);
    let chain = at.required("certificate_chain", message.certificate_chain.as_ref());
    let key = at.required("private_key", message.private_key.as_ref());
    let chain = chain.and_then(|chain| read(chain, &at.field("certificate_chain")));
    let key = key.and_then(|key| read(key, &at.field("private_key")));
    let is_watched = [&message.certificate_chain, &message.private_key].into_iter().flatten();
    let is_watched =
        message.watched_directory.is_some() || is_watched.into_iter().any(|source| source.watched_directory.is_some());
    let carried = match (chain?, key?) {
        (Source::Inline(chain), Source::Inline(key)) => inline(&chain, &key, at)?,
        (chain, Source::File(key)) => {
            let chain = content(chain);
            Carried::Files(CarriedFiles {
                what: FilesOf::Identity { chain, key },
                vouching: Vouching::default(),
                is_watched,
            })
        }
        (Source::File(_), Source::Inline(_)) => {
            let problem = "is sent along, and its certificate is in a file: send both, or name the files of both";
            at.field("private_key").error(problem);
            return None;
        }
    };
    Some(Arc::new(carried))
}

pub(super) fn content(source: Source) -> Content {
    match source {
        Source::Inline(bytes) => Content::Inline(bytes.into()),
        Source::File(file) => Content::File(file),
    }
}

/// S9: whoever reads along on the way to the control plane has the key.
fn inline(chain: &[u8], key: &[u8], at: &At<'_>) -> Option<Carried> {
    if !at.report().local.keys_may_come {
        let problem = "came over a connection in plaintext, and is not used: reach the control plane by TLS \
                       (`channel_creds`) or a Unix socket, or let a certificate provider have the key";
        at.field("private_key").error(problem);
        return None;
    }
    match Identity::from_pem(chain, key) {
        Ok(identity) => Some(Carried::Inline(KeyMaterial::new().identity(identity))),
        Err(error) => {
            at.error(error.report());
            None
        }
    }
}

/// The roots that a context carries or names in `trusted_ca`, if it does.
pub(super) fn roots(
    context: &proto::CertificateValidationContext,
    vouching: Vouching,
    at: &At<'_>,
) -> Option<Arc<Carried>> {
    let message = context.trusted_ca.as_ref()?;
    let is_watched = is_watched(context) || message.watched_directory.is_some();
    let carried = match read(message, &at.field("trusted_ca"))? {
        Source::Inline(pem) => match TrustBundle::from_certificates(&pem) {
            Ok(trust) => carried(trust, || FilesOf::Roots(Content::Inline(pem.into())), vouching, is_watched),
            Err(error) => {
                at.field("trusted_ca").error(error.report());
                return None;
            }
        },
        Source::File(file) => {
            Carried::Files(CarriedFiles { what: FilesOf::Roots(Content::File(file)), vouching, is_watched })
        }
    };
    Some(Arc::new(carried))
}

/// Whether the folder of a context's files is to be watched.
pub(super) fn is_watched(context: &proto::CertificateValidationContext) -> bool {
    let lists = context.crl.as_ref().is_some_and(|lists| lists.watched_directory.is_some());
    lists || context.watched_directory.is_some()
}

/// Roots that were sent along: `what`, for the case that the lists which limit them are in a file.
pub(super) fn carried(
    trust: TrustBundle,
    what: impl FnOnce() -> FilesOf,
    vouching: Vouching,
    is_watched: bool,
) -> Carried {
    match vouching.revoked_in {
        Some(_) => Carried::Files(CarriedFiles { what: what(), vouching, is_watched }),
        None => Carried::Inline(KeyMaterial::new().trust(vouching.limit(trust))),
    }
}

/// What a data source has, if that is not too much.
pub(super) fn read(message: &DataSource, at: &At<'_>) -> Option<Source> {
    match source(message, at) {
        Some(Source::Inline(bytes)) if bytes.len() > MAX_INLINE => {
            at.error(format!("has {} bytes, more than {MAX_INLINE}", bytes.len()));
            None
        }
        source => source,
    }
}

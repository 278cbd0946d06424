//! Envoy's validator for SPIFFE: each trust domain has roots of its own (`SPIFFECertValidatorConfig`).

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_xds_proto::envoy::config::core::v3::DataSource;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain as Domain;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, SpiffeCertValidatorConfig,
};

use super::certificate::{carried, content, is_watched, read};
use super::data_source::Source;
use super::place::{At, quoted};
use super::value::Extension;
use crate::identity::{Carried, CarriedFiles, Content, FilesOf, TrustBundle, TrustDomain, Vouching};
use crate::resource::verdict::Fields;

/// Nobody federates with as many.
const MAX_DOMAINS: usize = 1000;

/// The roots of the validator that a context has, if it has one; it is of this kind, or it is refused.
pub(super) fn spiffe_validator(
    context: &CertificateValidationContext,
    vouching: Vouching,
    at: &At<'_>,
) -> Option<Arc<Carried>> {
    let extension = context.custom_validator_config.as_ref()?;
    let at = &at.field("custom_validator_config");
    extension.judge(at);
    let at = &at.field("typed_config");
    let extension = Extension::open(extension.typed_config.as_ref(), at)?;
    if !extension.is::<SpiffeCertValidatorConfig>() {
        let found = quoted(&extension.type_name);
        at.error(format!("must be a SPIFFECertValidatorConfig, and is {found}: no other validator is supported"));
        return None;
    }
    let config = extension.unpack::<SpiffeCertValidatorConfig>(at)?;
    config.judge(at);
    let is_watched = is_watched(context);
    let vouching = Vouching { is_of_spiffe_validator: true, ..vouching };
    let carried = match &config.trust_bundles {
        Some(map) => bundle_map(map, vouching, &at.field("trust_bundles")),
        None => domains(&config.trust_domains, vouching, is_watched, at),
    };
    carried.map(Arc::new)
}

/// Envoy follows the changes of such a file without being asked.
fn bundle_map(message: &DataSource, vouching: Vouching, at: &At<'_>) -> Option<Carried> {
    match read(message, at)? {
        Source::Inline(json) => {
            let text = std::str::from_utf8(&json).map_err(|_| at.error("is not UTF-8")).ok()?;
            let trust = TrustBundle::from_spiffe_bundle_map(text);
            let trust = trust.map_err(|error| at.error(error.report())).ok()?;
            Some(carried(trust, || FilesOf::BundleMap(Content::Inline(json.into())), vouching, true))
        }
        Source::File(file) => {
            let what = FilesOf::BundleMap(Content::File(file));
            Some(Carried::Files(CarriedFiles { what, vouching, is_watched: true }))
        }
    }
}

fn domains(messages: &[Domain], vouching: Vouching, mut is_watched: bool, at: &At<'_>) -> Option<Carried> {
    if messages.is_empty() || messages.len() > MAX_DOMAINS {
        at.field("trust_domains").error(format!("must be 1 to {MAX_DOMAINS}, and there are {}", messages.len()));
        return None;
    }
    let mut domains = BTreeMap::new();
    for (index, message) in messages.iter().enumerate() {
        let at = &at.item("trust_domains", index);
        let Some((name, bundle)) = domain(message, at) else { continue };
        is_watched |= message.trust_bundle.as_ref().is_some_and(|bundle| bundle.watched_directory.is_some());
        if domains.insert(name, bundle).is_some() {
            at.field("name").error(format!("{} stands twice", quoted(&message.name)));
        }
    }
    let sent: Option<Vec<_>> = domains.iter().map(|(name, bundle)| Some((name.clone(), bundle.sent()?))).collect();
    match sent {
        // A part of them is not used: the resource is refused for what is missing.
        Some(sent) => {
            let trust = TrustBundle::by_domain_in_pem(sent).ok()?;
            Some(carried(trust, || FilesOf::Domains(domains), vouching, is_watched))
        }
        None => Some(Carried::Files(CarriedFiles { what: FilesOf::Domains(domains), vouching, is_watched })),
    }
}

fn domain(message: &Domain, at: &At<'_>) -> Option<(TrustDomain, Content)> {
    message.judge(at);
    let name = message.name.parse::<TrustDomain>();
    let name = name.map_err(|error| at.field("name").error(error.report())).ok();
    let bundle = at.required("trust_bundle", message.trust_bundle.as_ref())?;
    let at = &at.field("trust_bundle");
    let bundle = content(read(bundle, at)?);
    if let Some(pem) = bundle.sent() {
        TrustBundle::from_certificates(pem).map_err(|error| at.error(error.report())).ok()?;
    }
    Some((name?, bundle))
}

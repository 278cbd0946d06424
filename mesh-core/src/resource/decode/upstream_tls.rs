//! `UpstreamTlsContext` (A29, A82, A101).
//!
//! What would leave a connection less protected than the context asks is refused, as nothing here is ever left out.

use std::sync::Arc;

use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as proto;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CertificateProviderInstance, CombinedCertificateValidationContext, ValidationContextType,
};
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use mesh_xds_proto::envoy::r#type::matcher::v3::StringMatcher;
use prost::Message;
use rustls_pki_types::DnsName;

use super::place::{At, quoted};
use super::route_match::string_match;
use crate::identity::NameKind;
use crate::resource::upstream_tls::{NameMatch, RootsFrom, UpstreamTls};
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
    let validation = validation(common, at)?;
    let is_checked = !validation.names.is_empty() || message.auto_sni_san_validation;
    if validation.roots == RootsFrom::System && !is_checked {
        let problem = "with the system's roots every certificate of the web would do: match names of the peer, or set \
                       `auto_sni_san_validation`";
        at.error(problem);
    }
    Some(UpstreamTls {
        identity: identity?,
        roots: validation.roots,
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

/// The provider of the own certificate, in either generation of fields; the newer goes first.
fn identity(common: &proto::CommonTlsContext, at: &At<'_>) -> Option<Option<Arc<str>>> {
    if let Some(instance) = &common.tls_certificate_provider_instance {
        return provider(instance, &at.field("tls_certificate_provider_instance")).map(Some);
    }
    if let Some(instance) = &common.tls_certificate_certificate_provider_instance {
        return older(instance, &at.field("tls_certificate_certificate_provider_instance")).map(Some);
    }
    let others = [
        ("tls_certificates", !common.tls_certificates.is_empty()),
        ("tls_certificate_sds_secret_configs", !common.tls_certificate_sds_secret_configs.is_empty()),
    ];
    for (field, _) in others.iter().filter(|(_, is_set)| *is_set) {
        at.field(field).error("is not supported yet: certificates come from `tls_certificate_provider_instance` (A29)");
    }
    Some(None)
}

struct Validation {
    roots: RootsFrom,
    names: Vec<NameMatch>,
}

fn validation(common: &proto::CommonTlsContext, at: &At<'_>) -> Option<Validation> {
    match &common.validation_context_type {
        Some(ValidationContextType::ValidationContext(context)) => {
            let at = &at.field("validation_context");
            let (roots, names) = context_of(context, at);
            missing(roots, at).map(|roots| Validation { roots, names })
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            combined_validation(combined, &at.field("combined_validation_context"))
        }
        Some(ValidationContextType::ValidationContextCertificateProviderInstance(instance)) => {
            let roots = older(instance, &at.field("validation_context_certificate_provider_instance"))?;
            Some(Validation { roots: RootsFrom::Provider(roots), names: Vec::new() })
        }
        // Refused by the table.
        Some(_) => None,
        None => missing(None, at).map(|roots| Validation { roots, names: Vec::new() }),
    }
}

fn combined_validation(combined: &CombinedCertificateValidationContext, at: &At<'_>) -> Option<Validation> {
    combined.judge(at);
    let default = combined.default_validation_context.as_ref();
    let context = default.map(|context| context_of(context, &at.field("default_validation_context")));
    let (roots, names) = context.unwrap_or((None, Vec::new()));
    let roots = match (&roots, &combined.validation_context_certificate_provider_instance) {
        (Some(RootsFrom::Provider(_)), _) | (_, None) => roots,
        (_, Some(instance)) => {
            let field = "validation_context_certificate_provider_instance";
            Some(RootsFrom::Provider(older(instance, &at.field(field))?))
        }
    };
    missing(roots, at).map(|roots| Validation { roots, names })
}

/// Without roots a client would trust anyone.
fn missing(roots: Option<RootsFrom>, at: &At<'_>) -> Option<RootsFrom> {
    if roots.is_none() {
        at.error("no roots to trust: set `ca_certificate_provider_instance` (A29) or `system_root_certs` (A82)");
    }
    roots
}

fn context_of(context: &proto::CertificateValidationContext, at: &At<'_>) -> (Option<RootsFrom>, Vec<NameMatch>) {
    context.judge(at);
    let roots = match (&context.ca_certificate_provider_instance, &context.system_root_certs) {
        (Some(instance), _) => {
            provider(instance, &at.field("ca_certificate_provider_instance")).map(RootsFrom::Provider)
        }
        (None, Some(_)) => Some(RootsFrom::System),
        (None, None) => None,
    };
    (roots, names(context, at))
}

/// The typed matchers replace the others, as in Envoy.
fn names(context: &proto::CertificateValidationContext, at: &At<'_>) -> Vec<NameMatch> {
    let typed = context.match_typed_subject_alt_names.iter().enumerate();
    let typed: Vec<_> = typed
        .filter_map(|(index, matcher)| typed_name(matcher, &at.item("match_typed_subject_alt_names", index)))
        .collect();
    if !context.match_typed_subject_alt_names.is_empty() {
        return typed;
    }
    let untyped = context.match_subject_alt_names.iter().enumerate();
    untyped.filter_map(|(index, matcher)| name(None, matcher, &at.item("match_subject_alt_names", index))).collect()
}

fn typed_name(matcher: &proto::SubjectAltNameMatcher, at: &At<'_>) -> Option<NameMatch> {
    matcher.judge(at);
    let kind = match SanType::try_from(matcher.san_type) {
        Ok(SanType::Email) => NameKind::Email,
        Ok(SanType::Dns) => NameKind::Dns,
        Ok(SanType::Uri) => NameKind::Uri,
        Ok(SanType::IpAddress) => NameKind::Ip,
        _ => {
            at.field("san_type").error("must be EMAIL, DNS, URI or IP_ADDRESS");
            return None;
        }
    };
    name(Some(kind), at.required("matcher", matcher.matcher.as_ref())?, &at.field("matcher"))
}

fn name(kind: Option<NameKind>, matcher: &StringMatcher, at: &At<'_>) -> Option<NameMatch> {
    Some(NameMatch::new(kind, string_match(matcher, at)?, matcher.encode_to_vec()))
}

fn provider(instance: &proto::CertificateProviderPluginInstance, at: &At<'_>) -> Option<Arc<str>> {
    instance.judge(at);
    known(&instance.instance_name, at)
}

/// The form that came before `CertificateProviderPluginInstance`, and is still sent beside it.
fn older(instance: &CertificateProviderInstance, at: &At<'_>) -> Option<Arc<str>> {
    instance.judge(at);
    known(&instance.instance_name, at)
}

fn known(name: &str, at: &At<'_>) -> Option<Arc<str>> {
    let known = at.report().local.certificate_providers.get(name).cloned();
    if known.is_none() {
        let names: Vec<&str> = at.report().local.certificate_providers.iter().map(|name| &**name).collect();
        let there_are = match &names[..] {
            [] => "there is none".to_owned(),
            names => format!("there are {}", names.join(", ")),
        };
        let problem = format!("{} is not a certificate provider of this process: {there_are}", quoted(name));
        at.field("instance_name").error(problem);
    }
    known
}

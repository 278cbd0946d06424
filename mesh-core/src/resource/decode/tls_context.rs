//! `CommonTlsContext`: what the TLS contexts of clusters and of filter chains have in common (A29).

use std::sync::Arc;

use mesh_xds_proto::envoy::config::core::v3::DataSource;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as proto;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CertificateProviderInstance, CombinedCertificateValidationContext, ValidationContextType,
};
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use mesh_xds_proto::envoy::r#type::matcher::v3::StringMatcher;
use prost::Message;

use super::data_source::{Source, source};
use super::http_filter::Side;
use super::place::{At, quoted};
use super::route_match::string_match;
use crate::error::with_causes;
use crate::identity::{NameKind, RevocationLists};
use crate::resource::upstream_tls::{NameMatch, RootsFrom};
use crate::resource::verdict::Fields;

/// The provider of the own certificate, in either generation of fields; the newer goes first.
pub(super) fn identity(common: &proto::CommonTlsContext, at: &At<'_>) -> Option<Option<Arc<str>>> {
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

/// Whom to believe, and which names.
pub(super) struct Validation {
    /// Of a client they are there, or it was said what is wrong.
    pub(super) roots: Option<RootsFrom>,
    pub(super) revoked: Option<RevocationLists>,
    pub(super) names: Vec<NameMatch>,
}

pub(super) fn validation(common: &proto::CommonTlsContext, side: Side, at: &At<'_>) -> Option<Validation> {
    let none = Validation { roots: None, revoked: None, names: Vec::new() };
    match &common.validation_context_type {
        Some(ValidationContextType::ValidationContext(context)) => {
            let at = &at.field("validation_context");
            Some(complete(context_of(context, side, at), side, at))
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            combined_validation(combined, side, &at.field("combined_validation_context"))
        }
        Some(ValidationContextType::ValidationContextCertificateProviderInstance(instance)) => {
            let roots = older(instance, &at.field("validation_context_certificate_provider_instance"))?;
            Some(Validation { roots: Some(RootsFrom::Provider(roots)), ..none })
        }
        // Refused by the table.
        Some(_) => None,
        None => Some(complete(none, side, at)),
    }
}

fn combined_validation(combined: &CombinedCertificateValidationContext, side: Side, at: &At<'_>) -> Option<Validation> {
    combined.judge(at);
    let default = combined.default_validation_context.as_ref();
    let mut validation = match default {
        Some(context) => context_of(context, side, &at.field("default_validation_context")),
        None => Validation { roots: None, revoked: None, names: Vec::new() },
    };
    let instance = &combined.validation_context_certificate_provider_instance;
    if let (None | Some(RootsFrom::System), Some(instance)) = (&validation.roots, instance) {
        let field = "validation_context_certificate_provider_instance";
        validation.roots = Some(RootsFrom::Provider(older(instance, &at.field(field))?));
    }
    Some(complete(validation, side, at))
}

/// Without roots a client would trust anyone, and a server could not hold its callers to names.
fn complete(validation: Validation, side: Side, at: &At<'_>) -> Validation {
    match (&validation.roots, side) {
        (None, Side::Client) => {
            at.error("no roots to trust: set `ca_certificate_provider_instance` (A29) or `system_root_certs` (A82)");
        }
        (None, Side::Server) if !validation.names.is_empty() || validation.revoked.is_some() => {
            let problem = "callers are to be held to names or revocation lists, and no roots vouch for them: set \
                           `ca_certificate_provider_instance` (A29)";
            at.error(problem);
        }
        _ => {}
    }
    validation
}

fn context_of(context: &proto::CertificateValidationContext, side: Side, at: &At<'_>) -> Validation {
    context.judge(at);
    let roots = match (&context.ca_certificate_provider_instance, &context.system_root_certs, side) {
        (Some(instance), _, _) => {
            provider(instance, &at.field("ca_certificate_provider_instance")).map(RootsFrom::Provider)
        }
        (None, Some(_), Side::Client) => Some(RootsFrom::System),
        (None, Some(_), Side::Server) => {
            at.field("system_root_certs").error("is for clients (A82)");
            None
        }
        (None, None, _) => {
            if let Some(roots) = &context.trusted_ca {
                trusted_ca(roots, &at.field("trusted_ca"));
            }
            None
        }
    };
    let revoked = context.crl.as_ref().and_then(|lists| revoked(lists, &at.field("crl")));
    let revoked = revoked.map(|lists| if context.only_verify_leaf_cert_crl { lists.leaf_only() } else { lists });
    Validation { roots, revoked, names: names(context, at) }
}

fn revoked(message: &DataSource, at: &At<'_>) -> Option<RevocationLists> {
    match source(message, at)? {
        Source::Inline(pem) => {
            let lists = RevocationLists::from_pem(&pem);
            lists.map_err(|error| at.error(with_causes(&error))).ok()
        }
        Source::File(_) => {
            let field = at.field("filename");
            field.error("is not supported yet: send the lists inline, or give the provider of the roots a folder of them in code");
            None
        }
    }
}

fn trusted_ca(message: &DataSource, at: &At<'_>) {
    if source(message, at).is_some() {
        at.error("is not supported yet: roots come from `ca_certificate_provider_instance` (A29) or `system_root_certs` (A82)");
    }
}

/// The matchers are a set: another order asks for the same.
fn names(context: &proto::CertificateValidationContext, at: &At<'_>) -> Vec<NameMatch> {
    let mut names = listed_names(context, at);
    names.sort_by(NameMatch::compare);
    names.dedup();
    names
}

/// The typed matchers replace the others, as in Envoy.
fn listed_names(context: &proto::CertificateValidationContext, at: &At<'_>) -> Vec<NameMatch> {
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

//! `CommonTlsContext`: what the TLS contexts of clusters and of filter chains have in common (A29).

use std::sync::Arc;

use mesh_xds_proto::envoy::config::core::v3::data_source::Specifier;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as proto;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CertificateProviderInstance, CombinedCertificateValidationContext, ValidationContextType,
};
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use mesh_xds_proto::envoy::r#type::matcher::v3::StringMatcher;
use prost::Message;

use super::certificate::{certificate, roots};
use super::data_source::{Source, source};
use super::http_filter::Side;
use super::place::{At, quoted};
use super::route_match::string_match;
use super::secret::asked;
use super::spiffe_validator::spiffe_validator;
use crate::error::with_causes;
use crate::identity::{ListsFile, MaterialSource, NameKind, Part, RevocationLists, Vouching};
use crate::resource::upstream_tls::{NameMatch, RootsFrom};
use crate::resource::verdict::Fields;

/// Where the own certificate comes from. Of several that are set, the first of these: a provider, in either generation of
/// fields, a secret, what is sent along.
pub(super) fn identity(common: &proto::CommonTlsContext, at: &At<'_>) -> Option<Option<MaterialSource>> {
    let (secrets, carried) = (&common.tls_certificate_sds_secret_configs, &common.tls_certificates);
    let is_set = |is_set: bool, field| is_set.then_some(field);
    let set = [
        is_set(common.tls_certificate_provider_instance.is_some(), "tls_certificate_provider_instance"),
        is_set(
            common.tls_certificate_certificate_provider_instance.is_some(),
            "tls_certificate_certificate_provider_instance",
        ),
        is_set(!secrets.is_empty(), SECRETS),
        is_set(!carried.is_empty(), CARRIED),
    ];
    for later in set.into_iter().flatten().skip(1).filter(|field| [SECRETS, CARRIED].contains(field)) {
        at.field(later).ignored("the certificate comes from elsewhere");
    }
    if let Some(instance) = &common.tls_certificate_provider_instance {
        return provider(instance, &at.field("tls_certificate_provider_instance")).map(Some);
    }
    if let Some(instance) = &common.tls_certificate_certificate_provider_instance {
        return older(instance, &at.field("tls_certificate_certificate_provider_instance")).map(Some);
    }
    if let Some(secret) = only(secrets, SECRETS, at) {
        return asked(secret, Part::Identity, &at.item(SECRETS, 0)).map(Some);
    }
    match only(carried, CARRIED, at) {
        Some(pair) => certificate(pair, &at.item(CARRIED, 0)).map(|pair| Some(MaterialSource::Carried(pair))),
        None => Some(None),
    }
}

const SECRETS: &str = "tls_certificate_sds_secret_configs";
const CARRIED: &str = "tls_certificates";

/// The first; others are wrong.
fn only<'a, T>(all: &'a [T], field: &'static str, at: &At<'_>) -> Option<&'a T> {
    if all.len() > 1 {
        at.field(field).error(format!("is one certificate at most, and there are {}", all.len()));
    }
    all.first()
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
            Some(Validation { roots: Some(RootsFrom::Source(roots)), ..none })
        }
        Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) => {
            let roots = asked(secret, Part::Roots, &at.field("validation_context_sds_secret_config"))?;
            Some(Validation { roots: Some(RootsFrom::Source(roots)), ..none })
        }
        // Refused by the table.
        Some(_) => None,
        None => Some(complete(none, side, at)),
    }
}

fn combined_validation(combined: &CombinedCertificateValidationContext, side: Side, at: &At<'_>) -> Option<Validation> {
    combined.judge(at);
    let default = combined.default_validation_context.as_ref();
    let beside = combined.validation_context_certificate_provider_instance.is_some()
        || combined.validation_context_sds_secret_config.is_some();
    if let (true, Some(_)) = (beside, default.and_then(|default| default.custom_validator_config.as_ref())) {
        let at = &at.field("default_validation_context");
        at.field(VALIDATOR).error("the roots come from beside it: have the secret carry the validator");
    }
    let mut validation = match default {
        Some(context) => context_of(context, side, &at.field("default_validation_context")),
        None => Validation { roots: None, revoked: None, names: Vec::new() },
    };
    // A provider that the default names goes before all else; what is left comes to it from beside it.
    let is_provided = matches!(&validation.roots, Some(RootsFrom::Source(MaterialSource::Provider(_))));
    if beside && !is_provided && default.is_some_and(|default| default.trusted_ca.is_some() && has_lists_file(default))
    {
        at.field("default_validation_context").field("crl").field("filename").error(LISTS_FILE_ALONE);
    }
    let secret = &combined.validation_context_sds_secret_config;
    if let (false, Some(instance)) = (is_provided, &combined.validation_context_certificate_provider_instance) {
        let field = "validation_context_certificate_provider_instance";
        validation.roots = Some(RootsFrom::Source(older(instance, &at.field(field))?));
    } else if let (false, Some(secret)) = (is_provided, secret) {
        let roots = asked(secret, Part::Roots, &at.field(COMBINED_SECRET))?;
        validation.roots = Some(RootsFrom::Source(roots));
        return Some(validation);
    }
    if secret.is_some() {
        at.field(COMBINED_SECRET).ignored("the roots come from elsewhere");
    }
    Some(complete(validation, side, at))
}

pub(super) const VALIDATED: &str = "the roots are those of `custom_validator_config`";
const VALIDATOR: &str = "custom_validator_config";
const COMBINED_SECRET: &str = "validation_context_sds_secret_config";

/// The file is read with the roots of its own context: beside others, nobody would look at it.
const LISTS_FILE_ALONE: &str = "is a file, which goes with the file of roots (`trusted_ca`): send the lists inline, or \
                                give the provider of the roots a folder of them in code";

/// Without roots a client would trust anyone, and a server could not hold its callers to names.
fn complete(validation: Validation, side: Side, at: &At<'_>) -> Validation {
    match (&validation.roots, side) {
        (None, Side::Client) => {
            at.error(
                "no roots to trust: set `ca_certificate_provider_instance` (A29), `system_root_certs` (A82), \
                 `trusted_ca` or a secret (SDS)",
            );
        }
        (None, Side::Server) if !validation.names.is_empty() || validation.revoked.is_some() => {
            let problem = "callers are to be held to names or revocation lists, and no roots vouch for them: set \
                           `ca_certificate_provider_instance` (A29), `trusted_ca` or a secret (SDS)";
            at.error(problem);
        }
        _ => {}
    }
    validation
}

fn context_of(context: &proto::CertificateValidationContext, side: Side, at: &At<'_>) -> Validation {
    context.judge(at);
    let (revoked, revoked_in) = revocation(context, at);
    let vouching = || Vouching { revoked_in: revoked_in.clone(), ..Vouching::default() };
    let is_provided = context.ca_certificate_provider_instance.is_some() || context.trusted_ca.is_none();
    if revoked_in.is_some() && context.custom_validator_config.is_none() && is_provided {
        at.field("crl").field("filename").error(LISTS_FILE_ALONE);
    }
    let roots = match (&context.ca_certificate_provider_instance, &context.trusted_ca, &context.system_root_certs) {
        _ if context.custom_validator_config.is_some() => {
            sole(context, at);
            let roots = spiffe_validator(context, vouching(), at);
            roots.map(|roots| RootsFrom::Source(MaterialSource::Carried(roots)))
        }
        (Some(instance), ..) => {
            provider(instance, &at.field("ca_certificate_provider_instance")).map(RootsFrom::Source)
        }
        (None, Some(_), _) => {
            roots(context, vouching(), at).map(|roots| RootsFrom::Source(MaterialSource::Carried(roots)))
        }
        (None, None, Some(_)) if side == Side::Client => Some(RootsFrom::System),
        (None, None, Some(_)) => {
            at.field("system_root_certs").error("is for clients (A82)");
            None
        }
        (None, None, None) => None,
    };
    Validation { roots, revoked, names: names(context, at) }
}

/// Of roots beside a validator, which has its own: those of `trusted_ca` are left out, as in Envoy.
fn sole(context: &proto::CertificateValidationContext, at: &At<'_>) {
    let others = [
        ("ca_certificate_provider_instance", context.ca_certificate_provider_instance.is_some()),
        ("system_root_certs", context.system_root_certs.is_some()),
    ];
    for (field, _) in others.iter().filter(|(_, is_set)| *is_set) {
        at.field(field).error("the roots are those of `custom_validator_config`: set one of the two");
    }
    if context.trusted_ca.is_some() {
        at.field("trusted_ca").ignored(VALIDATED);
    }
}

/// The revocation lists of a context: those that it carries, and the file that it names.
pub(super) fn revocation(
    context: &proto::CertificateValidationContext,
    at: &At<'_>,
) -> (Option<RevocationLists>, Option<ListsFile>) {
    let leaf_only = context.only_verify_leaf_cert_crl;
    let at = &at.field("crl");
    match context.crl.as_ref().and_then(|lists| source(lists, at)) {
        Some(Source::Inline(pem)) => {
            let lists = RevocationLists::from_pem(&pem).map_err(|error| at.error(with_causes(&error))).ok();
            (lists.map(|lists| if leaf_only { lists.leaf_only() } else { lists }), None)
        }
        Some(Source::File(file)) => (None, Some(ListsFile { file, leaf_only })),
        None => (None, None),
    }
}

fn has_lists_file(context: &proto::CertificateValidationContext) -> bool {
    let specifier = context.crl.as_ref().and_then(|lists| lists.specifier.as_ref());
    matches!(specifier, Some(Specifier::Filename(_)))
}

/// The matchers are a set: another order asks for the same.
pub(super) fn names(context: &proto::CertificateValidationContext, at: &At<'_>) -> Vec<NameMatch> {
    let mut names = listed_names(context, at);
    names.sort_by(NameMatch::compare);
    names.dedup();
    names
}

/// The typed matchers replace the others, as in Envoy.
fn listed_names(context: &proto::CertificateValidationContext, at: &At<'_>) -> Vec<NameMatch> {
    let typed = context.match_typed_subject_alt_names.iter().enumerate();
    let uri_alone = context.custom_validator_config.is_some();
    let typed: Vec<_> = typed
        .filter_map(|(index, matcher)| typed_name(matcher, uri_alone, &at.item("match_typed_subject_alt_names", index)))
        .collect();
    if !context.match_typed_subject_alt_names.is_empty() {
        return typed;
    }
    let untyped = context.match_subject_alt_names.iter().enumerate();
    untyped.filter_map(|(index, matcher)| name(None, matcher, &at.item("match_subject_alt_names", index))).collect()
}

fn typed_name(matcher: &proto::SubjectAltNameMatcher, uri_alone: bool, at: &At<'_>) -> Option<NameMatch> {
    matcher.judge(at);
    let kind = match SanType::try_from(matcher.san_type) {
        // Envoy leaves others out, and without any that is left everybody would be let in.
        Ok(kind) if uri_alone && kind != SanType::Uri => {
            at.field("san_type").error("must be URI: a validator for SPIFFE matches nothing else");
            return None;
        }
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

fn provider(instance: &proto::CertificateProviderPluginInstance, at: &At<'_>) -> Option<MaterialSource> {
    instance.judge(at);
    known(&instance.instance_name, at).map(MaterialSource::Provider)
}

/// The form that came before `CertificateProviderPluginInstance`, and is still sent beside it.
fn older(instance: &CertificateProviderInstance, at: &At<'_>) -> Option<MaterialSource> {
    instance.judge(at);
    known(&instance.instance_name, at).map(MaterialSource::Provider)
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

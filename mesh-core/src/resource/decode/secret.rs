//! Secrets: those that a TLS context asks for (`SdsSecretConfig`), and what comes (`Secret`).

use std::sync::Arc;

use mesh_xds_proto::envoy::config::core::v3::ApiConfigSource;
use mesh_xds_proto::envoy::config::core::v3::api_config_source::ApiType;
use mesh_xds_proto::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use mesh_xds_proto::envoy::config::core::v3::grpc_service::google_grpc::channel_credentials::CredentialSpecifier;
use mesh_xds_proto::envoy::config::core::v3::grpc_service::{GoogleGrpc, TargetSpecifier};
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as proto;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::secret::Type;

use super::certificate::{certificate, roots};
use super::place::{At, quoted};
use super::spiffe_validator::spiffe_validator;
use super::tls_context::{VALIDATED, names, revocation};
use crate::identity::{MaterialSource, Part, PeerNames, SecretServer, SecretSource, Vouching};
use crate::resource::secret::Secret;
use crate::resource::upstream_tls::NameMatch;
use crate::resource::verdict::Fields;

pub(super) fn secret(message: proto::Secret, at: &At<'_>) -> Option<Secret> {
    message.judge(at);
    match &message.r#type {
        Some(Type::TlsCertificate(pair)) => {
            let material = certificate(pair, &at.field("tls_certificate"))?;
            Some(Secret { part: Part::Identity, material })
        }
        Some(Type::ValidationContext(context)) => validation(context, &at.field("validation_context")),
        // Refused by the table.
        Some(Type::SessionTicketKeys(_) | Type::GenericSecret(_)) => None,
        None => {
            at.field("type").error("must be a `tls_certificate` or a `validation_context`");
            None
        }
    }
}

/// Roots, and which of those are meant whom they vouch for.
fn validation(context: &proto::CertificateValidationContext, at: &At<'_>) -> Option<Secret> {
    context.judge(at);
    let elsewhere = [
        ("ca_certificate_provider_instance", context.ca_certificate_provider_instance.is_some()),
        ("system_root_certs", context.system_root_certs.is_some()),
    ];
    for (field, _) in elsewhere.iter().filter(|(_, is_set)| *is_set) {
        at.field(field).error("a secret has the roots itself: set `trusted_ca`, or `custom_validator_config`");
    }
    let names = names(context, at);
    let (revoked, revoked_in) = revocation(context, at);
    let vouching = Vouching { peers: peers(names), revoked, revoked_in, ..Vouching::default() };
    let roots = match (&context.custom_validator_config, &context.trusted_ca) {
        (Some(_), trusted_ca) => {
            if trusted_ca.is_some() {
                at.field("trusted_ca").ignored(VALIDATED);
            }
            spiffe_validator(context, vouching, at)
        }
        (None, Some(_)) => roots(context, vouching, at),
        (None, None) => {
            at.field("trusted_ca").error("must be set, or `custom_validator_config`");
            None
        }
    };
    Some(Secret { part: Part::Roots, material: roots? })
}

fn peers(names: Vec<NameMatch>) -> Option<PeerNames> {
    if names.is_empty() {
        return None;
    }
    let written: Vec<u8> = names.iter().flat_map(NameMatch::written).collect();
    Some(PeerNames::new(written, move |kind, name| names.iter().any(|wanted| wanted.matches(kind, name))))
}

/// Where the secret is that is asked for.
pub(super) fn asked(config: &proto::SdsSecretConfig, part: Part, at: &At<'_>) -> Option<MaterialSource> {
    config.judge(at);
    if config.name.is_empty() {
        at.field("name").error("must be set");
    }
    let source = config.sds_config.as_ref();
    if source.is_none() {
        at.field("sds_config").error("must be set: there are no static secrets, as Envoy's bootstrap has them");
    }
    let (source, at) = (source?, &at.field("sds_config"));
    source.judge(at);
    let server = match &source.config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => SecretServer::ControlPlane,
        Some(ConfigSourceSpecifier::ApiConfigSource(api)) => agent(api, &at.field("api_config_source"))?,
        // Refused by the table.
        Some(ConfigSourceSpecifier::Path(_) | ConfigSourceSpecifier::PathConfigSource(_)) => return None,
        None => {
            at.error("must be `ads`, `self` or `api_config_source`");
            return None;
        }
    };
    let secret = SecretSource { name: config.name.as_str().into(), at: server, part };
    Some(MaterialSource::Secret(Arc::new(secret)))
}

/// An agent on this machine.
fn agent(api: &ApiConfigSource, at: &At<'_>) -> Option<SecretServer> {
    api.judge(at);
    if api.api_type != ApiType::Grpc as i32 {
        let found = ApiType::try_from(api.api_type).map_or("no known type", |known| known.as_str_name());
        at.field("api_type").error(format!("must be GRPC, and is {found}"));
    }
    let [service] = &api.grpc_services[..] else {
        at.field("grpc_services").error(format!("must be one, and there are {}", api.grpc_services.len()));
        return None;
    };
    let at = &at.item("grpc_services", 0);
    service.judge(at);
    if service.timeout.is_some() {
        at.field("timeout").ignored("a stream has none");
    }
    match &service.target_specifier {
        Some(TargetSpecifier::GoogleGrpc(target)) => socket(target, &at.field("google_grpc")),
        Some(TargetSpecifier::EnvoyGrpc(_)) => {
            let problem = "is a cluster of Envoy's own bootstrap, and there is none here: name the agent's socket by \
                           `google_grpc.target_uri`, or use `ads`";
            at.field("envoy_grpc").error(problem);
            None
        }
        None => {
            at.error("must have a `google_grpc`");
            None
        }
    }
}

fn socket(target: &GoogleGrpc, at: &At<'_>) -> Option<SecretServer> {
    target.judge(at);
    let credentials = target.channel_credentials.as_ref().and_then(|known| known.credential_specifier.as_ref());
    if !matches!(credentials, None | Some(CredentialSpecifier::LocalCredentials(_))) {
        at.field("channel_credentials").error("a Unix socket has `local_credentials` alone");
    }
    if !target.call_credentials.is_empty() {
        at.field("call_credentials").error("are not supported at a Unix socket");
    }
    let (uri, at) = (&target.target_uri, &at.field("target_uri"));
    let Some(path) = uri.strip_prefix("unix:") else {
        let next = "an agent is asked at its Unix socket, `unix:/path`, and others by `ads`";
        at.error(format!("{} is no Unix socket: {next}", quoted(uri)));
        return None;
    };
    // Of `unix:///path`; Istio's is `unix:./path`.
    let path = path.strip_prefix("//").unwrap_or(path);
    let absolute = std::path::absolute(path).ok();
    let absolute = absolute.as_ref().and_then(|path| path.to_str()).unwrap_or(path);
    let file = at.report().local.folders.named(absolute);
    file.map_err(|problem| at.error(format!("{} {problem}", quoted(absolute)))).ok().map(SecretServer::Socket)
}

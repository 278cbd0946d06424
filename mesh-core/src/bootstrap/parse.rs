//! JSON to [`Bootstrap`](super::Bootstrap): one function per section of A27's format.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::certificate_providers::certificate_providers;
use super::fields::{Fields, Problem, text};
use super::server_uri::ServerAddress;
use super::{ChannelCredentials, Inner, LocalityConfig, NodeConfig, ServerConfig, ServerFeatures, TlsFiles};

pub(super) const DEFAULT_REFRESH_INTERVAL: Duration = Duration::from_secs(600);

pub(super) fn bootstrap(value: Value) -> Result<Inner, Problem> {
    let mut ignored = Vec::new();
    let mut fields = Fields::new("", value)?;
    let server = servers(&mut fields, &mut ignored)?;
    let node = node(&mut fields, &mut ignored)?;
    let certificate_providers = certificate_providers(&mut fields, &mut ignored)?;
    let server_listener_template = fields.string("server_listener_resource_name_template")?;
    let client_listener_template = fields.string("client_default_listener_resource_name_template")?;
    authorities(&mut fields, &mut ignored)?;
    let allowed_grpc_services = allowed_grpc_services(&mut fields, &mut ignored)?;
    fields.finish(&mut ignored);
    Ok(Inner {
        server,
        node,
        client_listener_template,
        server_listener_template,
        certificate_providers,
        allowed_grpc_services,
        ignored,
    })
}

fn servers(fields: &mut Fields, ignored: &mut Vec<String>) -> Result<ServerConfig, Problem> {
    let path = fields.at("xds_servers");
    let mut servers = fields.list("xds_servers")?.into_iter();
    let Some((first, value)) = servers.next() else {
        let cure = r#"add "xds_servers": [{"server_uri": "HOST:PORT", "channel_creds": [{"type": "insecure"}]}]"#;
        return Err(Problem::new(path, "missing or empty, but a control plane is required").cure(cure));
    };
    let server = server(&first, value, ignored)?;
    ignored.extend(servers.map(|(path, _)| format!("{path}: fallback between servers (A71) is not acted on")));
    Ok(server)
}

fn server(path: &str, value: Value, ignored: &mut Vec<String>) -> Result<ServerConfig, Problem> {
    let mut fields = Fields::new(path, value)?;
    let uri = fields.required_string("server_uri")?;
    let at = fields.at("server_uri");
    let server = reached_by(&uri, &at, &mut fields, ignored)?;
    let features = server_features(&mut fields, ignored)?;
    fields.finish(ignored);
    Ok(ServerConfig { features, ..server })
}

/// What is reached by the URI that stands `at` a place, with the credentials in `fields`.
fn reached_by(uri: &str, at: &str, fields: &mut Fields, ignored: &mut Vec<String>) -> Result<ServerConfig, Problem> {
    let (address, wants_tls) =
        ServerAddress::parse(uri).map_err(|problem| Problem::new(at, format!("`{uri}`: {problem}")))?;
    let credentials = channel_creds(fields, ignored)?;
    if wants_tls && credentials == ChannelCredentials::Insecure {
        let problem = format!("`{uri}` asks for TLS, but the credentials are insecure");
        return Err(Problem::new(at, problem).cure(r#"use "channel_creds": [{"type": "tls"}], or drop the scheme"#));
    }
    let tokens = call_creds(fields, ignored)?;
    if !tokens.is_empty() && credentials == ChannelCredentials::Insecure {
        let problem = "a token is never sent in plaintext, and the channel credentials are insecure";
        return Err(Problem::new(fields.at("call_creds"), problem).cure(r#"use "channel_creds": [{"type": "tls"}]"#));
    }
    let features = ServerFeatures::default();
    Ok(ServerConfig { uri: uri.into(), address, credentials, tokens, server_name: None, features })
}

/// The services beside its own that the control plane may name, by their target URIs (A102).
fn allowed_grpc_services(fields: &mut Fields, ignored: &mut Vec<String>) -> Result<Vec<ServerConfig>, Problem> {
    let Some(mut services) = fields.object("allowed_grpc_services")? else { return Ok(Vec::new()) };
    let mut allowed = Vec::new();
    for uri in services.keys() {
        let at = services.at(&uri);
        let Some(mut service) = services.object(&uri)? else { continue };
        allowed.push(reached_by(&uri, &at, &mut service, ignored)?);
        service.finish(ignored);
    }
    Ok(allowed)
}

/// All supported types are applied (A97).
fn call_creds(fields: &mut Fields, ignored: &mut Vec<String>) -> Result<Vec<PathBuf>, Problem> {
    let mut tokens = Vec::new();
    for (path, value) in fields.list("call_creds")? {
        let mut entry = Fields::new(&path, value)?;
        let kind = entry.required_string("type")?;
        let config = entry.object("config")?;
        if kind == "jwt_token_file" {
            let missing = || Problem::new(entry.at("config"), "missing, but `jwt_token_file` is required");
            let mut config = config.ok_or_else(missing)?;
            tokens.push(config.required_string("jwt_token_file")?.into());
            config.finish(ignored);
        } else {
            ignored.push(format!("{path}: call credentials `{kind}` are not supported"));
        }
        entry.finish(ignored);
    }
    Ok(tokens)
}

/// The first supported type wins (A27). A supported one that is wrong is an error, never a reason to try a weaker one.
fn channel_creds(fields: &mut Fields, ignored: &mut Vec<String>) -> Result<ChannelCredentials, Problem> {
    let path = fields.at("channel_creds");
    let mut skipped = Vec::new();
    for (path, value) in fields.list("channel_creds")? {
        let mut entry = Fields::new(&path, value)?;
        let kind = entry.required_string("type")?;
        match kind.as_str() {
            "insecure" => {
                entry.remove("config");
                entry.finish(ignored);
                return Ok(ChannelCredentials::Insecure);
            }
            "tls" => {
                let files = tls_files(&mut entry, ignored)?;
                entry.finish(ignored);
                return Ok(ChannelCredentials::Tls(files));
            }
            _ => {
                ignored.push(format!("{path}: channel credentials `{kind}` are not supported"));
                skipped.push(format!("`{kind}`"));
            }
        }
    }
    let problem = match skipped.is_empty() {
        true => "missing or empty, but required".into(),
        false => format!("no supported type among {}", skipped.join(", ")),
    };
    Err(Problem::new(path, problem).cure(r#"add {"type": "tls"}, or {"type": "insecure"} for a trusted network"#))
}

fn tls_files(entry: &mut Fields, ignored: &mut Vec<String>) -> Result<TlsFiles, Problem> {
    if cfg!(not(feature = "tls")) {
        return Err(Problem::new(entry.at("type"), "`tls` needs mesh-core's feature `tls`, which is off"));
    }
    let Some(mut config) = entry.object("config")? else {
        let refresh_interval = DEFAULT_REFRESH_INTERVAL;
        return Ok(TlsFiles { ca_certificate: None, identity: None, refresh_interval });
    };
    let ca_certificate = config.string("ca_certificate_file")?.map(Into::into);
    let identity = identity_files(&mut config)?;
    let refresh_interval = config.duration("refresh_interval")?.unwrap_or(DEFAULT_REFRESH_INTERVAL);
    config.finish(ignored);
    Ok(TlsFiles { ca_certificate, identity, refresh_interval })
}

/// A certificate and its key, or neither.
pub(super) fn identity_files(config: &mut Fields) -> Result<Option<(PathBuf, PathBuf)>, Problem> {
    match (config.string("certificate_file")?, config.string("private_key_file")?) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some((certificate.into(), key.into()))),
        (Some(_), None) => Err(half(config, "private_key_file", "certificate_file")),
        (None, Some(_)) => Err(half(config, "certificate_file", "private_key_file")),
    }
}

fn half(config: &Fields, missing: &str, there: &str) -> Problem {
    Problem::new(config.at(missing), format!("missing, but `{there}` is set"))
        .cure("set both for mutual TLS, or neither")
}

fn server_features(fields: &mut Fields, ignored: &mut Vec<String>) -> Result<ServerFeatures, Problem> {
    let mut features = ServerFeatures::default();
    for (path, value) in fields.list("server_features")? {
        match text(&path, value)?.as_str() {
            // v3 is the only version there is; generators still write it.
            "xds_v3" => {}
            // A88 made it the default; `fail_on_data_errors` is the way back.
            "ignore_resource_deletion" => {}
            "fail_on_data_errors" => features.fail_on_data_errors = true,
            "resource_timer_is_transient_error" => features.resource_timer_is_transient_error = true,
            "trusted_xds_server" => features.trusted = true,
            other => ignored.push(format!("{path}: server feature `{other}` is not acted on")),
        }
    }
    Ok(features)
}

fn node(fields: &mut Fields, ignored: &mut Vec<String>) -> Result<NodeConfig, Problem> {
    let Some(mut node) = fields.object("node")? else { return Ok(NodeConfig::default()) };
    let id = node.string("id")?.unwrap_or_default().into();
    let cluster = node.string("cluster")?.unwrap_or_default();
    let locality = node.object("locality")?.map(|fields| locality(fields, ignored)).transpose()?;
    let metadata = node.object("metadata")?.map(Fields::into_map).unwrap_or_default();
    for field in ["build_version", "user_agent_name", "user_agent_version", "client_features"] {
        if node.remove(field) {
            ignored.push(format!("{}: the library fills it in", node.at(field)));
        }
    }
    node.finish(ignored);
    Ok(NodeConfig { id, cluster, locality, metadata })
}

fn locality(mut fields: Fields, ignored: &mut Vec<String>) -> Result<LocalityConfig, Problem> {
    let region = fields.string("region")?.unwrap_or_default();
    let zone = fields.string("zone")?.unwrap_or_default();
    let sub_zone = fields.string("sub_zone")?.unwrap_or_default();
    fields.finish(ignored);
    Ok(LocalityConfig { region, zone, sub_zone })
}

/// Checks what A47 makes an error of the file; nothing else of federation is acted on.
fn authorities(fields: &mut Fields, ignored: &mut Vec<String>) -> Result<(), Problem> {
    let Some(mut authorities) = fields.object("authorities")? else { return Ok(()) };
    for name in authorities.keys() {
        let Some(mut authority) = authorities.object(&name)? else { continue };
        let field = "client_listener_resource_name_template";
        let prefix = format!("xdstp://{name}/");
        if let Some(template) = authority.string(field)?.filter(|template| !template.starts_with(&prefix)) {
            let problem = format!("`{template}` does not start with `{prefix}`");
            return Err(Problem::new(authority.at(field), problem));
        }
        ignored.push(format!("{}: federation (A47) is not acted on", authorities.at(&name)));
    }
    Ok(())
}

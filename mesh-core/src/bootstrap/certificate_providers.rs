//! `certificate_providers` (A29): by name, which plugin obtains certificates and how.

#[cfg(feature = "spiffe")]
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::fields::{Fields, Problem};
use super::parse::{DEFAULT_REFRESH_INTERVAL, identity_files};
#[cfg(feature = "spiffe")]
use super::server_uri::ServerAddress;

/// One provider.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "only TLS asks for certificates"))]
pub(crate) enum ProviderConfig {
    FileWatcher(CertificateFiles),
    #[cfg(feature = "spiffe")]
    WorkloadApi(WorkloadApiConfig),
}

/// The files of the `file_watcher` certificate provider (A29, A87).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CertificateFiles {
    /// The chain of certificates and the key of its leaf.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    /// The roots to trust.
    pub(crate) ca_certificate: Option<PathBuf>,
    /// The roots to trust, by trust domain; goes before `ca_certificate`.
    pub(crate) spiffe_trust_bundle_map: Option<PathBuf>,
    /// How often the files are read anew. Default 600 s.
    pub(crate) refresh_interval: Duration,
}

impl Default for CertificateFiles {
    fn default() -> Self {
        Self {
            identity: None,
            ca_certificate: None,
            spiffe_trust_bundle_map: None,
            refresh_interval: DEFAULT_REFRESH_INTERVAL,
        }
    }
}

/// The configuration of `spiffe_workload_api`.
#[cfg(feature = "spiffe")]
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct WorkloadApiConfig {
    /// `None`: what `SPIFFE_ENDPOINT_SOCKET` says.
    pub(crate) endpoint: Option<String>,
    pub(crate) spiffe_id: Option<String>,
    pub(crate) hint: Option<String>,
}

/// By the name under which clusters ask for them. A plugin that is none of ours is listed: a cluster that asks for it is
/// refused, unless code gives the mesh one of this name.
pub(super) fn certificate_providers(
    fields: &mut Fields,
    ignored: &mut Vec<String>,
) -> Result<Vec<(Arc<str>, ProviderConfig)>, Problem> {
    let Some(mut all) = fields.object("certificate_providers")? else { return Ok(Vec::new()) };
    let mut providers = Vec::new();
    for name in all.keys() {
        let Some(mut provider) = all.object(&name)? else { continue };
        let plugin = provider.required_string("plugin_name")?;
        match plugin.as_str() {
            "file_watcher" if cfg!(feature = "tls") => {
                let files = certificate_files(&mut provider, ignored)?;
                providers.push((name.as_str().into(), ProviderConfig::FileWatcher(files)));
            }
            #[cfg(feature = "spiffe")]
            "spiffe_workload_api" => {
                let config = workload_api(&mut provider, ignored)?;
                providers.push((name.as_str().into(), ProviderConfig::WorkloadApi(config)));
            }
            _ => {
                provider.object("config")?;
                ignored.push(format!("{}: {}", all.at(&name), unsupported(&plugin)));
            }
        }
        provider.finish(ignored);
    }
    Ok(providers)
}

fn unsupported(plugin: &str) -> String {
    match plugin {
        "file_watcher" => "needs mesh-core's feature `tls`, which is off".to_owned(),
        "spiffe_workload_api" => "needs mesh-core's feature `spiffe`, which is off".to_owned(),
        _ => format!("certificate provider `{plugin}` is not supported"),
    }
}

/// The configuration of `file_watcher` (A29, A87).
fn certificate_files(provider: &mut Fields, ignored: &mut Vec<String>) -> Result<CertificateFiles, Problem> {
    let at = provider.at("config");
    let empty =
        || Problem::new(&at, "no files: set `ca_certificate_file`, or `certificate_file` and `private_key_file`");
    let mut config = provider.object("config")?.ok_or_else(empty)?;
    // A87's name for it, and that which gRPC C-core reads.
    let bundle_map = config.string("spiffe_trust_bundle_map_file")?;
    let bundle_map = bundle_map.or(config.string("spiffe_bundle_map_file")?);
    let files = CertificateFiles {
        identity: identity_files(&mut config)?,
        ca_certificate: config.string("ca_certificate_file")?.map(Into::into),
        spiffe_trust_bundle_map: bundle_map.map(Into::into),
        refresh_interval: config.duration("refresh_interval")?.unwrap_or(DEFAULT_REFRESH_INTERVAL),
    };
    config.finish(ignored);
    let is_empty =
        files.identity.is_none() && files.ca_certificate.is_none() && files.spiffe_trust_bundle_map.is_none();
    if is_empty { Err(empty()) } else { Ok(files) }
}

/// The configuration of `spiffe_workload_api`, which may be empty.
#[cfg(feature = "spiffe")]
fn workload_api(provider: &mut Fields, ignored: &mut Vec<String>) -> Result<WorkloadApiConfig, Problem> {
    let Some(mut config) = provider.object("config")? else { return Ok(WorkloadApiConfig::default()) };
    let (endpoint, spiffe_id) = (config.string("endpoint_socket")?, config.string("spiffe_id")?);
    if let Some(endpoint) = &endpoint {
        workload_api_endpoint(endpoint).map_err(|problem| Problem::new(config.at("endpoint_socket"), problem))?;
    }
    let hint = config.string("hint")?;
    config.finish(ignored);
    Ok(WorkloadApiConfig { endpoint, spiffe_id, hint })
}

/// Where a Workload API is: `unix:///path` or `tcp://IP:port` (SPIFFE Workload Endpoint, 4), of this machine; also without the slashes, as
/// gRPC writes its targets.
#[cfg(feature = "spiffe")]
pub(crate) fn workload_api_endpoint(text: &str) -> Result<ServerAddress, String> {
    let wrong =
        |problem: &str| format!("`{text}` {problem}: write `unix:///path/of/the/socket` or `tcp://127.0.0.1:port`");
    match text.split_once(':') {
        Some(("unix", path)) => {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') || path.contains(['?', '#', '\0']) {
                return Err(wrong("is not the absolute path of a socket"));
            }
            Ok(ServerAddress::Unix(path.into()))
        }
        Some(("tcp", address)) => {
            let address = address.strip_prefix("//").unwrap_or(address);
            let address: SocketAddr = address.parse().map_err(|_| wrong("has no IP address with a port"))?;
            if !address.ip().is_loopback() {
                return Err(wrong("is not on this machine, and keys come from there in plaintext"));
            }
            Ok(ServerAddress::Addresses([address].into_iter().collect()))
        }
        _ => Err(wrong("is neither `unix:` nor `tcp:`")),
    }
}

//! The xDS bootstrap (A27): which control plane to ask, with which credentials, as which node.
//!
//! [`Bootstrap`] is parsed from the JSON that gRPC reads, or built by code; it opens nothing. Every field that is
//! there and that nothing acts on is listed by [`Bootstrap::ignored`], because a silently ignored setting is found
//! last.

mod builder;
mod certificate_providers;
mod fields;
mod grpc_service;
mod parse;
mod server_uri;

use std::ffi::OsString;
use std::fmt;
#[cfg(feature = "server")]
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Map, Value};

pub use builder::BootstrapBuilder;
pub(crate) use certificate_providers::{CertificateFiles, ProviderConfig};
#[cfg(feature = "spiffe")]
pub(crate) use certificate_providers::{WorkloadApiConfig, workload_api_endpoint};
pub use grpc_service::GrpcService;
pub(crate) use server_uri::ServerAddress;
#[cfg(feature = "istio")]
pub(crate) use server_uri::server_address;

use crate::error::{Error, ErrorKind};

const PATH_VARIABLE: &str = "GRPC_XDS_BOOTSTRAP";
const INLINE_VARIABLE: &str = "GRPC_XDS_BOOTSTRAP_CONFIG";

/// Where the control plane is and who asks: the xDS bootstrap of gRFC A27. Cloning is cheap.
///
/// ```
/// let bootstrap = mesh_core::Bootstrap::from_json(
///     r#"{
///         "xds_servers": [{"server_uri": "127.0.0.1:18000", "channel_creds": [{"type": "insecure"}]}],
///         "node": {"id": "greeter-1", "metadata": {"team": "hello"}},
///         "color": "blue"
///     }"#,
/// )?;
/// assert_eq!(bootstrap.server_uri(), "127.0.0.1:18000");
/// assert_eq!(bootstrap.node_id(), "greeter-1");
/// assert_eq!(bootstrap.ignored(), ["color: unknown field"]);
/// # Ok::<(), mesh_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Bootstrap {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    server: ServerConfig,
    node: NodeConfig,
    client_listener_template: Option<String>,
    server_listener_template: Option<String>,
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "only TLS asks for certificates"))]
    certificate_providers: Vec<(Arc<str>, ProviderConfig)>,
    allowed_grpc_services: Vec<ServerConfig>,
    ignored: Vec<String>,
}

/// One control plane, or a service beside it that is asked by gRPC.
#[derive(Clone, Debug)]
pub(crate) struct ServerConfig {
    /// As it was written, for texts.
    pub(crate) uri: Arc<str>,
    pub(crate) address: ServerAddress,
    pub(crate) credentials: ChannelCredentials,
    /// The files of the bearer tokens that each stream carries (A97), over secured connections alone.
    pub(crate) tokens: Vec<PathBuf>,
    /// What the server's certificate must be valid for, if that is not the host of its address.
    pub(crate) server_name: Option<String>,
    pub(crate) features: ServerFeatures,
}

#[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "only TLS asks for secrets"))]
impl ServerConfig {
    /// Whether nobody else reads what is said to it: over TLS, a Unix socket, or within this process.
    pub(crate) fn is_private(&self) -> bool {
        let is_local = matches!(self.address, ServerAddress::Unix(_) | ServerAddress::InProcess(_));
        is_local || self.credentials != ChannelCredentials::Insecure
    }
}

/// What secures the connection to the control plane.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ChannelCredentials {
    Insecure,
    Tls(TlsFiles),
}

/// The files of `tls` credentials (A65).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TlsFiles {
    /// The roots to trust; `None` for the system's.
    pub(crate) ca_certificate: Option<PathBuf>,
    /// The certificate chain and its key, when the client authenticates itself.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    /// The age at which the files are read anew before a connection is made. Default 600 s.
    pub(crate) refresh_interval: Duration,
}

/// What a control plane was said to do (A53, A88).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerFeatures {
    /// Data errors (rejected or deleted resources) take the good value away, too.
    pub(crate) fail_on_data_errors: bool,
    /// The server reports missing resources itself, so that silence means that it is slow.
    pub(crate) resource_timer_is_transient_error: bool,
    /// The server may rewrite the authority of calls (A81).
    pub(crate) trusted: bool,
}

/// Who we are to the control plane.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeConfig {
    pub(crate) id: Arc<str>,
    pub(crate) cluster: String,
    pub(crate) locality: Option<LocalityConfig>,
    pub(crate) metadata: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LocalityConfig {
    pub(crate) region: String,
    pub(crate) zone: String,
    pub(crate) sub_zone: String,
}

impl Bootstrap {
    /// The same node, at another server.
    #[cfg(feature = "tls")]
    pub(crate) fn at(&self, server: ServerConfig) -> Self {
        let inner = Inner {
            server,
            node: self.inner.node.clone(),
            client_listener_template: None,
            server_listener_template: None,
            certificate_providers: Vec::new(),
            allowed_grpc_services: Vec::new(),
            ignored: Vec::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Parses the JSON of a bootstrap.
    ///
    /// # Errors
    ///
    /// Of kind [`ErrorKind::Setup`], naming the field, what was found and what is wanted.
    pub fn from_json(json: &str) -> Result<Self, Error> {
        Self::parse(json, "bootstrap")
    }

    /// Reads a bootstrap from a file.
    ///
    /// # Errors
    ///
    /// As [`from_json`](Self::from_json), and when the file cannot be read.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        Self::read(path, &format!("bootstrap file {}", path.display()))
    }

    /// Reads the bootstrap that gRPC would: the file named by `GRPC_XDS_BOOTSTRAP`, or else the JSON in
    /// `GRPC_XDS_BOOTSTRAP_CONFIG`. An empty variable is an unset one.
    ///
    /// # Errors
    ///
    /// As [`from_file`](Self::from_file), and when neither variable is set.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(std::env::var_os(PATH_VARIABLE), std::env::var_os(INLINE_VARIABLE))
    }

    /// Whether the environment names a bootstrap: an empty variable is an unset one.
    pub(crate) fn is_in_env() -> bool {
        [PATH_VARIABLE, INLINE_VARIABLE]
            .iter()
            .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
    }

    /// Starts a bootstrap by code.
    ///
    /// `server_uri` is a gRPC target: `host:port`, `dns:///host:port`, `ipv4:192.0.2.1:443`, `ipv6:[::1]:443`,
    /// `unix:path`, `unix:///absolute/path`, or `http://` and `https://` with host and port. Without a port it is 443.
    ///
    /// ```
    /// let bootstrap = mesh_core::Bootstrap::builder("127.0.0.1:18000").insecure().node_id("greeter-1").build()?;
    /// assert_eq!(bootstrap.node_id(), "greeter-1");
    /// # Ok::<(), mesh_core::Error>(())
    /// ```
    pub fn builder(server_uri: impl Into<String>) -> BootstrapBuilder {
        BootstrapBuilder::new(server_uri.into())
    }

    /// The control plane's address, as it was written.
    pub fn server_uri(&self) -> &str {
        &self.inner.server.uri
    }

    /// The name under which the control plane knows this process; empty if none was given.
    pub fn node_id(&self) -> &str {
        &self.inner.node.id
    }

    /// What the bootstrap says and nothing acts on: the path of the field and why.
    pub fn ignored(&self) -> &[String] {
        &self.inner.ignored
    }

    pub(crate) fn server(&self) -> &ServerConfig {
        &self.inner.server
    }

    /// The certificate providers, by name (A29).
    #[cfg(feature = "tls")]
    pub(crate) fn certificate_providers(&self) -> &[(Arc<str>, ProviderConfig)] {
        &self.inner.certificate_providers
    }

    /// Whether the control plane may rewrite the authority of calls (A81).
    pub(crate) fn trusts_control_plane(&self) -> bool {
        self.inner.server.features.trusted
    }

    /// What resources may have this process call beside the mesh's own (A102).
    pub(crate) fn allowed_grpc_services(&self) -> &[ServerConfig] {
        &self.inner.allowed_grpc_services
    }

    pub(crate) fn node(&self) -> &NodeConfig {
        &self.inner.node
    }

    /// The name of the Listener that stands for a target (A47): `xds:///greeter` asks for `greeter` unless
    /// `client_default_listener_resource_name_template` says otherwise.
    pub(crate) fn client_listener_name(&self, target: &str) -> String {
        expand(self.inner.client_listener_template.as_deref().unwrap_or("%s"), target)
    }

    /// The name of the Listener of a server at this address (A36); `None` without `server_listener_resource_name_template`.
    #[cfg(feature = "server")]
    pub(crate) fn server_listener_name(&self, address: SocketAddr) -> Option<String> {
        Some(expand(self.inner.server_listener_template.as_deref()?, &address.to_string()))
    }

    fn from_variables(path: Option<OsString>, inline: Option<OsString>) -> Result<Self, Error> {
        let set = |variable: Option<OsString>| variable.filter(|value| !value.is_empty());
        match (set(path), set(inline)) {
            (Some(path), _) => {
                let path = PathBuf::from(path);
                Self::read(&path, &format!("bootstrap file {} ({PATH_VARIABLE})", path.display()))
            }
            (None, Some(json)) => match json.to_str() {
                Some(json) => Self::parse(json, INLINE_VARIABLE),
                None => Err(Error::new(ErrorKind::Setup, format!("{INLINE_VARIABLE} is not UTF-8"))),
            },
            (None, None) => {
                let message = format!("neither {PATH_VARIABLE} nor {INLINE_VARIABLE} is set");
                let next = format!("set {PATH_VARIABLE} to the path of a bootstrap file, or give a bootstrap by code");
                Err(Error::new(ErrorKind::Setup, message).with_next_step(next))
            }
        }
    }

    fn read(path: &Path, what: &str) -> Result<Self, Error> {
        let json = std::fs::read_to_string(path).map_err(|error| {
            let message = format!("{what} cannot be read");
            let next = "check that the file is there, is UTF-8, and that this process may read it";
            Error::new(ErrorKind::Setup, message).with_source(error).with_next_step(next)
        })?;
        Self::parse(&json, what)
    }

    fn parse(json: &str, what: &str) -> Result<Self, Error> {
        let value = serde_json::from_str(json).map_err(|error| {
            let next = "write a JSON object with `xds_servers` and `node`, as gRFC A27 describes it";
            Error::new(ErrorKind::Setup, format!("{what} is not JSON")).with_source(error).with_next_step(next)
        })?;
        Self::from_value(value, what)
    }

    fn from_value(value: Value, what: &str) -> Result<Self, Error> {
        let inner = parse::bootstrap(value).map_err(|problem| problem.into_error(what))?;
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl fmt::Debug for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bootstrap")
            .field("server_uri", &self.server_uri())
            .field("credentials", &self.inner.server.credentials)
            .field("node_id", &self.node_id())
            .finish_non_exhaustive()
    }
}

/// What RFC 3986 (section 3.3) does not allow in a path; `/` stays.
const NOT_IN_PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Puts `value` in place of each `%s`; percent-encoded when the template makes an `xdstp:` name (A47).
fn expand(template: &str, value: &str) -> String {
    if template.starts_with("xdstp:") {
        return template.replace("%s", &utf8_percent_encode(value, NOT_IN_PATH).to_string());
    }
    template.replace("%s", value)
}

#[cfg(test)]
mod tests;

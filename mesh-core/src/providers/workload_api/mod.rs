//! `spiffe_workload_api`: the SVID and the bundles that a SPIFFE agent on this machine hands out.
//!
//! ```text
//! stream.rs: calls, and calls again ─▸ messages.rs ─▸ material.rs: which SVID, whose bundles ─▸ Publisher
//! ```

mod material;
mod messages;
mod stream;

use std::env::{self, VarError};

use crate::bootstrap::{ServerAddress, WorkloadApiConfig, workload_api_endpoint};
use crate::error::{Error, ErrorKind};
use crate::identity::{CertificateProvider, ProviderFuture, Publisher, SpiffeId};

const VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// Takes certificates from a SPIFFE Workload API, such as that of a SPIRE agent, which pushes new ones in time.
///
/// Peers are trusted by trust domain: the own one by the bundle of the SVID, federated ones by theirs. The SVID that is
/// used is the first, as the standard has it, unless [`spiffe_id`](Self::spiffe_id) or [`hint`](Self::hint) choose another.
/// Revocation lists that the agent sends are not looked at.
///
/// An agent that cannot be reached is tried again within a second, one that refuses within 6 s; what it sent last stays
/// in use until it expires. An agent that keeps silent for three quarters of a certificate's remaining life is asked anew.
///
/// ```
/// use mesh_core::providers::WorkloadApi;
///
/// let agent = WorkloadApi::at("unix:///run/spire/agent.sock")?; // or WorkloadApi::from_env()?
/// let builder = mesh_core::Mesh::builder().certificate_provider("default", agent);
/// # let _ = builder; Ok::<(), mesh_core::Error>(())
/// ```
///
/// In a bootstrap it is the plugin `spiffe_workload_api`, whose fields can all be left out:
///
/// ```json
/// {"certificate_providers": {"default": {
///     "plugin_name": "spiffe_workload_api",
///     "config": {"endpoint_socket": "unix:///run/spire/agent.sock", "spiffe_id": "spiffe://a.test/web", "hint": "web"}
/// }}}
/// ```
#[derive(Clone, Debug)]
pub struct WorkloadApi {
    /// As it was written.
    endpoint: String,
    address: ServerAddress,
    wanted: Wanted,
}

/// What is asked of the agent.
#[derive(Clone, Debug, PartialEq)]
enum Wanted {
    /// The first SVID that is as described, and bundles.
    Svid { id: Option<SpiffeId>, hint: Option<String> },
    /// Bundles alone.
    Bundles,
}

impl WorkloadApi {
    /// That at `unix:///path/of/the/socket` or `tcp://IP:port`, at an address of this machine.
    ///
    /// # Errors
    ///
    /// When it is neither.
    pub fn at(endpoint_socket: impl Into<String>) -> Result<Self, Error> {
        Self::parse(endpoint_socket.into(), "SPIFFE Workload API")
    }

    /// That which `SPIFFE_ENDPOINT_SOCKET` says.
    ///
    /// # Errors
    ///
    /// When it is not set, or neither `unix:///path` nor `tcp://IP:port` of this machine.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variable(env::var(VARIABLE))
    }

    /// Uses the SVID with this ID, if there are several. While the agent has none, there is no certificate.
    pub fn spiffe_id(mut self, id: SpiffeId) -> Self {
        self.wanted = match self.wanted {
            Wanted::Svid { hint, .. } => Wanted::Svid { id: Some(id), hint },
            Wanted::Bundles => Wanted::Svid { id: Some(id), hint: None },
        };
        self
    }

    /// Uses the SVID with this hint, if there are several. While the agent has none, there is no certificate.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        let hint = Some(hint.into());
        self.wanted = match self.wanted {
            Wanted::Svid { id, .. } => Wanted::Svid { id, hint },
            Wanted::Bundles => Wanted::Svid { id: None, hint },
        };
        self
    }

    /// Asks for the bundles alone: for a process that verifies its peers and shows no certificate.
    pub fn roots_only(mut self) -> Self {
        self.wanted = Wanted::Bundles;
        self
    }

    /// That which a bootstrap configures.
    pub(crate) fn configured(config: &WorkloadApiConfig) -> Result<Self, Error> {
        let WorkloadApiConfig { endpoint, spiffe_id, hint } = config;
        let api = endpoint.as_ref().map_or_else(Self::from_env, Self::at)?;
        let id = spiffe_id.as_deref().map(str::parse).transpose()?;
        Ok(Self { wanted: Wanted::Svid { id, hint: hint.clone() }, ..api })
    }

    fn from_variable(value: Result<String, VarError>) -> Result<Self, Error> {
        match value {
            Ok(endpoint) if !endpoint.is_empty() => Self::parse(endpoint, VARIABLE),
            Err(VarError::NotUnicode(_)) => Err(Error::setup(format!("{VARIABLE} is not UTF-8"))),
            Ok(_) | Err(VarError::NotPresent) => {
                let next = "set it to the agent's socket, such as `unix:///run/spire/agent.sock`, or give that by code";
                Err(Error::setup(format!("{VARIABLE} is not set")).with_next_step(next))
            }
        }
    }

    fn parse(endpoint: String, what: &str) -> Result<Self, Error> {
        let address = workload_api_endpoint(&endpoint)
            .map_err(|problem| Error::new(ErrorKind::Setup, format!("{what}: {problem}")))?;
        Ok(Self { endpoint, address, wanted: Wanted::Svid { id: None, hint: None } })
    }
}

impl CertificateProvider for WorkloadApi {
    fn kind(&self) -> &str {
        "spiffe_workload_api"
    }

    fn run(self: Box<Self>, publisher: Publisher) -> ProviderFuture {
        Box::pin(stream::follow(*self, publisher))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_socket_or_an_address() {
        for text in ["unix:///run/agent.sock", "unix:/run/agent.sock"] {
            assert_eq!(WorkloadApi::at(text).unwrap().address, ServerAddress::Unix("/run/agent.sock".into()), "{text}");
        }
        for text in ["tcp://127.0.0.1:80", "tcp:127.0.0.1:80", "tcp://[::1]:80"] {
            assert!(matches!(WorkloadApi::at(text).unwrap().address, ServerAddress::Addresses(_)), "{text}");
        }
        for (text, problem) in [
            ("", "is neither"),
            ("/run/agent.sock", "is neither"),
            ("http://127.0.0.1:80", "is neither"),
            ("unix:", "not the absolute path"),
            ("unix:agent.sock", "not the absolute path"),
            ("unix://host/agent.sock", "not the absolute path"),
            ("unix:///a?b", "not the absolute path"),
            ("tcp://localhost:80", "no IP address with a port"),
            ("tcp://127.0.0.1", "no IP address with a port"),
            ("tcp://10.0.0.1:80", "not on this machine"),
            ("tcp://127.0.0.1:80/a", "no IP address with a port"),
        ] {
            let error = WorkloadApi::at(text).unwrap_err().report();
            assert!(error.contains(problem) && error.contains("unix:///path"), "{text}: {error}");
        }
    }

    #[test]
    fn the_variable_must_say_where_it_is() {
        assert!(WorkloadApi::from_variable(Ok("unix:///a".into())).is_ok());
        for (value, problem) in [
            (Err(VarError::NotPresent), "SPIFFE_ENDPOINT_SOCKET is not set; set it to the agent's socket"),
            (Ok(String::new()), "SPIFFE_ENDPOINT_SOCKET is not set"),
            (Ok("a".to_owned()), "SPIFFE_ENDPOINT_SOCKET: `a` is neither"),
            (Err(VarError::NotUnicode("a".into())), "SPIFFE_ENDPOINT_SOCKET is not UTF-8"),
        ] {
            let error = WorkloadApi::from_variable(value).unwrap_err().report();
            assert!(error.starts_with(problem), "{error}");
        }
    }

    #[test]
    fn the_last_word_about_what_is_wanted_counts() {
        let api = WorkloadApi::at("unix:///a").unwrap();
        let id: SpiffeId = "spiffe://a/b".parse().unwrap();
        let both = Wanted::Svid { id: Some(id.clone()), hint: Some("h".into()) };
        assert_eq!(api.clone().roots_only().spiffe_id(id.clone()).hint("h").wanted, both);
        assert_eq!(api.clone().hint("h").spiffe_id(id).wanted, both);
        assert_eq!(api.hint("h").roots_only().wanted, Wanted::Bundles);
    }
}

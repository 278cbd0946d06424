//! Where the servers are, and what it takes to be let in.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use mesh_core::identity::{Identity, KeyMaterial, TrustBundle};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use serde::{Deserialize, Serialize};
use tonic::transport::{Certificate, ClientTlsConfig, Identity as TonicIdentity, ServerTlsConfig};

use crate::Error;

/// What the servers' certificate says they are, in the two ways in which the paths ask for it.
const DNS_NAME: &str = "echo.bench";
pub(crate) const SPIFFE_ID: &str = "spiffe://bench/ns/default/sa/echo";
/// What the client's says.
pub(crate) const CLIENT_ID: &str = "spiffe://bench/ns/default/sa/client";

/// The endpoints, and one authority that vouches for both sides.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Site {
    /// Without TLS.
    pub plain: Vec<SocketAddr>,
    /// The same servers behind mTLS.
    pub secured: Vec<SocketAddr>,
    /// Where copies of calls go: one that answers at once, and one that takes a hundred times as long.
    pub(crate) shadow: Option<SocketAddr>,
    pub(crate) slow: Option<SocketAddr>,
    authority: String,
    server: Pair,
    client: Pair,
}

/// Who vouches for both sides, for as long as a bench runs.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// One that nobody else knows.
    ///
    /// # Errors
    ///
    /// Fails when there is no key to be had.
    pub fn new() -> Result<Self, Error> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// A new certificate of the servers, and the roots.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn server(&self, life: Duration) -> Result<KeyMaterial, Error> {
        material(&self.issue_server(Some(life))?, &self.0.pem())
    }

    /// As [`server`](Self::server), of clients.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn client(&self, life: Duration) -> Result<KeyMaterial, Error> {
        material(&self.issue_client(Some(life))?, &self.0.pem())
    }

    fn issue_server(&self, life: Option<Duration>) -> Result<Pair, Error> {
        self.issue(vec![SanType::DnsName(DNS_NAME.try_into()?), SanType::URI(SPIFFE_ID.try_into()?)], life)
    }

    fn issue_client(&self, life: Option<Duration>) -> Result<Pair, Error> {
        self.issue(vec![SanType::URI(CLIENT_ID.try_into()?)], life)
    }

    fn issue(&self, names: Vec<SanType>, life: Option<Duration>) -> Result<Pair, Error> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        if let Some(life) = life {
            params.not_after = (SystemTime::now() + life).into();
        }
        let key = KeyPair::generate()?;
        Ok(Pair { chain: params.signed_by(&key, &self.0)?.pem(), key: key.serialize_pem() })
    }
}

/// A certificate and its key in PEM. The key is good for one run of a bench.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pair {
    chain: String,
    key: String,
}

impl Site {
    /// An authority of its own, and no endpoint yet.
    ///
    /// # Errors
    ///
    /// Fails when there is no key to be had.
    pub fn new() -> Result<Self, Error> {
        let authority = Authority::new()?;
        Ok(Self {
            plain: Vec::new(),
            secured: Vec::new(),
            shadow: None,
            slow: None,
            server: authority.issue_server(None)?,
            client: authority.issue_client(None)?,
            authority: authority.0.pem(),
        })
    }

    pub(crate) fn server_tls(&self) -> ServerTlsConfig {
        ServerTlsConfig::new().identity(self.server.tonic()).client_ca_root(Certificate::from_pem(&self.authority))
    }

    /// How tonic's clients are let in.
    #[must_use]
    pub fn client_tls(&self) -> ClientTlsConfig {
        let authority = Certificate::from_pem(&self.authority);
        ClientTlsConfig::new().ca_certificate(authority).identity(self.client.tonic()).domain_name(DNS_NAME)
    }

    pub(crate) fn client_material(&self) -> Result<KeyMaterial, Error> {
        material(&self.client, &self.authority)
    }

    pub(crate) fn server_material(&self) -> Result<KeyMaterial, Error> {
        material(&self.server, &self.authority)
    }
}

fn material(pair: &Pair, roots: &str) -> Result<KeyMaterial, Error> {
    let identity = Identity::from_pem(pair.chain.as_bytes(), pair.key.as_bytes())?;
    Ok(KeyMaterial::new().identity(identity).trust(TrustBundle::from_pem(roots.as_bytes())?))
}

impl Pair {
    fn tonic(&self) -> TonicIdentity {
        TonicIdentity::from_pem(&self.chain, &self.key)
    }
}

//! Where the servers are, and what it takes to be let in.

use std::net::SocketAddr;

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

/// A certificate and its key in PEM. The key is good for one run of a bench.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pair {
    chain: String,
    key: String,
}

impl Site {
    /// An authority of its own, and no endpoint yet.
    pub(crate) fn new() -> Result<Self, Error> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let uri = |id: &str| Ok::<_, Error>(SanType::URI(id.try_into()?));
        Ok(Self {
            plain: Vec::new(),
            secured: Vec::new(),
            shadow: None,
            slow: None,
            server: Pair::issue(&authority, vec![SanType::DnsName(DNS_NAME.try_into()?), uri(SPIFFE_ID)?])?,
            client: Pair::issue(&authority, vec![uri(CLIENT_ID)?])?,
            authority: authority.pem(),
        })
    }

    pub(crate) fn server_tls(&self) -> ServerTlsConfig {
        ServerTlsConfig::new().identity(self.server.tonic()).client_ca_root(Certificate::from_pem(&self.authority))
    }

    pub(crate) fn client_tls(&self) -> ClientTlsConfig {
        let authority = Certificate::from_pem(&self.authority);
        ClientTlsConfig::new().ca_certificate(authority).identity(self.client.tonic()).domain_name(DNS_NAME)
    }

    pub(crate) fn client_material(&self) -> Result<KeyMaterial, Error> {
        self.material(&self.client)
    }

    pub(crate) fn server_material(&self) -> Result<KeyMaterial, Error> {
        self.material(&self.server)
    }

    fn material(&self, pair: &Pair) -> Result<KeyMaterial, Error> {
        let identity = Identity::from_pem(pair.chain.as_bytes(), pair.key.as_bytes())?;
        Ok(KeyMaterial::new().identity(identity).trust(TrustBundle::from_pem(self.authority.as_bytes())?))
    }
}

impl Pair {
    fn issue(authority: &CertifiedIssuer<'_, KeyPair>, names: Vec<SanType>) -> Result<Self, Error> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let key = KeyPair::generate()?;
        Ok(Self { chain: params.signed_by(&key, authority)?.pem(), key: key.serialize_pem() })
    }

    fn tonic(&self) -> TonicIdentity {
        TonicIdentity::from_pem(&self.chain, &self.key)
    }
}

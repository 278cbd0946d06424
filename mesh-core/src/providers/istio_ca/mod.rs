//! Istio's certificate authority: `istio.v1.auth.IstioCertificateService`, for a token and without an agent.
//!
//! ```text
//! renew.rs: when to ask ─▸ issue.rs: a new key, a signing request, the answer ─▸ Publisher
//! ```

mod issue;
mod renew;

use std::path::PathBuf;
use std::time::Duration;

use crate::bootstrap::{ServerAddress, server_address};
use crate::error::Error;
use crate::identity::{CertificateProvider, ProviderFuture, Publisher, SpiffeId};

/// Where Kubernetes mounts the token that istiod takes (audience `istio-ca`).
const TOKEN: &str = "/var/run/secrets/tokens/istio-token";
/// Where the ConfigMap `istio-ca-root-cert` is mounted.
const ROOTS: &str = "/var/run/secrets/istio/root-cert.pem";

/// Has its certificates issued by Istio's CA, istiod, as an agent beside the process would.
///
/// The key is made here (P-256) for each certificate and never leaves the process. The CA is reached over TLS alone; the
/// token is read anew for each request, the roots for each and every 10 s besides. A certificate is renewed when 40 to 60 %
/// of its life since its receipt are over; no more than one request goes out in a second. While the CA does not answer or
/// refuses, the last certificate stays in use until it expires, and the CA is asked again within 36 s; within 4 s when less than
/// 30 s of the certificate are left, or nothing. A CA that takes a request and says nothing holds it for 10 s first.
///
/// Peers are trusted by the same roots as the CA, if they are of the own trust domain.
///
/// ```
/// use mesh_core::providers::IstioCa;
///
/// let id = "spiffe://cluster.local/ns/shop/sa/cart".parse()?;
/// let ca = IstioCa::new("istiod.istio-system.svc:15012", id)?;
/// let builder = mesh_core::Mesh::builder().certificate_provider("default", ca);
/// # let _ = builder; Ok::<(), mesh_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct IstioCa {
    /// As it was written.
    uri: String,
    address: ServerAddress,
    server_name: Option<String>,
    id: SpiffeId,
    token: PathBuf,
    roots: PathBuf,
    cluster_id: String,
    validity: Duration,
}

impl IstioCa {
    /// The CA at an address such as `istiod.istio-system.svc:15012`, which is to issue certificates with this ID. (istiod
    /// issues the ID of the token's service account, whatever is asked for.)
    ///
    /// # Errors
    ///
    /// When it is no address.
    pub fn new(address: impl Into<String>, id: SpiffeId) -> Result<Self, Error> {
        let uri = address.into();
        let address =
            server_address(&uri).map_err(|problem| Error::setup(format!("Istio CA at `{uri}`: {problem}")))?;
        Ok(Self {
            uri,
            address,
            server_name: None,
            id,
            token: TOKEN.into(),
            roots: ROOTS.into(),
            cluster_id: "Kubernetes".to_owned(),
            validity: Duration::from_secs(24 * 3600),
        })
    }

    /// The file of the token that proves who this workload is. Default `/var/run/secrets/tokens/istio-token`.
    pub fn token(mut self, path: impl Into<PathBuf>) -> Self {
        self.token = path.into();
        self
    }

    /// The PEM file of the roots by which the CA and peers are trusted. Default `/var/run/secrets/istio/root-cert.pem`.
    pub fn roots(mut self, path: impl Into<PathBuf>) -> Self {
        self.roots = path.into();
        self
    }

    /// The name that the CA's certificate must be valid for. Default: the host of its address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// The name by which istiod knows this cluster. Default `Kubernetes`.
    pub fn cluster_id(mut self, id: impl Into<String>) -> Self {
        self.cluster_id = id.into();
        self
    }

    /// How long certificates are to be valid, in whole seconds. Default 24 h; the CA may decide otherwise.
    pub fn validity(mut self, validity: Duration) -> Self {
        self.validity = validity;
        self
    }
}

impl CertificateProvider for IstioCa {
    fn kind(&self) -> &str {
        "istio_ca"
    }

    fn run(self: Box<Self>, publisher: Publisher) -> ProviderFuture {
        Box::pin(renew::renew(*self, publisher))
    }
}

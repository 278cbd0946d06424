//! The client's side of a handshake: everything it needs is there before a connection is opened.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::sign::SingleCertAndKey;
use rustls_native_certs::CertificateResult;
use rustls_pki_types::{IpAddr, Ipv4Addr, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OnceCell;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::advice;
use super::facts::{ConnectionSecurity, Peer, protocol};
use super::floor::SecurityFloor;
use super::lifetime::{Lifetime, Successor};
use super::material::Material;
use super::verify::{Expected, Trusted, Verifier};
use crate::aside::Ongoing;
use crate::error::{Error, ErrorKind};
use crate::identity::{Identity, MaterialSource, Provider, Providers, Roots, TrustBundle, crypto};
use crate::resource::security::{Security, UpstreamTls};
use crate::resource::upstream_tls::RootsFrom;

pub(super) const H2: &[u8] = b"h2";
/// How long until it is tried again to gather what verifies the peer of an open connection.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Secures connections to endpoints; clones share what it knows.
#[derive(Clone)]
pub(crate) struct ClientTls(Arc<Inner>);

struct Inner {
    providers: Providers,
    /// `None`: no cryptography was compiled in, which is told to those who need it.
    crypto: Option<Arc<CryptoProvider>>,
    /// The system's roots, read when they are first asked for.
    system: OnceCell<Roots>,
    /// Of handshakes that did not wait for it, too.
    reading: Ongoing<CertificateResult>,
    floor: SecurityFloor,
}

/// What one handshake needs: the certificates of this moment.
pub(crate) struct Handshake {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
    verifier: Arc<Verifier>,
    identity: Option<Identity>,
    /// The provider of the identity.
    own: Option<Provider>,
    /// The provider of the roots, unless they are the system's, and what it had.
    vouching: Option<(Provider, TrustBundle)>,
}

impl ClientTls {
    /// With the certificates of these providers, and no less security than the floor's.
    pub(crate) fn new(providers: Providers, floor: SecurityFloor) -> Self {
        Self(Arc::new(Inner {
            providers,
            crypto: crypto().ok(),
            system: OnceCell::new(),
            reading: Ongoing::default(),
            floor,
        }))
    }

    /// What connections of this security need, for those who wait until it is there.
    pub(crate) fn material(&self, security: &Security) -> Material {
        Material::new(self.clone(), security.clone())
    }

    /// Gathers what a handshake needs. Waits while a provider has nothing yet; the caller bounds the time.
    ///
    /// # Errors
    ///
    /// When a certificate or roots are missing or expired: never a reason to go without.
    pub(crate) async fn prepare(&self, security: &Security) -> Result<Handshake, Error> {
        let context = self.context(security)?;
        let crypto = self.crypto()?;
        let own = context.identity.as_ref().map(|source| self.provider(source)).transpose()?;
        let identity = match &own {
            Some(provider) => Some(provider.identity(&*provider.material().await?)?),
            None => None,
        };
        let (verifier, vouching) = self.verifier(security, context, identity.as_ref()).await?;
        let config = config(crypto, verifier.clone(), identity.as_ref(), security.server_name.is_some())?;
        Ok(Handshake { config, server_name: server_name(security)?, verifier, identity, own, vouching })
    }

    /// What verifies the peer, and the provider of the roots with what it had, unless they are the system's.
    async fn verifier(
        &self,
        security: &Security,
        context: &Arc<UpstreamTls>,
        own: Option<&Identity>,
    ) -> Result<(Arc<Verifier>, Option<(Provider, TrustBundle)>), Error> {
        let vouching = match &context.roots {
            RootsFrom::System => None,
            RootsFrom::Source(source) => {
                let provider = self.provider(source)?;
                let bundle = provider.material().await?.trust.clone().ok_or_else(|| provider.without_roots())?;
                Some((provider, bundle))
            }
        };
        let trust = match &vouching {
            None => Trusted::System(self.system_roots().await?.clone()),
            Some((_, bundle)) => {
                let own = own.and_then(Identity::spiffe_id).map(|id| id.trust_domain());
                Trusted::Bundle { bundle: bundle.clone(), own }
            }
        };
        let expected = Expected::Endpoint {
            cluster: security.cluster.clone(),
            context: context.clone(),
            asked: security.server_name.clone(),
        };
        let (crypto, floor) = (self.crypto()?, self.0.floor.clone());
        Ok((Arc::new(Verifier { trust, expected, crypto, floor }), vouching))
    }

    fn crypto(&self) -> Result<Arc<CryptoProvider>, Error> {
        self.0.crypto.clone().map_or_else(crypto, Ok)
    }

    /// By what the peer of an open connection is looked at anew, when `security` takes the place of what the connection was
    /// made by. Waits until the roots are there: nobody is judged without.
    pub(crate) async fn successor(&self, security: Security) -> Successor<Arc<Verifier>> {
        loop {
            if let Ok(successor) = self.successor_now(&security).await {
                return successor;
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn successor_now(&self, security: &Security) -> Result<Successor<Arc<Verifier>>, Error> {
        let context = self.context(security)?;
        let own = context.identity.as_ref().map(|source| self.provider(source)).transpose()?;
        // Only its trust domain is asked for: a certificate that is missing holds nothing up.
        let identity = own.as_ref().and_then(|provider| provider.material_now().ok()?.identity.clone());
        let (verify, vouching) = self.verifier(security, context, identity.as_ref()).await?;
        Ok(Successor { verify, vouching, own })
    }

    /// What is asked for, if it is enough.
    ///
    /// # Errors
    ///
    /// What it falls short of.
    pub(super) fn context<'a>(&self, security: &'a Security) -> Result<&'a Arc<UpstreamTls>, Error> {
        let context = security.context.as_ref();
        self.0.floor.check_endpoint(&security.cluster, context.map(|context| &**context))?;
        // Whoever forbade it did so by another floor.
        context.ok_or_else(|| {
            Error::setup(format!("plaintext is forbidden to an endpoint of cluster `{}`", security.cluster))
        })
    }

    pub(super) async fn system_roots(&self) -> Result<&Roots, Error> {
        self.0.system.get_or_try_init(|| system_roots(&self.0.reading)).await
    }

    pub(super) fn provider(&self, source: &MaterialSource) -> Result<Provider, Error> {
        self.0.providers.of(source)
    }
}

impl Handshake {
    /// Secures a connection; also says how, and for how long.
    ///
    /// # Errors
    ///
    /// When either side refuses the other, or the peer does not choose HTTP/2.
    pub(crate) async fn run<IO>(self, io: IO) -> Result<(TlsStream<IO>, ConnectionSecurity, Lifetime), Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let failed = |what: &str| Error::new(ErrorKind::Connection, format!("TLS: {what}"));
        let connecting = TlsConnector::from(self.config).connect(self.server_name, io).await;
        let stream = connecting.map_err(|error| {
            let next_step = advice::next_step(&error);
            failed("the handshake failed").with_source(error).with_next_step(next_step)
        })?;
        let session = stream.get_ref().1;
        if session.alpn_protocol() != Some(H2) {
            let refused = failed("the peer did not choose HTTP/2 (ALPN `h2`)");
            return Err(refused.with_next_step("let the endpoint offer HTTP/2 by ALPN (`h2`)"));
        }
        let protocol = protocol(session).ok_or_else(|| failed("neither version 1.3 nor 1.2 was agreed on"))?;
        let chain: Vec<_> =
            session.peer_certificates().unwrap_or_default().iter().map(|one| one.clone().into_owned()).collect();
        let leaf =
            self.verifier.verify_chain(&chain).map_err(|error| failed("the handshake failed").with_source(error))?;
        let security =
            ConnectionSecurity { protocol, peer: Peer::new(&leaf, &chain[0]), identity: self.identity, replaced: None };
        let mut lifetime = Lifetime::new(&security, self.own).with_chain(chain);
        if let Some((provider, bundle)) = self.vouching {
            lifetime = lifetime.vouched_for_by(provider, bundle, self.verifier);
        }
        Ok((stream, security, lifetime))
    }
}

fn config(
    crypto: Arc<CryptoProvider>,
    verifier: Arc<Verifier>,
    identity: Option<&Identity>,
    sends_name: bool,
) -> Result<Arc<ClientConfig>, Error> {
    let builder = ClientConfig::builder_with_provider(crypto)
        .with_protocol_versions(verifier.floor.versions())
        .map_err(|error| Error::new(ErrorKind::Setup, "the cryptography cannot do TLS").with_source(error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.pair().clone()))),
    };
    config.alpn_protocols = vec![H2.to_vec()];
    config.require_ems = true;
    config.resumption = Resumption::disabled();
    config.enable_sni = sends_name;
    Ok(Arc::new(config))
}

/// The name that is sent. Where there is none, something must stand for it; it is neither sent nor looked at.
fn server_name(security: &Security) -> Result<ServerName<'static>, Error> {
    let Some(name) = &security.server_name else {
        return Ok(ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0]))));
    };
    ServerName::try_from(name.to_string())
        .map_err(|error| Error::setup(format!("`{name}` cannot be asked for by TLS")).with_source(error))
}

async fn system_roots(reading: &Ongoing<CertificateResult>) -> Result<Roots, Error> {
    let reading = reading.run(rustls_native_certs::load_native_certs).await;
    let native = reading.map_err(|error| Error::setup("read the system's root certificates").with_source(error))?;
    Roots::system(native.certs).ok_or_else(|| {
        let errors: Vec<String> = native.errors.iter().map(ToString::to_string).collect();
        Error::setup(format!("the system has no root certificates: {}", errors.join("; ")))
    })
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientTls").field(&self.0.providers).finish()
    }
}

//! The client's side of a handshake: everything it needs is there before a connection is opened.

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ProtocolVersion};
use rustls_pki_types::{IpAddr, Ipv4Addr, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::facts::{ConnectionSecurity, Peer};
use super::verify::{Trusted, Verifier};
use crate::error::{Error, ErrorKind};
use crate::identity::{Identity, Provider, Providers, Roots, crypto};
use crate::resource::security::Security;
use crate::resource::upstream_tls::RootsFrom;

const H2: &[u8] = b"h2";

/// Secures connections to endpoints; clones share what it knows.
#[derive(Clone)]
pub(crate) struct ClientTls(Arc<Inner>);

struct Inner {
    providers: Providers,
    /// `None`: no cryptography was compiled in, which is told to those who need it.
    crypto: Option<Arc<CryptoProvider>>,
    /// The system's roots, read when they are first asked for.
    system: OnceCell<Roots>,
}

/// What one handshake needs: the certificates of this moment.
pub(crate) struct Handshake {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
    verifier: Arc<Verifier>,
    identity: Option<Identity>,
}

impl ClientTls {
    /// With the certificates of these providers.
    pub(crate) fn new(providers: Providers) -> Self {
        Self(Arc::new(Inner { providers, crypto: crypto().ok(), system: OnceCell::new() }))
    }

    /// Gathers what a handshake needs. Waits while a provider has nothing yet; the caller bounds the time.
    ///
    /// # Errors
    ///
    /// When a certificate or roots are missing or expired: never a reason to go without.
    pub(crate) async fn prepare(&self, security: &Security) -> Result<Handshake, Error> {
        let crypto = match &self.0.crypto {
            Some(crypto) => crypto.clone(),
            None => crypto()?,
        };
        let identity = self.identity(security).await?;
        let own = identity.as_ref().and_then(Identity::spiffe_id).map(|id| id.trust_domain());
        let trust = match &security.context.roots {
            RootsFrom::System => Trusted::System(self.0.system.get_or_try_init(system_roots).await?.clone()),
            RootsFrom::Provider(name) => {
                let provider = self.provider(name)?;
                let material = provider.material().await?;
                let bundle = material.trust.clone().ok_or_else(|| provider.without_roots())?;
                Trusted::Bundle { bundle, own }
            }
        };
        let verifier = Arc::new(Verifier { trust, security: security.clone(), crypto: crypto.clone() });
        let config = config(crypto, verifier.clone(), identity.as_ref(), security.server_name.is_some())?;
        Ok(Handshake { config, server_name: server_name(security)?, verifier, identity })
    }

    async fn identity(&self, security: &Security) -> Result<Option<Identity>, Error> {
        let Some(name) = &security.context.identity else { return Ok(None) };
        let provider = self.provider(name)?;
        let material = provider.material().await?;
        provider.identity(&material).map(Some)
    }

    fn provider(&self, name: &str) -> Result<&Provider, Error> {
        let missing = || {
            let message = format!("there is no certificate provider `{name}`");
            let next = "add it to the bootstrap's `certificate_providers`, or by `MeshBuilder::certificate_provider`";
            Error::new(ErrorKind::Setup, message).with_next_step(next)
        };
        self.0.providers.find(name).ok_or_else(missing)
    }
}

impl Handshake {
    /// Secures a connection.
    ///
    /// # Errors
    ///
    /// When either side refuses the other, or the peer does not choose HTTP/2.
    pub(crate) async fn run<IO>(self, io: IO) -> Result<(TlsStream<IO>, ConnectionSecurity), Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let failed = |what: &str| Error::new(ErrorKind::Connection, format!("TLS: {what}"));
        let connecting = TlsConnector::from(self.config).connect(self.server_name, io).await;
        let stream = connecting.map_err(|error| failed("the handshake failed").with_source(error))?;
        let session = stream.get_ref().1;
        if session.alpn_protocol() != Some(H2) {
            return Err(failed("the peer did not choose HTTP/2 (ALPN `h2`)"));
        }
        let protocol = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => return Err(failed("neither version 1.3 nor 1.2 was agreed on")),
        };
        let Some([leaf, others @ ..]) = session.peer_certificates() else {
            return Err(failed("the peer showed no certificate"));
        };
        let leaf = self.verifier.verify(leaf, others, UnixTime::now());
        let leaf = leaf.map_err(|error| failed("the handshake failed").with_source(error))?;
        let security = ConnectionSecurity { protocol, peer: Peer::new(&leaf), identity: self.identity };
        Ok((stream, security))
    }
}

fn config(
    crypto: Arc<CryptoProvider>,
    verifier: Arc<Verifier>,
    identity: Option<&Identity>,
    sends_name: bool,
) -> Result<Arc<ClientConfig>, Error> {
    let builder = ClientConfig::builder_with_provider(crypto)
        .with_protocol_versions(&[&TLS13, &TLS12])
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

async fn system_roots() -> Result<Roots, Error> {
    let reading = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
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

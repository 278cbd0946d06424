//! The server's side of a handshake: with the certificates of this moment, or not at all.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::select_all;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::client::H2;
use super::facts::{AcceptedSecurity, Peer, protocol};
use super::floor::SecurityFloor;
use super::lifetime::{Lifetime, Successor};
use super::verify::{Expected, Trusted, Verifier};
use crate::error::{Error, ErrorKind};
use crate::identity::{Identity, Provider, Providers, TrustBundle, TrustDomain, crypto};
use crate::resource::security::DownstreamTls;

/// HTTP/2 by its own name, and by the one that Istio's proxies have for it among themselves.
const PROTOCOLS: [&[u8]; 2] = [H2, b"istio-h2"];
/// The clock may be set, and certificates are read by it: how long at most until it is asked again.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// Secures the connections that a server accepts.
#[derive(Clone, Debug)]
pub(crate) struct Acceptor {
    providers: Providers,
    floor: SecurityFloor,
}

/// What one handshake needs: the certificates of this moment.
pub(crate) struct Accepting {
    config: Arc<ServerConfig>,
    verifier: Option<Arc<Verifier>>,
    identity: Identity,
    /// The provider of the identity.
    own: Provider,
    /// The provider of the roots, if callers are verified, and what it had.
    vouching: Option<(Provider, TrustBundle)>,
}

impl Acceptor {
    /// With the certificates of these providers, and no less security than the floor's.
    pub(crate) fn new(providers: Providers, floor: SecurityFloor) -> Self {
        Self { providers, floor }
    }

    /// Those that certificates and roots come from.
    pub(crate) fn providers(&self) -> &Providers {
        &self.providers
    }

    /// Whether a control plane may have connections secured so.
    ///
    /// # Errors
    ///
    /// What they fall short of.
    pub(crate) fn check_chain(&self, name: &str, context: Option<&DownstreamTls>) -> Result<(), Error> {
        self.floor.check_chain(name, context)
    }

    /// Gathers what a handshake needs. It does not wait: a server without a certificate does not serve.
    ///
    /// # Errors
    ///
    /// When a certificate or roots are missing or expired: never a reason to go without.
    pub(crate) fn prepare(&self, context: &Arc<DownstreamTls>) -> Result<Accepting, Error> {
        let crypto = crypto()?;
        let (own, identity) = self.identity(context)?;
        let vouching = self.vouching(context)?;
        let domain = identity.spiffe_id().map(|id| id.trust_domain());
        let verifier = vouching.as_ref().map(|(_, bundle)| self.verifier(context, bundle, domain)).transpose()?;
        let is_required = requires(context, vouching.as_ref());
        let callers: Arc<dyn ClientCertVerifier> = match &verifier {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(verifier) => Arc::new(CallerVerifier { verifier: verifier.clone(), is_required }),
        };
        let config = config(crypto, callers, &identity, &self.floor)?;
        Ok(Accepting { config, verifier, identity, own, vouching })
    }

    fn verifier(
        &self,
        context: &Arc<DownstreamTls>,
        bundle: &TrustBundle,
        own: Option<TrustDomain>,
    ) -> Result<Arc<Verifier>, Error> {
        let trust = Trusted::Bundle { bundle: bundle.clone(), own };
        let (expected, floor) = (Expected::Caller(context.clone()), self.floor.clone());
        Ok(Arc::new(Verifier { trust, expected, crypto: crypto()?, floor }))
    }

    /// The context that a connection was accepted by has made room for another: its caller must be one that this lets in, too.
    /// `false`: what it takes to tell is not there.
    pub(crate) fn reconsider(&self, lifetime: &mut Lifetime, context: &Arc<DownstreamTls>) -> bool {
        let Ok(vouching) = self.vouching(context) else { return false };
        let is_required = requires(context, vouching.as_ref());
        let Some((provider, bundle)) = vouching else { return true };
        let own = self.providers.of(&context.identity).ok();
        let identity = own.as_ref().and_then(|own| own.material_now().ok()?.identity.clone());
        let domain = identity.as_ref().and_then(Identity::spiffe_id).map(|id| id.trust_domain());
        let Ok(verify) = self.verifier(context, &bundle, domain) else { return false };
        if lifetime.has_peer() {
            lifetime.reconsider(Successor { verify, vouching: Some((provider, bundle)), own });
        } else if is_required {
            lifetime.refuse("it showed no certificate, which is required now");
        }
        true
    }

    fn identity(&self, context: &DownstreamTls) -> Result<(Provider, Identity), Error> {
        let provider = self.providers.of(&context.identity)?;
        let identity = provider.identity(&*provider.material_now()?)?;
        Ok((provider, identity))
    }

    fn vouching(&self, context: &DownstreamTls) -> Result<Option<(Provider, TrustBundle)>, Error> {
        let Some(callers) = &context.callers else { return Ok(None) };
        let provider = self.providers.of(&callers.roots)?;
        let bundle = provider.material_now()?.trust.clone().ok_or_else(|| provider.without_roots())?;
        Ok(Some((provider, bundle)))
    }
}

/// Whether callers must show a certificate.
fn requires(context: &DownstreamTls, vouching: Option<&(Provider, TrustBundle)>) -> bool {
    vouching.is_some_and(|(_, bundle)| bundle.is_of_spiffe_validator())
        || context.callers.as_ref().is_some_and(|callers| callers.is_required)
}

impl Accepting {
    /// Secures a connection; also says how, and for how long.
    ///
    /// # Errors
    ///
    /// When either side refuses the other, or the client does not ask for HTTP/2.
    pub(crate) async fn run<IO>(self, io: IO) -> Result<(TlsStream<IO>, AcceptedSecurity, Lifetime), Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let failed = |what: &str| Error::new(ErrorKind::Connection, format!("TLS: {what}"));
        let accepting = TlsAcceptor::from(self.config).accept(io).await;
        let stream = accepting.map_err(|error| failed("the handshake failed").with_source(error))?;
        let session = stream.get_ref().1;
        if session.alpn_protocol().is_none() {
            return Err(failed("the client did not ask for HTTP/2 (ALPN `h2`)"));
        }
        let protocol = protocol(session).ok_or_else(|| failed("neither version 1.3 nor 1.2 was agreed on"))?;
        let chain: Vec<_> =
            session.peer_certificates().unwrap_or_default().iter().map(|one| one.clone().into_owned()).collect();
        let verifier = self.verifier.filter(|_| !chain.is_empty());
        let peer = match &verifier {
            Some(verifier) => {
                let leaf = verifier.verify_chain(&chain);
                let leaf = leaf.map_err(|error| failed("the handshake failed").with_source(error))?;
                Some(Peer::new(&leaf, &chain[0]))
            }
            None => None,
        };
        let security = AcceptedSecurity { protocol, peer, identity: self.identity };
        let mut lifetime = Lifetime::accepted(&security, self.own).with_chain(chain);
        if let (Some(verifier), Some((provider, bundle))) = (verifier, self.vouching) {
            lifetime = lifetime.vouched_for_by(provider, bundle, verifier);
        }
        Ok((stream, security, lifetime))
    }
}

/// Looks whether connections can be secured as contexts ask, again and again.
pub(crate) struct Outlook {
    acceptor: Acceptor,
    contexts: Vec<Arc<DownstreamTls>>,
    /// Those that the contexts take from.
    providers: Vec<Provider>,
    /// When the first certificate expires, or becomes valid, as was last seen.
    until: Option<SystemTime>,
}

/// Which of the contexts of an [`Outlook`] cannot be done.
#[derive(Debug, Default)]
pub(crate) struct Shortcomings {
    /// Why the first of them cannot: a certificate or roots are missing, or expired.
    pub(crate) first: Option<Error>,
    /// It is so with all.
    pub(crate) all: bool,
}

impl Outlook {
    pub(crate) fn new(acceptor: Acceptor, contexts: Vec<Arc<DownstreamTls>>) -> Self {
        let sources: HashSet<_> = contexts.iter().flat_map(|context| context.sources()).collect();
        let providers = sources.into_iter().filter_map(|source| acceptor.providers.of(source).ok()).collect();
        Self { acceptor, contexts, providers, until: None }
    }

    /// What cannot be secured now.
    pub(crate) fn look(&mut self) -> Shortcomings {
        let now = SystemTime::now();
        let of = |provider: &mut Provider| provider.latest().material?.identity.clone();
        let identities = self.providers.iter_mut().filter_map(of);
        let turns = identities.flat_map(|identity| [identity.not_before(), identity.not_after()]);
        self.until = turns.filter(|turn| *turn > now).min();
        let check = |context: &Arc<DownstreamTls>| {
            self.acceptor.vouching(context)?;
            self.acceptor.identity(context).map(drop)
        };
        let errors: Vec<Error> = self.contexts.iter().filter_map(|context| check(context).err()).collect();
        Shortcomings { all: errors.len() == self.contexts.len(), first: errors.into_iter().next() }
    }

    /// Waits until [`look`](Self::look) may find something else.
    pub(crate) async fn changed(&mut self) {
        if self.providers.is_empty() {
            return std::future::pending().await;
        }
        let left = self.until.map_or(LONGEST_LOOK, |until| until.duration_since(SystemTime::now()).unwrap_or_default());
        let change = select_all(self.providers.iter_mut().map(|provider| {
            Box::pin(async {
                if !provider.changed().await {
                    std::future::pending::<()>().await;
                }
            })
        }));
        let _ = timeout(left.min(LONGEST_LOOK), change).await;
    }
}

fn config(
    crypto: Arc<CryptoProvider>,
    callers: Arc<dyn ClientCertVerifier>,
    identity: &Identity,
    floor: &SecurityFloor,
) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(crypto)
        .with_protocol_versions(floor.versions())
        .map_err(|error| Error::new(ErrorKind::Setup, "the cryptography cannot do TLS").with_source(error))?
        .with_client_cert_verifier(callers)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.pair().clone())));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    config.require_ems = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Verifies the callers of one handshake.
#[derive(Debug)]
struct CallerVerifier {
    verifier: Arc<Verifier>,
    is_required: bool,
}

impl ClientCertVerifier for CallerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.is_required
    }

    /// None: which authorities are trusted is told to nobody, and a client shows the certificate that it has.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verifier.verify(end_entity, intermediates, now).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, self.verifier.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, self.verifier.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.algorithms().supported_schemes()
    }
}

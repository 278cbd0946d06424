//! Whether the peer is who it must be: its chain by webpki, its names by the rules of SPIFFE and gRPC.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::KeyUsage;

use super::floor::SecurityFloor;
use super::lifetime::VerifyAgain;
use super::revocation::Path;
use crate::identity::{Leaf, NameKind, RevocationLists, Roots, TrustBundle, TrustDomain, TrustedFor, may_issue};
use crate::resource::security::{DownstreamTls, UpstreamTls};
use crate::resource::upstream_tls::{NameMatch, is_dns_name_for};

/// Verifies the peer of one handshake.
#[derive(Debug)]
pub(crate) struct Verifier {
    pub(super) trust: Trusted,
    pub(super) expected: Expected,
    pub(super) crypto: Arc<CryptoProvider>,
    pub(super) floor: SecurityFloor,
}

/// Who vouches for the peer.
pub(crate) enum Trusted {
    /// Roots that a provider has. `own`: the trust domain of the own certificate, which they are for if they do not say.
    Bundle { bundle: TrustBundle, own: Option<TrustDomain> },
    /// The system's, which vouch for DNS names.
    System(Roots),
}

/// Who the peer must be.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    /// An endpoint of a cluster. `asked`: the name that it is asked for.
    Endpoint { cluster: Arc<str>, context: Arc<UpstreamTls>, asked: Option<Arc<str>> },
    /// A caller of a server.
    Caller(Arc<DownstreamTls>),
}

impl Expected {
    fn cluster(&self) -> Option<&str> {
        match self {
            Self::Endpoint { cluster, .. } => Some(cluster),
            Self::Caller(_) => None,
        }
    }
}

/// Why a peer is refused.
#[derive(Debug)]
struct Refused(String);

/// Its certificate is not believed any more, or that cannot be told.
#[derive(Debug)]
pub(super) struct Revoked(String);

impl Verifier {
    /// The same of a whole chain, the leaf first, at this moment.
    pub(super) fn verify_chain(&self, chain: &[CertificateDer<'_>]) -> Result<Leaf, rustls::Error> {
        let (leaf, others) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        self.verify(leaf, others, UnixTime::now())
    }

    pub(super) fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.crypto.signature_verification_algorithms
    }

    /// The peer's leaf, if everything about it is as it must be.
    pub(super) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Leaf, rustls::Error> {
        let mut leaf = Leaf::read(end_entity).map_err(|error| refused(&error))?;
        if leaf.claims_spiffe() {
            leaf.spiffe_id().map_err(|error| refused(&error))?;
        }
        self.check_chain(&leaf, end_entity, intermediates, now)?;
        self.check_names(&leaf)?;
        self.floor.check_peer(self.expected.cluster(), &leaf).map_err(|why| refused(&why))?;
        leaf.vouched = leaf.spiffe_id().ok().filter(|_| self.is_of_domain());
        Ok(leaf)
    }

    /// Whether the roots are those of trust domains, and can vouch for a SPIFFE ID: others vouch for the names alone that are
    /// asked for.
    fn is_of_domain(&self) -> bool {
        let Trusted::Bundle { bundle, own } = &self.trust else { return false };
        match bundle.trusted_for() {
            TrustedFor::Domains(_) => true,
            TrustedFor::Any(_, domain) => domain.or(own.as_ref()).is_some(),
        }
    }

    /// That the roots vouch for the peer in its part, as a server or as a client, and nothing was revoked meanwhile.
    fn check_chain(
        &self,
        leaf: &Leaf,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let roots = self.roots(leaf)?;
        let intermediates: Vec<_> =
            intermediates.iter().filter(|one| may_issue(one)).map(|one| CertificateDer::from(&**one)).collect();
        let algorithms = self.algorithms().all;
        let usage = match &self.expected {
            Expected::Endpoint { .. } => {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                verify_server_cert_signed_by_trust_anchor(&certificate, roots, &intermediates, now, algorithms)?;
                KeyUsage::server_auth()
            }
            Expected::Caller(_) => {
                WebPkiClientVerifier::builder_with_provider(roots.clone(), self.crypto.clone())
                    .build()
                    .map_err(|error| refused(&error))?
                    .verify_client_cert(end_entity, &intermediates, now)?;
                KeyUsage::client_auth()
            }
        };
        let path = Path { end_entity, intermediates: &intermediates, roots, algorithms, usage, now };
        let revoked = |why: String| {
            let why = Revoked(format!("{} (serial number {}): {why}", Listed(leaf), leaf.serial()));
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
        };
        self.revocation_lists().try_for_each(|lists| path.check(lists).map_err(revoked))
    }

    /// Those that come with the roots, and those of the context: neither takes the place of the other.
    fn revocation_lists(&self) -> impl Iterator<Item = &RevocationLists> {
        let of_roots = match &self.trust {
            Trusted::Bundle { bundle, .. } => bundle.revocation_lists(),
            Trusted::System(_) => None,
        };
        let of_context = match &self.expected {
            Expected::Endpoint { context, .. } => context.revoked.as_ref(),
            Expected::Caller(context) => context.callers.as_ref().and_then(|callers| callers.revoked.as_ref()),
        };
        of_roots.into_iter().chain(of_context)
    }

    /// Those that may vouch for a peer of this name. What it claims to be is believed only if they do.
    fn roots(&self, leaf: &Leaf) -> Result<&Arc<RootCertStore>, rustls::Error> {
        let (bundle, own) = match &self.trust {
            Trusted::System(roots) => return Ok(&roots.store),
            Trusted::Bundle { bundle, own } => (bundle, own),
        };
        match bundle.trusted_for() {
            TrustedFor::Domains(domains) => {
                let id = leaf.spiffe_id().map_err(|error| refused(&error))?;
                let roots = domains.get(&id.trust_domain());
                let roots = roots.ok_or_else(|| refused(&format!("no roots for the trust domain of {id}")))?;
                Ok(&roots.store)
            }
            TrustedFor::Any(roots, domain) => {
                if let Some(domain) = domain.or(own.as_ref())
                    && leaf.claims_spiffe()
                {
                    let id = leaf.spiffe_id().map_err(|error| refused(&error))?;
                    if id.trust_domain() != *domain {
                        return Err(refused(&format!(
                            "the roots are those of trust domain {domain}, and the peer is {id}"
                        )));
                    }
                }
                Ok(&roots.store)
            }
        }
    }

    fn is_of_spiffe_validator(&self) -> bool {
        matches!(&self.trust, Trusted::Bundle { bundle, .. } if bundle.is_of_spiffe_validator())
    }

    fn check_names(&self, leaf: &Leaf) -> Result<(), rustls::Error> {
        let names = match &self.expected {
            Expected::Endpoint { context, asked, .. } => {
                let UpstreamTls { names, auto_sni_san_validation, .. } = &**context;
                if let (true, Some(asked)) = (auto_sni_san_validation, asked) {
                    check_asked(asked, leaf)?;
                    // Envoy's validator for SPIFFE matches the names that are given, whatever name was asked for.
                    if !self.is_of_spiffe_validator() {
                        return Ok(());
                    }
                }
                names
            }
            Expected::Caller(context) => context.callers.as_ref().map_or(&[][..], |callers| &callers.names),
        };
        // Of a context and of the secret that it takes its roots from, one must be met, as Envoy joins them.
        let of_roots = match &self.trust {
            Trusted::Bundle { bundle, .. } => bundle.peers(),
            Trusted::System(_) => None,
        };
        let uri_alone = self.is_of_spiffe_validator();
        let is_wanted = |(kind, name)| {
            if uri_alone && kind != NameKind::Uri {
                return false;
            }
            names.iter().any(|wanted: &NameMatch| wanted.matches(kind, name))
                || of_roots.is_some_and(|wanted| wanted.is_met(kind, name))
        };
        match (names.is_empty() && of_roots.is_none(), &self.expected) {
            // The roots vouch for one mesh, and any of its workloads will do (A29).
            (true, _) if matches!(self.trust, Trusted::Bundle { .. }) => Ok(()),
            (true, _) => Err(refused(&"no name of the peer was asked for, and the system's roots vouch for everyone")),
            (false, _) if leaf.names.iter().any(is_wanted) => Ok(()),
            (false, Expected::Endpoint { .. }) => {
                Err(refused(&format!("the cluster asks for another peer, and this one is {}", Listed(leaf))))
            }
            (false, Expected::Caller(_)) => {
                Err(refused(&format!("the server is for other callers, and this one is {}", Listed(leaf))))
            }
        }
    }
}

/// That the peer is the one whose name was asked for (A101).
fn check_asked(asked: &str, leaf: &Leaf) -> Result<(), rustls::Error> {
    match leaf.names.iter().any(|(kind, name)| is_named(kind, name, asked)) {
        true => Ok(()),
        false => Err(refused(&format!("`{asked}` was asked for, and the peer is {}", Listed(leaf)))),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now).map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}

impl VerifyAgain for Arc<Verifier> {
    fn verify_now(&self, chain: &[CertificateDer<'static>]) -> Result<(), String> {
        self.verify_chain(chain).map(drop).map_err(|error| error.to_string())
    }

    fn verify_again(
        &self,
        trust: &TrustBundle,
        own: Option<&TrustDomain>,
        chain: &[CertificateDer<'static>],
    ) -> Result<(), String> {
        let trust = Trusted::Bundle { bundle: trust.clone(), own: own.cloned() };
        let Verifier { expected, crypto, floor, .. } = &**self;
        let again = Verifier { trust, expected: expected.clone(), crypto: crypto.clone(), floor: floor.clone() };
        again.verify_chain(chain).map(drop).map_err(|error| error.to_string())
    }
}

/// Whether a name of the peer is the one that was asked for, of whatever kind that is (A101).
fn is_named(kind: NameKind, name: &str, asked: &str) -> bool {
    match kind {
        NameKind::Dns => is_dns_name_for(name, asked),
        NameKind::Uri => name == asked,
        NameKind::Ip => asked.parse::<IpAddr>().is_ok_and(|asked| name.parse() == Ok(asked)),
        NameKind::Email => false,
    }
}

fn refused(why: &impl fmt::Display) -> rustls::Error {
    let why = OtherError(Arc::new(Refused(why.to_string())));
    rustls::Error::InvalidCertificate(CertificateError::Other(why))
}

/// The names of a certificate: as many as a person reads, since the peer chose how many there are.
struct Listed<'a>(&'a Leaf);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 4;
        let mut names = self.0.names.iter();
        let kind = |kind| match kind {
            NameKind::Uri => "",
            NameKind::Dns => "DNS:",
            NameKind::Email => "email:",
            NameKind::Ip => "IP:",
        };
        match names.next() {
            None => f.write_str("nobody: its certificate has no names")?,
            Some((first, name)) => write!(f, "{}{}", kind(first), cut(name))?,
        }
        names.by_ref().take(MOST - 1).try_for_each(|(other, name)| write!(f, ", {}{}", kind(other), cut(name)))?;
        if names.next().is_some() { f.write_str(", …") } else { Ok(()) }
    }
}

/// ASCII, so that any place is a good one.
fn cut(name: &str) -> String {
    name.get(..200).unwrap_or(name).escape_debug().to_string()
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Revoked {}

impl fmt::Debug for Trusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle { bundle, own } => f.debug_struct("Bundle").field("bundle", bundle).field("own", own).finish(),
            Self::System(_) => f.write_str("System"),
        }
    }
}

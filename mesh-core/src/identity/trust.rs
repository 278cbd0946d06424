//! Whom to trust: roots, or roots by trust domain (gRFC A87).

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use super::bundle_map::bundle_map;
use super::names::NameKind;
use super::own::certificates;
#[cfg(feature = "spiffe")]
use super::own::certificates_in_der;
use super::revocation::RevocationLists;
use super::spiffe::TrustDomain;
use crate::error::{BoxError, Error, ErrorKind};

/// The certificate authorities that may vouch for a peer. Cloning is cheap.
#[derive(Clone, PartialEq)]
pub struct TrustBundle {
    trust: Arc<Trust>,
    /// `None`: nobody says which certificates were revoked.
    revoked: Option<RevocationLists>,
    /// Of those whom the roots vouch for, these alone.
    peers: Option<PeerNames>,
    /// See [`by_spiffe_validator`](Self::by_spiffe_validator).
    is_of_validator: bool,
}

type IsMet = dyn Fn(NameKind, &str) -> bool + Send + Sync;

/// Conditions on the names of peers that came with roots (SDS), beside those of the TLS context.
#[derive(Clone)]
pub(crate) struct PeerNames {
    /// What tells them from others.
    written: Arc<[u8]>,
    is_met: Arc<IsMet>,
}

#[derive(PartialEq)]
enum Trust {
    /// A file of roots, which vouches for one trust domain.
    Roots { roots: Roots, domain: Option<TrustDomain> },
    /// A87: peers are SVIDs, and each trust domain has roots of its own.
    ByDomain(BTreeMap<TrustDomain, Roots>),
}

/// For whom a bundle vouches.
pub(crate) enum TrustedFor<'a> {
    /// Whoever the roots vouch for; workloads of this trust domain alone, if it is known.
    Any(&'a Roots, Option<&'a TrustDomain>),
    /// Workloads of these trust domains, each by its own roots.
    Domains(&'a BTreeMap<TrustDomain, Roots>),
}

/// Roots in the form in which chains are verified.
#[derive(Clone)]
pub(crate) struct Roots {
    pub(crate) store: Arc<RootCertStore>,
}

impl TrustBundle {
    /// Trusts the authorities whose certificates are in a PEM text. They vouch for workloads of one trust domain alone:
    /// that of the own certificate, or that given by [`of_trust_domain`](Self::of_trust_domain).
    ///
    /// # Errors
    ///
    /// When there is no certificate, or one cannot be read.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let wrong = || Error::new(ErrorKind::Setup, "the root certificates cannot be used");
        let certificates = certificates(pem).map_err(|error| wrong().with_source(error))?;
        let roots = Roots::new(certificates).map_err(|error| wrong().with_source(error))?;
        Ok(Self::of(Trust::Roots { roots, domain: None }))
    }

    /// As [`from_pem`](Self::from_pem), of a text that has certificates alone.
    pub(crate) fn from_certificates(pem: &[u8]) -> Result<Self, Error> {
        let wrong = |error| Error::new(ErrorKind::Setup, "the root certificates cannot be used").with_source(error);
        roots_alone(pem).map_err(wrong)?;
        Self::from_pem(pem)
    }

    /// Trusts the authorities of each trust domain in a SPIFFE bundle map for the workloads of that domain (A87): a JSON
    /// object `{"trust_domains": {"cluster.local": {"keys": [{"kty": …, "use": "x509-svid", "x5c": […]}]}}}`. Peers must
    /// be SVIDs.
    ///
    /// # Errors
    ///
    /// When anything in it is wrong: a part of it is not used.
    pub fn from_spiffe_bundle_map(json: &str) -> Result<Self, Error> {
        let wrong = |problem: String| Error::new(ErrorKind::Setup, format!("the SPIFFE bundle map: {problem}"));
        Ok(Self::of(Trust::ByDomain(bundle_map(json).map_err(wrong)?)))
    }

    /// Trusts the authorities of each trust domain for the workloads of that domain, their certificates in DER one after the
    /// other. Peers must be SVIDs.
    #[cfg(feature = "spiffe")]
    pub(crate) fn by_domain<'a>(bundles: impl IntoIterator<Item = (TrustDomain, &'a [u8])>) -> Result<Self, Error> {
        Self::of_domains(bundles, certificates_in_der)
    }

    /// The same, their certificates in PEM, and nothing else.
    pub(crate) fn by_domain_in_pem<'a>(
        bundles: impl IntoIterator<Item = (TrustDomain, &'a [u8])>,
    ) -> Result<Self, Error> {
        Self::of_domains(bundles, roots_alone)
    }

    fn of_domains<'a>(
        bundles: impl IntoIterator<Item = (TrustDomain, &'a [u8])>,
        read: fn(&[u8]) -> Result<Vec<CertificateDer<'static>>, BoxError>,
    ) -> Result<Self, Error> {
        let roots = |(domain, bundle): (TrustDomain, &[u8])| {
            let wrong = || Error::setup(format!("the bundle of trust domain {domain} cannot be used"));
            let certificates = read(bundle).map_err(|error| wrong().with_source(error))?;
            let roots = Roots::new(certificates).map_err(|error| wrong().with_source(error))?;
            Ok((domain, roots))
        };
        Ok(Self::of(Trust::ByDomain(bundles.into_iter().map(roots).collect::<Result<_, Error>>()?)))
    }

    fn of(trust: Trust) -> Self {
        Self { trust: Arc::new(trust), revoked: None, peers: None, is_of_validator: false }
    }

    /// Says for which trust domain the roots of [`from_pem`](Self::from_pem) vouch. Of no effect on a bundle map.
    pub fn of_trust_domain(self, domain: TrustDomain) -> Self {
        match &*self.trust {
            Trust::Roots { roots, .. } => {
                Self { trust: Arc::new(Trust::Roots { roots: roots.clone(), domain: Some(domain) }), ..self }
            }
            Trust::ByDomain(_) => self,
        }
    }

    /// Looks up in these lists whether a certificate that the authorities vouch for was revoked. Default: nobody is looked up.
    pub fn revoked_by(self, lists: RevocationLists) -> Self {
        Self { revoked: Some(lists), ..self }
    }

    pub(crate) fn revocation_lists(&self) -> Option<&RevocationLists> {
        self.revoked.as_ref()
    }

    /// Of those whom the roots vouch for, trusts peers with such names alone, and those that the TLS context names.
    pub(crate) fn of_peers(self, peers: Option<PeerNames>) -> Self {
        Self { peers, ..self }
    }

    /// Has the rules of Envoy's validator for SPIFFE: conditions on names are about the SPIFFE ID alone, and callers must show a
    /// certificate.
    pub(crate) fn by_spiffe_validator(self) -> Self {
        Self { is_of_validator: true, ..self }
    }

    pub(crate) fn is_of_spiffe_validator(&self) -> bool {
        self.is_of_validator
    }

    /// Which peers are meant, if it says so.
    pub(crate) fn peers(&self) -> Option<&PeerNames> {
        self.peers.as_ref()
    }

    pub(crate) fn trusted_for(&self) -> TrustedFor<'_> {
        match &*self.trust {
            Trust::Roots { roots, domain } => TrustedFor::Any(roots, domain.as_ref()),
            Trust::ByDomain(map) => TrustedFor::Domains(map),
        }
    }

    /// Tells it from bundles of other authorities.
    pub(super) fn hash_authorities(&self, state: &mut impl Hasher) {
        let mut hash = |roots: &Roots| {
            roots.store.roots.iter().for_each(|root| root.subject_public_key_info.hash(state));
        };
        match &*self.trust {
            Trust::Roots { roots, .. } => hash(roots),
            Trust::ByDomain(map) => map.values().for_each(hash),
        }
    }

    /// The trust domains that it is for; none if it is roots of no domain in particular.
    pub fn trust_domains(&self) -> Vec<TrustDomain> {
        match &*self.trust {
            Trust::Roots { domain, .. } => domain.iter().cloned().collect(),
            Trust::ByDomain(map) => map.keys().cloned().collect(),
        }
    }
}

impl PeerNames {
    /// `written` tells them from others.
    pub(crate) fn new(
        written: impl Into<Arc<[u8]>>,
        is_met: impl Fn(NameKind, &str) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { written: written.into(), is_met: Arc::new(is_met) }
    }

    /// Whether a name of a peer is one that is meant.
    pub(crate) fn is_met(&self, kind: NameKind, name: &str) -> bool {
        (self.is_met)(kind, name)
    }
}

impl PartialEq for PeerNames {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

/// Certificates in PEM. Lists of what was revoked, which Envoy takes from the same text, are not left out in silence.
pub(super) fn roots_alone(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BoxError> {
    if CertificateRevocationListDer::pem_slice_iter(pem).any(|list| list.is_ok()) {
        return Err("there are revocation lists beside the certificates: they are taken from `crl` alone".into());
    }
    certificates(pem)
}

impl Roots {
    /// All of them or none: a part of a file that is being written must not be taken for the whole.
    pub(super) fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, rustls::Error> {
        let mut store = RootCertStore::empty();
        certificates.into_iter().try_for_each(|certificate| store.add(certificate))?;
        Ok(Self { store: Arc::new(store) })
    }

    /// Those of the system that can be read: systems ship some that nobody can. `None`: none can.
    pub(crate) fn system(certificates: Vec<CertificateDer<'static>>) -> Option<Self> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(certificates);
        (!store.is_empty()).then(|| Self { store: Arc::new(store) })
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.store.roots == other.store.roots
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.trust {
            Trust::Roots { roots, domain } => {
                f.debug_struct("Roots").field("count", &roots.store.len()).field("domain", domain).finish()
            }
            Trust::ByDomain(map) => f.debug_set().entries(map.keys()).finish(),
        }
    }
}

//! The own certificate and its key.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::sign::CertifiedKey;
#[cfg(feature = "spiffe")]
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::certificate::{Leaf, Utc};
use super::crypto::crypto;
use super::spiffe::SpiffeId;
use crate::error::{BoxError, Error, ErrorKind};

/// A certificate chain and the key of its leaf: what a process shows to its peers. The key is never printed. Cloning is
/// cheap.
#[derive(Clone)]
pub struct Identity {
    pair: Arc<CertifiedKey>,
    leaf: Arc<Leaf>,
    spiffe_id: Option<SpiffeId>,
}

impl Identity {
    /// Reads a chain of certificates, the leaf first, and the leaf's key (PKCS #8, SEC 1 or PKCS #1), all in PEM.
    ///
    /// # Errors
    ///
    /// When either cannot be read, the key is of no supported kind, or it is not the key of the leaf.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        let chain = certificates(chain).map_err(|error| wrong("certificate chain").with_source(error))?;
        // The error of the PEM reader may have a line of the key.
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|error| wrong("private key").with_source(bland(&error)))?;
        Self::new(chain, key)
    }

    /// As [`from_pem`](Self::from_pem), of certificates in DER, one after the other, and a key of PKCS #8.
    #[cfg(feature = "spiffe")]
    pub(crate) fn from_der(chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        let chain = certificates_in_der(chain).map_err(|error| wrong("certificate chain").with_source(error))?;
        Self::new(chain, PrivatePkcs8KeyDer::from(key.to_vec()).into())
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, Error> {
        let Some((leaf, others)) = chain.split_first() else { return Err(wrong("certificate chain")) };
        let leaf = Leaf::read(leaf)?;
        others.iter().try_for_each(|certificate| Leaf::read(certificate).map(drop))?;
        let pair = CertifiedKey::from_der(chain, key, &*crypto()?).map_err(|error| {
            let cure = "the certificate and the key must be of one issue: write both, then swap them in together";
            wrong("pair of certificate and key").with_source(error).with_next_step(cure)
        })?;
        let spiffe_id = leaf.spiffe_id().ok();
        Ok(Self { pair: Arc::new(pair), leaf: Arc::new(leaf), spiffe_id })
    }

    /// The SPIFFE ID of the leaf, if it is an SVID.
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        self.spiffe_id.as_ref()
    }

    /// The first of the leaf's names: a URI, a DNS name or its subject.
    #[cfg(feature = "server")]
    pub(crate) fn name(&self) -> &str {
        let names = &self.leaf.names;
        names.uris().next().or_else(|| names.dns().next()).unwrap_or(&self.leaf.subject)
    }

    /// When the leaf expires. No connection is made with it from then on.
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// Why it cannot be used at this moment, in words that follow "has"; `None`: it can.
    pub(crate) fn problem(&self, now: SystemTime) -> Option<String> {
        if now >= self.not_after() {
            return Some(format!("an expired certificate: since {}", Utc(self.not_after())));
        }
        (now < self.not_before()).then(|| format!("a certificate that is valid from {} on", Utc(self.not_before())))
    }

    pub(crate) fn not_before(&self) -> SystemTime {
        self.leaf.not_before
    }

    pub(crate) fn serial(&self) -> String {
        self.leaf.serial()
    }

    pub(crate) fn pair(&self) -> &Arc<CertifiedKey> {
        &self.pair
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("spiffe_id", &self.spiffe_id)
            .field("serial", &self.serial())
            .field("not_after", &format_args!("{}", Utc(self.not_after())))
            .finish_non_exhaustive()
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.pair.cert == other.pair.cert
    }
}

/// Every certificate of a PEM text; at least one.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BoxError> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    if certificates.is_empty() {
        return Err("no certificate in PEM".into());
    }
    Ok(certificates)
}

/// Every certificate of those that follow one another in DER; at least one.
#[cfg(feature = "spiffe")]
pub(super) fn certificates_in_der(der: &[u8]) -> Result<Vec<CertificateDer<'static>>, BoxError> {
    match super::der::split(der)? {
        parts if parts.is_empty() => Err("there is none".into()),
        parts => Ok(parts.into_iter().map(|part| part.to_vec().into()).collect()),
    }
}

/// What is wrong with a PEM text, without any of it.
fn bland(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::NoItemsFound => "no private key in PEM",
        pem::Error::MissingSectionEnd { .. } => "its PEM section has no end",
        pem::Error::Base64Decode(_) => "its PEM section is not base64",
        _ => "it is not PEM",
    }
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::Setup, format!("the {what} cannot be used"))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType};

    use super::*;

    fn issue(key: &KeyPair) -> String {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI("spiffe://a/b".try_into().unwrap())];
        params.self_signed(key).unwrap().pem()
    }

    #[test]
    fn a_pair_of_any_usual_kind_is_an_identity() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let identity = Identity::from_pem(issue(&key).as_bytes(), key.serialize_pem().as_bytes()).unwrap();
            assert_eq!(identity.spiffe_id().map(SpiffeId::as_str), Some("spiffe://a/b"));
        }
    }

    #[test]
    fn s2_a_pair_is_used_only_if_the_key_is_the_leafs_and_the_chain_parses() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let (chain, pem) = (issue(&key), key.serialize_pem());
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (chain, key, problem) in [
            (chain.as_str(), other.serialize_pem().as_str(), "KeyMismatch"),
            (&chain, "", "private key cannot be used"),
            ("", &pem, "certificate chain cannot be used"),
            (broken, &pem, "read a certificate"),
            (&format!("{chain}{broken}"), &pem, "read a certificate"),
            (&chain, &chain, "private key cannot be used"),
        ] {
            let error = Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err().report();
            assert!(error.contains(problem), "{problem}: {error}");
        }
    }

    #[cfg(feature = "spiffe")]
    #[test]
    fn a_chain_in_der_is_certificates_one_after_the_other() {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        let (der, pkcs8) = (certificate.der().to_vec(), key.serialize_der());
        let chain = [&*der, &*der].concat();
        assert_eq!(Identity::from_der(&chain, &pkcs8).unwrap().pair().cert.len(), 2);
        for (chain, key, problem) in [
            (&chain[..chain.len() - 1], &*pkcs8, "it ends too early"),
            (&[], &pkcs8, "there is none"),
            (&[0x30, 0], &pkcs8, "read a certificate"),
            (&chain, &pkcs8[1..], "pair of certificate and key"),
            (&chain, &[], "pair of certificate and key"),
        ] {
            let error = Identity::from_der(chain, key).unwrap_err().report();
            assert!(error.contains(problem), "{problem}: {error}");
        }
    }

    #[test]
    fn the_key_is_never_printed() {
        let key = KeyPair::generate().unwrap();
        let pem = key.serialize_pem();
        let identity = Identity::from_pem(issue(&key).as_bytes(), pem.as_bytes()).unwrap();
        let text = format!("{identity:?} {identity:#?}");
        assert!(text.contains("spiffe://a/b"), "{text}");
        let secret = pem.lines().nth(1).unwrap();
        assert!(!text.contains(&secret[..20]) && text.len() < 600, "{text}");
        // Lines that run together, and others that no reader takes.
        let begin = "-----BEGIN PRIVATE KEY";
        for broken in
            [pem.replace('\n', ""), format!("{begin}{secret}\n"), pem.replace("-----END", ""), pem.replace('A', "!")]
        {
            let error = Identity::from_pem(issue(&key).as_bytes(), broken.as_bytes()).unwrap_err();
            let text = format!("{} {error:?}", error.report());
            let numbers = format!("{:?}", &secret.as_bytes()[..4]);
            let numbers = numbers.trim_matches(['[', ']']);
            assert!(!text.contains(&secret[..8]) && !text.contains(numbers) && text.len() < 600, "{text}");
        }
    }
}

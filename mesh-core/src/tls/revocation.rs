//! Whether a certificate of the peer's chain was revoked (RFC 5280, 6.3; gRFC A69).

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder};

use crate::identity::RevocationLists;

/// A chain that roots vouch for, and what for.
pub(super) struct Path<'a> {
    pub(super) end_entity: &'a CertificateDer<'a>,
    pub(super) intermediates: &'a [CertificateDer<'a>],
    pub(super) roots: &'a RootCertStore,
    pub(super) algorithms: &'a [&'a dyn SignatureVerificationAlgorithm],
    pub(super) usage: KeyUsage,
    pub(super) now: UnixTime,
}

impl Path<'_> {
    /// Looks the certificates up.
    ///
    /// # Errors
    ///
    /// Which of them is not believed, and why.
    pub(super) fn check(&self, lists: &RevocationLists) -> Result<(), String> {
        let (depth, ..) = lists.policies();
        match self.verify(lists, depth) {
            Ok(()) => Ok(()),
            Err(Error::InvalidCrlSignatureForPublicKey) if lists.allows_undetermined() => Ok(()),
            Err(Error::CertRevoked) => Err(match self.verify(lists, RevocationCheckDepth::EndEntity) {
                Err(Error::CertRevoked) => "its certificate was revoked by its issuer".to_owned(),
                _ => "the certificate of an authority between it and the roots was revoked".to_owned(),
            }),
            Err(error) => Err(format!("whether its certificate was revoked cannot be told: {}", said(&error))),
        }
    }

    fn verify(&self, lists: &RevocationLists, depth: RevocationCheckDepth) -> Result<(), Error> {
        let (_, status, expiration) = lists.policies();
        let leaf = EndEntityCert::try_from(self.end_entity)?;
        let now = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(self.now.as_secs());
        let mut result = Err(Error::UnknownRevocationStatus);
        for order in lists.orders(now) {
            let revocation = match RevocationOptionsBuilder::new(&order) {
                Ok(builder) => builder,
                Err(_) if lists.allows_undetermined() => return Ok(()),
                Err(_) => return Err(Error::UnknownRevocationStatus),
            };
            let revocation =
                revocation.with_depth(depth).with_status_policy(status).with_expiration_policy(expiration).build();
            let verified = leaf.verify_for_usage(
                self.algorithms,
                &self.roots.roots,
                self.intermediates,
                self.now,
                self.usage,
                Some(revocation),
                None,
            );
            result = verified.map(drop);
            // Others of the same issuer's name may be those of this one.
            if !matches!(result, Err(Error::InvalidCrlSignatureForPublicKey)) {
                return result;
            }
        }
        result
    }
}

fn said(error: &Error) -> String {
    match error {
        Error::UnknownRevocationStatus => "there is no revocation list by the issuer of one in its chain".to_owned(),
        Error::CrlExpired { .. } => "the revocation list of one in its chain expired".to_owned(),
        Error::InvalidCrlSignatureForPublicKey => {
            "the revocation list of one in its chain is not signed by the issuer that it names".to_owned()
        }
        Error::IssuerNotCrlSigner => "the issuer of one in its chain may not sign revocation lists".to_owned(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
        ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    };

    use super::*;
    use crate::identity::crypto;

    const LEAF: u64 = 7;
    const MIDDLE: u64 = 8;

    type Issuer = CertifiedIssuer<'static, KeyPair>;

    /// An authority below a root, and a certificate below it.
    struct Chain {
        root: Issuer,
        middle: Issuer,
        leaf: CertificateDer<'static>,
    }

    fn authority(name: &str, serial: u64) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial.into());
        params
    }

    impl Chain {
        fn new() -> Self {
            let key = || KeyPair::generate().unwrap();
            let root = Issuer::self_signed(authority("root", 1), key()).unwrap();
            let middle = Issuer::signed_by(authority("middle", MIDDLE), key(), &root).unwrap();
            let mut params = CertificateParams::new(["a.test".to_owned()]).unwrap();
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.serial_number = Some(LEAF.into());
            let leaf = params.signed_by(&key(), &middle).unwrap().der().clone();
            Self { root, middle, leaf }
        }

        fn check(&self, lists: &RevocationLists) -> Result<(), String> {
            let mut roots = RootCertStore::empty();
            roots.add(self.root.der().clone()).unwrap();
            let algorithms = crypto().unwrap().signature_verification_algorithms.all;
            let (usage, now) = (KeyUsage::server_auth(), UnixTime::now());
            let intermediates = [self.middle.der().clone()];
            let path =
                Path { end_entity: &self.leaf, intermediates: &intermediates, roots: &roots, algorithms, usage, now };
            path.check(lists)
        }
    }

    /// In force from so many minutes on, by this issuer, of these serial numbers.
    fn list(issuer: &Issuer, from: i64, serials: &[u64]) -> String {
        let now = SystemTime::now();
        let minutes = Duration::from_secs(60 * from.unsigned_abs());
        let begin = if from < 0 { now - minutes } else { now + minutes };
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: begin.into(),
            next_update: (begin + Duration::from_secs(86_400)).into(),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(issuer).unwrap().pem().unwrap()
    }

    fn lists(texts: &[String]) -> RevocationLists {
        RevocationLists::from_pem(texts.concat().as_bytes()).unwrap()
    }

    #[test]
    fn every_certificate_of_a_chain_is_looked_up_or_the_peers_own_alone() {
        let chain = Chain::new();
        let (root, middle) = (&chain.root, &chain.middle);
        let both = |of_root: &[u64], of_middle: &[u64]| lists(&[list(root, -1, of_root), list(middle, -1, of_middle)]);
        assert_eq!(chain.check(&both(&[], &[])), Ok(()));
        let own = "its certificate was revoked by its issuer";
        let authoritys = "the certificate of an authority between it and the roots was revoked";
        for (lists, of_all, of_leaf) in [
            (both(&[], &[LEAF]), Some(own), Some(own)),
            (both(&[MIDDLE], &[]), Some(authoritys), None),
            (lists(&[list(middle, -1, &[])]), Some("there is no revocation list by the issuer of one"), None),
            (lists(&[list(middle, -1, &[LEAF])]), Some("there is no revocation list"), Some(own)),
            (lists(&[list(root, -1, &[])]), Some("there is no revocation list"), Some("there is no revocation list")),
        ] {
            for (lists, expected) in [(lists.clone(), of_all), (lists.clone().leaf_only(), of_leaf)] {
                let found = chain.check(&lists);
                match expected {
                    None => assert_eq!(found, Ok(()), "{lists:?}"),
                    Some(why) => {
                        assert!(found.as_ref().is_err_and(|found| found.contains(why)), "{lists:?}: {found:?}")
                    }
                }
            }
        }
    }

    #[test]
    fn lists_that_are_not_in_force_yet_say_nothing() {
        let chain = Chain::new();
        let early = lists(&[list(&chain.root, 5, &[]), list(&chain.middle, 5, &[])]);
        let why = chain.check(&early).unwrap_err();
        assert!(why.contains("there is no revocation list"), "{why}");
        assert_eq!(chain.check(&early.allow_undetermined()), Ok(()));
        // What is in force holds until then.
        let (old, early) = (list(&chain.middle, -5, &[LEAF]), list(&chain.middle, 5, &[]));
        let why = chain.check(&lists(&[early, old]).leaf_only()).unwrap_err();
        assert!(why.contains("was revoked"), "{why}");
    }
}

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

//! What a leaf certificate says of itself.

use std::fmt;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;

use super::der::Facts;
use super::names::Names;
use super::spiffe::SpiffeId;
use crate::error::Error;

/// The facts of a leaf. They are claims until the chain was verified.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    serial: Box<[u8]>,
    /// As RFC 2253 writes it, empty if it has no part.
    pub(crate) subject: Box<str>,
    pub(crate) names: Names,
    is_authority: bool,
    signs_others: bool,
    /// Its SPIFFE ID, once it was verified that roots of its trust domain vouch for it.
    pub(crate) vouched: Option<SpiffeId>,
}

impl Leaf {
    /// Reads a certificate.
    ///
    /// # Errors
    ///
    /// When it is not DER, or its names are not as RFC 5280 has them.
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let facts =
            Facts::read(certificate).map_err(|problem| Error::setup(format!("read a certificate: {problem}")))?;
        let signs_others = facts.signs_others();
        let Facts { not_before, not_after, serial, subject, is_authority, names, .. } = facts;
        let (not_before, not_after) = (time(not_before), time(not_after));
        Ok(Self { not_before, not_after, serial, subject, names, is_authority, signs_others, vouched: None })
    }

    /// The ID of an SVID: exactly one URI, a SPIFFE ID, in a certificate that is no authority's and whose key signs none
    /// (X509-SVID, 2, 4.1 and 4.3). It is a claim.
    ///
    /// # Errors
    ///
    /// Why the certificate is no SVID.
    pub(crate) fn spiffe_id(&self) -> Result<SpiffeId, Error> {
        if self.is_authority {
            return Err(Error::setup("a certificate authority's own certificate is no SVID"));
        }
        if self.signs_others {
            return Err(Error::setup("a certificate whose key may sign certificates or CRLs is no SVID"));
        }
        let mut uris = self.names.uris();
        match (uris.next(), uris.count()) {
            (Some(uri), 0) => uri.parse(),
            (None, _) => Err(Error::setup("the certificate has no SPIFFE ID (no URI among its names)")),
            (Some(_), more) => Err(Error::setup(format!("the certificate has {} URIs, an SVID has one", more + 1))),
        }
    }

    /// In hexadecimal digits, without the byte that only says that the number is not negative.
    pub(crate) fn serial(&self) -> String {
        let digits = match &*self.serial {
            [0, digits @ ..] if !digits.is_empty() => digits,
            digits => digits,
        };
        digits.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether it claims to be an SVID.
    pub(crate) fn claims_spiffe(&self) -> bool {
        let is_spiffe = |uri: &str| uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"));
        self.names.uris().any(is_spiffe)
    }
}

/// Whether an authority's certificate leaves it to sign certificates: webpki does not ask (RFC 5280, 6.1.4 n).
pub(crate) fn may_issue(certificate: &CertificateDer<'_>) -> bool {
    Facts::read(certificate).is_ok_and(|facts| facts.may_issue())
}

pub(super) fn time(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let time = match seconds {
        0.. => SystemTime::UNIX_EPOCH.checked_add(distance),
        _ => SystemTime::UNIX_EPOCH.checked_sub(distance),
    };
    // Years 0 to 9999 fit the clocks of all systems but those that start at 1601: there it is long over.
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A moment as people read it in logs: `2026-11-28T18:00:00Z`.
pub(crate) struct Utc(pub(crate) SystemTime);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = date(days);
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
    }
}

/// The date that is so many days after 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01, in eras of 400 years.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next_year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, KeyUsagePurpose, SanType};

    use super::*;

    #[test]
    fn moments_are_written_as_the_calendar_has_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_888_800, "2026-11-28T18:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(Utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string(), text);
        }
    }

    #[test]
    fn an_svid_has_one_uri_and_that_is_a_spiffe_id() {
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        let a = "spiffe://a/b";
        for (names, wanted) in [
            (vec![uri(a)], Ok(a)),
            (vec![uri(a), SanType::DnsName("a.test".try_into().unwrap())], Ok(a)),
            (vec![], Err("no SPIFFE ID")),
            (vec![SanType::DnsName("a.test".try_into().unwrap())], Err("no SPIFFE ID")),
            (vec![uri(a), uri("spiffe://a/c")], Err("2 URIs")),
            (vec![uri(a), uri("https://a/b")], Err("2 URIs")),
            (vec![uri("https://a/b")], Err("does not start")),
            (vec![uri("spiffe://A/b")], Err("lowercase")),
        ] {
            let mut params = CertificateParams::default();
            params.subject_alt_names = names;
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            let leaf = Leaf::read(certificate.der()).unwrap();
            match (leaf.spiffe_id(), wanted) {
                (Ok(id), Ok(wanted)) => assert_eq!(id.as_str(), wanted),
                (Err(error), Err(wanted)) => assert!(error.to_string().contains(wanted), "{error}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_certificate_that_may_sign_others_is_no_svid() {
        for (usage, signs) in [
            (KeyUsagePurpose::DigitalSignature, false),
            (KeyUsagePurpose::KeyCertSign, true),
            (KeyUsagePurpose::CrlSign, true),
            (KeyUsagePurpose::DecipherOnly, false),
        ] {
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![SanType::URI("spiffe://a/b".try_into().unwrap())];
            params.key_usages = vec![KeyUsagePurpose::KeyAgreement, usage];
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            let id = Leaf::read(certificate.der()).unwrap().spiffe_id();
            assert_eq!(id.is_err_and(|error| error.to_string().contains("may sign")), signs, "{usage:?}");
        }
    }

    #[test]
    fn a_serial_number_is_written_without_its_sign() {
        for (number, text) in [(0xb301_u64, "b301"), (0x7f, "7f"), (0x80, "80"), (0x0a0b, "0a0b")] {
            let mut params = CertificateParams::default();
            params.serial_number = Some(number.into());
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            assert_eq!(Leaf::read(certificate.der()).unwrap().serial(), text);
        }
    }

    #[test]
    fn the_time_of_a_certificate_is_read_in_both_forms() {
        for year in [1975, 2026, 2049, 2050, 2999] {
            let mut params = CertificateParams::default();
            params.not_before = rcgen::date_time_ymd(year, 2, 3);
            params.not_after = rcgen::date_time_ymd(year, 3, 1);
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            let leaf = Leaf::read(certificate.der()).unwrap();
            assert_eq!(Utc(leaf.not_before).to_string(), format!("{year}-02-03T00:00:00Z"));
            assert_eq!(Utc(leaf.not_after).to_string(), format!("{year}-03-01T00:00:00Z"));
        }
    }
}

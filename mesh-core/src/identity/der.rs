//! Just enough DER to read what a certificate says of its names and its time (RFC 5280, 4.1).
//!
//! What is verified is verified by webpki; this reads what webpki does not tell. Any bytes lead to a value or to an error.

use std::collections::BTreeSet;

use super::names::Names;
use super::subject::distinguished_name;

const BOOLEAN: u8 = 0x01;
pub(super) const OBJECT_ID: u8 = 0x06;
const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;
const OCTETS: u8 = 0x04;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// `id-ce-subjectAltName`, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// `id-ce-keyUsage`, 2.5.29.15.
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
/// Of the first byte of key usages: `keyCertSign` and `cRLSign` (RFC 5280, 4.2.1.3).
const SIGNS_CERTIFICATES: u8 = 0x04;
const SIGNS_CRLS: u8 = 0x02;
/// `id-ce-basicConstraints`, 2.5.29.19.
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

/// What is read of a certificate.
#[derive(Debug)]
pub(super) struct Facts {
    /// Seconds since 1970.
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    pub(super) serial: Box<[u8]>,
    pub(super) subject: Box<str>,
    pub(super) is_authority: bool,
    /// What its key is for, as bits; `None`: for anything.
    key_usage: Option<u8>,
    pub(super) names: Names,
}

/// Bytes that are read from the front.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

/// What is not as DER has it.
pub(super) type Malformed = &'static str;

impl Facts {
    pub(super) fn read(certificate: &[u8]) -> Result<Self, Malformed> {
        let mut outer = Reader(certificate);
        let mut signed = Reader(outer.take(SEQUENCE)?);
        let mut fields = Reader(signed.take(SEQUENCE)?);
        if fields.next_is(VERSION) {
            fields.take(VERSION)?;
        }
        let serial = fields.take(INTEGER)?.into();
        let _algorithm = fields.take(SEQUENCE)?;
        let _issuer = fields.take(SEQUENCE)?;
        let mut validity = Reader(fields.take(SEQUENCE)?);
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        let subject = distinguished_name(fields.take(SEQUENCE)?)?;
        let mut facts = Self {
            not_before,
            not_after,
            serial,
            subject,
            is_authority: false,
            key_usage: None,
            names: Names::default(),
        };
        while !fields.0.is_empty() {
            let (tag, content) = fields.any()?;
            if tag == EXTENSIONS {
                facts.extensions(content)?;
            }
        }
        Ok(facts)
    }

    fn extensions(&mut self, content: &[u8]) -> Result<(), Malformed> {
        let mut extensions = Reader(Reader(content).take(SEQUENCE)?);
        let mut seen = BTreeSet::new();
        while !extensions.0.is_empty() {
            let mut extension = Reader(extensions.take(SEQUENCE)?);
            let id = extension.take(OBJECT_ID)?;
            if !seen.insert(id) {
                return Err("two extensions of a kind");
            }
            if extension.next_is(BOOLEAN) {
                extension.take(BOOLEAN)?;
            }
            let value = extension.take(OCTETS)?;
            match id {
                SUBJECT_ALT_NAME => self.names = names(value)?,
                KEY_USAGE => {
                    let bits = Reader(value).take(BITS)?;
                    self.key_usage = Some(bits.get(1).copied().unwrap_or_default());
                }
                BASIC_CONSTRAINTS => {
                    let constraints = Reader(Reader(value).take(SEQUENCE)?);
                    self.is_authority = constraints.0.starts_with(&[BOOLEAN, 1, 0xff]);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Facts {
    /// Whether its key may sign certificates or CRLs, by its own words.
    pub(super) fn signs_others(&self) -> bool {
        self.key_usage.is_some_and(|bits| bits & (SIGNS_CERTIFICATES | SIGNS_CRLS) != 0)
    }

    /// Whether what its key signs can be a certificate.
    pub(super) fn may_issue(&self) -> bool {
        self.key_usage.is_none_or(|bits| bits & SIGNS_CERTIFICATES != 0)
    }
}

/// When a revocation list was issued (`thisUpdate`; RFC 5280, 5.1), in seconds since 1970: webpki does not tell.
pub(super) fn revocation_list_issued(list: &[u8]) -> Result<i64, Malformed> {
    let mut signed = Reader(Reader(list).take(SEQUENCE)?);
    let mut fields = Reader(signed.take(SEQUENCE)?);
    if fields.next_is(INTEGER) {
        fields.take(INTEGER)?;
    }
    let _algorithm = fields.take(SEQUENCE)?;
    let _issuer = fields.take(SEQUENCE)?;
    fields.time()
}

/// The values that follow one another, each with its tag and length: certificates without anything between them.
#[cfg(feature = "spiffe")]
pub(super) fn split(bytes: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    let mut rest = Reader(bytes);
    let mut parts = Vec::new();
    while !rest.0.is_empty() {
        let whole = rest.0;
        rest.take(SEQUENCE)?;
        parts.push(&whole[..whole.len() - rest.0.len()]);
    }
    Ok(parts)
}

/// `GeneralNames` (RFC 5280, 4.2.1.6).
fn names(value: &[u8]) -> Result<Names, Malformed> {
    let mut list = Reader(Reader(value).take(SEQUENCE)?);
    let mut names = Names::default();
    while !list.0.is_empty() {
        let (tag, content) = list.any()?;
        names.add(tag, content)?;
    }
    Ok(names)
}

impl<'a> Reader<'a> {
    fn next_is(&self, tag: u8) -> bool {
        self.0.first() == Some(&tag)
    }

    /// The content of the next value, which must have this tag.
    pub(super) fn take(&mut self, tag: u8) -> Result<&'a [u8], Malformed> {
        match self.any()? {
            (found, content) if found == tag => Ok(content),
            _ => Err("another field than expected"),
        }
    }

    pub(super) fn any(&mut self) -> Result<(u8, &'a [u8]), Malformed> {
        const SHORT: Malformed = "it ends too early";
        let [tag, length, rest @ ..] = self.0 else { return Err(SHORT) };
        let (length, rest) = match usize::from(*length) {
            short @ 0..=0x7f => (short, rest),
            // Up to 16 MiB; the shortest form only, which DER demands.
            long @ 0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(long - 0x80).ok_or(SHORT)?;
                let length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
                if length < 0x80 || bytes[0] == 0 {
                    return Err("a length in more bytes than needed");
                }
                (length, rest)
            }
            _ => return Err("a length that is none"),
        };
        let (content, rest) = rest.split_at_checked(length).ok_or(SHORT)?;
        self.0 = rest;
        Ok((*tag, content))
    }

    /// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280, 4.1.2.5), as seconds since 1970.
    fn time(&mut self) -> Result<i64, Malformed> {
        const NO_TIME: Malformed = "a time that is none";
        let (tag, content) = self.any()?;
        let digits =
            content.strip_suffix(b"Z").filter(|digits| digits.iter().all(u8::is_ascii_digit)).ok_or(NO_TIME)?;
        let (year, rest) = match (tag, digits.len()) {
            (UTC_TIME, 12) => {
                let year = number(&digits[..2]);
                (if year < 50 { 2000 + year } else { 1900 + year }, &digits[2..])
            }
            (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
            _ => return Err(NO_TIME),
        };
        let part = |at: usize| number(&rest[2 * at..2 * at + 2]);
        let (month, day, hour, minute, second) = (part(0), part(1), part(2), part(3), part(4));
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59 {
            return Err(NO_TIME);
        }
        Ok(((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
    }
}

/// At most four digits.
fn number(digits: &[u8]) -> i64 {
    digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))
}

/// Days from 1970-01-01 in the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // The year starts in March, so that the leap day is its last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        for (date, expected) in [
            ((1970, 1, 1), 0),
            ((1969, 12, 31), -1),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2026, 11, 28), 20_785),
            ((2100, 3, 1), 47_541),
            ((9999, 12, 31), 2_932_896),
        ] {
            assert_eq!(days(date.0, date.1, date.2), expected, "{date:?}");
        }
    }

    #[test]
    fn any_bytes_are_a_certificate_or_an_error() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        println!("seed {seed}");
        let good = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("a certificate");
        let good = good.cert.der();
        assert_eq!(Facts::read(good).expect("good").names.dns().collect::<Vec<_>>(), ["a.test"]);
        for _ in 0..20_000 {
            let mut bytes = good.to_vec();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(..=bytes.len()));
            let _ = Facts::read(&bytes);
        }
    }
}

//! Certificates with whatever is asked to be in them, right or wrong: written by hand, since libraries refuse to write most.

use std::sync::Arc;

use rcgen::{KeyPair, PublicKeyData, SigningKey};

const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
pub(crate) const ECDSA_SHA1: &[u8] = &[0x30, 9, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
pub(crate) const RSA_MD5: &[u8] = &[0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 4, 5, 0];
/// 1.3.6.1.4.1.57264.1.99, which nobody knows.
pub(crate) const UNKNOWN: &[u8] = &[0x2b, 6, 1, 4, 1, 0x83, 0xbf, 0x30, 1, 0x63];
pub(crate) const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 17];
pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
pub(crate) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 30];
/// The last byte of purposes (`id-kp`, 1.3.6.1.5.5.7.3).
pub(crate) const FOR_SERVERS: u8 = 1;
pub(crate) const FOR_CLIENTS: u8 = 2;
pub(crate) const FOR_CODE: u8 = 3;
/// Of the first byte of key usages.
pub(crate) const SIGNS: u8 = 0x80;
pub(crate) const SIGNS_CERTIFICATES: u8 = 0x04;
pub(crate) const SIGNS_CRLS: u8 = 0x02;

/// A certificate before it is signed.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) version: Option<u8>,
    pub(crate) serial: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    pub(crate) subject: Vec<u8>,
    /// Times as they are written; 13 characters are a `UTCTime`.
    pub(crate) from: String,
    pub(crate) until: String,
    pub(crate) public_key: Vec<u8>,
    pub(crate) extensions: Vec<Vec<u8>>,
    /// What is signed says that it is signed so.
    pub(crate) algorithm: Vec<u8>,
    /// What is around it says so.
    pub(crate) outer_algorithm: Vec<u8>,
}

/// A name of a certificate.
#[derive(Clone, Copy)]
pub(crate) enum Name<'a> {
    Uri(&'a str),
    Dns(&'a str),
    Email(&'a str),
    Ip(&'a [u8]),
    /// Of any tag.
    Raw(u8, &'a [u8]),
}

/// One that issues certificates.
pub(crate) struct Issuer {
    pub(crate) name: Vec<u8>,
    pub(crate) key: Arc<KeyPair>,
}

impl Draft {
    /// Valid from 2020 to 2049, with these extensions.
    pub(crate) fn new(subject: &str, key: &KeyPair, extensions: Vec<Vec<u8>>) -> Self {
        Self {
            version: Some(2),
            serial: vec![0x11, 0x22, 0x33, 0x44],
            issuer: Vec::new(),
            subject: common_name(subject),
            from: "200101000000Z".to_owned(),
            until: "490101000000Z".to_owned(),
            public_key: key.subject_public_key_info(),
            extensions,
            algorithm: ECDSA_SHA256.to_vec(),
            outer_algorithm: ECDSA_SHA256.to_vec(),
        }
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Signed by an issuer, whose name it gets unless it has one.
    pub(crate) fn signed_by(&self, issuer: &Issuer) -> Vec<u8> {
        let signed = self.to_be_signed(&issuer.name);
        let signature = issuer.key.sign(&signed).expect("a signature");
        der(0x30, &[&signed, &self.outer_algorithm, &der(3, &[&[0], &signature])])
    }

    fn to_be_signed(&self, issuer: &[u8]) -> Vec<u8> {
        let version = self.version.map(|version| der(0xa0, &[&der(2, &[&[version]])])).unwrap_or_default();
        let issuer = if self.issuer.is_empty() { issuer } else { &self.issuer };
        let validity = der(0x30, &[&time(&self.from), &time(&self.until)]);
        let extensions = match &*self.extensions {
            [] => Vec::new(),
            some => der(0xa3, &[&der(0x30, &[&some.concat()])]),
        };
        let serial = der(2, &[&self.serial]);
        let parts =
            [&*version, &*serial, &self.algorithm, issuer, &validity, &self.subject, &self.public_key, &extensions];
        der(0x30, &parts)
    }
}

fn time(text: &str) -> Vec<u8> {
    der(if text.len() == 13 { 0x17 } else { 0x18 }, &[text.as_bytes()])
}

/// `CN=…`; empty for the empty text.
pub(crate) fn common_name(text: &str) -> Vec<u8> {
    match text {
        "" => der(0x30, &[]),
        text => der(0x30, &[&der(0x31, &[&der(0x30, &[&[6, 3, 0x55, 4, 3], &der(0x0c, &[text.as_bytes()])])])]),
    }
}

pub(crate) fn extension(id: &[u8], is_critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if is_critical { &[1, 1, 0xff] } else { &[] };
    der(0x30, &[&der(6, &[id]), critical, &der(4, &[value])])
}

pub(crate) fn names(names: &[Name<'_>]) -> Vec<u8> {
    extension(SUBJECT_ALT_NAME, false, &general_names(names))
}

pub(crate) fn general_names(names: &[Name<'_>]) -> Vec<u8> {
    let names: Vec<Vec<u8>> = names.iter().map(Name::der).collect();
    der(0x30, &[&names.concat()])
}

pub(crate) fn purposes(purposes: &[u8]) -> Vec<u8> {
    let all: Vec<Vec<u8>> = purposes.iter().map(|last| vec![6, 8, 0x2b, 6, 1, 5, 5, 7, 3, *last]).collect();
    extension(EXTENDED_KEY_USAGE, false, &der(0x30, &[&all.concat()]))
}

pub(crate) fn key_usage(first: u8) -> Vec<u8> {
    extension(KEY_USAGE, true, &[3, 2, first.trailing_zeros() as u8, first])
}

/// That of an authority, with the number of authorities that may follow it at most.
pub(crate) fn authority(below: Option<u8>) -> Vec<u8> {
    let below = below.map(|below| der(2, &[&[below]])).unwrap_or_default();
    extension(BASIC_CONSTRAINTS, true, &der(0x30, &[&[1, 1, 0xff], &below]))
}

pub(crate) fn name_constraints(permitted: &[Name<'_>], excluded: &[Name<'_>]) -> Vec<u8> {
    let subtrees = |tag, names: &[Name<'_>]| match names {
        [] => Vec::new(),
        names => {
            let trees: Vec<Vec<u8>> = names.iter().map(|name| der(0x30, &[&name.der()])).collect();
            der(tag, &[&trees.concat()])
        }
    };
    let both = der(0x30, &[&subtrees(0xa0, permitted), &subtrees(0xa1, excluded)]);
    extension(NAME_CONSTRAINTS, true, &both)
}

impl Name<'_> {
    fn der(&self) -> Vec<u8> {
        match self {
            Self::Email(text) => der(0x81, &[text.as_bytes()]),
            Self::Dns(text) => der(0x82, &[text.as_bytes()]),
            Self::Uri(text) => der(0x86, &[text.as_bytes()]),
            Self::Ip(bytes) => der(0x87, &[bytes]),
            Self::Raw(tag, bytes) => der(*tag, &[bytes]),
        }
    }
}

/// A value with its tag and its length.
pub(crate) fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut value = vec![tag];
    match content.len() {
        short @ 0..=0x7f => value.push(short as u8),
        long @ 0x80..=0xff => value.extend([0x81, long as u8]),
        long @ 0x100..=0xffff => value.extend([0x82, (long >> 8) as u8, long as u8]),
        long => value.extend([0x83, (long >> 16) as u8, (long >> 8) as u8, long as u8]),
    }
    value.extend(content);
    value
}

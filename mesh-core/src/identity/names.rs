//! The subject alternative names of a certificate (RFC 5280, 4.2.1.6).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::der::Malformed;

/// What kind of name it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum NameKind {
    Email,
    Dns,
    Uri,
    Ip,
}

/// The names of a leaf, in its order; kinds that nothing asks for are left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(Vec<(NameKind, String)>);

impl Names {
    /// Takes in one `GeneralName`: its context tag tells the kind.
    pub(super) fn add(&mut self, tag: u8, content: &[u8]) -> Result<(), Malformed> {
        let (kind, text) = match tag {
            0x81 => (NameKind::Email, ascii(content)?),
            0x82 => (NameKind::Dns, ascii(content)?),
            0x86 => (NameKind::Uri, ascii(content)?),
            0x87 => (NameKind::Ip, ip(content)?.to_string()),
            _ => return Ok(()),
        };
        self.0.push((kind, text));
        Ok(())
    }

    /// Every name with its kind; an address as text, in its canonical form.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (NameKind, &str)> {
        self.0.iter().map(|(kind, text)| (*kind, text.as_str()))
    }

    pub(crate) fn uris(&self) -> impl Iterator<Item = &str> {
        self.of(NameKind::Uri)
    }

    pub(crate) fn dns(&self) -> impl Iterator<Item = &str> {
        self.of(NameKind::Dns)
    }

    fn of(&self, wanted: NameKind) -> impl Iterator<Item = &str> {
        self.iter().filter(move |(kind, _)| *kind == wanted).map(|(_, text)| text)
    }
}

/// An `IA5String`. A NUL within would end the name for some readers and not for others.
fn ascii(content: &[u8]) -> Result<String, Malformed> {
    match std::str::from_utf8(content) {
        Ok(text) if text.bytes().all(|byte| (0x01..0x80).contains(&byte)) => Ok(text.to_owned()),
        _ => Err("a name that is not ASCII"),
    }
}

fn ip(content: &[u8]) -> Result<IpAddr, Malformed> {
    if let Ok(v4) = <[u8; 4]>::try_from(content) {
        return Ok(Ipv4Addr::from(v4).into());
    }
    match <[u8; 16]>::try_from(content) {
        Ok(v6) => Ok(Ipv6Addr::from(v6).into()),
        Err(_) => Err("an address of another length than 4 or 16 bytes"),
    }
}

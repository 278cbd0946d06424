//! `UpstreamTlsContext`: how the connections of a cluster are secured (A29, A82, A101).

use std::cmp::Ordering;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::matcher::text::TextMatch;
use crate::identity::{MaterialSource, NameKind, RevocationLists};

/// A validated TLS context.
#[derive(Debug, PartialEq)]
pub(crate) struct UpstreamTls {
    /// Where the own certificate comes from; `None`: none is shown.
    pub(crate) identity: Option<MaterialSource>,
    pub(crate) roots: RootsFrom,
    /// In which peers are looked up, beside those that come with the roots.
    pub(crate) revoked: Option<RevocationLists>,
    /// One of them must match a name of the peer; without any, every peer that the roots vouch for is accepted (A29).
    pub(crate) names: Vec<NameMatch>,
    /// The name to ask for.
    pub(crate) sni: Option<Arc<str>>,
    /// The endpoint's host name goes before [`sni`](Self::sni) (A101).
    pub(crate) auto_host_sni: bool,
    /// The name that was asked for must be the peer's, in the place of [`names`](Self::names) (A101).
    pub(crate) auto_sni_san_validation: bool,
}

impl UpstreamTls {
    /// Where it takes certificates and roots from.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &MaterialSource> {
        let roots = match &self.roots {
            RootsFrom::Source(roots) => Some(roots),
            RootsFrom::System => None,
        };
        self.identity.iter().chain(roots)
    }
}

/// Who vouches for peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RootsFrom {
    /// A certificate provider, a secret, or what the context carries.
    Source(MaterialSource),
    /// The system's roots (A82).
    System,
}

/// A condition on a name in the peer's certificate.
#[derive(Debug)]
pub(crate) struct NameMatch {
    /// `None`: of any kind.
    kind: Option<NameKind>,
    matcher: TextMatch,
    /// The matcher as it came, which tells it from others.
    written: Box<[u8]>,
}

impl NameMatch {
    pub(crate) fn new(kind: Option<NameKind>, matcher: TextMatch, written: Vec<u8>) -> Self {
        Self { kind, matcher, written: written.into() }
    }

    /// What tells it from others.
    pub(crate) fn written(&self) -> impl Iterator<Item = u8> {
        let kind = self.kind.map_or(0, |kind| 1 + kind as u8);
        // Its length stands before each, so that no two lists of them are written alike.
        [kind].into_iter().chain(self.written.len().to_be_bytes()).chain(self.written.iter().copied())
    }

    /// Some order, for sets of them to be compared.
    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        (self.kind, &self.written).cmp(&(other.kind, &other.written))
    }

    /// Whether it is met by a name. An exact DNS name is met by a wildcard that stands for it, too.
    pub(crate) fn matches(&self, kind: NameKind, name: &str) -> bool {
        if self.kind.is_some_and(|wanted| wanted != kind) {
            return false;
        }
        match &self.matcher {
            TextMatch::Exact(wanted) if kind == NameKind::Dns => is_dns_name_for(name, wanted.text()),
            matcher => matcher.matches(name.as_bytes()),
        }
    }
}

impl PartialEq for NameMatch {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, &self.written) == (other.kind, &other.written)
    }
}

/// Whether a DNS name of a certificate stands for `wanted` (RFC 6125, 6.4): in any case, and a `*` for one whole label at
/// the front, but not for a part of an address.
pub(crate) fn is_dns_name_for(name: &str, wanted: &str) -> bool {
    let (name, wanted) = (without_dot(name), without_dot(wanted));
    if wanted.is_empty() || wanted.starts_with('.') {
        return false;
    }
    match name.strip_prefix("*.") {
        None => !name.contains('*') && name.eq_ignore_ascii_case(wanted),
        Some(domain) => {
            let rest = wanted.split_once('.').map(|(_, rest)| rest);
            wanted.parse::<Ipv4Addr>().is_err()
                && !domain.is_empty()
                && !domain.contains('*')
                && rest.is_some_and(|rest| rest.eq_ignore_ascii_case(domain))
        }
    }
}

fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_one_label_at_the_front() {
        for (name, wanted, expected) in [
            ("a.test", "a.test", true),
            ("A.Test.", "a.test", true),
            ("a.test", "b.test", false),
            ("*.test", "a.test", true),
            ("*.test", "A.TEST.", true),
            ("*.test", "a.b.test", false),
            ("*.test", "test", false),
            ("*.test", ".test", false),
            ("*.b.test", "a.b.test", true),
            ("a*.test", "ab.test", false),
            ("*.*.test", "a.b.test", false),
            ("*", "test", false),
            ("*.", "a.", false),
            ("*.0.0.1", "10.0.0.1", false),
            ("", "", false),
            ("*.test", "", false),
            ("a.*.test", "a.b.test", false),
        ] {
            assert_eq!(is_dns_name_for(name, wanted), expected, "{name} for {wanted}");
        }
    }

    #[test]
    fn a_matcher_is_for_its_kind_of_name_or_for_all() {
        let exact = |kind, text: &str| NameMatch::new(kind, TextMatch::exact(text, false), text.into());
        for (matcher, kind, name, expected) in [
            (exact(None, "spiffe://a/b"), NameKind::Uri, "spiffe://a/b", true),
            (exact(None, "spiffe://a/b"), NameKind::Uri, "spiffe://a/B", false),
            (exact(None, "a.test"), NameKind::Dns, "*.test", true),
            (exact(None, "a.test"), NameKind::Uri, "*.test", false),
            (exact(None, "a@b"), NameKind::Email, "a@b", true),
            (exact(None, "10.0.0.1"), NameKind::Ip, "10.0.0.1", true),
            (exact(Some(NameKind::Dns), "10.0.0.1"), NameKind::Ip, "10.0.0.1", false),
            (exact(Some(NameKind::Uri), "a.test"), NameKind::Dns, "a.test", false),
            (exact(Some(NameKind::Uri), "spiffe://a/b"), NameKind::Uri, "spiffe://a/b", true),
        ] {
            assert_eq!(matcher.matches(kind, name), expected, "{matcher:?} of {kind:?} {name}");
        }
    }
}

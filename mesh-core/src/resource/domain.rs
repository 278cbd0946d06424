//! Which virtual host an authority belongs to (A28).

use std::borrow::Cow;
use std::collections::HashMap;

/// The domains of all virtual hosts of a route configuration.
///
/// The most specific domain wins: an exact one, the longest `*suffix`, the longest `prefix*`, then `*`. Of equal ones
/// the first does. Case does not matter; a port does.
#[derive(Debug, Default)]
pub(crate) struct DomainIndex {
    exact: HashMap<String, usize>,
    suffixes: ByLength,
    prefixes: ByLength,
    any: Option<usize>,
}

/// Suffixes or prefixes, found by their lengths, longest first.
#[derive(Debug, Default)]
struct ByLength {
    lengths: Vec<usize>,
    hosts: HashMap<String, usize>,
}

/// A domain with a `*` that is neither its first nor its last character, or an empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadDomain;

impl DomainIndex {
    /// Adds a domain of the virtual host at `host`.
    pub(crate) fn add(&mut self, domain: &str, host: usize) -> Result<(), BadDomain> {
        let domain = domain.to_ascii_lowercase();
        if domain == "*" {
            self.any.get_or_insert(host);
        } else if let Some(suffix) = domain.strip_prefix('*') {
            self.suffixes.add(suffix, host);
        } else if let Some(prefix) = domain.strip_suffix('*') {
            self.prefixes.add(prefix, host);
        } else if domain.is_empty() || domain.contains('*') {
            return Err(BadDomain);
        } else {
            self.exact.entry(domain).or_insert(host);
        }
        Ok(())
    }

    /// The virtual host whose domain fits `authority` best.
    pub(crate) fn find(&self, authority: &str) -> Option<usize> {
        let authority = match authority.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(authority.to_ascii_lowercase()),
            false => Cow::Borrowed(authority),
        };
        let whole = authority.as_ref();
        let exact = self.exact.get(whole).copied();
        exact
            .or_else(|| self.suffixes.find(whole.len(), |length| whole.get(whole.len() - length..)))
            .or_else(|| self.prefixes.find(whole.len(), |length| whole.get(..length)))
            .or(self.any)
    }
}

impl ByLength {
    fn add(&mut self, part: &str, host: usize) {
        if let Err(place) = self.lengths.binary_search_by(|length| part.len().cmp(length)) {
            self.lengths.insert(place, part.len());
        }
        self.hosts.entry(part.to_owned()).or_insert(host);
    }

    /// `part` cuts a piece of the given length out of the authority; at least one character is left for the `*`.
    fn find<'a>(&self, whole: usize, part: impl Fn(usize) -> Option<&'a str>) -> Option<usize> {
        let fitting = self.lengths.iter().filter(|&&length| length < whole);
        fitting.filter_map(|&length| part(length)).find_map(|part| self.hosts.get(part)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(domains: &[&str]) -> DomainIndex {
        let mut index = DomainIndex::default();
        for (host, domain) in domains.iter().enumerate() {
            index.add(domain, host).expect("a valid domain");
        }
        index
    }

    #[test]
    fn the_most_specific_domain_wins() {
        let domains = ["*", "a.*", "a.b*", "*.c", "*b.c", "a.b.c", "A.B.C", "svc:50051", "*:80"];
        for (authority, expected) in [
            ("a.b.c", "a.b.c"),
            ("A.b.C", "a.b.c"),
            ("x.b.c", "*b.c"),
            ("x.c", "*.c"),
            (".c", "*"),
            ("a.b.d", "a.b*"),
            ("a.d", "a.*"),
            ("a.", "*"),
            ("svc", "*"),
            ("svc:50051", "svc:50051"),
            ("svc:50052", "*"),
            ("a.b:80", "*:80"),
            ("", "*"),
        ] {
            let found = index(&domains).find(authority).map(|host| domains[host]);
            assert_eq!(found, Some(expected), "{authority}");
        }
        assert_eq!(index(&["svc:50051"]).find("svc"), None);
    }

    #[test]
    fn of_equal_domains_the_first_wins() {
        assert_eq!(index(&["b", "a", "A"]).find("a"), Some(1));
        assert_eq!(index(&["*", "*"]).find("a"), Some(0));
    }

    #[test]
    fn a_star_stands_first_or_last() {
        let mut index = DomainIndex::default();
        for bad in ["", "a*b"] {
            assert_eq!(index.add(bad, 0), Err(BadDomain), "{bad}");
        }
    }

    #[test]
    fn an_authority_is_cut_between_characters_only() {
        assert_eq!(index(&["*é", "è*"]).find("€"), None);
        assert_eq!(index(&["*é"]).find("aé"), Some(0));
    }
}

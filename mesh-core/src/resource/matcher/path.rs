//! Matching of a path (A28).

use std::fmt;

use regex::bytes::Regex;

use super::pattern::{Budget, whole};
use super::text::Literal;

/// A condition on the path of a request, query excluded.
#[derive(Debug)]
pub(crate) enum PathMatch {
    Exact(Literal),
    Prefix(Literal),
    /// The prefix is the whole path, or is followed by `/`. gRPC has no such matcher; the meaning is Envoy's.
    SeparatedPrefix(Literal),
    Regex(Regex, Box<str>),
}

impl PathMatch {
    pub(crate) fn exact(path: &str, case_sensitive: bool) -> Self {
        Self::Exact(Literal::new(path, !case_sensitive))
    }

    pub(crate) fn prefix(prefix: &str, case_sensitive: bool) -> Self {
        Self::Prefix(Literal::new(prefix, !case_sensitive))
    }

    pub(crate) fn separated_prefix(prefix: &str, case_sensitive: bool) -> Self {
        Self::SeparatedPrefix(Literal::new(prefix, !case_sensitive))
    }

    /// The pattern must match the whole path; `case_sensitive` does not apply to it (A28).
    pub(crate) fn regex(pattern: &str, budget: &Budget) -> Result<Self, String> {
        Ok(Self::Regex(whole(pattern, budget)?, pattern.into()))
    }

    pub(crate) fn matches(&self, path: &str) -> bool {
        let path = path.as_bytes();
        match self {
            Self::Exact(literal) => literal.equals(path),
            Self::Prefix(literal) => literal.starts(path),
            Self::SeparatedPrefix(literal) => {
                literal.starts(path) && matches!(path.get(literal.text().len()), None | Some(b'/'))
            }
            Self::Regex(regex, _) => regex.is_match(path),
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(literal) => write!(f, "path {}", literal.text()),
            Self::Prefix(literal) if literal.text().is_empty() => f.write_str("any path"),
            Self::Prefix(literal) => write!(f, "prefix {}", literal.text()),
            Self::SeparatedPrefix(literal) => write!(f, "path-separated prefix {}", literal.text()),
            Self::Regex(_, pattern) => write!(f, "regex {pattern}"),
        }
    }
}

//! Another path or authority for the requests of a route, as in Envoy.

use http::Uri;
use http::uri::{Authority, PathAndQuery};
use regex::bytes::Regex;

use super::matcher::path::PathMatch;

/// What a request's path becomes. The query stays as it is.
#[derive(Debug)]
pub(crate) enum PathRewrite {
    /// What the route matched is replaced.
    Matched { matched: Matched, with: Box<str> },
    /// Each match of the pattern is replaced.
    Pattern { pattern: Regex, with: Replacement },
}

/// What a route matches of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Matched {
    Prefix(usize),
    Whole,
}

impl From<&PathMatch> for Matched {
    fn from(path: &PathMatch) -> Self {
        match path {
            PathMatch::Prefix(literal) | PathMatch::SeparatedPrefix(literal) => Self::Prefix(literal.text().len()),
            PathMatch::Exact(_) | PathMatch::Regex(..) => Self::Whole,
        }
    }
}

/// The replacement of a pattern, in the form that the regex engine reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replacement(Vec<u8>);

impl Replacement {
    /// Reads RE2's form: `\1` is the first group, `\\` a backslash. The pattern has `groups` groups.
    pub(crate) fn parse(text: &str, groups: usize) -> Result<Self, String> {
        let mut replacement = Vec::with_capacity(text.len());
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' => match bytes.next() {
                    Some(b'\\') => replacement.push(b'\\'),
                    Some(digit @ b'0'..=b'9') if usize::from(digit - b'0') <= groups => {
                        replacement.extend([b'$', b'{', digit, b'}']);
                    }
                    Some(digit @ b'0'..=b'9') => {
                        return Err(format!("the pattern has no group {}", digit - b'0'));
                    }
                    _ => return Err("a backslash must stand before a digit or another one".to_owned()),
                },
                b'$' => replacement.extend(b"$$"),
                other => replacement.push(other),
            }
        }
        Ok(Self(replacement))
    }
}

impl PathRewrite {
    /// The path that takes the place of this one; the query is not part of either.
    pub(crate) fn of(&self, path: &str) -> String {
        match self {
            Self::Matched { matched: Matched::Whole, with } => with.to_string(),
            Self::Matched { matched: Matched::Prefix(length), with } => {
                format!("{with}{}", path.get(*length..).unwrap_or_default())
            }
            Self::Pattern { pattern, with } => {
                let replaced = pattern.replace_all(path.as_bytes(), with.0.as_slice());
                String::from_utf8_lossy(&replaced).into_owned()
            }
        }
    }

    /// Gives the URI its other path; one that would be none leaves it as it is.
    pub(crate) fn apply(&self, uri: &mut Uri) {
        let mut path = self.of(uri.path());
        if !path.starts_with('/') {
            path.insert(0, '/');
        }
        if let Some(query) = uri.query() {
            path.push('?');
            path.push_str(query);
        }
        if let Ok(path) = PathAndQuery::try_from(path) {
            replace(uri, |parts| parts.path_and_query = Some(path));
        }
    }
}

/// Gives the URI another authority.
pub(crate) fn rewrite_authority(uri: &mut Uri, authority: &Authority) {
    replace(uri, |parts| {
        parts.authority = Some(authority.clone());
        parts.scheme.get_or_insert(http::uri::Scheme::HTTP);
    });
}

fn replace(uri: &mut Uri, change: impl FnOnce(&mut http::uri::Parts)) {
    let mut parts = uri.clone().into_parts();
    change(&mut parts);
    if let Ok(changed) = Uri::from_parts(parts) {
        *uri = changed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(rewrite: &PathRewrite, uri: &'static str) -> String {
        let mut uri = Uri::from_static(uri);
        rewrite.apply(&mut uri);
        uri.to_string()
    }

    #[test]
    fn what_the_route_matched_is_replaced_and_the_query_stays() {
        for (matched, with, uri, expected) in [
            (Matched::Prefix(3), "/v2", "http://a/v1/s/M", "http://a/v2/s/M"),
            (Matched::Prefix(3), "", "http://a/v1/s/M?q=1", "http://a/s/M?q=1"),
            (Matched::Prefix(3), "", "http://a/v1", "http://a/"),
            (Matched::Prefix(0), "/x", "http://a/s", "http://a/x/s"),
            (Matched::Whole, "/x/Y", "http://a/s/M?q", "http://a/x/Y?q"),
            (Matched::Whole, "not a path", "http://a/s", "http://a/s"),
        ] {
            let rewrite = PathRewrite::Matched { matched, with: with.into() };
            assert_eq!(rewritten(&rewrite, uri), expected);
        }
    }

    #[test]
    fn a_pattern_replaces_what_it_matches_with_its_groups() {
        for (pattern, with, uri, expected) in [
            ("^/service/([^/]+)(/.*)$", r"\2/instance/\1", "http://a/service/foo/v1", "http://a/v1/instance/foo"),
            ("one", "two", "http://a/one/one", "http://a/two/two"),
            ("/xxx", "/yyy$1", "http://a/xxx?xxx", "http://a/yyy$1?xxx"),
            ("o", r"\0\0", "http://a/foo", "http://a/foooo"),
        ] {
            let pattern = Regex::new(pattern).expect("a pattern");
            let with = Replacement::parse(with, pattern.captures_len() - 1).expect("a replacement");
            assert_eq!(rewritten(&PathRewrite::Pattern { pattern, with }, uri), expected);
        }
    }

    #[test]
    fn a_replacement_names_groups_that_there_are() {
        assert_eq!(Replacement::parse(r"a\\b", 0), Ok(Replacement(br"a\b".to_vec())));
        for bad in [r"\2", r"\x", r"a\"] {
            assert!(Replacement::parse(bad, 1).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_authority_is_replaced_whole() {
        let mut uri = Uri::from_static("http://greeter:80/s/M?q=1");
        rewrite_authority(&mut uri, &Authority::from_static("other"));
        assert_eq!(uri.to_string(), "http://other/s/M?q=1");
    }
}

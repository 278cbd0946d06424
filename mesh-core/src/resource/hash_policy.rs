//! The hash of a request, by which policies with affinity choose the endpoint (A42).
//!
//! XXH64 with seed 0, as gRPC C-core's and Envoy's: a call through any of them has the same hash.

use std::borrow::Cow;

use http::HeaderValue;
use regex::bytes::{Captures, Regex, Replacer};
use twox_hash::XxHash64;

use super::cookie::Cookie;
use super::matcher::RequestHead;
use super::matcher::header::HeaderSource;

/// The hash that gRPC and Envoy use.
pub(crate) fn xxh64(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

/// One thing to hash.
#[derive(Clone, Debug)]
pub(crate) struct HashPolicy {
    pub(crate) source: HashSource,
    /// Whether the policies behind it count only if there is no hash yet.
    pub(crate) terminal: bool,
}

/// Where the bytes come from.
#[derive(Clone, Debug)]
pub(crate) enum HashSource {
    /// A header, as a matcher sees it.
    Header(HeaderSource, Option<Rewrite>),
    /// `io.grpc.channel_id`: all calls of a channel are alike.
    ChannelId,
    /// A parameter of the query, as it is sent.
    QueryParameter(Box<str>),
    Cookie(Cookie),
}

/// What is put in place of what a pattern matches: text, or a group of the match.
#[derive(Clone, Debug)]
pub(crate) struct Rewrite {
    pattern: Regex,
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    Text(Vec<u8>),
    Group(usize),
}

/// What the policies made of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestHash {
    /// `None`: there was nothing to hash.
    pub(crate) hash: Option<u64>,
    /// A cookie that was made, for the response to set.
    pub(crate) set_cookie: Option<Box<HeaderValue>>,
}

impl RequestHash {
    /// Asks the policies in turn. `query` is the part behind the path's `?`, `random` names a new cookie.
    pub(crate) fn of(
        policies: &[HashPolicy],
        head: &RequestHead<'_>,
        query: Option<&str>,
        channel: u64,
        random: impl Fn() -> u64,
    ) -> Self {
        let mut found = Self::default();
        for HashPolicy { source, terminal } in policies {
            let new = match source {
                HashSource::Header(header, rewrite) => header.with_value(head, |value| {
                    value.map(|value| {
                        rewrite.as_ref().map_or_else(|| xxh64(value), |rewrite| xxh64(&rewrite.apply(value)))
                    })
                }),
                HashSource::ChannelId => Some(xxh64(&channel.to_le_bytes())),
                HashSource::QueryParameter(name) => parameter(query, name).map(|value| xxh64(value.as_bytes())),
                HashSource::Cookie(cookie) => cookie.find(head.headers).map(xxh64).or_else(|| {
                    let value = cookie.ttl.map(|_| format!("{:016x}", random()))?;
                    found.set_cookie = cookie.set(&format!("\"{value}\"")).map(Box::new);
                    Some(xxh64(value.as_bytes()))
                }),
            };
            if let Some(new) = new {
                found.hash = Some(found.hash.map_or(new, |hash| hash.rotate_left(1) ^ new));
            }
            if *terminal && found.hash.is_some() {
                break;
            }
        }
        found
    }
}

/// The first parameter of this name.
fn parameter<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    let mut pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

impl Rewrite {
    /// `substitution` as RE2 has it: `\1` is a group, `\\` a backslash. The error is one line.
    pub(crate) fn new(pattern: Regex, substitution: &str) -> Result<Self, String> {
        let mut parts = vec![Part::Text(Vec::new())];
        let mut bytes = substitution.bytes();
        while let Some(byte) = bytes.next() {
            let literal = match byte {
                b'\\' => match bytes.next() {
                    Some(digit @ b'0'..=b'9') => {
                        let group = usize::from(digit - b'0');
                        if group >= pattern.captures_len() {
                            return Err(format!(r"`\{group}` names a group that the pattern does not have"));
                        }
                        parts.push(Part::Group(group));
                        continue;
                    }
                    Some(b'\\') => b'\\',
                    _ => return Err(r"a `\` must be followed by a digit or another `\`".to_owned()),
                },
                byte => byte,
            };
            match parts.last_mut() {
                Some(Part::Text(text)) => text.push(literal),
                _ => parts.push(Part::Text(vec![literal])),
            }
        }
        Ok(Self { pattern, parts })
    }

    /// Replaces every match.
    fn apply<'v>(&self, value: &'v [u8]) -> Cow<'v, [u8]> {
        self.pattern.replace_all(value, self)
    }
}

impl Replacer for &Rewrite {
    fn replace_append(&mut self, captures: &Captures<'_>, to: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => to.extend_from_slice(text),
                Part::Group(group) => to.extend_from_slice(captures.get(*group).map_or(b"", |group| group.as_bytes())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderMap;

    use super::*;
    use crate::resource::matcher::pattern::{Budget, searching};

    fn header(name: &str, rewrite: Option<(&str, &str)>) -> HashPolicy {
        let rewrite = rewrite.map(|(pattern, substitution)| rewriting(pattern, substitution).unwrap());
        policy(HashSource::Header(HeaderSource::of(name).unwrap(), rewrite))
    }

    fn rewriting(pattern: &str, substitution: &str) -> Result<Rewrite, String> {
        Rewrite::new(searching(pattern, &Budget::default()).unwrap(), substitution)
    }

    fn policy(source: HashSource) -> HashPolicy {
        HashPolicy { source, terminal: false }
    }

    fn terminal(policy: HashPolicy) -> HashPolicy {
        HashPolicy { terminal: true, ..policy }
    }

    fn cookie(ttl: Option<u64>) -> HashPolicy {
        let ttl = ttl.map(Duration::from_secs);
        let attributes = vec![("SameSite".into(), "Strict".into()), ("Secure".into(), "".into())];
        policy(HashSource::Cookie(Cookie { name: "user".into(), ttl, path: "/x".into(), attributes }))
    }

    fn hash(policies: &[HashPolicy], headers: &[(&'static str, &'static str)]) -> RequestHash {
        let headers =
            headers.iter().map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
        let mut map = HeaderMap::new();
        headers.for_each(|(name, value)| _ = map.append(name, value));
        let head = RequestHead { path: "/a/b", method: &http::Method::POST, authority: "greeter", headers: &map };
        RequestHash::of(policies, &head, Some("a=1&user=2%20&user=3&b"), 7, || 0xabc)
    }

    fn of(text: &str) -> Option<u64> {
        Some(xxh64(text.as_bytes()))
    }

    #[test]
    fn the_hash_is_xxh64_with_seed_0() {
        assert_eq!(xxh64(b""), 0xef46_db37_51d8_e999);
        assert_eq!(xxh64(b"Nobody inspects the spammish repetition"), 0xfbce_a83c_8a37_8bf1);
    }

    #[test]
    fn a_header_is_hashed_as_a_matcher_sees_it() {
        for (name, headers, expected) in [
            ("user", &[("user", "a")][..], of("a")),
            ("user", &[("user", "")], of("")),
            ("user", &[("user", "a"), ("user", "b")], of("a,b")),
            ("user", &[("other", "a")], None),
            ("user-bin", &[("user-bin", "a")], None),
            (":path", &[], of("/a/b")),
        ] {
            assert_eq!(hash(&[header(name, None)], headers).hash, expected, "{name} {headers:?}");
        }
    }

    #[test]
    fn a_rewrite_replaces_every_match_as_re2_does() {
        for (pattern, substitution, expected) in [
            ("[0-9]+", "#", "a#b#"),
            (r"([a-z])([0-9]+)", r"\2-\1\\", r"12-a\3-b\"),
            ("b.*", "", "a12"),
            ("x", "y", "a12b3"),
            (r"[ab]", r"<\0>$1", "<a>$112<b>$13"),
        ] {
            let found = hash(&[header("user", Some((pattern, substitution)))], &[("user", "a12b3")]);
            assert_eq!(found.hash, of(expected), "{pattern} {substitution}");
        }
        assert!(rewriting("(a)", r"\2").unwrap_err().contains("does not have"));
        assert!(rewriting("a", r"\x").is_err() && rewriting("a", r"\").is_err());
    }

    #[test]
    fn hashes_are_combined_in_order_and_a_terminal_one_ends() {
        let (a, b) = (xxh64(b"1"), xxh64(b"2"));
        let headers = [("a", "1"), ("b", "2")];
        let combined = Some(a.rotate_left(1) ^ b);
        assert_eq!(hash(&[header("a", None), header("b", None)], &headers).hash, combined);
        assert_eq!(hash(&[header("a", None), header("no", None), header("b", None)], &headers).hash, combined);
        assert_eq!(hash(&[terminal(header("a", None)), header("b", None)], &headers).hash, Some(a));
        assert_eq!(hash(&[terminal(header("no", None)), header("b", None)], &headers).hash, Some(b));
        assert_eq!(hash(&[header("a", None), terminal(header("no", None)), header("b", None)], &headers).hash, Some(a));
        assert_eq!(hash(&[], &headers).hash, None);
    }

    #[test]
    fn a_channel_and_a_query_parameter_are_hashed() {
        assert_eq!(hash(&[policy(HashSource::ChannelId)], &[]).hash, Some(xxh64(&7_u64.to_le_bytes())));
        for (name, expected) in [("user", of("2%20")), ("b", of("")), ("c", None)] {
            assert_eq!(hash(&[policy(HashSource::QueryParameter(name.into()))], &[]).hash, expected);
        }
    }

    #[test]
    fn a_cookie_is_found_among_others_and_made_if_it_may_be() {
        for headers in [
            &[("cookie", "user=me")][..],
            &[("cookie", "a=b; user=\"me\"; c=d")],
            &[("cookie", "a"), ("cookie", "user=me")],
        ] {
            assert_eq!(hash(&[cookie(Some(9))], headers), RequestHash { hash: of("me"), set_cookie: None });
        }
        assert_eq!(hash(&[cookie(None)], &[("cookie", "users=me")]), RequestHash::default());
        for (ttl, age) in [(9, "; Max-Age=9"), (0, "")] {
            let made = hash(&[cookie(Some(ttl))], &[]);
            assert_eq!(made.hash, of("0000000000000abc"));
            let expected = format!("user=\"0000000000000abc\"{age}; Path=/x; SameSite=Strict; Secure; HttpOnly");
            assert_eq!(*made.set_cookie.unwrap(), *expected);
        }
    }
}

//! SPIFFE IDs (the SPIFFE-ID standard, section 2).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::Error;

/// The longest ID that a reader must take (SPIFFE-ID, 2.3); a longer one is refused.
const MAX_LENGTH: usize = 2048;
const MAX_TRUST_DOMAIN: usize = 255;
const SCHEME: &str = "spiffe://";

/// The name of a workload: `spiffe://cluster.local/ns/shop/sa/cart`. Cloning is cheap.
///
/// ```
/// let id: mesh_core::identity::SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse()?;
/// assert_eq!(id.trust_domain().as_str(), "cluster.local");
/// assert_eq!(id.path(), "/ns/shop/sa/cart");
/// # Ok::<(), mesh_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path starts.
    path: usize,
}

/// Who vouches for a set of workloads: `cluster.local`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl SpiffeId {
    /// The part between `spiffe://` and the path.
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.text[SCHEME.len()..self.path].into())
    }

    /// The part that names the workload in its trust domain, with its leading `/`; empty for the trust domain itself.
    pub fn path(&self) -> &str {
        &self.text[self.path..]
    }

    /// The namespace of an ID as Istio issues them, `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`; `None`: it has another form.
    pub fn namespace(&self) -> Option<&str> {
        self.kubernetes().map(|(namespace, _)| namespace)
    }

    /// The service account of such an ID; `None`: it has another form.
    pub fn service_account(&self) -> Option<&str> {
        self.kubernetes().map(|(_, account)| account)
    }

    fn kubernetes(&self) -> Option<(&str, &str)> {
        let (namespace, account) = self.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        let is_segment = |text: &str| !text.contains('/');
        (is_segment(namespace) && is_segment(account)).then_some((namespace, account))
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for SpiffeId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |problem: &str| Error::setup(format!("read SPIFFE ID {:?}: {problem}", shortened(text)));
        if text.len() > MAX_LENGTH {
            return Err(wrong("it is longer than 2048 bytes"));
        }
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| wrong("it does not start with `spiffe://`"))?;
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        check_trust_domain(domain).map_err(wrong)?;
        check_path(path).map_err(wrong)?;
        Ok(Self { path: SCHEME.len() + domain.len(), text: text.into() })
    }
}

impl TrustDomain {
    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match check_trust_domain(text) {
            Ok(()) => Ok(Self(text.into())),
            Err(problem) => Err(Error::setup(format!("read trust domain {:?}: {problem}", shortened(text)))),
        }
    }
}

/// Lowercase letters, digits, `.`, `-` and `_`: no user, no port, no percent-encoding (SPIFFE-ID, 2.1).
fn check_trust_domain(domain: &str) -> Result<(), &'static str> {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    match domain {
        "" => Err("it has no trust domain"),
        _ if domain.len() > MAX_TRUST_DOMAIN => Err("its trust domain is longer than 255 bytes"),
        _ if domain.bytes().all(allowed) => Ok(()),
        _ => Err("a trust domain is made of lowercase letters, digits, `.`, `-` and `_`"),
    }
}

/// Segments of letters, digits, `.`, `-` and `_`; none is empty, `.` or `..` (SPIFFE-ID, 2.2).
fn check_path(path: &str) -> Result<(), &'static str> {
    let Some(segments) = path.strip_prefix('/') else { return Ok(()) };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    for segment in segments.split('/') {
        match segment {
            "" => return Err("its path has an empty segment"),
            "." | ".." => return Err("its path has a relative segment"),
            _ if segment.bytes().all(allowed) => {}
            _ => return Err("a path is made of letters, digits, `.`, `-` and `_`"),
        }
    }
    Ok(())
}

/// What stands in an error: whoever wrote the text chose its length.
fn shortened(text: &str) -> &str {
    let end = (0..=text.len().min(100)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_has_a_trust_domain_and_a_path() {
        for (text, domain, path) in [
            ("spiffe://cluster.local/ns/shop/sa/cart", "cluster.local", "/ns/shop/sa/cart"),
            ("spiffe://trust-domain_1", "trust-domain_1", ""),
            ("spiffe://1.2.3.4/A/b.c/-_", "1.2.3.4", "/A/b.c/-_"),
            ("spiffe://a/...", "a", "/..."),
        ] {
            let id: SpiffeId = text.parse().expect(text);
            assert_eq!((id.trust_domain().as_str(), id.path(), id.as_str()), (domain, path, text));
        }
    }

    #[test]
    fn namespace_and_service_account_are_those_of_istios_form_alone() {
        for (text, expected) in [
            ("spiffe://a/ns/shop/sa/cart", Some(("shop", "cart"))),
            ("spiffe://a/ns/sa/sa/sa", Some(("sa", "sa"))),
            ("spiffe://a/ns/shop/sa/cart/x", None),
            ("spiffe://a/x/ns/shop/sa/cart", None),
            ("spiffe://a/ns/shop/x/sa/cart", None),
            ("spiffe://a/ns/shop", None),
            ("spiffe://a/ns/shop/sa", None),
            ("spiffe://a/NS/shop/sa/cart", None),
            ("spiffe://a", None),
        ] {
            let id: SpiffeId = text.parse().expect(text);
            assert_eq!(id.namespace().zip(id.service_account()), expected, "{text}");
        }
    }

    #[test]
    fn what_the_standard_does_not_allow_is_no_id() {
        let long_domain = format!("spiffe://{}/a", "d".repeat(256));
        let long = format!("spiffe://a/{}", "p".repeat(2048));
        for (text, problem) in [
            ("", "does not start"),
            ("spiffe:/a", "does not start"),
            ("SPIFFE://a/b", "does not start"),
            ("https://a/b", "does not start"),
            (" spiffe://a", "does not start"),
            ("spiffe://", "no trust domain"),
            ("spiffe:///path", "no trust domain"),
            ("spiffe://Cluster.local/a", "lowercase"),
            ("spiffe://user@a/b", "lowercase"),
            ("spiffe://a:443/b", "lowercase"),
            ("spiffe://a%2e/b", "lowercase"),
            ("spiffe://ä/b", "lowercase"),
            ("spiffe://a?x", "lowercase"),
            ("spiffe://a/", "empty segment"),
            ("spiffe://a//b", "empty segment"),
            ("spiffe://a/b/", "empty segment"),
            ("spiffe://a/./b", "relative segment"),
            ("spiffe://a/b/..", "relative segment"),
            ("spiffe://a/b?c=d", "a path is made of"),
            ("spiffe://a/b#c", "a path is made of"),
            ("spiffe://a/%41", "a path is made of"),
            ("spiffe://a/b c", "a path is made of"),
            ("spiffe://a/b\0", "a path is made of"),
            (&long_domain, "longer than 255"),
            (&long, "longer than 2048"),
        ] {
            let error = text.parse::<SpiffeId>().expect_err(text).to_string();
            assert!(error.contains(problem) && error.len() < 400, "{text}: {error}");
        }
    }

    #[test]
    fn the_longest_id_is_one() {
        let text = format!("spiffe://{}/{}", "d".repeat(255), "p".repeat(2048 - 9 - 255 - 1));
        assert_eq!(text.len(), 2048);
        assert!(text.parse::<SpiffeId>().is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_an_id_or_an_error(text in "(spiffe://)?[a-z./%@:é ]{0,40}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
                prop_assert!(id.path().split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != ".."));
            }
        }

        #[test]
        fn what_is_made_by_the_rules_is_an_id(text in "spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9_-]{1,20}){0,8}") {
            prop_assert!(text.parse::<SpiffeId>().is_ok());
        }
    }
}

//! The SPIFFE bundle map: JWK sets by trust domain (gRFC A87; SPIFFE Trust Domain and Bundle, 4).

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::spiffe::TrustDomain;
use super::trust::Roots;

#[derive(serde::Deserialize)]
struct BundleMap {
    trust_domains: Unique<Bundle>,
}

#[derive(serde::Deserialize)]
struct Bundle {
    keys: Vec<Key>,
}

/// What A87 reads of a JWK.
#[derive(serde::Deserialize)]
struct Key {
    kty: String,
    #[serde(rename = "use")]
    usage: String,
    #[serde(default)]
    x5c: Vec<String>,
}

/// Anything that is wrong refuses the whole (A87).
pub(super) fn bundle_map(json: &str) -> Result<BTreeMap<TrustDomain, Roots>, String> {
    let map: BundleMap = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let roots = |(name, bundle): (String, Bundle)| {
        let domain = name.parse::<TrustDomain>().map_err(|error| error.to_string())?;
        let roots = roots(bundle).map_err(|problem| format!("trust domain `{domain}`: {problem}"))?;
        Ok((domain, roots))
    };
    map.trust_domains.0.into_iter().map(roots).collect()
}

fn roots(bundle: Bundle) -> Result<Roots, String> {
    let mut certificates = Vec::new();
    for (index, key) in bundle.keys.iter().enumerate() {
        // A bundle also has keys that sign tokens; they vouch for no certificate.
        if key.usage != "jwt-svid" {
            certificates.push(certificate(key).map_err(|problem| format!("keys[{index}].{problem}"))?);
        }
    }
    Roots::new(certificates).map_err(|error| format!("a root cannot be used: {error}"))
}

fn certificate(key: &Key) -> Result<CertificateDer<'static>, String> {
    if !matches!(key.kty.as_str(), "RSA" | "EC") {
        return Err("kty: must be `RSA` or `EC`".to_owned());
    }
    if key.usage != "x509-svid" {
        return Err("use: must be `x509-svid` or `jwt-svid`".to_owned());
    }
    let [encoded] = &key.x5c[..] else {
        return Err(format!("x5c: must be one certificate, and there are {}", key.x5c.len()));
    };
    let certificate = STANDARD.decode(encoded).map_err(|error| format!("x5c[0]: {error}"))?;
    Ok(certificate.into())
}

/// An object in which no name stands twice: which of the two were meant?
struct Unique<T>(BTreeMap<String, T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Unique<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Unique<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Unique<T>, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((name, value)) = access.next_entry::<String, T>()? {
                    if map.insert(name, value).is_some() {
                        return Err(A::Error::custom("a trust domain stands twice"));
                    }
                }
                Ok(Unique(map))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> String {
        let root = rcgen::generate_simple_self_signed(["root".to_owned()]).unwrap();
        STANDARD.encode(root.cert.der())
    }

    #[test]
    fn each_trust_domain_has_roots_of_its_own() {
        let (a, b) = (root(), root());
        let json = format!(
            r#"{{"trust_domains": {{
                "a.test": {{"spiffe_sequence": 7, "spiffe_refresh_hint": 60, "keys": [
                    {{"kty": "EC", "use": "x509-svid", "x5c": ["{a}"], "crv": "P-256"}},
                    {{"kty": "EC", "use": "jwt-svid", "kid": "x"}},
                    {{"kty": "RSA", "use": "x509-svid", "x5c": ["{b}"]}}]}},
                "b.test": {{"keys": []}}}}}}"#
        );
        let map = bundle_map(&json).unwrap();
        let sizes: Vec<_> = map.iter().map(|(domain, roots)| (domain.as_str(), roots.store.len())).collect();
        assert_eq!(sizes, [("a.test", 2), ("b.test", 0)]);
        assert!(bundle_map(r#"{"trust_domains": {}}"#).unwrap().is_empty(), "an empty map is one (A87)");
    }

    #[test]
    fn whatever_is_wrong_refuses_the_whole_map() {
        let good = root();
        let key = |key: String| format!(r#"{{"trust_domains": {{"a": {{"keys": [{key}]}}}}}}"#);
        let x509 = |x5c: &str| key(format!(r#"{{"kty": "EC", "use": "x509-svid", "x5c": {x5c}}}"#));
        for (json, problem) in [
            (String::new(), "EOF"),
            ("{}".to_owned(), "trust_domains"),
            (r#"{"trust_domains": []}"#.to_owned(), "an object"),
            (r#"{"trust_domains": {"a": {}}}"#.to_owned(), "keys"),
            (r#"{"trust_domains": {"A": {"keys": []}}}"#.to_owned(), "lowercase"),
            (r#"{"trust_domains": {"a": {"keys": []}, "a": {"keys": []}}}"#.to_owned(), "stands twice"),
            (key(format!(r#"{{"use": "x509-svid", "x5c": ["{good}"]}}"#)), "kty"),
            (key(format!(r#"{{"kty": "oct", "use": "x509-svid", "x5c": ["{good}"]}}"#)), "keys[0].kty"),
            (key(format!(r#"{{"kty": "EC", "x5c": ["{good}"]}}"#)), "use"),
            (key(format!(r#"{{"kty": "EC", "use": "sig", "x5c": ["{good}"]}}"#)), "keys[0].use"),
            (x509("[]"), "there are 0"),
            (x509(&format!(r#"["{good}", "{good}"]"#)), "there are 2"),
            (x509(r#"["%"]"#), "x5c[0]"),
            (x509(r#"["AAAA"]"#), "cannot be used"),
        ] {
            let error = bundle_map(&json).map(drop).expect_err(&json);
            assert!(error.contains(problem), "{json}: {error}");
        }
    }
}

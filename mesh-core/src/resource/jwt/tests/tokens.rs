//! One provider, one token.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::signer::{Signer, encoded};
use super::{NOW, provider};
use crate::resource::jwt::failure::Failure;
use crate::resource::jwt::keys::{self, Keys, MAX_TRIES, TRIES};
use crate::resource::jwt::provider::Provider;
use crate::resource::jwt::token::{MAX_LENGTH, Token};
use crate::resource::matcher::text::TextMatch;

/// What OpenSSL made: a set, and a token of `joe` by each algorithm.
const OPENSSL: &str = include_str!("openssl.json");

fn verdict(provider: &Provider, token: &str) -> Result<(), Failure> {
    let token = Token::read(token).ok_or(Failure::Malformed)?;
    provider.verify(&token, NOW as f64, &mut Vec::new())?;
    provider.admit(&token, None)
}

fn openssl() -> (Provider, Value) {
    let all: Value = serde_json::from_str(OPENSSL).expect("JSON");
    let (keys, others) = Keys::read(OPENSSL.as_bytes()).expect("a good set");
    assert_eq!(others, 0);
    (Provider { keys: keys.into(), ..provider("joe", &Signer::new("x")) }, all)
}

#[test]
fn every_algorithm_is_verified_and_no_changed_token_is_good() {
    let (provider, all) = openssl();
    let tokens = all["tokens"].as_object().expect("tokens");
    assert_eq!(tokens.len(), if cfg!(feature = "aws-lc") { 10 } else { 9 });
    for (algorithm, token) in tokens {
        let token = token.as_str().expect("a token");
        assert_eq!(verdict(&provider, token), Ok(()), "{algorithm}");
        let (signed, signature) = token.rsplit_once('.').expect("three parts");
        let other = encoded(br#"{"iss":"joe","sub":"mallory"}"#);
        let (header, _) = signed.split_once('.').expect("two parts");
        for changed in [format!("{header}.{other}.{signature}"), format!("{signed}."), format!("{signed}.AAAA")] {
            assert_eq!(verdict(&provider, &changed), Err(Failure::BadSignature), "{algorithm}: {changed}");
        }
    }
}

#[test]
fn a_token_does_not_choose_what_its_key_is_used_with() {
    let (provider, all) = openssl();
    let token = |name: &str| all["tokens"][name].as_str().expect("a token").to_owned();
    let swapped = |name: &str, header: &str| {
        let token = token(name);
        let (_, rest) = token.split_once('.').expect("three parts");
        format!("{}.{rest}", encoded(header.as_bytes()))
    };
    // The key of an RSA provider as a secret: the classic.
    let secret = all["secret"].as_str().expect("a token");
    let unsigned = format!("{}.{}.", encoded(br#"{"alg":"none"}"#), encoded(br#"{"iss":"joe"}"#));
    for bad in [
        secret.to_owned(),
        unsigned.clone(),
        unsigned.replace(&encoded(br#"{"alg":"none"}"#), &encoded(br#"{"alg":"NONE"}"#)),
        swapped("RS256", r#"{"alg":"ES256","kid":"r"}"#),
        swapped("ES256", r#"{"alg":"RS256","kid":"P-256"}"#),
        swapped("ES256", r#"{"alg":"ES384","kid":"P-256"}"#),
        swapped("EdDSA", r#"{"alg":"HS256","kid":"ed"}"#),
        swapped("RS256", r#"{"alg":"RS256","kid":"nobody"}"#),
    ] {
        assert_eq!(verdict(&provider, &bad), Err(Failure::UnknownKey), "{bad}");
    }
    for bad in [swapped("RS256", r#"{"alg":"PS256","kid":"r"}"#), swapped("RS256", r#"{"alg":"RS512","kid":"r"}"#)] {
        assert_eq!(verdict(&provider, &bad), Err(Failure::BadSignature), "{bad}");
    }
    let mut only = all.clone();
    only["keys"][0]["alg"] = json!("RS256");
    let keys = Keys::read(only.to_string().as_bytes()).expect("a good set").0.into();
    let provider = Provider { keys, ..provider };
    assert_eq!(verdict(&provider, &token("RS256")), Ok(()));
    assert_eq!(verdict(&provider, &token("PS256")), Err(Failure::UnknownKey), "the key says what it is for");
}

#[test]
fn a_key_that_the_token_brings_is_not_used() {
    let (good, bad) = (Signer::new("k"), Signer::new("k"));
    let header = json!({"alg": "ES256", "kid": "k", "jwk": bad.jwk(), "jku": "https://evil.test/", "x5c": ["AAAA"]});
    let token = bad.signed(&header.to_string(), r#"{"iss":"joe"}"#);
    assert_eq!(verdict(&provider("joe", &good), &token), Err(Failure::BadSignature));
}

/// A set of a hundred, with or without their names.
fn hundred(signers: &[Signer], named: bool) -> Keys {
    let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
    let mut set = json!({ "keys": keys });
    if !named {
        set["keys"]
            .as_array_mut()
            .expect("keys")
            .iter_mut()
            .for_each(|key| drop(key.as_object_mut().map(|key| key.remove("kid"))));
    }
    Keys::read(set.to_string().as_bytes()).expect("a good set").0
}

#[test]
fn a_token_is_tried_with_eight_keys_at_most_those_first_that_it_names() {
    let names = (0..100).map(|number| &*format!("k{number}").leak());
    let signers: Vec<_> = names.map(Signer::new).collect();
    let of = |keys: Keys| Provider { keys: keys.into(), ..provider("joe", &signers[0]) };
    let (named, nameless) = (of(hundred(&signers, true)), of(hundred(&signers, false)));
    let by_name = |place: usize| signers[place].token(&json!({"iss": "joe"}));
    let without = |place: usize| signers[place].signed(r#"{"alg":"ES256"}"#, r#"{"iss":"joe"}"#);
    let forged = |header: &str| Signer::new("k7").signed(header, r#"{"iss":"joe"}"#);
    for (provider, token, expected, tries) in [
        (&named, by_name(99), Ok(()), 1),
        (&named, forged(r#"{"alg":"ES256","kid":"k7"}"#), Err(Failure::BadSignature), 1),
        (&named, without(MAX_TRIES - 1), Ok(()), MAX_TRIES),
        (&named, without(MAX_TRIES), Err(Failure::ManyKeys), MAX_TRIES),
        (&named, forged(r#"{"alg":"ES256"}"#), Err(Failure::ManyKeys), MAX_TRIES),
        (&nameless, by_name(MAX_TRIES - 1), Ok(()), MAX_TRIES),
        (&nameless, by_name(99), Err(Failure::ManyKeys), MAX_TRIES),
        (&named, forged(r#"{"alg":"RS256"}"#), Err(Failure::UnknownKey), 0),
    ] {
        TRIES.set(0);
        assert_eq!((verdict(provider, &token), TRIES.get()), (expected, tries), "{token}");
    }
}

#[test]
fn claims_are_checked_against_what_the_provider_says() {
    let signer = Signer::new("k");
    let now = NOW as i64;
    let plain = || provider("joe", &signer);
    let strict = || Provider { needs_expiration: true, ..plain() };
    let short = || Provider { max_lifetime: Some(Duration::from_secs(600)), ..plain() };
    let exact = || Provider { clock_skew: Duration::ZERO, ..plain() };
    let listening = || Provider { audiences: vec!["a".into(), "b".into()], ..plain() };
    let subjects = || Provider { subjects: Some(TextMatch::prefix("spiffe://x/", false)), ..plain() };
    for (provider, payload, expected) in [
        (plain(), json!({"iss": "joe"}), Ok(())),
        (plain(), json!({"iss": "jim"}), Err(Failure::UnknownIssuer)),
        (plain(), json!({"iss": "joe "}), Err(Failure::UnknownIssuer)),
        (plain(), json!({}), Err(Failure::UnknownIssuer)),
        (Provider { issuer: String::new(), ..plain() }, json!({"iss": "jim"}), Ok(())),
        (plain(), json!({"iss": "joe", "exp": now}), Ok(())),
        (plain(), json!({"iss": "joe", "exp": now - 60}), Ok(())),
        (plain(), json!({"iss": "joe", "exp": now - 61}), Err(Failure::Expired)),
        (plain(), json!({"iss": "joe", "exp": 0}), Err(Failure::Expired)),
        (plain(), json!({"iss": "joe", "nbf": now + 60}), Ok(())),
        (plain(), json!({"iss": "joe", "nbf": now + 61}), Err(Failure::NotYetValid)),
        (plain(), json!({"iss": "joe", "nbf": 1e300}), Err(Failure::NotYetValid)),
        (exact(), json!({"iss": "joe", "exp": now, "nbf": now}), Ok(())),
        (exact(), json!({"iss": "joe", "exp": now - 1}), Err(Failure::Expired)),
        (exact(), json!({"iss": "joe", "nbf": now + 1}), Err(Failure::NotYetValid)),
        (strict(), json!({"iss": "joe"}), Err(Failure::Endless)),
        (strict(), json!({"iss": "joe", "exp": now + 1}), Ok(())),
        (short(), json!({"iss": "joe"}), Err(Failure::Endless)),
        (short(), json!({"iss": "joe", "exp": now + 600}), Ok(())),
        (short(), json!({"iss": "joe", "exp": now + 601}), Err(Failure::LivesTooLong)),
        (listening(), json!({"iss": "joe", "aud": "b"}), Ok(())),
        (listening(), json!({"iss": "joe", "aud": ["x", "a"]}), Ok(())),
        (listening(), json!({"iss": "joe", "aud": ["x"]}), Err(Failure::Audience)),
        (listening(), json!({"iss": "joe", "aud": []}), Err(Failure::Audience)),
        (listening(), json!({"iss": "joe"}), Err(Failure::Audience)),
        (plain(), json!({"iss": "joe", "aud": "anyone"}), Ok(())),
        (subjects(), json!({"iss": "joe", "sub": "spiffe://x/a"}), Ok(())),
        (subjects(), json!({"iss": "joe", "sub": "spiffe://y/a"}), Err(Failure::Subject)),
        (subjects(), json!({"iss": "joe"}), Err(Failure::Subject)),
    ] {
        assert_eq!(verdict(&provider, &signer.token(&payload)), expected, "{payload} for {provider:?}");
    }
}

#[test]
fn what_is_no_token_or_not_understood_is_malformed() {
    let signer = Signer::new("k");
    let good = signer.signed(r#"{"alg":"ES256"}"#, r#"{"iss":"joe"}"#);
    assert_eq!(verdict(&provider("joe", &signer), &good), Ok(()), "without a name every key may be meant");
    let signed = |header: &str, payload: &str| signer.signed(header, payload);
    let (header, payload) = (r#"{"alg":"ES256"}"#, r#"{"iss":"joe"}"#);
    let deep = format!(r#"{{"iss":"joe","x":{}{}}}"#, "[".repeat(4_000), "]".repeat(4_000));
    let long = format!(r#"{{"iss":"joe","x":"{}"}}"#, "x".repeat(MAX_LENGTH));
    for bad in [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        "a.b.c".into(),
        good.replace('.', " "),
        format!("{good}.x"),
        format!(" {good}"),
        format!("{good}="),
        format!("{good}\0"),
        format!("{good}é"),
        good.rsplit_once('.').expect("three parts").0.to_owned(),
        signed(r#"{"alg":"ES256","crit":["b64"],"b64":false}"#, payload),
        signed(r#"{"alg":"ES256","crit":[]}"#, payload),
        signed(r#"{"alg":["ES256"]}"#, payload),
        signed(r#"{"kid":"k"}"#, payload),
        signed(r#"{"alg":"ES256","kid":7}"#, payload),
        signed(r#"{"alg":"ES256","alg":"none"}"#, payload),
        signed("[]", payload),
        signed("", payload),
        signed(header, r#"{"iss":"joe","iss":"jim"}"#),
        signed(header, r#"{"iss":"joe","exp":1,"exp":9999999999}"#),
        signed(header, r#"{"iss":["joe"]}"#),
        signed(header, r#"{"iss":"joe","sub":{}}"#),
        signed(header, r#"{"iss":"joe","aud":[1]}"#),
        signed(header, r#"{"iss":"joe","aud":{}}"#),
        signed(header, r#"{"iss":"joe","exp":"1"}"#),
        signed(header, r#"{"iss":"joe","exp":-1}"#),
        signed(header, r#"{"iss":"joe","exp":1e999}"#),
        signed(header, r#"{"iss":"joe","nbf":null}"#),
        signed(header, r#"{"iss":"joe"} x"#),
        signed(header, "null"),
        signed(header, &deep),
        signed(header, &long),
    ] {
        assert_eq!(verdict(&provider("joe", &signer), &bad), Err(Failure::Malformed), "{bad:.80}");
    }
}

#[test]
fn a_set_is_refused_whole_or_read_but_for_the_keys_that_are_not_supported() {
    let good = Signer::new("k").jwk();
    let with = |name: &str, value: Value| {
        let mut key = good.clone();
        key[name] = value;
        key
    };
    for unusable in [
        json!({"kty": "oct", "k": "AAAA"}),
        json!({"kty": "RSA", "n": encoded(&[0xff; 128]), "e": "AQAB"}),
        json!({"kty": "RSA", "n": encoded(&[0xff; 2048]), "e": "AQAB"}),
        json!({"kty": "RSA", "n": encoded(&[0xff; 256]), "e": "AQ"}),
        json!({"kty": "OKP", "crv": "X25519", "x": encoded(&[1; 32])}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(&[1; 31])}),
        with("crv", json!("secp256k1")),
        with("crv", json!("P-384")),
        with("x", json!("AAAA")),
        with("x", json!("!")),
        with("use", json!("enc")),
        with("key_ops", json!(["sign"])),
        with("alg", json!("HS256")),
        with("alg", json!("none")),
        with("alg", json!("RS256")),
        with("alg", json!(1)),
        with("kid", json!(1)),
        json!({}),
        json!(1),
    ] {
        let read = |keys: Value| Keys::read(json!({ "keys": keys }).to_string().as_bytes()).map(|(_, others)| others);
        let problem = read(json!([unusable])).expect_err("no key");
        assert!(problem.contains("no key that is supported"), "{unusable}: {problem}");
        assert_eq!(read(json!([unusable, good])), Ok(1), "{unusable}");
    }
    let many = json!({ "keys": vec![good.clone(); 101] }).to_string();
    let long = " ".repeat(keys::MAX_LENGTH + 1);
    for (set, says) in [
        ("", "no JSON object"),
        ("[]", "no JSON object"),
        (r#"{"keys":[],"keys":[]}"#, "no JSON object"),
        ("{}", "no list `keys`"),
        (r#"{"keys":{}}"#, "no list `keys`"),
        (r#"{"keys":[]}"#, "no key that is supported"),
        (&many, "more than 100 keys"),
        (&long, "at most 1048576 are read"),
    ] {
        let problem = Keys::read(set.as_bytes()).expect_err("a bad set");
        assert!(problem.contains(says), "{set:.40}: {problem}");
    }
    let signing = with("use", json!("sig"));
    let both = json!({"keys": [signing, with("key_ops", json!(["verify"]))]}).to_string();
    assert_eq!(Keys::read(both.as_bytes()).expect("a good set").1, 0);
}

proptest! {
    /// Nothing is accepted but what was signed, and nothing panics.
    #[test]
    fn no_token_that_differs_in_a_byte_is_good(at in any::<prop::sample::Index>(), byte in any::<u8>(), junk in ".{0,200}") {
        let (provider, all) = openssl();
        let good = all["tokens"]["ES256"].as_str().expect("a token");
        let mut bytes = good.as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(changed) = String::from_utf8(bytes)
            && changed != good
        {
            prop_assert!(verdict(&provider, &changed).is_err(), "{}", changed);
        }
        prop_assert!(verdict(&provider, &junk).is_err());
        prop_assert!(Keys::read(junk.as_bytes()).is_err());
    }
}

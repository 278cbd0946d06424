//! Tokens, good and bad, and what requirements make of them.

mod requirements;
pub(super) mod signer;
mod tokens;

use http::request::Parts;
use http::{HeaderName, Request};

use self::signer::Signer;
use super::keys::Keys;
use super::place::TokenPlace;
use super::provider::{CLOCK_SKEW, Effects, Provider};

/// The time of these tests, in seconds since 1970.
pub(super) const NOW: u64 = 1_800_000_000;

/// Of this issuer, and its one key.
fn provider(issuer: &str, signer: &Signer) -> Provider {
    Provider {
        issuer: issuer.to_owned(),
        audiences: Vec::new(),
        subjects: None,
        needs_expiration: false,
        max_lifetime: None,
        clock_skew: CLOCK_SKEW,
        keys: Keys::read(signer.set().as_bytes()).expect("a good set").0.into(),
        places: TokenPlace::defaults(),
        effects: Effects::default(),
    }
}

/// A request with these headers.
fn request(uri: &str, headers: &[(&'static str, &str)]) -> Parts {
    let mut request = Request::post(uri).body(()).expect("a request");
    for (name, value) in headers {
        let value = value.parse().expect("a value");
        request.headers_mut().append(HeaderName::from_static(name), value);
    }
    request.into_parts().0
}

fn bearer(token: &str) -> Parts {
    request("http://svc.test/a.B/C", &[("authorization", &format!("Bearer {token}"))])
}

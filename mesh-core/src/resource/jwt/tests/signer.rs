use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};

/// An issuer's key on P-256.
pub(in crate::resource::jwt) struct Signer {
    key: KeyPair,
    /// Neither the key nor tokens say one without it.
    id: Option<&'static str>,
}

impl Signer {
    pub(in crate::resource::jwt) fn new(id: &'static str) -> Self {
        Self { id: Some(id), ..Self::unnamed() }
    }

    pub(in crate::resource::jwt) fn unnamed() -> Self {
        Self { key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key"), id: None }
    }

    pub(super) fn jwk(&self) -> Value {
        let (x, y) = self.key.der_bytes()[1..].split_at(32);
        self.named(json!({"kty": "EC", "crv": "P-256", "x": encoded(x), "y": encoded(y)}))
    }

    pub(in crate::resource::jwt) fn set(&self) -> String {
        json!({"keys": [self.jwk()]}).to_string()
    }

    pub(in crate::resource::jwt) fn token(&self, payload: &Value) -> String {
        self.signed(&self.named(json!({"alg": "ES256"})).to_string(), &payload.to_string())
    }

    fn named(&self, mut what: Value) -> Value {
        if let Some(id) = self.id {
            what["kid"] = id.into();
        }
        what
    }

    /// Whatever the two are.
    pub(super) fn signed(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", encoded(header.as_bytes()), encoded(payload.as_bytes()));
        let signature = self.key.sign(signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", encoded(&numbers(&signature)))
    }
}

pub(super) fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The two numbers of a short ECDSA-Sig-Value, 32 bytes each.
fn numbers(der: &[u8]) -> Vec<u8> {
    let (mut left, mut numbers) = (&der[2..], Vec::new());
    for _ in 0..2 {
        let length = usize::from(left[1]);
        let (number, rest) = left[2..].split_at(length);
        let significant = number.strip_prefix(&[0]).unwrap_or(number);
        numbers.extend(std::iter::repeat_n(0, 32 - significant.len()).chain(significant.iter().copied()));
        left = rest;
    }
    numbers
}

//! An issuer of JSON Web Tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};

/// One with a key on Ed25519, whose name is the issuer's.
pub(crate) struct Issuer {
    key: KeyPair,
    name: &'static str,
}

impl Issuer {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { key: KeyPair::generate_for(&PKCS_ED25519).expect("a key"), name }
    }

    /// Its key, as a JSON Web Key Set.
    pub(crate) fn set(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.key.der_bytes());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": self.name, "x": x}]}).to_string()
    }

    /// A token that is good for a minute, and says these claims, too.
    pub(crate) fn token(&self, claims: &Value) -> String {
        let mut payload = json!({"iss": self.name, "exp": now() + 60});
        let more = claims.as_object().expect("claims").clone();
        payload.as_object_mut().expect("claims").extend(more);
        let header = json!({"alg": "EdDSA", "kid": self.name});
        let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encoded(&header), encoded(&payload));
        let signature = self.key.sign(signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// In seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs()
}

//! A JSON Web Token in its compact form (RFC 7515, RFC 7519), read and not yet believed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::json::object;

/// Of longer tokens not a byte is looked at.
pub(super) const MAX_LENGTH: usize = 16 * 1024;

/// A token that is well-formed.
#[derive(Clone, PartialEq)]
pub(super) struct Token {
    /// What the signature is over.
    pub(super) signed: String,
    pub(super) signature: Vec<u8>,
    pub(super) algorithm: String,
    pub(super) key_id: Option<String>,
    pub(super) header: Map<String, Value>,
    pub(super) payload: Map<String, Value>,
    /// As in the token.
    pub(super) payload_text: String,
    pub(super) audiences: Vec<String>,
    /// Seconds since 1970.
    pub(super) expires: Option<f64>,
    pub(super) not_before: Option<f64>,
}

impl Token {
    /// `None`: it is no token, or one that cannot be understood whole.
    pub(super) fn read(text: &str) -> Option<Self> {
        if text.len() > MAX_LENGTH {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, payload_text) = signed.split_once('.')?;
        let header = object(&URL_SAFE_NO_PAD.decode(header).ok()?)?;
        // What must be understood to know what the token says (RFC 7515, 4.1.11): none of it is here.
        if header.contains_key("crit") {
            return None;
        }
        let payload = object(&URL_SAFE_NO_PAD.decode(payload_text).ok()?)?;
        for name in ["iss", "sub", "jti"] {
            optional_text(&payload, name)?;
        }
        optional_time(&payload, "iat")?;
        Some(Self {
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
            algorithm: header.get("alg")?.as_str()?.to_owned(),
            key_id: optional_text(&header, "kid")?.map(str::to_owned),
            audiences: audiences(payload.get("aud"))?,
            expires: optional_time(&payload, "exp")?,
            not_before: optional_time(&payload, "nbf")?,
            signed: signed.to_owned(),
            payload_text: payload_text.to_owned(),
            header,
            payload,
        })
    }

    pub(super) fn issuer(&self) -> &str {
        self.payload.get("iss").and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn subject(&self) -> &str {
        self.payload.get("sub").and_then(Value::as_str).unwrap_or_default()
    }
}

/// `None`: it is something else than a text.
fn optional_text<'a>(object: &'a Map<String, Value>, name: &str) -> Option<Option<&'a str>> {
    object.get(name).map_or(Some(None), |value| value.as_str().map(Some))
}

/// `None`: it is no time.
fn optional_time(object: &Map<String, Value>, name: &str) -> Option<Option<f64>> {
    let time = |value: &Value| value.as_f64().filter(|seconds| *seconds >= 0.0).map(Some);
    object.get(name).map_or(Some(None), time)
}

/// One text, or a list of them.
fn audiences(value: Option<&Value>) -> Option<Vec<String>> {
    match value {
        None => Some(Vec::new()),
        Some(Value::String(one)) => Some(vec![one.clone()]),
        Some(Value::Array(list)) => list.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
        Some(_) => None,
    }
}

//! A JSON Web Key Set (RFC 7517), and whether one of its keys signed a token.
//!
//! What a key may be used with is said by the key alone: a token chooses among that, and there is neither an algorithm
//! without a key nor one with a secret.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::{AlgorithmIdentifier, SignatureVerificationAlgorithm, alg_id};
use serde_json::{Map, Value};

use super::json::object;
use super::remote::{RemoteSet, UnderWay};
use super::signature::{der_of_ecdsa, rsa_public_key};
use super::token::Token;
use crate::identity::crypto;

/// The longest set that is read, in bytes.
pub(crate) const MAX_LENGTH: usize = 1024 * 1024;
/// As many as any issuer has by far.
const MAX_KEYS: usize = 100;
/// Keys that are tried for one token: that may be several where the token or the key has no `kid`. Each costs what a signature costs, on
/// behalf of someone who is not known yet.
pub(super) const MAX_TRIES: usize = 8;

#[cfg(test)]
thread_local! {
    /// Signatures that this thread verified.
    pub(super) static TRIES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The keys that may have signed.
#[derive(Debug)]
pub(crate) struct Keys(Vec<Key>);

/// The keys that hold now. Others may take their place while calls are verified.
#[derive(Clone, Debug)]
pub(crate) struct KeysInForce(Arc<ArcSwap<Keys>>);

impl From<Keys> for KeysInForce {
    fn from(keys: Keys) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(keys)))
    }
}

impl KeysInForce {
    /// These hold from the next call on.
    pub(crate) fn replace(&self, keys: Keys) {
        self.0.store(Arc::new(keys));
    }

    fn signed(&self, token: &Token) -> Result<(), Unsigned> {
        self.0.load().signed(token)
    }
}

/// Where the keys of an issuer come from.
#[derive(Clone, Debug)]
pub(crate) enum KeySource {
    Local(KeysInForce),
    Remote(Arc<RemoteSet>),
}

impl From<Keys> for KeySource {
    fn from(keys: Keys) -> Self {
        Self::Local(keys.into())
    }
}

impl KeySource {
    /// Whether one of the keys signed the token. If not, and that may be as a fetch is under way, it is told.
    pub(super) fn signed(&self, token: &Token, under_way: &mut Vec<UnderWay>) -> Result<(), Unsigned> {
        match self {
            Self::Local(keys) => keys.signed(token),
            Self::Remote(set) => set.signed(token, under_way),
        }
    }
}

struct Key {
    id: Option<String>,
    /// What it may be used with.
    algorithms: Vec<Way>,
    /// The content of a SubjectPublicKeyInfo's bit string.
    public: Vec<u8>,
}

/// How to verify a signature, and what does it.
type Way = (&'static Algorithm, &'static dyn SignatureVerificationAlgorithm);

/// A way to sign (RFC 7518, 3.1; RFC 8037, 3.1).
#[derive(Debug, PartialEq, Eq)]
struct Algorithm {
    name: &'static str,
    key: AlgorithmIdentifier,
    signature: AlgorithmIdentifier,
    /// Of ECDSA, the length of each of a signature's two numbers.
    ecdsa: Option<usize>,
}

static ALGORITHMS: [Algorithm; 10] = [
    Algorithm::rsa("RS256", alg_id::RSA_PKCS1_SHA256),
    Algorithm::rsa("RS384", alg_id::RSA_PKCS1_SHA384),
    Algorithm::rsa("RS512", alg_id::RSA_PKCS1_SHA512),
    Algorithm::rsa("PS256", alg_id::RSA_PSS_SHA256),
    Algorithm::rsa("PS384", alg_id::RSA_PSS_SHA384),
    Algorithm::rsa("PS512", alg_id::RSA_PSS_SHA512),
    Algorithm::ecdsa("ES256", alg_id::ECDSA_P256, alg_id::ECDSA_SHA256, 32),
    Algorithm::ecdsa("ES384", alg_id::ECDSA_P384, alg_id::ECDSA_SHA384, 48),
    Algorithm::ecdsa("ES512", alg_id::ECDSA_P521, alg_id::ECDSA_SHA512, 66),
    Algorithm { name: "EdDSA", key: alg_id::ED25519, signature: alg_id::ED25519, ecdsa: None },
];

impl Algorithm {
    const fn rsa(name: &'static str, signature: AlgorithmIdentifier) -> Self {
        Self { name, key: alg_id::RSA_ENCRYPTION, signature, ecdsa: None }
    }

    const fn ecdsa(
        name: &'static str,
        key: AlgorithmIdentifier,
        signature: AlgorithmIdentifier,
        length: usize,
    ) -> Self {
        Self { name, key, signature, ecdsa: Some(length) }
    }
}

/// Why a token is not signed by a key of the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsigned {
    /// There is no set.
    NoSet,
    /// No key has its `kid` and may be used with its `alg`.
    NoKey,
    BadSignature,
    /// Not by one of those that were tried, and there are more.
    ManyKeys,
}

impl Keys {
    /// The usable keys of a set, and how many others there are.
    ///
    /// # Errors
    ///
    /// What is wrong with the set.
    pub(crate) fn read(bytes: &[u8]) -> Result<(Self, usize), String> {
        if bytes.len() > MAX_LENGTH {
            return Err(format!("has {} bytes, and at most {MAX_LENGTH} are read", bytes.len()));
        }
        let set = object(bytes).ok_or("is no JSON object, or has a name twice")?;
        let all = set.get("keys").and_then(Value::as_array).ok_or("has no list `keys`")?;
        let keys: Vec<_> = all.iter().filter_map(|key| Key::read(key.as_object()?)).take(MAX_KEYS + 1).collect();
        match keys.len() {
            0 => {
                let p521 = if implemented(alg_id::ECDSA_P521).is_empty() { "" } else { " P-521," };
                Err(format!("has no key that is supported: RSA of 2048 to 8192 bits, P-256, P-384,{p521} Ed25519"))
            }
            usable @ 1..=MAX_KEYS => Ok((Self(keys), all.len() - usable)),
            _ => Err(format!("has more than {MAX_KEYS} keys")),
        }
    }

    /// The same of a set that takes the place of another one: it may be without any key, as an issuer says that none of its keys is
    /// to be believed any more.
    ///
    /// # Errors
    ///
    /// What is wrong with the set.
    pub(crate) fn read_again(bytes: &[u8]) -> Result<(Self, usize), String> {
        let keys = Self::read(bytes);
        let is_empty = || object(bytes)?.get("keys")?.as_array().map(Vec::is_empty);
        match keys {
            Err(_) if bytes.len() <= MAX_LENGTH && is_empty() == Some(true) => Ok((Self(Vec::new()), 0)),
            keys => keys,
        }
    }

    /// Whether the token names one of the keys.
    pub(super) fn have_that_of(&self, token: &Token) -> bool {
        token.key_id.is_some() && self.0.iter().any(|key| key.id == token.key_id)
    }

    /// Whether one of the keys signed the token. At most [`MAX_TRIES`] are tried, those first that have its `kid`.
    pub(super) fn signed(&self, token: &Token) -> Result<(), Unsigned> {
        let id = token.key_id.as_deref();
        let usable = || self.0.iter().filter(|key| key.may_be(id)).filter_map(|key| Some((key, key.way(token)?)));
        let is_meant = |key: &Key| id.is_some() && key.id.as_deref() == id;
        let meant = usable().filter(|(key, _)| is_meant(key));
        let mut tries = meant.chain(usable().filter(|(key, _)| !is_meant(key)));
        let mut result = Err(Unsigned::NoKey);
        for (key, way) in tries.by_ref().take(MAX_TRIES) {
            if key.signed(token, way) {
                return Ok(());
            }
            result = Err(Unsigned::BadSignature);
        }
        if tries.next().is_some() { Err(Unsigned::ManyKeys) } else { result }
    }
}

impl Key {
    /// `None`: it is no key for signatures, or none that is supported.
    fn read(key: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let is_for_signatures = key.get("use").is_none_or(|used| used == "sig");
        let verifies =
            |operations: &Value| operations.as_array().is_some_and(|list| list.iter().any(|one| one == "verify"));
        if !is_for_signatures || !key.get("key_ops").is_none_or(verifies) {
            return None;
        }
        let number = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        let (algorithm, public) = match (text("kty")?, text("crv")) {
            ("RSA", None) => (alg_id::RSA_ENCRYPTION, rsa_public_key(&number("n")?, &number("e")?)?),
            ("EC", Some("P-256")) => (alg_id::ECDSA_P256, point(&number("x")?, &number("y")?, 32)?),
            ("EC", Some("P-384")) => (alg_id::ECDSA_P384, point(&number("x")?, &number("y")?, 48)?),
            ("EC", Some("P-521")) => (alg_id::ECDSA_P521, point(&number("x")?, &number("y")?, 66)?),
            ("OKP", Some("Ed25519")) => (alg_id::ED25519, number("x").filter(|x| x.len() == 32)?),
            _ => return None,
        };
        // A set that says something else than a text is not understood.
        let only = key.get("alg").map(|alg| alg.as_str().ok_or(())).transpose().ok()?;
        let id = key.get("kid").map(|id| id.as_str().ok_or(())).transpose().ok()?;
        let mut algorithms = implemented(algorithm);
        algorithms.retain(|(algorithm, _)| only.is_none_or(|only| only == algorithm.name));
        (!algorithms.is_empty()).then(|| Self { id: id.map(str::to_owned), algorithms, public })
    }

    /// One of the two that has no name may be meant.
    fn may_be(&self, id: Option<&str>) -> bool {
        self.id.as_deref().zip(id).is_none_or(|(own, wanted)| own == wanted)
    }

    /// How it verifies the token, if it may be used for that.
    fn way(&self, token: &Token) -> Option<Way> {
        self.algorithms.iter().copied().find(|(algorithm, _)| algorithm.name == token.algorithm)
    }

    fn signed(&self, token: &Token, (algorithm, verifier): Way) -> bool {
        #[cfg(test)]
        TRIES.with(|tries| tries.set(tries.get() + 1));
        let converted;
        let signature = match algorithm.ecdsa {
            None => &token.signature,
            Some(length) => match der_of_ecdsa(&token.signature, length) {
                None => return false,
                Some(der) => {
                    converted = der;
                    &converted
                }
            },
        };
        verifier.verify_signature(&self.public, token.signed.as_bytes(), signature).is_ok()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.algorithms.iter().map(|(algorithm, _)| algorithm.name).collect();
        f.debug_struct("Key").field("id", &self.id).field("algorithms", &names).finish_non_exhaustive()
    }
}

/// Those for keys of this kind that the cryptography that was compiled in has.
fn implemented(key: AlgorithmIdentifier) -> Vec<Way> {
    let Ok(crypto) = crypto() else { return Vec::new() };
    let all = crypto.signature_verification_algorithms.all;
    let of = |algorithm: &'static Algorithm| {
        let mut found = all.iter().copied();
        let found = found.find(|one| one.public_key_alg_id() == key && one.signature_alg_id() == algorithm.signature);
        Some((algorithm, found?))
    };
    ALGORITHMS.iter().filter(|algorithm| algorithm.key == key).filter_map(of).collect()
}

/// Uncompressed, as SEC 1 has it.
fn point(x: &[u8], y: &[u8], length: usize) -> Option<Vec<u8>> {
    (x.len() == length && y.len() == length).then(|| [&[4], x, y].concat())
}

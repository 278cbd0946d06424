//! What filters have verified of a call, for the policies behind them and for its handler.

use std::sync::Arc;

use serde_json::Value;

/// What the tokens of a call claim that were verified; in the request's extensions.
///
/// Entries have the names that a provider's `payload_in_metadata` and `header_in_metadata` say; a provider that says none has
/// no entry. Policies see them as the metadata of `envoy.filters.http.jwt_authn`.
#[derive(Clone, Debug, Default)]
pub struct Claims(Arc<[(Arc<str>, Value)]>);

impl Claims {
    /// With these entries beside those before; of two of one name the later one stays.
    #[cfg(feature = "jwt")]
    pub(crate) fn with(&self, more: impl IntoIterator<Item = (Arc<str>, Value)>) -> Self {
        let mut entries = self.0.to_vec();
        for (name, value) in more {
            entries.retain(|(known, _)| *known != name);
            entries.push((name, value));
        }
        Self(entries.into())
    }

    /// The names of the entries.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }

    /// The text at this path of an entry, such as `["sub"]`; `None` if there is none, or it is no text.
    pub fn text(&self, entry: &str, path: &[&str]) -> Option<&str> {
        self.value([entry].into_iter().chain(path.iter().copied()))?.as_str()
    }

    /// The number at this path of an entry.
    pub fn number(&self, entry: &str, path: &[&str]) -> Option<f64> {
        self.value([entry].into_iter().chain(path.iter().copied()))?.as_f64()
    }

    /// Whether the value at this path of an entry is this text, or a list that has it, as `aud` may be either.
    pub fn has(&self, entry: &str, path: &[&str], text: &str) -> bool {
        match self.value([entry].into_iter().chain(path.iter().copied())) {
            Some(Value::String(own)) => own == text,
            Some(Value::Array(list)) => list.iter().any(|own| own == text),
            _ => false,
        }
    }

    /// The first step is an entry's name.
    pub(crate) fn value<'a>(&self, mut path: impl Iterator<Item = &'a str>) -> Option<&Value> {
        let entry = path.next()?;
        let (_, value) = self.0.iter().find(|(name, _)| **name == *entry)?;
        path.try_fold(value, |value, step| value.as_object()?.get(step))
    }
}

#[cfg(all(test, feature = "jwt"))]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_found_by_entry_and_path() {
        let payload = json!({"sub": "alice", "aud": ["a", "b"], "exp": 17, "realm": {"role": "admin"}});
        let claims = Claims::default().with([("payload".into(), json!(1))]).with([("payload".into(), payload)]);
        assert_eq!(claims.text("payload", &["sub"]), Some("alice"));
        assert_eq!(claims.text("payload", &["realm", "role"]), Some("admin"));
        assert_eq!(claims.number("payload", &["exp"]), Some(17.0));
        assert!(claims.has("payload", &["aud"], "b") && claims.has("payload", &["sub"], "alice"));
        assert!(!claims.has("payload", &["aud"], "c") && !claims.has("payload", &["exp"], "17"));
        assert_eq!((claims.text("payload", &["exp"]), claims.text("other", &["sub"])), (None, None));
        assert_eq!(claims.text("payload", &["sub", "x"]), None);
        assert_eq!(claims.entries().collect::<Vec<_>>(), ["payload"]);
    }
}

//! Balancing policies of the application's own, known by the name under which the control plane asks for them (A52).

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use prost_types::value::Kind;
use prost_types::{Struct, Value};

use crate::error::{BoxError, Error};

/// The configuration of a policy that the control plane asks for by its name, a JSON object.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyConfig(Struct);

/// Makes what starts a policy; only the balancer knows what that is.
pub(crate) type MakePolicy = dyn Fn(&PolicyConfig) -> Result<Arc<dyn Any + Send + Sync>, BoxError> + Send + Sync;

/// The application's policies, by name; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Policies(Arc<HashMap<Arc<str>, Arc<MakePolicy>>>);

/// A policy of the application's own as a cluster asks for it.
#[derive(Clone)]
pub(crate) struct NamedPolicy {
    pub(crate) name: Arc<str>,
    pub(crate) config: Arc<PolicyConfig>,
    /// What [`MakePolicy`] made.
    pub(crate) made: Arc<dyn Any + Send + Sync>,
}

impl PolicyConfig {
    /// A number; `None` if there is no such field, or it is `null`.
    ///
    /// # Errors
    ///
    /// When the field is something else.
    pub fn number(&self, field: &str) -> Result<Option<f64>, Error> {
        self.field(field, "a number", |kind| match kind {
            Kind::NumberValue(number) => Some(*number),
            _ => None,
        })
    }

    /// A string, as [`number`](Self::number).
    ///
    /// # Errors
    ///
    /// When the field is something else.
    pub fn text(&self, field: &str) -> Result<Option<&str>, Error> {
        self.field(field, "a string", |kind| match kind {
            Kind::StringValue(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A boolean, as [`number`](Self::number).
    ///
    /// # Errors
    ///
    /// When the field is something else.
    pub fn boolean(&self, field: &str) -> Result<Option<bool>, Error> {
        self.field(field, "a boolean", |kind| match kind {
            Kind::BoolValue(value) => Some(*value),
            _ => None,
        })
    }

    /// All of it as JSON, the fields in the order of their names.
    pub fn json(&self) -> String {
        object(&self.0).to_string()
    }

    fn field<'c, T>(&'c self, field: &str, wanted: &str, read: fn(&'c Kind) -> Option<T>) -> Result<Option<T>, Error> {
        match self.0.fields.get(field).and_then(|value| value.kind.as_ref()) {
            None | Some(Kind::NullValue(_)) => Ok(None),
            Some(kind) => match read(kind) {
                Some(value) => Ok(Some(value)),
                None => Err(Error::setup(format!("`{field}` must be {wanted}"))),
            },
        }
    }
}

impl From<Struct> for PolicyConfig {
    fn from(config: Struct) -> Self {
        Self(config)
    }
}

fn object(config: &Struct) -> serde_json::Value {
    config.fields.iter().map(|(name, value)| (name.clone(), json(value))).collect::<serde_json::Map<_, _>>().into()
}

/// Decoding bounds how deep it is.
fn json(value: &Value) -> serde_json::Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::NumberValue(number)) => (*number).into(),
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::BoolValue(value)) => (*value).into(),
        Some(Kind::StructValue(config)) => object(config),
        Some(Kind::ListValue(list)) => list.values.iter().map(json).collect(),
    }
}

impl Policies {
    pub(crate) fn new(policies: HashMap<Arc<str>, Arc<MakePolicy>>) -> Self {
        Self(Arc::new(policies))
    }

    /// The policy of this name with its configuration; `None`: there is none of this name.
    pub(crate) fn make(
        &self,
        name: &str,
        config: impl FnOnce() -> Option<Struct>,
    ) -> Option<Result<NamedPolicy, BoxError>> {
        let (name, make) = self.0.get_key_value(name)?;
        let config = PolicyConfig(config()?);
        let policy = |made| NamedPolicy { name: name.clone(), config: Arc::new(config.clone()), made };
        Some(make(&config).map(policy))
    }
}

impl PartialEq for NamedPolicy {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.config == other.config
    }
}

impl fmt::Debug for NamedPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.config.json())
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_of_the_type_that_is_asked_for_or_complained_about() {
        let kinds = [
            ("n", Kind::NumberValue(1.5)),
            ("t", Kind::StringValue("x".into())),
            ("b", Kind::BoolValue(true)),
            ("nothing", Kind::NullValue(0)),
        ];
        let fields = kinds.map(|(name, kind)| (name.to_owned(), Value { kind: Some(kind) }));
        let config = PolicyConfig(Struct { fields: fields.into_iter().collect() });
        assert_eq!(config.number("n").expect("a number"), Some(1.5));
        assert_eq!(config.text("t").expect("a string"), Some("x"));
        assert_eq!(config.boolean("b").expect("a boolean"), Some(true));
        assert_eq!(config.number("nothing").expect("null"), None);
        assert_eq!(config.text("absent").expect("nothing"), None);
        assert!(config.number("t").expect_err("a string").to_string().contains("`t` must be a number"));
        assert_eq!(config.json(), r#"{"b":true,"n":1.5,"nothing":null,"t":"x"}"#);
    }
}

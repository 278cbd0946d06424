//! Reads a JSON object field by field, and knows which were not read.

use std::fmt::Display;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind};

/// What is wrong with a bootstrap, and what to do about it.
#[derive(Debug)]
pub(super) struct Problem {
    path: String,
    problem: String,
    cure: Option<String>,
}

impl Problem {
    pub(super) fn new(path: impl Into<String>, problem: impl Display) -> Self {
        Self { path: path.into(), problem: problem.to_string(), cure: None }
    }

    pub(super) fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    pub(super) fn into_error(self, what: &str) -> Error {
        let error = Error::new(ErrorKind::Setup, format!("{what}: {}: {}", self.path, self.problem));
        match self.cure {
            Some(cure) => error.with_next_step(cure),
            None => error,
        }
    }
}

/// The fields of one object. A field that is `null` is one that is not there, as Go's encoder writes it.
pub(super) struct Fields {
    path: String,
    map: Map<String, Value>,
}

impl Fields {
    pub(super) fn new(path: &str, value: Value) -> Result<Self, Problem> {
        match value {
            Value::Object(mut map) => {
                map.retain(|_, value| !value.is_null());
                Ok(Self { path: path.into(), map })
            }
            other => Err(wrong(path, &other, "an object")),
        }
    }

    /// The path of a field from the top.
    pub(super) fn at(&self, field: &str) -> String {
        if self.path.is_empty() { field.into() } else { format!("{}.{field}", self.path) }
    }

    pub(super) fn string(&mut self, field: &str) -> Result<Option<String>, Problem> {
        match self.map.remove(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(&self.at(field), &other, "a string")),
        }
    }

    pub(super) fn required_string(&mut self, field: &str) -> Result<String, Problem> {
        match self.string(field)? {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(Problem::new(self.at(field), "missing or empty, but required")),
        }
    }

    /// The elements of a list, each with its path.
    pub(super) fn list(&mut self, field: &str) -> Result<Vec<(String, Value)>, Problem> {
        let path = self.at(field);
        match self.map.remove(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => {
                Ok(values.into_iter().enumerate().map(|(i, value)| (format!("{path}[{i}]"), value)).collect())
            }
            Some(other) => Err(wrong(&path, &other, "a list")),
        }
    }

    pub(super) fn object(&mut self, field: &str) -> Result<Option<Fields>, Problem> {
        let path = self.at(field);
        self.map.remove(field).map(|value| Fields::new(&path, value)).transpose()
    }

    /// A duration as protobuf writes it in JSON: `600s`, `0.5s`.
    pub(super) fn duration(&mut self, field: &str) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.string(field)? else { return Ok(None) };
        let seconds = text.strip_suffix('s').and_then(|number| number.parse::<f64>().ok());
        match seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
            Some(duration) => Ok(Some(duration)),
            None => Err(Problem::new(self.at(field), format!("`{text}` is not a duration such as \"600s\""))),
        }
    }

    /// Takes a field away unread.
    pub(super) fn remove(&mut self, field: &str) -> bool {
        self.map.remove(field).is_some()
    }

    /// What is left, as it is.
    pub(super) fn into_map(self) -> Map<String, Value> {
        self.map
    }

    /// The names of the fields, for objects whose keys are names.
    pub(super) fn keys(&self) -> Vec<String> {
        self.map.keys().cloned().collect()
    }

    /// Lists what nothing read.
    pub(super) fn finish(self, ignored: &mut Vec<String>) {
        ignored.extend(self.map.keys().map(|field| format!("{}: unknown field", self.at(field))));
    }
}

/// An element of a list that must be a string.
pub(super) fn text(path: &str, value: Value) -> Result<String, Problem> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(wrong(path, &other, "a string")),
    }
}

fn wrong(path: &str, found: &Value, wanted: &str) -> Problem {
    let kind = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    let path = if path.is_empty() { "top level" } else { path };
    Problem::new(path, format!("{kind} where {wanted} is wanted"))
}

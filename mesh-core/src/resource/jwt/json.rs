//! JSON in which no object has a name twice: of a claim that stands twice, two readers may see two values (RFC 7519, 4).

use std::collections::HashSet;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// An object; `None`: it is anything else, has a name twice, or is nested deeper than 128.
pub(super) fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice::<Unambiguous>(bytes).ok()?;
    // Its values are made by serde_json alone: how it hands on a number depends on its features, which any crate of the program
    // may turn on (`arbitrary_precision`).
    serde_json::from_slice(bytes).ok()
}

/// JSON in which no object has a name twice, whatever the values are.
struct Unambiguous;

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Unambiguous;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Unambiguous, A::Error> {
        while let Some(Unambiguous) = list.next_element()? {}
        Ok(Unambiguous)
    }

    /// Also of a number, if serde_json keeps its digits.
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Unambiguous, A::Error> {
        let mut names = HashSet::new();
        while let Some((name, Unambiguous)) = entries.next_entry::<String, Unambiguous>()? {
            if !names.insert(name) {
                return Err(de::Error::custom("a name stands twice"));
            }
        }
        Ok(Unambiguous)
    }
}

#[cfg(test)]
mod tests {
    use serde::de::value::{Error, MapDeserializer};

    use super::*;

    #[test]
    fn an_object_is_read_as_it_is() {
        let text = br#"{"a": [1, -2, 3.5, null, true, "x"], "b": {"a": {}}}"#;
        assert_eq!(object(text).map(Value::Object), serde_json::from_slice(text).ok());
    }

    #[test]
    fn a_number_is_one_however_serde_json_hands_it_on() {
        let time = |text: &str| object(text.as_bytes())?.get("exp")?.as_f64();
        assert_eq!(time(r#"{"exp": 1234567890.25}"#), Some(1_234_567_890.25));
        assert_eq!(time(r#"{"exp": 1.5e9}"#), Some(1.5e9));
        assert_eq!(time(r#"{"exp": 1e999}"#), None);
        // As with its feature `arbitrary_precision`, which a test cannot turn on.
        let number = [("$serde_json::private::Number", "1234567890.25")];
        Unambiguous::deserialize(MapDeserializer::<_, Error>::new(number.into_iter())).expect("one name");
    }

    #[test]
    fn what_is_ambiguous_or_no_object_is_refused() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        for text in
            ["", "[]", "1", "{", "{}x", r#"{"a":1,"a":1}"#, r#"{"a":{"b":1,"b":2}}"#, r#"{"a":1,"\u0061":2}"#, &deep]
        {
            assert_eq!(object(text.as_bytes()), None, "{:.40}", text);
        }
    }
}

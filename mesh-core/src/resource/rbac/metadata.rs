//! A condition on what filters have found out of a call (`MetadataMatcher`).

use http::Extensions;
use serde_json::Value;

use crate::resource::claims::Claims;
use crate::resource::matcher::text::TextMatch;

/// A condition on the [`Claims`] of a call.
#[derive(Debug)]
pub(crate) struct ClaimMatch {
    /// The entry's name first.
    pub(crate) path: Box<[Box<str>]>,
    pub(crate) value: ValueMatch,
    pub(crate) is_inverted: bool,
}

#[derive(Debug)]
pub(crate) enum ValueMatch {
    Null,
    /// From the first up to the last, which is excluded.
    Range(f64, f64),
    Number(f64),
    Text(TextMatch),
    Bool(bool),
    /// Whether there is a value at all.
    Present(bool),
    /// Of a list, one item at least.
    Item(Box<ValueMatch>),
    OneOf(Box<[ValueMatch]>),
}

/// What is known of a call, where its request has it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known<'a>(Option<&'a Extensions>);

impl<'a> Known<'a> {
    pub(crate) fn of(extensions: &'a Extensions) -> Self {
        Self(Some(extensions))
    }

    fn claims(self) -> Option<&'a Claims> {
        self.0?.get()
    }
}

impl ClaimMatch {
    /// Where no filter has found anything out, no value matches (A41).
    pub(super) fn holds(&self, known: Known<'_>) -> bool {
        let found = known.claims().is_some_and(|claims| {
            let value = claims.value(self.path.iter().map(|step| &**step));
            self.value.holds(value)
        });
        found != self.is_inverted
    }
}

impl ValueMatch {
    fn holds(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::Present(present), value) => value.is_some() == *present,
            (Self::OneOf(any), value) => any.iter().any(|one| one.holds(value)),
            (_, None) => false,
            (Self::Null, Some(value)) => value.is_null(),
            (Self::Range(start, end), Some(value)) => {
                value.as_f64().is_some_and(|number| *start <= number && number < *end)
            }
            (Self::Number(wanted), Some(value)) => value.as_f64() == Some(*wanted),
            (Self::Text(text), Some(value)) => value.as_str().is_some_and(|value| text.matches(value.as_bytes())),
            (Self::Bool(wanted), Some(value)) => value.as_bool() == Some(*wanted),
            (Self::Item(one), Some(value)) => {
                value.as_array().is_some_and(|list| list.iter().any(|item| one.holds(Some(item))))
            }
        }
    }
}

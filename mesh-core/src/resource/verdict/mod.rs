//! What becomes of each field of the messages that are read: one of four verdicts.
//!
//! [`table`] names every field of every message that the decoders open, and is more than documentation. Its macro
//! writes [`Fields::judge`], which lists the ignored fields that are set and refuses the refused ones; a decoder calls
//! it first and then reads what it acts on. The macro destructures each message without `..`: a field that a new
//! version of xDS adds does not compile until it has a verdict.
//!
//! A field that a layer acts on says of which cargo feature that is. Without the feature nothing acts on it: it is listed as
//! every other such field, and the list says which feature is missing.

/// Why nothing acts on what a layer would act on. A text that is put together where it is compiled.
macro_rules! feature_off {
    ($feature:literal) => {
        concat!("mesh-core's feature `", $feature, "` is off")
    };
}
pub(crate) use feature_off;

pub(crate) mod table;

use std::collections::BTreeMap;

use bytes::Bytes;

use super::decode::place::At;

/// Why a server lists a field.
const OF_CLIENTS: &str = "only clients act on it";

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// It is acted on.
    Act,
    /// Clients act on it. On a server it changes nothing, and is listed when a server meets it.
    ClientActs,
    /// It changes nothing, and is listed when it is set.
    Ignore,
    /// The resource is accepted and the field listed; calls that meet it fail, as in gRPC.
    CallFails,
    /// A resource that sets it is refused.
    Nack,
}

/// The verdict on one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldVerdict {
    /// The message's name without its package: `RouteAction`.
    pub message: &'static str,
    /// The field's name: `prefix_rewrite`.
    pub field: &'static str,
    /// What becomes of it.
    pub verdict: Verdict,
    /// The condition or the reason; empty if there is nothing to add.
    pub note: &'static str,
    /// The cargo feature of mesh-core's without which nothing acts on it; [`verdict`](Self::verdict) is that of this build.
    pub feature: Option<&'static str>,
}

/// The wrapper that a resource may come in. It is read in place, where responses are, and not by a decoder.
const WRAPPER: [FieldVerdict; 8] = [
    of_wrapper("name", Verdict::Act, ""),
    of_wrapper("resource_name", Verdict::Ignore, "`name` is read"),
    of_wrapper("aliases", Verdict::Ignore, ""),
    of_wrapper("version", Verdict::Ignore, "that of the response holds"),
    of_wrapper("resource", Verdict::Act, ""),
    of_wrapper("ttl", Verdict::Ignore, "a resource holds until the control plane says something else"),
    of_wrapper("cache_control", Verdict::Ignore, ""),
    of_wrapper("metadata", Verdict::Ignore, ""),
];

const fn of_wrapper(field: &'static str, verdict: Verdict, note: &'static str) -> FieldVerdict {
    FieldVerdict { message: "Resource", field, verdict, note, feature: None }
}

/// Every field of the xDS messages that a client reads, in the order in which they are met: the wrapper of resources,
/// listener, routes, cluster, endpoints. A message-typed field that is ignored or refused stands for all it contains.
pub fn verdicts() -> impl Iterator<Item = &'static FieldVerdict> {
    WRAPPER.iter().chain(table::MESSAGES.iter().flat_map(|(_, rows)| rows.iter()))
}

/// A message with a verdict on each of its fields.
pub(crate) trait Fields {
    /// In the order of the table.
    const VERDICTS: &'static [FieldVerdict];

    /// Lists the fields that are set and not acted on, and refuses those that must not be set.
    fn judge(&self, at: &At<'_>);
}

impl FieldVerdict {
    fn apply(&self, at: &At<'_>) {
        match self.verdict {
            Verdict::Act => {}
            Verdict::ClientActs => at.field(self.field).of_clients(OF_CLIENTS),
            Verdict::Ignore => at.field(self.field).ignored(self.note),
            Verdict::CallFails if self.note.is_empty() => at.field(self.field).ignored("calls that meet it fail"),
            Verdict::CallFails => at.field(self.field).ignored(self.note),
            Verdict::Nack => at.field(self.field).error(self.note),
        }
    }
}

/// Whether a field has another value than the one it has when it is not there.
trait IsSet {
    fn is_set(&self) -> bool;
}

impl<T> IsSet for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}

impl<T> IsSet for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<K, V> IsSet for BTreeMap<K, V> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

/// A message that is not looked into.
impl IsSet for Bytes {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

macro_rules! is_set_unless_default {
    ($($scalar:ty),*) => {$(
        impl IsSet for $scalar {
            fn is_set(&self) -> bool {
                *self != <$scalar>::default()
            }
        }
    )*};
}
is_set_unless_default!(bool, i32, i64, u32, f64);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::xds::message::UNHEEDED;

    #[test]
    fn what_the_wrapper_of_a_resource_says_beside_its_name_is_listed() {
        let ignored = WRAPPER.iter().filter(|row| row.verdict == Verdict::Ignore).map(|row| row.field);
        assert_eq!(ignored.collect::<HashSet<_>>(), UNHEEDED.iter().map(|(_, name)| *name).collect());
    }

    #[test]
    fn each_field_stands_in_the_table_once() {
        let mut seen = HashSet::new();
        for row in verdicts() {
            assert!(seen.insert((row.message, row.field)), "{}.{} twice", row.message, row.field);
            assert!(
                row.verdict != Verdict::Nack || !row.note.is_empty(),
                "{}.{} needs a reason",
                row.message,
                row.field
            );
        }
    }
}

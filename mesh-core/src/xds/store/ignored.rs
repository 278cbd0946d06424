//! The account of the fields that resources set and nothing acts on.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::xds::resource_type::IgnoredField;

/// Kinds of ignored fields that are kept apart; the rest is counted in none.
pub(super) const MAX_IGNORED: usize = 1000;
/// Names that a kind of ignored field shows.
pub(super) const MAX_IGNORED_NAMES: usize = 5;

/// A field that resources set and nothing acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IgnoredSummary {
    pub(crate) resource_type: &'static str,
    pub(crate) path: String,
    /// Why, when it is not simply that nothing acts on it.
    pub(crate) reason: &'static str,
    /// How many resources were received with it.
    pub(crate) count: u64,
    /// Some of them.
    pub(crate) names: Vec<Arc<str>>,
}

/// By the name of the type and the field.
pub(super) type IgnoredFields = BTreeMap<(&'static str, IgnoredField), Ignored>;

/// How many resources set an ignored field, and some of their names.
#[derive(Debug, Default)]
pub(super) struct Ignored {
    pub(super) count: u64,
    pub(super) names: Vec<Arc<str>>,
}

/// Counts the fields of a resource that was received.
pub(super) fn record_ignored(
    known: &mut IgnoredFields,
    resource_type: &'static str,
    name: &Arc<str>,
    fields: Vec<IgnoredField>,
    first_seen: &mut Vec<(&'static str, IgnoredField)>,
) {
    for field in fields {
        let key = (resource_type, field);
        if !known.contains_key(&key) {
            if known.len() == MAX_IGNORED {
                continue;
            }
            first_seen.push(key.clone());
        }
        let ignored = known.entry(key).or_default();
        ignored.count += 1;
        if ignored.names.len() < MAX_IGNORED_NAMES && !ignored.names.contains(name) {
            ignored.names.push(name.clone());
        }
    }
}

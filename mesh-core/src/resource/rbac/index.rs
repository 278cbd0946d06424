//! Finds the policies that a call may match without looking at all of them.
//!
//! A policy that is for callers of certain names is found by their names; others, and those of a name that many policies
//! have, by the path where they are for certain paths. What is left is tried for every call.

use std::collections::HashMap;

use super::rule::Kind;
use super::{InboundCall, Policy, Rule};
use crate::resource::matcher::RouteMatch;
use crate::resource::matcher::index::RouteIndex;
use crate::resource::matcher::path::PathMatch;
use crate::resource::matcher::text::TextMatch;

/// With more policies of one name, paths tell them apart better.
const MANY: usize = 8;

#[derive(Debug, Default)]
pub(super) struct PolicyIndex {
    /// The places of policies by a name of their callers, ascending.
    by_name: HashMap<Box<str>, Vec<usize>>,
    /// Positions in `on_paths`.
    by_path: RouteIndex,
    /// The places of policies, ascending; once for each path of theirs.
    on_paths: Vec<usize>,
}

impl PolicyIndex {
    pub(super) fn new<'a>(policies: impl Iterator<Item = &'a Policy> + Clone) -> Self {
        let mut uses: HashMap<&str, usize> = HashMap::new();
        policies.clone().filter_map(names).flatten().for_each(|name| *uses.entry(name).or_default() += 1);
        let mut index = Self::default();
        let mut matches = Vec::new();
        for (place, policy) in policies.enumerate() {
            let (names, paths) = (names(policy), paths(&policy.permissions));
            let is_crowded = |names: &Vec<&str>| names.iter().any(|name| uses[name] > MANY);
            match (names, paths) {
                (Some(names), paths) if paths.is_none() || !is_crowded(&names) => {
                    for name in names {
                        let places = index.by_name.entry(name.into()).or_default();
                        // A policy may say a name twice.
                        if places.last() != Some(&place) {
                            places.push(place);
                        }
                    }
                }
                (_, paths) => {
                    let paths = paths.unwrap_or_else(|| vec![RouteMatch::prefix("")]);
                    index.on_paths.extend(paths.iter().map(|_| place));
                    matches.extend(paths);
                }
            }
        }
        index.by_path = RouteIndex::new(matches.iter());
        index
    }

    /// The first place for which `matches` holds, among those that the call may match.
    pub(super) fn first(&self, call: &InboundCall<'_>, matches: impl Fn(usize) -> bool) -> Option<usize> {
        let mut found = usize::MAX;
        for name in call.caller.names() {
            let places = self.by_name.get(name).map_or(&[][..], Vec::as_slice);
            let ahead = places.iter().copied().take_while(|place| *place < found);
            found = ahead.into_iter().find(|place| matches(*place)).unwrap_or(found);
        }
        let on_path = self.by_path.first(call.head.bare_path(), |position| {
            let place = self.on_paths[position];
            place < found && matches(place)
        });
        let found = on_path.map_or(found, |position| self.on_paths[position]);
        (found < usize::MAX).then_some(found)
    }
}

/// The names of which a caller has one if the policy matches; `None`: nobody knows.
fn names(policy: &Policy) -> Option<Vec<&str>> {
    union(&policy.principals, &names_of)
}

fn names_of(rule: &Rule) -> Option<Vec<&str>> {
    match &rule.0 {
        Kind::Authenticated(Some(TextMatch::Exact(name))) if !name.ignores_case() => Some(vec![name.text()]),
        Kind::All(rules) => rules.iter().find_map(names_of),
        Kind::OneOf(rules) => union(rules, &names_of),
        _ => None,
    }
}

/// What paths one of the rules is for; `None`: for any.
fn paths(rules: &[Rule]) -> Option<Vec<RouteMatch>> {
    union(rules, &paths_of)
}

fn paths_of(rule: &Rule) -> Option<Vec<RouteMatch>> {
    match &rule.0 {
        Kind::Path(TextMatch::Exact(path)) if !path.ignores_case() => {
            Some(vec![RouteMatch::new(PathMatch::exact(path.text(), true))])
        }
        Kind::Path(TextMatch::Prefix(path)) if !path.ignores_case() => Some(vec![RouteMatch::prefix(path.text())]),
        Kind::All(rules) => rules.iter().find_map(paths_of),
        Kind::OneOf(rules) => union(rules, &paths_of),
        _ => None,
    }
}

/// `None` if one of the rules does not say it.
fn union<'a, T>(rules: &'a [Rule], of: &dyn Fn(&'a Rule) -> Option<Vec<T>>) -> Option<Vec<T>> {
    let mut all = Vec::new();
    for rule in rules {
        all.extend(of(rule)?);
    }
    Some(all)
}

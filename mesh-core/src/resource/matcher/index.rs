//! Finds the routes that a path may match without looking at all of them: a service mesh's table has thousands.
//!
//! Routes on an exact path are found by hash, routes on a prefix by a binary search among the prefixes, and only the
//! others (patterns, paths without regard to case) are tried one after the other. The first route of the table that
//! matches wins, so the candidates of each kind are kept in the table's order, and a kind is left as soon as its next
//! candidate stands behind what was found already.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::RouteMatch;
use super::path::PathMatch;
use super::text::Literal;

/// Positions in the table, ascending.
type Positions = SmallVec<[usize; 2]>;

/// Where in a table of routes to look for a path.
#[derive(Debug, Default)]
pub(crate) struct RouteIndex {
    exact: HashMap<Box<str>, Positions>,
    /// By prefix, ascending.
    prefixes: Vec<Prefix>,
    /// The first position of a route on a prefix: whatever is found before it needs no search among them.
    first_prefix: usize,
    rest: Vec<usize>,
}

#[derive(Debug)]
struct Prefix {
    prefix: Box<str>,
    /// The longest of the other prefixes that this one starts with.
    parent: Option<usize>,
    positions: Positions,
}

impl RouteIndex {
    pub(crate) fn new<'a>(routes: impl Iterator<Item = &'a RouteMatch>) -> Self {
        let mut index = Self::default();
        let mut prefixes: HashMap<Box<str>, Positions> = HashMap::new();
        for (position, route) in routes.enumerate().filter(|(_, route)| !route.is_never()) {
            let sensitive = |literal: &Literal| !literal.ignores_case();
            match route.path() {
                PathMatch::Exact(path) if sensitive(path) => {
                    index.exact.entry(path.text().into()).or_default().push(position);
                }
                PathMatch::Prefix(prefix) | PathMatch::SeparatedPrefix(prefix) if sensitive(prefix) => {
                    prefixes.entry(prefix.text().into()).or_default().push(position);
                }
                _ => index.rest.push(position),
            }
        }
        index.first_prefix = prefixes.values().filter_map(|positions| positions.first().copied()).min().unwrap_or(0);
        index.prefixes = linked(prefixes);
        index
    }

    /// The first position of the table for which `matches` holds, among those that `path` may match.
    pub(crate) fn first(&self, path: &str, mut matches: impl FnMut(usize) -> bool) -> Option<usize> {
        // Nothing behind what was found already is of interest.
        let mut search = |positions: &[usize], end: usize| {
            let ahead = positions.iter().copied().take_while(|&position| position < end);
            ahead.into_iter().find(|&position| matches(position)).unwrap_or(end)
        };
        let mut found = self.exact.get(path).map_or(usize::MAX, |positions| search(positions, usize::MAX));
        let mut next = if self.first_prefix < found { self.longest(path) } else { None };
        while let Some(prefix) = next {
            found = search(&prefix.positions, found);
            next = prefix.parent.map(|parent| &self.prefixes[parent]);
        }
        Some(search(&self.rest, found)).filter(|&found| found < usize::MAX)
    }

    /// The longest prefix that `path` starts with; its ancestors are the others.
    ///
    /// The greatest prefix that is not behind `path` in the order of texts either is one of `path`, or has the longest
    /// one among its ancestors: whatever stands between a prefix and a path that starts with it starts with it too.
    fn longest(&self, path: &str) -> Option<&Prefix> {
        let behind = self.prefixes.partition_point(|prefix| &*prefix.prefix <= path);
        let mut next = behind.checked_sub(1);
        while let Some(prefix) = next.map(|next| &self.prefixes[next]) {
            if path.starts_with(&*prefix.prefix) {
                return Some(prefix);
            }
            next = prefix.parent;
        }
        None
    }
}

/// Sorts the prefixes and links each to the longest other one that it starts with.
fn linked(prefixes: HashMap<Box<str>, Positions>) -> Vec<Prefix> {
    let mut sorted: Vec<Prefix> =
        prefixes.into_iter().map(|(prefix, positions)| Prefix { prefix, parent: None, positions }).collect();
    sorted.sort_unstable_by(|a, b| a.prefix.cmp(&b.prefix));
    let mut ancestors: Vec<usize> = Vec::new();
    for position in 0..sorted.len() {
        while let Some(&last) = ancestors.last() {
            if sorted[position].prefix.starts_with(&*sorted[last].prefix) {
                break;
            }
            ancestors.pop();
        }
        sorted[position].parent = ancestors.last().copied();
        ancestors.push(position);
    }
    sorted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few letters, so that paths and prefixes meet.
    fn text() -> impl Strategy<Value = String> {
        "[ab/]{0,6}"
    }

    fn route() -> impl Strategy<Value = (u8, String, bool)> {
        (0..4u8, text(), any::<bool>())
    }

    fn compiled((kind, text, sensitive): &(u8, String, bool)) -> RouteMatch {
        RouteMatch::new(match kind {
            0 => PathMatch::exact(text, *sensitive),
            1 => PathMatch::prefix(text, *sensitive),
            2 => PathMatch::separated_prefix(text, *sensitive),
            _ => PathMatch::regex(&format!("{text}.*"), &Default::default()).expect("a valid pattern"),
        })
    }

    proptest! {
        #[test]
        fn finds_what_a_walk_over_the_table_finds(routes in prop::collection::vec(route(), 0..20), path in text()) {
            let routes: Vec<_> = routes.iter().map(compiled).collect();
            let index = RouteIndex::new(routes.iter());
            let expected = routes.iter().position(|route| route.path().matches(&path));
            prop_assert_eq!(index.first(&path, |position| routes[position].path().matches(&path)), expected);
        }
    }

    #[test]
    fn exact_paths_and_prefixes_are_not_walked_over() {
        let exact = (0..10_000).map(|n| RouteMatch::new(PathMatch::exact(&format!("/s{n}/M"), true)));
        let prefixes = (0..10_000).map(|n| RouteMatch::prefix(&format!("/p{n}/")));
        let routes: Vec<_> = exact.chain(prefixes).collect();
        let index = RouteIndex::new(routes.iter());
        let mut tried = 0;
        let mut find = |path| {
            index.first(path, |position| {
                tried += 1;
                routes[position].path().matches(path)
            })
        };
        assert_eq!(find("/s9999/M"), Some(9_999));
        assert_eq!(find("/p4711/M"), Some(14_711));
        assert_eq!(find("/nowhere"), None);
        assert_eq!(tried, 2);
    }
}

//! The unified matcher (A106): a tree of conditions on a request, at whose ends are actions.
//!
//! In a list the first condition that holds decides; in a map the value of a header finds its entry, in one of prefixes the
//! longest. A branch that leads to no action counts as one that does not match: the next one is tried, at last what the
//! tree has for that. A header that the request does not have meets no condition.

use indexmap::IndexMap;

use super::RequestHead;
use super::header::{HeaderMatch, HeaderSource};

/// A tree whose ends are of type `A`.
#[derive(Debug)]
pub(crate) struct MatchTree<A> {
    pub(crate) branches: Branches<A>,
    /// Where a request goes that no branch has an action for (`on_no_match`).
    pub(crate) otherwise: Option<Branch<A>>,
}

#[derive(Debug)]
pub(crate) enum Branches<A> {
    /// The first that holds.
    List(Vec<(Predicate, Branch<A>)>),
    Map(MatchMap<A>),
}

#[derive(Debug)]
pub(crate) enum Branch<A> {
    Action(A),
    Tree(Box<MatchTree<A>>),
}

#[derive(Debug)]
pub(crate) enum Predicate {
    Header(HeaderMatch),
    All(Vec<Predicate>),
    Any(Vec<Predicate>),
    Not(Box<Predicate>),
}

/// Branches by the value of a header.
#[derive(Debug)]
pub(crate) struct MatchMap<A> {
    input: HeaderSource,
    branches: IndexMap<Box<[u8]>, Branch<A>>,
    /// The lengths of the prefixes, the longest first; `None`: the whole value is looked up.
    prefixes: Option<Vec<usize>>,
}

impl<A> MatchTree<A> {
    /// The action for a request.
    pub(crate) fn find(&self, head: &RequestHead<'_>) -> Option<&A> {
        let found = match &self.branches {
            Branches::List(list) => {
                list.iter().filter(|(predicate, _)| predicate.holds(head)).find_map(|(_, branch)| branch.find(head))
            }
            Branches::Map(map) => map.find(head),
        };
        found.or_else(|| self.otherwise.as_ref()?.find(head))
    }

    /// Tells of every action.
    pub(crate) fn each_action<'a>(&'a self, tell: &mut dyn FnMut(&'a A)) {
        let branches: Vec<&Branch<A>> = match &self.branches {
            Branches::List(list) => list.iter().map(|(_, branch)| branch).collect(),
            Branches::Map(map) => map.branches.values().collect(),
        };
        for branch in branches.into_iter().chain(&self.otherwise) {
            match branch {
                Branch::Action(action) => tell(action),
                Branch::Tree(tree) => tree.each_action(tell),
            }
        }
    }
}

impl<A> Branch<A> {
    fn find(&self, head: &RequestHead<'_>) -> Option<&A> {
        match self {
            Self::Action(action) => Some(action),
            Self::Tree(tree) => tree.find(head),
        }
    }
}

impl Predicate {
    fn holds(&self, head: &RequestHead<'_>) -> bool {
        match self {
            Self::Header(header) => header.matches(head),
            Self::All(all) => all.iter().all(|one| one.holds(head)),
            Self::Any(any) => any.iter().any(|one| one.holds(head)),
            Self::Not(one) => !one.holds(head),
        }
    }
}

impl<A> MatchMap<A> {
    /// By the whole value.
    pub(crate) fn exact(input: HeaderSource, branches: IndexMap<Box<[u8]>, Branch<A>>) -> Self {
        Self { input, branches, prefixes: None }
    }

    /// By what the value starts with.
    pub(crate) fn prefix(input: HeaderSource, branches: IndexMap<Box<[u8]>, Branch<A>>) -> Self {
        let mut lengths: Vec<usize> = branches.keys().map(|prefix| prefix.len()).collect();
        lengths.sort_unstable_by(|one, other| other.cmp(one));
        lengths.dedup();
        Self { input, branches, prefixes: Some(lengths) }
    }

    fn find(&self, head: &RequestHead<'_>) -> Option<&A> {
        self.input.with_value(head, |value| {
            let value = value?;
            let at = |length: &usize| self.branches.get(value.get(..*length)?)?.find(head);
            match &self.prefixes {
                None => at(&value.len()),
                Some(lengths) => lengths.iter().find_map(at),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::resource::matcher::header::Condition;
    use crate::resource::matcher::text::TextMatch;

    fn action(name: &'static str) -> Branch<&'static str> {
        Branch::Action(name)
    }

    fn is(name: &str, value: &str) -> Predicate {
        let condition = Condition::Text(TextMatch::exact(value, false));
        Predicate::Header(HeaderMatch::new(name, condition).expect("a header's name"))
    }

    fn list(list: Vec<(Predicate, Branch<&'static str>)>) -> MatchTree<&'static str> {
        MatchTree { branches: Branches::List(list), otherwise: None }
    }

    fn found(tree: &MatchTree<&'static str>, headers: &[(&'static str, &'static str)]) -> Option<&'static str> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .collect();
        tree.find(&RequestHead { path: "/p", method: &Method::POST, authority: "a", headers: &headers }).copied()
    }

    #[test]
    fn the_first_predicate_that_holds_decides_and_a_missing_header_meets_none() {
        let tree = list(vec![
            (Predicate::All(vec![is("a", "1"), is("b", "1")]), action("both")),
            (Predicate::Any(vec![is("a", "1"), is("b", "1")]), action("one")),
            (Predicate::Not(Box::new(is("c", "1"))), action("not c")),
        ]);
        for (headers, expected) in [
            (&[("a", "1"), ("b", "1")][..], Some("both")),
            (&[("b", "1"), ("c", "1")], Some("one")),
            (&[], Some("not c")),
            (&[("c", "2")], Some("not c")),
            (&[("c", "1")], None),
        ] {
            assert_eq!(found(&tree, headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn a_branch_without_an_action_does_not_match() {
        let inner = |otherwise| {
            let branches = Branches::List(vec![(is("b", "1"), action("inner"))]);
            Branch::Tree(Box::new(MatchTree { branches, otherwise }))
        };
        let mut tree = list(vec![(is("a", "1"), inner(None)), (is("a", "1"), action("next"))]);
        assert_eq!(found(&tree, &[("a", "1"), ("b", "1")]), Some("inner"));
        assert_eq!(found(&tree, &[("a", "1")]), Some("next"));
        tree = list(vec![(is("a", "1"), inner(Some(action("inner otherwise")))), (is("a", "1"), action("next"))]);
        tree.otherwise = Some(action("otherwise"));
        assert_eq!(found(&tree, &[("a", "1")]), Some("inner otherwise"));
        assert_eq!(found(&tree, &[]), Some("otherwise"));
        let mut all = Vec::new();
        tree.each_action(&mut |action| all.push(*action));
        assert_eq!(all, ["inner", "inner otherwise", "next", "otherwise"]);
    }

    #[test]
    fn a_map_is_asked_by_the_whole_value_or_by_its_longest_prefix() {
        let entries = || {
            let nothing = Branch::Tree(Box::new(list(Vec::new())));
            [("ab", action("ab")), ("abcd", nothing), ("", action("any"))]
                .into_iter()
                .map(|(key, branch)| (key.as_bytes().into(), branch))
                .collect::<IndexMap<Box<[u8]>, _>>()
        };
        let input = || HeaderSource::of("x").expect("a name");
        let tree = |map| MatchTree { branches: Branches::Map(map), otherwise: None };
        let (exact, prefix) = (tree(MatchMap::exact(input(), entries())), tree(MatchMap::prefix(input(), entries())));
        for (value, by_value, by_prefix) in [
            ("ab", Some("ab"), Some("ab")),
            ("abc", None, Some("ab")),
            ("abcd", None, Some("ab")),
            ("b", None, Some("any")),
        ] {
            assert_eq!(found(&exact, &[("x", value)]), by_value, "{value}");
            assert_eq!(found(&prefix, &[("x", value)]), by_prefix, "{value}");
        }
        assert_eq!((found(&exact, &[]), found(&prefix, &[])), (None, None));
    }
}

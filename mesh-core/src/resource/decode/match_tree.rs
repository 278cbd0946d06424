//! The unified matcher, `xds.type.matcher.v3.Matcher` (A106), on headers of the request.

use indexmap::IndexMap;
use mesh_xds_proto::envoy::r#type::matcher::v3::HttpRequestHeaderMatchInput;
use mesh_xds_proto::xds::core::v3::TypedExtensionConfig;
use mesh_xds_proto::xds::r#type::matcher::v3 as proto;
use mesh_xds_proto::xds::r#type::matcher::v3::matcher::matcher_list::predicate::single_predicate;
use mesh_xds_proto::xds::r#type::matcher::v3::matcher::matcher_list::predicate::{
    MatchType, PredicateList, SinglePredicate,
};
use mesh_xds_proto::xds::r#type::matcher::v3::matcher::matcher_list::{FieldMatcher, Predicate as Condition};
use mesh_xds_proto::xds::r#type::matcher::v3::matcher::matcher_tree::{MatchMap as Map, TreeType};
use mesh_xds_proto::xds::r#type::matcher::v3::matcher::{
    MatcherList, MatcherTree, MatcherType, OnMatch, on_match::OnMatch as Leads,
};

use super::place::{At, quoted};
use super::route_match::xds_string_match;
use super::value::Extension;
use crate::resource::matcher::header::{Condition as OfValue, HeaderMatch, HeaderSource};
use crate::resource::matcher::tree::{Branch, Branches, MatchMap, MatchTree, Predicate};
use crate::resource::verdict::Fields;

/// Trees and conditions may be nested so deep (A106).
const MAX_DEPTH: u32 = 16;

/// Where a header is found in requests, by its name.
type Header = fn(&str) -> Option<HeaderSource>;

/// Reads trees whose actions `action` reads.
pub(super) struct TreeReader<F> {
    pub(super) action: F,
    pub(super) header: Header,
}

impl<A, F> TreeReader<F>
where
    F: Fn(&TypedExtensionConfig, &At<'_>) -> Option<A>,
{
    pub(super) fn read(&self, message: &proto::Matcher, at: &At<'_>) -> Option<MatchTree<A>> {
        self.tree(message, MAX_DEPTH, at)
    }

    fn tree(&self, message: &proto::Matcher, depth: u32, at: &At<'_>) -> Option<MatchTree<A>> {
        message.judge(at);
        let depth = deeper(depth, at)?;
        let branches = match &message.matcher_type {
            Some(MatcherType::MatcherList(list)) => {
                self.list(list, depth, &at.field("matcher_list")).map(Branches::List)
            }
            Some(MatcherType::MatcherTree(map)) => self.map(map, depth, &at.field("matcher_tree")).map(Branches::Map),
            None => {
                at.error("`matcher_list` or `matcher_tree` must be set");
                None
            }
        };
        let otherwise = match &message.on_no_match {
            Some(otherwise) => Some(self.branch(otherwise, depth, &at.field("on_no_match"))?),
            None => None,
        };
        Some(MatchTree { branches: branches?, otherwise })
    }

    fn list(&self, list: &MatcherList, depth: u32, at: &At<'_>) -> Option<Vec<(Predicate, Branch<A>)>> {
        list.judge(at);
        if list.matchers.is_empty() {
            at.field("matchers").error("must not be empty");
        }
        let matchers = list.matchers.iter().enumerate();
        let read: Vec<_> =
            matchers.map(|(index, matcher)| self.matcher(matcher, depth, &at.item("matchers", index))).collect();
        read.into_iter().collect()
    }

    fn matcher(&self, matcher: &FieldMatcher, depth: u32, at: &At<'_>) -> Option<(Predicate, Branch<A>)> {
        matcher.judge(at);
        let condition = at.required("predicate", matcher.predicate.as_ref());
        let condition =
            condition.and_then(|condition| predicate(condition, self.header, depth, &at.field("predicate")));
        let branch = at.required("on_match", matcher.on_match.as_ref());
        let branch = branch.and_then(|branch| self.branch(branch, depth, &at.field("on_match")));
        condition.zip(branch)
    }

    fn map(&self, message: &MatcherTree, depth: u32, at: &At<'_>) -> Option<MatchMap<A>> {
        message.judge(at);
        let input = input(message.input.as_ref(), self.header, at);
        let of = match &message.tree_type {
            Some(TreeType::ExactMatchMap(map)) => (map, "exact_match_map", MatchMap::exact as fn(_, _) -> _),
            Some(TreeType::PrefixMatchMap(map)) => (map, "prefix_match_map", MatchMap::prefix as fn(_, _) -> _),
            // Refused by the table.
            Some(TreeType::CustomMatch(_)) => return None,
            None => {
                at.error("`exact_match_map` or `prefix_match_map` must be set");
                return None;
            }
        };
        let (map, name, make) = of;
        let branches = self.branches(map, depth, &at.field(name))?;
        Some(make(input?.1, branches))
    }

    fn branches(&self, message: &Map, depth: u32, at: &At<'_>) -> Option<IndexMap<Box<[u8]>, Branch<A>>> {
        message.judge(at);
        if message.map.is_empty() {
            at.field("map").error("must not be empty");
        }
        let read = message.map.iter();
        let read: Vec<_> = read.map(|(key, branch)| (key, self.branch(branch, depth, &at.key("map", key)))).collect();
        read.into_iter().map(|(key, branch)| Some((key.as_bytes().into(), branch?))).collect()
    }

    fn branch(&self, message: &OnMatch, depth: u32, at: &At<'_>) -> Option<Branch<A>> {
        message.judge(at);
        match &message.on_match {
            Some(Leads::Matcher(tree)) => {
                let tree = self.tree(tree, depth, &at.field("matcher"))?;
                Some(Branch::Tree(Box::new(tree)))
            }
            Some(Leads::Action(action)) => (self.action)(action, &at.field("action")).map(Branch::Action),
            None => {
                at.error("`matcher` or `action` must be set");
                None
            }
        }
    }
}

fn predicate(message: &Condition, header: Header, depth: u32, at: &At<'_>) -> Option<Predicate> {
    message.judge(at);
    let depth = deeper(depth, at)?;
    match &message.match_type {
        Some(MatchType::SinglePredicate(one)) => {
            single(one, header, &at.field("single_predicate")).map(Predicate::Header)
        }
        Some(MatchType::OrMatcher(list)) => {
            predicates(list, header, depth, &at.field("or_matcher")).map(Predicate::Any)
        }
        Some(MatchType::AndMatcher(list)) => {
            predicates(list, header, depth, &at.field("and_matcher")).map(Predicate::All)
        }
        Some(MatchType::NotMatcher(one)) => {
            let one = predicate(one, header, depth, &at.field("not_matcher"))?;
            Some(Predicate::Not(Box::new(one)))
        }
        None => {
            at.error("a condition must be set");
            None
        }
    }
}

fn predicates(message: &PredicateList, header: Header, depth: u32, at: &At<'_>) -> Option<Vec<Predicate>> {
    message.judge(at);
    if message.predicate.len() < 2 {
        at.field("predicate").error("must be two at least");
    }
    let all = message.predicate.iter().enumerate();
    let all: Vec<_> = all.map(|(index, one)| predicate(one, header, depth, &at.item("predicate", index))).collect();
    all.into_iter().collect()
}

fn single(message: &SinglePredicate, header: Header, at: &At<'_>) -> Option<HeaderMatch> {
    message.judge(at);
    let input = input(message.input.as_ref(), header, at);
    let text = match &message.matcher {
        Some(single_predicate::Matcher::ValueMatch(text)) => xds_string_match(text, &at.field("value_match")),
        // Refused by the table.
        Some(single_predicate::Matcher::CustomMatch(_)) => None,
        None => {
            at.error("`value_match` must be set");
            None
        }
    };
    let (name, source) = input?;
    Some(HeaderMatch::at(source, &name, OfValue::Text(text?)))
}

/// The header that is asked, and its name.
fn input(config: Option<&TypedExtensionConfig>, header: Header, at: &At<'_>) -> Option<(String, HeaderSource)> {
    let config = at.required("input", config)?;
    let at = &at.field("input");
    config.judge(at);
    let at = &at.field("typed_config");
    let extension = Extension::open(config.typed_config.as_ref(), at)?;
    if !extension.is::<HttpRequestHeaderMatchInput>() {
        at.error(format!("{} is not supported: only headers of the request are", quoted(&extension.type_name)));
        return None;
    }
    let input: HttpRequestHeaderMatchInput = extension.unpack(at)?;
    input.judge(at);
    let Some(source) = header(&input.header_name) else {
        at.field("header_name").error(format!("{} is not the name of a header", quoted(&input.header_name)));
        return None;
    };
    Some((input.header_name, source))
}

fn deeper(depth: u32, at: &At<'_>) -> Option<u32> {
    let left = depth.checked_sub(1);
    if left.is_none() {
        at.error(format!("is nested deeper than {MAX_DEPTH}"));
    }
    left
}

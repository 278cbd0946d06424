//! `RouteMatch`: path, headers, share of the calls (A28, A63).

use mesh_xds_proto::envoy::config::route::v3 as proto;
use mesh_xds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use mesh_xds_proto::envoy::config::route::v3::route_match::PathSpecifier;
use mesh_xds_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use mesh_xds_proto::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use mesh_xds_proto::envoy::r#type::v3::Int64Range;
use mesh_xds_proto::xds::r#type::matcher::v3 as unified;

use super::place::{At, quoted};
use super::value::runtime_fraction;
use crate::resource::matcher::RouteMatch;
use crate::resource::matcher::header::{Condition, HeaderMatch};
use crate::resource::matcher::path::PathMatch;
use crate::resource::matcher::text::TextMatch;
use crate::resource::verdict::Fields;

pub(super) fn route_match(message: &proto::RouteMatch, at: &At<'_>) -> Option<RouteMatch> {
    route_match_by(message, header_match, at)
}

/// On a call that a server gets (A41).
pub(super) fn inbound_route_match(message: &proto::RouteMatch, at: &At<'_>) -> Option<RouteMatch> {
    route_match_by(message, inbound_header_match, at)
}

fn route_match_by(
    message: &proto::RouteMatch,
    header_match: fn(&proto::HeaderMatcher, &At<'_>) -> Option<HeaderMatch>,
    at: &At<'_>,
) -> Option<RouteMatch> {
    message.judge(at);
    let path = path(message, at);
    let headers = message.headers.iter().enumerate();
    let headers = headers.filter_map(|(index, header)| header_match(header, &at.item("headers", index))).collect();
    let fraction = message.runtime_fraction.as_ref();
    let fraction = fraction.and_then(|fraction| runtime_fraction(fraction, &at.field("runtime_fraction")));
    let route = RouteMatch::new(path?).with_headers(headers).with_fraction(fraction);
    Some(if message.query_parameters.is_empty() { route } else { route.never() })
}

fn path(message: &proto::RouteMatch, at: &At<'_>) -> Option<PathMatch> {
    let case_sensitive = message.case_sensitive.unwrap_or(true);
    match message.path_specifier.as_ref() {
        Some(PathSpecifier::Prefix(prefix)) => Some(PathMatch::prefix(prefix, case_sensitive)),
        Some(PathSpecifier::Path(path)) => Some(PathMatch::exact(path, case_sensitive)),
        Some(PathSpecifier::SafeRegex(regex)) => {
            let at = &at.field("safe_regex");
            compiled(regex, at, |pattern| PathMatch::regex(pattern, &at.report().patterns))
        }
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            separated_prefix(prefix, case_sensitive, &at.field("path_separated_prefix"))
        }
        // Refused by the table.
        Some(PathSpecifier::ConnectMatcher(_) | PathSpecifier::PathMatchPolicy(_)) => None,
        None => {
            at.error("`prefix`, `path`, `safe_regex` or `path_separated_prefix` must be set");
            None
        }
    }
}

/// What Envoy allows: the `/` behind the prefix is the matcher's own.
fn separated_prefix(prefix: &str, case_sensitive: bool, at: &At<'_>) -> Option<PathMatch> {
    if prefix.len() < 2 || prefix.ends_with('/') || prefix.contains(['?', '#']) {
        at.error(format!("{} must be a path that does not end with `/`, without query and fragment", quoted(prefix)));
        return None;
    }
    Some(PathMatch::separated_prefix(prefix, case_sensitive))
}

pub(super) fn header_match(message: &proto::HeaderMatcher, at: &At<'_>) -> Option<HeaderMatch> {
    header_match_by(message, HeaderMatch::new, at)
}

/// On a header of a call that a server gets: some are not what a caller says of itself, or are not to be seen at all (A41).
pub(super) fn inbound_header_match(message: &proto::HeaderMatcher, at: &At<'_>) -> Option<HeaderMatch> {
    let name = message.name.to_ascii_lowercase();
    if name == ":scheme" || name.starts_with("grpc-") {
        at.field("name").error(format!("{} cannot be matched by a policy (A41)", quoted(&message.name)));
        return None;
    }
    header_match_by(message, HeaderMatch::inbound, at)
}

fn header_match_by(
    message: &proto::HeaderMatcher,
    named: fn(&str, Condition) -> Option<HeaderMatch>,
    at: &At<'_>,
) -> Option<HeaderMatch> {
    message.judge(at);
    let condition = condition(message, at)?;
    let Some(header) = named(&message.name, condition) else {
        at.field("name").error(format!("{} is not the name of a header", quoted(&message.name)));
        return None;
    };
    Some(header.inverted(message.invert_match).missing_is_empty(message.treat_missing_header_as_empty))
}

fn condition(message: &proto::HeaderMatcher, at: &At<'_>) -> Option<Condition> {
    let Some(specifier) = &message.header_match_specifier else {
        at.error("a condition on the value must be set, or `present_match`");
        return None;
    };
    let text = match specifier {
        HeaderMatchSpecifier::ExactMatch(text) => Some(TextMatch::exact(text, false)),
        HeaderMatchSpecifier::PrefixMatch(text) => Some(TextMatch::prefix(text, false)),
        HeaderMatchSpecifier::SuffixMatch(text) => Some(TextMatch::suffix(text, false)),
        HeaderMatchSpecifier::ContainsMatch(text) => contains(text, false, &at.field("contains_match")),
        HeaderMatchSpecifier::SafeRegexMatch(regex) => text_regex(regex, &at.field("safe_regex_match")),
        HeaderMatchSpecifier::StringMatch(matcher) => string_match(matcher, &at.field("string_match")),
        HeaderMatchSpecifier::RangeMatch(range) => return number(range, &at.field("range_match")),
        HeaderMatchSpecifier::PresentMatch(present) => return Some(Condition::Present(*present)),
    };
    text.map(Condition::Text)
}

fn number(&Int64Range { start, end }: &Int64Range, at: &At<'_>) -> Option<Condition> {
    if start > end {
        at.error(format!("starts at {start}, behind its end {end}"));
        return None;
    }
    Some(Condition::Number(start..end))
}

pub(super) fn string_match(message: &StringMatcher, at: &At<'_>) -> Option<TextMatch> {
    message.judge(at);
    let ignore_case = message.ignore_case;
    match &message.match_pattern {
        Some(MatchPattern::Exact(text)) => Some(TextMatch::exact(text, ignore_case)),
        Some(MatchPattern::Prefix(text)) => Some(TextMatch::prefix(text, ignore_case)),
        Some(MatchPattern::Suffix(text)) => Some(TextMatch::suffix(text, ignore_case)),
        Some(MatchPattern::Contains(text)) => contains(text, ignore_case, &at.field("contains")),
        Some(MatchPattern::SafeRegex(regex)) => text_regex(regex, &at.field("safe_regex")),
        // Refused by the table.
        Some(MatchPattern::Custom(_)) => None,
        None => {
            at.error("a pattern must be set");
            None
        }
    }
}

/// The same message in xDS's own package.
pub(super) fn xds_string_match(message: &unified::StringMatcher, at: &At<'_>) -> Option<TextMatch> {
    message.judge(at);
    let ignore_case = message.ignore_case;
    match &message.match_pattern {
        Some(unified::string_matcher::MatchPattern::Exact(text)) => Some(TextMatch::exact(text, ignore_case)),
        Some(unified::string_matcher::MatchPattern::Prefix(text)) => Some(TextMatch::prefix(text, ignore_case)),
        Some(unified::string_matcher::MatchPattern::Suffix(text)) => Some(TextMatch::suffix(text, ignore_case)),
        Some(unified::string_matcher::MatchPattern::Contains(text)) => {
            contains(text, ignore_case, &at.field("contains"))
        }
        Some(unified::string_matcher::MatchPattern::SafeRegex(regex)) => {
            let at = &at.field("safe_regex");
            regex.judge(at);
            text_pattern(&regex.regex, at)
        }
        // Refused by the table.
        Some(unified::string_matcher::MatchPattern::Custom(_)) => None,
        None => {
            at.error("a pattern must be set");
            None
        }
    }
}

fn text_pattern(pattern: &str, at: &At<'_>) -> Option<TextMatch> {
    let compiled = TextMatch::regex(pattern, &at.report().patterns);
    compiled.map_err(|problem| at.field("regex").error(format!("{}: {problem}", quoted(pattern)))).ok()
}

fn contains(text: &str, ignore_case: bool, at: &At<'_>) -> Option<TextMatch> {
    let compiled = TextMatch::contains(text, ignore_case, &at.report().patterns);
    compiled.map_err(|problem| at.error(problem)).ok()
}

pub(super) fn text_regex(regex: &RegexMatcher, at: &At<'_>) -> Option<TextMatch> {
    compiled(regex, at, |pattern| TextMatch::regex(pattern, &at.report().patterns))
}

fn compiled<T>(message: &RegexMatcher, at: &At<'_>, compile: impl Fn(&str) -> Result<T, String>) -> Option<T> {
    message.judge(at);
    let problem = |problem| at.field("regex").error(format!("{}: {problem}", quoted(&message.regex)));
    compile(&message.regex).map_err(problem).ok()
}

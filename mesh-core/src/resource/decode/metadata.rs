//! `MetadataMatcher`: a condition on what filters have found out of a call.

use mesh_xds_proto::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use mesh_xds_proto::envoy::r#type::matcher::v3::{
    DoubleMatcher, MetadataMatcher, ValueMatcher, double_matcher, list_matcher, value_matcher,
};

use super::place::At;
use super::route_match::string_match;
use crate::resource::rbac::Kind;
use crate::resource::rbac::metadata::{ClaimMatch, ValueMatch};
use crate::resource::verdict::Fields;

/// The only filter that finds anything out.
const CLAIMS: &str = "envoy.filters.http.jwt_authn";

/// Of other filters there is no metadata, and so no value that could match; a condition that is inverted holds (A41).
pub(super) fn metadata_match(message: &MetadataMatcher, at: &At<'_>) -> Option<Kind> {
    message.judge(at);
    if message.filter != CLAIMS {
        return Some(Kind::Constant(message.invert));
    }
    let path = message.path.iter().enumerate().filter_map(|(index, segment)| {
        let at = &at.item("path", index);
        segment.judge(at);
        let Some(Segment::Key(key)) = &segment.segment else {
            at.field("key").error("must be set");
            return None;
        };
        Some(key.as_str().into())
    });
    let path: Box<[Box<str>]> = path.collect();
    if message.path.is_empty() {
        at.field("path").error("must not be empty");
    }
    let value = at.required("value", message.value.as_ref())?;
    let value = value_match(value, &at.field("value"))?;
    Some(Kind::Claim(ClaimMatch { path, value, is_inverted: message.invert }))
}

fn value_match(message: &ValueMatcher, at: &At<'_>) -> Option<ValueMatch> {
    use value_matcher::MatchPattern as Pattern;
    message.judge(at);
    let Some(pattern) = &message.match_pattern else {
        at.error("a pattern must be set");
        return None;
    };
    Some(match pattern {
        Pattern::NullMatch(_) => ValueMatch::Null,
        Pattern::DoubleMatch(number) => number_match(number, &at.field("double_match"))?,
        Pattern::StringMatch(text) => ValueMatch::Text(string_match(text, &at.field("string_match"))?),
        Pattern::BoolMatch(wanted) => ValueMatch::Bool(*wanted),
        Pattern::PresentMatch(present) => ValueMatch::Present(*present),
        Pattern::ListMatch(list) => {
            let at = &at.field("list_match");
            list.judge(at);
            let one = list.match_pattern.as_ref().map(|list_matcher::MatchPattern::OneOf(one)| one);
            ValueMatch::Item(Box::new(value_match(at.required("one_of", one)?, &at.field("one_of"))?))
        }
        Pattern::OrMatch(any) => {
            let at = &at.field("or_match");
            any.judge(at);
            if any.value_matchers.len() < 2 {
                at.field("value_matchers").error("must be two or more");
            }
            let any = any.value_matchers.iter().enumerate();
            let any = any.map(|(index, one)| value_match(one, &at.item("value_matchers", index)));
            ValueMatch::OneOf(any.collect::<Option<_>>()?)
        }
    })
}

fn number_match(message: &DoubleMatcher, at: &At<'_>) -> Option<ValueMatch> {
    message.judge(at);
    match &message.match_pattern {
        Some(double_matcher::MatchPattern::Range(range)) => {
            range.judge(&at.field("range"));
            Some(ValueMatch::Range(range.start, range.end))
        }
        Some(double_matcher::MatchPattern::Exact(number)) => Some(ValueMatch::Number(*number)),
        None => {
            at.error("a pattern must be set");
            None
        }
    }
}

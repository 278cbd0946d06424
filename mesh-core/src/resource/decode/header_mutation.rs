//! Changes of headers: the four lists that each level of a route configuration has, and the filter `header_mutation`.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use mesh_xds_proto::envoy::config::common::mutation_rules::v3 as rules;
use mesh_xds_proto::envoy::config::common::mutation_rules::v3::header_mutation::Action;
use mesh_xds_proto::envoy::config::core::v3::HeaderValueOption;
use mesh_xds_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use mesh_xds_proto::envoy::extensions::filters::http::header_mutation::v3 as filter;

use super::place::{At, quoted};
use super::route_match::string_match;
use crate::resource::filter::header_mutation::{Addition, AppendAction, Change, HeaderMutation, may_be_changed};
use crate::resource::filter::template::{BadTemplate, Template};
use crate::resource::verdict::Fields;

/// The lists of one level; `at` is the level.
pub(super) struct Lists<'a> {
    pub(super) request_add: &'a [HeaderValueOption],
    pub(super) request_remove: &'a [String],
    pub(super) response_add: &'a [HeaderValueOption],
    pub(super) response_remove: &'a [String],
}

impl Lists<'_> {
    /// Removals come first, so that a header in both lists is there with its new value.
    pub(super) fn read(&self, at: &At<'_>) -> Option<Arc<HeaderMutation>> {
        let request = removals(self.request_remove, "request_headers_to_remove", at)
            .chain(additions(self.request_add, "request_headers_to_add", true, at))
            .collect();
        let response = removals(self.response_remove, "response_headers_to_remove", at)
            .chain(additions(self.response_add, "response_headers_to_add", false, at))
            .collect();
        let mutation = HeaderMutation { request, response };
        (!mutation.is_idle()).then(|| Arc::new(mutation))
    }
}

fn removals<'a>(names: &'a [String], field: &'static str, at: &'a At<'_>) -> impl Iterator<Item = Change> + 'a {
    let names = names.iter().enumerate();
    names.filter_map(move |(index, name)| header_name(name, &at.item(field, index)).map(Change::Remove))
}

pub(super) fn additions<'a>(
    options: &'a [HeaderValueOption],
    field: &'static str,
    of_request: bool,
    at: &'a At<'_>,
) -> impl Iterator<Item = Change> + 'a {
    let options = options.iter().enumerate();
    options.filter_map(move |(index, option)| addition(option, of_request, &at.item(field, index)))
}

/// The filter's changes, or what a route adds to them.
pub(super) fn mutations(message: Option<&filter::Mutations>, at: &At<'_>) -> HeaderMutation {
    let at = &at.field("mutations");
    let Some(message) = message else { return HeaderMutation::new() };
    message.judge(at);
    let read = |changes: &[rules::HeaderMutation], field, of_request| {
        let changes = changes.iter().enumerate();
        changes.filter_map(|(index, message)| change(message, of_request, &at.item(field, index))).collect()
    };
    HeaderMutation {
        request: read(&message.request_mutations, "request_mutations", true),
        response: read(&message.response_mutations, "response_mutations", false),
    }
}

pub(super) fn change(message: &rules::HeaderMutation, of_request: bool, at: &At<'_>) -> Option<Change> {
    message.judge(at);
    match &message.action {
        Some(Action::Remove(name)) => header_name(name, &at.field("remove")).map(Change::Remove),
        Some(Action::Append(option)) => addition(option, of_request, &at.field("append")),
        Some(Action::RemoveOnMatch(message)) => {
            let at = &at.field("remove_on_match");
            message.judge(at);
            let matcher = at.required("key_matcher", message.key_matcher.as_ref())?;
            string_match(matcher, &at.field("key_matcher")).map(|matcher| Change::RemoveMatching(Arc::new(matcher)))
        }
        None => {
            at.error("`remove`, `append` or `remove_on_match` must be set");
            None
        }
    }
}

fn addition(option: &HeaderValueOption, of_request: bool, at: &At<'_>) -> Option<Change> {
    option.judge(at);
    let action = append_action(option, at);
    let header = at.required("header", option.header.as_ref())?;
    let at = &at.field("header");
    header.judge(at);
    let name = header_name(&header.key, &at.field("key"));
    let value = match header.raw_value.is_empty() {
        true => template(&header.value, of_request, &at.field("value")),
        false => literal(&header.raw_value, &at.field("raw_value")),
    };
    Some(Change::Add(Addition { name: name?, value: value?, action: action?, keep_empty: option.keep_empty_value }))
}

fn append_action(option: &HeaderValueOption, at: &At<'_>) -> Option<AppendAction> {
    let action = match (HeaderAppendAction::try_from(option.append_action), option.append) {
        (Ok(HeaderAppendAction::AppendIfExistsOrAdd), Some(false)) => AppendAction::OverwriteOrAdd,
        (Ok(HeaderAppendAction::AppendIfExistsOrAdd), _) => AppendAction::AppendOrAdd,
        (Ok(HeaderAppendAction::AddIfAbsent), _) => AppendAction::AddIfAbsent,
        (Ok(HeaderAppendAction::OverwriteIfExistsOrAdd), _) => AppendAction::OverwriteOrAdd,
        (Ok(HeaderAppendAction::OverwriteIfExists), _) => AppendAction::OverwriteIfExists,
        (Err(_), _) => {
            at.field("append_action").error(format!("{} is no known action", option.append_action));
            return None;
        }
    };
    Some(action)
}

/// `None` if it can be none, or must not be changed.
fn header_name(name: &str, at: &At<'_>) -> Option<HeaderName> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| *name != http::header::HOST);
    let Some(name) = parsed else {
        at.error(format!("{} is not the name of a header that can be changed", quoted(name)));
        return None;
    };
    if !may_be_changed(&name) {
        at.ignored("gRPC's own headers are not changed");
        return None;
    }
    Some(name)
}

fn template(text: &str, of_request: bool, at: &At<'_>) -> Option<Template> {
    match Template::parse(text, of_request) {
        Ok(template) => return Some(template),
        Err(BadTemplate::Malformed(problem)) => at.error(format!("{} {problem}", quoted(text))),
        Err(BadTemplate::Unsupported) => {
            at.ignored("has a substitution that is not supported: the header is not added")
        }
    }
    None
}

fn literal(bytes: &[u8], at: &At<'_>) -> Option<Template> {
    let value = HeaderValue::from_bytes(bytes).map(Template::Literal);
    value.map_err(|_| at.error("is not the value of a header")).ok()
}

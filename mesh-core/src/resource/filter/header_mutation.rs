//! Changes to the headers of requests and responses, as in Envoy.

use std::sync::Arc;

use http::header::Entry;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::template::{Facts, Template};
use crate::resource::matcher::text::TextMatch;

/// What is changed in the headers of requests and of responses, in this order.
///
/// ```
/// use http::{HeaderName, HeaderValue};
/// use mesh_core::filter::HeaderMutation;
///
/// let tenant = HeaderName::from_static("x-tenant");
/// let mutation = HeaderMutation::new()
///     .set_in_request(tenant, HeaderValue::from_static("blue"))
///     .remove_from_response(HeaderName::from_static("server"));
/// # let _ = mutation;
/// ```
#[derive(Clone, Debug, Default)]
pub struct HeaderMutation {
    pub(crate) request: Vec<Change>,
    pub(crate) response: Vec<Change>,
}

/// One change.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Remove(HeaderName),
    /// Every header whose name matches.
    RemoveMatching(Arc<TextMatch>),
    Add(Addition),
}

/// A header that is put in.
#[derive(Clone, Debug)]
pub(crate) struct Addition {
    pub(crate) name: HeaderName,
    pub(crate) value: Template,
    pub(crate) action: AppendAction,
    /// Whether a header is added although its value turns out to be empty.
    pub(crate) keep_empty: bool,
}

/// What becomes of values that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AppendAction {
    AppendOrAdd,
    AddIfAbsent,
    OverwriteOrAdd,
    OverwriteIfExists,
}

impl HeaderMutation {
    /// Changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives requests this header, in place of any that has its name.
    pub fn set_in_request(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.request.push(Change::literal(name, value, AppendAction::OverwriteOrAdd));
        self
    }

    /// Gives requests this header, beside those that have its name.
    pub fn append_to_request(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.request.push(Change::literal(name, value, AppendAction::AppendOrAdd));
        self
    }

    /// Takes this header from requests.
    pub fn remove_from_request(mut self, name: HeaderName) -> Self {
        self.request.push(Change::Remove(name));
        self
    }

    /// Gives responses this header, in place of any that has its name.
    pub fn set_in_response(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.response.push(Change::literal(name, value, AppendAction::OverwriteOrAdd));
        self
    }

    /// Gives responses this header, beside those that have its name.
    pub fn append_to_response(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.response.push(Change::literal(name, value, AppendAction::AppendOrAdd));
        self
    }

    /// Takes this header from responses.
    pub fn remove_from_response(mut self, name: HeaderName) -> Self {
        self.response.push(Change::Remove(name));
        self
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }

    /// These changes, and then the others.
    pub(crate) fn then(mut self, others: &Self) -> Self {
        self.request.extend(others.request.iter().cloned());
        self.response.extend(others.response.iter().cloned());
        self
    }
}

impl Change {
    pub(crate) fn literal(name: HeaderName, value: HeaderValue, action: AppendAction) -> Self {
        Self::Add(Addition { name, value: Template::Literal(value), action, keep_empty: true })
    }

    /// What the change is given its value from, if it needs one.
    pub(crate) fn value(&self, facts: &Facts<'_>) -> Option<HeaderValue> {
        match self {
            Self::Add(addition) => addition.value.render(facts),
            Self::Remove(_) | Self::RemoveMatching(_) => None,
        }
    }

    /// Makes the change; `value` is what [`value`](Self::value) gave before.
    pub(crate) fn apply(&self, value: Option<HeaderValue>, headers: &mut HeaderMap) {
        match self {
            Self::Remove(name) => _ = headers.remove(name),
            Self::RemoveMatching(matcher) => remove_matching(matcher, headers),
            Self::Add(addition) => {
                if let Some(value) = value.filter(|value| addition.keep_empty || !value.is_empty()) {
                    addition.apply(value, headers);
                }
            }
        }
    }
}

impl Addition {
    fn apply(&self, value: HeaderValue, headers: &mut HeaderMap) {
        match (headers.entry(&self.name), self.action) {
            (Entry::Vacant(_), AppendAction::OverwriteIfExists) | (Entry::Occupied(_), AppendAction::AddIfAbsent) => {}
            (Entry::Vacant(entry), _) => _ = entry.insert(value),
            (Entry::Occupied(mut entry), AppendAction::AppendOrAdd) => entry.append(value),
            (Entry::Occupied(mut entry), _) => _ = entry.insert(value),
        }
    }
}

fn remove_matching(matcher: &TextMatch, headers: &mut HeaderMap) {
    let matching = headers.keys().filter(|name| may_be_changed(name) && matcher.matches(name.as_str().as_bytes()));
    let matching: Vec<_> = matching.cloned().collect();
    for name in matching {
        headers.remove(name);
    }
}

/// Whether a control plane may change this header: not what gRPC and HTTP/2 themselves stand on.
pub(crate) fn may_be_changed(name: &HeaderName) -> bool {
    !matches!(name.as_str(), "host" | "content-type" | "te") && !name.as_str().starts_with("grpc-")
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::resource::filter::template::Message;
    use crate::resource::matcher::RequestHead;

    fn apply(change: &Change, headers: &mut HeaderMap) {
        let head = RequestHead { path: "/", method: &Method::POST, authority: "a", headers };
        let value = change.value(&Facts { cluster: None, route: None, message: Message::Request(head) });
        change.apply(value, headers);
    }

    fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
        headers.get_all(name).iter().map(|value| value.to_str().expect("text").to_owned()).collect()
    }

    #[test]
    fn an_addition_does_with_what_is_there_as_its_action_says() {
        for (action, where_absent, where_there) in [
            (AppendAction::AppendOrAdd, &["new"][..], &["old", "new"][..]),
            (AppendAction::AddIfAbsent, &["new"], &["old"]),
            (AppendAction::OverwriteOrAdd, &["new"], &["new"]),
            (AppendAction::OverwriteIfExists, &[], &["new"]),
        ] {
            let change = Change::literal(HeaderName::from_static("x"), HeaderValue::from_static("new"), action);
            let mut absent = HeaderMap::new();
            let mut there: HeaderMap =
                [(HeaderName::from_static("x"), HeaderValue::from_static("old"))].into_iter().collect();
            apply(&change, &mut absent);
            apply(&change, &mut there);
            assert_eq!(
                (values(&absent, "x"), values(&there, "x")),
                (own(where_absent), own(where_there)),
                "{action:?}"
            );
        }
    }

    fn own(values: &[&str]) -> Vec<String> {
        values.iter().map(|&value| value.to_owned()).collect()
    }

    #[test]
    fn an_empty_value_is_added_only_if_it_is_kept() {
        for keep_empty in [true, false] {
            let value = Template::parse("%REQ(x-none)%", true).expect("a template");
            let name = HeaderName::from_static("x");
            let change = Change::Add(Addition { name, value, action: AppendAction::AppendOrAdd, keep_empty });
            let mut headers = HeaderMap::new();
            apply(&change, &mut headers);
            assert_eq!(headers.contains_key("x"), keep_empty);
        }
    }

    #[test]
    fn headers_are_removed_by_name_and_by_match_but_for_those_that_grpc_stands_on() {
        let names = ["x-a", "x-b", "y", "te", "content-type", "grpc-timeout"];
        let named = |name| (HeaderName::from_static(name), HeaderValue::from_static("1"));
        let mut headers: HeaderMap = names.into_iter().map(named).collect();
        apply(&Change::Remove(HeaderName::from_static("y")), &mut headers);
        apply(&Change::RemoveMatching(Arc::new(TextMatch::prefix("x-", false))), &mut headers);
        assert_eq!(headers.len(), 3);
        apply(&Change::RemoveMatching(Arc::new(TextMatch::prefix("", false))), &mut headers);
        assert_eq!(headers.len(), 3, "{headers:?}");
    }
}

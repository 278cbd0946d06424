//! Which headers an authorization service may change (`HeaderMutationRules`).

use http::HeaderName;

use crate::resource::filter::header_mutation::may_be_changed;
use crate::resource::matcher::text::TextMatch;

/// What may be changed, beside what never may.
#[derive(Debug, Default)]
pub(crate) struct MutationRules {
    pub(crate) disallow_all: bool,
    pub(crate) allow: Option<TextMatch>,
    pub(crate) disallow: Option<TextMatch>,
    pub(crate) allow_envoy: bool,
    /// A change that is not allowed fails the call; otherwise it is not made.
    pub(crate) disallow_is_error: bool,
}

impl MutationRules {
    /// As in Envoy, the more particular rule goes first, and the one that forbids before the one that allows.
    pub(super) fn allow(&self, name: &HeaderName) -> bool {
        let text = name.as_str().as_bytes();
        let matches = |rule: &Option<TextMatch>| rule.as_ref().is_some_and(|rule| rule.matches(text));
        match () {
            () if matches(&self.disallow) => false,
            () if matches(&self.allow) => true,
            () => !self.disallow_all && (self.allow_envoy || !text.starts_with(b"x-envoy-")),
        }
    }
}

/// What no service may touch: what gRPC and HTTP/2 themselves stand on.
pub(super) fn is_beyond_reach(name: &HeaderName) -> bool {
    const FRAMING: [&str; 6] =
        ["connection", "content-length", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];
    !may_be_changed(name) || FRAMING.contains(&name.as_str())
}

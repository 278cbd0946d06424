//! Asking another service whether a call may be made (A92; Envoy's `ext_authz`): what it is asked, and what becomes of its
//! answer, as pure and total decisions.
//!
//! ```text
//! request.rs: the call ─▸ CheckRequest ─▸ the service (filter/check.rs) ─▸ CheckResponse ─▸ response.rs ─▸ Verdict
//! ```

mod request;
mod response;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::StatusCode;

pub(crate) use request::{Asked, Parties};
pub(crate) use response::{Denial, Verdict};
pub(crate) use rules::MutationRules;

use super::matcher::text::TextMatch;
use crate::xds::transport::side_channel::SideChannel;

const MILLION: u32 = 1_000_000;

/// How long a check takes at most that says nothing of it. A102 has no bound there, and a call may have no deadline.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The filter `envoy.filters.http.ext_authz`.
#[derive(Debug)]
pub(crate) struct ExtAuthz {
    pub(crate) service: AuthorizationService,
    /// Of a million calls, those that are checked.
    pub(crate) enabled: u32,
    /// The others are denied.
    pub(crate) deny_at_disable: bool,
    /// A call whose check fails is let pass.
    pub(crate) failure_mode_allow: bool,
    /// It is told so.
    pub(crate) failure_mode_allow_header_add: bool,
    pub(crate) status_on_error: StatusCode,
    /// `None`: all.
    pub(crate) allowed_headers: Option<Box<[TextMatch]>>,
    pub(crate) disallowed_headers: Box<[TextMatch]>,
    pub(crate) rules: MutationRules,
    pub(crate) include_peer_certificate: bool,
    /// It was said that calls pass whose check fails, and none has succeeded since.
    pub(crate) is_open: AtomicBool,
}

/// Who decides, and how long that takes at most.
#[derive(Clone, Debug)]
pub(crate) struct AuthorizationService {
    pub(crate) channel: Arc<SideChannel>,
    pub(crate) timeout: Duration,
}

/// The filter as it is in force somewhere, or what a level puts over it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExtAuthzConfig {
    /// `None` in what a level says.
    pub(crate) filter: Option<Arc<ExtAuthz>>,
    /// In the place of the filter's own.
    pub(crate) service: Option<AuthorizationService>,
    /// What the service is told beside the call.
    pub(crate) context_extensions: Arc<BTreeMap<String, String>>,
}

/// Whether one call is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    Yes,
    /// It passes without.
    No,
    Denied,
}

impl ExtAuthz {
    /// `random` gives a number below a million.
    pub(crate) fn is_checked(&self, random: impl FnOnce() -> u32) -> Checked {
        match self.enabled >= MILLION || self.enabled > 0 && random() < self.enabled {
            true => Checked::Yes,
            false if self.deny_at_disable => Checked::Denied,
            false => Checked::No,
        }
    }
}

impl ExtAuthzConfig {
    /// With what the levels say, from the most to the least specific: each has its say on `context_extensions`, the most specific
    /// the last word, as in Envoy.
    pub(crate) fn with_all<'a>(&self, levels: impl Iterator<Item = &'a Self>) -> Self {
        let mut config = self.clone();
        for level in levels {
            config.service = config.service.or_else(|| level.service.clone());
            let context = Arc::make_mut(&mut config.context_extensions);
            for (key, value) in &*level.context_extensions {
                context.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        config
    }
}

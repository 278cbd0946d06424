//! What a route configuration says at each of its levels: whole, virtual host, route, cluster of a weighted route.

use std::sync::Arc;

use super::filter::Overrides;
use super::filter::descriptor::RateLimits;
use super::filter::header_mutation::HeaderMutation;

/// What one level says of all calls below it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Level {
    /// Of the listener's filters.
    pub(crate) overrides: Overrides,
    pub(crate) headers: Option<Arc<HeaderMutation>>,
    /// Of a virtual host or a route, for local rate limits.
    pub(crate) rate_limits: Option<Arc<RateLimits>>,
}

/// The least specific level, and how levels go together.
#[derive(Debug, Default)]
pub(crate) struct WholeConfiguration {
    pub(crate) level: Level,
    /// Headers are changed by the least specific level first, so that the route has the last word. Otherwise it
    /// is the other way round.
    pub(crate) most_specific_headers_win: bool,
}

impl Level {
    pub(crate) fn is_empty(&self) -> bool {
        self.overrides.is_empty() && self.headers.is_none() && self.rate_limits.is_none()
    }
}

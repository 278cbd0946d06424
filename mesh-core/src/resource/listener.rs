//! `Listener` of a client: where its routes come from (A27).

use std::sync::Arc;
use std::time::Duration;

use super::filter::HttpFilters;
use super::route_config::RouteConfiguration;

/// A validated API listener.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    pub(crate) routes: RouteSource,
    /// The longest a call may take on routes that do not say it themselves; zero: no limit (A31).
    pub(crate) max_stream_duration: Option<Duration>,
    pub(crate) filters: Arc<HttpFilters>,
}

/// Where the routes of a listener come from.
#[derive(Clone, Debug)]
pub(crate) enum RouteSource {
    /// The name of a `RouteConfiguration` to ask the same control plane for.
    Named(Arc<str>),
    /// The listener brings its routes.
    Inline(Arc<RouteConfiguration>),
}

//! `Listener`: of a client, where its routes come from (A27); of a server, what its connections get (A36).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::filter::HttpFilters;
use super::filter_chain::FilterChains;
use super::route_config::RouteConfiguration;
use crate::names::NameIndexSet;

/// A validated listener. One name may have either: who asks knows which it can use.
#[derive(Debug)]
pub(crate) enum Listener {
    Api(Arc<ApiListener>),
    Socket(SocketListener),
}

/// The listener of a server.
#[derive(Debug)]
pub(crate) struct SocketListener {
    /// Where the server must listen.
    pub(crate) address: Option<(IpAddr, u16)>,
    pub(crate) chains: FilterChains,
}

impl SocketListener {
    /// The names of the route configurations that its chains ask for.
    pub(crate) fn named_routes(&self) -> NameIndexSet<Arc<str>> {
        let named = self.chains.all().filter_map(|chain| match &chain.routes {
            RouteSource::Named(name) => Some(name.clone()),
            RouteSource::Inline(_) => None,
        });
        named.collect()
    }
}

/// The listener of a client.
#[derive(Clone, Debug)]
pub(crate) struct ApiListener {
    pub(crate) routes: RouteSource,
    pub(crate) limits: CallLimits,
    pub(crate) filters: Arc<HttpFilters>,
}

/// What a listener allows the calls of routes that do not say it themselves; zero: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CallLimits {
    /// The longest a call may take (A31).
    pub(crate) max_stream_duration: Option<Duration>,
    /// The longest that nothing of a call may move, in Envoy's profile.
    pub(crate) stream_idle_timeout: Option<Duration>,
}

/// Where the routes of a listener come from.
#[derive(Clone, Debug)]
pub(crate) enum RouteSource {
    /// The name of a `RouteConfiguration` to ask the same control plane for.
    Named(Arc<str>),
    /// The listener brings its routes.
    Inline(Arc<RouteConfiguration>),
}

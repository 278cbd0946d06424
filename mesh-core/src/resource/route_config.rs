//! `RouteConfiguration`: virtual hosts by domain, routes by request (A28).

use std::sync::Arc;

#[cfg(test)]
use super::domain::BadDomain;
use super::domain::DomainIndex;
use super::level::{Level, WholeConfiguration};
use super::matcher::index::RouteIndex;
use super::matcher::{RequestHead, RouteMatch};
use super::route::Route;
use crate::xds::resource_type::IgnoredField;

/// The validated and compiled routes of a target.
#[derive(Debug)]
pub(crate) struct RouteConfiguration {
    /// Empty for routes that a listener brings without a name.
    pub(crate) name: Arc<str>,
    pub(crate) virtual_hosts: Vec<Arc<VirtualHost>>,
    /// What holds for all of its virtual hosts.
    pub(crate) whole: Arc<WholeConfiguration>,
    /// What a server does not act on.
    pub(crate) of_clients: Vec<IgnoredField>,
    domains: DomainIndex,
}

/// The routes for some authorities.
#[derive(Debug)]
pub(crate) struct VirtualHost {
    pub(crate) name: Arc<str>,
    /// In the configured order; the first that matches wins.
    pub(crate) routes: Vec<Route>,
    /// What holds for all of its routes.
    pub(crate) level: Level,
    pub(crate) attempt_count: AttemptCount,
    matches: Vec<RouteMatch>,
    index: RouteIndex,
    /// The first route takes every path: most tables are this one route.
    starts_with_default: bool,
}

/// Who is told the number of a call's attempt, in `x-envoy-attempt-count`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AttemptCount {
    pub(crate) in_request: bool,
    pub(crate) in_response: bool,
}

impl RouteConfiguration {
    #[cfg(test)]
    /// Virtual hosts with the domains of each.
    pub(crate) fn new<'a, D>(
        name: impl Into<Arc<str>>,
        virtual_hosts: impl IntoIterator<Item = (D, Arc<VirtualHost>)>,
    ) -> Result<Self, BadDomain>
    where
        D: IntoIterator<Item = &'a str>,
    {
        let mut config = Self::with_domains(name, Vec::new(), DomainIndex::default());
        for (host, (domains, virtual_host)) in virtual_hosts.into_iter().enumerate() {
            domains.into_iter().try_for_each(|domain| config.domains.add(domain, host))?;
            config.virtual_hosts.push(virtual_host);
        }
        Ok(config)
    }

    /// Virtual hosts, and an index of their domains by their positions.
    pub(super) fn with_domains(
        name: impl Into<Arc<str>>,
        virtual_hosts: Vec<Arc<VirtualHost>>,
        domains: DomainIndex,
    ) -> Self {
        Self { name: name.into(), virtual_hosts, whole: Arc::default(), of_clients: Vec::new(), domains }
    }

    pub(crate) fn with_whole(mut self, whole: WholeConfiguration) -> Self {
        self.whole = Arc::new(whole);
        self
    }

    pub(super) fn with_fields_of_clients(mut self, fields: Vec<IgnoredField>) -> Self {
        self.of_clients = fields;
        self
    }

    /// The virtual host for a data plane authority: the most specific domain wins, case does not matter, a port does.
    pub(crate) fn virtual_host(&self, authority: &str) -> Option<&Arc<VirtualHost>> {
        self.virtual_host_index(authority).map(|host| &self.virtual_hosts[host])
    }

    /// Its place in `virtual_hosts`.
    pub(crate) fn virtual_host_index(&self, authority: &str) -> Option<usize> {
        self.domains.find(authority)
    }
}

impl VirtualHost {
    /// Compiles a table of routes.
    pub(crate) fn new(name: impl Into<Arc<str>>, table: Vec<(RouteMatch, Route)>) -> Self {
        // Of their own length: there may be ten thousand of them.
        let (mut matches, mut routes) = (Vec::with_capacity(table.len()), Vec::with_capacity(table.len()));
        for (request_match, route) in table {
            matches.push(request_match);
            routes.push(route);
        }
        let index = RouteIndex::new(matches.iter());
        let starts_with_default = matches.first().is_some_and(RouteMatch::is_default);
        let level = Level::default();
        let attempt_count = AttemptCount::default();
        Self { name: name.into(), routes, level, attempt_count, matches, index, starts_with_default }
    }

    pub(crate) fn with_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    pub(crate) fn with_attempt_count(mut self, attempt_count: AttemptCount) -> Self {
        self.attempt_count = attempt_count;
        self
    }

    /// The index in `routes` of the first route that the request matches. `random` gives a number below a million; it
    /// is asked once for each route that takes a share of the calls and matches otherwise.
    pub(crate) fn route(&self, head: &RequestHead<'_>, mut random: impl FnMut() -> u32) -> Option<usize> {
        if self.starts_with_default && head.path.starts_with('/') {
            return Some(0);
        }
        let path = head.bare_path();
        self.index.first(path, |route| self.matches[route].matches(path, head, &mut random))
    }
}

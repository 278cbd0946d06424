//! The filters that a call passes, and what its route does to it: resolved for each route and each of its clusters when
//! the table is built.

use std::collections::HashMap;
use std::sync::Arc;

use http::uri::Authority;
use smallvec::SmallVec;

use crate::resource::filter::descriptor::RateLimits;
use crate::resource::filter::header_mutation::HeaderMutation;
use crate::resource::filter::{FilterConfig, HttpFilter, HttpFilters, Overrides};
use crate::resource::level::{Level, WholeConfiguration};
use crate::resource::rewrite::PathRewrite;
use crate::resource::route::{ClusterWeight, Route, RouteAction};
use crate::resource::route_answer::RouteAnswer;
use crate::resource::route_config::VirtualHost;

/// What the calls of a route pass.
#[derive(Debug)]
pub(crate) struct Chain {
    /// The listener's filters in their order. Those that do nothing to these calls are left out.
    pub(crate) filters: Vec<ChainFilter>,
    /// What the route itself does, behind all filters.
    pub(crate) route: RouteSteps,
}

/// A filter in force.
#[derive(Clone, Debug)]
pub(crate) struct ChainFilter {
    /// Its name in the listener's list.
    pub(crate) name: Arc<str>,
    pub(crate) config: FilterConfig,
}

/// What a route does to its calls, in this order.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouteSteps {
    /// Of its levels, in the order in which they are made.
    pub(crate) headers: Vec<Arc<HeaderMutation>>,
    pub(crate) host: Option<Authority>,
    pub(crate) path: Option<Arc<PathRewrite>>,
    pub(crate) answer: Option<Arc<RouteAnswer>>,
}

/// The chains of a table. Most tables have none, and most others one for all routes.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    /// By route, and by the cluster that was chosen; empty if no call passes anything.
    by_route: Vec<OfRoute>,
}

type OfRoute = SmallVec<[Option<Arc<Chain>>; 1]>;

impl Chains {
    /// A control plane that is not `trusted` does not rewrite authorities (A81).
    pub(crate) fn new(filters: &HttpFilters, whole: &WholeConfiguration, host: &VirtualHost, trusted: bool) -> Self {
        let resolver = Resolver { filters, whole, host, trusted };
        let shared = resolver.chain(None, None);
        let by_route: Vec<_> = host.routes.iter().map(|route| resolver.route(route, &shared)).collect();
        let has_any = by_route.iter().flatten().any(Option::is_some);
        Self { by_route: if has_any { by_route } else { Vec::new() } }
    }

    /// Goes on with what the filters of other chains counted, by the names of routes and clusters; each with the virtual host
    /// that it is of.
    pub(crate) fn inherit(&self, host: &VirtualHost, before: &Self, host_before: &VirtualHost) {
        if self.by_route.is_empty() || before.by_route.is_empty() {
            return;
        }
        let names = host_before.routes.iter().enumerate().map(|(index, route)| (&*route.name, index));
        let known: HashMap<&str, usize> = names.collect();
        for (route, chains) in host.routes.iter().zip(&self.by_route) {
            let Some(index) = known.get(&*route.name) else { continue };
            let clusters_before = clusters(&host_before.routes[*index]);
            for (choice, chain) in chains.iter().enumerate() {
                let name = clusters(route).get(choice).map(|cluster| &cluster.name);
                let same = clusters_before.iter().position(|cluster| Some(&cluster.name) == name).unwrap_or(0);
                if let (Some(chain), Some(before)) = (chain, before.get(*index, same)) {
                    chain.inherit(before);
                }
            }
        }
    }

    /// Tells all filters that calls may pass, by their names.
    #[cfg(feature = "server")]
    pub(crate) fn each_filter<'a>(&'a self, tell: &mut dyn FnMut(&'a str, &'a FilterConfig)) {
        for filter in self.by_route.iter().flatten().flatten().flat_map(|chain| &chain.filters) {
            match &filter.config {
                FilterConfig::Composite(composite) => {
                    composite.each_filter(&mut |nested| tell(&nested.name, &nested.config));
                }
                config => tell(&filter.name, config),
            }
        }
    }

    /// The chain of calls that took `route` and its `choice`th cluster.
    pub(crate) fn get(&self, route: usize, choice: usize) -> Option<&Arc<Chain>> {
        self.by_route.get(route)?.get(choice)?.as_ref()
    }
}

struct Resolver<'a> {
    filters: &'a HttpFilters,
    whole: &'a WholeConfiguration,
    host: &'a VirtualHost,
    trusted: bool,
}

impl Resolver<'_> {
    /// `shared` is the chain of routes that say nothing themselves.
    fn route(&self, route: &Route, shared: &Option<Arc<Chain>>) -> OfRoute {
        let says_something = !route.level.is_empty()
            || route.path.is_some()
            || route.host.is_some()
            || matches!(route.action, RouteAction::Answer(_));
        let of_route = if says_something { self.chain(Some(route), None) } else { shared.clone() };
        let clusters = clusters(route);
        if clusters.is_empty() {
            return SmallVec::from_elem(of_route, 1);
        }
        let of_cluster = |cluster: &ClusterWeight| match cluster.level.is_empty() && cluster.host.is_none() {
            true => of_route.clone(),
            false => self.chain(Some(route), Some(cluster)),
        };
        clusters.iter().map(of_cluster).collect()
    }

    /// `None` if nothing is done.
    fn chain(&self, route: Option<&Route>, cluster: Option<&ClusterWeight>) -> Option<Arc<Chain>> {
        let specific = cluster.map(|cluster| &cluster.level).into_iter().chain(route.map(|route| &route.level));
        let levels: SmallVec<[&Level; 4]> = specific.chain([&self.host.level, &self.whole.level]).collect();
        let overrides: SmallVec<[&Overrides; 4]> = levels.iter().map(|level| &level.overrides).collect();
        let filters = self.filters.0.iter();
        let filters = filters.filter_map(|filter| ChainFilter::in_force(filter, &overrides));
        let of_route = route.and_then(|route| route.level.rate_limits.as_deref());
        let of_host = self.host.level.rate_limits.as_deref();
        let filters = filters.map(|filter| filter.with_rules(of_route, of_host)).collect();
        let mut headers: Vec<_> = levels.iter().filter_map(|level| level.headers.clone()).collect();
        if self.whole.most_specific_headers_win {
            // In Envoy the cluster of a weighted route comes first in either order.
            let first = cluster.and_then(|cluster| cluster.level.headers.as_ref()).map_or(0, |_| 1);
            headers[first..].reverse();
        }
        // In Envoy that of the route has the last word.
        let host =
            route.and_then(|route| route.host.as_deref()).or(cluster.and_then(|cluster| cluster.host.as_deref()));
        let chain = Chain {
            filters,
            route: RouteSteps {
                headers,
                host: host.filter(|_| self.trusted).cloned(),
                path: route.and_then(|route| route.path.clone()),
                answer: route.and_then(answer),
            },
        };
        (!chain.is_empty()).then(|| Arc::new(chain))
    }
}

/// The clusters that a route may send a call to.
fn clusters(route: &Route) -> &[ClusterWeight] {
    match &route.action {
        RouteAction::Forward(forward) => forward.clusters(),
        RouteAction::Answer(_) | RouteAction::NonForwarding | RouteAction::Unsupported(_) => &[],
    }
}

fn answer(route: &Route) -> Option<Arc<RouteAnswer>> {
    match &route.action {
        RouteAction::Answer(answer) => Some(answer.clone()),
        RouteAction::Forward(_) | RouteAction::NonForwarding | RouteAction::Unsupported(_) => None,
    }
}

impl ChainFilter {
    /// A filter that a layer has for itself.
    pub(crate) fn alone(config: FilterConfig) -> Self {
        Self { name: Arc::from(""), config }
    }

    fn of(filter: &HttpFilter) -> Self {
        Self { name: filter.name.clone(), config: filter.config.clone() }
    }

    fn in_force(filter: &HttpFilter, overrides: &[&Overrides]) -> Option<Self> {
        Some(Self { name: filter.name.clone(), config: filter.in_force(overrides)? })
    }

    /// With the rules for rate limits of its route and its virtual host.
    fn with_rules(self, route: Option<&RateLimits>, host: Option<&RateLimits>) -> Self {
        match &self.config {
            FilterConfig::LocalRateLimit(limit) => match limit.with_rules(route, host) {
                Some(limit) => Self { config: FilterConfig::LocalRateLimit(Arc::new(limit)), ..self },
                None => self,
            },
            _ => self,
        }
    }

    /// Goes on with what the filter of the same name counted.
    fn inherit(&self, before: &[Self]) {
        for before in before.iter().filter(|filter| filter.name == self.name) {
            self.config.inherit(&before.config);
        }
    }
}

impl Chain {
    /// Goes on with what the filters of the chain counted that this one takes the place of.
    pub(crate) fn inherit(&self, before: &Self) {
        self.filters.iter().for_each(|filter| filter.inherit(&before.filters));
    }

    /// The chain with these filters in the place of one.
    pub(crate) fn with(&self, place: usize, filters: &[HttpFilter]) -> Self {
        let mut all = self.filters.clone();
        all.splice(place..=place, filters.iter().map(ChainFilter::of));
        Self { filters: all, route: self.route.clone() }
    }

    /// Filters alone, for calls that no route was chosen for.
    pub(crate) fn of(filters: Vec<ChainFilter>) -> Self {
        Self { filters, route: RouteSteps::default() }
    }

    /// Whether a call that passes it is let through or refused, and is not changed.
    #[cfg(feature = "server")]
    pub(crate) fn only_decides(&self) -> bool {
        let mut filters = self.filters.iter();
        self.route.headers.is_empty() && filters.all(|filter| matches!(filter.config, FilterConfig::Rbac(_)))
    }

    fn is_empty(&self) -> bool {
        let RouteSteps { headers, host, path, answer } = &self.route;
        self.filters.is_empty() && headers.is_empty() && host.is_none() && path.is_none() && answer.is_none()
    }
}

//! The routes of one target, with the clusters they name resolved to places in the snapshot.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::chain::{Chain, Chains};
use super::demand::Demand;
use crate::error::{Error, ErrorKind};
use crate::names::NameIndexSet;
use crate::origin::Origin;
use crate::profile::Profile;
use crate::resource::filter::HttpFilters;
use crate::resource::level::WholeConfiguration;
use crate::resource::listener::{ApiListener, CallLimits};
use crate::resource::matcher::RequestHead;
use crate::resource::mirror::{MirrorCluster, MirrorPolicy};
use crate::resource::retry_policy::RetryPolicy;
use crate::resource::route::RouteAction;
use crate::resource::route_config::{RouteConfiguration, VirtualHost};

/// Why a target or a cluster cannot be used, in words for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Lowercase fragment naming the resource: "Listener `greeter` does not exist".
    pub(crate) message: Arc<str>,
    /// The resource that is at fault.
    pub(crate) resource: Arc<str>,
    /// What the reader should do.
    pub(crate) next_step: &'static str,
}

impl Problem {
    pub(crate) fn to_error(&self) -> Error {
        self.to_error_of(ErrorKind::Configuration)
    }

    pub(crate) fn to_error_of(&self, kind: ErrorKind) -> Error {
        let mut error = Error::new(kind, &*self.message).with_next_step(self.next_step);
        error.context_mut().resource = Some(self.resource.to_string());
        error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The place of a cluster that a header of each call names.
const NOWHERE: usize = usize::MAX;

/// The routes of one target: the virtual host that its authority selects.
#[derive(Debug)]
pub(crate) struct RouteTable {
    /// The route configuration the virtual host is from; for people.
    resource: Arc<str>,
    pub(crate) virtual_host: Arc<VirtualHost>,
    /// Who made the routes.
    pub(crate) origin: Origin,
    /// What the listener allows calls of routes that say nothing.
    pub(crate) limits: CallLimits,
    /// The listener's filters, and what the route configuration says of all its virtual hosts.
    filters: (Arc<HttpFilters>, Arc<WholeConfiguration>),
    chains: Chains,
    /// The clusters that calls name, if a route lets them.
    demand: Option<Arc<Demand>>,
    /// Per route, the places in the snapshot of the clusters its action names, in the action's order.
    places: Vec<SmallVec<[usize; 2]>>,
    /// Every cluster that a route names, once: first those that calls go to, then those that only copies go to.
    clusters: NameIndexSet<Arc<str>>,
    /// How many of them calls go to.
    called: usize,
    /// Those of weight above 0, by place.
    weighted: Vec<usize>,
    /// Whether the control plane may rewrite the authority of calls (A81).
    pub(crate) trusted: bool,
}

impl RouteTable {
    /// The table of `authority`, or why the route configuration has none for it.
    /// The control plane may rewrite the authority of calls if it is `trusted` (A81).
    pub(crate) fn new(
        listener: &ApiListener,
        routes: &RouteConfiguration,
        authority: &str,
        trusted: bool,
    ) -> Result<Self, Problem> {
        let virtual_host = routes.virtual_host(authority).ok_or_else(|| no_virtual_host(routes, authority))?;
        let resource = format!("RouteConfiguration `{}`", routes.name);
        let table = Self::of_virtual_host(resource, virtual_host.clone(), listener.limits);
        let table = Self { origin: Origin::Xds, ..table };
        Ok(table.with_filters(listener.filters.clone(), routes.whole.clone(), trusted))
    }

    /// The table of a virtual host made in code; `resource` says where it is from.
    pub(crate) fn of_virtual_host(
        resource: impl Into<Arc<str>>,
        virtual_host: Arc<VirtualHost>,
        limits: CallLimits,
    ) -> Self {
        let mut table = Self {
            resource: resource.into(),
            places: Vec::with_capacity(virtual_host.routes.len()),
            virtual_host,
            origin: Origin::Code,
            limits,
            filters: Default::default(),
            chains: Chains::default(),
            demand: None,
            clusters: NameIndexSet::default(),
            called: 0,
            weighted: Vec::new(),
            trusted: false,
        };
        table.resolve_clusters();
        table
    }

    fn with_filters(mut self, filters: Arc<HttpFilters>, whole: Arc<WholeConfiguration>, trusted: bool) -> Self {
        self.chains = Chains::new(&filters, &whole, &self.virtual_host, trusted);
        self.filters = (filters, whole);
        self.trusted = trusted;
        self
    }

    /// Goes on with what the filters of the table counted that this one takes the place of.
    pub(crate) fn inherit(&self, before: &Self) {
        self.chains.inherit(&self.virtual_host, &before.chains, &before.virtual_host);
    }

    /// Calls may name clusters that no route does, where a route lets them name one.
    pub(crate) fn with_demand(mut self, demand: Option<Arc<Demand>>) -> Self {
        let header = |action: &RouteAction| match action {
            RouteAction::Forward(forward) => forward.takes_headers(),
            RouteAction::Answer(_) | RouteAction::NonForwarding | RouteAction::Unsupported(_) => false,
        };
        self.demand = demand.filter(|_| self.virtual_host.routes.iter().any(|route| header(&route.action)));
        self
    }

    /// Where clusters are asked for that no route names; `None`: there are none.
    pub(crate) fn demand(&self) -> Option<&Arc<Demand>> {
        self.demand.as_ref()
    }

    fn resolve_clusters(&mut self) {
        let virtual_host = self.virtual_host.clone();
        for route in &virtual_host.routes {
            let mut places = SmallVec::new();
            if let RouteAction::Forward(forward) = &route.action {
                for choice in forward.clusters() {
                    if choice.header.is_some() {
                        places.push(NOWHERE);
                        continue;
                    }
                    let (place, _) = self.clusters.insert_full(choice.name.clone());
                    places.push(place);
                    if choice.weight > 0 {
                        self.weighted.push(place);
                    }
                }
            }
            self.places.push(places);
        }
        self.weighted.sort_unstable();
        self.weighted.dedup();
        self.called = self.clusters.len();
        for mirror in virtual_host.routes.iter().flat_map(|route| route.mirrors.iter()) {
            if let MirrorCluster::Named(name) = &mirror.cluster {
                self.clusters.insert(name.clone());
            }
        }
    }

    /// Whether the two are made of the same values.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.virtual_host, &other.virtual_host)
            && self.limits == other.limits
            && Arc::ptr_eq(&self.filters.0, &other.filters.0)
            && Arc::ptr_eq(&self.filters.1, &other.filters.1)
    }

    /// The names of the clusters, in the order of their places.
    pub(crate) fn clusters(&self) -> &NameIndexSet<Arc<str>> {
        &self.clusters
    }

    /// The names of those that calls go to, without those that only copies of calls go to.
    pub(crate) fn called(&self) -> impl Iterator<Item = &Arc<str>> {
        self.clusters.iter().take(self.called)
    }

    /// Whether calls go to this cluster, and not only copies of calls.
    pub(crate) fn calls(&self, name: &str) -> bool {
        self.place_of_called(name).is_some()
    }

    /// The place of a cluster that calls go to.
    pub(crate) fn place_of_called(&self, name: &str) -> Option<usize> {
        self.clusters.get_index_of(name).filter(|place| *place < self.called)
    }

    /// The places of the clusters that only copies of calls go to.
    pub(crate) fn only_mirrored(&self) -> std::ops::Range<usize> {
        self.called..self.clusters.len()
    }

    /// Where copies of calls on `route` go.
    pub(crate) fn mirrors(&self, route: usize) -> &Arc<[MirrorPolicy]> {
        &self.virtual_host.routes[route].mirrors
    }

    /// The places of the clusters that take calls.
    pub(crate) fn weighted(&self) -> &[usize] {
        &self.weighted
    }

    /// The place of a cluster that a route's action names as its `choice`th; there is nothing where a header names it.
    pub(crate) fn cluster_index(&self, route: usize, choice: usize) -> usize {
        self.places[route][choice]
    }

    /// The filters of a call that took `route` and the cluster that its action names as its `choice`th.
    pub(crate) fn chain(&self, route: usize, choice: usize) -> Option<&Arc<Chain>> {
        self.chains.get(route, choice)
    }

    /// How long a call on `route` may take, from now, given what the application allows (A31).
    pub(crate) fn deadline(&self, route: usize, application: Option<Duration>, profile: Profile) -> Option<Duration> {
        match &self.virtual_host.routes[route].action {
            RouteAction::Forward(forward) => {
                forward.deadline().limit(application, self.limits.max_stream_duration, profile)
            }
            RouteAction::Answer(_) | RouteAction::NonForwarding | RouteAction::Unsupported(_) => application,
        }
    }

    /// How long nothing of a call on `route` may move, as its route or the listener says.
    pub(crate) fn idle(&self, route: usize, profile: Profile) -> Option<Duration> {
        match &self.virtual_host.routes[route].action {
            RouteAction::Forward(forward) => forward.deadline().idle(self.limits.stream_idle_timeout, profile),
            RouteAction::Answer(_) | RouteAction::NonForwarding | RouteAction::Unsupported(_) => None,
        }
    }

    /// How often a call on `route` is tried; `None`: once (A44).
    pub(crate) fn retry(&self, route: usize) -> Option<&Arc<RetryPolicy>> {
        match &self.virtual_host.routes[route].action {
            RouteAction::Forward(forward) => forward.retry(),
            RouteAction::Answer(_) | RouteAction::NonForwarding | RouteAction::Unsupported(_) => None,
        }
    }

    /// The name of a route, for people.
    pub(crate) fn route_name(&self, route: usize) -> Option<Arc<str>> {
        self.virtual_host.routes.get(route).map(|route| route.name.clone())
    }

    /// No route matches a request.
    pub(crate) fn no_route(&self, head: &RequestHead<'_>) -> Error {
        let (path, host) = (head.path, &self.virtual_host.name);
        let message = format!("no route of virtual host `{host}` matches path `{path}` and the call's headers");
        self.configuration_error(message, "add a route that matches, or a default route with prefix `/`")
    }

    /// A route that takes the cluster from a header, which names none of the target's; `None`: the header is not there.
    pub(crate) fn unknown_cluster(&self, route: usize, header: &str, cluster: Option<&str>) -> Error {
        let name = &self.virtual_host.routes[route].name;
        let message = match cluster {
            Some(cluster) => {
                format!("header `{header}` names the cluster `{cluster}`, which no route of the target names")
            }
            None => {
                format!("route `{name}` takes the cluster from the header `{header}`, which the call does not have")
            }
        };
        let next_step = "name a cluster in the header";
        let mut error = self.configuration_error(message, next_step);
        error.context_mut().route = Some(name.clone());
        error
    }

    /// A route whose action is not to forward.
    pub(crate) fn unsupported(&self, route: usize, action: &str) -> Error {
        let next_step = "give the route a `route` action with `cluster` or `weighted_clusters`";
        self.bad_action(route, action, "which a client cannot take", next_step)
    }

    /// A route that answers calls itself, in a build without the layer that does it.
    pub(crate) fn unanswered(&self, route: usize, action: &str) -> Error {
        let next_step = "build with mesh-core's feature `filter`, or give the route a `route` action";
        self.bad_action(route, action, "and mesh-core's feature `filter` is off", next_step)
    }

    fn bad_action(&self, route: usize, action: &str, why: &str, next_step: &'static str) -> Error {
        let name = &self.virtual_host.routes[route].name;
        let mut error = self.configuration_error(format!("route `{name}` has the action `{action}`, {why}"), next_step);
        error.context_mut().route = Some(name.clone());
        error
    }

    fn configuration_error(&self, message: String, next_step: &'static str) -> Error {
        let mut error = Error::new(ErrorKind::Configuration, message).with_next_step(next_step);
        error.context_mut().resource = Some(self.resource.to_string());
        error
    }
}

fn no_virtual_host(routes: &RouteConfiguration, authority: &str) -> Problem {
    let name = &routes.name;
    Problem {
        message: format!("no virtual host of RouteConfiguration `{name}` has a domain for authority `{authority}`")
            .into(),
        resource: format!("RouteConfiguration `{name}`").into(),
        next_step: "add the authority to a virtual host's `domains` (a port is part of it), or set the channel's authority",
    }
}

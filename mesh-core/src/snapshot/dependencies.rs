//! What a target depends on, and when it is complete (A74).
//!
//! Listener ▸ route configuration ▸ clusters ▸ endpoints: each names the next. [`Dependencies`] follows the names,
//! says which to watch, and joins what is there to a [`Snapshot`]. A new route table is switched to only when every
//! cluster it names has a verdict; while an older table exists it serves on, and a cluster that turns out not to exist
//! holds the switch back, so that a fault of the control plane does not stop traffic. In the same way a listener or a
//! cluster that changes to name routes or endpoints that cannot be had leaves in force what was, see
//! [`Missing::Behind`]. Without an older one, the table is published with that cluster failing by name. Endpoints of clusters in use are taken over at once either way.
//!
//! It does no I/O: the caller brings what changed and a view of the store.

mod aggregate;
mod names;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use indexmap::IndexSet;
use smallvec::SmallVec;

use self::aggregate::Walk;
use self::view::{Missing, read};
pub(crate) use self::view::{Resolved, View, Watched};
use super::demand::Demand;
use super::{ClusterConfig, ClusterEntry, ClusterKey, Problem, RouteTable, Snapshot};
use crate::resource::cluster::{Cluster, Discovery, DnsEndpoints, DnsName};
use crate::resource::endpoints::Endpoints;
use crate::resource::listener::{Listener, RouteSource};
use crate::resource::route_config::RouteConfiguration;
use crate::resource::{CLUSTER, ENDPOINTS, LISTENER, ROUTE_CONFIGURATION};
use crate::xds::resource_type::ResourceType;
use crate::xds::{Change, Verdict};

/// The dependencies of one target.
#[derive(Debug)]
pub(crate) struct Dependencies {
    /// The control plane, as the source of the clusters' names.
    source: Arc<str>,
    listener: Arc<str>,
    authority: Arc<str>,
    /// Whether the control plane may rewrite the authority of calls (A81).
    trusted: bool,
    /// The table that the newest listener and routes ask for.
    wanted: Wanted,
    /// Why a newer listener or route configuration is not in use (A88's ambient error).
    ambient: Option<String>,
    /// Why newer configurations of clusters are not in use.
    held: BTreeMap<Arc<str>, Problem>,
    /// The name of the route configuration in force, if the listener names one.
    routes_in_force: Option<Arc<str>>,
    /// What was published last; its list of clusters is shared with what calls have.
    in_force: Option<Snapshot>,
    clusters: HashMap<Arc<str>, ClusterState>,
    /// From the name that EDS knows to the clusters that use it.
    users_of_endpoints: HashMap<Arc<str>, SmallVec<[Arc<str>; 1]>>,
    /// From a cluster to the aggregates, named by a route, that lead to it.
    users_of_clusters: HashMap<Arc<str>, SmallVec<[Arc<str>; 1]>>,
    /// From a DNS name to the clusters whose endpoints it has.
    users_of_names: HashMap<DnsName, SmallVec<[Arc<str>; 1]>>,
    /// Where calls ask for clusters that no route names, and those.
    demand: Option<Arc<Demand>>,
    demanded: IndexSet<Arc<str>>,
    /// Whether what is known of those changed in this step.
    demand_changed: bool,
    watched: Watched,
    /// Whether the names to watch changed in this step.
    watch_changed: bool,
    /// Whether a cluster may have lost its last user in this step.
    users_changed: bool,
}

#[derive(Debug)]
enum Wanted {
    /// Listener or routes have no verdict yet.
    Pending(String),
    Table(Arc<RouteTable>),
    Unroutable(Problem),
    /// The listener names routes that cannot be had: a table in force stays.
    Held(Problem),
}

#[derive(Debug, Default)]
struct ClusterState {
    /// The entry in use; `None` until there is a verdict.
    entry: Option<Arc<ClusterEntry>>,
    /// What the newest configuration of the cluster waits for.
    awaits: Option<String>,
    /// The name under which EDS knows the endpoints, if it is asked for them.
    endpoints: Option<Arc<str>>,
    /// Its DNS names, and what they came to.
    names: IndexSet<DnsName>,
    resolved: Option<names::Joined>,
    /// Of an aggregate that a route names, every cluster it leads to, itself included.
    members: IndexSet<Arc<str>>,
}

/// What one step of [`Dependencies`] leads to.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// Whether the names to watch changed.
    pub(crate) watch: bool,
    /// The snapshot to publish, if anything in it changed.
    pub(crate) publish: Option<Arc<Snapshot>>,
    /// What the target waits for, or why a newer configuration is held back.
    pub(crate) waiting_for: Option<String>,
    /// The clusters that calls named and on which there is a verdict, if anything of them changed.
    pub(crate) demanded: Option<Vec<Arc<ClusterEntry>>>,
}

impl Dependencies {
    pub(crate) fn new(source: Arc<str>, listener: Arc<str>, authority: Arc<str>) -> Self {
        let wanted = Wanted::Pending(format!("Listener `{listener}`"));
        let mut watched = Watched::default();
        watched.listeners.insert(listener.clone());
        Self {
            source,
            listener,
            authority,
            trusted: false,
            wanted,
            ambient: None,
            held: BTreeMap::new(),
            routes_in_force: None,
            in_force: None,
            clusters: HashMap::new(),
            users_of_endpoints: HashMap::new(),
            users_of_clusters: HashMap::new(),
            users_of_names: HashMap::new(),
            demand: None,
            demanded: IndexSet::new(),
            demand_changed: false,
            watched,
            watch_changed: false,
            users_changed: false,
        }
    }

    /// Lets the control plane rewrite the authority of calls (A81).
    pub(crate) fn trusting(mut self, trusted: bool) -> Self {
        self.trusted = trusted;
        self
    }

    /// Calls may name clusters there.
    pub(crate) fn with_demand(mut self, demand: Arc<Demand>) -> Self {
        self.demand = Some(demand);
        self
    }

    pub(crate) fn demand(&self) -> Option<&Arc<Demand>> {
        self.demand.as_ref()
    }

    /// The names to watch now.
    pub(crate) fn watched(&self) -> &Watched {
        &self.watched
    }

    /// What makes [`Self::handle_changes`] read everything, as at the start.
    pub(crate) fn everything(&self) -> Vec<Change> {
        vec![Change { resource_type: &LISTENER, name: self.listener.clone() }]
    }

    /// Takes in what changed in the store.
    pub(crate) fn handle_changes(&mut self, changes: &[Change], view: &impl View) -> Step {
        let mut touched = IndexSet::new();
        let mut routes_changed = false;
        for change in changes {
            let name = &change.name;
            match change.resource_type.type_url {
                url if url == CLUSTER.type_url => drop(touched.insert(name.clone())),
                url if url == ENDPOINTS.type_url => {
                    touched.extend(self.users_of_endpoints.get(name).into_iter().flatten().cloned())
                }
                _ => routes_changed = true,
            }
        }
        self.step(&touched, routes_changed, view)
    }

    /// Takes in new answers to DNS names.
    #[cfg_attr(not(feature = "dns"), expect(dead_code, reason = "nothing resolves names"))]
    pub(crate) fn handle_resolved(&mut self, names: &[DnsName], view: &impl View) -> Step {
        let users = names.iter().filter_map(|name| self.users_of_names.get(name));
        let touched = users.flatten().cloned().collect();
        self.step(&touched, false, view)
    }

    /// Takes in which clusters calls name that no route does.
    pub(crate) fn handle_demand(&mut self, names: Vec<Arc<str>>, view: &impl View) -> Step {
        (self.watch_changed, self.users_changed, self.demand_changed) = (false, false, true);
        self.demanded = names.into_iter().collect();
        for name in self.demanded.clone() {
            self.follow(&name);
            if !self.has_verdict(&name) {
                self.refresh_cluster(&name, view);
            }
        }
        self.forget_unused();
        Step { watch: self.watch_changed, publish: None, waiting_for: self.waiting_for(), demanded: self.demanded() }
    }

    fn demanded(&self) -> Option<Vec<Arc<ClusterEntry>>> {
        let known = |name| self.clusters.get(name)?.entry.clone();
        self.demand_changed.then(|| self.demanded.iter().filter_map(known).collect())
    }

    fn step(&mut self, touched: &IndexSet<Arc<str>>, routes_changed: bool, view: &impl View) -> Step {
        (self.watch_changed, self.users_changed, self.demand_changed) = (routes_changed, routes_changed, false);
        if routes_changed {
            self.read_routes(view);
            self.follow_clusters(view);
        }
        let entries_changed = self.refresh(touched, view);
        let switched = self.switch(routes_changed);
        if switched || self.users_changed {
            self.forget_unused();
        }
        let publish = if switched || entries_changed { self.in_force.clone().map(Arc::new) } else { None };
        let demanded = self.demanded();
        Step { watch: self.watch_changed, publish, waiting_for: self.waiting_for(), demanded }
    }

    /// Joins the clusters anew, and then the aggregates that lead to them: whether an entry in force changed.
    fn refresh(&mut self, touched: &IndexSet<Arc<str>>, view: &impl View) -> bool {
        let users = touched.iter().filter_map(|name| self.users_of_clusters.get(name)).flatten().cloned();
        let aggregates: IndexSet<Arc<str>> = users.collect();
        let mut changed = false;
        for name in touched.difference(&aggregates).chain(&aggregates) {
            if self.refresh_cluster(name, view) {
                self.demand_changed |= self.demanded.contains(name);
                changed |= self.take_over(name);
            }
        }
        changed
    }

    /// Reads listener and routes, and decides which table they ask for.
    fn read_routes(&mut self, view: &impl View) {
        let mut routes = IndexSet::new();
        let wanted = self.find_table(view, &mut routes);
        self.ambient = self.ambient_error(view, &routes);
        self.watched.routes = routes;
        self.wanted = match wanted {
            // The same virtual host as before needs no new table.
            Wanted::Table(table) => Wanted::Table(self.known_table(table)),
            other => other,
        };
    }

    fn ambient_error(&self, view: &impl View, routes: &IndexSet<Arc<str>>) -> Option<String> {
        let named = |ty: &'static ResourceType, name: &Arc<str>| {
            let state = view.get(ty, name);
            let error = state.error.filter(|_| state.verdict == Verdict::Present)?;
            Some(format!("the configuration in force stays: {} `{name}`: {error}", ty.name))
        };
        named(&LISTENER, &self.listener).or_else(|| routes.iter().find_map(|name| named(&ROUTE_CONFIGURATION, name)))
    }

    fn known_table(&self, table: Arc<RouteTable>) -> Arc<RouteTable> {
        let current = match &self.wanted {
            Wanted::Table(current) => Some(current),
            _ => None,
        };
        let known = current.into_iter().chain(self.table_in_force()).find(|known| known.is_same(&table));
        known.cloned().unwrap_or(table)
    }

    fn find_table(&self, view: &impl View, routes: &mut IndexSet<Arc<str>>) -> Wanted {
        let listener = match read::<Listener>(view, &LISTENER, &self.listener) {
            Ok(listener) => listener,
            Err(missing) => return missing.into(),
        };
        let configuration = match &listener.routes {
            RouteSource::Inline(configuration) => configuration.clone(),
            RouteSource::Named(name) => {
                routes.insert(name.clone());
                match read::<RouteConfiguration>(view, &ROUTE_CONFIGURATION, name) {
                    Ok(configuration) => configuration,
                    Err(missing) => return missing.behind(self.routes_in_force.as_ref() == Some(name)).into(),
                }
            }
        };
        match RouteTable::new(&listener, &configuration, &self.authority, self.trusted) {
            Ok(table) => {
                if let Some(before) = self.table_in_force() {
                    table.inherit(before);
                }
                Wanted::Table(Arc::new(table.with_demand(self.demand.clone())))
            }
            Err(problem) => Wanted::Unroutable(problem),
        }
    }

    /// Starts to watch the clusters that the wanted table names and that are not followed yet.
    fn follow_clusters(&mut self, view: &impl View) {
        let Wanted::Table(table) = &self.wanted else { return };
        let table = table.clone();
        for name in table.clusters() {
            self.follow(name);
            // One that was followed may have been no more than a part of an aggregate.
            if !self.has_verdict(name) {
                self.refresh_cluster(name, view);
            }
        }
    }

    fn follow(&mut self, name: &Arc<str>) {
        if !self.clusters.contains_key(name) {
            self.clusters.insert(name.clone(), ClusterState::default());
            self.watch_changed |= self.watched.clusters.insert(name.clone());
        }
    }

    /// Joins a cluster and what it depends on anew: whether its entry changed.
    fn refresh_cluster(&mut self, name: &Arc<str>, view: &impl View) -> bool {
        if !self.clusters.contains_key(name) {
            return false;
        }
        let key = self.key(name);
        let joined = self.join_cluster(name, view);
        self.state(name).awaits = None;
        self.held.remove(name);
        let entry = match joined {
            Ok(Joined::Cluster(config)) => ClusterEntry::new(key, Ok(config)),
            Ok(Joined::Aggregate(cluster, leaves)) => ClusterEntry::aggregate(key, cluster, leaves.into()),
            Ok(Joined::Part) => {
                self.state(name).entry = None;
                return false;
            }
            Err(missing) => match self.stand_in(name, missing) {
                Some(entry) => entry,
                None => return false,
            },
        };
        let state = self.state(name);
        let changed = state.entry.as_ref().is_none_or(|known| !known.is_same(&entry));
        if changed {
            state.entry = Some(Arc::new(entry));
        }
        changed
    }

    /// What is in force instead of a configuration that is not complete; `None`: what is in force now.
    fn stand_in(&mut self, name: &Arc<str>, missing: Missing) -> Option<ClusterEntry> {
        let good = self.clusters.get(name).and_then(|state| self.good_aggregate(state.entry.as_ref()?));
        match missing {
            // What is in use serves on until its successor is complete.
            Missing::Pending(what) => {
                self.state(name).awaits = Some(what);
                good
            }
            Missing::Absent(problem) | Missing::Behind(problem) if good.is_some() => {
                self.held.insert(name.clone(), problem);
                good
            }
            Missing::Behind(problem) if self.config(name).is_some() => {
                self.held.insert(name.clone(), problem);
                None
            }
            Missing::Absent(problem) | Missing::Behind(problem) => {
                Some(ClusterEntry::new(self.key(name), Err(problem)))
            }
        }
    }

    /// The usable configuration of a cluster that is in use.
    fn config(&self, name: &Arc<str>) -> Option<&ClusterConfig> {
        self.clusters.get(name)?.entry.as_ref()?.config.as_ref().ok()
    }

    /// Whether the endpoints in use are those that EDS knows under this name.
    fn uses_endpoints(&self, cluster: &Arc<str>, endpoints: &Arc<str>) -> bool {
        self.config(cluster).is_some_and(|config| match &config.cluster.discovery {
            Discovery::Eds { service_name } => service_name.as_ref().unwrap_or(cluster) == endpoints,
            Discovery::Static(_) | Discovery::Dns(_) | Discovery::Aggregate(_) => false,
        })
    }

    /// An aggregate in use, with what is new of its leaves.
    fn good_aggregate(&self, entry: &ClusterEntry) -> Option<ClusterEntry> {
        let (Ok(config), Some(leaves)) = (&entry.config, &entry.leaves) else { return None };
        let newest = |leaf: &Arc<ClusterEntry>| {
            let known = self.clusters.get(&leaf.key.name).and_then(|state| state.entry.as_ref());
            known.filter(|entry| entry.config.is_ok() && entry.leaves.is_none()).unwrap_or(leaf).clone()
        };
        let leaves = leaves.entries.iter().map(newest).collect();
        Some(ClusterEntry::aggregate(entry.key.clone(), config.cluster.clone(), leaves))
    }

    fn key(&self, name: &Arc<str>) -> ClusterKey {
        ClusterKey { source: self.source.clone(), name: name.clone() }
    }

    fn state(&mut self, name: &Arc<str>) -> &mut ClusterState {
        self.clusters.entry(name.clone()).or_default()
    }

    fn join_cluster(&mut self, name: &Arc<str>, view: &impl View) -> Result<Joined, Missing> {
        let cluster = read::<Cluster>(view, &CLUSTER, name)?;
        let (mut eds, mut names) = (None, IndexSet::new());
        match &cluster.discovery {
            Discovery::Eds { service_name } => eds = Some(service_name.as_ref().unwrap_or(name)),
            Discovery::Dns(dns) => names = dns.names().collect(),
            Discovery::Static(_) | Discovery::Aggregate(_) => {}
        }
        self.watch_endpoints(name, eds);
        self.watch_names(name, names);
        if !matches!(cluster.discovery, Discovery::Aggregate(_)) {
            self.lead_to(name, IndexSet::new());
        }
        let endpoints = match &cluster.discovery {
            Discovery::Eds { service_name } => {
                let endpoints = service_name.as_ref().unwrap_or(name);
                let in_use = self.uses_endpoints(name, endpoints);
                read(view, &ENDPOINTS, endpoints).map_err(|missing| missing.behind(in_use))?
            }
            Discovery::Static(endpoints) => endpoints.clone(),
            // Addresses in use stay when a name fails: one that fails never had any.
            Discovery::Dns(dns) => self.resolve(name, dns, view).map_err(|missing| missing.behind(false))?,
            Discovery::Aggregate(_) => return self.join_aggregate(name, cluster, view),
        };
        Ok(Joined::Cluster(ClusterConfig { cluster, endpoints }))
    }

    fn resolve(
        &mut self,
        name: &Arc<str>,
        dns: &Arc<DnsEndpoints>,
        view: &impl View,
    ) -> Result<Arc<Endpoints>, Missing> {
        let state = self.state(name);
        let joined = names::join(dns, state.resolved.take(), |name| view.resolve(name))?;
        Ok(state.resolved.insert(joined).endpoints.clone())
    }

    fn join_aggregate(&mut self, name: &Arc<str>, cluster: Arc<Cluster>, view: &impl View) -> Result<Joined, Missing> {
        if !self.is_named(name) {
            self.lead_to(name, IndexSet::new());
            return Ok(Joined::Part);
        }
        let mut walk = Walk::default();
        let walked = self.walk(name, &mut walk, view);
        let mut members = std::mem::take(&mut walk.members);
        let joined = match walked {
            Err(problem) => Err(Missing::Absent(problem)),
            Ok(()) => walk.finish(name).map(|leaves| Joined::Aggregate(cluster, leaves)),
        };
        if joined.is_err() {
            // Those that serve on are still followed.
            members.extend(self.state(name).members.iter().cloned());
        }
        self.lead_to(name, members);
        joined
    }

    /// Whether a route names the cluster, or a call.
    fn is_named(&self, name: &Arc<str>) -> bool {
        self.demanded.contains(name) || self.tables().any(|table| table.clusters().contains(name))
    }

    /// The table in force and the one that is to come.
    fn tables(&self) -> impl Iterator<Item = &Arc<RouteTable>> {
        let wanted = match &self.wanted {
            Wanted::Table(table) => Some(table),
            _ => None,
        };
        self.table_in_force().into_iter().chain(wanted)
    }

    /// Notes which clusters an aggregate leads to now.
    fn lead_to(&mut self, aggregate: &Arc<str>, members: IndexSet<Arc<str>>) {
        let before = std::mem::replace(&mut self.state(aggregate).members, members);
        let Some(now) = self.clusters.get(aggregate).map(|state| &state.members) else { return };
        for gone in before.difference(now) {
            self.users_changed = true;
            if let Some(users) = self.users_of_clusters.get_mut(gone) {
                users.retain(|user| user != aggregate);
                if users.is_empty() {
                    self.users_of_clusters.remove(gone);
                }
            }
        }
        for new in now.difference(&before) {
            self.users_of_clusters.entry(new.clone()).or_default().push(aggregate.clone());
        }
    }

    /// Watches the endpoints of a cluster under the name that EDS knows, and no other.
    fn watch_endpoints(&mut self, cluster: &Arc<str>, endpoints: Option<&Arc<str>>) {
        let state = self.state(cluster);
        if state.endpoints.as_ref() == endpoints {
            return;
        }
        if let Some(before) = std::mem::replace(&mut state.endpoints, endpoints.cloned()) {
            self.leave_endpoints(cluster, &before);
        }
        if let Some(endpoints) = endpoints {
            self.users_of_endpoints.entry(endpoints.clone()).or_default().push(cluster.clone());
            self.watch_changed |= self.watched.endpoints.insert(endpoints.clone());
        }
    }

    /// Watches the DNS names of a cluster, and no others.
    fn watch_names(&mut self, cluster: &Arc<str>, names: IndexSet<DnsName>) {
        let before = std::mem::replace(&mut self.state(cluster).names, names.clone());
        for gone in before.difference(&names) {
            let Some(users) = self.users_of_names.get_mut(gone) else { continue };
            users.retain(|user| user != cluster);
            if users.is_empty() {
                self.users_of_names.remove(gone);
                self.watch_changed |= self.watched.names.swap_remove(gone);
            }
        }
        for new in names.difference(&before) {
            self.users_of_names.entry(new.clone()).or_default().push(cluster.clone());
            self.watch_changed |= self.watched.names.insert(new.clone());
        }
    }

    fn leave_endpoints(&mut self, cluster: &Arc<str>, endpoints: &Arc<str>) {
        let Some(users) = self.users_of_endpoints.get_mut(endpoints) else { return };
        users.retain(|user| user != cluster);
        if users.is_empty() {
            self.users_of_endpoints.remove(endpoints);
            self.watch_changed |= self.watched.endpoints.swap_remove(endpoints);
        }
    }

    /// Puts a cluster's new entry in force, if the table in force names the cluster: whether it does.
    fn take_over(&mut self, name: &Arc<str>) -> bool {
        let entry = self.clusters.get(name).and_then(|state| state.entry.clone());
        let (Some(entry), Some(Snapshot { routing: Ok(table), clusters })) = (entry, &mut self.in_force) else {
            return false;
        };
        let Some(place) = table.clusters().get_index_of(name) else { return false };
        // Copies the list once for all changes of a step: calls have the one that was published.
        Arc::make_mut(clusters)[place] = entry;
        true
    }

    /// Puts in force what the newest routes ask for, if that is due: whether it was.
    fn switch(&mut self, routes_changed: bool) -> bool {
        let next = match &self.wanted {
            Wanted::Held(_) if self.table_in_force().is_some() => None,
            Wanted::Unroutable(problem) | Wanted::Held(problem) if routes_changed => {
                Some(Snapshot { routing: Err(problem.clone()), clusters: Arc::new([]) })
            }
            Wanted::Table(table) if !self.is_in_force(table) && self.may_switch(table) => self.join(table),
            _ => None,
        };
        let switched = next.is_some();
        self.in_force = next.or(self.in_force.take());
        if let Wanted::Table(table) = &self.wanted
            && self.is_in_force(table)
        {
            self.routes_in_force = self.watched.routes.first().cloned();
        }
        switched
    }

    fn table_in_force(&self) -> Option<&Arc<RouteTable>> {
        self.in_force.as_ref()?.routing.as_ref().ok()
    }

    fn is_in_force(&self, table: &Arc<RouteTable>) -> bool {
        self.table_in_force().is_some_and(|in_force| Arc::ptr_eq(in_force, table))
    }

    /// Whether the table can be put in force: all its clusters have a verdict, and none that is new to a mesh that
    /// already serves turned out to be unusable.
    fn may_switch(&self, table: &RouteTable) -> bool {
        match self.table_in_force() {
            Some(in_force) => self.unusable(table).all(|name| in_force.calls(name) && self.has_verdict(name)),
            None => table.called().all(|name| self.has_verdict(name)),
        }
    }

    fn has_verdict(&self, name: &Arc<str>) -> bool {
        self.clusters.get(name).is_some_and(|state| state.entry.is_some())
    }

    /// The clusters that a table sends calls to and that have no usable configuration.
    fn unusable<'a>(&'a self, table: &'a RouteTable) -> impl Iterator<Item = &'a Arc<str>> {
        table.called().filter(|name| {
            let entry = self.clusters.get(*name).and_then(|state| state.entry.as_ref());
            entry.is_none_or(|entry| entry.config.is_err())
        })
    }

    /// A table and the entries of its clusters, if each that calls go to has one.
    fn join(&self, table: &Arc<RouteTable>) -> Option<Snapshot> {
        let entries = table.clusters().iter().map(|name| {
            let known = self.clusters.get(name).and_then(|state| state.entry.clone());
            known.or_else(|| (!table.calls(name)).then(|| self.awaited(name)))
        });
        Some(Snapshot { routing: Ok(table.clone()), clusters: entries.collect::<Option<_>>()? })
    }

    /// What stands for a cluster that copies of calls go to, as long as there is no verdict on it: no call waits for it.
    fn awaited(&self, name: &Arc<str>) -> Arc<ClusterEntry> {
        let resource = format!("Cluster `{name}`");
        let problem = Problem {
            message: format!("{resource} is not there yet").into(),
            resource: resource.into(),
            next_step: "wait, or check that the control plane serves it to this node",
        };
        Arc::new(ClusterEntry::new(self.key(name), Err(problem)))
    }

    /// Stops following the clusters that neither the wanted table nor the one in force leads to.
    fn forget_unused(&mut self) {
        // The routes that are awaited may name the same clusters.
        if matches!(self.wanted, Wanted::Pending(_)) {
            return;
        }
        let named = self.tables().flat_map(|table| table.clusters()).chain(&self.demanded);
        let is_named: IndexSet<&Arc<str>> = named.collect();
        let members = is_named.iter().filter_map(|name| self.clusters.get(*name)).flat_map(|state| &state.members);
        let used: IndexSet<&Arc<str>> = is_named.iter().copied().chain(members).collect();
        let unused: Vec<Arc<str>> = self.clusters.keys().filter(|name| !used.contains(name)).cloned().collect();
        for name in &unused {
            self.watch_endpoints(name, None);
            self.watch_names(name, IndexSet::new());
            self.lead_to(name, IndexSet::new());
            self.clusters.remove(name);
            self.held.remove(name);
            self.watch_changed |= self.watched.clusters.swap_remove(name);
        }
    }

    fn waiting_for(&self) -> Option<String> {
        match &self.wanted {
            Wanted::Pending(what) => Some(what.clone()),
            Wanted::Unroutable(_) => None,
            Wanted::Held(problem) => self.table_in_force().map(|_| format!("the routes in force stay: {problem}")),
            Wanted::Table(table) if self.is_in_force(table) => self.ambient.clone().or_else(|| self.why_held()),
            Wanted::Table(table) => self.unusable(table).next().map(|name| self.why_unusable(name)),
        }
    }

    fn why_held(&self) -> Option<String> {
        let (_, problem) = self.held.first_key_value()?;
        Some(format!("the configuration in force stays: {problem}"))
    }

    fn why_unusable(&self, name: &Arc<str>) -> String {
        let state = self.clusters.get(name);
        match state.and_then(|state| state.entry.as_ref()).map(|entry| &entry.config) {
            Some(Err(problem)) => format!("the routes in force stay: {problem}"),
            _ => state.and_then(|state| state.awaits.clone()).unwrap_or_else(|| format!("Cluster `{name}`")),
        }
    }
}

/// What a cluster and its dependencies came to.
enum Joined {
    Cluster(ClusterConfig),
    Aggregate(Arc<Cluster>, Vec<Arc<ClusterEntry>>),
    /// An aggregate that no route names: those that lead to it join its leaves.
    Part,
}

impl From<Missing> for Wanted {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Pending(what) => Wanted::Pending(what),
            Missing::Absent(problem) => Wanted::Unroutable(problem),
            Missing::Behind(problem) => Wanted::Held(problem),
        }
    }
}

//! What a target depends on, and when it is complete (A74).
//!
//! Listener ▸ route configuration ▸ clusters ▸ endpoints: each names the next. [`Dependencies`] follows the names,
//! says which to watch, and joins what is there to a [`Snapshot`]. A new route table is switched to only when every
//! cluster it names has a verdict; while an older table exists it serves on, and a cluster that turns out not to exist
//! holds the switch back, so that a fault of the control plane does not stop traffic. Without an older one, the table
//! is published with that cluster failing by name. Endpoints of clusters in use are taken over at once either way.
//!
//! It does no I/O: the caller brings what changed and a view of the store.

use std::collections::HashMap;
use std::sync::Arc;

use indexmap::IndexSet;
use smallvec::SmallVec;

use super::{ClusterConfig, ClusterEntry, ClusterKey, Problem, RouteTable, Snapshot};
use crate::resource::cluster::Cluster;
use crate::resource::endpoints::Endpoints;
use crate::resource::listener::{Listener, RouteSource};
use crate::resource::route_config::RouteConfiguration;
use crate::resource::{CLUSTER, ENDPOINTS, LISTENER, ROUTE_CONFIGURATION};
use crate::xds::resource_type::ResourceType;
use crate::xds::{Change, ResourceState, Subscriber, Verdict};

impl Watched {
    /// Watches these names and no others.
    pub(crate) fn apply(&self, subscriber: &mut Subscriber) {
        subscriber.watch(&[
            (&LISTENER, &self.listeners),
            (&ROUTE_CONFIGURATION, &self.routes),
            (&CLUSTER, &self.clusters),
            (&ENDPOINTS, &self.endpoints),
        ]);
    }
}

impl View for Subscriber {
    fn get(&self, resource_type: &'static ResourceType, name: &str) -> ResourceState {
        Subscriber::get(self, resource_type, name)
    }
}

/// What the store knows, as far as a target needs it.
pub(crate) trait View {
    fn get(&self, resource_type: &'static ResourceType, name: &str) -> ResourceState;
}

/// The dependencies of one target.
#[derive(Debug)]
pub(crate) struct Dependencies {
    /// The control plane, as the source of the clusters' names.
    source: Arc<str>,
    listener: Arc<str>,
    authority: Arc<str>,
    /// The table that the newest listener and routes ask for.
    wanted: Wanted,
    /// Why a newer listener or route configuration is not in use (A88's ambient error).
    ambient: Option<String>,
    /// What was published last; its list of clusters is shared with what calls have.
    in_force: Option<Snapshot>,
    clusters: HashMap<Arc<str>, ClusterState>,
    /// From the name that EDS knows to the clusters that use it.
    users_of_endpoints: HashMap<Arc<str>, SmallVec<[Arc<str>; 1]>>,
    watched: Watched,
}

#[derive(Debug)]
enum Wanted {
    /// Listener or routes have no verdict yet.
    Pending(String),
    Table(Arc<RouteTable>),
    Unroutable(Problem),
}

#[derive(Debug, Default)]
struct ClusterState {
    /// The entry in use; `None` until there is a verdict.
    entry: Option<Arc<ClusterEntry>>,
    /// The name under which EDS knows the endpoints, once the cluster is known.
    endpoints: Option<Arc<str>>,
}

/// The names a target watches, by type.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Watched {
    pub(crate) listeners: IndexSet<Arc<str>>,
    pub(crate) routes: IndexSet<Arc<str>>,
    pub(crate) clusters: IndexSet<Arc<str>>,
    pub(crate) endpoints: IndexSet<Arc<str>>,
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
            wanted,
            ambient: None,
            in_force: None,
            clusters: HashMap::new(),
            users_of_endpoints: HashMap::new(),
            watched,
        }
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
        let mut step = Step::default();
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
        if routes_changed {
            self.read_routes(view);
            self.follow_clusters(view);
            step.watch = true;
        }
        let mut entries_changed = false;
        for name in touched {
            let (entry, endpoints) = self.refresh_cluster(&name, view);
            entries_changed |= entry && self.take_over(&name);
            step.watch |= endpoints;
        }
        let switched = self.switch(routes_changed);
        if switched || routes_changed {
            step.watch |= self.forget_unused();
        }
        if switched || entries_changed {
            step.publish = self.in_force.clone().map(Arc::new);
        }
        step.waiting_for = self.waiting_for();
        step
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
                    Err(missing) => return missing.into(),
                }
            }
        };
        match RouteTable::new(&listener, &configuration, &self.authority) {
            Ok(table) => Wanted::Table(Arc::new(table)),
            Err(problem) => Wanted::Unroutable(problem),
        }
    }

    /// Starts to watch the clusters that the wanted table names and that are not followed yet.
    fn follow_clusters(&mut self, view: &impl View) {
        let Wanted::Table(table) = &self.wanted else { return };
        let table = table.clone();
        for name in table.clusters() {
            if !self.clusters.contains_key(name) {
                self.clusters.insert(name.clone(), ClusterState::default());
                self.watched.clusters.insert(name.clone());
                self.refresh_cluster(name, view);
            }
        }
    }

    /// Joins a cluster and its endpoints anew: whether its entry changed, and whether the names to watch did.
    fn refresh_cluster(&mut self, name: &Arc<str>, view: &impl View) -> (bool, bool) {
        if !self.clusters.contains_key(name) {
            return (false, false);
        }
        let mut watch_changed = false;
        let config = match read::<Cluster>(view, &CLUSTER, name) {
            Err(Missing::Pending { .. }) => return (false, false),
            Err(Missing::Absent(problem)) => Err(problem),
            Ok(cluster) => {
                let endpoints = cluster.eds_service_name.clone().unwrap_or_else(|| name.clone());
                watch_changed = self.watch_endpoints(name, &endpoints);
                match read::<Endpoints>(view, &ENDPOINTS, &endpoints) {
                    Ok(endpoints) => Ok(ClusterConfig { cluster, endpoints }),
                    // What is in use serves on until its successor is complete.
                    Err(Missing::Pending { .. }) => return (false, watch_changed),
                    Err(Missing::Absent(problem)) => Err(problem),
                }
            }
        };
        let key = ClusterKey { source: self.source.clone(), name: name.clone() };
        let Some(state) = self.clusters.get_mut(name) else { return (false, watch_changed) };
        if state.entry.as_ref().is_some_and(|entry| is_same(&entry.config, &config)) {
            return (false, watch_changed);
        }
        state.entry = Some(Arc::new(ClusterEntry::new(key, config)));
        (true, watch_changed)
    }

    fn watch_endpoints(&mut self, cluster: &Arc<str>, endpoints: &Arc<str>) -> bool {
        let Some(state) = self.clusters.get_mut(cluster) else { return false };
        if state.endpoints.as_ref() == Some(endpoints) {
            return false;
        }
        let before = state.endpoints.replace(endpoints.clone());
        if let Some(before) = before {
            self.leave_endpoints(cluster, &before);
        }
        self.users_of_endpoints.entry(endpoints.clone()).or_default().push(cluster.clone());
        self.watched.endpoints.insert(endpoints.clone())
    }

    fn leave_endpoints(&mut self, cluster: &Arc<str>, endpoints: &Arc<str>) {
        let Some(users) = self.users_of_endpoints.get_mut(endpoints) else { return };
        users.retain(|user| user != cluster);
        if users.is_empty() {
            self.users_of_endpoints.remove(endpoints);
            self.watched.endpoints.swap_remove(endpoints);
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
            Wanted::Unroutable(problem) if routes_changed => {
                Some(Snapshot { routing: Err(problem.clone()), clusters: Arc::new([]) })
            }
            Wanted::Table(table) if !self.is_in_force(table) && self.may_switch(table) => self.join(table),
            _ => None,
        };
        let switched = next.is_some();
        self.in_force = next.or(self.in_force.take());
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
            Some(in_force) => {
                self.unusable(table).all(|name| in_force.clusters().contains(name) && self.has_verdict(name))
            }
            None => table.clusters().iter().all(|name| self.has_verdict(name)),
        }
    }

    fn has_verdict(&self, name: &Arc<str>) -> bool {
        self.clusters.get(name).is_some_and(|state| state.entry.is_some())
    }

    /// The clusters of a table that have no usable configuration.
    fn unusable<'a>(&'a self, table: &'a RouteTable) -> impl Iterator<Item = &'a Arc<str>> {
        table.clusters().iter().filter(|name| {
            let entry = self.clusters.get(*name).and_then(|state| state.entry.as_ref());
            entry.is_none_or(|entry| entry.config.is_err())
        })
    }

    /// A table and the entries of its clusters, if each has one.
    fn join(&self, table: &Arc<RouteTable>) -> Option<Snapshot> {
        let entries = table.clusters().iter().map(|name| self.clusters.get(name)?.entry.clone());
        Some(Snapshot { routing: Ok(table.clone()), clusters: entries.collect::<Option<_>>()? })
    }

    /// Stops following the clusters that neither the wanted table nor the one in force names.
    fn forget_unused(&mut self) -> bool {
        let wanted = match &self.wanted {
            Wanted::Table(table) => Some(table),
            // The routes that are awaited may name the same clusters.
            Wanted::Pending(_) => return false,
            Wanted::Unroutable(_) => None,
        };
        let tables: Vec<&Arc<RouteTable>> = self.table_in_force().into_iter().chain(wanted).collect();
        let is_unused = |name: &&Arc<str>| !tables.iter().any(|table| table.clusters().contains(*name));
        let unused: Vec<Arc<str>> = self.clusters.keys().filter(is_unused).cloned().collect();
        for name in &unused {
            if let Some(endpoints) = self.clusters.remove(name).and_then(|state| state.endpoints) {
                self.leave_endpoints(name, &endpoints);
            }
        }
        self.watched.clusters.retain(|name| self.clusters.contains_key(name));
        !unused.is_empty()
    }

    fn waiting_for(&self) -> Option<String> {
        match &self.wanted {
            Wanted::Pending(what) => Some(what.clone()),
            Wanted::Unroutable(_) => None,
            Wanted::Table(table) if self.is_in_force(table) => self.ambient.clone(),
            Wanted::Table(table) => self.unusable(table).next().map(|name| self.why_unusable(name)),
        }
    }

    fn why_unusable(&self, name: &Arc<str>) -> String {
        let state = self.clusters.get(name);
        match state.and_then(|state| state.entry.as_ref()).map(|entry| &entry.config) {
            Some(Err(problem)) => format!("the routes in force stay: {problem}"),
            _ => match state.and_then(|state| state.endpoints.as_ref()) {
                Some(endpoints) => format!("ClusterLoadAssignment `{endpoints}`"),
                None => format!("Cluster `{name}`"),
            },
        }
    }
}

/// Why a resource cannot be used.
enum Missing<'a> {
    Pending { resource_type: &'static ResourceType, name: &'a str },
    Absent(Problem),
}

impl From<Missing<'_>> for Wanted {
    fn from(missing: Missing<'_>) -> Self {
        match missing {
            Missing::Pending { resource_type, name } => Wanted::Pending(described(resource_type, name)),
            Missing::Absent(problem) => Wanted::Unroutable(problem),
        }
    }
}

/// A resource for people: "Listener `greeter`".
fn described(resource_type: &ResourceType, name: &str) -> String {
    format!("{} `{name}`", resource_type.name)
}

fn read<'a, T: std::any::Any + Send + Sync>(
    view: &impl View,
    resource_type: &'static ResourceType,
    name: &'a str,
) -> Result<Arc<T>, Missing<'a>> {
    let state = view.get(resource_type, name);
    if let Some(value) = state.value::<T>() {
        return Ok(value);
    }
    let (what, next_step) = match state.verdict {
        Verdict::Pending | Verdict::Present => return Err(Missing::Pending { resource_type, name }),
        Verdict::DoesNotExist => (
            state.error.map_or_else(|| "does not exist".to_owned(), |reason| format!("does not exist: {reason}")),
            "check the name, and that the control plane serves it to this node",
        ),
        Verdict::Refused(reason) => {
            (format!("cannot be had: {reason}"), "ask the control plane's operator why it does not send the resource")
        }
        Verdict::Invalid(reason) => (
            format!("was rejected: {reason}"),
            "correct the field that is named; the control plane was told the same (NACK)",
        ),
    };
    let resource = described(resource_type, name);
    Err(Missing::Absent(Problem { message: format!("{resource} {what}").into(), resource: resource.into(), next_step }))
}

/// Whether two configurations of a cluster are the same values, not only alike.
fn is_same(a: &Result<ClusterConfig, Problem>, b: &Result<ClusterConfig, Problem>) -> bool {
    match (a, b) {
        (Ok(a), Ok(b)) => Arc::ptr_eq(&a.cluster, &b.cluster) && Arc::ptr_eq(&a.endpoints, &b.endpoints),
        (Err(a), Err(b)) => a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests;

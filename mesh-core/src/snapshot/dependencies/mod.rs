//! What a target depends on, and when it is complete (A74).
//!
//! Listener ▸ route configuration ▸ clusters ▸ endpoints: each names the next. [`Dependencies`] follows the names,
//! says which to watch, and joins what is there to a [`Snapshot`]. A new route table is switched to only when every
//! cluster it names has a verdict; while an older table exists it serves on, and a cluster that turns out not to exist
//! holds the switch back, so that a fault of the control plane does not stop traffic. In the same way a listener or a
//! cluster that changes to name routes or endpoints that cannot be had leaves in force what was, see
//! [`Missing::Behind`](view::Missing::Behind). Whatever serves on is watched and follows its own changes until the switch.
//! Without an older one, the table is published with that cluster failing by name. Endpoints of clusters in use are taken
//! over at once either way.
//!
//! It does no I/O: the caller brings what changed and a view of the store.

mod aggregate;
mod clusters;
mod names;
mod needs;
mod routes;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::clusters::ClusterState;
use self::needs::Users;
use self::routes::Routes;
pub(crate) use self::view::{Missing, Resolved, View, Watched, is_ready, value_of};
use super::demand::Demand;
use super::{ClusterEntry, Problem, Snapshot};
use crate::names::{NameIndexSet, NameMap};
use crate::resource::cluster::DnsName;
use crate::resource::security::MaterialSource;
use crate::resource::{CLUSTER, ENDPOINTS, LISTENER};
use crate::xds::Change;

/// The dependencies of one target.
#[derive(Debug)]
pub(crate) struct Dependencies {
    /// The control plane, as the source of the clusters' names.
    source: Arc<str>,
    listener: Arc<str>,
    authority: Arc<str>,
    /// Whether the control plane may rewrite the authority of calls (A81).
    trusted: bool,
    routes: Routes,
    /// What was published last; its list of clusters is shared with what calls have.
    in_force: Option<Snapshot>,
    clusters: NameMap<Arc<str>, ClusterState>,
    /// Why newer configurations of clusters are not in use.
    held: BTreeMap<Arc<str>, Problem>,
    users: Users,
    /// Where calls ask for clusters that no route names, and those.
    demand: Option<Arc<Demand>>,
    demanded: NameIndexSet<Arc<str>>,
    /// Whether what is known of those changed in this step.
    demand_changed: bool,
    watched: Watched,
    /// Whether the names to watch changed in this step.
    watch_changed: bool,
    /// Whether a cluster may have lost its last user in this step.
    users_changed: bool,
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
        let mut watched = Watched::default();
        watched.listeners.insert(listener.clone());
        Self {
            routes: Routes::awaiting(&listener),
            source,
            listener,
            authority,
            trusted: false,
            in_force: None,
            clusters: NameMap::default(),
            held: BTreeMap::new(),
            users: Users::default(),
            demand: None,
            demanded: NameIndexSet::default(),
            demand_changed: false,
            watched,
            watch_changed: false,
            users_changed: false,
        }
    }

    /// Those of no target, but of the clusters that are asked for there.
    #[cfg(feature = "jwt")]
    pub(crate) fn of_demand(source: Arc<str>, demand: Arc<Demand>) -> Self {
        let mut this = Self::new(source, Arc::from(""), Arc::from("")).with_demand(demand);
        this.watched.listeners.clear();
        this
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
        let listeners = self.watched.listeners.iter();
        listeners.map(|name| Change { resource_type: &LISTENER, name: name.clone() }).collect()
    }

    /// Takes in what changed in the store.
    pub(crate) fn handle_changes(&mut self, changes: &[Change], view: &impl View) -> Step {
        let mut touched = NameIndexSet::default();
        let mut routes_changed = false;
        for change in changes {
            let name = &change.name;
            match change.resource_type.type_url {
                url if url == CLUSTER.type_url => drop(touched.insert(name.clone())),
                url if url == ENDPOINTS.type_url => touched.extend(self.users.of_endpoints(name).cloned()),
                _ => routes_changed = true,
            }
        }
        self.step(&touched, routes_changed, view)
    }

    /// Takes in new answers to DNS names.
    #[cfg_attr(not(feature = "dns"), expect(dead_code, reason = "nothing resolves names"))]
    pub(crate) fn handle_resolved(&mut self, names: &[DnsName], view: &impl View) -> Step {
        let touched = names.iter().flat_map(|name| self.users.of_name(name)).cloned().collect();
        self.step(&touched, false, view)
    }

    /// Takes in certificates and roots that came, or cannot be had.
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "nothing is secured"))]
    pub(crate) fn handle_material(&mut self, sources: &[MaterialSource], view: &impl View) -> Step {
        let touched = sources.iter().flat_map(|source| self.users.of_source(source)).cloned().collect();
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

    fn step(&mut self, touched: &NameIndexSet<Arc<str>>, routes_changed: bool, view: &impl View) -> Step {
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
    fn refresh(&mut self, touched: &NameIndexSet<Arc<str>>, view: &impl View) -> bool {
        let users = touched.iter().flat_map(|name| self.users.of_cluster(name));
        let aggregates: NameIndexSet<Arc<str>> = users.cloned().collect();
        let mut changed = false;
        for name in touched.difference(&aggregates).chain(&aggregates) {
            if self.refresh_cluster(name, view) {
                self.demand_changed |= self.demanded.contains(name);
                changed |= self.take_over(name);
            }
        }
        changed
    }
}

//! Which routes are in force: those that the newest listener asks for, once every cluster they name has a verdict, and the
//! older ones until then.

use std::sync::Arc;

use super::Dependencies;
use super::view::{Missing, View, read};
use crate::names::NameIndexSet;
use crate::resource::listener::{ApiListener, Listener, RouteSource};
use crate::resource::route_config::RouteConfiguration;
use crate::resource::{LISTENER, ROUTE_CONFIGURATION};
use crate::snapshot::{ClusterEntry, Problem, RouteTable, Snapshot};
use crate::xds::Verdict;
use crate::xds::resource_type::ResourceType;

/// The routes of a target: what the newest resources ask for, and what serves meanwhile.
#[derive(Debug)]
pub(super) struct Routes {
    newest: Wanted,
    /// What the listener in force asks for by now, while the newest one names other routes.
    older: Option<Plan>,
    /// What the table in force was made of.
    in_force: Option<Plan>,
    /// Why a newer listener or route configuration is not in use (A88's ambient error).
    ambient: Option<String>,
}

/// What the newest listener and routes ask for.
#[derive(Debug)]
enum Wanted {
    /// Listener or routes have no verdict yet.
    Pending(String),
    Table(Plan),
    Unroutable(Problem),
    /// The listener names routes that cannot be had: a table in force stays.
    Held(Problem),
}

/// A route table, and what it is made of.
#[derive(Clone, Debug)]
struct Plan {
    table: Arc<RouteTable>,
    listener: Arc<ApiListener>,
    /// The name of the route configuration, unless the listener carries it.
    named: Option<Arc<str>>,
}

impl Routes {
    pub(super) fn awaiting(listener: &str) -> Self {
        let newest = Wanted::Pending(format!("Listener `{listener}`"));
        Self { newest, older: None, in_force: None, ambient: None }
    }

    /// The tables that may be in force soon; the first is preferred.
    fn plans(&self) -> impl Iterator<Item = &Plan> {
        let newest = match &self.newest {
            Wanted::Table(plan) => Some(plan),
            Wanted::Pending(_) | Wanted::Unroutable(_) | Wanted::Held(_) => None,
        };
        newest.into_iter().chain(&self.older)
    }
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

impl Dependencies {
    /// Reads listener and routes, and decides which tables they ask for.
    pub(super) fn read_routes(&mut self, view: &impl View) {
        let mut named = NameIndexSet::default();
        let newest = self.newest_plan(view, &mut named).unwrap_or_else(Wanted::from);
        let older = self.older_plan(&newest, view, &mut named);
        self.routes.ambient = self.ambient_error(view, &named);
        self.watched.routes = named;
        (self.routes.newest, self.routes.older) = (newest, older);
    }

    fn newest_plan(&self, view: &impl View, named: &mut NameIndexSet<Arc<str>>) -> Result<Wanted, Missing> {
        let listener = read::<Listener>(view, &LISTENER, &self.listener)?;
        let Listener::Api(listener) = &*listener else { return Err(self.no_api_listener()) };
        let (configuration, name) = match &listener.routes {
            RouteSource::Inline(configuration) => (configuration.clone(), None),
            RouteSource::Named(name) => {
                named.insert(name.clone());
                let in_force = self.routes.in_force.as_ref().is_some_and(|plan| plan.named.as_ref() == Some(name));
                let read = read::<RouteConfiguration>(view, &ROUTE_CONFIGURATION, name);
                (read.map_err(|missing| missing.behind(in_force))?, Some(name.clone()))
            }
        };
        Ok(self.plan(listener.clone(), &configuration, name).map_or_else(Wanted::Unroutable, Wanted::Table))
    }

    /// The listener is one of a server: it takes no good one's place.
    fn no_api_listener(&self) -> Missing {
        let resource = format!("Listener `{}`", self.listener);
        Missing::Behind(Problem {
            message: format!("{resource} is for a server: it has no `api_listener`").into(),
            resource: resource.into(),
            next_step: "have the control plane send a client's listener (from Istio, the node's metadata must have \
                        GENERATOR: grpc)",
        })
    }

    /// The listener in force goes by its routes, as they are by now, until those that the newest one names are in force.
    fn older_plan(&self, newest: &Wanted, view: &impl View, named: &mut NameIndexSet<Arc<str>>) -> Option<Plan> {
        let Plan { listener, named: name, .. } = self.routes.in_force.as_ref()?;
        let is_superseded = match newest {
            Wanted::Unroutable(_) => true,
            Wanted::Table(plan) => self.is_in_force(&plan.table),
            Wanted::Pending(_) | Wanted::Held(_) => false,
        };
        let name = name.as_ref().filter(|name| !is_superseded && named.insert(Arc::clone(name)))?;
        let configuration = read::<RouteConfiguration>(view, &ROUTE_CONFIGURATION, name).ok()?;
        self.plan(listener.clone(), &configuration, Some(name.clone())).ok()
    }

    fn plan(
        &self,
        listener: Arc<ApiListener>,
        configuration: &RouteConfiguration,
        named: Option<Arc<str>>,
    ) -> Result<Plan, Problem> {
        let table = RouteTable::new(&listener, configuration, &self.authority, self.trusted)?;
        // The same virtual host as before needs no new table.
        let mut known = self.tables().filter(|known| known.is_same(&table));
        let table = match known.next() {
            Some(known) => known.clone(),
            None => {
                if let Some(before) = self.table_in_force() {
                    table.inherit(before);
                }
                Arc::new(table.with_demand(self.demand.clone()))
            }
        };
        Ok(Plan { table, listener, named })
    }

    fn ambient_error(&self, view: &impl View, named: &NameIndexSet<Arc<str>>) -> Option<String> {
        let error = |ty: &'static ResourceType, name: &Arc<str>| {
            let state = view.get(ty, name);
            let error = state.error.filter(|_| state.verdict == Verdict::Present)?;
            Some(format!("the configuration in force stays: {} `{name}`: {error}", ty.name))
        };
        error(&LISTENER, &self.listener).or_else(|| named.iter().find_map(|name| error(&ROUTE_CONFIGURATION, name)))
    }

    /// Starts to watch the clusters that the tables to come name and that are not followed yet.
    pub(super) fn follow_clusters(&mut self, view: &impl View) {
        let tables: Vec<_> = self.routes.plans().map(|plan| plan.table.clone()).collect();
        for name in tables.iter().flat_map(|table| table.clusters()) {
            self.follow(name);
            // One that was followed may have been no more than a part of an aggregate.
            if !self.has_verdict(name) {
                self.refresh_cluster(name, view);
            }
        }
    }

    /// Puts in force what the newest routes ask for, or else what the older ones do, if that is due: whether anything was.
    pub(super) fn switch(&mut self, routes_changed: bool) -> bool {
        let next = self.next(routes_changed);
        let switched = next.is_some();
        self.in_force = next.or(self.in_force.take());
        let plan = self.routes.plans().find(|plan| self.is_in_force(&plan.table)).cloned();
        self.routes.in_force = plan.or(self.routes.in_force.take()).filter(|_| self.table_in_force().is_some());
        self.leave_older();
        switched
    }

    /// Once the newest routes are in force, the older ones are watched no more.
    fn leave_older(&mut self) {
        let Wanted::Table(newest) = &self.routes.newest else { return };
        if self.is_in_force(&newest.table) {
            let before = self.watched.routes.len();
            self.watched.routes.retain(|name| newest.named.as_ref() == Some(name));
            self.watch_changed |= self.watched.routes.len() != before;
            self.routes.older = None;
        }
    }

    fn next(&self, routes_changed: bool) -> Option<Snapshot> {
        match &self.routes.newest {
            Wanted::Unroutable(problem) if routes_changed => return Some(unroutable(problem)),
            Wanted::Held(problem) if routes_changed && self.table_in_force().is_none() => {
                return Some(unroutable(problem));
            }
            _ => {}
        }
        let mut plans = self.routes.plans().map(|plan| &plan.table);
        let due = plans.find(|table| self.is_in_force(table) || self.may_switch(table))?;
        if self.is_in_force(due) { None } else { self.join(due) }
    }

    pub(super) fn table_in_force(&self) -> Option<&Arc<RouteTable>> {
        self.in_force.as_ref()?.routing.as_ref().ok()
    }

    fn is_in_force(&self, table: &Arc<RouteTable>) -> bool {
        self.table_in_force().is_some_and(|in_force| Arc::ptr_eq(in_force, table))
    }

    /// The table in force and those that are to come.
    pub(super) fn tables(&self) -> impl Iterator<Item = &Arc<RouteTable>> {
        self.table_in_force().into_iter().chain(self.routes.plans().map(|plan| &plan.table))
    }

    pub(super) fn routes_are_pending(&self) -> bool {
        matches!(self.routes.newest, Wanted::Pending(_))
    }

    /// Whether the table can be put in force: all its clusters have a verdict, and none that is new to a mesh that
    /// already serves turned out to be unusable.
    fn may_switch(&self, table: &RouteTable) -> bool {
        match self.table_in_force() {
            Some(in_force) => self.unusable(table).all(|name| in_force.calls(name) && self.has_verdict(name)),
            None => table.called().all(|name| self.has_verdict(name)),
        }
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

    /// What the target waits for, or why a newer configuration is held back.
    pub(super) fn waiting_for(&self) -> Option<String> {
        match &self.routes.newest {
            Wanted::Pending(what) => Some(what.clone()),
            Wanted::Unroutable(_) => None,
            Wanted::Held(problem) => self.table_in_force().map(|_| format!("the routes in force stay: {problem}")),
            Wanted::Table(plan) if self.is_in_force(&plan.table) => {
                self.routes.ambient.clone().or_else(|| self.why_held())
            }
            Wanted::Table(plan) => self.unusable(&plan.table).next().map(|name| self.why_unusable(name)),
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

fn unroutable(problem: &Problem) -> Snapshot {
    Snapshot { routing: Err(problem.clone()), clusters: Arc::new([]) }
}

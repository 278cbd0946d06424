//! Clusters joined with their endpoints. One that changes serves on as it was until all is there that it names now.

use std::sync::Arc;

use super::aggregate::Walk;
use super::needs::Needs;
use super::view::{Missing, View, is_ready, read};
use super::{Dependencies, names};
use crate::resource::cluster::{Cluster, Discovery, DnsEndpoints};
use crate::resource::endpoints::Endpoints;
use crate::resource::security::on_demand;
use crate::resource::{CLUSTER, ENDPOINTS};
use crate::snapshot::{ClusterConfig, ClusterEntry, ClusterKey, Snapshot};

/// What is known of one cluster.
#[derive(Debug, Default)]
pub(super) struct ClusterState {
    /// The entry in use; `None` until there is a verdict.
    pub(super) entry: Option<Arc<ClusterEntry>>,
    /// What the newest configuration of the cluster waits for.
    pub(super) awaits: Option<String>,
    pub(super) needs: Needs,
    /// What its DNS names came to: those in use, and those of the newest configuration.
    resolved: Vec<names::Joined>,
}

/// A cluster with all that it names; `None`: an aggregate that no route names, whose leaves others join.
type Joined = Result<Option<ClusterEntry>, Missing>;

impl Dependencies {
    pub(super) fn follow(&mut self, name: &Arc<str>) {
        if !self.clusters.contains_key(name) {
            self.clusters.insert(name.clone(), ClusterState::default());
            self.watch_changed |= self.watched.clusters.insert(name.clone());
        }
    }

    /// Joins a cluster and what it depends on anew: whether its entry changed.
    pub(super) fn refresh_cluster(&mut self, name: &Arc<str>, view: &impl View) -> bool {
        let Some(state) = self.clusters.get_mut(name) else { return false };
        state.awaits = None;
        self.held.remove(name);
        let mut needs = Needs::default();
        let newest = read::<Cluster>(view, &CLUSTER, name);
        let joined = newest.and_then(|cluster| self.join_cluster(name, &cluster, &mut needs, view));
        let entry = match joined {
            Ok(None) => {
                self.state(name).entry = None;
                None
            }
            Ok(entry) => entry,
            Err(missing) => self.stand_in(name, missing, &mut needs, view),
        };
        self.need(name, needs);
        let (state, Some(entry)) = (self.state(name), entry) else { return false };
        let changed = state.entry.as_ref().is_none_or(|known| !known.is_same(&entry));
        if changed {
            state.entry = Some(Arc::new(entry));
        }
        changed
    }

    /// What is in force instead of a configuration that is not complete; `None`: what is in force now.
    fn stand_in(
        &mut self,
        name: &Arc<str>,
        missing: Missing,
        needs: &mut Needs,
        view: &impl View,
    ) -> Option<ClusterEntry> {
        match missing {
            Missing::Pending(what) => self.state(name).awaits = Some(what),
            Missing::Behind(problem) if self.config(name).is_some() => drop(self.held.insert(name.clone(), problem)),
            Missing::Absent(problem) | Missing::Behind(problem) => {
                return Some(ClusterEntry::new(self.key(name), Err(problem)));
            }
        }
        self.in_use(name, needs, view)
    }

    /// The usable configuration in use, with what is new of that which it names; `None`: nothing is.
    fn in_use(&mut self, name: &Arc<str>, needs: &mut Needs, view: &impl View) -> Option<ClusterEntry> {
        let entry = self.clusters.get(name)?.entry.clone()?;
        let config = entry.config.as_ref().ok()?;
        match &entry.leaves {
            Some(leaves) => {
                needs.special().members.extend(leaves.entries.iter().map(|leaf| leaf.key.name.clone()));
                Some(ClusterEntry::aggregate(
                    self.key(name),
                    config.cluster.clone(),
                    self.newest_leaves(&leaves.entries),
                ))
            }
            None => self.join_cluster(name, &config.cluster, needs, view).ok()?,
        }
    }

    /// What is new of the leaves of an aggregate in use.
    fn newest_leaves(&self, leaves: &[Arc<ClusterEntry>]) -> Arc<[Arc<ClusterEntry>]> {
        let newest = |leaf: &Arc<ClusterEntry>| {
            let known = self.clusters.get(&leaf.key.name).and_then(|state| state.entry.as_ref());
            known.filter(|entry| entry.config.is_ok() && entry.leaves.is_none()).unwrap_or(leaf).clone()
        };
        leaves.iter().map(newest).collect()
    }

    fn join_cluster(&mut self, name: &Arc<str>, cluster: &Arc<Cluster>, needs: &mut Needs, view: &impl View) -> Joined {
        let endpoints = match &cluster.discovery {
            Discovery::Static(endpoints) => endpoints.clone(),
            Discovery::Eds { service_name } => {
                let endpoints = service_name.as_ref().unwrap_or(name);
                if !needs.endpoints.contains(endpoints) {
                    needs.endpoints.push(endpoints.clone());
                }
                let in_use = self.uses_endpoints(name, endpoints);
                read(view, &ENDPOINTS, endpoints).map_err(|missing| missing.behind(in_use))?
            }
            Discovery::Dns(dns) => {
                needs.special().names.extend(dns.names());
                // Addresses in use stay when a name fails: one that fails never had any.
                self.resolve(name, dns, view).map_err(|missing| missing.behind(false))?
            }
            Discovery::Aggregate(_) => return self.join_aggregate(name, cluster, needs, view),
        };
        self.join_security(name, cluster, needs, view)?;
        let config = ClusterConfig { cluster: cluster.clone(), endpoints };
        Ok(Some(ClusterEntry::new(self.key(name), Ok(config))))
    }

    /// Whether all is there that secures the connections. What is in use once stays ready.
    fn join_security(
        &self,
        name: &Arc<str>,
        cluster: &Arc<Cluster>,
        needs: &mut Needs,
        view: &impl View,
    ) -> Result<(), Missing> {
        let is_in_use = self.config(name).is_some_and(|config| Arc::ptr_eq(&config.cluster, cluster));
        let mut missing = Ok(());
        for source in on_demand(cluster) {
            let sources = &mut needs.special().sources;
            if !sources.contains(source) {
                sources.push(source.clone());
            }
            if !is_in_use && missing.is_ok() {
                missing = is_ready(source, view.readiness(source)).map_err(|missing| missing.behind(false));
            }
        }
        missing
    }

    fn resolve(
        &mut self,
        name: &Arc<str>,
        dns: &Arc<DnsEndpoints>,
        view: &impl View,
    ) -> Result<Arc<Endpoints>, Missing> {
        let in_use = self.config(name).map(|config| config.cluster.clone());
        let is_in_use = |joined: &names::Joined| {
            in_use
                .as_ref()
                .is_some_and(|cluster| matches!(&cluster.discovery, Discovery::Dns(dns) if joined.is_of(dns)))
        };
        let resolved = &mut self.state(name).resolved;
        let known = resolved.iter().position(|joined| joined.is_of(dns)).map(|at| resolved.swap_remove(at));
        resolved.retain(is_in_use);
        let joined = names::join(dns, known, |name| view.resolve(name))?;
        let endpoints = joined.endpoints.clone();
        resolved.push(joined);
        Ok(endpoints)
    }

    fn join_aggregate(
        &mut self,
        name: &Arc<str>,
        cluster: &Arc<Cluster>,
        needs: &mut Needs,
        view: &impl View,
    ) -> Joined {
        if !self.is_named(name) {
            return Ok(None);
        }
        let mut walk = Walk::default();
        let walked = self.walk(name, &mut walk, view);
        needs.special().members.extend(walk.members.iter().cloned());
        walked.map_err(Missing::Behind)?;
        Ok(Some(ClusterEntry::aggregate(self.key(name), cluster.clone(), walk.finish(name)?.into())))
    }

    /// Whether a route names the cluster, or a call.
    fn is_named(&self, name: &Arc<str>) -> bool {
        self.demanded.contains(name) || self.tables().any(|table| table.clusters().contains(name))
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

    pub(super) fn key(&self, name: &Arc<str>) -> ClusterKey {
        ClusterKey { source: self.source.clone(), name: name.clone() }
    }

    fn state(&mut self, name: &Arc<str>) -> &mut ClusterState {
        self.clusters.entry(name.clone()).or_default()
    }

    /// Puts a cluster's new entry in force, if the table in force names the cluster: whether it does.
    pub(super) fn take_over(&mut self, name: &Arc<str>) -> bool {
        let entry = self.clusters.get(name).and_then(|state| state.entry.clone());
        let (Some(entry), Some(Snapshot { routing: Ok(table), clusters })) = (entry, &mut self.in_force) else {
            return false;
        };
        let Some(place) = table.clusters().get_index_of(name) else { return false };
        // Copies the list once for all changes of a step: calls have the one that was published.
        Arc::make_mut(clusters)[place] = entry;
        true
    }

    pub(super) fn has_verdict(&self, name: &Arc<str>) -> bool {
        self.clusters.get(name).is_some_and(|state| state.entry.is_some())
    }
}

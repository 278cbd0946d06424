//! What each cluster needs of others: the names that are watched, and from each the clusters to join anew when it changes.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use indexmap::IndexSet;
use smallvec::SmallVec;

use super::Dependencies;
use crate::resource::cluster::DnsName;
use crate::resource::security::MaterialSource;

/// What one cluster needs: of its newest configuration, and of the one in use while the newest is not complete. There is one
/// for each of many clusters, most of which need endpoints alone.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Names under which EDS knows endpoints.
    pub(super) endpoints: SmallVec<[Arc<str>; 1]>,
    pub(super) names: BTreeSet<DnsName>,
    /// Certificates and roots that are started on demand.
    pub(super) sources: SmallVec<[MaterialSource; 0]>,
    /// Of an aggregate that a route names, every cluster it leads to, itself included.
    pub(super) members: BTreeSet<Arc<str>>,
}

/// From what is needed to the clusters that need it.
#[derive(Debug, Default)]
pub(super) struct Users {
    endpoints: UsersOf<Arc<str>>,
    names: UsersOf<DnsName>,
    sources: UsersOf<MaterialSource>,
    members: UsersOf<Arc<str>>,
}

type UsersOf<K> = HashMap<K, SmallVec<[Arc<str>; 1]>>;

impl Users {
    /// The clusters with these endpoints.
    pub(super) fn of_endpoints(&self, name: &str) -> impl Iterator<Item = &Arc<str>> {
        self.endpoints.get(name).into_iter().flatten()
    }

    /// The clusters whose endpoints have this DNS name.
    pub(super) fn of_name(&self, name: &DnsName) -> impl Iterator<Item = &Arc<str>> {
        self.names.get(name).into_iter().flatten()
    }

    /// The clusters whose connections take certificates or roots from this.
    pub(super) fn of_source(&self, source: &MaterialSource) -> impl Iterator<Item = &Arc<str>> {
        self.sources.get(source).into_iter().flatten()
    }

    /// The aggregates that lead to this cluster.
    pub(super) fn of_cluster(&self, name: &str) -> impl Iterator<Item = &Arc<str>> {
        self.members.get(name).into_iter().flatten()
    }
}

impl Dependencies {
    /// From now on a cluster needs this, and nothing else.
    pub(super) fn need(&mut self, cluster: &Arc<str>, now: Needs) {
        let Some(state) = self.clusters.get_mut(cluster) else { return };
        let before = std::mem::take(&mut state.needs);
        let Users { endpoints, names, sources, members } = &mut self.users;
        let watched = &mut self.watched;
        let gone = before.endpoints.iter().filter(|name| !now.endpoints.contains(name));
        let new = now.endpoints.iter().filter(|name| !before.endpoints.contains(name));
        self.watch_changed |= rewire(endpoints, cluster, gone, new, Some(&mut watched.endpoints));
        let (gone, new) = (before.names.difference(&now.names), now.names.difference(&before.names));
        self.watch_changed |= rewire(names, cluster, gone, new, Some(&mut watched.names));
        let gone = before.sources.iter().filter(|source| !now.sources.contains(source));
        let new = now.sources.iter().filter(|source| !before.sources.contains(source));
        self.watch_changed |= rewire(sources, cluster, gone, new, Some(&mut watched.sources));
        let (gone, new) = (before.members.difference(&now.members), now.members.difference(&before.members));
        rewire(members, cluster, gone, new, None);
        self.users_changed |= !before.members.is_subset(&now.members);
        state.needs = now;
    }

    /// Stops following the clusters that neither the routes in force lead to nor those that are to come.
    pub(super) fn forget_unused(&mut self) {
        // The routes that are awaited may name the same clusters.
        if self.routes_are_pending() {
            return;
        }
        let named = self.tables().flat_map(|table| table.clusters()).chain(&self.demanded);
        let is_named: IndexSet<&Arc<str>> = named.collect();
        let members =
            is_named.iter().filter_map(|name| self.clusters.get(*name)).flat_map(|state| &state.needs.members);
        let used: IndexSet<&Arc<str>> = is_named.iter().copied().chain(members).collect();
        let unused: Vec<Arc<str>> = self.clusters.keys().filter(|name| !used.contains(name)).cloned().collect();
        for name in &unused {
            self.need(name, Needs::default());
            self.clusters.remove(name);
            self.held.remove(name);
            self.watch_changed |= self.watched.clusters.swap_remove(name);
        }
    }
}

/// Makes `cluster` a user of what is `new`, and of nothing that is `gone`; what has users is watched. Whether that changed
/// what is watched.
fn rewire<'a, K: Clone + Eq + Hash + 'a>(
    users: &mut UsersOf<K>,
    cluster: &Arc<str>,
    gone: impl Iterator<Item = &'a K>,
    new: impl Iterator<Item = &'a K>,
    mut watched: Option<&mut IndexSet<K>>,
) -> bool {
    let mut changed = false;
    for gone in gone {
        let Some(known) = users.get_mut(gone) else { continue };
        known.retain(|user| user != cluster);
        if known.is_empty() {
            users.remove(gone);
            changed |= watched.as_mut().is_some_and(|watched| watched.swap_remove(gone));
        }
    }
    for new in new {
        users.entry(new.clone()).or_default().push(cluster.clone());
        changed |= watched.as_mut().is_some_and(|watched| watched.insert(new.clone()));
    }
    changed
}

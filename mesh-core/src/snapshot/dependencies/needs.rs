//! What each cluster needs of others: the names that are watched, and from each the clusters to join anew when it changes.

use std::collections::BTreeSet;
use std::hash::Hash;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{Dependencies, Watched};
use crate::names::{NameIndexSet, NameMap};
use crate::resource::cluster::DnsName;
use crate::resource::security::MaterialSource;

/// What one cluster needs: of its newest configuration, and of the one in use while the newest is not complete. There is one
/// for each of many clusters, most of which need endpoints alone.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Names under which EDS knows endpoints.
    pub(super) endpoints: SmallVec<[Arc<str>; 1]>,
    special: Option<Box<SpecialNeeds>>,
}

/// What few clusters need.
#[derive(Debug, Default)]
pub(super) struct SpecialNeeds {
    pub(super) names: BTreeSet<DnsName>,
    /// Certificates and roots that are started on demand.
    pub(super) sources: Vec<MaterialSource>,
    /// Of an aggregate that a route names, every cluster it leads to, itself included.
    pub(super) members: BTreeSet<Arc<str>>,
}

impl Needs {
    pub(super) fn special(&mut self) -> &mut SpecialNeeds {
        self.special.get_or_insert_default()
    }

    fn members(&self) -> impl Iterator<Item = &Arc<str>> {
        self.special.iter().flat_map(|special| &special.members)
    }
}

/// From what is needed to the clusters that need it.
#[derive(Debug, Default)]
pub(super) struct Users {
    endpoints: UsersOf<Arc<str>>,
    names: UsersOf<DnsName>,
    sources: UsersOf<MaterialSource>,
    members: UsersOf<Arc<str>>,
}

type UsersOf<K> = NameMap<K, SmallVec<[Arc<str>; 1]>>;

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

    /// Makes a cluster a user of what it needs now, and of nothing that it needed before alone. Whether that changed what is
    /// watched.
    fn rewire(&mut self, cluster: &Arc<str>, before: &SpecialNeeds, now: &SpecialNeeds, watched: &mut Watched) -> bool {
        let Self { endpoints: _, names, sources, members } = self;
        let (gone, new) = (before.names.difference(&now.names), now.names.difference(&before.names));
        let names_changed = rewire(names, cluster, gone, new, Some(&mut watched.names));
        let gone = before.sources.iter().filter(|source| !now.sources.contains(source));
        let new = now.sources.iter().filter(|source| !before.sources.contains(source));
        let sources_changed = rewire(sources, cluster, gone, new, Some(&mut watched.sources));
        let (gone, new) = (before.members.difference(&now.members), now.members.difference(&before.members));
        rewire(members, cluster, gone, new, None);
        names_changed || sources_changed
    }
}

impl Dependencies {
    /// From now on a cluster needs this, and nothing else.
    pub(super) fn need(&mut self, cluster: &Arc<str>, now: Needs) {
        let Some(state) = self.clusters.get_mut(cluster) else { return };
        let before = std::mem::take(&mut state.needs);
        let (endpoints, watched) = (&mut self.users.endpoints, &mut self.watched.endpoints);
        let gone = before.endpoints.iter().filter(|name| !now.endpoints.contains(name));
        let new = now.endpoints.iter().filter(|name| !before.endpoints.contains(name));
        self.watch_changed |= rewire(endpoints, cluster, gone, new, Some(watched));
        if before.special.is_some() || now.special.is_some() {
            let nothing = SpecialNeeds::default();
            let before = before.special.as_deref().unwrap_or(&nothing);
            let now = now.special.as_deref().unwrap_or(&nothing);
            self.watch_changed |= self.users.rewire(cluster, before, now, &mut self.watched);
            self.users_changed |= !before.members.is_subset(&now.members);
        }
        state.needs = now;
    }

    /// Stops following the clusters that neither the routes in force lead to nor those that are to come.
    pub(super) fn forget_unused(&mut self) {
        // The routes that are awaited may name the same clusters.
        if self.routes_are_pending() {
            return;
        }
        let named = self.tables().flat_map(|table| table.clusters()).chain(&self.demanded);
        let is_named: NameIndexSet<&Arc<str>> = named.collect();
        let members =
            is_named.iter().filter_map(|name| self.clusters.get(*name)).flat_map(|state| state.needs.members());
        let used: NameIndexSet<&Arc<str>> = is_named.iter().copied().chain(members).collect();
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
    mut watched: Option<&mut NameIndexSet<K>>,
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

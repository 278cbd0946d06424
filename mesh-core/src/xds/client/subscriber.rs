//! What one user of the client watches.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use indexmap::IndexSet;
use tokio::sync::Notify;

use super::XdsClient;
use crate::xds::resource_type::ResourceType;
use crate::xds::store::{Change, ResourceState, SubscriberId};

/// Watches resources for one user. Dropped, it leaves those that it watched.
pub(crate) struct Subscriber {
    client: XdsClient,
    id: SubscriberId,
    notify: Arc<Notify>,
    watched: HashMap<&'static str, Watched>,
}

struct Watched {
    resource_type: &'static ResourceType,
    names: HashSet<Arc<str>>,
}

/// The names of one type that a subscriber wants.
pub(crate) type Wanted<'a> = (&'static ResourceType, &'a IndexSet<Arc<str>>);

impl Subscriber {
    pub(super) fn new(client: XdsClient) -> Self {
        let notify = Arc::<Notify>::default();
        let id = client.inner.shared.store.lock().register(notify.clone());
        Self { client, id, notify, watched: HashMap::new() }
    }

    /// Replaces the names that this subscriber watches, of all types at once; a type that is not given has none.
    pub(crate) fn watch(&mut self, wanted: &[Wanted<'_>]) {
        let mut remove = Vec::new();
        for Watched { resource_type, names } in self.watched.values() {
            let wanted = wanted.iter().find(|(ty, _)| ty.type_url == resource_type.type_url);
            let is_left = |name: &&Arc<str>| !wanted.is_some_and(|(_, wanted)| wanted.contains(*name));
            remove.extend(names.iter().filter(is_left).map(|name| (*resource_type, name.clone())));
        }
        let add = wanted.iter().flat_map(|(ty, names)| names.iter().map(|name| (*ty, name)));
        let add: Vec<_> = add.filter(|(ty, name)| !self.is_watched(ty, name)).collect();
        self.update(add.into_iter().map(|(ty, name)| (ty, name.clone())), remove);
    }

    /// Adds and takes away names. What is watched already, or not at all, makes no difference.
    pub(crate) fn update(
        &mut self,
        add: impl IntoIterator<Item = (&'static ResourceType, Arc<str>)>,
        remove: impl IntoIterator<Item = (&'static ResourceType, Arc<str>)>,
    ) {
        // Sorted out before the lock is taken.
        let left: Vec<_> = remove.into_iter().filter(|(ty, name)| self.leave(ty, name)).collect();
        let new: Vec<_> = add.into_iter().filter(|(ty, name)| self.enter(ty, name)).collect();
        if left.is_empty() && new.is_empty() {
            return;
        }
        let shared = &self.client.inner.shared;
        let mut store = shared.store.lock();
        left.iter().for_each(|(ty, name)| store.unwatch(self.id, ty, name));
        new.iter().for_each(|(ty, name)| store.watch(self.id, ty, name));
        drop(store);
        shared.interests.notify_one();
    }

    fn is_watched(&self, resource_type: &ResourceType, name: &Arc<str>) -> bool {
        self.watched.get(resource_type.type_url).is_some_and(|watched| watched.names.contains(name))
    }

    fn leave(&mut self, resource_type: &ResourceType, name: &Arc<str>) -> bool {
        self.watched.get_mut(resource_type.type_url).is_some_and(|watched| watched.names.remove(name))
    }

    fn enter(&mut self, resource_type: &'static ResourceType, name: &Arc<str>) -> bool {
        let new = || Watched { resource_type, names: HashSet::new() };
        self.watched.entry(resource_type.type_url).or_insert_with(new).names.insert(name.clone())
    }

    /// The resources that changed since the last call, each once; waits until one did. All of one response comes
    /// together. Dropping the future loses nothing.
    pub(crate) async fn changed(&mut self) -> Vec<Change> {
        loop {
            let changes = self.client.inner.shared.store.lock().take_changes(self.id);
            if !changes.is_empty() {
                return changes;
            }
            self.notify.notified().await;
        }
    }

    /// What is known of a resource.
    pub(crate) fn get(&self, resource_type: &'static ResourceType, name: &str) -> ResourceState {
        self.client.inner.shared.store.lock().get(resource_type, name)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let shared = &self.client.inner.shared;
        let mut store = shared.store.lock();
        store.unregister(self.id);
        for Watched { resource_type, names } in self.watched.values() {
            names.iter().for_each(|name| store.unwatch(self.id, resource_type, name));
        }
        drop(store);
        shared.interests.notify_one();
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").field("id", &self.id).finish_non_exhaustive()
    }
}

//! What one user of the client watches.

use std::fmt;
use std::sync::Arc;

use tokio::sync::Notify;

use super::XdsClient;
use super::driver::log_ignored;
use crate::names::{NameIndexSet, NameSet};
use crate::xds::resource_type::{IgnoredField, ResourceType};
use crate::xds::store::{Change, ResourceState, SubscriberId};

/// Watches resources for one user. Dropped, it leaves those that it watched.
pub(crate) struct Subscriber {
    client: XdsClient,
    id: SubscriberId,
    notify: Arc<Notify>,
    watched: Vec<Watched>,
}

struct Watched {
    resource_type: &'static ResourceType,
    names: NameSet<Arc<str>>,
}

/// The names of one type that a subscriber wants.
pub(crate) type Wanted<'a> = (&'static ResourceType, &'a NameIndexSet<Arc<str>>);

impl Subscriber {
    pub(super) fn new(client: XdsClient) -> Self {
        let notify = Arc::<Notify>::default();
        let id = client.inner.shared.store.lock().register(notify.clone());
        Self { client, id, notify, watched: Vec::new() }
    }

    /// Replaces the names that this subscriber watches, of all types at once; a type that is not given has none.
    pub(crate) fn watch(&mut self, wanted: &[Wanted<'_>]) {
        // Sorted out before the lock is taken.
        let (mut left, mut new) = (Vec::new(), Vec::new());
        for Watched { resource_type, names } in &mut self.watched {
            let wanted = wanted.iter().find(|(ty, _)| ty.type_url == resource_type.type_url);
            names.retain(|name| {
                let stays = wanted.is_some_and(|(_, wanted)| wanted.contains(name));
                if !stays {
                    left.push((*resource_type, name.clone()));
                }
                stays
            });
        }
        for (resource_type, names) in wanted {
            let watched = self.names(resource_type);
            new.extend(names.iter().filter(|name| watched.insert(Arc::clone(name))).map(|name| (*resource_type, name)));
        }
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

    /// The watched names of a type.
    fn names(&mut self, resource_type: &'static ResourceType) -> &mut NameSet<Arc<str>> {
        let known = self.watched.iter().position(|watched| watched.resource_type.type_url == resource_type.type_url);
        let index = known.unwrap_or_else(|| {
            self.watched.push(Watched { resource_type, names: NameSet::default() });
            self.watched.len() - 1
        });
        &mut self.watched[index].names
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

    /// This subscriber does not act on these fields of a resource, whatever others do.
    pub(crate) fn ignores(&self, resource_type: &ResourceType, name: &Arc<str>, fields: &[IgnoredField]) {
        if !fields.is_empty() {
            let mut store = self.client.inner.shared.store.lock();
            let first_seen = store.record_ignored(resource_type, name, fields.to_vec());
            drop(store);
            log_ignored(first_seen);
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let shared = &self.client.inner.shared;
        let mut store = shared.store.lock();
        store.unregister(self.id);
        for Watched { resource_type, names } in &self.watched {
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

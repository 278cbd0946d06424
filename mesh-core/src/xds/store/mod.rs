//! What the control plane last said, per resource: the last good value, its version, and what is wrong since (A88).
//!
//! The driver writes it, subscribers and listings read it; the lock is held for a copy of references, never across a
//! decode. Subscribers find what changed for them in a mailbox that holds each name once, so that nobody who is slow can
//! hold up the stream or fill memory.

mod ignored;
mod listing;

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use smallvec::SmallVec;
use tokio::sync::Notify;

pub(crate) use self::ignored::IgnoredSummary;
use self::ignored::{IgnoredFields, record_ignored};
pub(crate) use self::listing::{CacheState, ResourceReport};
use super::ads::{ErrorKind, Update, UpdateKind, Updates};
use super::resource_type::{IgnoredField, ResourceType};
use crate::names::{NameIndexMap, NameIndexSet};

/// What is known of one resource, for those that use it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResourceState {
    value: Option<Arc<dyn Any + Send + Sync>>,
    pub(crate) verdict: Verdict,
    /// With a value: what is wrong with the newest version of it, which does not keep this one from being used (A88's
    /// ambient error). While pending: why the control plane cannot be asked. Else: why there is no value.
    pub(crate) error: Option<Arc<str>>,
}

impl ResourceState {
    #[cfg(test)]
    pub(crate) fn for_test(value: Option<Arc<dyn Any + Send + Sync>>, verdict: Verdict) -> Self {
        Self { value, verdict, ..Self::default() }
    }

    /// The good value, if there is one.
    pub(crate) fn value<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.value.clone()?.downcast().ok()
    }
}

/// Whether a resource can be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The control plane has not said yet.
    #[default]
    Pending,
    /// There is a good value.
    Present,
    DoesNotExist,
    /// It was rejected, and there was no good value before; the text names the fields.
    Invalid(Arc<str>),
    /// The control plane said that it cannot send it, or it announced to say so and said nothing in time.
    Refused(Arc<str>),
}

/// One resource whose state changed.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) resource_type: &'static ResourceType,
    pub(crate) name: Arc<str>,
}

/// Counted per type since the start (A78).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) resources_valid: u64,
    pub(crate) resources_invalid: u64,
    /// Resources that nobody asked for.
    pub(crate) strangers: u64,
    /// Responses that were rejected.
    pub(crate) nacks: u64,
}

/// Who watches.
pub(crate) type SubscriberId = u64;

/// A name that became wanted, or is not wanted any more.
#[derive(Debug)]
pub(crate) struct Interest {
    pub(crate) resource_type: &'static ResourceType,
    pub(crate) name: Arc<str>,
    pub(crate) wanted: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    types: Vec<TypeStore>,
    mailboxes: HashMap<SubscriberId, Mailbox>,
    next_id: SubscriberId,
    /// Names whose watchers changed, each once.
    dirty: Vec<(usize, Arc<str>)>,
    connectivity: Option<Arc<str>>,
    ignored: IgnoredFields,
}

#[derive(Debug)]
struct TypeStore {
    resource_type: &'static ResourceType,
    entries: NameIndexMap<Arc<str>, Entry>,
    counters: Counters,
}

#[derive(Default)]
struct Entry {
    watchers: SmallVec<[SubscriberId; 2]>,
    /// Whether it is in [`Store::dirty`].
    dirty: bool,
    /// Whether the protocol knows that it is wanted.
    told: bool,
    value: Option<Good>,
    /// Few have one.
    error: Option<Box<(ErrorKind, Arc<str>)>>,
    updated: Option<SystemTime>,
}

struct Good {
    value: Arc<dyn Any + Send + Sync>,
    version: Arc<str>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("watchers", &self.watchers).field("error", &self.error).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Mailbox {
    changes: NameIndexSet<(usize, Arc<str>)>,
    notify: Arc<Notify>,
}

impl Mailbox {
    fn put(&mut self, type_index: usize, name: &Arc<str>) {
        if self.changes.is_empty() {
            self.notify.notify_one();
        }
        self.changes.insert((type_index, name.clone()));
    }
}

impl Store {
    /// A new subscriber, which is notified when [`take_changes`](Self::take_changes) has something for it.
    pub(crate) fn register(&mut self, notify: Arc<Notify>) -> SubscriberId {
        self.next_id += 1;
        self.mailboxes.insert(self.next_id, Mailbox { changes: NameIndexSet::default(), notify });
        self.next_id
    }

    /// The subscriber goes: nothing is put aside for it any more. It leaves its names after.
    pub(crate) fn unregister(&mut self, subscriber: SubscriberId) {
        self.mailboxes.remove(&subscriber);
    }

    /// The subscriber wants a resource; it must not want it already.
    pub(crate) fn watch(&mut self, subscriber: SubscriberId, resource_type: &'static ResourceType, name: &Arc<str>) {
        let type_index = self.type_index(resource_type);
        let entry = self.types[type_index].entries.entry(name.clone()).or_default();
        entry.watchers.push(subscriber);
        if !entry.told && !entry.dirty {
            entry.dirty = true;
            self.dirty.push((type_index, name.clone()));
        }
        // Whoever comes later learns what is known already.
        if (entry.value.is_some() || entry.error.is_some())
            && let Some(mailbox) = self.mailboxes.get_mut(&subscriber)
        {
            mailbox.put(type_index, name);
        }
    }

    /// The subscriber does not want a resource any more.
    pub(crate) fn unwatch(&mut self, subscriber: SubscriberId, resource_type: &'static ResourceType, name: &Arc<str>) {
        let type_index = self.type_index(resource_type);
        let Some(entry) = self.types[type_index].entries.get_mut(name) else { return };
        if let Some(at) = entry.watchers.iter().position(|watcher| *watcher == subscriber) {
            entry.watchers.swap_remove(at);
        }
        if entry.watchers.is_empty() && !entry.dirty {
            entry.dirty = true;
            self.dirty.push((type_index, name.clone()));
        }
        if let Some(mailbox) = self.mailboxes.get_mut(&subscriber) {
            mailbox.changes.swap_remove(&(type_index, name.clone()));
        }
    }

    /// What the protocol must be told of.
    pub(crate) fn take_interests(&mut self) -> Vec<Interest> {
        let mut interests = Vec::new();
        for (type_index, name) in std::mem::take(&mut self.dirty) {
            let TypeStore { resource_type, entries, .. } = &mut self.types[type_index];
            let Some(entry) = entries.get_mut(&name) else { continue };
            entry.dirty = false;
            let wanted = !entry.watchers.is_empty();
            if wanted != entry.told {
                entry.told = wanted;
                interests.push(Interest { resource_type, name, wanted });
            } else if !wanted {
                entries.swap_remove(&name);
            }
        }
        // After a large wave of names, room for a next one would be a third of what all of them take. One that comes alone
        // is not worth a copy of the others.
        for store in self.types.iter_mut().filter(|store| interests.len() >= store.entries.len() / 4) {
            store.entries.shrink_to_fit();
        }
        interests
    }

    /// Takes in what the protocol found; all of it becomes visible at once. Returns the ignored fields that were not
    /// seen before.
    pub(crate) fn apply(&mut self, updates: Updates, now: SystemTime) -> Vec<(&'static str, IgnoredField)> {
        let mut first_seen = Vec::new();
        for summary in updates.responses {
            let type_index = self.type_index(summary.resource_type);
            self.types[type_index].counters.add(
                summary.valid,
                summary.invalid,
                summary.strangers,
                summary.nack.is_some(),
            );
        }
        for update in updates.resources {
            self.update(update, now, &mut first_seen);
        }
        if let Some(connectivity) = updates.connectivity {
            self.connectivity = connectivity;
            self.tell_who_waits();
        }
        first_seen
    }

    /// Why the control plane cannot be asked is news for who waits for it.
    fn tell_who_waits(&mut self) {
        for (type_index, store) in self.types.iter().enumerate() {
            let pending = store.entries.iter().filter(|(_, entry)| entry.value.is_none() && entry.error.is_none());
            for (name, watcher) in pending.flat_map(|(name, entry)| entry.watchers.iter().map(move |id| (name, id))) {
                if let Some(mailbox) = self.mailboxes.get_mut(watcher) {
                    mailbox.put(type_index, name);
                }
            }
        }
    }

    fn update(&mut self, update: Update, now: SystemTime, first_seen: &mut Vec<(&'static str, IgnoredField)>) {
        let Update { resource_type, name, kind } = update;
        let type_index = self.type_index(resource_type);
        let entries = &mut self.types[type_index].entries;
        let Some(entry) = entries.get_mut(&name) else { return };
        entry.updated = Some(now);
        match kind {
            UpdateKind::Value { value, version, ignored } => {
                entry.value = Some(Good { value, version });
                entry.error = None;
                record_ignored(&mut self.ignored, resource_type.name, &name, ignored, first_seen);
            }
            UpdateKind::Confirmed { version } => {
                entry.error = None;
                if let Some(good) = &mut entry.value {
                    good.version = version;
                }
            }
            UpdateKind::Error { kind, text, keep } => {
                entry.error = Some(Box::new((kind, text)));
                if !keep {
                    entry.value = None;
                }
            }
            UpdateKind::Removed if entry.watchers.is_empty() && !entry.told => {
                entries.swap_remove(&name);
                return;
            }
            // Somebody came meanwhile: for the protocol it is a new name.
            UpdateKind::Removed => (entry.value, entry.error, entry.updated) = (None, None, None),
        }
        for watcher in &entry.watchers {
            if let Some(mailbox) = self.mailboxes.get_mut(watcher) {
                mailbox.put(type_index, &name);
            }
        }
    }

    /// Counts fields of a resource that whoever uses it does not act on. Returns those that were not seen before.
    pub(crate) fn record_ignored(
        &mut self,
        resource_type: &ResourceType,
        name: &Arc<str>,
        fields: Vec<IgnoredField>,
    ) -> Vec<(&'static str, IgnoredField)> {
        let mut first_seen = Vec::new();
        record_ignored(&mut self.ignored, resource_type.name, name, fields, &mut first_seen);
        first_seen
    }

    /// What changed for a subscriber since it last asked, each resource once.
    pub(crate) fn take_changes(&mut self, subscriber: SubscriberId) -> Vec<Change> {
        let Some(mailbox) = self.mailboxes.get_mut(&subscriber) else { return Vec::new() };
        let changes = std::mem::take(&mut mailbox.changes);
        let change = |(index, name): (usize, _)| Change { resource_type: self.types[index].resource_type, name };
        changes.into_iter().map(change).collect()
    }

    /// What is known of a resource; pending if nobody watches it.
    pub(crate) fn get(&self, resource_type: &ResourceType, name: &str) -> ResourceState {
        let store = self.types.iter().find(|store| store.resource_type.type_url == resource_type.type_url);
        match store.and_then(|store| store.entries.get(name)) {
            Some(entry) => entry.state(self.connectivity.as_ref()),
            None => ResourceState { error: self.connectivity.clone(), ..ResourceState::default() },
        }
    }

    /// Every resource that is watched.
    pub(crate) fn resources(&self) -> Vec<ResourceReport> {
        let of = |store: &TypeStore| {
            let resource_type = store.resource_type;
            let watched = store.entries.iter().filter(|(_, entry)| !entry.watchers.is_empty());
            watched.map(move |(name, entry)| entry.status(resource_type, name)).collect::<Vec<_>>()
        };
        self.types.iter().flat_map(of).collect()
    }

    /// The fields that resources set and nothing acts on.
    pub(crate) fn ignored_fields(&self) -> Vec<IgnoredSummary> {
        let summaries = self.ignored.iter().map(|((resource_type, field), ignored)| IgnoredSummary {
            resource_type,
            path: field.path.clone(),
            reason: field.reason,
            count: ignored.count,
            names: ignored.names.clone(),
        });
        summaries.collect()
    }

    /// The counters of each type.
    pub(crate) fn counters(&self) -> Vec<(&'static ResourceType, Counters)> {
        self.types.iter().map(|store| (store.resource_type, store.counters)).collect()
    }

    fn type_index(&mut self, resource_type: &'static ResourceType) -> usize {
        let index = self.types.iter().position(|store| store.resource_type.type_url == resource_type.type_url);
        index.unwrap_or_else(|| {
            self.types.push(TypeStore {
                resource_type,
                entries: NameIndexMap::default(),
                counters: Counters::default(),
            });
            self.types.len() - 1
        })
    }
}

impl Entry {
    fn state(&self, connectivity: Option<&Arc<str>>) -> ResourceState {
        let error = self.error.as_ref().map(|error| error.1.clone());
        if let Some(good) = &self.value {
            return ResourceState { value: Some(good.value.clone()), verdict: Verdict::Present, error };
        }
        let verdict = match self.error.as_deref() {
            None => Verdict::Pending,
            Some((ErrorKind::DoesNotExist, _)) => Verdict::DoesNotExist,
            Some((ErrorKind::Invalid, text)) => Verdict::Invalid(text.clone()),
            Some((ErrorKind::Refused | ErrorKind::TimedOut, text)) => Verdict::Refused(text.clone()),
        };
        let error = error.or_else(|| connectivity.cloned());
        ResourceState { verdict, error, ..ResourceState::default() }
    }

    fn status(&self, resource_type: &'static ResourceType, name: &Arc<str>) -> ResourceReport {
        let state = match self.error.as_deref() {
            Some((ErrorKind::Invalid, _)) => CacheState::Nacked,
            Some((ErrorKind::DoesNotExist, _)) => CacheState::DoesNotExist,
            Some((ErrorKind::Refused, _)) => CacheState::ReceivedError,
            Some((ErrorKind::TimedOut, _)) => CacheState::Timeout,
            None if self.value.is_some() => CacheState::Acked,
            None => CacheState::Requested,
        };
        ResourceReport {
            resource_type,
            name: name.clone(),
            state,
            version: self.value.as_ref().map(|good| good.version.clone()).unwrap_or_default(),
            error: self.error.as_ref().map(|error| error.1.clone()),
            has_value: self.value.is_some(),
            updated: self.updated,
        }
    }
}

impl Counters {
    fn add(&mut self, valid: u64, invalid: u64, strangers: u64, is_nack: bool) {
        self.resources_valid += valid;
        self.resources_invalid += invalid;
        self.strangers += strangers;
        self.nacks += u64::from(is_nack);
    }
}

#[cfg(test)]
mod tests;

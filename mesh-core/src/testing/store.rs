//! What the control plane has, with the moment of each change, so that a stream knows what it has not sent.

use std::collections::{BTreeMap, BTreeSet};

use prost::{Message, Name};

use super::resources::{Body, Resource, Resources};

/// Everything served, by type.
#[derive(Default)]
pub(super) struct Store {
    /// Counts changes and resends.
    serial: u64,
    /// Counts changes; what clients see as `version_info`.
    version: u64,
    types: BTreeMap<String, TypeState>,
}

/// The resources of one type.
#[derive(Default)]
pub(super) struct TypeState {
    /// Serial of the last change or resend of any resource here.
    pub(super) serial: u64,
    /// Version of the last change of any resource here.
    pub(super) version: u64,
    resources: BTreeMap<String, Kept>,
    /// The names, those that changed last behind: what is new is found without a look at all of them.
    by_serial: BTreeSet<(u64, String)>,
}

/// One resource, and when it changed.
pub(super) struct Kept {
    pub(super) body: Body,
    pub(super) serial: u64,
}

impl TypeState {
    pub(super) fn get(&self, name: &str) -> Option<(&str, &Kept)> {
        self.resources.get_key_value(name).map(|(name, kept)| (name.as_str(), kept))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &Kept)> {
        self.resources.iter().map(|(name, kept)| (name.as_str(), kept))
    }

    /// What changed after this serial.
    pub(super) fn since(&self, serial: u64) -> impl Iterator<Item = (&str, &Kept)> {
        let newer = self.by_serial.range((serial.saturating_add(1), String::new())..);
        newer.filter_map(|(_, name)| self.get(name))
    }

    fn insert(&mut self, name: String, kept: Kept) {
        self.remove(&name);
        self.by_serial.insert((kept.serial, name.clone()));
        self.resources.insert(name, kept);
    }

    fn remove(&mut self, name: &str) -> Option<Kept> {
        let kept = self.resources.remove(name)?;
        self.by_serial.remove(&(kept.serial, name.to_owned()));
        Some(kept)
    }

    /// Makes everything change as of this serial.
    fn renew(&mut self, serial: u64) {
        self.serial = serial;
        self.resources.values_mut().for_each(|kept| kept.serial = serial);
        self.by_serial = self.resources.keys().map(|name| (serial, name.clone())).collect();
    }
}

impl Store {
    pub(super) fn of_type(&self, type_url: &str) -> Option<&TypeState> {
        self.types.get(type_url)
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// The message of this type and name, if it is there and decodes.
    pub(super) fn message<M: Message + Name + Default>(&self, name: &str) -> Option<M> {
        self.types.get(&M::type_url())?.resources.get(name)?.body.message()
    }

    /// Replaces everything as one version; what stays the same is not sent again.
    pub(super) fn set(&mut self, resources: Resources) {
        self.next_version();
        let mut old = std::mem::take(&mut self.types);
        for resource in resources.into_resources() {
            self.take_over(&mut old, resource);
        }
        for (type_url, gone) in old {
            if !gone.resources.is_empty() {
                self.touch(type_url);
            } else {
                self.carry(type_url, &gone);
            }
        }
    }

    pub(super) fn put(&mut self, resources: impl IntoIterator<Item = Resource>) {
        self.next_version();
        for resource in resources {
            let (type_url, name, body) = resource.into_parts();
            let state = self.types.entry(type_url).or_default();
            if state.resources.get(&name).is_none_or(|kept| kept.body != body) {
                state.insert(name, Kept { body, serial: self.serial });
                (state.serial, state.version) = (self.serial, self.version);
            }
        }
    }

    pub(super) fn remove(&mut self, type_url: &str, name: &str) -> bool {
        let Some(state) = self.types.get_mut(type_url) else { return false };
        if state.remove(name).is_none() {
            return false;
        }
        self.next_version();
        self.touch(type_url.to_owned());
        true
    }

    /// Makes every resource of a type due again, in the version that it has.
    pub(super) fn resend(&mut self, type_url: &str) {
        self.serial += 1;
        if let Some(state) = self.types.get_mut(type_url) {
            state.renew(self.serial);
        }
    }

    fn next_version(&mut self) {
        self.serial += 1;
        self.version += 1;
    }

    fn touch(&mut self, type_url: String) {
        let state = self.types.entry(type_url).or_default();
        (state.serial, state.version) = (self.serial, self.version);
    }

    /// Keeps a type's moment of change through a replacement that did not concern it.
    fn carry(&mut self, type_url: String, old: &TypeState) {
        let state = self.types.entry(type_url).or_default();
        state.serial = state.serial.max(old.serial);
        state.version = state.version.max(old.version);
    }

    /// Puts a resource of the new set, with its old serial if it is what was there.
    fn take_over(&mut self, old: &mut BTreeMap<String, TypeState>, resource: Resource) {
        let (type_url, name, body) = resource.into_parts();
        let before = old.get_mut(&type_url).and_then(|state| state.resources.remove(&name));
        let unchanged = before.filter(|kept| kept.body == body).map(|kept| kept.serial);
        if unchanged.is_none() {
            self.touch(type_url.clone());
        }
        let kept = Kept { body, serial: unchanged.unwrap_or(self.serial) };
        self.types.entry(type_url).or_default().insert(name, kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::type_url::{CLUSTER, ENDPOINTS, LISTENER};
    use crate::testing::{cluster, endpoints};

    fn versions(store: &Store) -> [u64; 3] {
        [LISTENER, CLUSTER, ENDPOINTS].map(|type_url| store.of_type(type_url).unwrap().version)
    }

    #[test]
    fn a_replacement_changes_only_the_types_that_differ() {
        let mut store = Store::default();
        store.set(Resources::service("a", ["127.0.0.1:1"]));
        assert_eq!(versions(&store), [1, 1, 1]);
        store.set(Resources::service("a", ["127.0.0.1:2"]));
        assert_eq!(versions(&store), [1, 1, 2]);
        store.set(Resources::service("a", ["127.0.0.1:2"]).without(CLUSTER, "a"));
        assert_eq!(versions(&store), [1, 3, 2]);
        assert!(store.of_type(CLUSTER).unwrap().resources.is_empty());
    }

    #[test]
    fn putting_the_same_again_changes_nothing() {
        let mut store = Store::default();
        store.put([cluster("a").into(), endpoints("a").into()]);
        let serial = store.of_type(CLUSTER).unwrap().serial;
        store.put([cluster("a").into()]);
        assert_eq!(store.of_type(CLUSTER).unwrap().serial, serial);
        assert!(store.remove(CLUSTER, "a"));
        assert!(!store.remove(CLUSTER, "a"));
        assert_eq!(store.of_type(CLUSTER).unwrap().version, store.version());
    }

    #[test]
    fn a_resend_keeps_the_version() {
        let mut store = Store::default();
        store.put([cluster("a").into()]);
        let before = store.of_type(CLUSTER).map(|state| (state.serial, state.version)).unwrap();
        store.resend(CLUSTER);
        let after = store.of_type(CLUSTER).map(|state| (state.serial, state.version)).unwrap();
        assert!(after.0 > before.0 && after.1 == before.1);
    }
}

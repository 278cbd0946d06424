//! Who hears of each change of one cluster's connectivity: those alone that look at this cluster, however many others there
//! are.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

/// Watchers of one cluster. One that is dropped is forgotten when the next comes.
#[derive(Debug, Default)]
pub(crate) struct Watchers(Mutex<SmallVec<[Weak<Notify>; 1]>>);

impl Watchers {
    /// Notifies this one of each change from now on, once however often it is added.
    pub(crate) fn add(&self, watcher: &Arc<Notify>) {
        let mut watchers = self.0.lock();
        if !watchers.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(watcher))) {
            watchers.retain(|known| known.strong_count() > 0);
            watchers.push(Arc::downgrade(watcher));
        }
    }

    /// Whether anyone is to hear of changes.
    pub(crate) fn are_there(&self) -> bool {
        self.0.lock().iter().any(|watcher| watcher.strong_count() > 0)
    }

    /// The connectivity changed. Whoever does not look at it now is told when it does, of several changes once.
    pub(crate) fn notify(&self) {
        self.0.lock().iter().filter_map(Weak::upgrade).for_each(|watcher| watcher.notify_one());
    }
}

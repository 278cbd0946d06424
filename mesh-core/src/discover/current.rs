//! What is in force: calls take it with one atomic load, and who found nothing waits for the next.

use std::sync::Arc;

use crate::sync::{ArcSwapOption, watch};

/// A value that is replaced as a whole.
pub(super) struct Current<T> {
    value: ArcSwapOption<T>,
    /// Told of every value; it counts them.
    published: watch::Sender<u64>,
}

impl<T> Current<T> {
    /// Nothing is in force.
    pub(super) fn empty() -> Self {
        Self { value: ArcSwapOption::empty(), published: watch::Sender::new(0) }
    }

    pub(super) fn load(&self) -> Option<Arc<T>> {
        self.value.load_full()
    }

    /// Puts a value in force, and then wakes those who wait: whoever is told of it finds it, or a later one.
    pub(super) fn publish(&self, value: Arc<T>) {
        self.value.store(Some(value));
        self.published.send_modify(|published| *published += 1);
    }

    /// Takes the value out of force.
    pub(super) fn clear(&self) {
        self.value.store(None);
    }

    /// The value in force, or the next, that is `wanted`.
    pub(super) async fn wait_for(&self, wanted: impl Fn(&T) -> bool) -> Arc<T> {
        let mut published = self.published.subscribe();
        loop {
            // Before the look, so that no value falls in between.
            published.mark_unchanged();
            match self.load() {
                Some(value) if wanted(&value) => return value,
                // The sender is in `self`, so it cannot be gone.
                _ => drop(published.changed().await),
            }
        }
    }
}

//! What discovery asks of the balancer, which it does not know.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::balance::Clusters;
use crate::connect::{Connect, ConnectivityState};
use crate::error::Error;
use crate::snapshot::{ClusterEntry, ClusterKey, PrepareClusters};

impl<C: Connect> PrepareClusters for Clusters<C> {
    fn attach(&self, entries: &[Arc<ClusterEntry>]) {
        entries.iter().for_each(|entry| Clusters::attach(self, entry));
    }

    fn prepare(&self, entry: &Arc<ClusterEntry>) {
        Clusters::prepare(self, entry);
    }

    fn state(&self, entry: &ClusterEntry) -> ConnectivityState {
        self.connectivity(entry).unwrap_or(ConnectivityState::TransientFailure)
    }

    fn watch(&self, key: &ClusterKey, watcher: &Arc<Notify>) {
        Clusters::watch(self, key, watcher);
    }

    fn is_usable(&self, entry: &ClusterEntry) -> bool {
        self.connectivity(entry).is_some()
    }

    fn not_ready(&self, entry: &ClusterEntry, waited: Duration) -> Error {
        Clusters::not_ready(self, entry, waited)
    }
}

//! Whether the clusters of one target that are names can be reached: while they cannot, other addresses may be right by
//! now.

use std::fmt;
use std::future::pending;
use std::sync::Arc;

use tokio::sync::watch;

use crate::connect::ConnectivityState;
use crate::resource::cluster::{Discovery, DnsEndpoints};
use crate::snapshot::{ClusterEntry, PrepareClusters, Snapshot};

pub(super) struct Reach {
    clusters: Arc<dyn PrepareClusters>,
    /// Told of every change of any cluster.
    changes: watch::Receiver<u64>,
    /// The clusters that are names, those among the leaves of aggregates too.
    named: Vec<(Arc<ClusterEntry>, Arc<DnsEndpoints>)>,
}

impl Reach {
    pub(super) fn new(clusters: Arc<dyn PrepareClusters>) -> Self {
        let changes = clusters.changes();
        Self { clusters, changes, named: Vec::new() }
    }

    /// These clusters are in force from now on.
    pub(super) fn publish(&mut self, snapshot: &Snapshot) {
        let leaves = snapshot.clusters.iter().flat_map(|entry| &entry.leaves).flat_map(|leaves| leaves.entries.iter());
        let all = snapshot.clusters.iter().chain(leaves);
        self.named = all.filter_map(|entry| Some((entry.clone(), names(entry)?.clone()))).collect();
        self.changes.mark_changed();
    }

    /// Resolves when the state of a cluster changed, of this target or another, if any of this one's is a name.
    pub(super) async fn changed(&mut self) {
        if self.named.is_empty() || self.changes.changed().await.is_err() {
            pending().await
        }
    }

    /// The names, and whether calls that go there find nobody.
    pub(super) fn look(&self) -> impl Iterator<Item = (&DnsEndpoints, bool)> {
        self.named.iter().map(|(entry, names)| {
            let lost = self.clusters.state(entry) == ConnectivityState::TransientFailure;
            (&**names, lost)
        })
    }
}

fn names(entry: &ClusterEntry) -> Option<&Arc<DnsEndpoints>> {
    match &entry.config.as_ref().ok()?.cluster.discovery {
        Discovery::Dns(names) => Some(names),
        _ => None,
    }
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reach").field("named", &self.named.len()).finish_non_exhaustive()
    }
}

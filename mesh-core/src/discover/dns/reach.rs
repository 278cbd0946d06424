//! Whether the clusters of one target that are names can be reached: while they cannot, other addresses may be right by
//! now.

use std::fmt;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::connect::ConnectivityState;
use crate::resource::cluster::{Discovery, DnsEndpoints};
use crate::snapshot::{ClusterEntry, PrepareClusters, Snapshot};

pub(super) struct Reach {
    clusters: Arc<dyn PrepareClusters>,
    /// Told of every change of one of these clusters.
    changed: Arc<Notify>,
    /// The clusters that are names, those among the leaves of aggregates too.
    named: Vec<(Arc<ClusterEntry>, Arc<DnsEndpoints>)>,
}

impl Reach {
    pub(super) fn new(clusters: Arc<dyn PrepareClusters>) -> Self {
        Self { clusters, changed: Arc::default(), named: Vec::new() }
    }

    /// These clusters are in force from now on.
    pub(super) fn publish(&mut self, snapshot: &Snapshot) {
        let leaves = snapshot.clusters.iter().flat_map(|entry| &entry.leaves).flat_map(|leaves| leaves.entries.iter());
        let all = snapshot.clusters.iter().chain(leaves);
        self.named = all.filter_map(|entry| Some((entry.clone(), names(entry)?.clone()))).collect();
        self.changed = Arc::default();
        self.named.iter().for_each(|(entry, _)| self.clusters.watch(&entry.key, &self.changed));
        // How they are now is news, too.
        self.changed.notify_one();
    }

    /// Resolves when the state of a cluster changed that is a name. Cancel safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
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

//! The connectivity of a target: that of the clusters it sends calls to, taken together.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

use crate::connect::ConnectivityState;
use crate::snapshot::{PrepareClusters, Snapshot};

/// A table that names more clusters than this does not connect them before their first call: ten thousand known
/// clusters are not a hundred thousand sockets.
const MOST_CONNECTED_EARLY: usize = 16;

/// The states of a target's clusters, as one.
#[derive(Default)]
pub(super) struct Aggregate {
    clusters: Vec<(Arc<str>, watch::Receiver<ConnectivityState>)>,
    /// A target without usable routes never gets ready.
    unroutable: bool,
    changes: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Aggregate {
    /// Connects the clusters that take calls of `snapshot`, or copies of them, and watches the former.
    pub(super) fn follow(&mut self, snapshot: &Snapshot, clusters: &dyn PrepareClusters) {
        self.clusters.clear();
        let Ok(table) = &snapshot.routing else {
            self.unroutable = true;
            return;
        };
        self.unroutable = false;
        let copied = table.only_mirrored();
        if table.weighted().len() + copied.len() > MOST_CONNECTED_EARLY {
            return;
        }
        let mut seen = HashSet::new();
        for entry in table.weighted().iter().filter_map(|place| snapshot.clusters.get(*place)) {
            if seen.insert(entry.key.name.clone()) {
                self.clusters.push((entry.key.name.clone(), clusters.prepare(entry)));
            }
        }
        // Their state is not the target's.
        for entry in snapshot.clusters.get(copied).into_iter().flatten() {
            clusters.prepare(entry);
        }
        self.wait_for_changes();
    }

    fn wait_for_changes(&mut self) {
        self.changes.clear();
        for (_, state) in &self.clusters {
            let mut state = state.clone();
            state.mark_unchanged();
            self.changes.push(Box::pin(async move {
                if state.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }));
        }
    }

    /// Ready if any cluster is, as gRPC's cluster manager takes them together.
    pub(super) fn state(&self) -> ConnectivityState {
        let any = |wanted| self.clusters.iter().any(|(_, state)| *state.borrow() == wanted);
        match () {
            () if self.unroutable => ConnectivityState::TransientFailure,
            () if self.clusters.is_empty() => ConnectivityState::Idle,
            () if any(ConnectivityState::Ready) => ConnectivityState::Ready,
            () if any(ConnectivityState::Connecting) => ConnectivityState::Connecting,
            () if any(ConnectivityState::Idle) => ConnectivityState::Idle,
            () => ConnectivityState::TransientFailure,
        }
    }

    /// Resolves with the state when a cluster's changed.
    pub(super) async fn changed(&mut self) -> ConnectivityState {
        match self.changes.next().await {
            Some(()) => {
                self.wait_for_changes();
                self.state()
            }
            None => std::future::pending().await,
        }
    }
}

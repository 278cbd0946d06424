//! A target whose snapshot never changes: addresses, or a snapshot made in code.

use std::sync::Arc;

use super::xds::publish_snapshot;
use super::{Source, connectivity};
use crate::snapshot::{PrepareClusters, Snapshot};

/// Publishes the snapshot, and the connectivity of its clusters until nobody uses the target any more.
pub(crate) async fn follow(source: Source, snapshot: Arc<Snapshot>, clusters: Arc<dyn PrepareClusters>) {
    let mut connectivity = connectivity::Aggregate::default();
    publish_snapshot(snapshot, &source, &*clusters, &mut connectivity);
    loop {
        tokio::select! {
            biased;
            () = source.dropped() => return source.close(),
            state = connectivity.changed() => source.connectivity(state),
        }
    }
}

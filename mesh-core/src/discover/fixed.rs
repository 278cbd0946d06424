//! A target whose snapshot never changes: addresses, or a snapshot made in code.

use std::future::pending;
use std::sync::Arc;

use super::{Source, connectivity};
use crate::snapshot::{PrepareClusters, Snapshot};

/// Publishes the snapshot, and the connectivity of its clusters until nobody uses the target any more.
pub(crate) async fn follow(source: Source, snapshot: Arc<Snapshot>, clusters: Arc<dyn PrepareClusters>) {
    let mut connectivity = connectivity::Aggregate::new(clusters);
    connectivity.publish(snapshot, &source);
    connectivity.shown_until(&source, pending::<()>()).await;
}

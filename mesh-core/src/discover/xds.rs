//! Follows one target at the control plane: what changed in the store becomes the next snapshot.

use std::sync::Arc;

use super::{Source, connectivity};
use crate::snapshot::dependencies::{Dependencies, Step};
use crate::snapshot::{PrepareClusters, Snapshot};
use crate::xds::{Change, Subscriber};

/// Publishes the target's snapshots until nobody uses it any more.
pub(crate) async fn follow(
    source: Source,
    mut subscriber: Subscriber,
    mut dependencies: Dependencies,
    clusters: Arc<dyn PrepareClusters>,
) {
    let mut connectivity = connectivity::Aggregate::default();
    dependencies.watched().apply(&mut subscriber);
    // Another target may have brought everything already.
    let known = dependencies.everything();
    take_in(&known, &source, &mut subscriber, &mut dependencies, &*clusters, &mut connectivity);
    loop {
        tokio::select! {
            biased;
            () = source.dropped() => return source.close(),
            changes = subscriber.changed() => {
                take_in(&changes, &source, &mut subscriber, &mut dependencies, &*clusters, &mut connectivity);
            }
            state = connectivity.changed() => source.connectivity(state),
        }
    }
}

fn take_in(
    changes: &[Change],
    source: &Source,
    subscriber: &mut Subscriber,
    dependencies: &mut Dependencies,
    clusters: &dyn PrepareClusters,
    connectivity: &mut connectivity::Aggregate,
) {
    let Step { watch, publish, waiting_for } = dependencies.handle_changes(changes, subscriber);
    if watch {
        dependencies.watched().apply(subscriber);
    }
    if let Some(snapshot) = publish {
        publish_snapshot(snapshot, source, clusters, connectivity);
    }
    if let Some(what) = &waiting_for {
        tracing::debug!(%what, "waiting");
    }
    source.waiting_for(waiting_for);
}

/// Puts a snapshot in force, with the clusters it sends calls to on their way to be connected.
pub(super) fn publish_snapshot(
    snapshot: Arc<Snapshot>,
    source: &Source,
    clusters: &dyn PrepareClusters,
    connectivity: &mut connectivity::Aggregate,
) {
    // Before the calls come: a cluster's running state must see its new endpoints first.
    clusters.attach(&snapshot.clusters);
    connectivity.follow(&snapshot, clusters);
    source.connectivity(connectivity.state());
    source.publish(snapshot);
}

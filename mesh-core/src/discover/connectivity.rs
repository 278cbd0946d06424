//! The connectivity of a target: that of the clusters it sends calls to, taken together.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Source;
use crate::connect::ConnectivityState;
use crate::snapshot::{ClusterEntry, PrepareClusters, Snapshot};

/// A table that names more clusters than this does not connect them before their first call: ten thousand known
/// clusters are not a hundred thousand sockets.
const MOST_CONNECTED_EARLY: usize = 16;
/// To look at a cluster takes a hundredth of this; a target of many looks again only after so much for each.
const PAUSE_PER_CLUSTER: Duration = Duration::from_micros(10);

/// The states of a target's clusters, as one.
pub(super) struct Aggregate {
    clusters: Arc<dyn PrepareClusters>,
    /// Told of every change of any cluster.
    changes: watch::Receiver<u64>,
    snapshot: Option<Arc<Snapshot>>,
    looked: Instant,
}

/// What calls of a target would find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Readiness {
    /// Ready if any cluster is, as gRPC's cluster manager takes them together.
    pub(super) state: ConnectivityState,
    /// No call would have to wait for a connection: each cluster is ready, or connects at its first call.
    pub(super) complete: bool,
}

impl Aggregate {
    pub(super) fn new(clusters: Arc<dyn PrepareClusters>) -> Self {
        let changes = clusters.changes();
        Self { clusters, changes, snapshot: None, looked: Instant::now() }
    }

    /// Puts a snapshot in force at `source`, with the clusters that take its calls, or copies of them, on their way to be
    /// connected.
    pub(super) fn publish(&mut self, snapshot: Arc<Snapshot>, source: &Source) {
        // Before the calls come: a cluster's running state must see its new endpoints first.
        self.clusters.attach(&snapshot.clusters);
        if let Ok(table) = &snapshot.routing {
            let places = || table.weighted().iter().copied().chain(table.only_mirrored());
            if places().count() <= MOST_CONNECTED_EARLY {
                places()
                    .filter_map(|place| snapshot.clusters.get(place))
                    .for_each(|entry| self.clusters.prepare(entry));
            }
        }
        self.snapshot = Some(snapshot.clone());
        source.readiness(self.look());
        source.publish(snapshot);
    }

    /// Shows the connectivity at `source` until something happens: what it is, or `None` when nobody uses the target any
    /// more.
    pub(super) async fn shown_until<T>(&mut self, source: &Source, event: impl Future<Output = T>) -> Option<T> {
        let mut event = pin!(event);
        loop {
            tokio::select! {
                biased;
                () = source.dropped() => return None,
                happened = &mut event => return Some(happened),
                readiness = self.changed() => source.readiness(readiness),
            }
        }
    }

    /// Resolves when the state of a cluster changed, of this target or another.
    pub(super) async fn changed(&mut self) -> Readiness {
        let clusters = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.clusters.len());
        if clusters > MOST_CONNECTED_EARLY {
            let pause = PAUSE_PER_CLUSTER.saturating_mul(u32::try_from(clusters).unwrap_or(u32::MAX));
            sleep_until(self.looked + pause).await;
        }
        if self.changes.changed().await.is_err() {
            pending::<()>().await;
        }
        self.look()
    }

    /// How the clusters are at this moment.
    pub(super) fn look(&mut self) -> Readiness {
        self.looked = Instant::now();
        self.changes.mark_unchanged();
        self.snapshot.as_ref().map_or(Readiness::of([]), |snapshot| match taking_calls(snapshot) {
            Some(entries) => Readiness::of(entries.map(|entry| self.clusters.state(entry))),
            // A target without usable routes never gets ready.
            None => Readiness::of([ConnectivityState::TransientFailure]),
        })
    }
}

/// The clusters that take calls, of a snapshot that has routes.
pub(super) fn taking_calls(snapshot: &Snapshot) -> Option<impl Iterator<Item = &Arc<ClusterEntry>>> {
    let table = snapshot.routing.as_ref().ok()?;
    Some(table.weighted().iter().filter_map(|place| snapshot.clusters.get(*place)))
}

/// Whether calls of a cluster in this state wait for no connection, or are themselves what makes it connect.
pub(super) fn is_ready(state: ConnectivityState) -> bool {
    matches!(state, ConnectivityState::Ready | ConnectivityState::Idle)
}

impl Readiness {
    fn of(states: impl IntoIterator<Item = ConnectivityState>) -> Self {
        let (mut best, mut complete) = (None, true);
        for state in states {
            complete &= is_ready(state);
            best = best.into_iter().chain([state]).min_by_key(|state| rank(*state));
        }
        Self { state: best.unwrap_or(ConnectivityState::Idle), complete }
    }
}

/// Of several states, that of the least rank is what they come to.
fn rank(state: ConnectivityState) -> u8 {
    match state {
        ConnectivityState::Ready => 0,
        ConnectivityState::Connecting => 1,
        ConnectivityState::Idle => 2,
        ConnectivityState::TransientFailure => 3,
        ConnectivityState::Shutdown => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_come_to_one_as_in_grpc_and_all_of_them_make_a_target_ready() {
        use ConnectivityState::{Connecting, Idle, Ready, TransientFailure};
        let cases: [(&[ConnectivityState], _); 8] = [
            (&[], (Idle, true)),
            (&[Idle, Idle], (Idle, true)),
            (&[Ready, Idle], (Ready, true)),
            (&[TransientFailure, Ready], (Ready, false)),
            (&[Ready, Connecting], (Ready, false)),
            (&[TransientFailure, Connecting, Idle], (Connecting, false)),
            (&[TransientFailure, Idle], (Idle, false)),
            (&[TransientFailure], (TransientFailure, false)),
        ];
        for (states, (state, complete)) in cases {
            assert_eq!(Readiness::of(states.iter().copied()), Readiness { state, complete }, "{states:?}");
        }
    }
}

//! The connectivity of a target: that of the clusters it sends calls to, taken together.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Source;
use crate::connect::ConnectivityState;
use crate::snapshot::{ClusterEntry, ClusterKey, PrepareClusters, Problem, Snapshot};

/// A table that names more clusters than this does not connect them before their first call: ten thousand known
/// clusters are not a hundred thousand sockets.
const MOST_CONNECTED_EARLY: usize = 16;
/// To look at a cluster takes a hundredth of this; a target of many looks again only after so much for each.
const PAUSE_PER_CLUSTER: Duration = Duration::from_micros(10);

/// The states of a target's clusters, as one.
pub(super) struct Aggregate {
    clusters: Arc<dyn PrepareClusters>,
    /// Told of every change of one of the clusters, and of no other target's: another one whenever the clusters are others.
    changed: Arc<Notify>,
    snapshot: Option<Arc<Snapshot>>,
    looked: Instant,
}

/// What calls of a target would find.
#[derive(Debug)]
pub(super) struct Readiness {
    /// Ready if any cluster is, as gRPC's cluster manager takes them together.
    pub(super) state: ConnectivityState,
    pub(super) prospect: Prospect,
}

/// What there is to wait for before the calls of a target wait for nothing.
#[derive(Clone, Debug)]
pub(super) enum Prospect {
    /// Nothing: each cluster is ready, or connects at its first call.
    Ready,
    /// The configuration, or that an endpoint is connected.
    Open,
    /// Nothing that helps: there are no usable routes.
    Unroutable(Problem),
    /// Nothing that helps: this cluster cannot be used, and its calls fail.
    Unusable(Arc<ClusterEntry>),
}

impl Aggregate {
    pub(super) fn new(clusters: Arc<dyn PrepareClusters>) -> Self {
        Self { clusters, changed: Arc::default(), snapshot: None, looked: Instant::now() }
    }

    /// Puts a snapshot in force at `source`, with the clusters that take its calls, or copies of them, on their way to be
    /// connected.
    pub(super) fn publish(&mut self, snapshot: Arc<Snapshot>, source: &Source) {
        // Before the calls come: a cluster's running state must see its new endpoints first.
        self.clusters.attach(&self.news(&snapshot));
        if let Ok(table) = &snapshot.routing {
            let places = || table.weighted().iter().copied().chain(table.only_mirrored());
            if places().count() <= MOST_CONNECTED_EARLY {
                places()
                    .filter_map(|place| snapshot.clusters.get(place))
                    .for_each(|entry| self.clusters.prepare(entry));
            }
        }
        self.watch(&snapshot);
        self.snapshot = Some(snapshot.clone());
        source.readiness(self.look());
        source.publish(snapshot);
    }

    /// The entries that are not at the same place in the snapshot in force: of many clusters mostly one.
    fn news(&self, snapshot: &Snapshot) -> Vec<Arc<ClusterEntry>> {
        let known = self.snapshot.as_ref().map_or(&[][..], |known| &known.clusters);
        let is_known = |place, entry| known.get(place).is_some_and(|known| Arc::ptr_eq(known, entry));
        let news = snapshot.clusters.iter().enumerate().filter(|(place, entry)| !is_known(*place, *entry));
        news.map(|(_, entry)| entry.clone()).collect()
    }

    /// Hears of the clusters of this snapshot, and no longer of those that only an older one has.
    fn watch(&mut self, snapshot: &Snapshot) {
        let Ok(entries) = taking_calls(snapshot) else { return };
        let known = self.snapshot.as_deref().and_then(|known| taking_calls(known).ok());
        if known.is_some_and(|known| known.map(key).eq(entries.clone().map(key))) {
            return;
        }
        self.changed = Arc::default();
        entries.for_each(|entry| self.clusters.watch(&entry.key, &self.changed));
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

    /// Resolves when the state of a cluster of the target changed. Cancel safe.
    pub(super) async fn changed(&mut self) -> Readiness {
        let clusters = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.clusters.len());
        if clusters > MOST_CONNECTED_EARLY {
            let pause = PAUSE_PER_CLUSTER.saturating_mul(u32::try_from(clusters).unwrap_or(u32::MAX));
            sleep_until(self.looked + pause).await;
        }
        self.changed.notified().await;
        self.look()
    }

    /// How the clusters are at this moment.
    pub(super) fn look(&mut self) -> Readiness {
        self.looked = Instant::now();
        let Some(snapshot) = &self.snapshot else { return Readiness::of([]) };
        let entries = match taking_calls(snapshot) {
            Ok(entries) => entries,
            Err(problem) => {
                let prospect = Prospect::Unroutable(problem.clone());
                return Readiness { state: ConnectivityState::TransientFailure, prospect };
            }
        };
        let mut readiness = Readiness::of(entries.clone().map(|entry| self.clusters.state(entry)));
        let mut unusable = entries.filter(|entry| !self.clusters.is_usable(entry));
        if matches!(readiness.prospect, Prospect::Open)
            && let Some(cluster) = unusable.next()
        {
            readiness.prospect = Prospect::Unusable(cluster.clone());
        }
        readiness
    }
}

/// The clusters that take calls; of a snapshot without routes, why it has none.
pub(super) fn taking_calls(snapshot: &Snapshot) -> Result<impl Iterator<Item = &Arc<ClusterEntry>> + Clone, &Problem> {
    let table = snapshot.routing.as_ref()?;
    Ok(table.weighted().iter().filter_map(|place| snapshot.clusters.get(*place)))
}

fn key(entry: &Arc<ClusterEntry>) -> &ClusterKey {
    &entry.key
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
        let prospect = if complete { Prospect::Ready } else { Prospect::Open };
        Self { state: best.unwrap_or(ConnectivityState::Idle), prospect }
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
    use std::collections::HashMap;
    use std::time::Duration;

    use futures_util::FutureExt;
    use parking_lot::Mutex;

    use super::*;
    use crate::error::Error;
    use crate::resource::endpoints::Address;
    use crate::snapshot::fixed;

    /// Clusters that are what a test says, and remember who watches them.
    #[derive(Default)]
    struct Scripted(Mutex<HashMap<ClusterKey, Arc<Notify>>>);

    impl PrepareClusters for Scripted {
        fn attach(&self, _: &[Arc<ClusterEntry>]) {}

        fn prepare(&self, _: &Arc<ClusterEntry>) {}

        fn state(&self, _: &ClusterEntry) -> ConnectivityState {
            ConnectivityState::Connecting
        }

        fn watch(&self, key: &ClusterKey, watcher: &Arc<Notify>) {
            self.0.lock().insert(key.clone(), watcher.clone());
        }

        fn is_usable(&self, entry: &ClusterEntry) -> bool {
            &*entry.key.name != "unusable"
        }

        fn not_ready(&self, _: &ClusterEntry, _: Duration) -> Error {
            Error::shut_down()
        }
    }

    impl Scripted {
        fn change(&self, cluster: &Arc<ClusterEntry>) {
            self.0.lock()[&cluster.key].notify_one();
        }
    }

    fn snapshot(cluster: &str) -> Snapshot {
        fixed::of_addresses(&cluster.into(), ["127.0.0.1:1".parse::<Address>().unwrap()])
    }

    #[tokio::test]
    async fn a_target_wakes_for_its_own_clusters_and_for_those_of_its_latest_snapshot_alone() {
        let clusters = Arc::new(Scripted::default());
        let mut targets: Vec<_> = (0..3).map(|_| Aggregate::new(clusters.clone())).collect();
        let snapshots = ["a", "b", "c"].map(|name| Arc::new(snapshot(name)));
        let take = |target: &mut Aggregate, snapshot: &Arc<Snapshot>| {
            target.watch(snapshot);
            target.snapshot = Some(snapshot.clone());
        };
        targets.iter_mut().zip(&snapshots).for_each(|(target, snapshot)| take(target, snapshot));
        let mut woken = |cluster: usize| -> Vec<usize> {
            clusters.change(&snapshots[cluster].clusters[0]);
            (0..3).filter(|place| targets[*place].changed().now_or_never().is_some()).collect()
        };
        assert_eq!([woken(0), woken(1), woken(2)], [[0], [1], [2]]);
        take(&mut targets[0], &snapshots[2]);
        clusters.change(&snapshots[0].clusters[0]);
        assert!(targets[0].changed().now_or_never().is_none(), "it uses another now");
        clusters.change(&snapshots[2].clusters[0]);
        assert!(targets[0].changed().now_or_never().is_some());
    }

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
            let readiness = Readiness::of(states.iter().copied());
            let is_ready = matches!(readiness.prospect, Prospect::Ready);
            assert_eq!((readiness.state, is_ready), (state, complete), "{states:?}");
        }
    }
}

//! Who hears of a change of connectivity.

use futures_util::FutureExt;
use tokio::sync::Notify;

use super::aggregates::{aggregate, leaf};
use super::*;
use crate::connect::ConnectivityState::{self, Ready, TransientFailure};
use crate::connect::testing::Reach;

/// One watcher for each of the entries.
fn watchers(mesh: &Mesh, entries: &[Arc<ClusterEntry>]) -> Vec<Arc<Notify>> {
    let watch = |entry: &Arc<ClusterEntry>| {
        let watcher = Arc::default();
        // As often as there are snapshots with the cluster.
        (0..3).for_each(|_| mesh.clusters.watch(&entry.key, &watcher));
        watcher
    };
    entries.iter().map(watch).collect()
}

/// Which of them were woken since this was last asked.
fn woken(watchers: &[Arc<Notify>]) -> Vec<usize> {
    let is_woken = |place: &usize| watchers[*place].notified().now_or_never().is_some();
    (0..watchers.len()).filter(is_woken).collect()
}

/// How many clusters have running state.
fn clusters(mesh: &Mesh) -> usize {
    mesh.clusters.registry().all().len()
}

#[tokio::test(start_paused = true)]
async fn the_change_of_one_cluster_wakes_those_alone_that_watch_it_among_a_thousand() {
    let mesh = Mesh::new();
    let entries: Vec<_> = (0..1000).map(|number| leaf(&format!("c{number}"), &[&[number]])).collect();
    let all = watchers(&mesh, &entries);
    let another = watchers(&mesh, &entries[7..=7]);
    let state = |place: usize| mesh.clusters.connectivity(&entries[place]);
    assert_eq!(woken(&all), [0; 0]);
    assert_eq!(clusters(&mesh), 0, "who watches needs no running state");
    for (place, change, wanted) in [(7, true, Ready), (999, true, Ready), (7, false, TransientFailure)] {
        match change {
            true => mesh.prepare(&entries[place]).await,
            false => {
                mesh.network.reach(7, Reach::Refuses);
                mesh.network.cut(7);
                seconds(0.1).await;
            }
        }
        assert_eq!(state(place), Some(wanted));
        assert_eq!(woken(&all), [place]);
        assert_eq!(woken(&another).len(), usize::from(place == 7));
    }
    assert_eq!(clusters(&mesh), 2);
    drop(all);
    mesh.network.cut(999);
    seconds(0.1).await;
    assert_eq!(woken(&another), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn who_watches_a_cluster_hears_of_it_over_all_its_lives() {
    let mesh = Mesh::new();
    let watchers = watchers(&mesh, &[cluster(&[1])]);
    for life in 0..3 {
        // Each time the state of the one before is gone.
        let entry = cluster(&[1]);
        mesh.prepare(&entry).await;
        assert_eq!(woken(&watchers), [0], "in life {life}");
        drop(entry);
        seconds(600.0).await;
        assert_eq!(clusters(&mesh), 0);
        woken(&watchers);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_for_those_that_watch_no_longer() {
    let mesh = Mesh::new();
    let [used, other] = [leaf("used", &[&[1]]), leaf("other", &[&[2]])];
    let all = watchers(&mesh, &[used.clone(), other]);
    mesh.prepare(&used).await;
    let watched = || mesh.clusters.registry().watched();
    assert_eq!(watched(), 2);
    drop(all);
    seconds(600.0).await;
    assert_eq!(watched(), 1, "the cluster itself is still there");
    drop(used);
    seconds(600.0).await;
    assert_eq!(watched(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_watches_an_aggregate_hears_of_its_leaves() {
    let mesh = Mesh::new();
    let leaves = [leaf("a", &[&[1]]), leaf("b", &[&[2]])];
    let entry = aggregate(&leaves.each_ref());
    mesh.clusters.attach(&entry);
    let watchers = watchers(&mesh, &[entry.clone(), leaf("c", &[&[3]])]);
    let state = || mesh.clusters.connectivity(&entry);
    mesh.prepare(&entry).await;
    assert_eq!((state(), woken(&watchers)), (Some(ConnectivityState::Ready), vec![0]));
    for number in [1, 2] {
        mesh.network.reach(number, Reach::Refuses);
        mesh.network.cut(number);
        seconds(0.1).await;
        assert_eq!(woken(&watchers), [0], "{number} is lost");
    }
    assert_eq!(state(), Some(TransientFailure));
}

//! What a known cluster costs while nobody calls it.

use std::mem::size_of;

use super::*;
use crate::balance::balancer::Balancer;

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_not_in_use_connects_nothing_and_is_small() {
    let mesh = Mesh::new();
    let entry = cluster(&[1, 2, 3]);
    mesh.clusters.attach(&entry);
    settle().await;
    assert_eq!([1, 2, 3].map(|number| mesh.network.attempts(number)), [0; 3]);
    let seen = mesh.clusters.states(&entry);
    assert!(seen.len() == 3 && seen.iter().all(|endpoint| endpoint.subchannel.is_none()), "{seen:?}");
    assert!(mesh.clusters.ejections(&entry).is_empty());
    assert!(mesh.clusters.registry().all().is_empty(), "who looks makes no running state");
    // With 10 endpoints of 40 bytes each in the configuration, far from 300 an endpoint.
    assert!(size_of::<Balancer<Network>>() < 600, "{}", size_of::<Balancer<Network>>());
}

//! All traffic is switched to another cluster and back, again and again, while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mesh_core::testing::{ControlPlane, Resources, cluster, endpoints, listener, route, route_config};
use mesh_core::{Mesh, MeshStatus};

use crate::support::backend::Backend;
use crate::support::client::{Client, quick_mesh};
use crate::support::until;

const CALLERS: usize = 2;

/// Waits until the mesh reports that the target's calls go by routes to this cluster.
async fn in_force(mesh: &Mesh, cluster: &str) {
    let reports = |status: MeshStatus| {
        let clusters: Vec<_> = status.targets.iter().flat_map(|target| &target.clusters).collect();
        clusters.iter().map(|cluster| &*cluster.name).eq([cluster])
    };
    until(cluster, || reports(mesh.status())).await;
}

#[tokio::test]
async fn no_call_that_starts_after_new_routes_are_in_force_goes_by_older_ones() {
    flip(50).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes ten seconds or more"]
async fn of_a_thousand_flips_none_is_missed() {
    flip(1000).await;
}

async fn flip(flips: u64) {
    let backends = [Backend::start("blue").await, Backend::start("green").await];
    let color = |flip: u64| backends[usize::from(!flip.is_multiple_of(2))].name();
    let control_plane = ControlPlane::new();
    let both = backends.iter().fold(Resources::new().with(listener("greeter")), |all, backend| {
        all.with(cluster(backend.name())).with(endpoints(backend.name()).endpoint(backend.address()))
    });
    control_plane.set(both.with(route_config("greeter").routes([route().cluster(color(0))])));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), color(0));

    // The flip that was sent last, and the last one that the mesh reported.
    let (sent, reported) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (client, sent, reported) = (client.clone(), sent.clone(), reported.clone());
            let names = [color(0).to_owned(), color(1).to_owned()];
            tokio::spawn(async move {
                let mut judged = 0;
                while sent.load(Ordering::SeqCst) < flips {
                    let before = reported.load(Ordering::SeqCst);
                    let name = client.hello().await.unwrap();
                    // Nothing newer was on its way meanwhile: there is but one right answer.
                    if sent.load(Ordering::SeqCst) == before {
                        assert_eq!(name, names[usize::from(!before.is_multiple_of(2))], "flip {before}");
                        judged += 1;
                    }
                }
                judged
            })
        })
        .collect();
    for flip in 1..=flips {
        sent.store(flip, Ordering::SeqCst);
        control_plane.put(route_config("greeter").routes([route().cluster(color(flip))]));
        in_force(&mesh, color(flip)).await;
        reported.store(flip, Ordering::SeqCst);
        // The first call after the report is judged in any case.
        assert_eq!(client.hello().await.unwrap(), color(flip), "flip {flip}");
    }
    let mut judged = 0;
    for caller in callers {
        judged += caller.await.unwrap();
    }
    println!("{judged} calls beside {flips} flips");
}

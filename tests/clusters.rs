//! Clusters of every kind: where their endpoints come from, and what is said when they cannot be had.

use std::time::Duration;

use mesh_core::balance::BalanceOptions;
use mesh_core::connect::ConnectivityState;
use mesh_core::testing::{ControlPlane, Resources, cluster, endpoints};
use mesh_core::{LeafStatus, Mesh};
use mesh_xds_proto::envoy::config::cluster::v3::cluster::LbPolicy;
use tonic::Code;

use crate::support::backend::Backend;
use crate::support::client::{Client, SOON, assert_says, impatient_mesh, quick};

/// `greeter` as an aggregate of these clusters, each with one endpoint.
fn aggregate(leaves: &[(&str, &Backend)]) -> Resources {
    let names = leaves.iter().map(|(name, _)| *name);
    let resources = Resources::service("greeter", [leaves[0].1.address()]).with(cluster("greeter").aggregate(names));
    leaves.iter().fold(resources, |resources, (name, backend)| {
        resources.with(cluster(*name)).with(endpoints(*name).endpoint(backend.address()))
    })
}

/// A mesh that leaves a cluster for the next one soon.
async fn mesh(control_plane: &ControlPlane) -> Mesh {
    let step = Duration::from_millis(10);
    let balance = BalanceOptions::new().backoff(step, 5 * step).failover_timeout(SOON);
    quick().balance(balance).control_plane(control_plane).build().await.expect("a mesh")
}

/// The leaves of `greeter`, with `*` behind the one that takes the calls.
fn leaves(mesh: &Mesh) -> Vec<String> {
    let name = |leaf: &LeafStatus| format!("{}{}", leaf.cluster.name, if leaf.takes_calls { "*" } else { "" });
    mesh.status().targets[0].clusters[0].leaves.iter().map(name).collect()
}

#[tokio::test]
async fn the_first_leaf_that_can_takes_the_calls_of_an_aggregate() {
    let (mut near, far) = (Backend::start("near").await, Backend::start("far").await);
    let control_plane = ControlPlane::new();
    control_plane.set(aggregate(&[("near", &near), ("far", &far)]));
    let mesh = mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    for _ in 0..20 {
        assert_eq!(client.cluster().await.expect("an answer"), "near");
    }
    assert_eq!(leaves(&mesh), ["near*", "far"]);
    assert_eq!(far.calls(), 0);
    near.stop().await;
    assert_eq!(client.recovers().await, "far");
    for _ in 0..20 {
        assert_eq!(client.cluster().await.expect("an answer"), "far");
    }
    assert_eq!(leaves(&mesh), ["near", "far*"]);
    near.restart().await;
    client.hello_until("near").await;
    assert_eq!(leaves(&mesh), ["near*", "far"]);
}

#[tokio::test]
async fn no_call_fails_when_the_leaf_in_use_loses_its_endpoints() {
    let (near, far) = (Backend::start("near").await, Backend::start("far").await);
    let control_plane = ControlPlane::new();
    control_plane.set(aggregate(&[("near", &near), ("far", &far)]));
    let mesh = mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello_until("near").await;
    control_plane.put(endpoints("near"));
    client.hello_until("far").await;
    control_plane.put(endpoints("near").endpoint(near.address()));
    client.hello_until("near").await;
}

#[tokio::test]
async fn each_leaf_drops_and_balances_as_it_says_itself() {
    let (near, far) = (Backend::start("near").await, Backend::start("far").await);
    let control_plane = ControlPlane::new();
    let resources = aggregate(&[("near", &near), ("far", &far)])
        .with(cluster("near").lb(LbPolicy::Random))
        .with(endpoints("near").endpoint(near.address()).drop_calls("overload", 1_000_000));
    control_plane.set(resources);
    let mesh = mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let status = client.hello().await.expect_err("dropped");
    assert_says(&status, &["drop 100 %", "`overload`", "cluster near"]);
    control_plane.put(endpoints("near").drop_calls("overload", 1_000_000));
    assert_eq!(client.recovers().await, "far");
}

#[tokio::test]
async fn a_leaf_that_does_not_exist_is_passed_over() {
    let far = Backend::start("far").await;
    let control_plane = ControlPlane::new();
    control_plane.set(aggregate(&[("far", &far)]).with(cluster("greeter").aggregate(["ghost", "far"])));
    let mesh = impatient_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.expect("an answer"), "far");
    assert_eq!(leaves(&mesh), ["far*"]);
}

#[tokio::test]
async fn aggregates_that_name_each_other_fail_by_name() {
    let backend = Backend::start("a").await;
    let control_plane = ControlPlane::new();
    let resources = aggregate(&[("a", &backend)]).with(cluster("greeter").aggregate(["inner"]));
    control_plane.set(resources.with(cluster("inner").aggregate(["greeter"])));
    let mesh = impatient_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let status = client.hello().await.expect_err("a cycle");
    assert_eq!(status.code(), Code::Unavailable);
    assert_says(&status, &["aggregate clusters form a cycle: greeter > inner > greeter"]);
    control_plane.put(cluster("inner").aggregate(["a"]));
    assert_eq!(client.recovers().await, "a");
    // Back to what is wrong: the leaves in force serve on, and the status says why.
    control_plane.put(cluster("inner").aggregate(["greeter"]));
    let held = async {
        while !mesh.status().targets[0].waiting_for.as_ref().is_some_and(|what| what.contains("form a cycle")) {
            assert_eq!(client.hello().await.expect("an answer"), "a");
        }
    };
    tokio::time::timeout(Duration::from_secs(10), held).await.expect("the status says it");
    assert_eq!(client.hello().await.expect("an answer"), "a");
}

#[tokio::test]
async fn an_aggregate_of_nothing_is_rejected_and_the_last_good_one_serves() {
    let backend = Backend::start("a").await;
    let control_plane = ControlPlane::new();
    control_plane.set(aggregate(&[("a", &backend)]));
    let mesh = mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.expect("an answer"), "a");
    control_plane.put(cluster("greeter").aggregate(Vec::<String>::new()));
    let (_, nack) = control_plane.next_nack().await.error.expect("a reason");
    assert!(nack.contains("cluster_type.typed_config.clusters: must name at least one cluster"), "{nack}");
    assert_eq!(client.hello().await.expect("an answer"), "a");
}

#[tokio::test]
async fn a_leaf_shares_its_connections_with_those_who_call_it_directly() {
    let backend = Backend::start("a").await;
    let control_plane = ControlPlane::new();
    let direct = Resources::service("direct", [backend.address()]).with(cluster("direct"));
    control_plane.set(direct.and(Resources::service("greeter", [backend.address()])));
    control_plane.put(cluster("greeter").aggregate(["direct"]));
    let mesh = mesh(&control_plane).await;
    let clients = ["xds:///direct", "xds:///greeter"].map(|target| Client::new(&mesh, target));
    for client in &clients {
        assert_eq!(client.cluster().await.expect("an answer"), "direct");
    }
    assert_eq!(backend.connections(), 1);
    let state = mesh.status().targets.iter().map(|target| target.connectivity).collect::<Vec<_>>();
    assert_eq!(state, [ConnectivityState::Ready; 2]);
}

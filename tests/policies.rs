//! Policies without affinity: who is connected, and who is called.

use std::collections::BTreeSet;

use mesh_core::Mesh;
use mesh_core::balance::{BalanceOptions, Choice, Member, PickRequest, Policy};
use mesh_core::testing::{ControlPlane, Resources, cluster, endpoint};
use mesh_xds_proto::envoy::config::cluster::v3::{LoadBalancingPolicy, load_balancing_policy};
use mesh_xds_proto::envoy::config::core::v3::TypedExtensionConfig;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::random_subsetting::v3::RandomSubsetting;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;

use crate::support::backend::Backend;
use crate::support::client::{Client, quick_mesh};

fn subsetting(subset_size: Option<u32>) -> RandomSubsetting {
    let config = TypedExtensionConfig {
        name: "round_robin".to_owned(),
        typed_config: Some(mesh_core::testing::any(&RoundRobin::default())),
    };
    let child = load_balancing_policy::Policy { typed_extension_config: Some(config) };
    RandomSubsetting { subset_size, child_policy: Some(LoadBalancingPolicy { policies: vec![child] }) }
}

async fn backends(count: usize) -> Vec<Backend> {
    let mut backends = Vec::new();
    for number in 0..count {
        backends.push(Backend::start(&number.to_string()).await);
    }
    backends
}

/// Everyone who answers many calls.
async fn answering(client: &Client) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for _ in 0..40 {
        names.insert(client.hello().await.unwrap());
    }
    names
}

#[tokio::test]
async fn a_subset_is_connected_and_no_more() {
    let backends = backends(8).await;
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", backends.iter().map(Backend::address)));
    control_plane.put(cluster("greeter").policy("subset", &subsetting(Some(3))));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    // Until all three are connected, not all of them answer.
    while answering(&client).await.len() < 3 {}
    assert_eq!(answering(&client).await.len(), 3);
    assert_eq!(backends.iter().map(Backend::connections).sum::<u64>(), 3);
}

/// Always the endpoint of the greatest weight.
struct Heaviest;

impl Policy for Heaviest {
    fn pick(&self, members: &[Member], _: &PickRequest<'_>) -> Choice {
        let heaviest = (0..members.len()).max_by_key(|index| members[*index].weight());
        heaviest.map_or(Choice::Fail, Choice::Endpoint)
    }
}

/// Says an index that no endpoint has.
struct Beyond;

impl Policy for Beyond {
    fn pick(&self, members: &[Member], _: &PickRequest<'_>) -> Choice {
        Choice::Endpoint(members.len())
    }
}

#[tokio::test]
async fn a_policy_of_the_application_balances_the_cluster_that_it_is_for() {
    let backends = backends(3).await;
    let weighted = || (1..).zip(&backends).map(|(weight, backend)| endpoint(backend.address()).weight(weight));
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", weighted()).and(Resources::service("other", weighted())));
    let options = BalanceOptions::new()
        .policy(|_: &[Member]| Box::new(Beyond) as Box<dyn Policy>)
        .policy_of("greeter", |_: &[Member]| Box::new(Heaviest) as Box<dyn Policy>);
    let mesh = Mesh::builder().control_plane(&control_plane).balance(options).build().await.unwrap();
    for target in ["xds:///greeter", "xds:///other"] {
        let client = Client::new(&mesh, target);
        // Until it is connected, the one among those that are.
        client.hello_until("2").await;
        assert_eq!(answering(&client).await, BTreeSet::from(["2".to_owned()]), "{target}");
    }
}

#[tokio::test]
async fn a_subset_without_a_size_is_refused_by_name_and_the_last_good_policy_serves() {
    let backends = backends(2).await;
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", backends.iter().map(Backend::address)));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello().await.unwrap();
    control_plane.put(cluster("greeter").policy("subset", &subsetting(None)));
    let (_, text) = control_plane.next_nack().await.error.expect("a NACK says why");
    assert!(text.contains("typed_config.subset_size: must be set"), "{text}");
    while answering(&client).await.len() < 2 {}
}

//! Policies without affinity: who is connected, and who is called.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mesh_core::balance::{BalanceOptions, Choice, Member, PickRequest, Policy, PolicyConfig};
use mesh_core::testing::{ClusterBuilder, ControlPlane, Resources, cluster, endpoint, endpoints, locality};
use mesh_core::{Mesh, Origin};
use mesh_xds_proto::envoy::config::cluster::v3::{LoadBalancingPolicy, load_balancing_policy};
use mesh_xds_proto::envoy::config::core::v3::TypedExtensionConfig;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::random_subsetting::v3::RandomSubsetting;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::wrr_locality::v3::WrrLocality;
use mesh_xds_proto::xds::r#type::v3::TypedStruct;
use parking_lot::Mutex;
use prost_types::value::Kind;
use prost_types::{Any, Struct, Value};

use crate::support::backend::Backend;
use crate::support::client::{Client, quick, quick_mesh};
use crate::support::in_time;

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
    in_time("all three answer", async { while answering(&client).await.len() < 3 {} }).await;
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
    in_time("the last good policy serves", async { while answering(&client).await.len() < 2 {} }).await;
}

/// Every call to the endpoint of this rank by weight, and counts in common how often it is started.
struct Ranked(usize);

impl Policy for Ranked {
    fn pick(&self, members: &[Member], _: &PickRequest<'_>) -> Choice {
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by_key(|index| members[*index].weight());
        order.get(self.0).or(order.last()).map_or(Choice::Fail, |index| Choice::Endpoint(*index))
    }
}

/// A mesh that knows the policy `example.Ranked`, which has a `rank`; `made` counts how often it is made.
async fn ranking(control_plane: &ControlPlane, made: &Arc<AtomicU32>) -> Mesh {
    let made = made.clone();
    let make = move |config: &PolicyConfig| {
        let rank = config.number("rank")?.unwrap_or_default();
        if rank < 0.0 {
            return Err("`rank` must not be negative".into());
        }
        made.fetch_add(1, Ordering::Relaxed);
        Ok(move |_: &[Member]| Box::new(Ranked(rank as usize)) as Box<dyn Policy>)
    };
    quick().policy("example.Ranked", make).control_plane(control_plane).build().await.unwrap()
}

fn typed_struct(name: &str, rank: f64) -> Any {
    let fields = [("rank".to_owned(), Value { kind: Some(Kind::NumberValue(rank)) })];
    let value = Some(Struct { fields: fields.into_iter().collect() });
    mesh_core::testing::any(&TypedStruct { type_url: format!("type.googleapis.com/{name}"), value })
}

fn balanced_by(policies: impl IntoIterator<Item = Any>) -> LoadBalancingPolicy {
    let policy = |config| load_balancing_policy::Policy {
        typed_extension_config: Some(TypedExtensionConfig { name: "policy".to_owned(), typed_config: Some(config) }),
    };
    LoadBalancingPolicy { policies: policies.into_iter().map(policy).collect() }
}

fn asking_for(policies: impl IntoIterator<Item = Any>) -> ClusterBuilder {
    let list = balanced_by(policies);
    cluster("greeter").modify(|cluster| cluster.load_balancing_policy = Some(list))
}

fn weighted(backends: &[Backend]) -> Resources {
    Resources::service(
        "greeter",
        (1..).zip(backends).map(|(weight, backend)| endpoint(backend.address()).weight(weight)),
    )
}

#[tokio::test]
async fn the_control_plane_may_ask_for_a_policy_of_the_application_by_its_name() {
    let backends = backends(3).await;
    let control_plane = ControlPlane::new();
    control_plane.set(weighted(&backends).with(asking_for([typed_struct("example.Ranked", 1.0)])));
    let made = Arc::default();
    let mesh = ranking(&control_plane, &made).await;
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello_until("1").await;
    assert_eq!(answering(&client).await, BTreeSet::from(["1".to_owned()]));
    let settings = mesh.in_force(&mesh.target("xds:///greeter").unwrap());
    let policy = settings.iter().find(|setting| setting.name == "load_balancing_policy").unwrap();
    assert_eq!((policy.value.as_str(), policy.origin), (r#"example.Ranked {"rank":1.0}"#, Origin::Xds));
    // Another configuration is another policy; an update that leaves it alone is not.
    control_plane.put(asking_for([typed_struct("example.Ranked", 2.0)]));
    client.hello_until("2").await;
    assert_eq!(answering(&client).await, BTreeSet::from(["2".to_owned()]));
}

#[tokio::test]
async fn a_policy_by_name_may_be_that_of_each_locality() {
    let backends = backends(4).await;
    let control_plane = ControlPlane::new();
    let inner = balanced_by([typed_struct("example.Ranked", 0.0)]);
    let outer = mesh_core::testing::any(&WrrLocality { endpoint_picking_policy: Some(inner) });
    let pair = |zone: &str, backends: &[Backend]| {
        locality("r", zone, "").all((1..).zip(backends).map(|(weight, one)| endpoint(one.address()).weight(weight)))
    };
    let assignment = endpoints("greeter").locality(pair("a", &backends[..2])).locality(pair("b", &backends[2..]));
    control_plane.set(weighted(&backends[..1]).with(assignment).with(asking_for([outer])));
    let mesh = ranking(&control_plane, &Arc::default()).await;
    let client = Client::new(&mesh, "xds:///greeter");
    in_time("one of each locality answers", async {
        while answering(&client).await != BTreeSet::from(["0".to_owned(), "2".to_owned()]) {}
    })
    .await;
}

#[tokio::test]
async fn a_policy_that_nobody_knows_is_passed_over_for_the_next() {
    let backends = backends(2).await;
    let control_plane = ControlPlane::new();
    let names = [typed_struct("example.Unknown", 0.0), typed_struct("example.Ranked", 1.0)];
    control_plane.set(weighted(&backends).with(asking_for(names)));
    let mesh = ranking(&control_plane, &Arc::default()).await;
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello_until("1").await;
    assert_eq!(answering(&client).await, BTreeSet::from(["1".to_owned()]));
}

#[tokio::test]
async fn what_a_policy_refuses_is_refused_by_name_and_the_last_good_one_serves() {
    let backends = backends(2).await;
    let control_plane = ControlPlane::new();
    control_plane.set(weighted(&backends).with(asking_for([typed_struct("example.Ranked", 1.0)])));
    let mesh = ranking(&control_plane, &Arc::default()).await;
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello_until("1").await;
    for (policy, expected) in [
        (typed_struct("example.Ranked", -1.0), "typed_config.value: `rank` must not be negative"),
        (typed_struct("example.Unknown", 1.0), "none of its policies is supported yet: \"example.Unknown\""),
    ] {
        control_plane.put(asking_for([policy]));
        let (_, text) = control_plane.next_nack().await.error.expect("a NACK says why");
        assert!(text.contains(expected), "{text}");
        assert_eq!(answering(&client).await, BTreeSet::from(["1".to_owned()]));
    }
}

#[tokio::test]
async fn what_a_policy_made_outlives_updates_that_leave_it_alone() {
    let backends = backends(2).await;
    let control_plane = ControlPlane::new();
    let asking = || asking_for([typed_struct("example.InTurn", 0.0)]);
    control_plane.set(weighted(&backends).with(asking()));
    // Each cluster's policy has a number, in the order in which they are made.
    let made = Arc::new(AtomicU32::new(0));
    let started = Arc::new(Mutex::new(BTreeSet::new()));
    let (count, seen) = (made.clone(), started.clone());
    let make = move |_: &PolicyConfig| {
        let (number, seen) = (count.fetch_add(1, Ordering::Relaxed), seen.clone());
        Ok(move |_: &[Member]| {
            seen.lock().insert(number);
            Box::new(Ranked(1)) as Box<dyn Policy>
        })
    };
    let mesh = quick().policy("example.InTurn", make).control_plane(&control_plane).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello_until("1").await;
    control_plane.put(asking().max_requests(7));
    let limit = |mesh: &Mesh| {
        let settings = mesh.in_force(&mesh.target("xds:///greeter").unwrap());
        settings.into_iter().find(|setting| setting.name == "circuit_breakers.max_requests").unwrap().value
    };
    while limit(&mesh) != "7" {
        client.hello().await.unwrap();
    }
    control_plane.put(endpoints("greeter").endpoint(backends[0].address()));
    client.hello_until("0").await;
    assert!(made.load(Ordering::Relaxed) >= 2, "the update was decoded");
    assert_eq!(*started.lock(), BTreeSet::from([0]), "the first one still picks");
}

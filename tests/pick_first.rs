//! Pick first (A62): all calls to the first endpoint that can be connected, and a connection to that one alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::connect::ConnectivityState;
use mesh_core::testing::{ClusterBuilder, ControlPlane, Resources, cluster, endpoint, endpoints, locality};
use mesh_core::{Address, Mesh, Profile, RouteBuilder, Snapshot};
use mesh_xds_proto::envoy::extensions::load_balancing_policies::pick_first::v3::PickFirst;
use mesh_xds_proto::xds::r#type::v3::TypedStruct;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tokio::time::Instant;
use tonic::Code;

use crate::support::backend::Backend;
use crate::support::client::{Client, quick, quick_mesh};
use crate::support::network::{BlackHole, ClosedPort};

fn pick_first(shuffle_address_list: bool) -> ClusterBuilder {
    cluster("greeter").policy("pick_first", &PickFirst { shuffle_address_list })
}

async fn backends(count: usize) -> Vec<Backend> {
    let mut backends = Vec::new();
    for number in 0..count {
        backends.push(Backend::start(&number.to_string()).await);
    }
    backends
}

/// `greeter` at these addresses, in this order.
fn serving<A: ToString>(cluster: ClusterBuilder, addresses: impl IntoIterator<Item = A>) -> ControlPlane {
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", addresses.into_iter().map(endpoint)).with(cluster));
    control_plane
}

#[tokio::test]
async fn all_calls_go_to_the_first_endpoint_and_no_other_is_connected() {
    let backends = backends(4).await;
    let control_plane = serving(pick_first(false), backends.iter().map(Backend::address));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    for _ in 0..20 {
        assert_eq!(client.hello().await.unwrap(), "0");
    }
    let connections: Vec<_> = backends.iter().map(Backend::connections).collect();
    assert_eq!(connections, [1, 0, 0, 0]);
}

#[tokio::test]
async fn an_endpoint_that_fails_or_is_silent_is_passed_over_in_the_configured_order() {
    let (closed, silent) = (ClosedPort::new(), BlackHole::new());
    let backends = backends(2).await;
    let addresses = [closed.address(), silent.address(), backends[0].address(), backends[1].address()];
    let control_plane = serving(pick_first(false), addresses);
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    for _ in 0..10 {
        assert_eq!(client.hello().await.unwrap(), "0");
    }
    assert_eq!(backends[1].connections(), 0);
}

#[tokio::test]
async fn when_the_connection_ends_nothing_is_connected_until_a_call_comes_which_begins_with_the_first() {
    let mut backends = backends(2).await;
    let control_plane = serving(pick_first(false), backends.iter().map(Backend::address));
    backends[0].stop().await;
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "1");
    backends[0].restart().await;
    // The chosen one is kept though the first is there again; and a connection that lived shorter would be replaced at once.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(20) {
        assert_eq!(client.hello().await.unwrap(), "1");
    }
    let mut connectivity = mesh.target("xds:///greeter").unwrap().connectivity();
    backends[1].drain();
    connectivity.wait_for(|state| *state == ConnectivityState::Idle).await.unwrap();
    assert_eq!((backends[0].connections(), mesh.status().targets[0].clusters[0].endpoints[0].state), (0, None));
    assert_eq!(client.hello().await.unwrap(), "0");
}

#[tokio::test]
async fn when_all_have_failed_calls_fail_at_once_until_one_is_connected() {
    let mut backends = backends(2).await;
    let control_plane = serving(pick_first(false), backends.iter().map(Backend::address));
    backends[0].stop().await;
    backends[1].stop().await;
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let status = client.hello().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("2 in backoff") || status.message().contains("refused"), "{status}");
    backends[1].restart().await;
    assert_eq!(client.recovers().await, "1");
    for _ in 0..10 {
        assert_eq!(client.hello().await.unwrap(), "1");
    }
}

#[tokio::test]
async fn the_chosen_endpoint_stays_over_updates_and_one_that_goes_is_replaced_without_a_failed_call() {
    let backends = backends(3).await;
    let of = |numbers: &[usize]| {
        let all = numbers.iter().map(|number| endpoint(backends[*number].address()));
        endpoints("greeter").all(all)
    };
    let control_plane = serving(pick_first(false), [backends[1].address()]);
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "1");
    control_plane.put(of(&[0, 1, 2]));
    while mesh.status().targets[0].clusters[0].endpoints.len() < 3 {
        assert_eq!(client.hello().await.unwrap(), "1");
    }
    for _ in 0..10 {
        assert_eq!(client.hello().await.unwrap(), "1");
    }
    assert_eq!((backends[0].connections(), backends[2].connections()), (0, 0));
    control_plane.put(of(&[2, 0]));
    assert!(client.hello_until("2").await.iter().all(|other| other == "1"));
    backends[1].wait_for_connections(0).await;
    assert_eq!(backends[0].connections(), 0);
}

#[tokio::test]
async fn a_shuffled_order_differs_from_client_to_client_and_follows_the_weights() {
    const CLIENTS: usize = 60;
    let backends = backends(3).await;
    let control_plane = ControlPlane::new();
    // Shares of 1, 2 and 12 in 15: a locality's weight is shared by its endpoints.
    let near = locality("r", "near", "")
        .weight(1)
        .all([endpoint(backends[0].address()).weight(10), endpoint(backends[1].address()).weight(20)]);
    let far = locality("r", "far", "").weight(4).endpoint(endpoint(backends[2].address()).weight(1));
    let assignment = endpoints("greeter").locality(near).locality(far);
    control_plane.set(Resources::service("greeter", [backends[0].address()]).with(pick_first(true)).with(assignment));
    let mut counts = BTreeMap::new();
    for _ in 0..CLIENTS {
        let mesh = quick_mesh(&control_plane).await;
        let client = Client::new(&mesh, "xds:///greeter");
        let answers = BTreeSet::from([client.hello().await.unwrap(), client.hello().await.unwrap()]);
        assert_eq!(answers.len(), 1, "one client stays with one endpoint");
        *counts.entry(answers.first().cloned().unwrap()).or_insert(0) += 1;
    }
    // 48 of 60 expected, with a deviation of 3.1; the others 12 together.
    let heaviest = counts.get("2").copied().unwrap_or(0);
    assert!((30..=59).contains(&heaviest), "{counts:?}");
}

#[tokio::test]
async fn the_next_priority_takes_the_calls_when_all_of_the_first_have_failed() {
    let (closed, refusing) = (ClosedPort::new(), ClosedPort::new());
    let mut backends = backends(2).await;
    let control_plane = ControlPlane::new();
    let first = locality("r", "a", "").all([endpoint(closed.address()), endpoint(backends[0].address())]);
    let second = locality("r", "b", "").priority(1).all([refusing.address(), backends[1].address()]);
    let assignment = endpoints("greeter").locality(first).locality(second);
    control_plane.set(Resources::service("greeter", [closed.address()]).with(pick_first(false)).with(assignment));
    backends[0].stop().await;
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "1");
    backends[0].restart().await;
    assert!(client.hello_until("0").await.iter().all(|other| other == "1"));
}

#[tokio::test]
async fn in_envoys_profile_endpoints_that_are_not_connected_are_no_reason_to_spill() {
    let backends = backends(4).await;
    let control_plane = ControlPlane::new();
    let first = locality("r", "a", "").all(backends[..3].iter().map(Backend::address));
    let second = locality("r", "b", "").priority(1).endpoint(backends[3].address());
    let assignment = endpoints("greeter").locality(first).locality(second);
    let resources = Resources::service("greeter", [backends[0].address()]).with(pick_first(false)).with(assignment);
    control_plane.set(resources);
    let mesh = quick().profile(Profile::Envoy).control_plane(&control_plane).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    for _ in 0..20 {
        assert_eq!(client.hello().await.unwrap(), "0");
    }
    assert_eq!(backends[3].connections(), 0);
}

#[tokio::test]
async fn a_cluster_made_in_code_may_pick_the_first() {
    let backends = backends(3).await;
    let address = |backend: &Backend| Address::Socket(backend.address());
    let cluster = mesh_core::ClusterBuilder::new("greeter").pick_first(false);
    let cluster = backends.iter().fold(cluster, |cluster, backend| cluster.endpoint(address(backend)));
    let snapshot =
        Snapshot::builder("greeter").cluster(cluster).route(RouteBuilder::any().cluster("greeter")).build().unwrap();
    let mesh = Mesh::builder().snapshot("static:///greeter:1", snapshot).build().await.unwrap();
    let client = Client::new(&mesh, "static:///greeter:1");
    for _ in 0..10 {
        assert_eq!(client.hello().await.unwrap(), "0");
    }
    let settings: Vec<_> =
        mesh.in_force(&mesh.target("static:///greeter:1").unwrap()).iter().map(ToString::to_string).collect();
    let policy = "cluster `greeter` load_balancing_policy: pick_first (shuffle_address_list false) (code)";
    assert!(settings.iter().any(|setting| setting == policy), "{settings:#?}");
}

fn named(value: Kind) -> TypedStruct {
    let fields = [("shuffleAddressList".to_owned(), Value { kind: Some(value) })];
    TypedStruct { type_url: "pick_first".to_owned(), value: Some(Struct { fields: fields.into_iter().collect() }) }
}

#[tokio::test]
async fn a_bad_configuration_is_refused_by_name_and_the_last_good_one_serves() {
    let backends = backends(2).await;
    let good = cluster("greeter").policy("named", &named(Kind::BoolValue(false)));
    let control_plane = serving(good, backends.iter().map(Backend::address));
    let mesh = quick().control_plane(&control_plane).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "0");
    control_plane.put(cluster("greeter").policy("named", &named(Kind::NumberValue(1.0))));
    let (_, text) = control_plane.next_nack().await.error.expect("a NACK says why");
    assert!(text.contains("shuffleAddressList: must be a boolean"), "{text}");
    assert_eq!((client.hello().await.unwrap(), backends[1].connections()), ("0".to_owned(), 0));
}

//! Affinity: calls that are alike go to the same endpoint, whatever else changes.

use std::collections::BTreeMap;

use http::HeaderName;
use mesh_core::testing::{
    ControlPlane, Resources, RouteBuilder, cluster, endpoint, endpoints, locality, route, route_config,
};
use mesh_core::{Address, CallOptions, ClusterBuilder, Mesh, RouteBuilder as RouteOfSnapshot, Snapshot};
use mesh_examples::helloworld::HelloRequest;
use mesh_xds_proto::envoy::config::cluster::v3::cluster::{LbConfig, LbPolicy, MaglevLbConfig};
use mesh_xds_proto::envoy::config::core::v3::Metadata;
use mesh_xds_proto::envoy::config::route::v3::route_action::HashPolicy;
use mesh_xds_proto::envoy::config::route::v3::route_action::hash_policy::{Cookie, FilterState, PolicySpecifier};
use mesh_xds_proto::envoy::config::route::v3::{RouteAction, route::Action};
use mesh_xds_proto::xds::r#type::v3::TypedStruct;
use prost::Message;
use tonic::Request;
use tonic::metadata::MetadataMap;

use crate::support::backend::Backend;
use crate::support::client::{Client, quick_mesh};
use crate::support::in_time;

const KEYS: usize = 60;

/// What the route `greeter` hashes: the header `user`.
fn by_user() -> RouteBuilder {
    route().cluster("greeter").hash_header("user")
}

fn hashing(specifier: PolicySpecifier) -> RouteBuilder {
    let policy = HashPolicy { policy_specifier: Some(specifier), terminal: false };
    route().cluster("greeter").modify(|route| {
        if let Some(Action::Route(RouteAction { hash_policy, .. })) = &mut route.action {
            hash_policy.push(policy);
        }
    })
}

/// A service `greeter` whose cluster is balanced by a ring.
fn service(route: RouteBuilder, backends: &[&Backend]) -> Resources {
    Resources::service("greeter", backends.iter().map(|backend| backend.address()))
        .with(route_config("greeter").routes([route]))
        .with(cluster("greeter").lb(LbPolicy::RingHash))
}

async fn backends(names: &[&str]) -> Vec<Backend> {
    let mut backends = Vec::new();
    for name in names {
        backends.push(Backend::start(name).await);
    }
    backends
}

fn user(key: usize) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    metadata.insert("user", format!("user-{key}").parse().unwrap());
    metadata
}

/// Who serves each key.
async fn owners(client: &Client) -> Vec<String> {
    let mut owners = Vec::new();
    for key in 0..KEYS {
        owners.push(client.hello_with(user(key)).await.unwrap());
    }
    owners
}

fn counts(owners: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    owners.iter().for_each(|owner| *counts.entry(owner.as_str()).or_default() += 1);
    counts
}

/// A client of a new mesh: nothing but the configuration is what another had.
async fn client(control_plane: &ControlPlane) -> (Mesh, Client) {
    let mesh = quick_mesh(control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    (mesh, client)
}

#[tokio::test]
async fn the_same_header_has_the_same_endpoint_in_every_client_and_the_keys_spread() {
    let backends = backends(&["a", "b", "c"]).await;
    let control_plane = ControlPlane::new();
    control_plane.set(service(by_user(), &backends.iter().collect::<Vec<_>>()));
    let (_mesh, first) = client(&control_plane).await;
    let before = owners(&first).await;
    assert_eq!(owners(&first).await, before);
    let (_other, second) = client(&control_plane).await;
    assert_eq!(owners(&second).await, before, "a client that started later");
    let counts = counts(&before);
    assert!(counts.len() == 3 && counts.values().all(|count| *count >= 5), "{counts:?}");
}

#[tokio::test]
async fn an_endpoint_that_comes_takes_some_keys_and_when_it_goes_they_return() {
    let backends = backends(&["a", "b", "c", "d"]).await;
    let [a, b, c, d] = &backends[..] else { panic!("four") };
    let control_plane = ControlPlane::new();
    control_plane.set(service(by_user(), &[a, b, c]));
    let (mesh, client) = client(&control_plane).await;
    let before = owners(&client).await;
    let has = async |set: &[&Backend]| {
        control_plane.set(service(by_user(), set));
        let settled = async {
            while mesh.status().targets[0].clusters[0].endpoints.len() != set.len() {
                tokio::task::yield_now().await;
            }
        };
        in_time("the endpoints are known", settled).await;
        owners(&client).await
    };
    let during = has(&[a, b, c, d]).await;
    let moved = before.iter().zip(&during).filter(|(old, now)| old != now).count();
    let elsewhere = before.iter().zip(&during).filter(|(old, now)| old != now && *now != "d").count();
    // A quarter goes to the new one; as the others have fewer entries on the ring now, an eighth moves among them.
    assert!(counts(&during).contains_key("d") && moved < KEYS * 2 / 3 && elsewhere < KEYS / 3, "{moved} {elsewhere}");
    assert_eq!(has(&[a, b, c]).await, before);
}

#[tokio::test]
async fn keys_of_a_dead_endpoint_go_to_others_and_return_to_it() {
    let mut backends = backends(&["a", "b", "c"]).await;
    let control_plane = ControlPlane::new();
    control_plane.set(service(by_user(), &backends.iter().collect::<Vec<_>>()));
    let (_mesh, client) = client(&control_plane).await;
    let before = owners(&client).await;
    backends[0].stop().await;
    let mut during = Vec::new();
    for (key, old) in before.iter().enumerate() {
        // The first to come is in flight while the connection ends.
        let answer = async {
            loop {
                if let Ok(name) = client.hello_with(user(key)).await {
                    return name;
                }
            }
        };
        let now = in_time("an answer", answer).await;
        assert!(*old == now || old == "a", "{old} to {now}");
        during.push(now);
    }
    assert!(!during.contains(&"a".to_owned()));
    backends[0].restart().await;
    let returned = async { while owners(&client).await != before {} };
    in_time("all keys return", returned).await;
}

#[tokio::test]
async fn weights_of_endpoints_and_localities_are_shares_of_the_keys() {
    let backends = backends(&["a", "b", "c"]).await;
    let [a, b, c] = &backends[..] else { panic!("three") };
    let near = locality("near", "", "").weight(3).endpoint(endpoint(a.address()).weight(3)).endpoint(b.address());
    let far = locality("far", "", "").weight(1).endpoint(endpoint(c.address()).weight(4));
    let control_plane = ControlPlane::new();
    let weighted = endpoints("greeter").locality(near).locality(far);
    control_plane.set(service(by_user(), &[]).with(weighted));
    let (_mesh, client) = client(&control_plane).await;
    let mut all = Vec::new();
    for key in 0..1_000 {
        all.push(client.hello_with(user(key)).await.unwrap());
    }
    let counts = counts(&all);
    // 9, 3 and 4 of 16, but for five standard deviations of what falls on an endpoint and of its part of the ring.
    for (name, expected) in [("a", 562), ("b", 188), ("c", 250)] {
        assert!(counts[name].abs_diff(expected) < 110, "{counts:?}");
    }
}

#[tokio::test]
async fn an_endpoint_with_a_hash_key_can_be_replaced_without_moving_keys() {
    let backends = backends(&["a", "b", "c", "d"]).await;
    let shard = |index: usize, backend: &Backend| {
        let value = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(format!("shard-{index}"))) };
        let fields = prost_types::Struct { fields: [("hash_key".to_owned(), value)].into() };
        let metadata = Metadata { filter_metadata: [("envoy.lb".to_owned(), fields)].into(), ..Default::default() };
        endpoint(backend.address()).modify(|endpoint| endpoint.metadata = metadata.encode_to_vec().into())
    };
    let of = |indices: [usize; 3]| {
        let shards = indices.iter().enumerate().map(|(number, index)| shard(number, &backends[*index]));
        service(by_user(), &[]).with(endpoints("greeter").all(shards))
    };
    let control_plane = ControlPlane::new();
    control_plane.set(of([0, 1, 2]));
    let (_mesh, client) = client(&control_plane).await;
    let before = owners(&client).await;
    control_plane.set(of([0, 3, 2]));
    let replaced = before.iter().map(|owner| if owner == "b" { "d".to_owned() } else { owner.clone() });
    let replaced: Vec<_> = replaced.collect();
    let moved = async { while owners(&client).await != replaced {} };
    in_time("the new endpoint has the keys", moved).await;
}

#[tokio::test]
async fn the_key_of_the_application_goes_before_what_the_route_hashes() {
    let backends = backends(&["a", "b", "c"]).await;
    let control_plane = ControlPlane::new();
    control_plane.set(service(by_user(), &backends.iter().collect::<Vec<_>>()));
    let (_mesh, client) = client(&control_plane).await;
    let before = owners(&client).await;
    for (key, owner) in before.iter().enumerate() {
        let mut request = Request::new(HelloRequest::default());
        *request.metadata_mut() = user(key + 1);
        request.extensions_mut().insert(CallOptions::new().hash_key(format!("user-{key}")));
        let answer = client.greeter().say_hello(request).await.unwrap().into_inner().message;
        assert_eq!(answer, *owner);
    }
}

#[tokio::test]
async fn the_calls_of_a_channel_stay_together_and_those_of_others_may_be_elsewhere() {
    let backends = backends(&["a", "b", "c"]).await;
    let control_plane = ControlPlane::new();
    let channel = hashing(PolicySpecifier::FilterState(FilterState { key: "io.grpc.channel_id".into() }));
    control_plane.set(service(channel, &backends.iter().collect::<Vec<_>>()));
    let mesh = quick_mesh(&control_plane).await;
    let mut seen = Vec::new();
    for _ in 0..40 {
        let client = Client::new(&mesh, "xds:///greeter");
        let first = client.hello().await.unwrap();
        assert_eq!(client.clone().hello().await.unwrap(), first);
        seen.push(first);
    }
    // That 40 random channels meet two of three at most has a chance of less than one in a million.
    assert_eq!(counts(&seen).len(), 3);
}

#[tokio::test]
async fn a_cookie_is_made_for_who_has_none_and_leads_back_to_the_endpoint() {
    let backends = backends(&["a", "b", "c"]).await;
    let control_plane = ControlPlane::new();
    let ttl = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let cookie = Cookie { name: "who".into(), ttl, path: "/".into(), ..Default::default() };
    control_plane.set(service(hashing(PolicySpecifier::Cookie(cookie)), &backends.iter().collect::<Vec<_>>()));
    let (_mesh, client) = client(&control_plane).await;
    for _ in 0..10 {
        let response = client.greeter().say_hello(HelloRequest::default()).await.unwrap();
        let set = response.metadata().get("set-cookie").expect("a cookie").to_str().unwrap().to_owned();
        assert!(set.ends_with("; Max-Age=60; Path=/; HttpOnly"), "{set}");
        let mut metadata = MetadataMap::new();
        metadata.insert("cookie", set.split(';').next().unwrap().parse().unwrap());
        let mut request = Request::new(HelloRequest::default());
        *request.metadata_mut() = metadata;
        let again = client.greeter().say_hello(request).await.unwrap();
        assert_eq!(again.metadata().get("set-cookie"), None);
        assert_eq!(again.into_inner().message, response.into_inner().message);
    }
}

#[tokio::test]
async fn without_anything_to_hash_calls_go_anywhere() {
    let backends = backends(&["a", "b", "c"]).await;
    let control_plane = ControlPlane::new();
    control_plane.set(service(by_user(), &backends.iter().collect::<Vec<_>>()));
    let (_mesh, client) = client(&control_plane).await;
    let mut seen = Vec::new();
    for _ in 0..60 {
        seen.push(client.hello().await.unwrap());
    }
    assert_eq!(counts(&seen).len(), 3);
}

/// gRPC's name and JSON of the ring, with a header of its own.
fn ring_by_header(header: &str) -> TypedStruct {
    let value = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(header.to_owned())) };
    let fields = [("requestHashHeader".to_owned(), value)].into();
    TypedStruct { type_url: "ring_hash_experimental".to_owned(), value: Some(prost_types::Struct { fields }) }
}

#[tokio::test]
async fn a_ring_may_name_the_header_itself_and_leaves_calls_without_it_to_chance() {
    let backends = backends(&["a", "b", "c"]).await;
    let control_plane = ControlPlane::new();
    control_plane.set(service(by_user(), &backends.iter().collect::<Vec<_>>()));
    let (_mesh, hashing) = client(&control_plane).await;
    let before = owners(&hashing).await;
    // What the route hashes counts no more.
    control_plane.put(route_config("greeter").routes([route().cluster("greeter").hash_header("other")]));
    control_plane.put(cluster("greeter").policy("ring", &ring_by_header("user")));
    let (_other, own) = client(&control_plane).await;
    assert_eq!(owners(&own).await, before);
    let mut without = Vec::new();
    for _ in 0..60 {
        without.push(own.hello().await.unwrap());
    }
    assert_eq!(counts(&without).len(), 3);
    control_plane.put(cluster("greeter").policy("ring", &ring_by_header("user-bin")));
    let (_, text) = control_plane.next_nack().await.error.expect("a NACK says why");
    assert!(text.contains("value.requestHashHeader: must be"), "{text}");
    assert_eq!(owners(&own).await, before);
}

#[tokio::test]
async fn a_cluster_made_in_code_may_hash_a_header() {
    let backends = backends(&["a", "b", "c"]).await;
    let endpoints = backends.iter().map(|backend| Address::Socket(backend.address()));
    let cluster = endpoints.fold(ClusterBuilder::new("greeter"), ClusterBuilder::endpoint);
    let snapshot = Snapshot::builder("greeter")
        .cluster(cluster.ring_hash(&HeaderName::from_static("user")))
        .route(RouteOfSnapshot::any().cluster("greeter"))
        .build()
        .unwrap();
    let mesh = Mesh::builder().snapshot("xds:///greeter", snapshot).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    let before = owners(&client).await;
    assert_eq!(owners(&client).await, before);
    assert_eq!(counts(&before).len(), 3);
}

#[tokio::test]
async fn maglev_has_affinity_and_equal_shares() {
    let backends = backends(&["a", "b", "c"]).await;
    let control_plane = ControlPlane::new();
    let service = service(by_user(), &backends.iter().collect::<Vec<_>>());
    control_plane.set(service.with(cluster("greeter").lb(LbPolicy::Maglev)));
    let (_mesh, first) = client(&control_plane).await;
    let before = owners(&first).await;
    let (_other, second) = client(&control_plane).await;
    assert_eq!(owners(&second).await, before);
    let counts = counts(&before);
    assert!(counts.len() == 3 && counts.values().all(|count| *count >= 8), "{counts:?}");
}

#[tokio::test]
async fn a_table_whose_size_is_no_prime_is_refused_by_name_and_the_last_good_one_serves() {
    let backends = backends(&["a", "b"]).await;
    let control_plane = ControlPlane::new();
    control_plane.set(service(by_user(), &backends.iter().collect::<Vec<_>>()));
    control_plane.put(cluster("greeter").lb(LbPolicy::Maglev));
    let (_mesh, client) = client(&control_plane).await;
    let before = owners(&client).await;
    let config = LbConfig::MaglevLbConfig(MaglevLbConfig { table_size: Some(65_536) });
    control_plane.put(cluster("greeter").lb(LbPolicy::Maglev).modify(|cluster| cluster.lb_config = Some(config)));
    let (_, text) = control_plane.next_nack().await.error.expect("a NACK says why");
    assert!(text.contains("maglev_lb_config.table_size: 65536 is not a prime"), "{text}");
    assert_eq!(owners(&client).await, before);
}

#[tokio::test]
async fn a_bad_ring_is_refused_by_name_and_the_last_good_one_serves() {
    let backends = backends(&["a", "b", "c"]).await;
    let control_plane = ControlPlane::new();
    let good = service(by_user(), &backends.iter().collect::<Vec<_>>());
    control_plane.set(good);
    let (_mesh, client) = client(&control_plane).await;
    let before = owners(&client).await;
    let bad = cluster("greeter").lb(LbPolicy::RingHash).ring_size(9, 8);
    control_plane.put(bad);
    let (_, text) = control_plane.next_nack().await.error.expect("a NACK says why");
    assert!(text.contains("greeter") && text.contains("ring_hash_lb_config.minimum_ring_size"), "{text}");
    assert_eq!(owners(&client).await, before);
}

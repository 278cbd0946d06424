//! Clusters of every kind: where their endpoints come from, and what is said when they cannot be had.

use std::net::Ipv4Addr;
use std::time::Duration;

use mesh_core::balance::BalanceOptions;
use mesh_core::connect::ConnectivityState;
use mesh_core::testing::{
    ClusterBuilder, ControlPlane, Resource, Resources, any, cluster, endpoint, endpoints, listener, route,
    route_config, type_url,
};
use mesh_core::{LeafStatus, Mesh};
use mesh_examples::helloworld::HelloRequest;
use mesh_xds_proto::envoy::config::cluster::v3::Cluster;
use mesh_xds_proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CustomClusterType, DiscoveryType, LbPolicy, RefreshRate,
};
use mesh_xds_proto::envoy::config::endpoint::v3::LbEndpoint;
use mesh_xds_proto::envoy::config::endpoint::v3::endpoint::AdditionalAddress;
use mesh_xds_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use mesh_xds_proto::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use mesh_xds_proto::envoy::extensions::clusters::dns::v3::DnsCluster;
use tonic::Code;

use crate::support::backend::Backend;
use crate::support::client::{Client, SOON, assert_says, impatient_mesh, quick};
use crate::support::dns::{Answer, Dns, HERE, THERE, twins};
use crate::support::in_time;
use crate::support::network::BlackHole;

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

/// Of the leaf that is named first there is no Cluster, or there are no endpoints.
#[tokio::test]
async fn a_leaf_that_comes_late_or_never_holds_up_neither_calls_nor_what_changes_beside_it() {
    let (near, moved, late) =
        (Backend::start("near").await, Backend::start("moved").await, Backend::start("late").await);
    for has_cluster in [false, true] {
        let control_plane = ControlPlane::new();
        control_plane.set(aggregate(&[("near", &near)]));
        // Nobody ever says that what is late does not exist.
        let mesh = quick().does_not_exist_timeout(Duration::from_secs(3600)).control_plane(&control_plane);
        let mesh = mesh.build().await.unwrap();
        let client = Client::new(&mesh, "xds:///greeter");
        assert_eq!(client.hello().await.unwrap(), "near");
        if has_cluster {
            control_plane.put(cluster("late"));
        }
        control_plane.put(cluster("greeter").aggregate(["late", "near"]));
        let missing = if has_cluster { type_url::ENDPOINTS } else { type_url::CLUSTER };
        control_plane.wait_for(|request| request.asks_for(missing, "late")).await;
        control_plane.put(endpoints("near").endpoint(moved.address()));
        client.hello_until("moved").await;
        assert_eq!(leaves(&mesh), ["near*"]);
        control_plane.put_all(Resources::new().with(cluster("late")).with(endpoints("late").endpoint(late.address())));
        client.hello_until("late").await;
        assert_eq!(leaves(&mesh), ["late*", "near"]);
    }
}

/// Both aggregates wait for the same leaf; one has another that serves.
#[tokio::test]
async fn a_leaf_that_never_comes_fails_no_aggregate_that_has_another() {
    let far = Backend::start("far").await;
    let control_plane = ControlPlane::new();
    let both = [route().prefix("/helloworld.Greeter/SayHello").cluster("greeter"), route().cluster("none")];
    let resources = aggregate(&[("far", &far)])
        .with(route_config("greeter").routes(both))
        .with(cluster("greeter").aggregate(["ghost", "inner"]))
        .with(cluster("inner").aggregate(["ghost", "far"]))
        .with(cluster("none").aggregate(["ghost"]));
    control_plane.set(resources);
    let mesh = impatient_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "far");
    let requests = tokio_stream::once(HelloRequest::default());
    let status = client.greeter().collect_hellos(requests).await.unwrap_err();
    assert_says(&status, &["Cluster `ghost` does not exist"]);
    control_plane.put_all(Resources::new().with(cluster("ghost")).with(endpoints("ghost").endpoint(far.address())));
    let served = async {
        while client.greeter().collect_hellos(tokio_stream::once(HelloRequest::default())).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    in_time("the leaf that came after all", served).await;
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

/// A backend's address under another host.
fn named(host: &str, backend: &Backend) -> String {
    format!("{host}:{}", backend.address().port())
}

/// The cluster's names are resolved by this server.
fn asking(dns: &Dns, cluster: ClusterBuilder) -> ClusterBuilder {
    let resolver = endpoint(dns.address).build().host_identifier.and_then(|host| match host {
        HostIdentifier::Endpoint(endpoint) => endpoint.address,
        HostIdentifier::EndpointName(_) => None,
    });
    cluster.modify(|cluster| cluster.dns_resolvers = resolver.into_iter().collect())
}

/// `greeter` at a name whose addresses are one endpoint.
fn logical(dns: &Dns, backend: &Backend) -> Resources {
    let cluster = asking(dns, cluster("greeter").logical_dns(&named("greeter.test", backend)));
    Resources::service("greeter", [backend.address()]).with(cluster)
}

/// `greeter` at a name, each address of which is an endpoint.
fn strict(dns: &Dns, backend: &Backend) -> Resources {
    let assignment = endpoints("greeter").endpoint(endpoint(named("greeter.test", backend)));
    let strict = |cluster: &mut Cluster| {
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns as i32));
    };
    let cluster = asking(dns, cluster("greeter").fixed(assignment).modify(strict));
    Resources::service("greeter", [backend.address()]).with(cluster)
}

#[tokio::test]
async fn a_cluster_may_carry_its_endpoints_itself() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = ControlPlane::new();
    let fixed = |backend: &Backend| cluster("greeter").fixed(endpoints("greeter").endpoint(backend.address()));
    control_plane.set(Resources::service("greeter", [a.address()]).with(fixed(&a)));
    let mesh = mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.expect("an answer"), "a");
    assert!(!control_plane.requests().iter().any(|request| request.type_url.ends_with("ClusterLoadAssignment")));
    control_plane.put(fixed(&b));
    client.hello_until("b").await;
    let wrong = cluster("greeter").fixed(endpoints("greeter").endpoint("nowhere.test:1"));
    control_plane.put(wrong);
    let (_, nack) = control_plane.next_nack().await.error.expect("a reason");
    let field = "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address";
    assert!(nack.contains(&format!("{field}: \"nowhere.test\" is not an IP address")), "{nack}");
    assert_eq!(client.hello().await.expect("an answer"), "b");
}

#[tokio::test]
async fn the_addresses_of_a_logical_name_are_tried_as_one_endpoint() {
    let (mut here, there) = twins().await;
    let dns = Dns::start(Answer::Addresses(1, vec![HERE, THERE])).await;
    let control_plane = ControlPlane::new();
    control_plane.set(logical(&dns, &here));
    let mesh = mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    for _ in 0..10 {
        assert_eq!(client.hello().await.expect("an answer"), "here");
    }
    assert_eq!((here.connections(), there.connections()), (1, 0));
    let endpoints = mesh.status().targets[0].clusters[0].endpoints.clone();
    assert_eq!(endpoints.len(), 1);
    assert_eq!(endpoints[0].address.to_string(), named("greeter.test", &here));
    here.stop().await;
    assert_eq!(client.recovers().await, "there");
    dns.change(Answer::Addresses(60, vec![THERE, Ipv4Addr::new(127, 0, 0, 3)]));
    dns.asked_again(2).await;
    assert_eq!(there.connections(), 1, "an address that stays keeps its connection");
}

#[tokio::test]
async fn a_clusters_name_is_resolved_again_when_none_of_its_addresses_can_be_reached() {
    for kind in [logical, strict] {
        let (mut here, _there) = twins().await;
        let dns = Dns::start(Answer::Addresses(3600, vec![HERE])).await;
        let control_plane = ControlPlane::new();
        control_plane.set(kind(&dns, &here));
        // An endpoint that failed is not tried again before other addresses are known.
        let hour = Duration::from_secs(3600);
        let mesh = quick()
            .dns_reresolution_interval(Duration::from_millis(20))
            .balance(BalanceOptions::new().backoff(hour, hour))
            .control_plane(&control_plane)
            .build()
            .await
            .unwrap();
        let client = Client::new(&mesh, "xds:///greeter");
        client.hello_until("here").await;
        dns.change(Answer::Addresses(3600, vec![THERE]));
        here.stop().await;
        assert_eq!(client.recovers().await, "there");
    }
}

#[tokio::test]
async fn a_logical_name_that_moves_is_followed_without_a_failed_call() {
    let (here, there) = twins().await;
    let dns = Dns::start(Answer::Addresses(1, vec![HERE])).await;
    let control_plane = ControlPlane::new();
    control_plane.set(logical(&dns, &here));
    let mesh = mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello_until("here").await;
    dns.change(Answer::Addresses(60, vec![THERE]));
    client.hello_until("there").await;
    here.wait_for_connections(0).await;
    assert_eq!(there.connections(), 1);
}

#[tokio::test]
async fn each_address_of_a_strict_name_is_an_endpoint() {
    let (here, there) = twins().await;
    let dns = Dns::start(Answer::Addresses(60, vec![HERE])).await;
    let control_plane = ControlPlane::new();
    let refresh =
        |cluster: &mut Cluster| cluster.dns_refresh_rate = Some(Duration::from_millis(20).try_into().unwrap());
    let mut resources = strict(&dns, &here);
    resources.modify::<Cluster>("greeter", refresh);
    control_plane.set(resources);
    let mesh = mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello_until("here").await;
    dns.change(Answer::Addresses(60, vec![HERE, THERE]));
    client.hello_until("there").await;
    let names = [client.hello().await, client.hello().await].map(Result::unwrap);
    assert!(names.contains(&"here".into()) && names.contains(&"there".into()), "in turn: {names:?}");
    dns.change(Answer::Addresses(60, vec![THERE]));
    here.wait_for_connections(0).await;
    assert_eq!(client.hello().await.expect("an answer"), "there");
    assert_eq!(there.connections(), 1);
}

#[tokio::test]
async fn a_failed_lookup_leaves_the_endpoints_of_a_cluster() {
    let (here, _there) = twins().await;
    let dns = Dns::start(Answer::Addresses(0, vec![HERE])).await;
    let control_plane = ControlPlane::new();
    control_plane.set(strict(&dns, &here));
    let mesh = mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello_until("here").await;
    for failure in [Answer::Failure(2), Answer::Failure(3)] {
        dns.change(failure);
        dns.asked_again(2).await;
        assert_eq!(client.hello().await.expect("an answer"), "here");
    }
}

#[tokio::test]
async fn a_name_that_does_not_exist_fails_its_cluster_by_name_and_no_other() {
    let (here, _there) = twins().await;
    let other = Backend::start("other").await;
    let dns = Dns::start(Answer::Failure(3)).await;
    let control_plane = ControlPlane::new();
    let again = |cluster: &mut Cluster| {
        let soon = Duration::from_millis(20).try_into().ok();
        cluster.dns_failure_refresh_rate = Some(RefreshRate { base_interval: soon, max_interval: soon });
    };
    let mut resources = logical(&dns, &here).and(Resources::service("other", [other.address()]));
    resources.modify::<Cluster>("greeter", again);
    control_plane.set(resources);
    let mesh = mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let status = client.hello().await.expect_err("no such name");
    assert_eq!(status.code(), Code::Unavailable);
    assert_says(&status, &["DNS name `greeter.test`", "NXDOMAIN", &dns.address.to_string(), "cluster greeter"]);
    assert_eq!(Client::new(&mesh, "xds:///other").hello().await.expect("an answer"), "other");
    dns.change(Answer::Addresses(60, vec![HERE]));
    assert_eq!(client.recovers().await, "here");
}

#[tokio::test]
async fn an_aggregate_falls_back_from_eds_to_dns() {
    let (here, _there) = twins().await;
    let mut near = Backend::start("near").await;
    let dns = Dns::start(Answer::Addresses(60, vec![HERE])).await;
    let control_plane = ControlPlane::new();
    let fallback = asking(&dns, cluster("fallback").logical_dns(&named("greeter.test", &here)));
    let resources = aggregate(&[("near", &near)]).with(cluster("greeter").aggregate(["near", "fallback"]));
    control_plane.set(resources.with(fallback));
    let mesh = mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello_until("near").await;
    near.stop().await;
    assert_eq!(client.recovers().await, "here");
    assert_eq!(client.cluster().await.expect("an answer"), "fallback");
}

#[tokio::test]
async fn the_newer_cluster_type_for_dns_resolves_names_too() {
    let (here, _there) = twins().await;
    let control_plane = ControlPlane::new();
    for all_addresses_in_single_endpoint in [true, false] {
        let config = DnsCluster {
            all_addresses_in_single_endpoint,
            dns_lookup_family: DnsLookupFamily::V4Only as i32,
            ..Default::default()
        };
        let custom = CustomClusterType { name: "envoy.clusters.dns".into(), typed_config: Some(any(&config)) };
        let by_extension = |cluster: &mut Cluster| {
            cluster.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(custom));
        };
        let cluster = cluster("greeter").logical_dns(&named("localhost", &here)).modify(by_extension);
        control_plane.set(Resources::service("greeter", [here.address()]).with(cluster));
        let mesh = mesh(&control_plane).await;
        assert_eq!(Client::new(&mesh, "xds:///greeter").hello().await.expect("an answer"), "here");
    }
}

#[tokio::test]
async fn an_endpoint_with_several_addresses_is_reached_at_the_one_that_answers() {
    let (mut here, there) = twins().await;
    let control_plane = ControlPlane::new();
    let more = |member: &mut LbEndpoint| {
        if let Some(HostIdentifier::Endpoint(first)) = &mut member.host_identifier {
            let other = endpoint(there.address()).build().host_identifier;
            let Some(HostIdentifier::Endpoint(other)) = other else { panic!("an endpoint") };
            first.additional_addresses = vec![AdditionalAddress { address: other.address }];
        }
    };
    let assignment = endpoints("greeter").endpoint(endpoint(here.address()).modify(more));
    control_plane.set(Resources::service("greeter", [here.address()]).with(assignment));
    let mesh = mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello_until("here").await;
    assert_eq!(there.connections(), 0);
    here.stop().await;
    assert_eq!(client.recovers().await, "there");
    let endpoints = mesh.status().targets[0].clusters[0].endpoints.clone();
    assert_eq!(
        endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect::<Vec<_>>(),
        [here.address().to_string()]
    );
}

#[tokio::test]
async fn what_is_no_cluster_is_rejected_and_its_callers_are_told_so_at_once() {
    let backend = Backend::start("a").await;
    let control_plane = ControlPlane::new();
    let misplaced = Resource::from_any(type_url::CLUSTER, "greeter", &any(&listener("greeter").build()));
    control_plane.set(Resources::service("greeter", [backend.address()]).with(misplaced));
    let mesh = mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let status = client.hello().await.expect_err("rejected");
    let wanted = "where `type.googleapis.com/envoy.config.cluster.v3.Cluster` is wanted";
    assert_says(&status, &["Cluster `greeter` was rejected", "listener.v3.Listener`", wanted]);
    let (_, nack) = control_plane.next_nack().await.error.expect("a reason");
    assert!(nack.contains(wanted), "{nack}");
    control_plane.put(cluster("greeter"));
    assert_eq!(client.recovers().await, "a");
}

#[tokio::test]
async fn a_connection_takes_no_longer_than_the_cluster_says() {
    let hole = BlackHole::new();
    let control_plane = ControlPlane::new();
    let limited = cluster("greeter").connect_timeout(Duration::from_millis(123));
    control_plane.set(Resources::service("greeter", [hole.address()]).with(limited));
    let mesh = mesh(&control_plane).await;
    let status = Client::new(&mesh, "xds:///greeter").hello().await.expect_err("nobody answers");
    assert_says(&status, &["no connection within 123ms"]);
}

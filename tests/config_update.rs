//! Configuration that changes, and configuration that is wrong, while calls are made.

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_core::testing::{
    ControlPlane, Fault, Resource, Resources, RouteBuilder, SeenRequest, cluster, endpoints, listener, route,
    route_config, type_url,
};
use mesh_core::{Mesh, TargetStatus};
use mesh_examples::helloworld::HelloRequest;
use mesh_xds_proto::envoy::config::cluster::v3::Cluster;
use mesh_xds_proto::envoy::config::core::v3::transport_socket::ConfigType;
use mesh_xds_proto::envoy::config::core::v3::{SocketAddress, TransportSocket, address, socket_address};
use mesh_xds_proto::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint};
use mesh_xds_proto::envoy::config::route::v3::route::Action;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use prost::Name;
use tonic::Code;

use crate::support::backend::Backend;
use crate::support::client::{Client, assert_says, impatient_mesh, quick_mesh};
use crate::support::{PATIENCE, in_time};

/// A control plane that serves `greeter` at the backend.
fn serving(backend: &Backend) -> ControlPlane {
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", [backend.address()]));
    control_plane
}

/// The routes of `greeter`, all to one cluster.
fn routes_to(cluster: &str) -> mesh_core::testing::RouteConfigBuilder {
    route_config("greeter").routes([route().cluster(cluster)])
}

/// Cluster and endpoints of this name.
fn cluster_at(name: &str, backend: &Backend) -> Resources {
    Resources::new().with(cluster(name)).with(endpoints(name).endpoint(backend.address()))
}

fn first_target(mesh: &Mesh) -> TargetStatus {
    mesh.status().targets.into_iter().next().expect("a target in use")
}

fn state_of(mesh: &Mesh, resource_type: &str) -> &'static str {
    let resources = mesh.status().resources;
    resources.iter().find(|resource| resource.resource_type == resource_type).expect("it is asked for").state
}

#[tokio::test]
async fn older_routes_serve_on_while_the_new_ones_name_a_cluster_that_never_comes() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = serving(&a);
    let mesh = impatient_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.recovers().await, "a");

    control_plane.put(routes_to("ghost"));
    control_plane.wait_for(|request| request.asks_for(type_url::CLUSTER, "ghost")).await;
    let is_missing = |what: String| what.contains("Cluster `ghost` does not exist");
    let missing = async {
        while !first_target(&mesh).waiting_for.is_some_and(is_missing) {
            assert_eq!(client.hello().await.unwrap(), "a");
        }
    };
    in_time("the verdict on the cluster", missing).await;
    assert_eq!(client.hello().await.unwrap(), "a");

    control_plane.put_all(cluster_at("ghost", &b));
    client.hello_until("b").await;
    assert_eq!(first_target(&mesh).waiting_for, None);
}

/// While the control plane serves `change`, calls succeed, and the status names what is held back; once `mended` is
/// there too, the new backend takes the calls.
async fn serves_on(held: &str, change: impl Fn(&Backend) -> Resources, mended: impl Fn(&Backend) -> Resources) {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = serving(&a);
    let mesh = impatient_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.recovers().await, "a");

    control_plane.put_all(change(&b));
    let is_held = async {
        while !first_target(&mesh).waiting_for.is_some_and(|what| what.contains("in force stay") && what.contains(held))
        {
            assert_eq!(client.hello().await.expect("the old configuration serves"), "a");
        }
    };
    tokio::time::timeout(PATIENCE, is_held).await.expect("the status says it");
    assert_eq!(client.hello().await.expect("the old configuration serves"), "a");
    // It goes on to change, and no call goes where no endpoint is any more.
    let c = Backend::start("c").await;
    control_plane.put(endpoints("greeter").endpoint(c.address()));
    client.hello_until("c").await;

    control_plane.put_all(mended(&b));
    client.hello_until("b").await;
    assert_eq!(first_target(&mesh).waiting_for, None);
}

/// Routes of this name to a cluster at the backend.
fn other_routes(backend: &Backend) -> Resources {
    cluster_at("other", backend).with(route_config("other").routes([route().cluster("other")]))
}

/// Endpoints of this name at the backend.
fn other_endpoints(backend: &Backend) -> Resources {
    Resources::new().with(endpoints("other").endpoint(backend.address()))
}

#[tokio::test]
async fn older_routes_serve_on_while_the_listener_names_routes_that_never_come() {
    let change = |_: &Backend| Resources::new().with(listener("greeter").rds("other"));
    serves_on("RouteConfiguration `other` does not exist", change, other_routes).await;
}

#[tokio::test]
async fn older_routes_serve_on_while_the_listener_names_routes_that_are_rejected() {
    let change = |_: &Backend| {
        let bad = route_config("other").routes([route().regex("(").cluster("other")]);
        Resources::new().with(bad).with(listener("greeter").rds("other"))
    };
    serves_on("RouteConfiguration `other` was rejected", change, other_routes).await;
}

#[tokio::test]
async fn older_routes_go_on_to_change_while_the_listener_names_routes_that_never_come() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = serving(&a);
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello_until("a").await;
    control_plane.put(listener("greeter").rds("other"));
    control_plane.wait_for(|request| request.asks_for(type_url::ROUTE_CONFIGURATION, "other")).await;
    control_plane.put_all(cluster_at("second", &b).with(route_config("greeter").routes([route().cluster("second")])));
    client.hello_until("b").await;
}

#[tokio::test]
async fn older_endpoints_serve_on_while_the_cluster_names_endpoints_that_never_come() {
    let change = |_: &Backend| Resources::new().with(cluster("greeter").eds_service_name("other"));
    serves_on("ClusterLoadAssignment `other` does not exist", change, other_endpoints).await;
}

#[tokio::test]
async fn older_endpoints_serve_on_while_the_cluster_names_endpoints_that_are_rejected() {
    let change = |backend: &Backend| {
        let gap = |assignment: &mut ClusterLoadAssignment| assignment.endpoints[0].priority = 7;
        let bad = endpoints("other").endpoint(backend.address()).modify(gap);
        Resources::new().with(bad).with(cluster("greeter").eds_service_name("other"))
    };
    serves_on("ClusterLoadAssignment `other` was rejected", change, other_endpoints).await;
}

#[tokio::test]
async fn a_cluster_that_never_comes_fails_by_name_beside_one_that_serves() {
    let backend = Backend::start("a").await;
    let control_plane = serving(&backend);
    let slow = route().name("to-ghost").path("/helloworld.Greeter/SayHelloStream").cluster("ghost");
    control_plane.put(route_config("greeter").routes([slow, route().cluster("greeter")]));
    let mesh = impatient_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.recovers().await, "a");
    let status = client.greeter().say_hello_stream(HelloRequest::default()).await.map(|_| ()).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_says(&status, &["Cluster `ghost` does not exist", "to-ghost", "node test"]);
}

/// Changes the address of the only endpoint.
fn spoil(assignment: &mut ClusterLoadAssignment, change: impl FnOnce(&mut SocketAddress)) {
    let host = assignment.endpoints[0].lb_endpoints[0].host_identifier.as_mut();
    let Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)) = host else { panic!("an endpoint") };
    let address = endpoint.address.as_mut().and_then(|address| address.address.as_mut());
    let Some(address::Address::SocketAddress(address)) = address else { panic!("a socket address") };
    change(address);
}

/// The bad assignment is rejected with the field's name, the last good one stays, and a later one is taken.
async fn rejects_an_assignment(change: impl FnOnce(&mut SocketAddress), complaint: &str) {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = serving(&a);
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");

    control_plane.modify("greeter", |assignment: &mut ClusterLoadAssignment| spoil(assignment, change));
    let nack = control_plane.next_nack().await;
    assert_eq!(nack.type_url, type_url::ENDPOINTS);
    let (_, text) = nack.error.expect("a NACK says why");
    assert!(text.contains("greeter") && text.contains(complaint), "{text}");
    assert_eq!(client.hello().await.unwrap(), "a");
    assert_eq!(state_of(&mesh, "ClusterLoadAssignment"), "nacked_but_cached");

    // Other types are not held up, and neither is the next version of this one.
    control_plane.put(listener("greeter").rds("greeter").max_stream_duration(Duration::from_secs(9)));
    control_plane.acked(type_url::LISTENER).await;
    control_plane.put(endpoints("greeter").endpoint(b.address()));
    client.hello_until("b").await;
    assert_eq!(state_of(&mesh, "ClusterLoadAssignment"), "acked");
}

#[tokio::test]
async fn an_endpoint_that_is_no_address_is_rejected_and_the_last_good_ones_stay() {
    let field = "endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address";
    rejects_an_assignment(|address| address.address = "not an address".to_owned(), field).await;
}

#[tokio::test]
async fn port_70000_is_rejected_and_the_last_good_endpoints_stay() {
    let port = Some(socket_address::PortSpecifier::PortValue(70_000));
    rejects_an_assignment(|address| address.port_specifier = port, "port_value: 70000 is not a port").await;
}

#[tokio::test]
async fn a_cluster_without_endpoints_fails_calls_at_once_until_it_has_some() {
    let backend = Backend::start("a").await;
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", Vec::<String>::new()));
    // Nothing here may need a timer.
    let mesh = Mesh::builder().control_plane(&control_plane).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    let call = tokio::time::timeout(PATIENCE, client.hello());
    let status = call.await.expect("no wait for what is known").unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_says(&status, &["cluster `greeter` has no endpoints", "ClusterLoadAssignment", "node test"]);
    control_plane.put(endpoints("greeter").endpoint(backend.address()));
    control_plane.acked(type_url::ENDPOINTS).await;
    assert_eq!(client.recovers().await, "a");
}

/// Routes to so many clusters, and the clusters.
fn many_clusters(count: usize, backend: &Backend) -> Resources {
    let name = |number: usize| format!("c{number}");
    let to = |number: usize| -> RouteBuilder { route().header("n", number.to_string()).cluster(name(number)) };
    let routes = (1..count).map(to).chain([route().cluster(name(0))]);
    let start = Resources::new().with(listener("greeter")).with(route_config("greeter").routes(routes));
    (0..count).map(name).fold(start, |all, name| all.and(cluster_at(&name, backend)))
}

#[tokio::test]
async fn two_hundred_clusters_are_asked_for_and_left_in_a_request_per_type() {
    let backend = Backend::start("a").await;
    let control_plane = ControlPlane::new();
    control_plane.set(many_clusters(200, &backend));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    let all: BTreeSet<String> = (0..200).map(|number| format!("c{number}")).collect();
    for type_url in [type_url::CLUSTER, type_url::ENDPOINTS] {
        control_plane.acked(type_url).await;
        let requests = control_plane.requests();
        let asked: Vec<_> = requests.iter().filter(|request| request.type_url == type_url).collect();
        assert_eq!(*asked.last().unwrap().names, all);
        assert!(asked.len() <= 4, "{} requests: {asked:?}", asked.len());
    }

    let mut watch = control_plane.watch_requests();
    let before = control_plane.requests().len();
    control_plane.put(routes_to("c0"));
    let only: BTreeSet<String> = ["c0".to_owned()].into();
    let mut left = BTreeSet::from([type_url::CLUSTER, type_url::ENDPOINTS]);
    while !left.is_empty() {
        let request = watch.wait_for(|request| *request.names == only).await;
        left.remove(&*request.type_url);
    }
    let requests = control_plane.requests().len() - before;
    assert!(requests <= 8, "{requests}: {:?}", &control_plane.requests()[before..]);
    assert_eq!(client.hello().await.unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn a_bad_resource_that_comes_again_at_each_nack_makes_no_storm() {
    let control_plane = ControlPlane::new();
    let bad =
        |attempt: u32| cluster("greeter").connect_timeout(Duration::from_secs(1 + u64::from(attempt))).modify(socket);
    control_plane.set(Resources::service("greeter", ["127.0.0.1:1"]).with(bad(0)));
    let mesh = quick_mesh(&control_plane).await;
    let _client = Client::new(&mesh, "xds:///greeter");
    let mut nacks = 0;
    let storm = async {
        loop {
            control_plane.next_nack().await;
            nacks += 1;
            control_plane.put(bad(nacks));
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), storm).await;
    assert!((2..=10).contains(&nacks), "{nacks} NACKs within 2 s");
}

/// Asks for TLS.
fn socket(cluster: &mut Cluster) {
    let config = mesh_core::testing::any(&UpstreamTlsContext::default());
    cluster.transport_socket =
        Some(TransportSocket { name: "tls".into(), config_type: Some(ConfigType::TypedConfig(config)) });
}

#[tokio::test]
async fn what_is_deleted_while_it_is_good_stays_in_use() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = serving(&a);
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    for type_url in [type_url::LISTENER, type_url::CLUSTER] {
        assert!(control_plane.remove(type_url, "greeter"));
        control_plane.acked(type_url).await;
    }
    for type_url in [type_url::ROUTE_CONFIGURATION, type_url::ENDPOINTS] {
        control_plane.put(Resource::error(type_url, "greeter", 5, "taken away"));
        control_plane.acked(type_url).await;
    }
    assert_eq!(client.hello().await.unwrap(), "a");
    let status = mesh.status();
    assert_eq!(status.resources.len(), 4);
    assert!(status.resources.iter().all(|resource| resource.error.is_some()), "{:#?}", status.resources);

    control_plane.set(Resources::service("greeter", [b.address()]));
    client.hello_until("b").await;
    assert!(mesh.status().resources.iter().all(|resource| resource.error.is_none()));
}

#[tokio::test]
async fn a_listener_that_is_missing_fails_calls_by_name_within_the_timer() {
    let backend = Backend::start("a").await;
    let control_plane = ControlPlane::new();
    let mesh = impatient_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let status = client.hello().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_says(&status, &["Listener `greeter` does not exist", "node test", "control plane in-process"]);
    control_plane.set(Resources::service("greeter", [backend.address()]));
    assert_eq!(client.recovers().await, "a");
}

/// Endpoints before their cluster, routes before their listener, everything twice: at the first subscription, for updates, and
/// when all is asked for at once on a new stream.
#[tokio::test]
async fn responses_out_of_order_and_duplicates_lead_every_call_to_the_newest_configuration() {
    let backends = [Backend::start("even").await, Backend::start("odd").await];
    let generation = |number: usize| {
        let name = format!("generation-{number}");
        Resources::new()
            .with(listener("greeter").rds(&*name))
            .with(route_config(&*name).routes([route().cluster(&*name)]))
            .and(cluster_at(&name, &backends[number % 2]))
    };
    for faults in [vec![Fault::reorder()], vec![Fault::duplicate()], vec![Fault::reorder(), Fault::duplicate()]] {
        let control_plane = ControlPlane::new();
        control_plane.set(generation(0));
        faults.into_iter().for_each(|fault| _ = control_plane.inject(fault));
        let mesh = quick_mesh(&control_plane).await;
        let client = Client::new(&mesh, "xds:///greeter");
        assert_eq!(client.hello().await.unwrap(), "even");
        for number in 1..=9 {
            control_plane.put_all(generation(number));
            if number % 3 == 0 {
                control_plane.kill_connections();
            }
            client.hello_until(backends[number % 2].name()).await;
            for _ in 0..3 {
                assert_eq!(client.hello().await.unwrap(), backends[number % 2].name(), "generation {number}");
            }
        }
        assert_eq!(first_target(&mesh).waiting_for, None);
        assert!(!control_plane.requests().iter().any(SeenRequest::is_nack), "{:?}", control_plane.requests());
    }
}

#[tokio::test]
async fn a_missing_resource_of_any_type_is_named_when_its_timer_ends() {
    let backend = Backend::start("a").await;
    let all = [
        (type_url::LISTENER, "Listener"),
        (type_url::ROUTE_CONFIGURATION, "RouteConfiguration"),
        (type_url::CLUSTER, "Cluster"),
        (type_url::ENDPOINTS, "ClusterLoadAssignment"),
    ];
    for (type_url, name) in all {
        let control_plane = serving(&backend);
        // Not even an answer that says that there is none.
        control_plane.inject(Fault::lose().only(type_url));
        let mesh = impatient_mesh(&control_plane).await;
        let client = Client::new(&mesh, "xds:///greeter");
        let status = client.hello().await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert_says(&status, &[&format!("{name} `greeter` does not exist"), "node test", "control plane in-process"]);
        control_plane.heal();
        control_plane.kill_connections();
        assert_eq!(client.recovers().await, "a");
    }
}

#[tokio::test]
async fn a_cluster_that_asks_for_tls_is_refused_and_never_called_in_plaintext() {
    let backend = Backend::start("a").await;
    let control_plane = serving(&backend);
    control_plane.put(cluster("greeter").modify(socket));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let status = client.hello().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_says(&status, &["Cluster `greeter`", "transport_socket.typed_config.common_tls_context: must be set"]);
    let (_, text) = control_plane.next_nack().await.error.expect("a NACK says why");
    assert!(text.contains("transport_socket"), "{text}");
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn a_filter_that_nobody_knows_is_refused_unless_it_is_optional() {
    let backend = Backend::start("a").await;
    let control_plane = serving(&backend);
    control_plane.put(listener("greeter").filter("authz", &Cluster::default()));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let status = client.hello().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_says(&status, &["Listener `greeter`", "http_filters[0]", &Cluster::full_name()]);
    let (_, text) = control_plane.next_nack().await.error.expect("a NACK says why");
    assert!(text.contains("http_filters[0]") && text.contains("not optional"), "{text}");

    let optional = listener("greeter").filter("authz", &Cluster::default());
    control_plane.put(optional.modify_manager(|manager| manager.http_filters[0].is_optional = true));
    assert_eq!(client.recovers().await, "a");
}

#[tokio::test]
async fn fields_that_nothing_acts_on_are_listed_with_their_resource() {
    let backend = Backend::start("a").await;
    let control_plane = serving(&backend);
    let hurried = route().cluster("greeter").modify(|route| {
        let Some(Action::Route(action)) = &mut route.action else { panic!("a route that forwards") };
        action.priority = 1;
    });
    control_plane.put(route_config("greeter").routes([hurried]));
    let mesh = quick_mesh(&control_plane).await;
    assert_eq!(mesh.ignored_fields(), []);
    assert_eq!(Client::new(&mesh, "xds:///greeter").hello().await.unwrap(), "a");
    let ignored = mesh.ignored_fields();
    let field = ignored.iter().find(|field| field.path == "virtual_hosts.routes.route.priority").unwrap();
    assert_eq!((field.resource_type, field.count), ("RouteConfiguration", 1));
    assert_eq!(field.names, ["greeter".into()]);
}

#[tokio::test]
async fn all_channels_of_a_mesh_share_one_stream() {
    let backend = Backend::start("a").await;
    let control_plane = ControlPlane::new();
    for service in ["one", "two", "three"] {
        control_plane.put_all(Resources::service(service, [backend.address()]));
    }
    let mesh = quick_mesh(&control_plane).await;
    for service in ["one", "two", "three", "one"] {
        let client = Client::new(&mesh, &format!("xds:///{service}"));
        assert_eq!(client.cluster().await.unwrap(), service);
        assert_eq!((control_plane.streams(), control_plane.connections()), (1, 1));
    }
    let streams: BTreeSet<u64> = control_plane.requests().iter().map(|request| request.stream).collect();
    assert_eq!(streams, BTreeSet::from([1]));
}

#[tokio::test]
async fn meshes_that_are_made_called_and_dropped_leave_no_stream() {
    let backend = Backend::start("a").await;
    let control_plane = serving(&backend);
    for _ in 0..5 {
        let mesh = quick_mesh(&control_plane).await;
        assert_eq!(Client::new(&mesh, "xds:///greeter").hello().await.unwrap(), "a");
        assert_eq!(control_plane.streams(), 1);
        drop(mesh);
        control_plane.wait_for_streams(0).await;
        control_plane.wait_for_connections(0).await;
        backend.wait_for_connections(0).await;
    }
}

#[tokio::test]
async fn channels_that_are_made_called_and_dropped_leave_no_subscription() {
    let backend = Backend::start("a").await;
    let control_plane = ControlPlane::new();
    let mesh = quick_mesh(&control_plane).await;
    for service in ["one", "two", "three", "four", "five"] {
        control_plane.put_all(Resources::service(service, [backend.address()]));
        let client = Client::new(&mesh, &format!("xds:///{service}"));
        assert_eq!(client.hello().await.unwrap(), "a");
        let mut watch = control_plane.watch_requests();
        drop(client);
        // An empty list of listeners or clusters would ask for all there are: one name stays, for nobody.
        let mut left = BTreeSet::from([type_url::ROUTE_CONFIGURATION, type_url::ENDPOINTS]);
        while !left.is_empty() {
            let request = watch.wait_for(|request| request.names.is_empty()).await;
            left.remove(&*request.type_url);
        }
        let left = mesh.status().resources;
        assert!(left.len() <= 2 && left.iter().all(|resource| &*resource.name == service), "{left:#?}");
    }
    assert!(control_plane.streams() <= 1);
}

#[tokio::test]
async fn a_cluster_that_comes_back_has_its_new_endpoints() {
    let (old, other, new) = (Backend::start("old").await, Backend::start("other").await, Backend::start("new").await);
    let control_plane = serving(&old);
    control_plane.put(routes_to("c1"));
    control_plane.put_all(cluster_at("c1", &old).and(cluster_at("c2", &other)));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "old");
    control_plane.put(routes_to("c2"));
    assert!(client.hello_until("other").await.iter().all(|name| name == "old"));
    control_plane.wait_for(|request| request.type_url == type_url::ENDPOINTS && !request.names.contains("c1")).await;
    control_plane.put(endpoints("c1").endpoint(new.address()));
    control_plane.put(routes_to("c1"));
    let meanwhile = client.hello_until("new").await;
    assert!(meanwhile.iter().all(|name| name == "other"), "{meanwhile:?}");
    for _ in 0..20 {
        assert_eq!(client.hello().await.unwrap(), "new");
    }
}

#[tokio::test]
async fn a_cluster_that_turned_bad_spoils_no_other() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = serving(&a);
    control_plane.put_all(cluster_at("other", &b));
    control_plane.put(
        route_config("greeter")
            .routes([route().path("/helloworld.Greeter/SayHelloStream").cluster("other"), route().cluster("greeter")]),
    );
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    control_plane.put(cluster("other").modify(socket));
    let nack = control_plane.next_nack().await;
    assert_eq!(nack.type_url, type_url::CLUSTER);
    // The last good one serves on, and updates of its neighbour are taken.
    let mut stream = client.greeter().say_hello_stream(HelloRequest::default()).await.unwrap();
    assert_eq!(stream.get_mut().message().await.unwrap().unwrap().message, "b");
    control_plane.put(endpoints("greeter").endpoint(b.address()));
    client.hello_until("b").await;
}

//! Servers configured by a control plane (A36): when they serve, which connections and which calls, and what they refuse.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_core::server::{ServerOptions, ServingMode};
use mesh_core::testing::{
    ControlPlane, FilterChainBuilder, Resources, ServerListenerBuilder, filter_chain, route, route_config,
    server_listener, virtual_host,
};
use mesh_core::{Bootstrap, Mesh};
use mesh_tonic::{MeshChannel, MeshServer};
use mesh_xds_proto::envoy::config::core::v3::{
    HttpProtocolOptions, TransportSocket, address::Address, socket_address::Protocol,
};
use mesh_xds_proto::envoy::config::listener::v3::{
    FilterChainMatch, Listener, ListenerFilter, filter_chain_match::ConnectionSourceType,
};
use mesh_xds_proto::envoy::extensions::filters::http::stateful_session::v3::StatefulSession;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::PATIENCE;
use crate::support::backend::Backend;
use crate::support::client::{Client, assert_says, quick, quick_mesh};
use crate::support::frames::{DATA, END_STREAM, GOAWAY, HEADERS, Peer, REFUSED_STREAM, RST_STREAM};
use crate::support::served::Served;

const LISTENERS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

/// A server that a control plane configures, and a client of it that has none.
struct Setting {
    control_plane: ControlPlane,
    greeter: Backend,
    server: Served,
    client: Client,
    modes: watch::Receiver<Option<ServingMode>>,
    /// How often the mode changed.
    changes: Arc<Mutex<Vec<ServingMode>>>,
    meshes: (Mesh, Mesh),
}

impl Setting {
    /// With a listener made for the server's address.
    async fn start(listener: impl FnOnce(SocketAddr) -> Option<ServerListenerBuilder>) -> Self {
        let control_plane = ControlPlane::new();
        let mesh = quick_mesh(&control_plane).await;
        Self::start_in(control_plane, mesh, listener).await
    }

    async fn start_in(
        control_plane: ControlPlane,
        mesh: Mesh,
        listener: impl FnOnce(SocketAddr) -> Option<ServerListenerBuilder>,
    ) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        if let Some(listener) = listener(address) {
            control_plane.put(listener);
        }
        let greeter = Backend::start("a").await;
        let (send, modes) = watch::channel(None);
        let changes = Arc::<Mutex<Vec<_>>>::default();
        let hears = {
            let changes = changes.clone();
            move |mode: &ServingMode| {
                changes.lock().push(mode.clone());
                send.send_replace(Some(mode.clone()));
            }
        };
        let services = |server: MeshServer| server.add_service(greeter.service()).on_serving_mode(hears);
        let server = Served::start_at(socket, &mesh, ServerOptions::new(), services).await;
        let plain = quick().build().await.unwrap();
        let client = Client::new(&plain, &server.target());
        Self { control_plane, greeter, server, client, modes, changes, meshes: (mesh, plain) }
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn name(&self) -> String {
        format!("grpc/server?xds.resource.listening_address={}", self.address())
    }

    /// How often something was rejected.
    fn nacks(&self) -> usize {
        self.control_plane.requests().iter().filter(|request| request.is_nack()).count()
    }

    /// What the next NACK says.
    async fn nack(&self) -> String {
        let nack = self.control_plane.next_nack().await;
        nack.error.expect("a NACK has a reason").1
    }

    async fn serves(&mut self) {
        let serves = self.modes.wait_for(|mode| *mode == Some(ServingMode::Serving));
        timeout(PATIENCE, serves).await.expect("the server serves").expect("the server runs");
    }

    /// Why it does not serve.
    async fn stops(&mut self) -> String {
        let stopped = self.modes.wait_for(|mode| matches!(mode, Some(ServingMode::NotServing(_))));
        let mode = timeout(PATIENCE, stopped).await.expect("the server stops").expect("the server runs");
        match &*mode {
            Some(ServingMode::NotServing(why)) => why.to_string(),
            other => panic!("{other:?}"),
        }
    }

    /// Calls until a call is refused for this reason, which the server knows and the caller does not.
    async fn refuses_for(&self, text: &str) -> String {
        let refused = async {
            loop {
                let failed = self.client.hello().await.is_err();
                let why = self.server.status().last_refused_call.filter(|why| failed && why.contains(text));
                if let Some(why) = why {
                    return why.to_string();
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, refused).await.expect("calls are refused so")
    }

    /// Why the last call was refused.
    fn last_refused(&self) -> String {
        self.server.status().last_refused_call.expect("a call was refused").to_string()
    }

    /// That a connection is closed without a byte.
    async fn closes_connections(&self) {
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        let mut bytes = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection is closed");
        assert_eq!(bytes, b"");
    }
}

/// What a caller is told, whatever the reason.
fn assert_is_refused(error: &Status) {
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(error.message(), "this server is not configured to serve the call");
}

fn assert_all_in(why: &str, parts: &[&str]) {
    for part in parts {
        assert!(why.contains(part), "`{part}` is not in: {why}");
    }
}

/// One chain that takes all connections.
fn one_chain(chain: FilterChainBuilder) -> impl FnOnce(SocketAddr) -> Option<ServerListenerBuilder> {
    |address| Some(server_listener(address).chains([chain]))
}

#[tokio::test]
async fn a_server_serves_when_its_listener_has_come_and_not_before() {
    let mut it = Setting::start(|_| None).await;
    it.closes_connections().await;
    let status = it.server.status();
    assert_eq!(status.listener.as_deref(), Some(&*it.name()));
    assert!(matches!(&status.mode, ServingMode::NotServing(why) if why.contains(&it.name())), "{status:?}");
    assert!(it.changes.lock().is_empty(), "there is no verdict yet");
    it.control_plane.put(server_listener(it.address()));
    it.serves().await;
    assert_eq!(it.client.recovers().await, "a");
    assert_eq!(it.server.status().mode, ServingMode::Serving);
    assert_eq!(*it.changes.lock(), [ServingMode::Serving]);
}

#[tokio::test]
async fn a_server_whose_listener_does_not_exist_says_so() {
    let control_plane = ControlPlane::new();
    let mesh = quick().does_not_exist_timeout(std::time::Duration::from_millis(50)).control_plane(&control_plane);
    let mut it = Setting::start_in(control_plane, mesh.build().await.unwrap(), |_| None).await;
    let why = it.stops().await;
    assert!(why.contains(&it.name()) && why.contains("does not exist"), "{why}");
    it.closes_connections().await;
}

#[tokio::test]
async fn a_listener_for_another_address_does_not_serve() {
    let mut it = Setting::start(|address| {
        let elsewhere = server_listener("127.0.0.1:1").build();
        Some(server_listener(address).modify(|listener| listener.address = elsewhere.address))
    })
    .await;
    let why = it.stops().await;
    assert!(why.contains("127.0.0.1:1") && why.contains(&it.address().to_string()), "{why}");
    it.closes_connections().await;
    assert_eq!(it.nacks(), 0, "it is no reason to reject it");
    it.control_plane.put(server_listener(it.address()));
    it.serves().await;
    assert_eq!(it.client.recovers().await, "a");
}

#[tokio::test]
async fn a_clients_listener_in_the_place_of_a_servers_does_not_serve() {
    let mut it = Setting::start(|_| None).await;
    it.control_plane.put(mesh_core::testing::listener(it.name()));
    let why = it.stops().await;
    assert!(why.contains("api_listener"), "{why}");
    assert_eq!(it.nacks(), 0, "it is no reason to reject it");
}

#[tokio::test]
async fn a_servers_listener_in_the_place_of_a_clients_is_said_to_be_one() {
    let control_plane = ControlPlane::new();
    control_plane.put(server_listener("127.0.0.1:1").modify(|listener| listener.name = "greeter".into()));
    let mesh = quick_mesh(&control_plane).await;
    let error = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_says(&error, &["Listener `greeter` is for a server", "GENERATOR: grpc"]);
}

/// What is wrong is named, and the last good listener serves on.
#[tokio::test]
async fn what_a_server_does_not_act_on_is_listed() {
    let limits = HttpProtocolOptions { max_stream_duration: Some(Default::default()), ..Default::default() };
    let chain = filter_chain()
        .modify_manager(|manager| manager.common_http_protocol_options = Some(limits))
        .modify(|chain| chain.filter_chain_match = Some(FilterChainMatch::default()));
    let udp = |listener: &mut Listener| match listener.address.as_mut().and_then(|address| address.address.as_mut()) {
        Some(Address::SocketAddress(socket)) => socket.protocol = Protocol::Udp.into(),
        _ => panic!("it has one"),
    };
    let it = Setting::start(|address| Some(server_listener(address).default_chain(chain).modify(udp))).await;
    it.server.wait_for("a server that serves", |status| status.mode == ServingMode::Serving).await;
    let ignored: Vec<_> = it.meshes.0.ignored_fields().into_iter().map(|field| field.path).collect();
    for field in [
        "address.socket_address.protocol",
        "default_filter_chain.filter_chain_match",
        "default_filter_chain.filters.typed_config.common_http_protocol_options",
    ] {
        assert!(ignored.iter().any(|path| path == field), "`{field}` is not in {ignored:?}");
    }
}

#[tokio::test]
async fn a_bad_listener_is_refused_by_field_and_the_last_good_one_serves() {
    type Change = fn(ServerListenerBuilder) -> ServerListenerBuilder;
    let cases: [(Change, &str); 8] = [
        (|listener| listener.chains([]), "filter_chains: must be set"),
        (|listener| listener.modify(|l| l.use_original_dst = Some(true)), "use_original_dst: "),
        (|listener| listener.modify(|l| l.listener_filters.push(ListenerFilter::default())), "listener_filters: "),
        (
            |listener| {
                listener.chains([filter_chain().modify(|chain| {
                    chain.transport_socket = Some(TransportSocket { name: "tls".into(), ..Default::default() });
                })])
            },
            "filter_chains[0].transport_socket.typed_config: must be set",
        ),
        (
            |listener| listener.chains([filter_chain().from("127.0.0.0/8"), filter_chain().from("127.1.2.3/8")]),
            "filter_chains[1].filter_chain_match: matches the same connections as filter_chains[0]",
        ),
        (
            |listener| listener.chains([filter_chain().from("nowhere/8")]),
            "filter_chains[0].filter_chain_match.source_prefix_ranges[0].address_prefix: ",
        ),
        (
            |listener| {
                let filters = |chain: &mut mesh_xds_proto::envoy::config::listener::v3::FilterChain| {
                    chain.filters = vec![Default::default(), Default::default()];
                };
                listener.default_chain(filter_chain().modify(filters))
            },
            "default_filter_chain.filters: must be one HttpConnectionManager, and there are 2",
        ),
        (
            |listener| listener.chains([filter_chain().filter("sessions", &StatefulSession::default())]),
            "filter_chains[0].filters[0].typed_config.http_filters[0]",
        ),
    ];
    let mut it = Setting::start(|address| Some(server_listener(address))).await;
    it.serves().await;
    for (change, field) in cases {
        it.control_plane.put(change(server_listener(it.address())));
        let nack = it.nack().await;
        assert!(nack.contains(field), "`{field}` is not in: {nack}");
        assert_eq!(it.client.hello().await.unwrap(), "a", "{field}");
    }
    assert_eq!(*it.changes.lock(), [ServingMode::Serving]);
    assert_eq!(it.server.status().accepted, 1, "no connection was drained");
}

#[tokio::test]
async fn an_optional_filter_that_no_server_has_is_passed_over() {
    let chain = filter_chain().filter("sessions", &StatefulSession::default());
    let chain = chain.modify_manager(|manager| manager.http_filters[0].is_optional = true);
    let it = Setting::start(one_chain(chain)).await;
    assert_eq!(it.client.recovers().await, "a");
}

#[tokio::test]
async fn a_connection_gets_the_chain_that_matches_it_best_and_none_is_closed_without_a_byte() {
    let refusing = || route_config("refusing").routes([route().cluster("elsewhere")]);
    let mut it = Setting::start(|address| {
        let best = filter_chain().from("127.0.0.0/24");
        let other = filter_chain().from("127.0.0.0/8").inline(refusing());
        Some(server_listener(address).chains([other, best]).default_chain(filter_chain().inline(refusing())))
    })
    .await;
    it.serves().await;
    assert_eq!(it.client.recovers().await, "a");
    let external = filter_chain().modify(|chain| {
        chain.filter_chain_match.get_or_insert_default().source_type = ConnectionSourceType::External as i32;
    });
    let never = [
        external,
        filter_chain().modify(|chain| {
            chain.filter_chain_match.get_or_insert_default().server_names = vec!["a".into()];
        }),
        filter_chain().modify(|chain| {
            chain.filter_chain_match.get_or_insert_default().transport_protocol = "tls".into();
        }),
    ];
    it.control_plane.put(server_listener(it.address()).chains(never));
    // The connection that was accepted under the other chains drains.
    it.server.wait_for("connections", |status| status.connections == 0).await;
    it.closes_connections().await;
    it.control_plane.put(server_listener(it.address()).chains([]).default_chain(filter_chain()));
    assert_eq!(it.client.recovers().await, "a");
}

#[tokio::test]
async fn only_routes_that_do_not_forward_are_served_and_others_are_told_by_name() {
    let routes = route_config("inline").routes([
        route().path("/helloworld.Greeter/SayHello").header("to", "nobody").name("forwards").cluster("elsewhere"),
        route().path("/helloworld.Greeter/SayHello").non_forwarding(),
    ]);
    let it = Setting::start(one_chain(filter_chain().inline(routes).modify(|chain| chain.name = "main".into()))).await;
    assert_eq!(it.client.recovers().await, "a");
    let served = it.greeter.calls();
    let mut metadata = tonic::metadata::MetadataMap::new();
    metadata.insert("to", "nobody".parse().unwrap());
    let error = it.client.hello_with(metadata).await.unwrap_err();
    assert_is_refused(&error);
    let parts = ["route `forwards` has the action `route`", &it.name(), "`main`", "`non_forwarding_action`"];
    assert_all_in(&it.last_refused(), &parts);
    let hello = mesh_examples::helloworld::HelloRequest::default();
    let error = it.client.greeter().say_hello_stream(hello).await.unwrap_err();
    assert_is_refused(&error);
    assert_all_in(&it.last_refused(), &["no route", "/helloworld.Greeter/SayHelloStream", &it.name()]);
    assert_eq!(it.server.status().refused_calls, 2);
    assert_eq!(it.greeter.calls(), served, "no refused call reached the handler");
}

/// What it sent is not sent back to it, where it might be more than it takes.
#[tokio::test]
async fn a_caller_with_a_long_path_is_refused_in_few_words() {
    let mut it = Setting::start(one_chain(filter_chain().inline(route_config("empty")))).await;
    it.serves().await;
    let stream = TcpStream::connect(it.address()).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let uri = format!("http://{}/{}", it.address(), "x".repeat(6_000));
    let answer = client.send_request(http::Request::post(uri).body(()).unwrap(), true).unwrap().0.await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "14");
    assert!(answer.headers()["grpc-message"].len() < 100, "{answer:?}");
    assert!(it.last_refused().len() < 1_000, "{}", it.last_refused());
}

#[tokio::test]
async fn a_call_for_an_authority_without_a_virtual_host_is_unavailable() {
    let hosts = route_config("inline").with(virtual_host(["greeter.test"]).route(route().non_forwarding()));
    let it = Setting::start(one_chain(filter_chain().inline(hosts))).await;
    let mesh = quick().build().await.unwrap();
    let known = Client::with_authority(&mesh, &it.server.target(), Some("greeter.test"));
    assert_eq!(known.recovers().await, "a");
    let error = it.client.hello().await.unwrap_err();
    assert_is_refused(&error);
    assert_all_in(&it.last_refused(), &["no virtual host", &it.address().to_string()]);
}

#[tokio::test]
async fn routes_by_name_change_for_connections_that_are_open() {
    let serving = || route_config("shared").routes([route().non_forwarding()]);
    let mut it = Setting::start(|address| Some(server_listener(address).chains([filter_chain().rds("shared")]))).await;
    it.closes_connections().await;
    it.control_plane.put(serving());
    it.serves().await;
    assert_eq!(it.client.recovers().await, "a");
    it.control_plane.put(route_config("shared").routes([route().name("away").cluster("elsewhere")]));
    let why = it.refuses_for("route `away`").await;
    assert_all_in(&why, &["RouteConfiguration `shared`", &it.name()]);
    it.control_plane.put(serving());
    assert_eq!(it.client.recovers().await, "a");
    assert_eq!(it.server.status().accepted, 1, "all of it on one connection");
    assert_eq!(*it.changes.lock(), [ServingMode::Serving]);
}

#[tokio::test]
async fn routes_that_do_not_exist_fail_the_calls_and_not_the_listener() {
    let control_plane = ControlPlane::new();
    let mesh = quick().does_not_exist_timeout(std::time::Duration::from_millis(50)).control_plane(&control_plane);
    let chains = |address| Some(server_listener(address).chains([filter_chain().rds("missing")]));
    let mut it = Setting::start_in(control_plane, mesh.build().await.unwrap(), chains).await;
    it.serves().await;
    let why = it.refuses_for("RouteConfiguration `missing` does not exist").await;
    assert_all_in(&why, &[&it.name()]);
}

/// As on a client: no fault of the control plane stops traffic. What serves on goes on to change.
#[tokio::test]
async fn a_listener_whose_routes_do_not_exist_is_held_back_while_an_older_one_serves() {
    let control_plane = ControlPlane::new();
    let serving = || route_config("old").routes([route().non_forwarding()]);
    control_plane.put(serving());
    let mesh = quick().does_not_exist_timeout(std::time::Duration::from_millis(50)).control_plane(&control_plane);
    let chains = |address| Some(server_listener(address).chains([filter_chain().rds("old")]));
    let mut it = Setting::start_in(control_plane, mesh.build().await.unwrap(), chains).await;
    it.serves().await;
    assert_eq!(it.client.recovers().await, "a");
    it.control_plane.put(server_listener(it.address()).chains([filter_chain().rds("new")]));
    let held = |waiting_for: &str| waiting_for.contains("RouteConfiguration `new` does not exist");
    it.server.wait_for("held back", |status| status.waiting_for.as_deref().is_some_and(held)).await;
    assert_eq!(it.client.hello().await.unwrap(), "a");
    it.control_plane.put(route_config("old").routes([route().name("away").cluster("elsewhere")]));
    it.refuses_for("route `away`").await;
    it.control_plane.put(serving());
    assert_eq!(it.client.recovers().await, "a");
    it.control_plane.put(route_config("new").routes([route().name("newest").cluster("elsewhere")]));
    it.refuses_for("route `newest`").await;
    assert_eq!((it.server.status().waiting_for, it.server.status().accepted), (None, 1));
    assert_eq!(*it.changes.lock(), [ServingMode::Serving]);
}

#[tokio::test]
async fn a_server_says_what_it_waits_for_now_and_no_longer_what_it_waited_for() {
    let mesh_of = |control_plane| quick().does_not_exist_timeout(PATIENCE).control_plane(control_plane).build();
    let control_plane = ControlPlane::new();
    let mesh = mesh_of(&control_plane).await.unwrap();
    let mut it = Setting::start_in(control_plane, mesh, |address| {
        let elsewhere = server_listener("127.0.0.1:1").build();
        Some(server_listener(address).modify(|listener| listener.address = elsewhere.address))
    })
    .await;
    it.stops().await;
    it.control_plane.put(server_listener(it.address()).chains([filter_chain().rds("late")]));
    let is_waiting = |mode: &ServingMode| matches!(mode, ServingMode::NotServing(why) if why.contains("waiting for RouteConfiguration `late`"));
    it.server.wait_for("the routes it waits for", |status| is_waiting(&status.mode)).await;
    it.control_plane.put(route_config("late").routes([route().non_forwarding()]));
    assert_eq!(it.client.recovers().await, "a");
}

#[tokio::test]
async fn a_server_that_cannot_ask_for_its_listener_tells_why_once() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let bootstrap = Bootstrap::builder(closed.clone()).insecure();
    let bootstrap = bootstrap.server_listener_resource_name_template("server?%s").build().unwrap();
    let mesh = quick().bootstrap(bootstrap).build().await.unwrap();
    let mut it = Setting::start_in(ControlPlane::new(), mesh, |_| None).await;
    let why = it.stops().await;
    assert_all_in(&why, &["waiting for Listener `server?", &closed]);
    assert_eq!(it.changes.lock().len(), 1);
}

/// A server that no longer follows its listener would serve for ever what it served last.
#[tokio::test]
async fn a_server_whose_application_panics_at_a_change_of_the_mode_obeys_its_listener_on() {
    let control_plane = ControlPlane::new();
    let mesh = quick_mesh(&control_plane).await;
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    control_plane.put(server_listener(address));
    let greeter = Backend::start("a").await;
    let services = |server: MeshServer| {
        server.add_service(greeter.service()).on_serving_mode(|_| panic!("a panic that the test wants"))
    };
    let mut server = Served::start_at(socket, &mesh, ServerOptions::new(), services).await;
    let client = Client::new(&mesh, &server.target());
    assert_eq!(client.recovers().await, "a");
    let away = route_config("away").routes([route().cluster("elsewhere")]);
    control_plane.put(server_listener(address).chains([filter_chain().inline(away)]));
    let refused = async { while client.hello().await.is_ok() {} };
    timeout(PATIENCE, refused).await.expect("the newest listener holds");
    server.stop();
    assert_eq!(server.ended().await.cut_calls, 0);
}

#[tokio::test]
async fn probes_are_answered_on_a_port_that_the_control_plane_knows_nothing_of() {
    let control_plane = ControlPlane::new();
    let mesh = quick_mesh(&control_plane).await;
    let mut health = None;
    let services = |server: MeshServer| {
        health = Some(server.health());
        server
    };
    let server = Served::start_in(&mesh, ServerOptions::new(), services).await;
    let health = health.expect("set above");
    let probes = |server: MeshServer| server.add_service(health).without_control_plane();
    let probes = Served::start_in(&mesh, ServerOptions::new(), probes).await;
    let mut probe = HealthClient::new(MeshChannel::new(&mesh, &probes.target()).unwrap());
    let mut check = async || probe.check(HealthCheckRequest::default()).await.unwrap().into_inner().status();
    assert_eq!(check().await, ServingStatus::NotServing, "its listener has not come");
    control_plane.put(server_listener(server.address()));
    let serves = async { while check().await != ServingStatus::Serving {} };
    timeout(PATIENCE, serves).await.expect("the probe sees that the server serves");
}

#[tokio::test]
async fn inline_routes_change_for_connections_that_are_open_and_other_chains_drain_them() {
    let mut it = Setting::start(|address| Some(server_listener(address))).await;
    it.serves().await;
    assert_eq!(it.client.recovers().await, "a");
    let fewer = route_config("inline").routes([route().path("/helloworld.Greeter/SayHello").non_forwarding()]);
    it.control_plane.put(server_listener(it.address()).chains([filter_chain().inline(fewer)]));
    let hello = mesh_examples::helloworld::HelloRequest::default;
    let changed = async { while it.client.greeter().say_hello_stream(hello()).await.is_ok() {} };
    timeout(PATIENCE, changed).await.expect("the routes change");
    assert_eq!(it.client.hello().await.unwrap(), "a");
    assert_eq!(it.server.status().accepted, 1);
    // A call that is open when its connection drains goes on to its end.
    it.greeter.hold();
    let client = it.client.clone();
    let open = tokio::spawn(async move { client.hello().await });
    it.greeter.wait_for_in_flight(1).await;
    it.control_plane.put(server_listener(it.address()).chains([filter_chain().from("127.0.0.0/8")]));
    let moved = async {
        while it.server.status().accepted < 2 {
            let client = it.client.clone();
            tokio::spawn(async move { client.hello().await });
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, moved).await.expect("the next call has a connection of its own");
    it.greeter.release();
    assert_eq!(open.await.unwrap().unwrap(), "a");
    it.server.wait_for("connections", |status| status.connections == 1).await;
}

/// A client that never acknowledges that its connection drains, and calls on: its calls are served for a moment more, as
/// they may have crossed the news, and then are to be made elsewhere. Those that it has go on.
#[tokio::test]
async fn a_connection_of_chains_that_are_gone_is_not_served_for_long() {
    let mut it = Setting::start(|address| Some(server_listener(address))).await;
    it.serves().await;
    let mut peer = Peer::connect(it.address()).await.unwrap();
    peer.call(1, "Chat").await.unwrap();
    assert_eq!(peer.hello(3).await.unwrap().kind, HEADERS);
    it.control_plane.put(server_listener(it.address()).chains([filter_chain().from("127.0.0.0/8")]));
    while peer.next_frame().await.unwrap().kind != GOAWAY {}
    assert_eq!(peer.hello(5).await.unwrap().kind, HEADERS, "it may have been sent before the news came");
    let refused = async {
        for stream in (7..).step_by(2) {
            let end = peer.hello(stream).await.unwrap();
            if end.kind == RST_STREAM {
                return end.payload;
            }
        }
        unreachable!("there are streams enough");
    };
    assert_eq!(timeout(PATIENCE, refused).await.expect("calls are refused"), REFUSED_STREAM.to_be_bytes());
    peer.frame(DATA, END_STREAM, 1, &[0; 5]).await.unwrap();
    let end = async { while peer.next_frame().await.unwrap().stream != 1 {} };
    timeout(PATIENCE, end).await.expect("the first call goes on");
}

#[tokio::test]
async fn a_deleted_listener_stops_a_server_only_if_the_bootstrap_says_so() {
    for fails_on_data_errors in [false, true] {
        let control_plane = ControlPlane::builder().listen("127.0.0.1:0").start().await.unwrap();
        let mut bootstrap = Bootstrap::builder(control_plane.addr().to_string())
            .insecure()
            .server_listener_resource_name_template("grpc/server?xds.resource.listening_address=%s");
        if fails_on_data_errors {
            bootstrap = bootstrap.server_feature("fail_on_data_errors");
        }
        let mesh = quick().bootstrap(bootstrap.build().unwrap()).build().await.unwrap();
        let mut it = Setting::start_in(control_plane, mesh, |address| Some(server_listener(address))).await;
        it.serves().await;
        assert_eq!(it.client.recovers().await, "a");
        it.control_plane.remove(LISTENERS, &it.name());
        if fails_on_data_errors {
            let why = it.stops().await;
            assert!(why.contains("does not exist"), "{why}");
            it.server.wait_for("connections", |status| status.connections == 0).await;
            it.closes_connections().await;
            it.control_plane.put(server_listener(it.address()));
            assert_eq!(it.client.recovers().await, "a");
        } else {
            it.control_plane.acked(LISTENERS).await;
            assert_eq!(it.client.hello().await.unwrap(), "a");
            assert_eq!(*it.changes.lock(), [ServingMode::Serving]);
        }
    }
}

#[tokio::test]
async fn a_server_serves_on_while_the_control_plane_is_gone() {
    let mut it = Setting::start(|address| Some(server_listener(address))).await;
    it.serves().await;
    it.control_plane.stop().await;
    it.control_plane.wait_for_streams(0).await;
    assert_eq!(it.client.recovers().await, "a");
    assert_eq!(*it.changes.lock(), [ServingMode::Serving]);
}

#[tokio::test]
async fn a_bootstrap_without_a_template_is_an_error_unless_the_server_is_to_do_without() {
    let bootstrap = Bootstrap::builder("127.0.0.1:1").insecure().build().unwrap();
    let mesh = quick().bootstrap(bootstrap).build().await.unwrap();
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let error = MeshServer::new(&mesh).serve(address).await.unwrap_err();
    assert!(error.report().contains("server_listener_resource_name_template"), "{}", error.report());
    let greeter = Backend::start("a").await;
    let services = |server: MeshServer| server.add_service(greeter.service()).without_control_plane();
    let server = Served::start_in(&mesh, ServerOptions::new(), services).await;
    assert_eq!(Client::new(&mesh, &server.target()).hello().await.unwrap(), "a");
    assert_eq!((server.status().listener, server.status().mode), (None, ServingMode::Serving));
}

/// A client that finds its server by one control plane that configures both.
#[tokio::test]
async fn one_control_plane_configures_a_client_and_its_server() {
    let it = Setting::start(|address| Some(server_listener(address))).await;
    it.control_plane.put_all(Resources::service("greeter", [it.address()]));
    let mesh = quick_mesh(&it.control_plane).await;
    assert_eq!(Client::new(&mesh, "xds:///greeter").recovers().await, "a");
}

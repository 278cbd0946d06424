//! A server in the mesh, without a control plane: what it serves, what it bears, and that it always ends.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use h2::client::SendRequest;
use http::{HeaderValue, Request, StatusCode};
use mesh_core::Mesh;
use mesh_core::authorize::{Policy, Rbac, RbacLayer, Rule};
use mesh_core::server::{RequestBody, ServerOptions, ServingMode};
use mesh_examples::helloworld::HelloRequest;
use mesh_examples::helloworld::greeter_server::{Greeter, GreeterServer};
use mesh_examples::helloworld::{HelloReply, greeter_client::GreeterClient};
use mesh_tonic::{Grpc, MeshChannel, MeshServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tonic::{Code, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::util::MapRequestLayer;

use crate::support::PATIENCE;
use crate::support::backend::Backend;
use crate::support::client::Client;
use crate::support::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, PING, Peer, RST_STREAM, header_block,
};
use crate::support::served::Served;
use crate::support::timed::timed;
use crate::support::timeout::read_timeout;

const SOON: Duration = Duration::from_millis(150);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn hello(name: &str) -> HelloRequest {
    HelloRequest { name: name.into() }
}

fn channel(mesh: &Mesh, server: &Served) -> GreeterClient<MeshChannel> {
    GreeterClient::new(MeshChannel::new(mesh, &server.target()).expect("a target"))
}

async fn mesh() -> Mesh {
    Mesh::builder().build().await.expect("a mesh")
}

/// A connection of plain HTTP/2, driven by a task.
async fn raw(address: SocketAddr) -> SendRequest<bytes::Bytes> {
    let stream = TcpStream::connect(address).await.expect("a connection");
    let (client, connection) = h2::client::handshake(stream).await.expect("a handshake");
    tokio::spawn(connection);
    client
}

fn post(address: SocketAddr, path: &str) -> Request<()> {
    let uri = format!("http://{address}/helloworld.Greeter/{path}");
    Request::post(uri).header("content-type", "application/grpc").header("te", "trailers").body(()).expect("a request")
}

/// That the peer ends the connection, after how many bytes.
async fn bytes_until_closed(stream: &mut TcpStream) -> usize {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection ends");
    bytes.len()
}

#[tokio::test]
async fn calls_of_every_shape_are_served_without_a_control_plane() {
    let greeter = Backend::start("a").await;
    let server = Served::start(ServerOptions::new(), |server| server.add_service(greeter.service())).await;
    let mesh = mesh().await;
    let mut client = channel(&mesh, &server);
    assert_eq!(client.say_hello(hello("x")).await.unwrap().into_inner().message, "a");
    let replies = client.say_hello_stream(hello("1000")).await.unwrap().into_inner();
    assert_eq!(replies.count().await, 1000);
    let names = || stream::iter((0..1000).map(|number| hello(&number.to_string())));
    client.collect_hellos(names()).await.unwrap();
    assert_eq!(client.chat(names()).await.unwrap().into_inner().count().await, 1000);
    let status = server.status();
    assert_eq!((status.address, status.connections, status.accepted), (server.address(), 1, 1));
    server.wait_for("calls in flight", |status| status.in_flight == 0).await;
    let unknown = raw(server.address()).await.send_request(post(server.address(), "Unknown"), true).unwrap().0;
    let answer = unknown.await.unwrap();
    assert_eq!((answer.status(), answer.headers()["grpc-status"].to_str().unwrap()), (StatusCode::OK, "12"));
}

/// Answers with what `handler` makes of a request.
struct Handler<F>(F);

#[tonic::async_trait]
impl<F, A> Greeter for Handler<F>
where
    F: Fn(tonic::Request<HelloRequest>) -> A + Send + Sync + 'static,
    A: Future<Output = Result<String, Status>> + Send,
{
    async fn say_hello(&self, request: tonic::Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        (self.0)(request).await.map(|message| Response::new(HelloReply { message }))
    }
}

#[tokio::test]
async fn handlers_learn_their_peer_where_tonics_own_server_says_it() {
    let who = GreeterServer::new(Handler(async |request: tonic::Request<HelloRequest>| {
        Ok(format!("{:?} {:?}", request.local_addr(), request.remote_addr().map(|peer| peer.ip())))
    }));
    let server = Served::start(ServerOptions::new(), |server| server.add_service(who)).await;
    let mesh = mesh().await;
    let seen = Client::new(&mesh, &server.target()).hello().await.unwrap();
    assert_eq!(seen, format!("Some({}) Some(127.0.0.1)", server.address()));
}

#[tokio::test]
async fn a_program_is_client_and_server_of_one_mesh_and_hands_its_deadline_on() {
    let last = Backend::start("last").await;
    let mesh = mesh().await;
    let next = Client::new(&mesh, &format!("static:///{}", last.address()));
    let middle = GreeterServer::new(Handler(move |_| {
        let next = next.clone();
        async move { next.hello().await }
    }));
    let server = Served::start_in(&mesh, ServerOptions::new(), |server| server.add_service(middle)).await;
    let client = Client::new(&mesh, &server.target());
    assert_eq!(client.hello_within(Duration::from_secs(50)).await.unwrap(), "last");
    let told = last.seen()[0].metadata.get("grpc-timeout").expect("the inbound deadline").to_str().unwrap().to_owned();
    let told = read_timeout(&told);
    assert!(told < Duration::from_secs(50) && told > Duration::from_secs(40), "{told:?}");
    last.hold();
    let error = client.hello_within(SOON).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
    last.wait_for_in_flight(0).await;
}

#[tokio::test]
async fn the_servers_own_limit_ends_a_call_that_has_no_deadline() {
    let greeter = Backend::start("a").await;
    greeter.hold();
    let limited = |server: MeshServer| server.add_service(greeter.service()).timeout(SOON);
    let server = Served::start(ServerOptions::new(), limited).await;
    let mesh = mesh().await;
    let error = Client::new(&mesh, &server.target()).hello().await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
    greeter.wait_for_in_flight(0).await;
}

/// Whether a call is served by a server with the two layers, the first outermost.
async fn is_served(around: impl FnOnce(MeshServer) -> BoxedServe) -> Result<String, Status> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let target = format!("static:///{}", listener.local_addr().expect("a bound listener"));
    let mesh = mesh().await;
    let serving = tokio::spawn(around(MeshServer::new(&mesh))(listener));
    let answer = Client::new(&mesh, &target).hello().await;
    serving.abort();
    answer
}

type BoxedServe = Box<dyn FnOnce(TcpListener) -> BoxFuture<'static, ()> + Send>;

#[tokio::test]
async fn layers_of_a_server_are_around_its_services_the_first_outermost() {
    let greeter = Backend::start("a").await;
    let mark = || {
        MapRequestLayer::new(|mut request: Request<RequestBody>| {
            request.headers_mut().insert("x-mark", HeaderValue::from_static("yes"));
            request
        })
    };
    let marked = || Policy::new([Rule::header("x-mark", "yes").expect("a header's name")], [Rule::any()]);
    let refuse = || RbacLayer::new(Rbac::deny([("marked", marked())])).protocol(&Grpc);
    let service = greeter.service();
    let refused = is_served(|server| {
        let server = server.layer(mark()).layer(refuse()).add_service(service);
        Box::new(|listener| Box::pin(async { drop(server.serve(listener).await) }))
    });
    let refused = refused.await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    let service = greeter.service();
    let served = is_served(|server| {
        let server = server.layer(refuse()).layer(mark()).add_service(service);
        Box::new(|listener| Box::pin(async { drop(server.serve(listener).await) }))
    });
    assert_eq!(served.await.unwrap(), "a");
}

#[tokio::test]
async fn a_shutdown_lets_calls_end_and_takes_no_more() {
    let greeter = Backend::start("a").await;
    let mut server = Served::start(ServerOptions::new(), |server| server.add_service(greeter.service())).await;
    let mesh = mesh().await;
    let client = Client::new(&mesh, &server.target());
    greeter.hold();
    let call = tokio::spawn(async move { client.hello().await });
    greeter.wait_for_in_flight(1).await;
    let idle = raw(server.address()).await;
    server.wait_for("connections", |status| status.connections == 2 && status.in_flight == 1).await;
    server.stop();
    server.wait_for("connections", |status| status.connections == 1).await;
    drop(idle);
    assert!(TcpStream::connect(server.address()).await.is_err(), "the port is closed");
    greeter.release();
    assert_eq!(call.await.unwrap().unwrap(), "a");
    assert_eq!(server.ended().await.cut_calls, 0);
}

#[tokio::test]
async fn a_mesh_that_is_shut_down_ends_its_servers() {
    let greeter = Backend::start("a").await;
    let mesh = mesh().await;
    let server = Served::start_in(&mesh, ServerOptions::new(), |server| server.add_service(greeter.service())).await;
    assert_eq!(Client::new(&mesh, &server.target()).hello().await.unwrap(), "a");
    mesh.shutdown().await;
    assert_eq!(server.ended().await.cut_calls, 0);
}

#[tokio::test]
async fn a_mesh_that_is_shut_down_waits_for_its_servers_whose_handlers_can_make_calls_to_the_last() {
    let (greeter, next) = (Backend::start("a").await, Backend::start("next").await);
    let mesh = mesh().await;
    let server = Served::start_in(&mesh, ServerOptions::new(), |server| server.add_service(greeter.service())).await;
    let callers = Mesh::builder().build().await.unwrap();
    let client = Client::new(&callers, &server.target());
    let nested = Client::new(&mesh, &format!("static:///{}", next.address()));
    greeter.hold();
    let call = tokio::spawn(async move { client.hello().await });
    greeter.wait_for_in_flight(1).await;
    let ending = tokio::spawn(async move { mesh.shutdown().await });
    server.wait_for("a server that ends", |status| status.mode == ServingMode::ShuttingDown).await;
    assert_eq!(nested.hello().await.unwrap(), "next", "what a handler calls");
    assert!(!ending.is_finished(), "a call is open");
    greeter.release();
    assert_eq!(call.await.unwrap().unwrap(), "a");
    ending.await.unwrap();
    assert_eq!(server.ended().await.cut_calls, 0);
}

/// A client that never reads, a call that never ends, clients that never say a word or stop in the middle of one.
#[tokio::test]
async fn a_shutdown_ends_at_its_deadline_whatever_peers_do() {
    let greeter = Backend::start("a").await;
    let options = ServerOptions::new().shutdown_timeout(SOON);
    let mut server = Served::start(options, |server| server.add_service(greeter.service())).await;
    let address = server.address();

    let mut never_reads = TcpStream::connect(address).await.unwrap();
    never_reads.write_all(PREFACE).await.unwrap();
    let mut endless = raw(address).await;
    let (endless_answer, _body) = endless.send_request(post(address, "Chat"), false).unwrap();
    let chat = endless_answer.await.unwrap();
    let silent = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(&PREFACE[..10]).await.unwrap();
    let mesh = mesh().await;
    let stuck = Client::new(&mesh, &server.target());
    greeter.hold();
    let stuck = tokio::spawn(async move { stuck.hello().await });
    greeter.wait_for_in_flight(2).await;
    server.wait_for("connections", |status| status.connections == 5).await;

    let before = Instant::now();
    server.stop();
    assert_eq!(server.ended().await.cut_calls, 2);
    let took = before.elapsed();
    assert!(took >= SOON && took < PATIENCE, "{took:?}");
    greeter.wait_for_in_flight(0).await;
    assert_eq!(stuck.await.unwrap().unwrap_err().code(), Code::Unavailable);
    drop((never_reads, chat, silent, half));
}

/// It read its answer and nothing since, so it does not acknowledge the PING that asks whether it knows of the shutdown.
#[tokio::test]
async fn a_shutdown_waits_for_a_moment_only_for_clients_without_a_call_that_answer_nothing() {
    let greeter = Backend::start("a").await;
    let mut server = Served::start(ServerOptions::new(), |server| server.add_service(greeter.service())).await;
    let mut silent = Peer::connect(server.address()).await.unwrap();
    silent.hello(1).await.unwrap();
    let _never_called = Peer::connect(server.address()).await.unwrap();
    server.wait_for("clients without a call", |status| status.connections == 2 && status.in_flight == 0).await;
    tokio::time::pause();
    let before = Instant::now();
    server.stop();
    let ended = server.ended().await;
    assert_eq!((ended.cut_calls, ended.silent_connections), (0, 2));
    let took = before.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(3), "{took:?}");
}

/// One whose window is small, so that the rest waits in HTTP/2, and one that stops in the middle, so that it waits in sockets.
#[tokio::test]
async fn a_shutdown_cuts_no_client_that_is_slow_to_read() {
    const LENGTH: usize = 16 << 20;
    let greeter = Backend::start(&"x".repeat(LENGTH)).await;
    let mut server = Served::start(ServerOptions::new(), |server| server.add_service(greeter.service())).await;
    let mut slow = Vec::new();
    for window in [3, 1 << 29] {
        let mut peer = Peer::connect(server.address()).await.unwrap();
        peer.settings(&[(INITIAL_WINDOW_SIZE, window)]).await.unwrap();
        peer.call(1, "SayHello").await.unwrap();
        peer.frame(DATA, END_STREAM, 1, &[0; 5]).await.unwrap();
        slow.push((peer, 0));
    }
    greeter.wait_for_calls(2).await;
    greeter.wait_for_in_flight(0).await;
    for (peer, read) in &mut slow {
        *read += peer.next_of(DATA).await.unwrap().payload.len();
    }
    server.wait_for("answers under way", |status| status.in_flight == 2).await;
    tokio::time::pause();
    server.stop();
    let ended = tokio::spawn(server.ended());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!ended.is_finished(), "nobody has read everything yet");
    tokio::time::resume();
    for (mut peer, mut read) in slow {
        peer.window_update(1, 1 << 30).await.unwrap();
        loop {
            let frame = peer.next_frame().await.unwrap();
            if frame.stream == 1 && frame.flags & END_STREAM != 0 {
                break;
            }
            match frame.kind {
                DATA => read += frame.payload.len(),
                // It is told of the shutdown, and there.
                PING => peer.frame(PING, ACK, 0, &frame.payload).await.unwrap(),
                _ => {}
            }
        }
        assert!(read > LENGTH, "{read}");
        assert_eq!(peer.wait_for_end().await.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    }
    let ended = ended.await.unwrap();
    assert_eq!((ended.cut_calls, ended.silent_connections), (0, 0));
}

/// The grace of draining connections is for those that drain while the server runs.
#[tokio::test]
async fn calls_have_the_time_of_the_shutdown_though_connections_drain_faster_and_those_that_are_cut_count() {
    let greeter = Backend::start("a").await;
    let options = ServerOptions::new().drain_grace(SOON / 10).shutdown_timeout(SOON);
    let mut server = Served::start(options, |server| server.add_service(greeter.service())).await;
    let mesh = mesh().await;
    let client = Client::new(&mesh, &server.target());
    greeter.hold();
    let call = tokio::spawn(async move { client.hello().await });
    greeter.wait_for_in_flight(1).await;
    let before = Instant::now();
    server.stop();
    assert_eq!(server.ended().await.cut_calls, 1);
    assert!(before.elapsed() >= SOON, "{:?}", before.elapsed());
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_connection_that_is_old_already_has_the_time_of_the_shutdown_too() {
    timed(async || {
        let greeter = Backend::start("a").await;
        let (age, grace) = (Some(SOON / 10), SOON);
        let options = ServerOptions::new().max_connection_age(age).drain_grace(grace).shutdown_timeout(2 * SOON);
        let mut server = Served::start(options, |server| server.add_service(greeter.service())).await;
        let mut old = Peer::connect(server.address()).await.unwrap();
        old.call(1, "Chat").await.unwrap();
        while old.next_frame().await.unwrap().kind != GOAWAY {}
        let before = Instant::now();
        server.stop();
        assert_eq!(server.ended().await.cut_calls, 1);
        assert!(before.elapsed() >= 2 * SOON, "{:?}", before.elapsed());
    })
    .await;
}

async fn checked(client: &mut HealthClient<MeshChannel>, service: &str) -> Result<ServingStatus, Code> {
    let answer = client.check(HealthCheckRequest { service: service.into() }).await;
    answer.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
}

#[tokio::test]
async fn health_says_that_a_server_serves_until_it_shuts_down_and_a_watch_holds_nothing_up() {
    let greeter = Backend::start("a").await;
    let mut health = None;
    let services = |server: MeshServer| {
        let service = server.health();
        health = Some(service.clone());
        server.add_service(service).add_service(greeter.service())
    };
    let mut server = Served::start(ServerOptions::new(), services).await;
    // The same health on a port of its own outlives the server.
    let health = health.expect("set above");
    let probes = Served::start(ServerOptions::new(), |server| server.add_service(health)).await;
    let mesh = mesh().await;
    let client = |server: &Served| HealthClient::new(MeshChannel::new(&mesh, &server.target()).expect("a target"));
    let (mut own, mut probe) = (client(&server), client(&probes));
    for service in ["", "helloworld.Greeter", "grpc.health.v1.Health"] {
        assert_eq!(checked(&mut own, service).await, Ok(ServingStatus::Serving), "{service}");
        assert_eq!(checked(&mut probe, service).await, Ok(ServingStatus::Serving), "{service}");
    }
    assert_eq!(checked(&mut own, "helloworld.Other").await, Err(Code::NotFound));

    let watch = |service: &str| HealthCheckRequest { service: service.into() };
    let mut watched = own.watch(watch("")).await.unwrap().into_inner();
    let mut unknown = own.watch(watch("helloworld.Other")).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    assert_eq!(unknown.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    server.stop();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(watched.message().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(unknown.message().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.ended().await.cut_calls, 0);
    assert_eq!(checked(&mut probe, "helloworld.Greeter").await, Ok(ServingStatus::NotServing));
}

/// Its future lost a `select!`, or its task panicked: nobody tells it to shut down.
#[tokio::test]
async fn health_says_that_a_server_that_was_dropped_does_not_serve() {
    let mut health = None;
    let services = |server: MeshServer| {
        health = Some(server.health());
        server
    };
    let server = Served::start(ServerOptions::new(), services).await;
    let health = health.expect("set above");
    let probes = Served::start(ServerOptions::new(), |server| server.add_service(health)).await;
    let mesh = mesh().await;
    let mut probe = HealthClient::new(MeshChannel::new(&mesh, &probes.target()).expect("a target"));
    let mut watched = probe.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    drop(server);
    let told = timeout(PATIENCE, watched.message()).await.expect("the watch is told");
    assert_eq!(told.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(watched.message().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(checked(&mut probe, "").await, Ok(ServingStatus::NotServing));
}

#[tokio::test]
async fn health_knows_nothing_of_services_that_were_replaced() {
    let greeter = Backend::start("a").await;
    let services = |server: MeshServer| {
        let health = server.health();
        server.add_service(greeter.service()).routes(tonic::service::Routes::default()).add_service(health)
    };
    let server = Served::start(ServerOptions::new(), services).await;
    let mesh = mesh().await;
    let mut probe = HealthClient::new(MeshChannel::new(&mesh, &server.target()).expect("a target"));
    assert_eq!(checked(&mut probe, "grpc.health.v1.Health").await, Ok(ServingStatus::Serving));
    assert_eq!(checked(&mut probe, "helloworld.Greeter").await, Err(Code::NotFound));
}

#[tokio::test]
async fn a_server_that_is_dropped_cuts_its_connections() {
    let greeter = Backend::start("a").await;
    let server = Served::start(ServerOptions::new(), |server| server.add_service(greeter.service())).await;
    let mesh = mesh().await;
    let client = Client::new(&mesh, &server.target());
    greeter.hold();
    let call = tokio::spawn(async move { client.hello().await });
    greeter.wait_for_in_flight(1).await;
    drop(server);
    assert!(call.await.unwrap().is_err());
    greeter.wait_for_in_flight(0).await;
}

#[tokio::test]
async fn clients_that_do_not_begin_to_speak_are_closed() {
    timed(async || {
        let options = ServerOptions::new().handshake_timeout(SOON);
        let server = Served::start(options, |server| server).await;
        let before = Instant::now();
        let mut silent = TcpStream::connect(server.address()).await.unwrap();
        let mut half = TcpStream::connect(server.address()).await.unwrap();
        half.write_all(&PREFACE[..10]).await.unwrap();
        let spoke = raw(server.address()).await;
        bytes_until_closed(&mut silent).await;
        bytes_until_closed(&mut half).await;
        // Far below the default, which is no longer than a test's patience.
        assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
        server.wait_for("connections", |status| status.connections == 1).await;
        let answer = spoke.ready().await.unwrap().send_request(post(server.address(), "SayHello"), true).unwrap().0;
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_closed() {
    timed(async || {
        let options = ServerOptions::new().keepalive(Some(SOON / 2), SOON);
        let server = Served::start(options, |server| server).await;
        let mut mute = TcpStream::connect(server.address()).await.unwrap();
        // With SETTINGS, and an acknowledgement of the server's.
        mute.write_all(PREFACE).await.unwrap();
        mute.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0]).await.unwrap();
        let answers = raw(server.address()).await;
        assert!(bytes_until_closed(&mut mute).await > 0);
        server.wait_for("connections", |status| status.connections == 1).await;
        drop(answers);
    })
    .await;
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_closed_without_a_byte() {
    let options = ServerOptions::new().max_connections(1);
    let server = Served::start(options, |server| server).await;
    let first = raw(server.address()).await;
    server.wait_for("connections", |status| status.connections == 1).await;
    let mut second = TcpStream::connect(server.address()).await.unwrap();
    assert_eq!(bytes_until_closed(&mut second).await, 0);
    assert_eq!((server.status().refused, server.status().accepted), (1, 1));
    drop(first);
    server.wait_for("connections", |status| status.connections == 0).await;
    drop(raw(server.address()).await);
}

#[tokio::test]
async fn connections_that_are_old_are_replaced_without_a_failed_call() {
    let greeter = Backend::start("a").await;
    // Far below the time that a handshake has.
    let options = ServerOptions::new().max_connection_age(Some(SOON / 3));
    let server = Served::start(options, |server| server.add_service(greeter.service())).await;
    let mesh = mesh().await;
    let client = Client::new(&mesh, &server.target());
    let replaced = async {
        while server.status().accepted < 4 {
            assert_eq!(client.hello().await.unwrap(), "a");
        }
    };
    timeout(PATIENCE, replaced).await.expect("connections are replaced");
}

#[tokio::test]
async fn streams_that_outlive_the_grace_of_an_old_connection_are_cut() {
    let greeter = Backend::start("a").await;
    let options = ServerOptions::new().max_connection_age(Some(SOON / 3)).drain_grace(SOON);
    let server = Served::start(options, |server| server.add_service(greeter.service())).await;
    greeter.hold();
    let mut client = raw(server.address()).await;
    let (answer, _body) = client.send_request(post(server.address(), "Chat"), false).unwrap();
    assert!(timeout(PATIENCE, answer).await.expect("the call is cut").is_err());
    server.wait_for("connections", |status| status.connections == 0).await;
}

/// Requests that break HTTP/2, each of which the server resets (RUSTSEC-2024-0003).
#[tokio::test]
async fn a_client_that_makes_the_server_reset_streams_is_cut() {
    let server = Served::start(ServerOptions::new(), |server| server).await;
    let mut attacker = Peer::connect(server.address()).await.unwrap();
    let malformed = header_block(&[(":method", "POST"), (":scheme", "http"), (":path", "/"), ("Upper", "case")]);
    let mut resets = 0;
    for stream in (1..1200).step_by(2) {
        // The server may end the connection before it has all of it.
        if attacker.frame(HEADERS, END_HEADERS, stream, &malformed).await.is_err() {
            break;
        }
    }
    while let Ok(frame) = timeout(PATIENCE, attacker.next_frame()).await.expect("the connection ends") {
        resets += usize::from(frame.kind == RST_STREAM);
    }
    assert!(resets <= 256, "{resets}");
    server.wait_for("connections", |status| status.connections == 0).await;
}

#[tokio::test]
async fn the_limits_of_a_connection_are_told_to_its_client() {
    let greeter = Backend::start("a").await;
    let options = ServerOptions::new().max_concurrent_streams(7).max_header_list_size(2_000);
    let server = Served::start(options, |server| server.add_service(greeter.service())).await;
    let mut client = raw(server.address()).await.ready().await.unwrap();
    let mut request = post(server.address(), "SayHello");
    request.headers_mut().insert("large", "x".repeat(3_000).parse().unwrap());
    let answer = client.send_request(request, true).unwrap().0.await.unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(client.current_max_send_streams(), 7);
    assert_eq!(greeter.calls(), 0);
}

/// In a process of its own, whose file descriptors are few.
#[test]
fn the_accept_loop_outlives_a_process_without_file_descriptors() {
    let script = "ulimit -n 64; exec \"$0\" --exact server::in_a_process_with_few_file_descriptors --ignored";
    let own = std::env::current_exe().expect("the path of the tests");
    let output = Command::new("sh").args(["-c", script]).arg(own).output().expect("a shell");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "exhausts the file descriptors of its process: run by the test above"]
async fn in_a_process_with_few_file_descriptors() {
    let greeter = Backend::start("a").await;
    let server = Served::start(ServerOptions::new(), |server| server.add_service(greeter.service())).await;
    // Blocking, so that the server accepts none before all file descriptors are taken.
    let mut clients = Vec::new();
    while let Ok(client) = std::net::TcpStream::connect(server.address()) {
        clients.push(client);
        assert!(clients.len() < 100, "the limit of file descriptors does not hold");
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!clients.is_empty() && server.status().accepted == 0, "there is nothing left to accept a connection with");
    clients.truncate(5);
    let mut client = raw(server.address()).await;
    let answer = client.send_request(post(server.address(), "Unknown"), true).unwrap().0;
    assert_eq!(timeout(PATIENCE, answer).await.expect("an answer").unwrap().status(), StatusCode::OK);
}

//! Servers that speak HTTP/2 oddly or wrongly, played frame by frame: what becomes of the call, and of those beside it.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh_core::balance::BalanceOptions;
use mesh_core::connect::{ConnectivityState, Http2Options};
use mesh_core::{Address, ClusterBuilder, Mesh, RouteBuilder, Snapshot};
use mesh_examples::helloworld::HelloRequest;
use mesh_examples::helloworld::greeter_client::GreeterClient;
use mesh_tonic::MeshChannel;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

use crate::support::backend::Backend;
use crate::support::clock::pass_over_stalls;
use crate::support::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FrameServer, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS, NO_ERROR, PING, Peer, REFUSED_STREAM, RST_STREAM, SETTINGS, WINDOW_UPDATE, header_block,
};
use crate::support::timed::timed;
use crate::support::{Counter, PATIENCE, relay::Relay};

type Client = GreeterClient<MeshChannel>;

fn quick() -> BalanceOptions {
    BalanceOptions::new()
        .backoff(Duration::from_millis(20), Duration::from_millis(50))
        .connect_timeout(Duration::from_millis(300))
}

async fn connect(addresses: &[SocketAddr]) -> (Mesh, Client) {
    connect_with(addresses, quick(), Http2Options::new()).await
}

async fn connect_with(addresses: &[SocketAddr], balance: BalanceOptions, http2: Http2Options) -> (Mesh, Client) {
    pass_over_stalls();
    let mesh = Mesh::builder().balance(balance).connections(http2).build().await.unwrap();
    let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let channel = MeshChannel::new(&mesh, &format!("static:///{}", list.join(","))).unwrap();
    (mesh, GreeterClient::new(channel))
}

/// One call; it may not hang.
async fn call(client: &mut Client) -> Result<String, Status> {
    let reply = timeout(PATIENCE, client.say_hello(HelloRequest { name: "me".into() })).await.expect("no call hangs");
    Ok(reply?.into_inner().message)
}

fn spawn_call(client: &Client) -> JoinHandle<Result<String, Status>> {
    let mut client = client.clone();
    tokio::spawn(async move { call(&mut client).await })
}

/// A server that refuses every stream, and counts them.
async fn refusing() -> (FrameServer, Counter) {
    let refused = Counter::new();
    let counter = refused.clone();
    let server = FrameServer::start(move |mut peer| {
        let counter = counter.clone();
        async move {
            peer.greet(&[]).await?;
            loop {
                let call = peer.next_call().await?;
                counter.add(1);
                peer.reset(call, REFUSED_STREAM).await?;
            }
        }
    })
    .await;
    (server, refused)
}

#[tokio::test]
async fn a_refused_call_is_sent_elsewhere() {
    let ((server, refused), backend) = (refusing().await, Backend::start("good").await);
    // In turn: the default policy leaves alone the one that refuses.
    let cluster = ClusterBuilder::new("greeter").round_robin();
    let cluster = cluster.endpoint(Address::Socket(server.address())).endpoint(Address::Socket(backend.address()));
    let snapshot = Snapshot::builder("greeter").cluster(cluster).route(RouteBuilder::any().cluster("greeter"));
    let mesh = Mesh::builder().balance(quick()).snapshot("xds:///greeter", snapshot.build().unwrap());
    let mesh = mesh.build().await.unwrap();
    let mut client = GreeterClient::new(MeshChannel::new(&mesh, "xds:///greeter").unwrap());
    while refused.get() == 0 {
        assert_eq!(call(&mut client).await.unwrap(), "good");
    }
    for _ in 0..20 {
        assert_eq!(call(&mut client).await.unwrap(), "good");
    }
    assert!(refused.get() > 5, "the one that refuses was asked too");
}

#[tokio::test]
async fn a_call_that_is_refused_twice_is_unavailable() {
    let (server, refused) = refusing().await;
    let (_mesh, mut client) = connect(&[server.address()]).await;
    for calls in 1..=3 {
        let status = call(&mut client).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains("refused"), "{status}");
        assert_eq!(refused.get(), 2 * calls, "sent once more, and no more");
    }
}

#[tokio::test]
async fn a_goaway_lets_its_streams_finish_and_sends_those_above_it_elsewhere() {
    let backend = Backend::start("elsewhere").await;
    let (ready, goes_away) = (Counter::new(), Counter::new());
    let (told, asked) = (ready.clone(), goes_away.clone());
    let server = FrameServer::start(move |mut peer| {
        let (told, asked) = (told.clone(), asked.clone());
        async move {
            peer.greet(&[]).await?;
            let below = peer.next_call().await?;
            told.add(1);
            let above = peer.next_call().await?;
            assert!(above > below);
            told.add(1);
            asked.wait_for("go away", |count| *count > 0).await;
            peer.go_away(below, NO_ERROR, "max_age").await?;
            peer.head(below).await?;
            peer.message(below, "late").await?;
            peer.status(below, 0).await?;
            peer.wait_for_end().await
        }
    })
    .await;
    let (_mesh, client) = connect(&[server.address(), backend.address()]).await;
    backend.hold();
    let mut calls = Vec::new();
    while ready.get() < 2 {
        let came = ready.get() + backend.calls();
        calls.push(spawn_call(&client));
        while ready.get() + backend.calls() == came {
            tokio::task::yield_now().await;
        }
    }
    backend.release();
    goes_away.add(1);
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap().unwrap());
    }
    let late = answers.iter().filter(|answer| *answer == "late").count();
    assert_eq!((late, backend.calls()), (1, answers.len() as u64 - 1), "{answers:?}");
}

/// Waits until so many endpoints are READY.
async fn wait_until_ready(mesh: &Mesh, count: usize) {
    let reached = async {
        loop {
            let status = mesh.status();
            let clusters = status.targets.iter().flat_map(|target| &target.clusters);
            let endpoints = clusters.flat_map(|cluster| &cluster.endpoints);
            if endpoints.filter(|endpoint| endpoint.state == Some(ConnectivityState::Ready)).count() == count {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, reached).await.expect("the endpoints are ready");
}

#[tokio::test]
async fn a_goaway_at_once_is_no_failure_while_another_endpoint_serves() {
    let backend = Backend::start("good").await;
    let server = FrameServer::start(|mut peer| async move {
        peer.greet(&[]).await?;
        peer.go_away(0, NO_ERROR, "not here").await?;
        peer.wait_for_end().await
    })
    .await;
    let (_mesh, mut client) = connect(&[server.address(), backend.address()]).await;
    while server.accepted() < 3 {
        assert_eq!(call(&mut client).await.unwrap(), "good");
    }
}

/// The connection is made again, with pauses: neither a hot loop nor a hang.
#[tokio::test]
async fn a_goaway_at_once_everywhere_fails_calls_and_quotes_it() {
    let server = FrameServer::start(|mut peer| async move {
        peer.greet(&[]).await?;
        peer.go_away(0, ENHANCE_YOUR_CALM, "too_many_connections").await?;
        peer.wait_for_end().await
    })
    .await;
    let (_mesh, mut client) =
        connect_with(&[server.address()], quick().max_wait(Duration::from_millis(500)), Http2Options::new()).await;
    let started = Instant::now();
    let status = call(&mut client).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("GOAWAY"), "{status}");
    // 20 ms and more between attempts, less a fifth of jitter.
    let most = 2 + started.elapsed().as_millis() / 16;
    assert!(u128::from(server.accepted()) <= most, "{} connections in {:?}", server.accepted(), started.elapsed());
}

/// Whether a call comes although the limit is reached. A script that sees one hangs up, and so fails its test.
async fn sends_another_call(peer: &mut Peer) -> bool {
    timeout(Duration::from_millis(50), peer.next_call()).await.is_ok()
}

/// A server with a limit of one, that answers a call once `release` counts it, and counts the calls that came.
async fn one_at_a_time(release: &Counter, came: &Counter) -> FrameServer {
    let (release, came) = (release.clone(), came.clone());
    FrameServer::start(move |mut peer| {
        let (release, came) = (release.clone(), came.clone());
        async move {
            peer.greet(&[(MAX_CONCURRENT_STREAMS, 1)]).await?;
            loop {
                let call = peer.next_call().await?;
                came.add(1);
                if sends_another_call(&mut peer).await {
                    return Ok(());
                }
                release.wait_for("release", |count| *count > 0).await;
                release.subtract(1);
                peer.answer(call, "ok").await?;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_call_beyond_the_peers_streams_waits_for_its_turn() {
    let (release, came) = (Counter::new(), Counter::new());
    let server = one_at_a_time(&release, &came).await;
    let (_mesh, client) = connect(&[server.address()]).await;
    let first = spawn_call(&client);
    came.wait_for("the first call", |count| *count == 1).await;
    let second = spawn_call(&client);
    tokio::task::yield_now().await;
    assert_eq!((came.get(), first.is_finished(), second.is_finished()), (1, false, false));
    release.add(1);
    assert_eq!(first.await.unwrap().unwrap(), "ok");
    came.wait_for("the second call", |count| *count == 2).await;
    release.add(1);
    assert_eq!(second.await.unwrap().unwrap(), "ok");
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_call_beyond_the_peers_streams_opens_another_connection_if_allowed() {
    let (release, came) = (Counter::new(), Counter::new());
    let server = one_at_a_time(&release, &came).await;
    let (_mesh, client) = connect_with(&[server.address()], quick().max_connections(2), Http2Options::new()).await;
    let calls = [spawn_call(&client), spawn_call(&client)];
    came.wait_for("both calls", |count| *count == 2).await;
    assert_eq!(server.accepted(), 2);
    release.add(2);
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "ok");
    }
}

#[tokio::test]
async fn a_limit_that_shrinks_while_calls_are_open_holds_for_the_next() {
    let (shrunk, came, release) = (Counter::new(), Counter::new(), Counter::new());
    let (tell, count, wait) = (shrunk.clone(), came.clone(), release.clone());
    let server = FrameServer::start(move |mut peer| {
        let (tell, count, wait) = (tell.clone(), count.clone(), wait.clone());
        async move {
            peer.greet(&[]).await?;
            peer.next_of(SETTINGS).await?;
            let calls = [peer.next_call().await?, peer.next_call().await?];
            peer.settings(&[(MAX_CONCURRENT_STREAMS, 1)]).await?;
            while peer.next_of(SETTINGS).await?.flags == 0 {}
            tell.add(1);
            if sends_another_call(&mut peer).await {
                return Ok(());
            }
            wait.wait_for("release", |count| *count > 0).await;
            for call in calls {
                peer.answer(call, "early").await?;
            }
            let third = peer.next_call().await?;
            count.add(1);
            peer.answer(third, "late").await?;
            peer.wait_for_end().await
        }
    })
    .await;
    let (_mesh, client) = connect(&[server.address()]).await;
    let early = [spawn_call(&client), spawn_call(&client)];
    shrunk.wait_for("the acknowledgement", |count| *count == 1).await;
    let late = spawn_call(&client);
    tokio::task::yield_now().await;
    release.add(1);
    for call in early {
        assert_eq!(call.await.unwrap().unwrap(), "early");
    }
    assert_eq!(late.await.unwrap().unwrap(), "late");
    assert_eq!((came.get(), server.accepted()), (1, 1));
}

/// What a server sends again and again, on the stream of a call that it began to answer.
async fn flooded_by(kind: u8, flags: u8, payload: &'static [u8], on_stream: bool) {
    let backend = Backend::start("good").await;
    let over = Counter::new();
    let told = over.clone();
    let server = FrameServer::start(move |mut peer| {
        let told = told.clone();
        async move {
            peer.greet(&[]).await?;
            let call = peer.next_call().await?;
            peer.head(call).await?;
            for _ in 0..20_000 {
                let sent = peer.frame(kind, flags, if on_stream { call } else { 0 }, payload);
                // A client that does not read on, or that hung up, has stopped the flood.
                if !matches!(timeout(Duration::from_millis(200), sent).await, Ok(Ok(()))) {
                    break;
                }
            }
            told.add(1);
            Ok(())
        }
    })
    .await;
    let (_mesh, mut client) = connect(&[server.address(), backend.address()]).await;
    let mut outcome = call(&mut client).await;
    while let Ok(answer) = outcome {
        assert_eq!(answer, "good");
        assert!(backend.calls() < 10_000, "the call to the one that floods fails");
        outcome = call(&mut client).await;
    }
    let status = outcome.unwrap_err();
    assert!(matches!(status.code(), Code::Unavailable | Code::Internal | Code::Cancelled), "{status}");
    over.wait_for("the end of the flood", |count| *count > 0).await;
    drop(server);
    for _ in 0..10 {
        assert_eq!(call(&mut client).await.unwrap(), "good");
    }
}

#[tokio::test]
async fn floods_of_pings_and_settings_cost_one_call_and_none_after_it() {
    flooded_by(PING, 0, &[0; 8], false).await;
    flooded_by(SETTINGS, 0, &[], false).await;
}

#[tokio::test]
async fn floods_of_resets_and_empty_data_cost_one_call_and_none_after_it() {
    flooded_by(RST_STREAM, 0, &[0, 0, 0, 8], true).await;
    flooded_by(DATA, 0, &[], true).await;
}

#[tokio::test]
async fn broken_frames_fail_their_calls_and_the_connection_is_made_again() {
    // A WINDOW_UPDATE of three bytes, DATA on the connection itself, HEADERS that no table explains, a PING of one byte.
    let broken: [(u8, u32, &[u8]); 4] = [
        (WINDOW_UPDATE, 1, &[0, 0, 1]),
        (DATA, 0, b"x"),
        (HEADERS, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        (PING, 0, b"x"),
    ];
    for (kind, stream, payload) in broken {
        let again = Arc::new(AtomicBool::new(false));
        let server = FrameServer::start(move |mut peer| {
            let again = again.clone();
            async move {
                peer.greet(&[]).await?;
                if again.swap(true, Ordering::Relaxed) {
                    return peer.serve("again").await;
                }
                peer.next_call().await?;
                peer.frame(kind, END_HEADERS, stream, payload).await?;
                peer.next_of(GOAWAY).await?;
                Ok(())
            }
        })
        .await;
        let (mesh, mut client) = connect(&[server.address()]).await;
        let status = call(&mut client).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains("peer broke HTTP/2: PROTOCOL_ERROR"), "frame {kind}: {status}");
        server.wait_for_accepted(2).await;
        wait_until_ready(&mesh, 1).await;
        assert_eq!(call(&mut client).await.unwrap(), "again");
    }
}

#[tokio::test]
async fn a_peer_that_never_sends_its_settings_is_never_ready() {
    let server = FrameServer::start(|peer| async move {
        let _open = peer;
        pending().await
    })
    .await;
    let (mesh, mut client) = connect_with(&[server.address()], quick(), Http2Options::new()).await;
    let status = call(&mut client).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("300ms"), "the time that it was given: {status}");
    let state = mesh.status().targets[0].clusters[0].endpoints[0].state;
    assert_ne!(state, Some(ConnectivityState::Ready));
}

#[tokio::test]
async fn a_header_list_over_the_limit_fails_its_call_alone() {
    let server = FrameServer::start(|mut peer| async move {
        peer.greet(&[]).await?;
        let (held, long) = (peer.next_call().await?, peer.next_call().await?);
        // 200 headers of 4 + 100 bytes, each counted with 32 more: 27,200 bytes, in two frames.
        let value = "v".repeat(100);
        let mut block = header_block(&[(":status", "200"), ("content-type", "application/grpc")]);
        block.extend(header_block(&[("name", value.as_str()); 200]));
        let (first, rest) = block.split_at(16_000);
        peer.frame(HEADERS, 0, long, first).await?;
        peer.frame(9, END_HEADERS, long, rest).await?;
        peer.answer(held, "beside").await?;
        peer.serve("after").await
    })
    .await;
    let (_mesh, mut client) = connect(&[server.address()]).await;
    let calls = [spawn_call(&client), spawn_call(&client)];
    let mut failures = Vec::new();
    for call in calls {
        match call.await.unwrap() {
            Ok(answer) => assert_eq!(answer, "beside"),
            Err(status) => failures.push(status),
        }
    }
    let [status] = &failures[..] else { panic!("one call fails, not {failures:?}") };
    assert_eq!(status.code(), Code::Internal, "{status}");
    assert!(status.message().contains("exceed the limit of 16384"), "{status}");
    assert_eq!(call(&mut client).await.unwrap(), "after");
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_response_of_trailers_alone_is_its_status() {
    let server = FrameServer::start(|mut peer| async move {
        peer.greet(&[]).await?;
        let call = peer.next_call().await?;
        let head = [
            (":status", "200"),
            ("content-type", "application/grpc"),
            ("grpc-status", "5"),
            ("grpc-message", "no such%20greeting"),
            ("x-why", "none"),
        ];
        peer.frame(HEADERS, END_HEADERS | END_STREAM, call, &header_block(&head)).await?;
        peer.serve("next").await
    })
    .await;
    let (_mesh, mut client) = connect(&[server.address()]).await;
    let status = call(&mut client).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no such greeting"));
    assert_eq!(status.metadata().get("x-why").unwrap(), "none");
    assert_eq!(call(&mut client).await.unwrap(), "next");
}

#[tokio::test]
async fn a_response_before_the_request_ended_stands() {
    let server = FrameServer::start(|mut peer| async move {
        // No window: the request cannot end before the response does.
        peer.greet(&[(INITIAL_WINDOW_SIZE, 0)]).await?;
        while peer.next_of(SETTINGS).await?.flags == 0 {}
        let call = peer.next_call().await?;
        peer.answer(call, "early").await?;
        peer.reset(call, NO_ERROR).await?;
        peer.wait_for_end().await
    })
    .await;
    let (_mesh, mut client) = connect(&[server.address()]).await;
    assert_eq!(call(&mut client).await.unwrap(), "early");
}

/// gRPC over HTTP/2, "HTTP2 Transport Mapping", "Errors".
#[tokio::test]
async fn each_reset_code_is_the_status_that_grpc_gives_it() {
    let codes = [
        (0x0, Code::Internal, "NO_ERROR"),
        (0x1, Code::Internal, "PROTOCOL_ERROR"),
        (0x2, Code::Internal, "INTERNAL_ERROR"),
        (0x3, Code::Internal, "FLOW_CONTROL_ERROR"),
        (0x4, Code::Internal, "SETTINGS_TIMEOUT"),
        (0x5, Code::Internal, "STREAM_CLOSED"),
        (0x6, Code::Internal, "FRAME_SIZE_ERROR"),
        (0x7, Code::Unavailable, "refused"),
        (0x8, Code::Cancelled, "CANCEL"),
        (0x9, Code::Internal, "COMPRESSION_ERROR"),
        (0xa, Code::Internal, "CONNECT_ERROR"),
        (0xb, Code::ResourceExhausted, "ENHANCE_YOUR_CALM"),
        (0xc, Code::PermissionDenied, "INADEQUATE_SECURITY"),
        (0xd, Code::Internal, "HTTP_1_1_REQUIRED"),
        (0xbad, Code::Internal, "0xbad"),
    ];
    let server = FrameServer::start(move |mut peer| async move {
        peer.greet(&[]).await?;
        for (code, _, _) in codes {
            let times = if code == REFUSED_STREAM { 2 } else { 1 };
            for _ in 0..times {
                let call = peer.next_call().await?;
                peer.reset(call, code).await?;
            }
        }
        peer.serve("ok").await
    })
    .await;
    let (_mesh, mut client) = connect(&[server.address()]).await;
    for (number, code, text) in codes {
        let status = call(&mut client).await.unwrap_err();
        assert_eq!(status.code(), code, "{number:#x}: {status}");
        assert!(status.message().contains(text), "{number:#x}: {status}");
    }
    assert_eq!(call(&mut client).await.unwrap(), "ok");
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_connection_that_is_cut_within_a_response_fails_that_call_alone() {
    let cut = Arc::new(AtomicBool::new(false));
    let server = FrameServer::start(move |mut peer| {
        let cut = cut.clone();
        async move {
            peer.greet(&[]).await?;
            if cut.swap(true, Ordering::Relaxed) {
                return peer.serve("again").await;
            }
            let call = peer.next_call().await?;
            peer.head(call).await?;
            peer.message(call, "half").await
        }
    })
    .await;
    let (mesh, mut client) = connect(&[server.address()]).await;
    let mut replies = client.say_hello_stream(HelloRequest::default()).await.unwrap().into_inner();
    assert_eq!(replies.message().await.unwrap().unwrap().message, "half");
    let status = timeout(PATIENCE, replies.message()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("connection"), "{status}");
    server.wait_for_accepted(2).await;
    wait_until_ready(&mesh, 1).await;
    assert_eq!(call(&mut client).await.unwrap(), "again");
}

#[tokio::test]
async fn a_peer_that_falls_silent_under_an_open_call_is_found_by_a_ping() {
    timed(async || {
        let backend = Backend::start("a").await;
        let relay = Relay::start(backend.address()).await;
        let (interval, patience) = (Duration::from_millis(100), Duration::from_millis(200));
        let http2 = Http2Options::new().keepalive_interval(Some(interval)).keepalive_timeout(patience);
        let (_mesh, mut client) = connect_with(&[relay.address()], quick(), http2).await;
        call(&mut client).await.unwrap();
        backend.hold();
        let open = spawn_call(&client);
        backend.wait_for_in_flight(1).await;
        relay.half_open();
        let silent_since = Instant::now();
        let status = open.await.unwrap().unwrap_err();
        let found = silent_since.elapsed();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains("PING"), "{status}");
        // The PING goes out after half of the interval and at most half as much again as all of it; the rest is for a busy
        // machine.
        assert!(found >= patience && found < interval * 3 / 2 + patience + Duration::from_secs(1), "{found:?}");
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_hangs_while_it_is_connected_gets_no_more_calls_until_it_goes_on() {
    let backends = [Backend::start("a").await, Backend::start("b").await, Backend::start("hangs").await];
    let relay = Relay::start(backends[2].address()).await;
    let addresses = [backends[0].address(), backends[1].address(), relay.address()];
    // The connection is given up after 20 s, for which this test has no patience.
    let http2 = Http2Options::new().keepalive_doubt(Duration::from_millis(200));
    let (mesh, mut client) = connect_with(&addresses, quick(), http2).await;
    wait_until_ready(&mesh, 3).await;
    // No other connection is to be had: when it goes on, it is this one that is used.
    relay.refuse(true);
    relay.freeze();
    let open: Vec<_> = (0..30).map(|_| spawn_call(&client)).collect();
    wait_until_ready(&mesh, 2).await;
    for _ in 0..100 {
        assert_ne!(call(&mut client).await.unwrap(), "hangs");
    }
    relay.thaw();
    wait_until_ready(&mesh, 3).await;
    let mut late = 0;
    for call in open {
        late += u32::from(call.await.unwrap().unwrap() == "hangs");
    }
    assert!(late > 0, "what was sent before it was doubted is answered");
}

#[tokio::test]
async fn an_idle_connection_is_not_pinged() {
    let pings = Counter::new();
    let seen = pings.clone();
    let server = FrameServer::start(move |mut peer| {
        let seen = seen.clone();
        async move {
            peer.greet(&[]).await?;
            let call = peer.next_call().await?;
            peer.answer(call, "ok").await?;
            // Whatever comes within 25 intervals after the last call.
            let idle = async {
                loop {
                    let frame = peer.next_frame().await?;
                    if frame.kind == PING && frame.flags == 0 {
                        seen.add(1);
                    }
                }
            };
            let _: Result<std::io::Result<()>, _> = timeout(Duration::from_millis(500), idle).await;
            let call = peer.next_call().await?;
            peer.answer(call, "still here").await?;
            peer.wait_for_end().await
        }
    })
    .await;
    let http2 = Http2Options::new()
        .keepalive_interval(Some(Duration::from_millis(20)))
        .keepalive_timeout(Duration::from_millis(40));
    let (_mesh, mut client) = connect_with(&[server.address()], quick(), http2).await;
    assert_eq!(call(&mut client).await.unwrap(), "ok");
    // Not a pause for something to happen, but one in which nothing may.
    assert!(timeout(Duration::from_millis(600), pings.wait_for("pings", |count| *count > 0)).await.is_err());
    assert_eq!(call(&mut client).await.unwrap(), "still here");
    assert_eq!(server.accepted(), 1);
}

/// How long a client's connection was silent before its first PING, of one whose server then complains.
async fn silence_before_ping(peer: &mut Peer) -> std::io::Result<Duration> {
    peer.greet(&[]).await?;
    let call = peer.next_call().await?;
    let before = Instant::now();
    // What the client hears last.
    peer.window_update(call, 1).await?;
    while peer.next_of(PING).await?.flags & ACK != 0 {}
    Ok(before.elapsed())
}

#[tokio::test]
async fn an_endpoint_that_complains_of_pings_gets_half_as_many_on_its_next_connection() {
    let interval = Duration::from_millis(100);
    let (silences, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let server = FrameServer::start(move |mut peer| {
        let silences = silences.clone();
        async move {
            silences.send(silence_before_ping(&mut peer).await?).expect("the test listens");
            peer.go_away(0, ENHANCE_YOUR_CALM, "too_many_pings").await?;
            peer.wait_for_end().await
        }
    })
    .await;
    let http2 = Http2Options::new().keepalive_interval(Some(interval)).keepalive_timeout(PATIENCE);
    let (_mesh, client) = connect_with(&[server.address()], quick(), http2).await;
    let mut silences = Vec::new();
    for _ in 0..2 {
        let call = spawn_call(&client);
        silences.push(timeout(PATIENCE, seen.recv()).await.expect("a PING").expect("the server runs"));
        call.abort();
        let _ = call.await;
    }
    assert!(silences[0] >= interval && silences[1] >= 2 * interval, "{silences:?}");
}

/// Serves until a request's head is large, which it takes for an attack as servers do that say nothing of a limit.
async fn fragile() -> (FrameServer, Counter) {
    const COMPRESSION_ERROR: u32 = 9;
    let broken = Counter::new();
    let counter = broken.clone();
    let server = FrameServer::start(move |mut peer| {
        let broken = counter.clone();
        async move {
            peer.greet(&[]).await?;
            loop {
                let head = peer.next_of(HEADERS).await?;
                if head.payload.len() > 4_000 {
                    broken.add(1);
                    return peer.go_away(0, COMPRESSION_ERROR, "").await;
                }
                peer.answer(head.stream, "ok").await?;
            }
        }
    })
    .await;
    (server, broken)
}

fn large_request(bytes: usize) -> tonic::Request<HelloRequest> {
    let mut request = tonic::Request::new(HelloRequest::default());
    request.metadata_mut().insert("x-large", "v".repeat(bytes).parse().unwrap());
    request
}

#[tokio::test]
async fn a_request_that_its_endpoint_cannot_bear_reaches_no_other() {
    let servers = [fragile().await, fragile().await];
    let (mesh, mut client) = connect(&servers.each_ref().map(|(server, _)| server.address())).await;
    mesh.ready().await.unwrap();
    for server in &servers {
        server.0.wait_for_accepted(1).await;
    }
    client.say_hello(large_request(8_000)).await.unwrap_err();
    // Whoever had it was broken by it before the call failed.
    let broken: u64 = servers.iter().map(|(_, broken)| broken.get()).sum();
    assert_eq!(broken, 1, "endpoints that the request broke");
}

#[tokio::test]
async fn the_largest_head_that_an_endpoint_takes_is_the_one_that_it_said_last() {
    const MAX_HEADER_LIST_SIZE: u16 = 6;
    let server = FrameServer::start(|mut peer| async move {
        peer.greet(&[(MAX_HEADER_LIST_SIZE, 1_000)]).await?;
        let call = peer.next_call().await?;
        peer.settings(&[(MAX_HEADER_LIST_SIZE, 10_000)]).await?;
        peer.answer(call, "ok").await?;
        peer.serve("ok").await
    })
    .await;
    let (_mesh, mut client) = connect(&[server.address()]).await;
    let status = client.say_hello(large_request(1_000)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert_eq!(call(&mut client).await.unwrap(), "ok");
    client.say_hello(large_request(1_000)).await.expect("it takes larger ones now");
    let status = client.say_hello(large_request(10_000)).await.unwrap_err();
    assert!(status.message().contains("exceeds the endpoint's limit of 10000"), "{status}");
    assert_eq!(server.accepted(), 1);
}

//! The deadline of a call: whose it is, what the server is told of it, and what is said when it passes.

use std::time::Duration;

use mesh_core::balance::BalanceOptions;
use mesh_core::testing::{ControlPlane, ListenerBuilder, Resources, RouteBuilder, listener, route, route_config};
use mesh_core::{CallOptions, Mesh, Profile};
use mesh_examples::helloworld::HelloRequest;
use mesh_examples::helloworld::greeter_client::GreeterClient;
use mesh_tonic::MeshChannel;
use tokio_stream::StreamExt;
use tonic::{Code, Request, Status};
use tower::util::MapResponseLayer;

use crate::support::PATIENCE;
use crate::support::backend::Backend;
use crate::support::client::{Client, SOON, assert_says, quick, quick_mesh};
use crate::support::network::BlackHole;
use crate::support::tier::Tier;
use crate::support::timed::timed;
use crate::support::timeout::read_timeout;

const LONG: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A control plane whose routes and listener limit calls.
fn limiting(
    backend: &Backend,
    routes: impl IntoIterator<Item = RouteBuilder>,
    listener: ListenerBuilder,
) -> ControlPlane {
    let control_plane = ControlPlane::new();
    let routes = routes.into_iter().map(|route| route.cluster("greeter"));
    let resources = Resources::service("greeter", [backend.address()]);
    control_plane.set(resources.with(route_config("greeter").routes(routes)).with(listener));
    control_plane
}

/// What the last call's `grpc-timeout` says.
fn told(backend: &Backend) -> Option<Duration> {
    let seen = backend.seen();
    Some(read_timeout(seen.last().expect("a call").metadata.get("grpc-timeout")?.to_str().unwrap()))
}

/// That the last call was told of `limit`, less the little time that had passed.
#[track_caller]
fn assert_told(backend: &Backend, limit: Option<Duration>, what: &str) {
    let told = told(backend);
    match (told, limit) {
        (None, None) => {}
        (Some(told), Some(limit)) => {
            assert!(told <= limit && told + LONG / 2 > limit, "{what}: told {told:?}, limit {limit:?}");
        }
        _ => panic!("{what}: told {told:?}, limit {limit:?}"),
    }
}

#[tokio::test]
async fn the_least_of_the_applications_and_the_routes_limit_is_told_to_the_server() {
    let backend = Backend::start("a").await;
    let plain = || listener("greeter");
    type Case = (&'static str, RouteBuilder, ListenerBuilder, Option<Duration>, Option<Duration>);
    let cases: Vec<Case> = vec![
        ("nobody's", route(), plain(), None, None),
        ("the application's", route(), plain(), Some(LONG), Some(LONG)),
        ("the route's", route().max_stream_duration(LONG), plain(), None, Some(LONG)),
        ("the route's is less", route().max_stream_duration(LONG), plain(), Some(HOUR), Some(LONG)),
        ("the application's is less", route().max_stream_duration(HOUR), plain(), Some(LONG), Some(LONG)),
        ("the listener's", route(), plain().max_stream_duration(LONG), None, Some(LONG)),
        (
            "the route's, not the listener's",
            route().max_stream_duration(HOUR),
            plain().max_stream_duration(LONG),
            None,
            Some(HOUR),
        ),
        (
            "the route lifts the listener's",
            route().max_stream_duration(Duration::ZERO),
            plain().max_stream_duration(LONG),
            None,
            None,
        ),
        ("the cap", route().grpc_timeout_header_max(LONG), plain(), Some(HOUR), Some(LONG)),
        ("below the cap", route().grpc_timeout_header_max(HOUR), plain(), Some(LONG), Some(LONG)),
        ("no cap at zero", route().grpc_timeout_header_max(Duration::ZERO), plain(), Some(LONG), Some(LONG)),
        (
            "the cap goes before the route's",
            route().grpc_timeout_header_max(HOUR).max_stream_duration(LONG),
            plain(),
            Some(2 * HOUR),
            Some(HOUR),
        ),
        ("Envoy's own timeout is not ours", route().timeout(Duration::from_millis(1)), plain(), None, None),
    ];
    for (what, route, listener, application, limit) in cases {
        let control_plane = limiting(&backend, [route], listener);
        let mesh = quick_mesh(&control_plane).await;
        let client = Client::new(&mesh, "xds:///greeter");
        match application {
            Some(timeout) => client.hello_within(timeout).await.unwrap(),
            None => client.hello().await.unwrap(),
        };
        assert_told(&backend, limit, what);
    }
}

/// The failure of a call that the backend holds.
async fn held(route: RouteBuilder, application: Option<Duration>) -> (Backend, Status) {
    let backend = Backend::start("a").await;
    let control_plane = limiting(&backend, [route], listener("greeter"));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    mesh.target("xds:///greeter").unwrap().ready().await.unwrap();
    backend.hold();
    let status = match application {
        Some(timeout) => client.hello_within(timeout).await,
        None => client.hello().await,
    };
    backend.wait_for_in_flight(0).await;
    (backend, status.unwrap_err())
}

#[tokio::test]
async fn the_applications_deadline_ends_the_call_here_and_at_the_server() {
    timed(async || {
        let (backend, status) = held(route(), Some(SOON)).await;
        assert_eq!(status.code(), Code::DeadlineExceeded);
        let endpoint = format!("endpoint {}", backend.address());
        assert_says(&status, &["200ms", "while waiting for the response", &endpoint, "cluster greeter"]);
    })
    .await;
}

#[tokio::test]
async fn the_routes_limit_ends_a_call_without_a_deadline() {
    timed(async || {
        let (_backend, status) = held(route().max_stream_duration(SOON), None).await;
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_says(&status, &["200ms", "while waiting for the response"]);
    })
    .await;
}

#[tokio::test]
async fn the_routes_limit_ends_a_call_with_a_longer_deadline() {
    let (_backend, status) = held(route().max_stream_duration(SOON), Some(LONG)).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn the_cap_on_the_deadline_ends_a_call() {
    let (_backend, status) = held(route().grpc_timeout_header_max(SOON), Some(LONG)).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_deadline_that_passes_before_an_endpoint_is_there_says_so() {
    timed(async || {
        let hole = BlackHole::new();
        let mesh = Mesh::builder().build().await.unwrap();
        let client = Client::new(&mesh, &format!("static:///{}", hole.address()));
        let status = client.hello_within(SOON).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_says(&status, &["no endpoint", "1 connecting"]);
    })
    .await;
}

#[tokio::test]
async fn a_call_that_waits_for_ready_ends_at_its_deadline() {
    timed(async || {
        let mut backend = Backend::start("a").await;
        backend.stop().await;
        let options = BalanceOptions::new().backoff(LONG, LONG);
        let mesh = Mesh::builder().balance(options).build().await.unwrap();
        let client = Client::new(&mesh, &format!("static:///{}", backend.address()));
        let mut request = Request::new(HelloRequest::default());
        request.set_timeout(SOON);
        request.extensions_mut().insert(CallOptions::new().wait_for_ready(true));
        let status = client.greeter().say_hello(request).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_says(&status, &[&backend.address().to_string(), "refused"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_deadline_waits_max_wait_in_all() {
    let black_hole = BlackHole::new();
    let control_plane = ControlPlane::new();
    let balance = BalanceOptions::new().connect_timeout(LONG).failover_timeout(LONG);
    let mesh = Mesh::builder().control_plane(&control_plane).balance(balance).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    let before = tokio::time::Instant::now();
    let configure = async {
        tokio::time::sleep(Duration::from_secs(14)).await;
        control_plane.set(Resources::service("greeter", [black_hole.address()]));
    };
    let (reply, ()) = tokio::join!(client.hello(), configure);
    assert_eq!(before.elapsed().as_secs(), 20);
    let parts =
        ["no endpoint after a wait of 20.0", &format!("1 connecting ({}: no answer yet)", black_hole.address())];
    assert_says(&reply.unwrap_err(), &parts);
}

#[tokio::test]
async fn a_deadline_passes_while_the_response_streams() {
    timed(async || {
        let backend = Backend::start("a").await;
        let mesh = Mesh::builder().build().await.unwrap();
        let client = Client::new(&mesh, &format!("static:///{}", backend.address()));
        // The first answer comes, and no further request, so that the stream is open and silent.
        let requests = tokio_stream::once(HelloRequest::default()).chain(tokio_stream::pending());
        let mut request = Request::new(requests);
        request.set_timeout(5 * SOON);
        let mut replies = client.greeter().chat(request).await.unwrap().into_inner();
        assert_eq!(replies.message().await.unwrap().unwrap().message, "a");
        let status = replies.message().await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        let endpoint = format!("endpoint {}", backend.address());
        assert_says(&status, &["while reading the response", &endpoint]);
        // The stream ends with its deadline, though its reader is still there.
        backend.wait_for_in_flight(0).await;
        drop(replies);
    })
    .await;
}

#[tokio::test]
async fn a_deadline_passes_while_a_reader_takes_an_endless_response() {
    timed(async || {
        let backend = Backend::start("a").await;
        let mesh = Mesh::builder().build().await.unwrap();
        let client = Client::new(&mesh, &format!("static:///{}", backend.address()));
        let mut request = Request::new(HelloRequest { name: u64::MAX.to_string() });
        request.set_timeout(5 * SOON);
        let mut replies = client.greeter().say_hello_stream(request).await.unwrap().into_inner();
        let status = loop {
            match replies.message().await {
                Ok(reply) => assert_eq!(reply.expect("it has no end").message, "a"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        backend.wait_for_in_flight(0).await;
        drop(replies);
    })
    .await;
}

/// How far a reader is when it stops to read an answer without an end, and what it finds later.
async fn stops_reading_after(read: usize) -> Status {
    let backend = Backend::start("a").await;
    let mesh = Mesh::builder().drain_timeout(HOUR).build().await.unwrap();
    let client = Client::new(&mesh, &format!("static:///{}", backend.address()));
    let mut request = Request::new(HelloRequest { name: u64::MAX.to_string() });
    request.set_timeout(2 * SOON);
    let mut replies = client.greeter().say_hello_stream(request).await.unwrap().into_inner();
    for _ in 0..read {
        assert_eq!(replies.message().await.unwrap().unwrap().message, "a");
    }
    assert_eq!(backend.in_flight(), 1);
    backend.wait_for_in_flight(0).await;
    // Its place is free, too: a shutdown waits for no call.
    tokio::time::timeout(PATIENCE, mesh.shutdown()).await.expect("no call is in flight");
    loop {
        match replies.message().await {
            // What had been read before the deadline is the reader's.
            Ok(reply) => assert_eq!(reply.expect("it has no end").message, "a"),
            Err(status) => break status,
        }
    }
}

#[tokio::test]
async fn a_response_that_nobody_reads_ends_at_its_deadline() {
    timed(async || {
        for read in [0, 1, 5_000] {
            let status = stops_reading_after(read).await;
            assert_eq!(status.code(), Code::DeadlineExceeded, "{read} read: {status}");
            assert_says(&status, &["400ms", "while reading the response"]);
        }
    })
    .await;
}

#[tokio::test]
async fn a_silent_response_that_nobody_waits_for_ends_at_its_deadline() {
    timed(async || {
        let backend = Backend::start("a").await;
        let mesh = Mesh::builder().build().await.unwrap();
        let client = Client::new(&mesh, &format!("static:///{}", backend.address()));
        let requests = tokio_stream::once(HelloRequest::default()).chain(tokio_stream::pending());
        let mut request = Request::new(requests);
        request.set_timeout(2 * SOON);
        let mut replies = client.greeter().chat(request).await.unwrap().into_inner();
        assert_eq!(replies.message().await.unwrap().unwrap().message, "a");
        // Its reader asked once, and turned to something else.
        assert!(futures_util::poll!(std::pin::pin!(replies.message())).is_pending());
        backend.wait_for_in_flight(0).await;
        assert_eq!(replies.message().await.unwrap_err().code(), Code::DeadlineExceeded);
    })
    .await;
}

#[tokio::test]
async fn a_deadline_of_a_millisecond_ends_a_call_and_harms_none_after_it() {
    let backend = Backend::start("a").await;
    let mesh = Mesh::builder().build().await.unwrap();
    let client = Client::new(&mesh, &format!("static:///{}", backend.address()));
    let first = client.hello_within(Duration::from_millis(1)).await;
    if let Err(status) = first {
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    }
    assert_eq!(client.hello().await.unwrap(), "a");
    backend.hold();
    for _ in 0..20 {
        let status = client.hello_within(Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    }
    backend.release();
    assert_eq!(client.hello().await.unwrap(), "a");
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_server_that_says_deadline_exceeded_is_quoted() {
    let backend = Backend::start("a").await;
    backend.fail(Status::deadline_exceeded("the server's own"));
    let mesh = Mesh::builder().build().await.unwrap();
    let client = Client::new(&mesh, &format!("static:///{}", backend.address()));
    let status = client.hello_within(LONG).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "the server's own"));
}

/// Hands a response on when the call's time is over, with no timer having had the time to say so.
fn late<R>(response: R) -> R {
    std::thread::sleep(2 * SOON);
    response
}

#[tokio::test]
async fn a_server_that_says_cancelled_at_the_deadline_means_the_deadline() {
    timed(async || {
        let backend = Backend::start("a").await;
        let mesh = Mesh::builder().build().await.unwrap();
        let target = format!("static:///{}", backend.address());
        let channel = MeshChannel::builder(&mesh, &target).attempt_layer(MapResponseLayer::new(late)).build().unwrap();
        let mut greeter = GreeterClient::new(channel);
        let within = |limit| {
            let mut request = Request::new(HelloRequest::default());
            request.set_timeout(limit);
            request
        };
        // As tonic's servers do.
        backend.fail(Status::cancelled("Timeout expired"));
        let status = greeter.say_hello(within(SOON)).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert_says(&status, &["200ms", "while reading the response", &format!("endpoint {}", backend.address())]);
        let status = greeter.say_hello(within(LONG)).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Cancelled, "Timeout expired"));
    })
    .await;
}

/// A client of a service by its address, with nothing that limits its calls.
async fn client_at(address: std::net::SocketAddr) -> (Mesh, Client) {
    let mesh = Mesh::builder().build().await.unwrap();
    let client = Client::new(&mesh, &format!("static:///{address}"));
    mesh.ready().await.unwrap();
    (mesh, client)
}

#[tokio::test]
async fn the_inbound_deadline_reaches_nested_calls_without_code_in_handlers() {
    let leaf = Backend::start("leaf").await;
    let (_mesh_c, to_leaf) = client_at(leaf.address()).await;
    let c = Tier::start(mesh_tonic::deadline_layer(), Duration::from_millis(10), &to_leaf).await;
    let (_mesh_b, to_c) = client_at(c.address()).await;
    let b = Tier::start(mesh_tonic::deadline_layer(), Duration::from_millis(10), &to_c).await;
    let (_mesh_a, to_b) = client_at(b.address()).await;
    assert_eq!(to_b.hello().await.unwrap(), "leaf");
    assert_eq!(told(&leaf), None, "no deadline comes of none");
    assert_eq!(to_b.hello_within(LONG).await.unwrap(), "leaf");
    let left = told(&leaf).expect("a deadline");
    assert!(left <= LONG - Duration::from_millis(20) && left + LONG / 2 > LONG, "{left:?}");

    leaf.hold();
    let status = to_b.hello_within(SOON).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    leaf.wait_for_in_flight(0).await;
    b.wait_for_in_flight(0).await;
    c.wait_for_in_flight(0).await;
}

#[tokio::test]
async fn a_nested_call_is_not_made_when_its_time_is_over() {
    let leaf = Backend::start("leaf").await;
    let (_mesh, to_leaf) = client_at(leaf.address()).await;
    let seen = std::sync::Arc::new(parking_lot::Mutex::new(None));
    let handler = {
        let seen = seen.clone();
        move || {
            let (to_leaf, seen) = (to_leaf.clone(), seen.clone());
            async move {
                // Works past the deadline without a look at anything.
                std::thread::sleep(2 * SOON);
                let status = to_leaf.hello().await.unwrap_err();
                *seen.lock() = Some(status.clone());
                Err(status)
            }
        }
    };
    let layer = mesh_tonic::deadline_layer().limit(SOON);
    let tier = Tier::serving(layer, handler).await;
    let (_mesh_a, to_tier) = client_at(tier.address()).await;
    to_tier.hello().await.unwrap_err();
    let status = seen.lock().take().expect("the nested call's");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_says(&status, &["what was left of the inbound call's deadline", "before an endpoint could take the call"]);
    assert_eq!(leaf.calls(), 0);
}

#[tokio::test]
async fn a_nested_call_is_cancelled_when_the_inbound_call_is() {
    let leaf = Backend::start("leaf").await;
    let (_mesh_b, to_leaf) = client_at(leaf.address()).await;
    let tier = Tier::start(mesh_tonic::deadline_layer(), Duration::ZERO, &to_leaf).await;
    let (_mesh_a, to_tier) = client_at(tier.address()).await;
    leaf.hold();
    let call = tokio::spawn(async move { to_tier.hello().await });
    leaf.wait_for_in_flight(1).await;
    call.abort();
    leaf.wait_for_in_flight(0).await;
    tier.wait_for_in_flight(0).await;
}

#[tokio::test]
async fn a_server_answers_at_the_deadline_though_its_handler_does_not() {
    let layer = mesh_tonic::deadline_layer().limit(SOON);
    let tier = Tier::serving(layer, std::future::pending::<Result<String, Status>>).await;
    let (_mesh, client) = client_at(tier.address()).await;
    let status = client.hello().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::DeadlineExceeded, "the deadline passed while the call was served")
    );
    tier.wait_for_in_flight(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_tried_again_waits_max_wait_in_all() {
    let black_hole = BlackHole::new();
    let balance = BalanceOptions::new().connect_timeout(LONG).failover_timeout(LONG);
    let policy = mesh_core::RetryPolicy::on("unavailable").unwrap().max_attempts(5);
    let mesh = Mesh::builder().balance(balance).retry_policy(policy).build().await.unwrap();
    let client = Client::new(&mesh, &format!("static:///{}", black_hole.address()));
    let before = tokio::time::Instant::now();
    let status = client.hello().await.unwrap_err();
    // Twenty seconds, and the backoffs of four more attempts that do not wait.
    assert!((20..=21).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
    assert_says(&status, &["no endpoint after a wait of 20.", "attempts 5"]);
}

#[tokio::test]
async fn a_routes_timeout_ends_a_call_in_envoys_profile_alone() {
    timed(async || {
        for profile in [Profile::Grpc, Profile::Envoy] {
            let backend = Backend::start("a").await;
            let control_plane = limiting(&backend, [route().timeout(SOON)], listener("greeter"));
            let mesh = quick().profile(profile).control_plane(&control_plane).build().await.unwrap();
            let client = Client::new(&mesh, "xds:///greeter");
            client.hello().await.unwrap();
            assert_eq!(told(&backend).is_some(), profile == Profile::Envoy, "{profile:?}");
            let listed = mesh.ignored_fields().iter().any(|field| field.path.ends_with("routes.route.timeout"));
            assert_eq!(listed, profile == Profile::Grpc, "{profile:?}");
            if profile == Profile::Envoy {
                backend.hold();
                let status = client.hello_within(LONG).await.unwrap_err();
                assert_eq!(status.code(), Code::DeadlineExceeded);
                assert_says(&status, &["deadline of", "while waiting for the response"]);
                backend.wait_for_in_flight(0).await;
            }
        }
    })
    .await;
}

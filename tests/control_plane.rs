//! A control plane that is away, broken, or speaks nonsense.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mesh_core::balance::BalanceOptions;
use mesh_core::testing::{ControlPlane, Fault, Resources, any, endpoints, type_url};
use mesh_core::{Bootstrap, Mesh};
use mesh_xds_proto::envoy::service::discovery::v3::DiscoveryResponse;
use tonic::Code;

use crate::bootstrap::{insecure, listening, mesh_with};
use crate::support::backend::Backend;
use crate::support::client::{Client, SOON, assert_says, impatient, quick, quick_mesh};
use crate::support::log::Log;
use crate::support::relay::Relay;
use crate::support::until;

#[tokio::test]
async fn calls_wait_for_a_control_plane_that_is_down_and_say_so_or_succeed_when_it_comes() {
    let backend = Backend::start("a").await;
    let control_plane = listening(&backend).await;
    let address = control_plane.addr().to_string();
    control_plane.stop().await;
    let mesh = impatient().bootstrap(insecure(&address)).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");

    let status = client.hello().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let parts =
        ["Listener `greeter`", &format!("control plane {address} failed"), "refused", "next try in", "node test"];
    assert_says(&status, &parts);
    let status = client.hello_within(SOON).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_says(&status, &["Listener `greeter`", &address, "refused"]);

    let mesh = mesh_with(insecure(&address)).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let call = |client: Client| tokio::spawn(async move { client.hello().await });
    let waiting: Vec<_> = (0..8).map(|_| call(client.clone())).collect();
    let has_failed = || mesh.status().control_plane.is_some_and(|status| status.failures > 2);
    until("attempts that fail", has_failed).await;
    control_plane.restart().await.unwrap();
    for call in waiting {
        assert_eq!(call.await.unwrap().unwrap(), "a");
    }
    assert!(mesh.status().control_plane.is_some_and(|status| status.connected && status.failures == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_the_control_plane_is_killed_and_its_later_changes_arrive() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = listening(&a).await;
    let mesh = mesh_with(Bootstrap::from_json(&control_plane.bootstrap_json()).unwrap()).await;
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (client, stop) = (client.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    client.hello().await.expect("the control plane is not needed for calls");
                }
            })
        })
        .collect();
    for _ in 0..3 {
        a.wait_for_calls(a.calls() + 50).await;
        control_plane.kill_connections();
        control_plane.wait_for_streams(1).await;
    }
    control_plane.stop().await;
    a.wait_for_calls(a.calls() + 200).await;
    assert!(mesh.status().control_plane.is_some_and(|status| !status.connected && status.last_error.is_some()));
    control_plane.put(endpoints("greeter").endpoint(b.address()));
    control_plane.restart().await.unwrap();
    client.hello_until("b").await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("0 failed");
    }
}

#[tokio::test]
async fn a_control_plane_that_falls_silent_stops_nothing() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = listening(&a).await;
    let relay = Relay::start(control_plane.addr()).await;
    let mesh = mesh_with(insecure(&relay.address().to_string())).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");

    relay.freeze();
    control_plane.put(endpoints("greeter").endpoint(b.address()));
    let late = Client::new(&mesh, "xds:///other");
    let status = late.hello_within(SOON).await.unwrap_err();
    assert_says(&status, &["waiting for Listener `other`"]);
    for _ in 0..50 {
        assert_eq!(client.hello().await.unwrap(), "a");
    }
    relay.thaw();
    client.hello_until("b").await;

    control_plane.put(endpoints("greeter").endpoint(a.address()));
    client.hello_until("a").await;
    relay.half_open();
    control_plane.put(endpoints("greeter").endpoint(b.address()));
    for _ in 0..50 {
        assert_eq!(client.hello().await.unwrap(), "a");
    }
    relay.cut();
    client.hello_until("b").await;
}

#[tokio::test]
async fn a_control_plane_that_is_silent_from_the_start_is_named_and_waited_for() {
    let backend = Backend::start("a").await;
    let control_plane = listening(&backend).await;
    let relay = Relay::start(control_plane.addr()).await;
    relay.freeze();
    let mesh = mesh_with(insecure(&relay.address().to_string())).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let status = client.hello_within(SOON).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let place = format!("control plane {} is being connected to", relay.address());
    assert_says(&status, &["Listener `greeter`", &place]);
    let call = tokio::spawn(async move { client.hello().await });
    relay.thaw();
    assert_eq!(call.await.unwrap().unwrap(), "a");
}

#[tokio::test]
async fn resources_of_garbage_are_rejected_and_the_last_good_ones_serve() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", [a.address()]));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    let types = [type_url::LISTENER, type_url::ROUTE_CONFIGURATION, type_url::CLUSTER, type_url::ENDPOINTS];
    for (seed, type_url) in (1..).zip(types) {
        let garbage = control_plane.inject(Fault::garbage_resources(seed).only(type_url));
        control_plane.resend(type_url);
        assert_eq!(control_plane.next_nack().await.type_url, type_url);
        assert_eq!(client.hello().await.unwrap(), "a");
        control_plane.lift(garbage);
        control_plane.resend(type_url);
        control_plane.acked(type_url).await;
    }
    control_plane.put(endpoints("greeter").endpoint(b.address()));
    client.hello_until("b").await;
}

#[tokio::test]
async fn messages_that_cannot_be_read_end_the_stream_and_no_call() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", [a.address()]));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    let faults = [
        Fault::garbage_message(1),
        Fault::huge_message(),
        Fault::reset_stream(),
        Fault::close_stream(13, "out of order"),
        Fault::duplicate(),
        Fault::repeat_resources(),
    ];
    for (fault, backend) in faults.into_iter().zip([&b, &a].into_iter().cycle()) {
        let fault = control_plane.inject(fault.once());
        control_plane.put(endpoints("greeter").endpoint(backend.address()));
        control_plane.applied(fault, 1).await;
        client.hello().await.unwrap();
        control_plane.lift(fault);
        control_plane.resend(type_url::ENDPOINTS);
        client.hello_until(backend.name()).await;
    }
}

#[tokio::test]
async fn a_response_of_a_type_that_nobody_asked_for_changes_nothing() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", [a.address()]));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    let wrong = ["type.googleapis.com/nobody.knows.This", type_url::CLUSTER, type_url::LISTENER, ""];
    for (wrong, backend) in wrong.into_iter().zip([&b, &a].into_iter().cycle()) {
        let fault = control_plane.inject(Fault::wrong_type_url(wrong).only(type_url::ENDPOINTS).once());
        control_plane.put(endpoints("greeter").endpoint(backend.address()));
        control_plane.applied(fault, 1).await;
        for _ in 0..5 {
            assert_ne!(client.hello().await.unwrap(), backend.name());
        }
        // The server waits for an answer that nobody can give, until the stream is a new one.
        control_plane.kill_connections();
        client.hello_until(backend.name()).await;
    }
}

/// A hundred thousand assignments that nobody asked for, and one that is wanted.
fn flood(wanted: &Backend) -> DiscoveryResponse {
    let unknown = (0..100_000).map(|number| endpoints(format!("unknown-{number}")));
    let all = unknown.chain([endpoints("greeter").endpoint(wanted.address())]);
    DiscoveryResponse {
        version_info: "flood".to_owned(),
        type_url: type_url::ENDPOINTS.to_owned(),
        nonce: "flood".to_owned(),
        resources: all.map(|assignment| any(&assignment.build())).collect(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_hundred_thousand_resources_that_nobody_asked_for_are_passed_over() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", [a.address()]));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    let mut watch = control_plane.watch_requests();
    control_plane.send(&flood(&b));
    let answer = watch.wait_for(|request| request.nonce == "flood").await;
    client.hello_until("b").await;
    assert_eq!((answer.version.as_str(), answer.names.len(), &answer.error), ("flood", 1, &None));
    assert_eq!(mesh.status().resources.len(), 4);
    assert_eq!(control_plane.streams(), 1);
}

#[tokio::test]
async fn a_first_answer_of_nonsense_only_delays_calls() {
    let backend = Backend::start("a").await;
    for fault in
        [Fault::garbage_message(3), Fault::huge_message(), Fault::reset_stream(), Fault::close_stream(14, "no")]
    {
        let control_plane = ControlPlane::new();
        control_plane.set(Resources::service("greeter", [backend.address()]));
        control_plane.inject(fault.times(2));
        let mesh = quick_mesh(&control_plane).await;
        assert_eq!(Client::new(&mesh, "xds:///greeter").hello().await.unwrap(), "a");
        assert_eq!(control_plane.streams(), 1);
    }
}

#[tokio::test]
async fn requests_do_not_wait_for_the_headers_of_the_stream() {
    let backend = Backend::start("a").await;
    let control_plane = listening(&backend).await;
    let stuck = control_plane.inject(Fault::withhold_headers());
    let mesh = quick().bootstrap(Bootstrap::from_json(&control_plane.bootstrap_json()).unwrap());
    let mesh = mesh.build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.hello().await }
    });
    control_plane.wait_for(|request| request.asks_for(type_url::LISTENER, "greeter")).await;
    let status = client.hello_within(SOON).await.unwrap_err();
    assert_says(&status, &["waiting for Listener `greeter`", &control_plane.addr().to_string()]);
    control_plane.lift(stuck);
    assert_eq!(call.await.unwrap().unwrap(), "a");
}

#[tokio::test]
async fn a_control_plane_that_does_not_answer_a_ping_is_given_up() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = listening(&a).await;
    let relay = Relay::start(control_plane.addr()).await;
    let bootstrap = insecure(&relay.address().to_string());
    let mesh = quick().control_plane_keepalive(Some(SOON / 4), SOON / 4).bootstrap(bootstrap).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    relay.half_open();
    control_plane.put(endpoints("greeter").endpoint(b.address()));
    client.hello_until("b").await;
    assert_eq!(relay.accepted(), 2);
}

#[tokio::test]
async fn a_control_plane_that_only_accepts_is_given_up_after_the_connect_timeout() {
    let backend = Backend::start("a").await;
    let control_plane = listening(&backend).await;
    let relay = Relay::start(control_plane.addr()).await;
    relay.freeze();
    let bootstrap = insecure(&relay.address().to_string());
    let mesh = quick().control_plane_connect_timeout(SOON / 4).bootstrap(bootstrap).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    let status = client.hello_within(SOON).await.unwrap_err();
    assert_says(&status, &["Listener `greeter`", "UNAVAILABLE: not connected within 50ms"]);
    relay.wait_for_accepted(2).await;
}

#[tokio::test]
async fn a_type_that_nobody_asked_for_is_told_of_once_and_the_stream_goes_on() {
    let log = Log::of_warnings();
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", [a.address()]));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    for type_url in ["type.googleapis.com/nobody.knows.This", "type.googleapis.com/nor.That"] {
        for nonce in ["1", "2", "3"] {
            let (type_url, nonce) = (type_url.to_owned(), nonce.to_owned());
            control_plane.send(&DiscoveryResponse { type_url, nonce, ..Default::default() });
        }
    }
    control_plane.put(endpoints("greeter").endpoint(b.address()));
    client.hello_until("b").await;
    assert_eq!(control_plane.streams(), 1);
    assert!(control_plane.requests().iter().all(|request| request.stream == 1 && !request.is_nack()));
    for name in ["nobody.knows.This", "nor.That"] {
        assert_eq!(log.lines_with(name), 1, "{name}");
    }
}

#[tokio::test]
async fn places_among_the_calls_that_wait_for_the_configuration_are_given_back() {
    let backend = Backend::start("a").await;
    let control_plane = ControlPlane::new();
    let balance = BalanceOptions::new().max_pending(1);
    let mesh = Mesh::builder().control_plane(&control_plane).balance(balance).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    let call = || {
        let client = client.clone();
        tokio::spawn(async move { client.hello().await })
    };
    // One of the two has the place, and fails the other.
    let (mut first, mut second) = (call(), call());
    let (status, waiting) = tokio::select! {
        status = &mut first => (status, second),
        status = &mut second => (status, first),
    };
    assert_says(&status.unwrap().unwrap_err(), &["1 calls already wait for the configuration", "raise `max_pending`"]);
    waiting.abort();
    let _ = waiting.await;
    let next = call();
    tokio::task::yield_now().await;
    control_plane.set(Resources::service("greeter", [backend.address()]));
    assert_eq!(next.await.unwrap().unwrap(), "a");
}

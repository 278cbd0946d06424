//! Endpoints that answer, but not in gRPC: what their response is to the call, to retries and to outlier detection.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_core::testing::{ControlPlane, Resources, cluster, route, route_config};
use mesh_core::{ErrorKind, Mesh};
use mesh_xds_proto::envoy::config::cluster::v3::OutlierDetection;
use mesh_xds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use mesh_xds_proto::envoy::config::route::v3::{HeaderMatcher, RetryPolicy};
use tonic::{Code, Status};

use crate::support::Counter;
use crate::support::backend::Backend;
use crate::support::client::{Client, assert_says, quick, quick_mesh};
use crate::support::frames::{DATA, END_HEADERS, END_STREAM, FrameServer, HEADERS, RST_STREAM, header_block};

type Headers = &'static [(&'static str, &'static str)];

const HTML_503: Headers = &[(":status", "503"), ("content-type", "text/html")];

/// Answers every call with this head and a body that never ends, and counts the calls that are then reset.
async fn answering(headers: Headers) -> (FrameServer, Counter) {
    let resets = Counter::new();
    let counter = resets.clone();
    let server = FrameServer::start(move |mut peer| {
        let resets = counter.clone();
        async move {
            peer.greet(&[]).await?;
            loop {
                let call = peer.next_call().await?;
                peer.frame(HEADERS, END_HEADERS, call, &header_block(headers)).await?;
                peer.frame(DATA, 0, call, b"<html>").await?;
                assert_eq!(peer.next_of(RST_STREAM).await?.stream, call);
                resets.add(1);
            }
        }
    })
    .await;
    (server, resets)
}

/// Answers every call with a head alone.
async fn answering_at_once(headers: Headers) -> FrameServer {
    FrameServer::start(move |mut peer| async move {
        peer.greet(&[]).await?;
        loop {
            let call = peer.next_call().await?;
            peer.frame(HEADERS, END_HEADERS | END_STREAM, call, &header_block(headers)).await?;
        }
    })
    .await
}

async fn client_of(endpoint: SocketAddr) -> (Mesh, Client) {
    let mesh = quick().build().await.expect("a mesh");
    let client = Client::new(&mesh, &format!("static:///{endpoint}"));
    (mesh, client)
}

fn kind_of(status: &Status) -> ErrorKind {
    let source = std::error::Error::source(status).and_then(|source| source.downcast_ref::<mesh_tonic::Error>());
    source.expect("an error of the mesh").mesh_error().kind()
}

#[tokio::test]
async fn a_response_that_is_not_grpc_fails_the_call_by_its_http_status() {
    let cases: [(Headers, Code, &str); 7] = [
        (HTML_503, Code::Unavailable, "HTTP status 503 Service Unavailable, content-type `text/html`"),
        (&[(":status", "404"), ("content-type", "text/plain")], Code::Unimplemented, "HTTP status 404 Not Found"),
        (&[(":status", "403"), ("content-type", "text/plain")], Code::PermissionDenied, "HTTP status 403 Forbidden"),
        (&[(":status", "431")], Code::Unknown, "HTTP status 431 Request Header Fields Too Large, no content-type"),
        (&[(":status", "502"), ("content-type", "application/grpc")], Code::Unavailable, "HTTP status 502"),
        (&[(":status", "200"), ("content-type", "text/html")], Code::Unknown, "HTTP status 200 OK, content-type `text"),
        (&[(":status", "200"), ("content-type", "application/grpc-web")], Code::Unknown, "`application/grpc-web`"),
    ];
    for (headers, code, said) in cases {
        let (server, resets) = answering(headers).await;
        let (mesh, client) = client_of(server.address()).await;
        let status = client.hello().await.expect_err("not gRPC");
        assert_eq!(status.code(), code, "{status}");
        assert_says(&status, &[said, &format!("endpoint {}", server.address()), "see what answers at the endpoint"]);
        assert!(matches!(kind_of(&status), ErrorKind::HttpResponse(_)), "{status:?}");
        resets.wait_for("calls that were reset", |count| *count == 1).await;
        assert_eq!(mesh.status().targets[0].clusters[0].endpoints[0].in_flight, 0, "the call's slot is free");

        let whole = answering_at_once(headers).await;
        let (_mesh, client) = client_of(whole.address()).await;
        let status = client.hello().await.expect_err("not gRPC");
        assert_eq!(status.code(), code, "a head alone: {status}");
        assert_says(&status, &[said]);
    }
}

#[tokio::test]
async fn a_response_that_is_not_grpc_is_told_with_all_that_is_known_of_the_call() {
    let (server, _) = answering(HTML_503).await;
    let control_plane = ControlPlane::new();
    let routes = route_config("greeter").routes([route().name("chats").cluster("greeter")]);
    control_plane.set(Resources::service("greeter", [server.address()]).with(routes));
    let mesh = quick_mesh(&control_plane).await;
    let status = Client::new(&mesh, "xds:///greeter").hello().await.expect_err("not gRPC");
    let endpoint = format!("endpoint {}", server.address());
    assert_says(&status, &["target xds:///greeter", "route chats", "cluster greeter", &endpoint, "node test"]);
}

#[tokio::test]
async fn a_status_of_grpc_holds_whatever_the_response_is_otherwise() {
    let server = answering_at_once(&[(":status", "503"), ("content-type", "text/html"), ("grpc-status", "5")]).await;
    let (_mesh, client) = client_of(server.address()).await;
    assert_eq!(client.hello().await.expect_err("a status").code(), Code::NotFound);
}

#[tokio::test]
async fn a_retry_sees_the_code_that_the_call_would_fail_with() {
    let good = Backend::start("good").await;
    for (retry_on, headers, is_repeated) in [
        ("unavailable", HTML_503, true),
        ("5xx", HTML_503, true),
        ("gateway-error", HTML_503, true),
        ("internal", HTML_503, false),
        ("unavailable,internal", &[(":status", "200"), ("content-type", "text/html")], false),
    ] {
        let (server, resets) = answering(headers).await;
        let policy = mesh_core::RetryPolicy::on(retry_on).expect("known words");
        let mesh = quick().retry_policy(policy).build().await.expect("a mesh");
        let client = Client::new(&mesh, &format!("static:///{},{}", server.address(), good.address()));
        let mut calls = Vec::new();
        while resets.get() == 0 || calls.len() < 4 {
            calls.push(client.hello().await);
        }
        assert_eq!(calls.iter().all(Result::is_ok), is_repeated, "{retry_on}: {calls:?}");
    }
}

#[tokio::test]
async fn envoys_conditions_ask_for_what_they_name_and_for_nothing_else() {
    const CONFLICT: Headers = &[(":status", "409"), ("content-type", "text/html")];
    const TEAPOT: Headers = &[(":status", "418"), ("content-type", "text/html"), ("x-again", "yes")];
    let on = |retry_on: &str| RetryPolicy { retry_on: retry_on.to_owned(), num_retries: Some(4), ..Default::default() };
    let codes = |code| RetryPolicy { retriable_status_codes: vec![code], ..on("retriable-status-codes") };
    let header = |name: &str| {
        let is_there = Some(HeaderMatchSpecifier::PresentMatch(true));
        let matcher = HeaderMatcher { name: name.to_owned(), header_match_specifier: is_there, ..Default::default() };
        RetryPolicy { retriable_headers: vec![matcher], ..on("retriable-headers") }
    };
    let good = Backend::start("good").await;
    for (policy, headers, is_repeated) in [
        (on("retriable-4xx"), CONFLICT, true),
        (on("retriable-4xx"), TEAPOT, false),
        (codes(418), TEAPOT, true),
        (codes(418), CONFLICT, false),
        (header("x-again"), TEAPOT, true),
        (header("x-again"), CONFLICT, false),
    ] {
        let (server, resets) = answering(headers).await;
        let control_plane = ControlPlane::new();
        let routes = route_config("greeter").routes([route().retry(policy.clone()).cluster("greeter")]);
        control_plane.set(Resources::service("greeter", [server.address(), good.address()]).with(routes));
        let mesh = quick_mesh(&control_plane).await;
        let client = Client::new(&mesh, "xds:///greeter");
        let mut calls = Vec::new();
        while resets.get() == 0 || calls.len() < 4 {
            calls.push(client.hello().await);
        }
        assert_eq!(calls.iter().all(Result::is_ok), is_repeated, "{policy:?} {headers:?}: {calls:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_does_not_speak_grpc_is_ejected() {
    let (server, _) = answering(HTML_503).await;
    let good = Backend::start("good").await;
    let control_plane = ControlPlane::new();
    let detection = OutlierDetection {
        consecutive_5xx: Some(2),
        interval: Some(Duration::from_secs(60).try_into().expect("a short time")),
        max_ejection_percent: Some(50),
        ..Default::default()
    };
    let service = Resources::service("greeter", [server.address(), good.address()]);
    control_plane.set(service.with(cluster("greeter").outlier_detection(detection)));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let mut failed = 0;
    for _ in 0..50 {
        failed += u32::from(client.hello().await.is_err());
    }
    assert_eq!(failed, 2, "of 50 calls, those before it was ejected");
}

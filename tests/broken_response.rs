//! Responses that do not end as they should: what the caller is told is all that is known of the call.

use std::time::Duration;

use mesh_core::Mesh;
use mesh_core::testing::{ControlPlane, Resources, route, route_config};
use mesh_examples::helloworld::{HelloReply, HelloRequest};
use tokio_stream::StreamExt;
use tonic::{Code, Request, Status, Streaming};

use crate::support::backend::Backend;
use crate::support::client::{Client, SOON, assert_says, quick_mesh};
use crate::support::frames::{CANCEL, FrameServer};

/// A mesh whose calls have every fact: a control plane, a node, a route with a name.
async fn configured(endpoint: std::net::SocketAddr) -> (ControlPlane, Mesh, Client) {
    let control_plane = ControlPlane::new();
    let routes = route_config("greeter").routes([route().name("chats").cluster("greeter")]);
    control_plane.set(Resources::service("greeter", [endpoint]).with(routes));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    (control_plane, mesh, client)
}

/// A response whose first message came and which then stays open.
async fn open_response(client: &Client, timeout: Option<Duration>) -> Streaming<HelloReply> {
    let requests = tokio_stream::once(HelloRequest::default()).chain(tokio_stream::pending());
    let mut request = Request::new(requests);
    timeout.into_iter().for_each(|timeout| request.set_timeout(timeout));
    let mut replies = client.greeter().chat(request).await.expect("a response").into_inner();
    replies.message().await.expect("no failure yet").expect("the first message");
    replies
}

#[track_caller]
fn assert_names_everything(status: &Status, endpoint: std::net::SocketAddr) {
    let endpoint = format!("endpoint {endpoint}");
    assert_says(status, &["target xds:///greeter", "route chats", "cluster greeter", &endpoint]);
    assert_says(status, &["control plane in-process", "node test"]);
}

#[tokio::test]
async fn an_endpoint_that_dies_in_the_middle_of_a_stream_is_named_with_all_that_is_known() {
    let mut backend = Backend::start("a").await;
    let (_control_plane, _mesh, client) = configured(backend.address()).await;
    let mut replies = open_response(&client, None).await;
    backend.stop().await;
    let status = replies.message().await.expect_err("the endpoint is gone");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_names_everything(&status, backend.address());
    assert_says(&status, &["connection lost", "see whether the endpoint stopped"]);
}

#[tokio::test]
async fn a_stream_that_the_endpoint_resets_is_named_with_all_that_is_known() {
    let server = FrameServer::start(|mut peer| async move {
        peer.greet(&[]).await?;
        let call = peer.next_call().await?;
        peer.head(call).await?;
        peer.message(call, "first").await?;
        peer.reset(call, CANCEL).await?;
        peer.wait_for_end().await
    })
    .await;
    let (_control_plane, _mesh, client) = configured(server.address()).await;
    let mut replies = open_response(&client, None).await;
    let status = replies.message().await.expect_err("the stream was reset");
    assert_eq!(status.code(), Code::Cancelled, "{status}");
    assert_names_everything(&status, server.address());
    assert_says(&status, &["stream reset by the endpoint: CANCEL", "it may have acted on the request"]);
}

#[tokio::test]
async fn a_deadline_that_passes_while_a_response_is_read_says_all_that_is_known() {
    let backend = Backend::start("a").await;
    let (_control_plane, _mesh, client) = configured(backend.address()).await;
    let mut replies = open_response(&client, Some(5 * SOON)).await;
    let status = replies.message().await.expect_err("the deadline passed");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert_names_everything(&status, backend.address());
    assert_says(&status, &["while reading the response", "give the call more time"]);
}

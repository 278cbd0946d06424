//! Calls that are open when policies come that deny them (`ServerOptions::end_denied_streams`).

use mesh_core::server::ServerOptions;
use mesh_core::testing::{FilterChainBuilder, filter_chain, route, route_config};
use mesh_examples::helloworld::{HelloReply, HelloRequest};
use mesh_xds_proto::envoy::config::core::v3::CidrRange;
use mesh_xds_proto::envoy::extensions::filters::http::header_mutation::v3::HeaderMutation;
use mesh_xds_proto::envoy::extensions::filters::http::rbac::v3::{Rbac, RbacPerRoute};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use crate::support::client::metadata;
use crate::support::configured::Setting;
use crate::support::in_time;
use crate::support::rbac::{allow, any, deny, with_header};

fn with(filter: &Rbac) -> FilterChainBuilder {
    filter_chain().filter("rbac", filter)
}

fn no_evil() -> FilterChainBuilder {
    with(&deny([with_header("x-evil", "yes")]))
}

fn ending() -> ServerOptions {
    ServerOptions::new().end_denied_streams()
}

/// A call that is open both ways.
struct Chat {
    say: mpsc::UnboundedSender<HelloRequest>,
    replies: Streaming<HelloReply>,
}

impl Chat {
    async fn open(it: &Setting, is_evil: bool) -> Self {
        let (say, said) = mpsc::unbounded_channel();
        let mut request = Request::new(UnboundedReceiverStream::new(said));
        if is_evil {
            *request.metadata_mut() = metadata(&[("x-evil", "yes")]);
        }
        let replies = it.client.greeter().chat(request).await.expect("it is allowed").into_inner();
        let mut chat = Self { say, replies };
        chat.goes_on().await;
        chat
    }

    async fn goes_on(&mut self) {
        self.say.send(HelloRequest::default()).expect("the call reads");
        in_time("a reply", self.replies.message()).await.expect("a reply").expect("no end");
    }

    async fn end(&mut self) -> Status {
        in_time("the end", async {
            while self.replies.message().await?.is_some() {}
            Ok(())
        })
        .await
        .expect_err("it is denied")
    }
}

#[tokio::test]
async fn s11_open_streams_that_are_denied_end_and_the_others_go_on() {
    let it = Setting::start(with(&allow([any()])), ending()).await;
    let (mut good, mut evil) = (Chat::open(&it, false).await, Chat::open(&it, true).await);
    it.greeter.wait_for_in_flight(2).await;
    it.changes_to(no_evil()).await;
    let status = evil.end().await;
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "the server does not allow this call"));
    it.greeter.wait_for_in_flight(1).await;
    good.goes_on().await;
    let status = it.server.status();
    assert_eq!((status.refused_calls, status.accepted), (1, 1), "no connection was drained");
    let why = status.last_refused_call.expect("one was");
    assert!(why.contains("policy `policy-0` of filter `rbac` denies it; path `/helloworld.Greeter/Chat`"), "{why}");
    // What changes nothing for it ends nothing.
    it.changes_to(with(&allow([any()]))).await;
    good.goes_on().await;
    it.changes_to(with(&deny([any()]))).await;
    assert_eq!(good.end().await.code(), Code::PermissionDenied);
    it.server.wait_for("no call", |status| status.in_flight == 0).await;
}

#[tokio::test]
async fn s11_calls_that_are_not_answered_yet_and_their_uploads_end_too() {
    let it = Setting::start(with(&allow([any()])), ending()).await;
    it.greeter.hold();
    let client = it.client.clone();
    let unary = tokio::spawn(async move { client.hello().await });
    let (say, said) = mpsc::unbounded_channel();
    let mut greeter = it.client.greeter();
    let upload = tokio::spawn(async move { greeter.collect_hellos(UnboundedReceiverStream::new(said)).await });
    say.send(HelloRequest::default()).expect("the call reads");
    it.greeter.wait_for_in_flight(2).await;
    it.changes_to(with(&deny([any()]))).await;
    assert_eq!(in_time("the call", unary).await.unwrap().unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(in_time("the upload", upload).await.unwrap().unwrap_err().code(), Code::PermissionDenied);
    it.greeter.wait_for_in_flight(0).await;
}

#[tokio::test]
async fn s11_routes_filters_beside_policies_and_other_chains_end_them_as_well() {
    let routes = |filter: Rbac| {
        let per_route = RbacPerRoute { rbac: Some(filter) };
        route_config("shared").routes([route().non_forwarding().filter_config("rbac", &per_route)])
    };
    let it = Setting::start(with(&allow([any()])).inline(routes(allow([any()]))), ending()).await;
    it.control_plane.put(routes(allow([any()])));
    it.changes_to(with(&allow([any()])).rds("shared")).await;
    let mut chat = Chat::open(&it, false).await;
    it.control_plane.put(routes(deny([any()])));
    assert_eq!(chat.end().await.code(), Code::PermissionDenied, "by a route");

    let mutated = |filter: &Rbac| filter_chain().filter("headers", &HeaderMutation::default()).filter("rbac", filter);
    it.changes_to(mutated(&allow([any()]))).await;
    it.client.recovers().await;
    let mut chat = Chat::open(&it, false).await;
    it.changes_to(mutated(&deny([any()]))).await;
    assert_eq!(chat.end().await.code(), Code::PermissionDenied, "behind another filter");

    it.changes_to(with(&allow([any()]))).await;
    it.client.recovers().await;
    let mut chat = Chat::open(&it, false).await;
    let loopback = CidrRange { address_prefix: "127.0.0.0".into(), prefix_len: Some(8) };
    let elsewhere = with(&deny([any()]))
        .modify(|chain| chain.filter_chain_match.get_or_insert_default().source_prefix_ranges = vec![loopback]);
    it.changes_to(elsewhere).await;
    assert_eq!(chat.end().await.code(), Code::PermissionDenied, "by another chain, on a connection that drains");
}

#[tokio::test]
async fn s11_streams_that_are_open_go_on_by_default() {
    let it = Setting::start(with(&allow([any()])), ServerOptions::new()).await;
    let mut chat = Chat::open(&it, false).await;
    it.changes_to(with(&deny([any()]))).await;
    it.answers(Err(Code::PermissionDenied)).await.unwrap_err();
    chat.goes_on().await;
}

//! Calls that are open when policies come that deny them (`ServerOptions::end_denied_streams`).

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use h2::client::SendRequest;
use mesh_core::server::{ServerOptions, ServingMode};
use mesh_core::testing::{
    ControlPlane, FilterChainBuilder, filter_chain, listener, route, route_config, server_listener,
};
use mesh_examples::helloworld::greeter_server::{Greeter, GreeterServer};
use mesh_examples::helloworld::{HelloReply, HelloRequest};
use mesh_tonic::MeshServer;
use mesh_xds_proto::envoy::config::core::v3::CidrRange;
use mesh_xds_proto::envoy::config::listener::v3::FilterChain;
use mesh_xds_proto::envoy::extensions::filters::http::header_mutation::v3::HeaderMutation;
use mesh_xds_proto::envoy::extensions::filters::http::rbac::v3::{Rbac, RbacPerRoute};
use mesh_xds_proto::envoy::service::auth::v3::check_response::HttpResponse;
use mesh_xds_proto::envoy::service::auth::v3::{CheckResponse, OkHttpResponse};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::authorization::named;
use crate::composite::{of_a_half, share};
use crate::ext_authz::{allowing, asking, ok, option};
use crate::jwt;
use crate::support::authorization::{Answer, Authorization};
use crate::support::client::{Client, metadata, quick};
use crate::support::configured::Setting;
use crate::support::jwt::Issuer;
use crate::support::rbac::{allow, any, deny, with_header};
use crate::support::secured_server::{CLIENT, Site, optional, secured};
use crate::support::served::Served;
use crate::support::{in_time, until};

fn with(filter: &Rbac) -> FilterChainBuilder {
    filter_chain().filter("rbac", filter)
}

fn no_evil() -> FilterChainBuilder {
    with(&deny([with_header("x-evil", "yes")]))
}

pub(crate) fn ending() -> ServerOptions {
    ServerOptions::new().end_denied_streams()
}

/// With another match, for the same connections.
pub(crate) fn matching_otherwise(chain: FilterChainBuilder) -> FilterChainBuilder {
    let loopback = CidrRange { address_prefix: "127.0.0.0".into(), prefix_len: Some(8) };
    chain.modify(|chain| chain.filter_chain_match.get_or_insert_default().source_prefix_ranges = vec![loopback])
}

/// A call that is open both ways.
pub(crate) struct Chat {
    say: mpsc::UnboundedSender<HelloRequest>,
    replies: Streaming<HelloReply>,
}

impl Chat {
    pub(crate) async fn open(it: &Setting, is_evil: bool) -> Self {
        let evil: &[_] = if is_evil { &[("x-evil", "yes")] } else { &[] };
        Self::open_by(&it.client, evil).await
    }

    pub(crate) async fn open_by(client: &Client, headers: &[(&'static str, &str)]) -> Self {
        let (say, said) = mpsc::unbounded_channel();
        let mut request = Request::new(UnboundedReceiverStream::new(said));
        *request.metadata_mut() = metadata(headers);
        let replies = client.greeter().chat(request).await.expect("it is allowed").into_inner();
        let mut chat = Self { say, replies };
        chat.goes_on().await;
        chat
    }

    pub(crate) async fn goes_on(&mut self) {
        self.say.send(HelloRequest::default()).expect("the call reads");
        in_time("a reply", self.replies.message()).await.expect("a reply").expect("no end");
    }

    async fn is_open(&mut self) -> bool {
        let said = self.say.send(HelloRequest::default());
        let reply = in_time("a reply or the end", self.replies.message()).await;
        said.is_ok() && reply.is_ok_and(|reply| reply.is_some())
    }

    pub(crate) async fn end(&mut self) -> Status {
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
    it.changes_to(matching_otherwise(with(&deny([any()])))).await;
    assert_eq!(chat.end().await.code(), Code::PermissionDenied, "by another chain, on a connection that drains");
}

#[tokio::test]
async fn s11_policies_see_a_call_as_it_came_to_them_and_not_as_its_route_left_it() {
    let removing = |filter: &Rbac| {
        let route = route().non_forwarding().modify(|route| route.request_headers_to_remove = vec!["x-evil".into()]);
        with(filter).inline(route_config("r").routes([route]))
    };
    let evil = || with_header("x-evil", "yes");
    let it = Setting::start(removing(&allow([evil()])), ending()).await;
    let mut chat = Chat::open(&it, true).await;
    it.changes_to(removing(&allow([evil(), with_header("x-other", "yes")]))).await;
    in_time("the new policies", async {
        while it.client.hello_with(metadata(&[("x-other", "yes")])).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    chat.goes_on().await;
    it.changes_to(removing(&deny([evil()]))).await;
    assert_eq!(chat.end().await.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn s11_a_call_that_is_held_back_while_other_chains_deny_it_ends() {
    let checked = |value: &str| {
        let headers = vec![option("x-user", value, true)];
        let response = HttpResponse::OkResponse(OkHttpResponse { headers, ..Default::default() });
        CheckResponse { http_response: Some(response), ..ok() }
    };
    let authorization = Authorization::start(checked("ada")).await;
    let policed =
        |filter: &Rbac| filter_chain().filter("authz", &asking(&authorization.target())).filter("rbac", filter);
    let user = || with_header("x-user", "ada");
    let it = Setting::start_in(allowing(&authorization), policed(&allow([user()])), ending()).await;
    let mut chat = Chat::open(&it, false).await;
    it.changes_to(policed(&allow([user(), with_header("x-other", "yes")]))).await;
    let until = Arc::new(Notify::new());
    authorization.say(Answer::Held(until.clone(), Box::new(checked("ada"))));
    let client = it.client.clone();
    let held = tokio::spawn(async move { client.hello().await });
    authorization.checks().wait_for("a check", |checks| *checks == 2).await;
    chat.goes_on().await;
    it.changes_to(matching_otherwise(policed(&deny([user()])))).await;
    assert_eq!(chat.end().await.code(), Code::PermissionDenied, "by a header that the check added");
    let why = it.server.status().last_refused_call.expect("one was");
    assert!(why.contains("policy `policy-0` of filter `rbac` denies it"), "{why}");
    until.notify_one();
    assert_eq!(in_time("the call", held).await.unwrap().unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(it.greeter.calls(), 1, "the handler did not hear of it");
}

#[tokio::test]
async fn s11_a_listener_that_went_away_and_comes_back_ends_what_it_denies() {
    let it = Setting::start(with(&allow([any()])), ending()).await;
    let mut chat = Chat::open(&it, false).await;
    let name = format!("grpc/server?xds.resource.listening_address={}", it.server.address());
    it.control_plane.put(listener(&name));
    it.server.wait_for("its end", |status| matches!(status.mode, ServingMode::NotServing(_))).await;
    chat.goes_on().await;
    it.changes_to(with(&deny([any()]))).await;
    assert_eq!(chat.end().await.code(), Code::PermissionDenied);
}

async fn which_are_open(chats: &mut [Chat]) -> Vec<bool> {
    let mut open = Vec::new();
    for chat in chats {
        open.push(chat.is_open().await);
    }
    open
}

fn are_a_share_that_stays(left: &[Vec<bool>]) {
    assert!(left[0].contains(&true) && left[0].contains(&false), "{left:?}");
    assert!(left.iter().all(|open| *open == left[0]), "{left:?}");
}

/// A call is of a share or it is not, however often it is judged: chance ends none.
#[tokio::test]
async fn s11_calls_that_are_not_of_the_share_that_is_denied_go_on() {
    // One call ends at each change, the one that came last: then all have been judged.
    let marked = |mark: &str| deny([with_header("x-mark", mark)]);
    let by_composite = |mark: &str, filter: &Rbac| with(&marked(mark)).filter("half", &of_a_half(filter));
    let by_route = |mark: &str, filter: &Rbac| {
        let denied = RbacPerRoute { rbac: Some(filter.clone()) };
        let half = route().non_forwarding().fraction(500_000).filter_config("half", &denied);
        let routes = route_config("r").routes([half, route().non_forwarding()]);
        with(&marked(mark)).filter("half", &allow([any()])).inline(routes)
    };
    for of_half in [&by_composite as &dyn Fn(&str, &Rbac) -> FilterChainBuilder, &by_route] {
        let it = Setting::start(of_half("none", &allow([any()])), ending()).await;
        let mut chats = Vec::new();
        for _ in 0..24 {
            chats.push(Chat::open_by(&it.client, &[("x-plain", "yes")]).await);
        }
        let mut left = Vec::new();
        for mark in ["0", "1", "2", "3"] {
            let mut last = Chat::open_by(&it.client, &[("x-mark", mark)]).await;
            it.changes_to(of_half(mark, &deny([with_header("x-plain", "yes")]))).await;
            assert_eq!(last.end().await.code(), Code::PermissionDenied);
            left.push(which_are_open(&mut chats).await);
        }
        are_a_share_that_stays(&left);
    }
}

/// Nor are calls asked for a token later whom chance did not ask for one.
#[tokio::test]
async fn s11_calls_that_are_not_of_the_share_that_needs_a_token_go_on() {
    let joe = Issuer::new("joe");
    let bearer = format!("Bearer {}", joe.token(&json!({"sub": "alice"})));
    let mut half = jwt::filter(jwt::provider("joe", &joe), jwt::by("joe"));
    half.rules[0].r#match.as_mut().expect("all calls").runtime_fraction = Some(share(50));
    let marks = |mark: &str| deny([with_header("x-mark", mark)]);
    let it = Setting::start(with(&marks("none")), ending()).await;
    let mut chats = join_all((0..24).map(|_| Chat::open_by(&it.client, &[]))).await;
    let mut left = Vec::new();
    for mark in ["0", "1", "2", "3"] {
        let mut last = Chat::open_by(&it.client, &[("x-mark", mark), ("authorization", &bearer)]).await;
        it.changes_to(jwt::chain(&half).filter("marks", &marks(mark))).await;
        assert_eq!(last.end().await.code(), Code::PermissionDenied);
        left.push(which_are_open(&mut chats).await);
    }
    are_a_share_that_stays(&left);
}

#[tokio::test]
async fn s11_who_is_denied_by_name_loses_its_calls_and_others_keep_theirs() {
    let chain = |filter: &Rbac| secured(&optional()).filter("rbac", filter);
    let site = Site::start(Some(chain(&allow([any()]))), ending(), |server| server).await.certified().await;
    let other = "spiffe://cluster.local/other";
    let callers = [
        site.caller(Some(&site.authority.svid(CLIENT))).await,
        site.caller(Some(&site.authority.svid(other))).await,
        site.caller(None).await,
    ];
    let [mut client, mut other_one, mut nobody] =
        join_all(callers.iter().map(|caller| Chat::open_by(&caller.client, &[]))).await.try_into().ok().unwrap();
    site.listen(chain(&deny([(any().0, named(CLIENT))])));
    assert_eq!(client.end().await.code(), Code::PermissionDenied);
    other_one.goes_on().await;
    nobody.goes_on().await;
    site.listen(chain(&allow([(any().0, named(other))])));
    assert_eq!(nobody.end().await.code(), Code::PermissionDenied, "it has no name");
    other_one.goes_on().await;
}

/// A call that is open both ways, whose server has something to say.
async fn chat_over(client: &mut SendRequest<Bytes>, is_evil: bool) -> (h2::RecvStream, h2::SendStream<Bytes>) {
    let request = http::Request::post("http://greeter/helloworld.Greeter/Chat")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-evil", if is_evil { "yes" } else { "no" });
    let (response, mut say) = client.send_request(request.body(()).unwrap(), false).expect("a call");
    say.send_data(Bytes::from_static(&[0; 5]), false).expect("a message");
    (in_time("a response", response).await.expect("a response").into_body(), say)
}

/// A client that grants each stream so many bytes, and no more.
async fn over_http2(address: SocketAddr, window: u32) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(address).await.unwrap();
    let mut client = h2::client::Builder::new();
    let (client, connection) = client.initial_window_size(window).handshake(socket).await.expect("a handshake");
    tokio::spawn(connection);
    client
}

/// Takes nothing of an answer until it is broken off.
async fn its_error(replies: &mut h2::RecvStream) -> h2::Error {
    in_time("its end", async {
        loop {
            match replies.data().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error,
                None => panic!("it ended with an answer that was not taken"),
            }
        }
    })
    .await
}

/// hyper asks an answer for nothing while there is no window for it, be that so from the first byte on or in the middle of a message.
#[tokio::test]
async fn s11_a_denied_stream_whose_caller_takes_nothing_is_reset() {
    let its_end = async |window| {
        let it = Setting::start(with(&allow([any()])), ending()).await;
        let mut client = over_http2(it.server.address(), window).await;
        let (mut evil, _say) = chat_over(&mut client, true).await;
        let (mut good, _say) = chat_over(&mut client, false).await;
        it.greeter.wait_for_in_flight(2).await;
        it.changes_to(no_evil()).await;
        assert_eq!(its_error(&mut evil).await.reason(), Some(h2::Reason::CANCEL), "window {window}");
        it.server.wait_for("the other call alone", |status| status.in_flight == 1).await;
        it.greeter.wait_for_in_flight(1).await;
        let _another = chat_over(&mut client, false).await;
        while let Some(next) = good.data().now_or_never() {
            next.expect("an answer that goes on").expect("a stream that was not reset");
        }
        it.greeter.wait_for_in_flight(2).await;
    };
    futures_util::join!(its_end(0), its_end(3));
}

/// Keeps what its callers send, and reads none of it; it has always something to say.
#[derive(Default)]
struct Hoarder(Arc<Mutex<Vec<Streaming<HelloRequest>>>>);

#[tonic::async_trait]
impl Greeter for Hoarder {
    async fn chat(&self, request: Request<Streaming<HelloRequest>>) -> Result<Response<BoxStream<HelloReply>>, Status> {
        self.0.lock().push(request.into_inner());
        Ok(Response::new(Box::pin(futures_util::stream::repeat_with(|| Ok(HelloReply::default())))))
    }
}

#[tokio::test]
async fn s11_a_denied_stream_whose_handler_keeps_its_request_is_reset() {
    let control_plane = ControlPlane::new();
    let mesh = quick().control_plane(&control_plane).build().await.unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listens = |address, filter: &Rbac| control_plane.put(server_listener(address).chains([with(filter)]));
    listens(socket.local_addr().unwrap(), &allow([any()]));
    let hoarder = Hoarder::default();
    let kept = hoarder.0.clone();
    let services = |server: MeshServer| server.add_service(GreeterServer::new(hoarder));
    let server = Served::start_at(socket, &mesh, ending(), services).await;
    server.wait_for("a server that serves", |status| status.mode == ServingMode::Serving).await;
    let mut client = over_http2(server.address(), 0).await;
    let (mut replies, _say) = chat_over(&mut client, true).await;
    listens(server.address(), &deny([any()]));
    assert_eq!(its_error(&mut replies).await.reason(), Some(h2::Reason::CANCEL));
    server.wait_for("no call", |status| status.in_flight == 0).await;
    assert_eq!(kept.lock().len(), 1);
}

#[tokio::test]
async fn s11_streams_that_no_chain_or_route_has_a_place_for_end() {
    let of_plain = || route().header("x-plain", "yes").non_forwarding();
    let it = Setting::start(with(&allow([any()])), ending()).await;
    let mut plain = Chat::open_by(&it.client, &[("x-plain", "yes")]).await;
    let mut other = Chat::open(&it, false).await;
    it.changes_to(with(&allow([any()])).inline(route_config("r").routes([of_plain()]))).await;
    assert_eq!(other.end().await.code(), Code::PermissionDenied);
    let why = it.server.status().last_refused_call.expect("one was");
    assert!(why.contains("no route leads to the call any more") && why.contains("matches path"), "{why}");
    plain.goes_on().await;
    let elsewhere = CidrRange { address_prefix: "192.0.2.0".into(), prefix_len: Some(24) };
    let nowhere = |chain: &mut FilterChain| {
        chain.filter_chain_match.get_or_insert_default().source_prefix_ranges = vec![elsewhere];
    };
    it.changes_to(with(&allow([any()])).modify(nowhere)).await;
    assert_eq!(plain.end().await.code(), Code::PermissionDenied);
    let why = it.server.status().last_refused_call.expect("one was");
    assert!(why.contains("the listener has no filter chain for the connection from 127.0.0.1"), "{why}");
}

/// One thread serves them all: what it does for those that are open, new calls would wait for.
#[tokio::test]
async fn s11_new_calls_do_not_wait_until_all_that_are_open_are_judged() {
    const OPEN: u64 = 600;
    let it = Setting::start(with(&allow([any()])), ending()).await;
    let mut chats = Vec::new();
    for _ in 0..OPEN {
        chats.push(Chat::open(&it, true).await);
    }
    let refused = in_time("a refusal", async {
        while it.client.hello_with(metadata(&[("x-evil", "yes")])).await.is_ok() {}
        it.server.status().refused_calls
    });
    let (ended_before, ()) = futures_util::join!(refused, it.changes_to(no_evil()));
    assert!(ended_before < OPEN / 2, "{ended_before} of {OPEN} were judged first");
    for chat in &mut chats {
        assert_eq!(chat.end().await.code(), Code::PermissionDenied);
    }
    assert_eq!(it.server.status().refused_calls, OPEN + 1, "each is ended once");
}

/// A shutdown in the midst of that leaves nobody behind who is not allowed any more.
#[tokio::test]
async fn s11_calls_that_are_yet_to_be_judged_when_the_server_shuts_down_are_judged_too() {
    const OPEN: u64 = 200;
    let mut it = Setting::start(with(&allow([any()])), ending()).await;
    let mut good = Chat::open(&it, false).await;
    let mut chats = Vec::new();
    for _ in 0..OPEN {
        chats.push(Chat::open(&it, true).await);
    }
    it.control_plane.put(server_listener(it.server.address()).chains([no_evil()]));
    until("the first that are denied", || it.server.status().refused_calls > 0).await;
    it.server.stop();
    let ended_before = it.server.status().refused_calls;
    assert!(ended_before < OPEN / 2, "{ended_before} of {OPEN} were judged before");
    for chat in &mut chats {
        assert_eq!(chat.end().await.code(), Code::PermissionDenied);
    }
    good.goes_on().await;
    assert_eq!(it.server.status().refused_calls, OPEN, "each is ended once");
    drop(good);
    assert_eq!(it.server.ended().await.cut_calls, 0);
}

#[tokio::test]
async fn s11_streams_that_are_open_go_on_by_default() {
    let it = Setting::start(with(&allow([any()])), ServerOptions::new()).await;
    let mut chat = Chat::open(&it, false).await;
    it.changes_to(with(&deny([any()]))).await;
    it.answers(Err(Code::PermissionDenied)).await.unwrap_err();
    chat.goes_on().await;
}

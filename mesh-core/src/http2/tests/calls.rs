//! One call: what goes over the wire, in which order, and what ends it.

use super::raw::{
    DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS, OK, Peer, RST_STREAM,
    WINDOW_UPDATE,
};
use super::*;
use crate::http2::SendErrorKind;
use crate::http2::error::Code;

#[tokio::test]
async fn unary_call_comes_back_with_body_and_trailers() {
    let connection = connected(|request, mut respond| async move {
        assert_eq!(request.uri(), "http://greeter/hello");
        assert_eq!(request.headers()["te"], "trailers");
        let mut out = respond.send_response(Response::builder().header("x", "1").body(()).unwrap(), false).unwrap();
        out.send_data("world".into(), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        out.send_trailers(trailers).unwrap();
    })
    .await;
    let response = send(&connection, full("hello")).await.unwrap();
    assert_eq!(response.headers()["x"], "1");
    let body = collect(response).await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), "world");
    assert_eq!(connection.in_flight(), 0);
}

#[tokio::test]
async fn a_unary_message_is_one_data_frame_that_ends_the_stream() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let mut call = send(&connection, full("hello"));
    assert!(poll_once(&mut call).await.is_pending());
    let head = peer.expect(&[HEADERS]).await;
    assert_eq!((head.flags, head.stream), (END_HEADERS, 1));
    let body = peer.expect(&[DATA, HEADERS, RST_STREAM]).await;
    assert_eq!((body.kind, body.flags, &body.payload[..]), (DATA, END_STREAM, &b"hello"[..]));
    peer.answer(1).await;
    assert_eq!(call.await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_request_without_a_body_ends_with_its_head() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let mut call = send(&connection, full(""));
    assert!(poll_once(&mut call).await.is_pending());
    assert_eq!(peer.expect(&[HEADERS]).await.flags, END_HEADERS | END_STREAM);
}

#[tokio::test]
async fn both_sides_stream_at_once() {
    let connection = connected(echo).await;
    let (feed, body) = fed();
    let mut response = send(&connection, request(body)).await.unwrap().into_body();
    for word in ["one", "two", "three"] {
        feed.send(data(word)).unwrap();
        let frame = response.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), word);
    }
    feed.send(trailers("x-checksum", "6")).unwrap();
    let last = response.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(last["x-checksum"], "6");
    assert!(response.frame().await.is_none());
    assert!(response.is_end_stream());
}

#[tokio::test]
async fn empty_frames_are_not_sent() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let (feed, body) = fed();
    feed.send(data("")).unwrap();
    let mut call = send(&connection, request(body));
    for word in ["", "one", "", ""] {
        feed.send(data(word)).unwrap();
    }
    assert!(poll_once(&mut call).await.is_pending());
    feed.send(data("")).unwrap();
    drop(feed);
    assert!(poll_once(&mut call).await.is_pending());
    assert_eq!(peer.expect(&[DATA]).await.payload, b"one");
    let last = peer.expect(&[DATA]).await;
    assert_eq!((last.flags, last.payload.len()), (END_STREAM, 0));
}

#[tokio::test]
async fn trailers_follow_a_body_that_is_there_at_once() {
    let connection = connected(echo).await;
    let (feed, body) = fed();
    feed.send(data("one")).unwrap();
    feed.send(trailers("x-checksum", "1")).unwrap();
    let echoed = collect(send(&connection, request(body)).await.unwrap()).await.unwrap();
    assert_eq!(echoed.trailers().unwrap()["x-checksum"], "1");
    assert_eq!(echoed.to_bytes(), "one");
}

#[tokio::test]
async fn a_response_of_a_head_alone_frees_the_slot_when_read() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let mut call = send(&connection, full("hello"));
    assert!(poll_once(&mut call).await.is_pending());
    peer.expect(&[HEADERS]).await;
    peer.answer(1).await;
    let mut body = call.await.unwrap().into_body();
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none());
    assert_eq!(connection.in_flight(), 0);
}

#[tokio::test]
async fn the_request_goes_on_after_the_response_began() {
    let (started, mut start) = mpsc::unbounded_channel();
    let connection = connected(move |request, mut respond| {
        let started = started.clone();
        async move {
            let mut out = respond.send_response(Response::new(()), false).unwrap();
            let mut body = request.into_body();
            let mut length = 0;
            while let Some(Ok(data)) = body.data().await {
                length += data.len();
                body.flow_control().release_capacity(data.len()).unwrap();
                started.send(length).unwrap();
            }
            out.send_data(length.to_string().into(), true).unwrap();
        }
    })
    .await;
    let (feed, body) = fed();
    let response = send(&connection, request(body)).await.unwrap();
    feed.send(data("12345")).unwrap();
    assert_eq!(start.recv().await, Some(5));
    feed.send(data("678")).unwrap();
    drop(feed);
    assert_eq!(collect(response).await.unwrap().to_bytes(), "8");
    settle().await;
    assert_eq!(connection.in_flight(), 0);
}

#[tokio::test]
async fn a_complete_response_stands_though_the_peer_then_refuses_the_rest_of_the_request() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let (feed, body) = fed();
    let mut call = send(&connection, request(body));
    assert!(poll_once(&mut call).await.is_pending());
    peer.expect(&[HEADERS]).await;
    peer.send(HEADERS, END_HEADERS, 1, OK).await;
    peer.send(DATA, END_STREAM, 1, b"early").await;
    peer.reset(1, 0).await;
    let response = call.await.unwrap();
    assert_eq!(collect(response).await.unwrap().to_bytes(), "early");
    settle().await;
    assert!(feed.is_closed(), "nobody wants the rest");
}

/// That the peer is told that the rest of stream 1 will not come, and that none of it does.
async fn assert_given_up(connection: &Connection, peer: &mut Peer) {
    assert_eq!(connection.in_flight(), 0);
    let next = peer.expect(&[DATA, RST_STREAM]).await;
    assert_eq!((next.kind, next.stream, &next.payload[..]), (RST_STREAM, 1, &[0, 0, 0, 8][..]));
    // Room for all that was ever meant to be sent, and a call after which nothing else can come.
    peer.send(WINDOW_UPDATE, 0, 0, &1_000_000_u32.to_be_bytes()).await;
    let mut next = send(connection, full("next"));
    assert!(poll_once(&mut next).await.is_pending());
    let data = peer.expect(&[DATA]).await;
    assert_eq!((data.stream, &data.payload[..]), (3, &b"next"[..]));
    peer.answer(3).await;
    collect(next.await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_comes_before_a_large_request_has_left_ends_the_request_too() {
    let settings = [(INITIAL_WINDOW_SIZE, 1_000), (MAX_CONCURRENT_STREAMS, 1)];
    let (connection, mut peer) = Peer::connect(&settings, Config::default()).await;
    let mut call = send(&connection, full(vec![7; 100_000]));
    assert!(poll_once(&mut call).await.is_pending());
    assert_eq!(peer.expect(&[DATA]).await.payload.len(), 1_000);
    peer.answer(1).await;
    collect(call.await.unwrap()).await.unwrap();
    assert_given_up(&connection, &mut peer).await;
}

#[tokio::test]
async fn an_answer_that_comes_before_a_large_message_of_a_stream_has_left_ends_the_request_too() {
    let settings = [(INITIAL_WINDOW_SIZE, 1_000), (MAX_CONCURRENT_STREAMS, 1)];
    let (connection, mut peer) = Peer::connect(&settings, Config::default()).await;
    let (feed, body) = fed();
    feed.send(data("small")).unwrap();
    let mut call = send(&connection, request(body));
    assert!(poll_once(&mut call).await.is_pending());
    assert_eq!(peer.expect(&[DATA]).await.payload, b"small");
    feed.send(data(vec![7; 100_000])).unwrap();
    feed.send(data(vec![7; 100_000])).unwrap();
    drop(feed);
    assert!(poll_once(&mut call).await.is_pending());
    settle().await;
    assert!(poll_once(&mut call).await.is_pending());
    assert_eq!(peer.expect(&[DATA]).await.payload.len(), 995);
    peer.answer(1).await;
    collect(call.await.unwrap()).await.unwrap();
    assert_given_up(&connection, &mut peer).await;
}

#[tokio::test]
async fn a_large_request_arrives_whole_with_the_end_in_its_last_frame() {
    let (connection, mut peer) = Peer::connect(&[(INITIAL_WINDOW_SIZE, 30_000)], Config::default()).await;
    let body: Vec<u8> = (0..100_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let call = tokio::spawn(send(&connection, full(body.clone())));
    peer.send(WINDOW_UPDATE, 0, 0, &1_000_000_u32.to_be_bytes()).await;
    let mut got = Vec::new();
    loop {
        let frame = peer.expect(&[DATA, RST_STREAM]).await;
        assert_eq!(frame.kind, DATA);
        got.extend_from_slice(&frame.payload);
        if frame.flags & END_STREAM != 0 {
            assert!(!frame.payload.is_empty());
            break;
        }
        let room = u32::try_from(frame.payload.len()).unwrap();
        peer.send(WINDOW_UPDATE, 0, 1, &room.to_be_bytes()).await;
    }
    assert!(got == body);
    peer.answer(1).await;
    collect(call.await.unwrap().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_body_that_fails_before_the_head_is_not_sent_at_all() {
    let (connection, _peer) = Peer::connect(&[], Config::default()).await;
    let (feed, body) = fed();
    feed.send(Err("disk on fire".into())).unwrap();
    let error = send(&connection, request(body)).await.unwrap_err();
    assert_eq!(with_causes(&error), "request body failed: disk on fire");
    assert!(matches!(error.kind, SendErrorKind::RequestBody(_)) && error.replay.is_none());
    assert_eq!(connection.in_flight(), 0);
}

#[tokio::test]
async fn a_body_that_fails_resets_the_stream() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let (feed, body) = fed();
    let mut call = send(&connection, request(body));
    assert!(poll_once(&mut call).await.is_pending());
    feed.send(Err("disk on fire".into())).unwrap();
    let error = call.await.unwrap_err();
    assert_eq!(with_causes(&error), "request body failed: disk on fire");
    assert_eq!(peer.expect(&[RST_STREAM]).await.payload, [0, 0, 0, 8]);
    assert_eq!(connection.in_flight(), 0);
}

#[tokio::test]
async fn a_body_that_fails_late_is_told_to_the_reader() {
    let connection = connected(echo).await;
    let (feed, body) = fed();
    let mut response = send(&connection, request(body)).await.unwrap().into_body();
    feed.send(Err("disk on fire".into())).unwrap();
    let error = response.frame().await.unwrap().unwrap_err();
    assert_eq!(with_causes(&error), "request body failed: disk on fire");
    assert!(response.frame().await.is_none());
    assert_eq!(connection.in_flight(), 0);
}

#[tokio::test]
async fn a_call_that_is_dropped_resets_its_stream_and_frees_its_slot() {
    for settings in [&[][..], &[(MAX_CONCURRENT_STREAMS, 1)]] {
        let (connection, mut peer) = Peer::connect(settings, Config::default()).await;
        let mut call = send(&connection, full("hello"));
        assert!(poll_once(&mut call).await.is_pending());
        peer.expect(&[HEADERS]).await;
        drop(call);
        assert_eq!(connection.in_flight(), 0);
        let reset = peer.expect(&[RST_STREAM]).await;
        assert_eq!((reset.stream, &reset.payload[..]), (1, &[0, 0, 0, 8][..]));
    }
}

#[tokio::test]
async fn a_call_that_was_never_polled_sends_nothing() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    drop(send(&connection, full("hello")));
    assert_eq!(connection.in_flight(), 0);
    let mut call = send(&connection, full("hello"));
    assert!(poll_once(&mut call).await.is_pending());
    assert_eq!(peer.expect(&[HEADERS]).await.stream, 1);
}

#[tokio::test]
async fn a_response_that_is_dropped_resets_its_stream_and_stops_the_request() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let (feed, body) = fed();
    let mut call = send(&connection, request(body));
    assert!(poll_once(&mut call).await.is_pending());
    peer.expect(&[HEADERS]).await;
    peer.send(HEADERS, END_HEADERS, 1, OK).await;
    let response = call.await.unwrap();
    assert_eq!(connection.in_flight(), 1);
    drop(response);
    assert_eq!(connection.in_flight(), 0);
    assert_eq!(peer.expect(&[RST_STREAM]).await.payload, [0, 0, 0, 8]);
    assert!(feed.is_closed());
}

#[tokio::test]
async fn a_reset_is_told_with_its_code() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let mut first = send(&connection, full("hello"));
    let mut second = send(&connection, full("hello"));
    assert!(poll_once(&mut first).await.is_pending());
    assert!(poll_once(&mut second).await.is_pending());
    peer.expect(&[HEADERS]).await;
    peer.reset(1, 11).await;
    let error = first.await.unwrap_err();
    assert!(matches!(error.kind, SendErrorKind::Reset(Code::ENHANCE_YOUR_CALM)) && error.replay.is_none());
    assert_eq!(with_causes(&error), "stream reset by peer: ENHANCE_YOUR_CALM");
    peer.send(HEADERS, END_HEADERS, 3, OK).await;
    peer.send(DATA, 0, 3, b"half").await;
    peer.reset(3, 2).await;
    let mut body = second.await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
    assert_eq!(with_causes(&body.frame().await.unwrap().unwrap_err()), "stream reset by peer: INTERNAL_ERROR");
    assert_eq!(connection.in_flight(), 0);
}

/// Answers with a header and a trailer of as many bytes as the path says.
async fn long_headers(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let lengths: Vec<usize> = request.uri().path().split('/').filter_map(|length| length.parse().ok()).collect();
    let response = Response::builder().header("x-long", "x".repeat(lengths[0])).body(()).unwrap();
    let mut out = respond.send_response(response, false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-long", "x".repeat(lengths[1]).parse().unwrap());
    out.send_trailers(trailers).unwrap();
}

#[tokio::test]
async fn a_header_list_over_the_limit_fails_its_stream_alone() {
    let connection = connected(long_headers).await;
    let get = |path: &str| {
        let request = Request::get(format!("http://greeter{path}")).body(Full::<Bytes>::default()).unwrap();
        send(&connection, Outgoing::from(request))
    };
    let error = get("/20000/1").await.unwrap_err();
    assert!(matches!(error.kind, SendErrorKind::BadResponse(_)));
    assert_eq!(error.to_string(), "invalid response: headers of 20038 bytes exceed the limit of 16384");
    let error = get("/70000/1").await.unwrap_err();
    assert!(error.to_string().starts_with("invalid response: malformed, or its headers exceed 65536"), "{error}");
    let error = collect(get("/1/20000").await.unwrap()).await.unwrap_err();
    assert_eq!(error.to_string(), "invalid response: headers of 20038 bytes exceed the limit of 16384");
    assert_eq!(connection.in_flight(), 0);
    collect(get("/16000/16000").await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_long_header_list_in_few_bytes_is_over_the_limit_too() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let mut call = send(&connection, full("hello"));
    assert!(poll_once(&mut call).await.is_pending());
    peer.expect(&[HEADERS]).await;
    // `:status: 200`, a header that goes into the table, and that entry 200 times more.
    let mut list = vec![0x88, 0x40, 0x03, b'x', b'-', b'a', 100];
    list.extend([b'x'; 100]);
    list.extend([0xbe; 200]);
    peer.send(HEADERS, END_HEADERS, 1, &list).await;
    let error = call.await.unwrap_err();
    assert_eq!(error.to_string(), "invalid response: headers of 27135 bytes exceed the limit of 16384");
}

#[tokio::test]
async fn a_request_that_http2_cannot_carry_is_refused_here() {
    let (connection, _peer) = Peer::connect(&[], Config::default()).await;
    let bad = Request::post("http://greeter/").header("connection", "close").body(Full::new(Bytes::new())).unwrap();
    let error = send(&connection, Outgoing::from(bad)).await.unwrap_err();
    assert!(matches!(error.kind, SendErrorKind::BadRequest(_)) && error.replay.is_none(), "{error}");
    assert_eq!(connection.in_flight(), 0);
}

#[tokio::test]
async fn interim_responses_are_passed_over() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let mut call = send(&connection, full("hello"));
    assert!(poll_once(&mut call).await.is_pending());
    peer.expect(&[HEADERS]).await;
    // `:status: 103`, as a literal with an indexed name.
    peer.send(HEADERS, END_HEADERS, 1, &[0x08, 0x03, b'1', b'0', b'3']).await;
    peer.answer(1).await;
    assert_eq!(call.await.unwrap().status(), 200);
}

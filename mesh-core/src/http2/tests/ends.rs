//! How a connection ends, and what becomes of the calls on it.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::raw::{ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, OK, PING, Peer};
use super::*;
use crate::http2::error::{ConnectionError, ConnectionErrorKind};
use crate::http2::{Keepalive, SendError, SendErrorKind, State, Unavailable, handshake};

async fn lost(connection: &Connection) -> ConnectionError {
    let mut state = connection.state();
    let end = state.wait_for(|state| matches!(state, State::Lost(_))).await.unwrap();
    match &*end {
        State::Lost(why) => why.clone(),
        _ => unreachable!(),
    }
}

async fn started<B>(connection: &Connection, request: Outgoing<B>) -> Send<B>
where
    B: Body<Data = Bytes> + std::marker::Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let mut call = send(connection, request);
    assert!(poll_once(&mut call).await.is_pending());
    settle().await;
    call
}

/// Sends what an error gave back on another connection, and returns what arrives there.
async fn resend<B>(error: SendError<B>) -> Bytes
where
    B: Body<Data = Bytes> + std::marker::Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let other = connected(echo).await;
    let again = *error.replay.expect("the request came back");
    assert_eq!(again.head.headers["te"], "trailers");
    collect(send(&other, again).await.unwrap()).await.unwrap().to_bytes()
}

#[tokio::test]
async fn a_graceful_goaway_lets_streams_finish_and_returns_those_above_it() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let below = started(&connection, full("below")).await;
    let above = started(&connection, full("above")).await;
    let late = connection.try_acquire().unwrap();
    peer.goaway(i32::MAX as u32, 0, b"").await;
    settle().await;
    assert!(matches!(*connection.state().borrow(), State::Draining(Some(_))));
    assert_eq!(connection.try_acquire().unwrap_err(), Unavailable::Draining);
    peer.goaway(1, 0, b"bye").await;
    let error = above.await.unwrap_err();
    assert!(matches!(error.kind, SendErrorKind::Refused(Some(_))));
    assert_eq!(with_causes(&error), "request refused by peer, unprocessed: peer sent GOAWAY NO_ERROR: bye");
    assert_eq!(resend(error).await, "above");
    let error = late.send(full("late")).await.unwrap_err();
    assert!(matches!(error.kind, SendErrorKind::Unsent(_)), "{error}");
    assert_eq!(resend(error).await, "late");
    peer.send(HEADERS, END_HEADERS, 1, OK).await;
    peer.send(DATA, END_STREAM, 1, b"done").await;
    assert_eq!(collect(below.await.unwrap()).await.unwrap().to_bytes(), "done");
    assert_eq!(lost(&connection).await.to_string(), "peer sent GOAWAY NO_ERROR: bye");
    assert_eq!(connection.try_acquire().unwrap_err(), Unavailable::Closed);
}

#[tokio::test]
async fn a_peer_that_complains_of_pings_is_told_apart() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    peer.goaway(0, 11, b"too_many_pings").await;
    drop(peer);
    let why = lost(&connection).await;
    assert!(why.is_too_many_pings());
    assert_eq!(why.to_string(), "peer sent GOAWAY ENHANCE_YOUR_CALM: too_many_pings");
}

#[tokio::test]
async fn a_refused_stream_comes_back_with_all_of_its_request() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let (feed, body) = fed();
    feed.send(data("one ")).unwrap();
    let mut call = started(&connection, request(body)).await;
    feed.send(data("two ")).unwrap();
    assert!(poll_once(&mut call).await.is_pending());
    peer.reset(1, 7).await;
    let error = call.await.unwrap_err();
    assert!(matches!(error.kind, SendErrorKind::Refused(None)));
    feed.send(data("three")).unwrap();
    drop(feed);
    assert_eq!(resend(error).await, "one two three");
}

#[tokio::test]
async fn trailers_come_back_too() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let (feed, body) = fed();
    feed.send(data("one")).unwrap();
    feed.send(trailers("x-checksum", "1")).unwrap();
    let call = started(&connection, request(body)).await;
    peer.reset(1, 7).await;
    let again = *call.await.unwrap_err().replay.unwrap();
    let other = connected(echo).await;
    let echoed = collect(send(&other, again).await.unwrap()).await.unwrap();
    assert_eq!(echoed.trailers().unwrap()["x-checksum"], "1");
    assert_eq!(echoed.to_bytes(), "one");
}

#[tokio::test]
async fn a_refused_request_whose_body_is_too_large_to_hold_is_gone() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let call = started(&connection, full(vec![0; (64 << 10) + 1])).await;
    peer.reset(1, 7).await;
    let error = call.await.unwrap_err();
    assert!(matches!(error.kind, SendErrorKind::Refused(None)) && error.replay.is_none());
}

#[tokio::test]
async fn a_request_may_be_refused_again_and_again() {
    let mut next = full("hello");
    for _ in 0..3 {
        let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
        let call = started(&connection, next).await;
        peer.reset(1, 7).await;
        next = *call.await.unwrap_err().replay.unwrap();
    }
    let echoed = send(&connected(echo).await, next).await.unwrap();
    assert_eq!(collect(echoed).await.unwrap().to_bytes(), "hello");
}

#[tokio::test]
async fn what_a_lost_connection_never_wrote_is_unsent() {
    let (connection, peer) = Peer::connect(&[], Config::default()).await;
    settle().await;
    drop(peer);
    let error = send(&connection, full("hello")).await.unwrap_err();
    assert!(matches!(error.kind, SendErrorKind::Unsent(_)), "{error}");
    assert_eq!(with_causes(&error), "request not sent: connection closed by peer");
    assert_eq!(resend(error).await, "hello");
}

#[tokio::test]
async fn what_it_wrote_may_have_been_acted_on() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let head = started(&connection, full("hello")).await;
    let body = started(&connection, full("hello")).await;
    peer.expect(&[HEADERS]).await;
    peer.send(HEADERS, END_HEADERS, 3, OK).await;
    let mut body = body.await.unwrap().into_body();
    drop(peer);
    let error = head.await.unwrap_err();
    assert!(matches!(error.kind, SendErrorKind::ConnectionLost(_)) && error.replay.is_none());
    assert_eq!(with_causes(&error), "connection lost: connection closed by peer");
    assert_eq!(with_causes(&body.frame().await.unwrap().unwrap_err()), "connection lost: connection closed by peer");
    assert_eq!(connection.in_flight(), 0);
    assert_eq!(lost(&connection).await.kind(), ConnectionErrorKind::Io(std::io::ErrorKind::UnexpectedEof));
    let error = connection.try_acquire().unwrap_err();
    assert_eq!(error, Unavailable::Closed);
}

#[tokio::test]
async fn broken_frames_end_the_connection() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let call = started(&connection, full("hello")).await;
    peer.expect(&[HEADERS]).await;
    peer.0.write_all(&[0xff; 64]).await.unwrap();
    let error = call.await.unwrap_err();
    assert!(matches!(error.kind, SendErrorKind::ConnectionLost(_)));
    assert!(
        with_causes(&error).starts_with("connection lost: peer broke HTTP/2: FRAME_SIZE_ERROR"),
        "{}",
        with_causes(&error)
    );
    assert_eq!(peer.expect(&[GOAWAY]).await.payload[4..8], [0, 0, 0, 6]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_accepts_and_says_nothing_is_no_connection() {
    let (near, _far) = duplex(1 << 20);
    let error = handshake(near, &Config::default(), &Handle::current()).await.unwrap_err();
    assert_eq!(error.kind(), ConnectionErrorKind::HandshakeTimeout);
    assert_eq!(error.to_string(), "no HTTP/2 SETTINGS from the peer within 10s");
}

#[tokio::test]
async fn a_peer_that_speaks_something_else_is_named() {
    let said: [(&[u8], &str); 3] = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "peer speaks HTTP/1, not HTTP/2"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "peer expects TLS"),
        (b"", "connection closed by peer"),
    ];
    for (bytes, words) in said {
        let (near, mut far) = duplex(1 << 20);
        far.write_all(bytes).await.unwrap();
        far.shutdown().await.unwrap();
        let error = handshake(near, &Config::default(), &Handle::current()).await.unwrap_err();
        assert_eq!(error.to_string(), words);
    }
}

#[tokio::test(start_paused = true)]
async fn keepalive_closes_the_connection_to_a_silent_peer() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let call = started(&connection, full("hello")).await;
    let before = Instant::now();
    let error = call.await.unwrap_err();
    assert!(matches!(error.kind, SendErrorKind::ConnectionLost(_)));
    assert_eq!(with_causes(&error), "connection lost: peer silent for 20s after a PING");
    assert_eq!(lost(&connection).await.kind(), ConnectionErrorKind::KeepaliveTimeout);
    assert_eq!(before.elapsed(), Duration::from_secs(21), "20 s after a PING that went out a second after the request");
    peer.expect(&[PING]).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_owes_the_answer_to_a_ping_is_in_doubt_until_it_is_heard() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let call = started(&connection, full("hello")).await;
    let mut doubt = connection.doubt();
    let before = Instant::now();
    let ping = peer.expect(&[PING]).await;
    assert!(doubt.wait_for(|in_doubt| *in_doubt).await.is_ok());
    assert_eq!(before.elapsed(), Duration::from_secs(2), "a second to the PING, a second after it");
    assert!(connection.try_acquire().is_ok(), "whether it gets calls is its owner's choice");
    peer.send(PING, ACK, 0, &ping.payload).await;
    assert!(doubt.wait_for(|in_doubt| !in_doubt).await.is_ok());
    peer.answer(1).await;
    drop(call.await.unwrap());
    assert!(matches!(*connection.state().borrow(), State::Ready));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_is_pinged_twice_and_then_left_alone_for_minutes() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let mut call = started(&connection, full("hello")).await;
    for _ in 0..2 {
        let ping = peer.expect(&[PING]).await;
        assert_eq!(ping.flags, 0);
        peer.send(PING, ACK, 0, &ping.payload).await;
    }
    assert!(tokio::time::timeout(Duration::from_secs(300), peer.next()).await.is_err(), "a third PING");
    peer.send(HEADERS, END_HEADERS, 1, OK).await;
    let _response = poll_fn(|cx| Pin::new(&mut call).poll(cx)).await.unwrap();
    peer.expect(&[PING]).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_hangs_is_found_though_no_call_waits_for_long() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let doubt = connection.doubt();
    let begun = Instant::now();
    while !*doubt.borrow() {
        assert!(begun.elapsed() < Duration::from_secs(10), "never in doubt");
        let call = started(&connection, full("hello")).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(call);
        tokio::time::sleep(Duration::from_millis(950)).await;
    }
    peer.expect(&[PING]).await;
}

/// Answers each PING, and counts them until there is none for five minutes.
async fn answer_pings(peer: &mut Peer) -> u32 {
    let mut pings = 0;
    while let Ok(Some(frame)) = tokio::time::timeout(Duration::from_secs(300), peer.next()).await {
        if frame.kind == PING && frame.flags == 0 {
            pings += 1;
            peer.send(PING, ACK, 0, &frame.payload).await;
        }
    }
    pings
}

#[tokio::test(start_paused = true)]
async fn the_windows_ping_is_not_one_too_many_after_one_that_crossed_a_response() {
    let config = Config { stream_window: 64 << 10, ..Config::default() };
    let (connection, mut peer) = Peer::connect(&[], config).await;
    let mut first = started(&connection, full("hello")).await;
    let ping = peer.expect(&[PING]).await;
    peer.send(HEADERS, END_HEADERS, 1, OK).await;
    for _ in 0..4 {
        peer.send(DATA, 0, 1, &[0; 16 << 10]).await;
    }
    let _response = poll_fn(|cx| Pin::new(&mut first).poll(cx)).await.unwrap();
    // The peer sent data before it saw the PING: from here on it counts.
    peer.send(PING, ACK, 0, &ping.payload).await;
    settle().await;
    let _second = started(&connection, full("hello")).await;
    assert_eq!(answer_pings(&mut peer).await, 2);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_not_pinged() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let call = started(&connection, full("hello")).await;
    peer.expect(&[DATA]).await;
    peer.answer(1).await;
    drop(call.await.unwrap());
    assert!(tokio::time::timeout(Duration::from_secs(3600), peer.seek(&[PING])).await.is_err());
    assert!(matches!(*connection.state().borrow(), State::Ready));
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_stream_is_pinged_for_ever() {
    let interval = Duration::from_secs(300);
    let config = Config { keepalive: Some(Keepalive::always(interval)), ..Config::default() };
    let (_connection, mut peer) = Peer::connect(&[], config).await;
    let before = Instant::now();
    for _ in 0..10 {
        let ping = peer.expect_within(2 * interval, &[PING]).await;
        peer.send(PING, ACK, 0, &ping.payload).await;
    }
    assert_eq!(before.elapsed().as_secs(), 3000);
}

#[tokio::test]
async fn a_drained_connection_closes_after_its_last_call() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let call = started(&connection, full("hello")).await;
    let late = connection.try_acquire().unwrap();
    connection.drain();
    assert!(matches!(*connection.state().borrow(), State::Draining(None)));
    assert_eq!(connection.try_acquire().unwrap_err(), Unavailable::Draining);
    let error = late.send(full("late")).await.unwrap_err();
    assert_eq!(with_causes(&error), "request not sent: connection is draining");
    assert_eq!(resend(error).await, "late");
    settle().await;
    assert!(matches!(*connection.state().borrow(), State::Draining(None)));
    peer.answer(1).await;
    drop(call.await.unwrap());
    assert_eq!(lost(&connection).await.kind(), ConnectionErrorKind::Closed);
    assert_eq!(peer.expect(&[GOAWAY]).await.payload[4..8], [0; 4]);
}

#[tokio::test]
async fn an_idle_connection_drains_at_once() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    connection.drain();
    assert_eq!(lost(&connection).await.to_string(), "connection closed");
    peer.expect(&[GOAWAY]).await;
}

#[tokio::test]
async fn a_connection_that_is_closed_fails_its_calls_with_the_reason() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let call = started(&connection, full("hello")).await;
    peer.expect(&[HEADERS]).await;
    connection.close("certificate revoked");
    let error = call.await.unwrap_err();
    assert_eq!(with_causes(&error), "connection lost: certificate revoked");
    assert_eq!(lost(&connection).await.to_string(), "certificate revoked");
}

#[tokio::test]
async fn a_connection_without_calls_is_closed_with_a_goaway() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    connection.close("the mesh was shut down");
    assert!(connection.try_acquire().is_err());
    assert_eq!(lost(&connection).await.to_string(), "the mesh was shut down");
    peer.expect(&[GOAWAY]).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_holds_up_the_end_of_a_connection_for_its_grace() {
    let config = Config::default();
    let (near, far) = tokio::io::duplex(1 << 10);
    let mut peer = Peer(far);
    peer.settings(&[]).await;
    let connection = handshake(near, &config, &Handle::current()).await.unwrap();
    for _ in 0..100 {
        // Each is to be answered.
        peer.send(PING, 0, 0, &[0; 8]).await;
    }
    settle().await;
    let start = Instant::now();
    connection.close("the mesh was shut down");
    config.tasks.close();
    config.tasks.wait().await;
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_millis(1_010), "{took:?}");
}

#[tokio::test]
async fn the_last_handle_closes_the_connection_when_the_last_call_is_done() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let mut state = connection.state();
    let call = started(&connection, full("hello")).await;
    drop(connection);
    settle().await;
    assert!(matches!(*state.borrow_and_update(), State::Ready));
    peer.expect(&[DATA]).await;
    peer.answer(1).await;
    drop(call.await.unwrap());
    peer.expect(&[GOAWAY]).await;
    assert!(state.wait_for(|state| matches!(state, State::Lost(_))).await.is_ok());
}

#[test]
fn a_runtime_that_ends_takes_the_connection_with_it() {
    let elsewhere = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let here = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let connection = here.block_on(async {
        let (near, far) = duplex(1 << 20);
        tokio::spawn(serve(server::Builder::new(), far, echo));
        handshake(near, &Config::default(), elsewhere.handle()).await.unwrap()
    });
    drop(elsewhere);
    assert_eq!(connection.try_acquire().unwrap_err(), Unavailable::Closed);
}

//! Slots, and what a peer cannot make us do.

use super::raw::{DATA, END_HEADERS, HEADERS, MAX_CONCURRENT_STREAMS, OK, PING, Peer, SETTINGS};
use super::*;
use crate::http2::{State, Unavailable};

#[tokio::test]
async fn there_are_as_many_slots_as_the_peer_allows() {
    let (connection, mut peer) = Peer::connect(&[(MAX_CONCURRENT_STREAMS, 1)], Config::default()).await;
    let mut call = send(&connection, full("hello"));
    assert!(poll_once(&mut call).await.is_pending());
    assert_eq!(connection.try_acquire().unwrap_err(), Unavailable::Full);
    peer.expect(&[HEADERS]).await;
    peer.answer(1).await;
    drop(call.await.unwrap());
    let slot = connection.try_acquire().unwrap();
    assert_eq!(connection.try_acquire().unwrap_err(), Unavailable::Full);
    drop(slot);
    connection.try_acquire().unwrap();
}

#[tokio::test]
async fn slots_follow_the_peers_settings() {
    let (connection, mut peer) = Peer::connect(&[(MAX_CONCURRENT_STREAMS, 3)], Config::default()).await;
    let slots: Vec<_> = (0..3).map(|_| connection.try_acquire().unwrap()).collect();
    peer.settings(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
    settle().await;
    assert_eq!((connection.limit(), connection.in_flight()), (1, 3));
    drop(slots);
    let _one = connection.try_acquire().unwrap();
    assert_eq!(connection.try_acquire().unwrap_err(), Unavailable::Full);
    peer.settings(&[(MAX_CONCURRENT_STREAMS, 100)]).await;
    settle().await;
    connection.try_acquire().unwrap();
}

#[tokio::test]
async fn a_peer_that_sets_no_limit_gives_slots_without_end() {
    let (connection, _peer) = Peer::connect(&[], Config::default()).await;
    assert!(connection.limit() > 1_000_000);
}

/// `h2` takes no second request from a handle whose first has not left while the peer's limit is near.
#[tokio::test]
async fn calls_at_the_limit_are_taken_though_none_has_left() {
    let (connection, mut peer) = Peer::connect(&[(MAX_CONCURRENT_STREAMS, 2)], Config::default()).await;
    let mut calls = [send(&connection, full("a")), send(&connection, full("b"))];
    for call in &mut calls {
        assert!(poll_once(call).await.is_pending());
    }
    // Cancelled, but for the peer still open: the next call takes the slot, and waits inside `h2` for a moment.
    let [first, second] = calls;
    drop(second);
    let mut third = send(&connection, full("c"));
    assert!(poll_once(&mut third).await.is_pending());
    peer.expect(&[HEADERS]).await;
    settle().await;
    peer.answer(1).await;
    peer.answer(5).await;
    first.await.unwrap();
    third.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_callers_at_a_tight_limit_all_get_their_turn() {
    let mut server = server::Builder::new();
    server.max_concurrent_streams(3);
    let connection = connected_to(&server, Config::default(), echo).await;
    let callers: Vec<_> = (0..32).map(|caller| tokio::spawn(calls(connection.clone(), caller))).collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(connection.in_flight(), 0);
}

/// Some calls one after the other, some of them cancelled.
async fn calls(connection: Connection, caller: usize) {
    for round in 0..30 {
        let slot = loop {
            match connection.try_acquire() {
                Ok(slot) => break slot,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let mut call = slot.send(full("hello"));
        match (caller + round) % 5 {
            0 => drop(call),
            1 => drop(poll_once(&mut call).await),
            _ => assert_eq!(collect(call.await.unwrap()).await.unwrap().to_bytes(), "hello"),
        }
    }
}

#[tokio::test]
async fn waves_of_cancelled_calls_do_not_cost_the_connection() {
    let connection = connected(echo).await;
    for _ in 0..40 {
        let mut calls: Vec<_> = (0..50).map(|_| send(&connection, full("hello"))).collect();
        for call in &mut calls {
            assert!(poll_once(call).await.is_pending());
        }
        tokio::task::yield_now().await;
        drop(calls);
        settle().await;
    }
    assert_eq!(connection.in_flight(), 0);
    collect(send(&connection, full("hello")).await.unwrap()).await.unwrap();
}

/// Sends the same frame again and again to a call that nobody reads, and returns how the connection ended.
async fn flood(kind: u8, flags: u8, payload: &[u8], times: usize) -> String {
    let config = Config { small_frame_budget: 64 << 10, ..Config::default() };
    let (connection, mut peer) = Peer::connect(&[], config).await;
    let mut call = send(&connection, full("hello"));
    assert!(poll_once(&mut call).await.is_pending());
    peer.expect(&[HEADERS]).await;
    peer.send(HEADERS, END_HEADERS, 1, OK).await;
    let _response = call.await.unwrap();
    for _ in 0..times {
        if peer.try_send(kind, flags, 1, payload).await.is_err() {
            break;
        }
    }
    let mut state = connection.state();
    let end = state.wait_for(|state| matches!(state, State::Lost(_))).await.unwrap();
    format!("{:?}", *end)
}

#[tokio::test]
async fn floods_of_worthless_frames_end_the_connection() {
    assert!(flood(DATA, 0, b"", 200).await.contains("ENHANCE_YOUR_CALM"));
    assert!(flood(DATA, 0, b"x", 300).await.contains("ENHANCE_YOUR_CALM"));
    // CONTINUATION without end.
    assert!(flood(9, 0, b"", 20).await.contains("PROTOCOL_ERROR"));
}

#[tokio::test]
async fn a_flood_that_asks_for_answers_is_held_back_by_its_own_socket() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    for kind in [PING, SETTINGS] {
        let payload: &[u8] = if kind == PING { &[0; 8] } else { &[] };
        let frame = [&[0, 0, u8::try_from(payload.len()).unwrap(), kind, 0, 0, 0, 0, 0], payload].concat();
        let flood = frame.repeat(1_000);
        // Nobody reads the answers: the pipe fills both ways, and the peer cannot write on.
        let writing = async { while tokio::io::AsyncWriteExt::write_all(&mut peer.0, &flood).await.is_ok() {} };
        tokio::select! { biased; () = writing => panic!("connection lost"), () = settle() => {} }
    }
    assert!(matches!(*connection.state().borrow(), State::Ready));
}

#[tokio::test]
async fn a_peer_that_breaks_many_streams_loses_the_connection() {
    let config = Config { max_broken_streams: 3, ..Config::default() };
    let (connection, mut peer) = Peer::connect(&[], config).await;
    let mut state = connection.state();
    for number in 0..5 {
        let Ok(slot) = connection.try_acquire() else { break };
        let mut call = slot.send(full("hello"));
        if poll_once(&mut call).await.is_ready() {
            break;
        }
        peer.expect(&[HEADERS]).await;
        // `:status: 200` and a name in capital letters.
        peer.send(HEADERS, END_HEADERS, 1 + 2 * number, &[0x88, 0x00, 1, b'A', 1, b'x']).await;
        call.await.unwrap_err();
    }
    let lost = state.wait_for(|state| matches!(state, State::Lost(_)));
    let lost = tokio::time::timeout(std::time::Duration::from_secs(5), lost).await;
    assert!(lost.is_ok(), "{connection:?}");
}

//! Connections whose slots are all taken.

use super::*;
use crate::connect::testing::Answer;
use crate::error::ErrorKind;

/// One endpoint with this many slots per connection, whose responses do not end.
fn streaming(mesh: &Mesh, slots: usize) {
    mesh.network.slots(1, slots);
    mesh.network.answer(1, Answer::Streams);
}

#[tokio::test(start_paused = true)]
async fn other_endpoints_take_what_a_full_one_cannot() {
    let mesh = Mesh::new();
    streaming(&mesh, 2);
    let entry = cluster(&[1, 2]);
    mesh.prepare(&entry).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(mesh.call(&entry).await.unwrap());
    }
    assert_eq!(held.iter().filter(|response| endpoint(response) == 1).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_second_connection_is_opened_when_allowed() {
    let mesh = Mesh::with(BalanceOptions::new().max_connections(2));
    streaming(&mesh, 1);
    let entry = cluster(&[1]);
    let first = mesh.call(&entry).await.unwrap();
    let second = mesh.call(&entry).await.unwrap();
    assert_eq!(mesh.network.open(1).len(), 2);
    let third = tokio::spawn(mesh.call(&entry));
    seconds(1.0).await;
    assert!(!third.is_finished());
    assert_eq!(mesh.network.attempts(1), 2, "and no third");
    drop(first);
    third.await.unwrap().unwrap();
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn a_lost_second_connection_is_made_again_on_demand() {
    let mesh = Mesh::with(BalanceOptions::new().max_connections(2));
    streaming(&mesh, 1);
    let entry = cluster(&[1]);
    let _held = [mesh.call(&entry).await.unwrap(), mesh.call(&entry).await.unwrap()];
    mesh.network.cut(1);
    settle().await;
    assert_eq!(mesh.network.attempts(1), 3, "the first alone is replaced at once");
    let _held = [mesh.call(&entry).await.unwrap(), mesh.call(&entry).await.unwrap()];
    assert_eq!(mesh.network.attempts(1), 4);
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_a_slot_first_come_first_served() {
    let mesh = Mesh::new();
    streaming(&mesh, 1);
    let entry = cluster(&[1]);
    let holder = mesh.call(&entry).await.unwrap();
    let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
    for number in 0..5 {
        let (call, order) = (mesh.call(&entry), order.clone());
        tokio::spawn(async move {
            let response = call.await.unwrap();
            order.lock().push(number);
            settle().await;
            drop(response);
        });
        settle().await;
    }
    drop(holder);
    // One that starts a call in the moment in which it ended another queues behind all of them.
    mesh.call(&entry).await.unwrap();
    assert_eq!(*order.lock(), [0, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_slot_ends_and_says_what_was_missing() {
    let mesh = Mesh::new();
    streaming(&mesh, 1);
    let entry = cluster(&[1]);
    let _held = mesh.call(&entry).await.unwrap();
    let error = mesh.call(&entry).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    let expected = "no endpoint after a wait of 20.000 s: all streams to the endpoints of cluster `greeter` are taken";
    assert_eq!(error.to_string(), expected);
    assert!(error.report().contains("or raise `max_connections`"), "{}", error.report());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_polls_does_not_hold_up_the_others() {
    let mesh = Mesh::new();
    streaming(&mesh, 1);
    let entry = cluster(&[1]);
    let holder = mesh.call(&entry).await.unwrap();
    let mut forgotten = Box::pin(mesh.call(&entry));
    assert!(futures_util::poll!(&mut forgotten).is_pending());
    let waiting = tokio::spawn(mesh.call(&entry));
    settle().await;
    drop(holder);
    let before = tokio::time::Instant::now();
    waiting.await.unwrap().unwrap();
    assert!(before.elapsed() <= Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_slots_notice_that_the_endpoint_is_gone() {
    let mesh = Mesh::new();
    streaming(&mesh, 1);
    let entry = cluster(&[1]);
    let _held = mesh.call(&entry).await.unwrap();
    let waiting = tokio::spawn(mesh.call(&entry));
    settle().await;
    mesh.network.reach(1, crate::connect::testing::Reach::Refuses);
    mesh.network.cut(1);
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoEndpoint);
}

#[tokio::test(start_paused = true)]
async fn calls_go_out_at_once_again_when_nobody_waits_any_more() {
    let mesh = Mesh::new();
    streaming(&mesh, 1);
    let entry = cluster(&[1]);
    let holder = mesh.call(&entry).await.unwrap();
    let given_up = tokio::spawn(mesh.call(&entry));
    let waiting = tokio::spawn(mesh.call(&entry));
    settle().await;
    given_up.abort();
    drop(holder);
    drop(waiting.await.unwrap().unwrap());
    let before = tokio::time::Instant::now();
    drop(mesh.call(&entry).await.unwrap());
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_allows_more_calls_lets_in_all_who_wait_when_the_first_notices() {
    let mesh = Mesh::new();
    streaming(&mesh, 1);
    let entry = cluster(&[1]);
    let _holder = mesh.call(&entry).await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(tokio::spawn(mesh.call(&entry)));
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    // As SETTINGS do, of which nobody is told.
    mesh.network.allow(1, 100);
    let first = waiting.remove(0).await.unwrap().unwrap();
    let before = tokio::time::Instant::now();
    let others = futures_util::future::join_all(waiting).await;
    assert_eq!(before.elapsed(), Duration::ZERO);
    drop((first, others));
}

#[tokio::test(start_paused = true)]
async fn a_second_connection_that_cannot_be_made_is_not_tried_at_every_look_of_who_waits() {
    let mesh = Mesh::with(BalanceOptions::new().max_connections(2));
    streaming(&mesh, 1);
    let entry = cluster(&[1]);
    let _held = mesh.call(&entry).await.unwrap();
    mesh.network.reach(1, crate::connect::testing::Reach::Refuses);
    let waiting = tokio::spawn(mesh.call(&entry));
    seconds(3.0).await;
    assert!(!waiting.is_finished());
    let attempts = mesh.network.attempts(1) - 1;
    assert!((1..=6).contains(&attempts), "{attempts} attempts in 3 s");
}

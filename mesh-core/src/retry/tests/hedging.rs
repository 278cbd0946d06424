//! Attempts beside each other.

use std::pin::pin;

use http_body::Body;
use tokio::sync::mpsc;

use super::*;
use crate::resource::retry_policy::Hedge;
use crate::retry::body::Shared;
use crate::retry::following::{Following, Verdict};

/// Attempts that start 100 ms after each other, or as soon as one fails.
fn hedged(retry_on: &str, attempts: u32) -> RetryPolicy {
    policy(retry_on, attempts).hedge(STEP)
}

fn after(steps: u32, answer: Answer) -> Answer {
    Answer::After(steps * STEP, Box::new(answer))
}

/// When the attempts started, in steps.
fn starts(bench: &Bench) -> Vec<u128> {
    bench.seen.lock().iter().map(|seen| (seen.at.as_millis() + 1) / STEP.as_millis()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_first_success_is_the_calls_and_comes_from_elsewhere() {
    let bench = Bench::new(hedged("unavailable", 3)).answers([Answer::Never, Answer::Well, Answer::Well]);
    let response = bench.run().await.expect("the second attempt's answer");
    assert!(!response.headers().contains_key("unavailable"));
    assert_eq!(starts(&bench), [0, 1]);
    let seen = bench.seen.lock();
    let told: Vec<_> =
        seen.iter().map(|seen| (seen.attempt, seen.avoid, seen.headers.contains_key("previous"))).collect();
    assert_eq!(told, [(1, 0, false), (2, 1, true)]);
}

#[tokio::test(start_paused = true)]
async fn one_attempt_is_enough_when_it_is_answered_in_time() {
    let bench = Bench::new(hedged("unavailable", 5));
    bench.run().await.expect("an answer");
    assert_eq!(bench.attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn attempts_start_one_after_the_other_as_many_as_the_policy_says() {
    let bench = Bench::new(hedged("unavailable", 4)).answers((0..4).map(|_| after(10, Answer::Well)));
    bench.run().await.expect("the first attempt's answer");
    assert_eq!(starts(&bench), [0, 1, 2, 3]);
    assert_eq!(bench.begin.elapsed().as_millis() / STEP.as_millis(), 10, "the others do not delay it");
}

#[tokio::test(start_paused = true)]
async fn a_failure_starts_the_next_attempt_at_once_and_the_last_one_is_told() {
    let bench = Bench::new(hedged("unavailable", 3)).answers((0..3).map(|_| fails()));
    let response = bench.run().await.expect("the last failure");
    assert!(response.headers().contains_key("unavailable"));
    assert_eq!(starts(&bench), [0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn an_xds_policy_waits_the_backoff_after_a_failure() {
    let hedge = Some(Hedge { delay: 10 * STEP, at_once: false });
    let bench = Bench::new(RetryPolicy { hedge, ..policy("unavailable", 2) }).answers([fails()]);
    bench.run().await.expect("the second attempt's answer");
    assert_about(bench.gaps()[0], STEP);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_the_policy_does_not_name_ends_all() {
    let bench = Bench::new(hedged("unavailable", 5)).answers([Answer::Never, Answer::Status(418)]);
    let response = bench.run().await.expect("the second attempt's answer");
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(bench.attempts(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_not_told_while_another_attempt_may_succeed() {
    let bench = Bench::new(hedged("unavailable", 2)).answers([after(5, Answer::Well), fails()]);
    let response = bench.run().await.expect("the first attempt's answer");
    assert!(!response.headers().contains_key("unavailable"));
    assert_eq!(bench.begin.elapsed().as_millis() / STEP.as_millis(), 5);
}

#[tokio::test(start_paused = true)]
async fn pushback_stops_hedges_or_delays_them_and_ends_none_that_runs() {
    let stop = Answer::Fails("pushback", "-1");
    let bench = Bench::new(hedged("unavailable", 5)).answers([after(4, Answer::Well), stop]);
    bench.run().await.expect("the first attempt's answer");
    assert_eq!(starts(&bench), [0, 1]);

    // Nor does another attempt's failure start them again.
    let stop = Answer::Fails("pushback", "-1");
    let bench = Bench::new(hedged("unavailable", 5)).answers([after(4, fails()), stop]);
    bench.run().await.expect("the first attempt's failure");
    assert_eq!(starts(&bench), [0, 1]);

    let later = Answer::Fails("pushback", "500");
    let bench = Bench::new(hedged("unavailable", 3)).answers([Answer::Never, later, Answer::Well]);
    bench.run().await.expect("the third attempt's answer");
    assert_eq!(starts(&bench), [0, 1, 6]);
}

#[tokio::test(start_paused = true)]
async fn hedges_are_held_to_the_budget() {
    let layer = RetryLayer::new().budget(50, 0).protocol(&Plain);
    let bench = Bench::new(hedged("unavailable", 5)).layer(layer);
    for _ in 0..10 {
        bench.answers.lock().extend([after(10, Answer::Well), after(10, Answer::Well)]);
        bench.run().await.expect("the first attempt's answer");
        bench.answers.lock().clear();
    }
    assert_eq!(bench.attempts(), 10 + 5);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_hedges_as_it_does_retries() {
    let bench = Bench::new(hedged("unavailable", 5)).answers([fails(), fails(), fails()]);
    let mut request = Request::new(Full::new(Bytes::new()));
    request.extensions_mut().insert(bench.call(Some(Duration::ZERO)));
    bench.send(request).await.expect("the first failure");
    assert_eq!(bench.attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn attempts_that_run_beside_each_other_all_send_the_whole_request() {
    let bench = Bench::new(hedged("unavailable", 2)).answers([Answer::Never, Answer::Well]);
    let (sender, mut receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        for size in 1..=4 {
            sender.send(Bytes::from(vec![7; size])).await.expect("a reader");
            tokio::time::sleep(STEP / 2).await;
        }
    });
    let frames = futures_util::stream::poll_fn(move |cx| {
        receiver.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data))))
    });
    let mut request = Request::new(StreamBody::new(frames));
    request.extensions_mut().insert(bench.call(None));
    bench.send(request).await.expect("the second attempt's answer");
    let seen = bench.seen.lock();
    let sizes: Vec<Vec<usize>> = seen.iter().map(|seen| seen.body.iter().map(Bytes::len).collect()).collect();
    assert_eq!(sizes, [[1, 2, 3, 4], [1, 2, 3, 4]]);
}

#[tokio::test]
async fn a_reader_goes_on_when_the_one_that_the_body_knows_is_dropped() {
    let (sender, mut receiver) = mpsc::channel(1);
    let frames = futures_util::stream::poll_fn(move |cx| {
        receiver.poll_recv(cx).map(|data| data.map(|data: Bytes| Ok::<_, Infallible>(Frame::data(data))))
    });
    let budgets = Bench::new(hedged("unavailable", 2)).budgets();
    let policy = Arc::new(hedged("unavailable", 2));
    let verdict = Verdict { policy, protocol: None, is_repeatable: true };
    let shared = Shared::new(StreamBody::new(frames), true, budgets.clone(), Following::new(verdict, None, false));
    let (mut first, mut second) = (shared.again(), shared.again());
    let waiting = tokio::spawn(async move { first.frame().await.map(|frame| frame.expect("infallible").into_data()) });
    tokio::task::yield_now().await;
    // Now it is this one that the body would wake.
    let polled = futures_util::future::poll_fn(|cx| std::task::Poll::Ready(pin!(&mut second).poll_frame(cx))).await;
    assert!(polled.is_pending());
    drop(second);
    tokio::task::yield_now().await;
    sender.send(Bytes::from_static(b"data")).await.expect("a reader");
    let data = tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("it is woken").expect("no panic");
    assert_eq!(data.and_then(Result::ok), Some(Bytes::from_static(b"data")));
    drop(shared);
    assert_eq!(budgets.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_is_not_admitted_takes_nothing_from_the_call() {
    let refused = || errs(ErrorKind::Overloaded, false);
    let bench = Bench::new(hedged("unavailable", 2)).answers([after(5, Answer::Well), refused()]);
    bench.run().await.expect("the first attempt's answer");
    let bench = Bench::new(hedged("unavailable", 2)).answers([after(5, fails()), refused()]);
    let response = bench.run().await.expect("the first attempt's failure");
    assert!(response.headers().contains_key("unavailable"));
    let bench = Bench::new(hedged("unavailable", 2)).answers([refused()]);
    assert_eq!(bench.run().await.expect_err("it is the only one").kind(), ErrorKind::Overloaded);
}

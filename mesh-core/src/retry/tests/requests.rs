//! Which requests are made again, and when a server's headers say so.

use std::sync::Arc;

use super::*;
use crate::resource::retry_policy::{RateLimitedBackoff, ResetFormat};

#[tokio::test(start_paused = true)]
async fn plain_http_is_repeated_by_its_method_unless_the_application_or_the_failure_says_it_may() {
    let failed = || Answer::Status(503);
    let unsent = || errs(ErrorKind::Connection, false);
    let lost = || errs(ErrorKind::Connection, true);
    for (method, answer, idempotent, attempts) in [
        (Method::GET, failed(), false, 2),
        (Method::PUT, failed(), false, 2),
        (Method::DELETE, lost(), false, 2),
        (Method::POST, failed(), false, 1),
        (Method::POST, lost(), false, 1),
        (Method::POST, unsent(), false, 2),
        (Method::POST, failed(), true, 2),
        (Method::PATCH, lost(), false, 1),
        (Method::PATCH, lost(), true, 2),
    ] {
        let bench = Bench::new(policy("5xx,connect-failure", 2)).layer(RetryLayer::new()).answers([answer]);
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.method_mut() = method.clone();
        request.extensions_mut().insert(bench.call(None));
        request.extensions_mut().insert(CallOptions::new().idempotent(idempotent));
        let _ = bench.send(request).await;
        assert_eq!(bench.attempts(), attempts, "{method}, idempotent: {idempotent}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_must_not_be_acted_on_twice_is_not_hedged() {
    for (method, attempts) in [(Method::POST, 1), (Method::GET, 2)] {
        let hedged = policy("5xx", 2).hedge(STEP);
        let slow = Answer::After(5 * STEP, Box::new(Answer::Well));
        let bench = Bench::new(hedged).layer(RetryLayer::new()).answers([slow]);
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.method_mut() = method.clone();
        request.extensions_mut().insert(bench.call(None));
        bench.send(request).await.expect("an answer");
        assert_eq!(bench.attempts(), attempts, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_layers_policy_is_that_of_calls_without_a_route_and_has_a_budget() {
    let own = policy("5xx", 2);
    let layer = RetryLayer::new().policy(own.clone()).budget(50, 0);
    let bench = Bench::new(policy("unavailable", 2)).layer(layer);
    for _ in 0..10 {
        bench.answers.lock().extend([Answer::Status(500), Answer::Status(500)]);
        bench.send(Request::new(Full::new(Bytes::new()))).await.expect("a response");
        bench.answers.lock().clear();
    }
    assert_eq!(bench.attempts(), 15);
    // The route's own goes before.
    bench.answers.lock().push_back(Answer::Status(500));
    bench.run().await.expect("a response");
    assert_eq!(bench.attempts(), 16);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_fit_into_the_buffer_of_all_is_sent_once() {
    for (buffer, attempts) in [(4, 1), (5, 2)] {
        let layer = RetryLayer::new().protocol(&Plain).buffer_size(buffer);
        let bench = Bench::new(policy("unavailable", 2)).layer(layer).answers([fails()]);
        bench.run().await.expect("a response");
        assert_eq!(bench.attempts(), attempts, "{buffer} bytes");
        assert_eq!(bench.budgets().held(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn only_requests_with_one_of_the_policys_headers_are_repeated() {
    let header = |name| HeaderMatch::new(name, Condition::Present(true)).expect("a header's name");
    for (name, attempts) in [("a", 2), ("b", 2), ("c", 1)] {
        let choosy = RetryPolicy { request_headers: [header("a"), header("b")].into(), ..policy("unavailable", 2) };
        let bench = Bench::new(choosy).answers([fails()]);
        let mut request = Request::new(Full::new(Bytes::new()));
        request.headers_mut().insert(name, HeaderValue::from_static(""));
        request.extensions_mut().insert(bench.call(None));
        bench.send(request).await.expect("a response");
        assert_eq!(bench.attempts(), attempts, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_limits_rates_is_asked_again_when_it_says() {
    let headers = vec![(HeaderName::from_static("retry-after"), ResetFormat::Seconds)];
    let limited = Arc::new(RateLimitedBackoff { headers, max: Duration::from_secs(300) });
    for (value, least, most) in [("2", 20, 30), ("0", 0, 0), ("301", 0, 2), ("soon", 0, 2)] {
        let policy = RetryPolicy { rate_limited: Some(limited.clone()), ..policy("unavailable", 2) };
        let bench = Bench::new(policy).answers([Answer::Fails("retry-after", value)]);
        bench.run().await.expect("the second attempt's answer");
        let gap = bench.gaps()[0];
        assert!(gap >= least * STEP && gap <= most * STEP + Duration::from_millis(1), "{value}: {gap:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn retries_under_way_are_a_share_of_the_calls_under_way() {
    let bench = Bench::new(policy("unavailable", 2)).layer(RetryLayer::new().budget(100, 1_000));
    // Half of the calls, but two in any case.
    let most = |calls: u32| (calls / 2).max(2);
    let mut accounts: Vec<_> = (0..6).map(|_| bench.account()).collect();
    let allowed: Vec<_> = accounts.iter_mut().map(|account| account.withdraw(most)).collect();
    assert_eq!(allowed, [true, true, true, false, false, false]);
    accounts[0].end_retries();
    assert!(accounts[3].withdraw(most) && !accounts[4].withdraw(most));
    accounts.truncate(1);
    assert!(accounts[0].withdraw(most) && accounts[0].withdraw(most) && !accounts[0].withdraw(most));
}

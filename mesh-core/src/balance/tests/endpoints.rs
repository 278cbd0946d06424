//! Endpoints that die, hang, return, and say goodbye.

use std::collections::HashSet;

use futures_util::FutureExt;
use tokio::sync::Notify;

use super::*;
use crate::connect::ConnectivityState;
use crate::connect::SendErrorKind;
use crate::connect::testing::{Answer, Reach};
use crate::error::ErrorKind;
use crate::snapshot::fixed::ClusterBuilder;

#[tokio::test(start_paused = true)]
async fn calls_go_round_and_say_where_they_went() {
    let mesh = Mesh::new();
    let entry = cluster(&[1, 2, 3]);
    mesh.prepare(&entry).await;
    let numbers = mesh.calls(&entry, 300).await;
    assert_eq!([1, 2, 3].map(|number| count(&numbers, number)), [100; 3]);
    let response = mesh.call(&entry).await.unwrap();
    let info = response.extensions().get::<CallInfo>().unwrap();
    assert_eq!((info.cluster(), info.attempts()), ("greeter", 1));
    assert!(response.extensions().get::<Call>().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_first_call_connects_and_waits() {
    let mesh = Mesh::new();
    let entry = cluster(&[1]);
    assert_eq!(mesh.network.attempts(1), 0);
    assert_eq!(endpoint(&mesh.call(&entry).await.unwrap()), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_gets_no_calls_and_fails_none() {
    for policy in [EndpointPolicy::RoundRobin, EndpointPolicy::LeastRequest { choices: 2 }, EndpointPolicy::Random] {
        let mesh = Mesh::new();
        mesh.network.reach(1, Reach::Refuses);
        mesh.network.reach(2, Reach::Silent);
        let entry = entry(policy, vec![vec![(1, &[1, 2, 3])]]);
        assert_eq!(mesh.calls(&entry, 200).await, [3; 200]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_returns_gets_calls_within_its_backoff() {
    let mesh = Mesh::new();
    let entry = cluster(&[1, 2]);
    mesh.prepare(&entry).await;
    seconds(60.0).await;
    mesh.network.reach(1, Reach::Refuses);
    mesh.network.cut(1);
    settle().await;
    assert_eq!(count(&mesh.calls(&entry, 10).await, 1), 0);
    mesh.network.reach(1, Reach::Accepts);
    seconds(1.3).await;
    assert_eq!(count(&mesh.calls(&entry, 10).await, 1), 5);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_under_the_picker_costs_no_call() {
    let mesh = Mesh::new();
    let entry = cluster(&[1, 2]);
    mesh.prepare(&entry).await;
    // The picker still has it: no task ran in between.
    mesh.network.reach(1, Reach::Refuses);
    mesh.network.cut(1);
    let (first, second) = (mesh.call(&entry), mesh.call(&entry));
    assert_eq!([endpoint(&first.await.unwrap()), endpoint(&second.await.unwrap())], [2, 2]);
}

#[tokio::test(start_paused = true)]
async fn all_dead_fails_at_once_and_names_the_endpoints() {
    let mesh = Mesh::new();
    (1..=4).for_each(|number| mesh.network.reach(number, Reach::Refuses));
    let entry = cluster(&[1, 2, 3, 4]);
    let error = mesh.call(&entry).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoEndpoint);
    assert!(!error.request_sent());
    assert_eq!(error.cluster(), Some("greeter"));
    let before = tokio::time::Instant::now();
    let text = mesh.call(&entry).await.unwrap_err().to_string();
    assert_eq!(before.elapsed(), Duration::ZERO);
    let start = "cluster `greeter` has no ready endpoint: 4 in backoff (10.0.0.1:1: connection refused, next try in ";
    assert!(text.starts_with(start), "{text}");
    assert!(text.ends_with(" s; …)"), "{text}");
    assert!(text.contains("10.0.0.1:3") && !text.contains("10.0.0.1:4"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn hope_ends_when_the_endpoints_had_their_time() {
    let mesh = Mesh::with(BalanceOptions::new().connect_timeout(Duration::from_secs(3)));
    mesh.network.reach(1, Reach::Silent);
    let entry = cluster(&[1]);
    let before = tokio::time::Instant::now();
    let error = mesh.call(&entry).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoEndpoint);
    assert_eq!(before.elapsed().as_secs(), 3);
    assert!(error.to_string().contains("10.0.0.1:1: no connection within 3s, next try in "), "{error}");
}

#[tokio::test(start_paused = true)]
async fn hope_ends_with_the_failover_time_even_if_attempts_last_longer() {
    let mesh = Mesh::with(BalanceOptions::new().connect_timeout(Duration::from_secs(60)));
    mesh.network.reach(1, Reach::Silent);
    let entry = cluster(&[1]);
    let before = tokio::time::Instant::now();
    let error = mesh.call(&entry).await.unwrap_err();
    assert_eq!(error.to_string(), "cluster `greeter` has no ready endpoint: 1 connecting (10.0.0.1:1: no answer yet)");
    assert_eq!(before.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn no_endpoints_fails_at_once() {
    let mesh = Mesh::new();
    let expected = "cluster `greeter` has no endpoints";
    let none = Vec::new();
    for priorities in [none, vec![vec![]], vec![vec![(1, &[][..])]]] {
        let entry = entry(EndpointPolicy::RoundRobin, priorities);
        assert_eq!(mesh.call(&entry).await.unwrap_err().to_string(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn unhealthy_endpoints_get_no_calls_and_no_connection() {
    let mesh = Mesh::new();
    let health = |number| [Health::Unknown, Health::Healthy, Health::Unhealthy, Health::Draining][usize::from(number)];
    let entry = entry_with(EndpointPolicy::RoundRobin, vec![vec![(1, &[0, 1, 2, 3])]], health);
    let numbers = mesh.calls(&entry, 10).await;
    assert_eq!([0, 1, 2, 3].map(|number| count(&numbers, number) > 0), [true, true, false, false]);
    assert_eq!([2, 3].map(|number| mesh.network.attempts(number)), [0, 0]);
    let entry = entry_with(EndpointPolicy::RoundRobin, vec![vec![(1, &[2, 3])]], health);
    let text = mesh.call(&entry).await.unwrap_err().to_string();
    assert_eq!(text, "cluster `greeter` has no ready endpoint: 1 unhealthy for the control plane, 1 draining");
}

#[tokio::test(start_paused = true)]
async fn goaway_is_followed_by_a_new_connection_and_calls_in_flight_go_on() {
    let mesh = Mesh::new();
    mesh.network.answer(1, Answer::Streams);
    let entry = cluster(&[1]);
    let stream = mesh.call(&entry).await.unwrap();
    let old = mesh.network.open(1).remove(0);
    mesh.network.goaway(1);
    mesh.network.answer(1, Answer::Responds);
    mesh.call(&entry).await.unwrap();
    assert_eq!(mesh.network.attempts(1), 2);
    assert_eq!(old.in_flight(), 1);
    drop(stream);
    assert_eq!(old.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn wait_for_ready_waits_through_failures() {
    let mesh = Mesh::new();
    mesh.network.reach(1, Reach::Refuses);
    let entry = cluster(&[1]);
    let waiting = tokio::spawn(mesh.call_with(&entry, Call::default(), wait_for_ready()));
    seconds(3.0).await;
    assert!(mesh.call(&entry).await.is_err());
    mesh.network.reach(1, Reach::Accepts);
    assert_eq!(endpoint(&waiting.await.unwrap().unwrap()), 1);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_max_wait_or_at_the_deadline() {
    let mesh = Mesh::new();
    mesh.network.reach(1, Reach::Refuses);
    let entry = cluster(&[1]);
    let before = tokio::time::Instant::now();
    let error = mesh.call_with(&entry, Call::default(), wait_for_ready()).await.unwrap_err();
    assert_eq!((error.kind(), before.elapsed().as_secs()), (ErrorKind::NoEndpoint, 20));
    let call = Call::new(Some(Duration::from_secs(30)));
    let before = tokio::time::Instant::now();
    let error = mesh.call_with(&entry, call, wait_for_ready()).await.unwrap_err();
    assert_eq!((error.kind(), before.elapsed().as_secs()), (ErrorKind::Deadline, 30));
    assert!(error.to_string().contains("10.0.0.1:1: connection refused"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_endpoints_that_say_nothing_names_them_and_what_to_do() {
    let mesh = Mesh::with(BalanceOptions::new().max_wait(Duration::from_secs(1)));
    (1..=5).for_each(|number| mesh.network.reach(number, Reach::Silent));
    mesh.network.reach(5, Reach::Refuses);
    let error = mesh.call(&cluster(&[1, 2, 3, 4, 5])).await.unwrap_err();
    let said = error.report();
    assert!(said.contains("after a wait of 1.000 s: cluster `greeter` has no ready endpoint: 4 connecting"), "{said}");
    assert!(said.contains("(10.0.0.1:5: connection refused, next try in "), "what is known comes first: {said}");
    assert!(said.contains("; 10.0.0.1:1: no answer yet; 10.0.0.1:2: no answer yet; …)"), "{said}");
    assert!(said.contains("; check that the endpoints run and can be reached from here"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn what_a_call_waited_before_counts() {
    let mesh = Mesh::new();
    mesh.network.reach(1, Reach::Silent);
    let mut call = Call::default();
    call.starts_to_wait();
    seconds(15.0).await;
    let before = tokio::time::Instant::now();
    let error = mesh.call_with(&cluster(&[1]), call, wait_for_ready()).await.unwrap_err();
    assert_eq!((error.kind(), before.elapsed().as_secs()), (ErrorKind::NoEndpoint, 5));
    assert!(error.to_string().contains("after a wait of 20.000 s"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn no_more_than_max_pending_calls_wait() {
    let mesh = Mesh::with(BalanceOptions::new().max_pending(2));
    mesh.network.reach(1, Reach::Silent);
    let entry = cluster(&[1]);
    let waiting = [(); 2].map(|()| tokio::spawn(mesh.call(&entry)));
    settle().await;
    let error = mesh.call(&entry).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    let expected = "2 calls already wait for cluster `greeter`: cluster `greeter` has no ready endpoint: 1 connecting \
                    (10.0.0.1:1: no answer yet)";
    assert_eq!(error.to_string(), expected);
    assert!(error.report().contains("; check that the endpoints run and can be reached"), "{}", error.report());
    waiting.iter().for_each(|waiting| waiting.abort());
    settle().await;
    let waiting = tokio::spawn(mesh.call(&entry));
    settle().await;
    assert!(!waiting.is_finished(), "places are given back");
}

#[tokio::test(start_paused = true)]
async fn unsent_requests_go_elsewhere_however_often() {
    let mesh = Mesh::new();
    (1..=5).for_each(|number| mesh.network.answer(number, Answer::Fails(SendErrorKind::Unsent)));
    let entry = cluster(&[1, 2, 3, 4, 5, 6]);
    mesh.prepare(&entry).await;
    assert_eq!(mesh.calls(&entry, 12).await, [6; 12]);
}

#[tokio::test(start_paused = true)]
async fn requests_that_never_leave_do_not_spin_and_end_in_time() {
    let mesh = Mesh::with(BalanceOptions::new().max_wait(Duration::from_secs(1)));
    mesh.network.answer(1, Answer::Fails(SendErrorKind::Unsent));
    let entry = cluster(&[1]);
    let call = Call::new(Some(Duration::from_secs(2)));
    let error = mesh.call_with(&entry, call, CallOptions::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(mesh.network.calls(1) < 100, "{}", mesh.network.calls(1));
    let before = tokio::time::Instant::now();
    assert!(mesh.call(&entry).await.is_err());
    assert!(before.elapsed() < Duration::from_secs(3), "max_wait bounds all tries together");
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_goes_elsewhere_once() {
    let mesh = Mesh::new();
    mesh.network.answer(1, Answer::Fails(SendErrorKind::Refused));
    let entry = cluster(&[1, 2]);
    mesh.prepare(&entry).await;
    assert_eq!(mesh.calls(&entry, 10).await, [2; 10]);
    mesh.network.answer(2, Answer::Fails(SendErrorKind::Refused));
    let calls = mesh.network.calls(1) + mesh.network.calls(2);
    let error = mesh.call(&entry).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(!error.request_sent());
    assert_eq!(mesh.network.calls(1) + mesh.network.calls(2), calls + 2);
    // In the first attempt only: whether there is another after the second is for the retry policy to say (A6).
    let mut second = Call::new(None);
    second.attempt = 2;
    assert!(mesh.call_with(&entry, second, CallOptions::new()).await.is_err());
    assert_eq!(mesh.network.calls(1) + mesh.network.calls(2), calls + 3);
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_returns_to_the_only_endpoint() {
    let mesh = Mesh::new();
    mesh.network.answer(1, Answer::Fails(SendErrorKind::Refused));
    let entry = cluster(&[1]);
    assert!(mesh.call(&entry).await.is_err());
    assert_eq!(mesh.network.calls(1), 2);
}

#[tokio::test(start_paused = true)]
async fn failures_after_sending_say_so_and_are_not_repeated() {
    use SendErrorKind::{BadResponse, ConnectionLost, RequestBody, Reset};
    let table = [
        (ConnectionLost, ErrorKind::Connection),
        (Reset(8), ErrorKind::Reset(8)),
        (BadResponse, ErrorKind::Protocol),
        (RequestBody, ErrorKind::RequestBody),
    ];
    for (failure, kind) in table {
        let mesh = Mesh::new();
        mesh.network.answer(1, Answer::Fails(failure));
        let entry = cluster(&[1]);
        let error = mesh.call(&entry).await.unwrap_err();
        assert_eq!((error.kind(), error.request_sent(), mesh.network.calls(1)), (kind, true, 1));
        assert!(error.report().contains("cluster greeter, endpoint 10.0.0.1:1"), "{}", error.report());
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_cluster_closes_and_the_next_call_opens_it() {
    let mesh = Mesh::with(BalanceOptions::new().idle_timeout(Duration::from_secs(60)));
    mesh.network.answer(1, Answer::Streams);
    let entry = cluster(&[1]);
    let stream = mesh.call(&entry).await.unwrap();
    seconds(200.0).await;
    assert_eq!(mesh.network.open(1).len(), 1, "a stream is open");
    drop(stream);
    seconds(59.0).await;
    assert_eq!(mesh.network.open(1).len(), 1);
    seconds(32.0).await;
    assert_eq!(mesh.network.open(1).len(), 0);
    assert_eq!(mesh.clusters.connectivity(&entry), Some(ConnectivityState::Idle));
    mesh.call(&entry).await.unwrap();
    assert_eq!(mesh.network.attempts(1), 2);
}

#[tokio::test(start_paused = true)]
async fn shutdown_closes_connections_and_fails_calls() {
    let mesh = Mesh::new();
    let entry = cluster(&[1]);
    mesh.call(&entry).await.unwrap();
    mesh.network.reach(1, Reach::Silent);
    mesh.network.cut(1);
    settle().await;
    let waiting = tokio::spawn(mesh.call(&entry));
    settle().await;
    mesh.shutdown.cancel();
    assert!(waiting.await.unwrap().unwrap_err().is_shutdown());
    assert!(mesh.call(&entry).await.unwrap_err().is_shutdown());
    assert!(mesh.call(&cluster(&[1])).await.unwrap_err().is_shutdown());
    assert_eq!(mesh.network.open(1).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn every_change_of_a_clusters_connectivity_is_told() {
    let mesh = Mesh::new();
    let entry = cluster(&[1]);
    let watcher = Arc::new(Notify::new());
    mesh.clusters.watch(&entry.key, &watcher);
    let told = || {
        let news = watcher.notified().now_or_never().is_some();
        (news, mesh.clusters.connectivity(&entry).unwrap())
    };
    assert_eq!(told(), (false, ConnectivityState::Idle));
    mesh.clusters.prepare(&entry);
    assert_eq!(told(), (true, ConnectivityState::Connecting));
    settle().await;
    assert_eq!(told(), (true, ConnectivityState::Ready));
    mesh.network.reach(1, Reach::Refuses);
    mesh.network.cut(1);
    settle().await;
    assert_eq!(told(), (true, ConnectivityState::TransientFailure));
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_cluster_fails_clearly_or_uses_the_fixed_endpoints() {
    let mesh = Mesh::new();
    let mut balance = Balance::of(mesh.clusters.clone());
    let error = balance.call(Request::new(())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup);
    let mut balance = balance.with_endpoints("fixed", [address(1), address(2)]);
    let response = balance.call(Request::new(())).await.unwrap();
    assert_eq!(response.extensions().get::<CallInfo>().unwrap().cluster(), "fixed");
}

#[tokio::test(start_paused = true)]
async fn fixed_endpoints_of_the_same_name_stay_apart() {
    let mesh = Mesh::new();
    let fixed = |number| Balance::of(mesh.clusters.clone()).with_endpoints("fixed", [address(number)]);
    let (mut first, mut second) = (fixed(1), fixed(2));
    for _ in 0..3 {
        assert_eq!(endpoint(&first.call(Request::new(())).await.unwrap()), 1);
        assert_eq!(endpoint(&second.call(Request::new(())).await.unwrap()), 2);
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_fixed_cluster_is_balanced_as_it_says_by_the_calls_own_keys() {
    let mesh = Mesh::new();
    let cluster = (1..=4).map(address).fold(ClusterBuilder::new("fixed"), ClusterBuilder::endpoint);
    let mut balance = Balance::of(mesh.clusters.clone()).with_cluster(cluster.maglev());
    let mut seen = HashSet::new();
    for key in 0..32_u8 {
        let mut answers = HashSet::new();
        for _ in 0..3 {
            let mut request = Request::new(());
            request.extensions_mut().insert(CallOptions::new().hash_key([key]));
            answers.insert(endpoint(&balance.call(request).await.unwrap()));
            settle().await;
        }
        assert_eq!(answers.len(), 1, "key {key}: {answers:?}");
        seen.extend(answers);
    }
    assert_eq!(seen.len(), 4, "the keys spread");
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_replaced_without_a_moment_without_one_and_its_calls_go_on() {
    let mesh = Mesh::new();
    let entry = cluster(&[1]);
    mesh.prepare(&entry).await;
    mesh.network.answer(1, Answer::Streams);
    let call = mesh.call(&entry).await.unwrap();
    let old = mesh.network.open(1);
    mesh.network.reach(1, Reach::Refuses);
    mesh.network.outlive(1);
    seconds(100.0).await;
    assert!(mesh.network.attempts(1) > 3, "it is tried again and again");
    assert!(!old[0].is_drained(), "and serves meanwhile");
    mesh.call(&entry).await.unwrap();

    mesh.network.reach(1, Reach::Accepts);
    seconds(200.0).await;
    assert!(old[0].is_drained());
    assert_eq!((old[0].in_flight(), mesh.network.open(1).len()), (1, 2), "the call that was made on it goes on");
    assert_eq!(endpoint(&mesh.call(&entry).await.unwrap()), 1);
    drop(call);
    assert_eq!(mesh.network.open(1).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_while_another_is_made_is_made_up_for_as_any_other() {
    let mesh = Mesh::new();
    let entry = cluster(&[1]);
    mesh.prepare(&entry).await;
    mesh.network.reach(1, Reach::Silent);
    mesh.network.outlive(1);
    settle().await;
    mesh.network.reach(1, Reach::Accepts);
    mesh.network.cut(1);
    mesh.call(&entry).await.unwrap();
    assert_eq!(mesh.network.open(1).len(), 1);
}

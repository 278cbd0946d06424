//! Attempts beside each other: when the next one starts, whose answer counts, and what bounds them.

use std::time::Duration;

use mesh_core::balance::{BalanceOptions, Choice, Member, PickRequest, Policy};
use mesh_core::testing::{ControlPlane, Resources, route, route_config};
use mesh_core::{CallInfo, Mesh, RetryPolicy};
use mesh_examples::helloworld::HelloRequest;
use mesh_xds_proto::envoy::config::route::v3::route::Action;
use mesh_xds_proto::envoy::config::route::v3::{HedgePolicy, RetryPolicy as RoutePolicy};
use tokio_stream::StreamExt;
use tonic::{Code, Status};

use crate::support::backend::Backend;
use crate::support::client::{Client, quick, quick_mesh};

const DELAY: Duration = Duration::from_millis(100);

/// Goes to slow endpoints as often as to others, which the policy of targets without a control plane does not.
struct AtRandom;

impl Policy for AtRandom {
    fn pick(&self, members: &[Member], _: &PickRequest<'_>) -> Choice {
        Choice::Endpoint(fastrand::usize(..members.len()))
    }
}

/// A client whose calls to these backends are hedged.
async fn client_of(policy: RetryPolicy, backends: &[&Backend]) -> (Mesh, Client) {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address().to_string()).collect();
    let balance = BalanceOptions::new().policy(|_: &[Member]| Box::new(AtRandom) as Box<dyn Policy>);
    let mesh = quick().retry_policy(policy).balance(balance).build().await.unwrap();
    let client = Client::new(&mesh, &format!("static:///{}", addresses.join(",")));
    for backend in backends {
        client.hello_until(backend.name()).await;
    }
    (mesh, client)
}

fn hedged(attempts: u32) -> RetryPolicy {
    RetryPolicy::on("unavailable").unwrap().hedge(DELAY).max_attempts(attempts)
}

fn calls(backends: &[&Backend]) -> u64 {
    backends.iter().map(|backend| backend.calls()).sum()
}

#[tokio::test]
async fn a_slow_endpoint_is_hedged_and_the_first_success_wins() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let (_mesh, client) = client_of(hedged(2), &[&a, &b]).await;
    a.hold();
    let (mut hedged, before) = (0, a.calls());
    while hedged < 5 {
        let reply = client.greeter().say_hello(HelloRequest::default()).await.expect("the other endpoint answers");
        hedged += u64::from(reply.extensions().get::<CallInfo>().unwrap().attempts() == 2);
        assert_eq!(reply.into_inner().message, "b");
    }
    // One that was at the fast one first, and still took longer than the delay, was at the slow one too.
    assert!(a.calls() - before >= 5, "each hedged call was at the slow one first");
    // The attempts that lost are cancelled.
    a.wait_for_in_flight(0).await;
}

#[tokio::test]
async fn a_failure_is_hedged_at_once_and_the_last_one_is_told() {
    let (a, b, c) = (Backend::start("a").await, Backend::start("b").await, Backend::start("c").await);
    let long = hedged(3).hedge(Duration::from_secs(60));
    let (_mesh, client) = client_of(long, &[&a, &b, &c]).await;
    let all = [&a, &b, &c];
    for backend in all {
        backend.fail(Status::unavailable("not now"));
    }
    let before = calls(&all);
    let status = client.hello().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "not now"));
    assert_eq!(calls(&all) - before, 3);
    b.succeed();
    assert_eq!(client.hello().await.expect("one of three answers"), "b");
    b.fail(Status::not_found("it is not here"));
    let mut codes = Vec::new();
    while !codes.contains(&Code::NotFound) {
        codes.push(client.hello().await.unwrap_err().code());
    }
}

#[tokio::test]
async fn a_hedged_stream_of_requests_reaches_both_servers_whole() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let (_mesh, client) = client_of(hedged(2), &[&a, &b]).await;
    a.hold();
    b.hold();
    let before = calls(&[&a, &b]);
    let requests = (0..100).map(|number: u32| HelloRequest { name: number.to_string() });
    let requests = tokio_stream::iter(requests).throttle(Duration::from_millis(3));
    let call = tokio::spawn({
        let mut greeter = client.greeter();
        async move { greeter.collect_hellos(requests).await }
    });
    a.wait_for_in_flight(1).await;
    b.wait_for_in_flight(1).await;
    b.release();
    assert_eq!(call.await.unwrap().expect("b answers").into_inner().message, "b");
    assert_eq!((b.messages(), calls(&[&a, &b]) - before), (100, 2));
    a.wait_for_in_flight(0).await;
}

#[tokio::test]
async fn hedges_are_held_to_the_budget() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let addresses = format!("static:///{},{}", a.address(), b.address());
    let eager = RetryPolicy::on("unavailable").unwrap().hedge(Duration::ZERO).max_attempts(5);
    let mesh = quick().retry_budget(20, 0).retry_policy(eager).build().await.unwrap();
    let client = Client::new(&mesh, &addresses);
    for _ in 0..200 {
        client.hello().await.expect("an answer");
    }
    let calls = calls(&[&a, &b]);
    assert!((200..=240).contains(&calls), "{calls} attempts of 200 calls");
}

#[tokio::test]
async fn a_routes_hedge_policy_starts_a_second_attempt_when_the_first_takes_too_long() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let limit = Some(prost_types::Duration { seconds: 0, nanos: 50_000_000 });
    let retries = RoutePolicy { num_retries: Some(1), per_try_timeout: limit, ..Default::default() };
    let hedging = route().cluster("greeter").retry(retries).modify(|route| {
        let Some(Action::Route(action)) = &mut route.action else { panic!("it forwards") };
        action.hedge_policy = Some(HedgePolicy { hedge_on_per_try_timeout: true, ..Default::default() });
    });
    let control_plane = ControlPlane::new();
    let service = Resources::service("greeter", [a.address(), b.address()]);
    control_plane.set(service.with(route_config("greeter").routes([hedging])));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello_until("a").await;
    client.hello_until("b").await;
    a.hold();
    for _ in 0..4 {
        assert_eq!(client.hello().await.expect("the other endpoint answers"), "b");
    }
    // The first attempt is not given up: what answers first counts.
    b.hold();
    let before = calls(&[&a, &b]);
    let call = tokio::spawn(async move { client.hello().await });
    while calls(&[&a, &b]) < before + 2 {
        tokio::task::yield_now().await;
    }
    a.release();
    assert_eq!(call.await.unwrap().expect("a answers at last"), "a");
}

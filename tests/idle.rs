//! Calls of which nothing moves: how long they may, and what is said when they end.

use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use mesh_core::testing::{RouteBuilder, endpoints, listener, route, route_config};
use mesh_core::{CallOptions, Profile};
use mesh_examples::helloworld::HelloRequest;
use mesh_xds_proto::envoy::config::route::v3 as pb;
use mesh_xds_proto::envoy::config::route::v3::RetryPolicy;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::support::backend::Backend;
use crate::support::client::{SOON, assert_says, quick};
use crate::support::greeter::Greeter;
use crate::support::timed::timed;

const HOUR: Duration = Duration::from_secs(3600);

fn interval(of: Duration) -> Option<prost_types::Duration> {
    Some(of.try_into().expect("a duration"))
}

/// A route whose calls may be idle for so long, if it says anything of it.
fn idle(limit: Option<Duration>) -> RouteBuilder {
    route().cluster("greeter").modify(|route| {
        let Some(pb::route::Action::Route(action)) = &mut route.action else { panic!("it forwards") };
        action.idle_timeout = limit.and_then(interval);
    })
}

async fn greeter(profile: Profile, of_route: Option<Duration>, of_listener: Option<Duration>) -> Greeter {
    let listener = listener("greeter").rds("greeter");
    let listener = listener.modify_manager(|manager| manager.stream_idle_timeout = of_listener.and_then(interval));
    let routes = route_config("greeter").routes([idle(of_route)]);
    let mesh = quick().profile(profile);
    Greeter::start_with(mesh, |plain| plain.with(listener).with(routes)).await
}

/// The failure of a call that the backend holds, which has an hour.
async fn held(greeter: &Greeter) -> Status {
    greeter.backend.hold();
    let status = greeter.client.hello_within(HOUR).await.unwrap_err();
    greeter.backend.wait_for_in_flight(0).await;
    greeter.backend.release();
    status
}

/// A first request, and then nothing.
fn silent() -> impl Stream<Item = HelloRequest> + Send + 'static {
    silent_after(stream::empty())
}

fn silent_after(
    more: impl Stream<Item = HelloRequest> + Send + 'static,
) -> impl Stream<Item = HelloRequest> + Send + 'static {
    stream::iter([HelloRequest::default()]).chain(more).chain(stream::pending())
}

#[tokio::test]
async fn a_call_of_which_nothing_moves_ends_in_envoys_profile() {
    timed(async || {
        for (of_route, of_listener) in [(Some(SOON), None), (None, Some(SOON)), (Some(SOON), Some(HOUR))] {
            let greeter = greeter(Profile::Envoy, of_route, of_listener).await;
            greeter.client.hello().await.expect("it is answered in time");
            let told = greeter.backend.seen()[0].metadata.contains_key("grpc-timeout");
            assert!(!told, "the server is told of a deadline, and there is none");
            let status = held(&greeter).await;
            assert_eq!(status.code(), Code::DeadlineExceeded, "{of_route:?} {of_listener:?}: {status}");
            assert_says(
                &status,
                &["nothing moved for the 200ms that a stream may be idle, while waiting for the response"],
            );
            assert!(greeter.mesh.ignored_fields().is_empty(), "{:?}", greeter.mesh.ignored_fields());
        }
    })
    .await;
}

#[tokio::test]
async fn in_grpcs_profile_calls_may_be_idle_and_the_fields_are_listed() {
    timed(async || {
        let greeter = greeter(Profile::Grpc, Some(SOON), Some(SOON)).await;
        greeter.backend.hold();
        let status = greeter.client.hello_within(2 * SOON).await.unwrap_err();
        assert_says(&status, &["deadline of 400ms exceeded"]);
        let listed: Vec<_> = greeter.mesh.ignored_fields().into_iter().map(|field| field.path).collect();
        for path in ["route.idle_timeout", "api_listener.stream_idle_timeout"] {
            assert!(listed.iter().any(|listed| listed.ends_with(path)), "{path} of {listed:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_route_that_says_zero_lets_calls_be_idle_whatever_the_listener_says() {
    timed(async || {
        let greeter = greeter(Profile::Envoy, Some(Duration::ZERO), Some(SOON)).await;
        greeter.backend.hold();
        let status = greeter.client.hello_within(2 * SOON).await.unwrap_err();
        assert_says(&status, &["deadline of 400ms exceeded"]);
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_falls_silent_ends_though_nobody_reads_it() {
    timed(async || {
        let greeter = greeter(Profile::Envoy, Some(SOON), None).await;
        for reads in [true, false] {
            let mut replies = greeter.client.greeter().chat(silent()).await.unwrap().into_inner();
            assert_eq!(replies.message().await.unwrap().unwrap().message, "a");
            if reads {
                let status = replies.message().await.unwrap_err();
                assert_says(&status, &["nothing moved for the 200ms", "while reading the response"]);
            }
            greeter.backend.wait_for_in_flight(0).await;
            drop(replies);
        }
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_nobody_reads_ends_after_what_moved_last_and_at_its_deadline() {
    timed(async || {
        const LATE: Duration = Duration::from_millis(100);
        // What it sends meanwhile puts off its end, which still comes.
        let greeter = greeter(Profile::Envoy, Some(SOON), None).await;
        let late = || stream::once(tokio::time::sleep(LATE)).map(|()| HelloRequest::default());
        let begun = Instant::now();
        let replies = greeter.client.greeter().chat(silent_after(late())).await.unwrap();
        greeter.backend.wait_for_in_flight(0).await;
        assert!(begun.elapsed() >= LATE + SOON, "{:?}", begun.elapsed());
        drop(replies);
        // So does its deadline, however much it sends.
        let ticks = tokio_stream::wrappers::IntervalStream::new(tokio::time::interval(Duration::from_millis(20)));
        let mut request = tonic::Request::new(ticks.map(|_| HelloRequest::default()));
        request.set_timeout(2 * SOON);
        let replies = greeter.client.greeter().chat(request).await.unwrap();
        greeter.backend.wait_for_in_flight(0).await;
        drop(replies);
    })
    .await;
}

#[tokio::test]
async fn what_a_call_sends_and_what_it_receives_keeps_it_alive() {
    timed(async || {
        const IDLE: Duration = Duration::from_millis(700);
        let greeter = greeter(Profile::Envoy, Some(IDLE), None).await;
        // 1 s in all, and never more than a little at a time.
        let slowly = || {
            let ticks = tokio_stream::wrappers::IntervalStream::new(tokio::time::interval(Duration::from_millis(20)));
            ticks.take(50).map(|_| HelloRequest::default())
        };
        let mut client = greeter.client.greeter();
        let mut other = client.clone();
        let chat = async {
            let replies = other.chat(slowly()).await.unwrap().into_inner();
            assert_eq!(replies.filter(|reply| std::future::ready(reply.is_ok())).count().await, 50);
        };
        let (collected, ()) = tokio::join!(client.collect_hellos(slowly()), chat);
        assert_eq!(collected.expect("it was never idle").into_inner().message, "a");
        assert_eq!(greeter.backend.messages(), 50);
    })
    .await;
}

#[tokio::test]
async fn an_attempt_of_which_nothing_moves_is_made_again_elsewhere() {
    timed(async || {
        let b = Backend::start("b").await;
        let limit = RetryPolicy {
            retry_on: "deadline-exceeded".to_owned(),
            per_try_idle_timeout: interval(SOON),
            ..RetryPolicy::default()
        };
        let routes = route_config("greeter").routes([route().cluster("greeter").retry(limit)]);
        let greeter = Greeter::start(|plain| plain.with(routes)).await;
        greeter.control_plane.put(endpoints("greeter").all([greeter.backend.address(), b.address()]));
        greeter.client.hello_until("b").await;
        greeter.backend.hold();
        for _ in 0..2 {
            assert_eq!(greeter.client.hello().await.expect("the other endpoint answers"), "b");
        }
        greeter.backend.wait_for_in_flight(0).await;
        // Behind the head of a response there is no other attempt.
        let mut replies = greeter.client.greeter().chat(silent()).await.unwrap().into_inner();
        assert_eq!(replies.message().await.unwrap().unwrap().message, "b");
        let status = replies.message().await.unwrap_err();
        assert_says(&status, &["nothing moved for the 200ms", "while reading the response"]);
        b.wait_for_in_flight(0).await;
        assert!(greeter.mesh.ignored_fields().is_empty());
        // A call that is made once is none of the policy's.
        greeter.backend.release();
        let mut request = tonic::Request::new(silent());
        request.extensions_mut().insert(CallOptions::new().retry(false));
        request.set_timeout(2 * SOON);
        let mut replies = greeter.client.greeter().chat(request).await.unwrap().into_inner();
        replies.message().await.unwrap().expect("it is answered");
        assert_says(&replies.message().await.unwrap_err(), &["deadline of 400ms exceeded"]);
    })
    .await;
}

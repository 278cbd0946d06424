//! Attempts: what is made again, where and how often, and what bounds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh_core::testing::{ControlPlane, Resources, RouteBuilder, listener, route, route_config, virtual_host};
use mesh_core::{CallInfo, CallOptions, Mesh, Profile};
use mesh_examples::helloworld::HelloRequest;
use mesh_examples::helloworld::greeter_client::GreeterClient;
use mesh_tonic::MeshChannel;
use mesh_xds_proto::envoy::config::cluster::v3::circuit_breakers::{Thresholds, thresholds};
use mesh_xds_proto::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use mesh_xds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use mesh_xds_proto::envoy::config::route::v3::retry_policy::{
    RateLimitedRetryBackOff, ResetHeader, ResetHeaderFormat, RetryBackOff,
};
use mesh_xds_proto::envoy::config::route::v3::{HeaderMatcher, RetryPolicy, RouteConfiguration};
use mesh_xds_proto::envoy::r#type::v3::Percent;
use prost_types::Duration as Interval;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};
use tower::util::MapResponseLayer;

use crate::support::backend::Backend;
use crate::support::client::{Client, SOON, assert_says, metadata, quick, quick_mesh};
use crate::support::frames::{FrameServer, REFUSED_STREAM};
use crate::support::greeter::Greeter;
use crate::support::in_time;
use crate::support::tier::Tier;
use crate::support::timed::timed;
use crate::support::timeout::read_timeout;

fn millis(millis: i32) -> Option<Interval> {
    Some(Interval { seconds: (millis / 1000).into(), nanos: millis % 1000 * 1_000_000 })
}

/// Retries with the shortest delays there are.
fn policy(retry_on: &str, num_retries: u32) -> RetryPolicy {
    RetryPolicy {
        retry_on: retry_on.to_owned(),
        num_retries: Some(num_retries),
        retry_back_off: Some(RetryBackOff { base_interval: millis(1), max_interval: millis(1) }),
        ..Default::default()
    }
}

fn retrying(retry_on: &str, num_retries: u32) -> RouteBuilder {
    route().retry(policy(retry_on, num_retries))
}

/// A control plane with one route to these backends.
fn serving(route: RouteBuilder, backends: &[&Backend]) -> ControlPlane {
    let control_plane = ControlPlane::new();
    let service = Resources::service("greeter", backends.iter().map(|backend| backend.address()));
    control_plane.set(service.with(route_config("greeter").routes([route.cluster("greeter")])));
    control_plane
}

/// A client of these backends by that route; with what keeps it working.
async fn client_of(route: RouteBuilder, backends: &[&Backend]) -> (ControlPlane, Mesh, Client) {
    let control_plane = serving(route, backends);
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    (control_plane, mesh, client)
}

/// Makes calls until each of these backends had one, so that all are connected.
async fn connected(client: &Client, backends: &[&Backend]) {
    for backend in backends {
        client.hello_until(backend.name()).await;
    }
}

fn down() -> Status {
    Status::unavailable("not now")
}

/// A failure in which the server says when to try again.
fn pushing_back(pushback: &str) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("grpc-retry-pushback-ms", pushback.parse().unwrap());
    Status::with_metadata(Code::Unavailable, "not now", metadata)
}

/// What the attempts were told in this header, in turn.
fn told(backend: &Backend, name: &str) -> Vec<Option<String>> {
    let value = |metadata: &MetadataMap| metadata.get(name).map(|value| value.to_str().unwrap().to_owned());
    backend.seen().iter().map(|call| value(&call.metadata)).collect()
}

#[tokio::test]
async fn an_attempt_that_failed_is_made_again_at_another_endpoint() {
    let (a, b, c) = (Backend::start("a").await, Backend::start("b").await, Backend::start("c").await);
    let (_control_plane, _mesh, client) = client_of(retrying("unavailable", 2), &[&a, &b, &c]).await;
    connected(&client, &[&a, &b, &c]).await;
    a.fail(down());
    b.fail(down());
    let before = (a.calls(), b.calls(), c.calls());
    let mut attempts = 0;
    for _ in 0..30 {
        let reply = client.greeter().say_hello(HelloRequest::default()).await.expect("one of three answers");
        attempts += u64::from(reply.extensions().get::<CallInfo>().unwrap().attempts());
    }
    assert_eq!(c.calls() - before.2, 30);
    assert_eq!(attempts, a.calls() + b.calls() + c.calls() - before.0 - before.1 - before.2);
}

#[tokio::test]
async fn a_call_is_tried_as_often_as_the_policy_says_and_five_times_at_most() {
    for (num_retries, attempts) in [(1, 2), (3, 4), (4, 5), (100, 5)] {
        let backend = Backend::start("a").await;
        backend.fail(down());
        let (_control_plane, _mesh, client) = client_of(retrying("unavailable", num_retries), &[&backend]).await;
        let status = client.hello().await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "not now"));
        assert_eq!(backend.calls(), attempts, "num_retries {num_retries}");
    }
}

#[tokio::test]
async fn each_of_grpcs_codes_is_a_condition_and_no_other_code_is() {
    let backend = Backend::start("a").await;
    for (code, retry_on, attempts) in [
        (Code::Cancelled, "cancelled", 2),
        (Code::DeadlineExceeded, "deadline-exceeded", 2),
        (Code::Internal, "internal", 2),
        (Code::ResourceExhausted, "resource-exhausted", 2),
        (Code::Unavailable, "unavailable", 2),
        (Code::Unavailable, "5xx , UNAVAILABLE,nonsense", 2),
        (Code::Unavailable, "cancelled,deadline-exceeded,internal,resource-exhausted", 1),
        (Code::Unknown, "cancelled,deadline-exceeded,internal,resource-exhausted,unavailable", 1),
        (Code::Unavailable, "5xx,gateway-error,reset,connect-failure", 1),
    ] {
        let (_control_plane, _mesh, client) = client_of(retrying(retry_on, 1), &[&backend]).await;
        backend.fail(Status::new(code, "as told"));
        let before = backend.calls();
        assert_eq!(client.hello().await.unwrap_err().code(), code);
        assert_eq!(backend.calls() - before, attempts, "{code:?}, {retry_on}");
    }
}

#[tokio::test]
async fn without_a_policy_a_failing_server_is_called_once_per_call() {
    let backend = Backend::start("a").await;
    backend.fail(down());
    let (_control_plane, _mesh, client) = client_of(route(), &[&backend]).await;
    for _ in 0..1_000 {
        assert_eq!(client.hello().await.unwrap_err().code(), Code::Unavailable);
    }
    assert_eq!(backend.calls(), 1_000);
    assert!(told(&backend, "grpc-previous-rpc-attempts").iter().all(Option::is_none));
}

#[tokio::test]
async fn the_application_can_have_a_call_made_once() {
    let backend = Backend::start("a").await;
    backend.fail(down());
    let (_control_plane, _mesh, client) = client_of(retrying("unavailable", 4), &[&backend]).await;
    let mut request = Request::new(HelloRequest::default());
    request.extensions_mut().insert(CallOptions::new().retry(false));
    client.greeter().say_hello(request).await.unwrap_err();
    assert_eq!(backend.calls(), 1);
}

/// Has the first response say that the server is unavailable, whatever it was.
fn refused_at_first<R>(refused: &Arc<AtomicBool>) -> impl Fn(http::Response<R>) -> http::Response<R> + Clone + use<R> {
    let refused = refused.clone();
    move |mut response| {
        if !refused.swap(true, Ordering::Relaxed) {
            response.headers_mut().insert("grpc-status", http::HeaderValue::from_static("14"));
        }
        response
    }
}

#[tokio::test]
async fn an_attempt_that_a_layer_of_the_application_makes_fail_is_made_again() {
    let backend = Backend::start("a").await;
    let control_plane = serving(retrying("unavailable", 1), &[&backend]);
    let mesh = quick_mesh(&control_plane).await;
    let layer = MapResponseLayer::new(refused_at_first(&Arc::default()));
    let channel = MeshChannel::builder(&mesh, "xds:///greeter").attempt_layer(layer).build().unwrap();
    let reply = GreeterClient::new(channel).say_hello(HelloRequest::default()).await.expect("the second attempt");
    assert_eq!(reply.extensions().get::<CallInfo>().unwrap().attempts(), 2);
    assert_eq!(backend.calls(), 2);
}

#[tokio::test]
async fn nothing_is_repeated_once_response_headers_came() {
    let (mut a, b) = (Backend::start("a").await, Backend::start("b").await);
    let (control_plane, mesh, client) = client_of(retrying("unavailable,5xx,reset", 4), &[&a]).await;
    let chat = client.greeter().chat(tokio_stream::pending::<HelloRequest>()).await.expect("the response's headers");
    control_plane.put(mesh_core::testing::endpoints("greeter").endpoint(a.address()).endpoint(b.address()));
    connected(&client, &[&b]).await;
    let before = b.calls();
    a.stop().await;
    let status = chat.into_inner().message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(b.calls(), before);
    drop(mesh);
}

#[tokio::test]
async fn a_call_whose_connection_is_lost_is_repeated_elsewhere() {
    let (mut a, b) = (Backend::start("a").await, Backend::start("b").await);
    let (_control_plane, _mesh, client) = client_of(retrying("reset", 1), &[&a, &b]).await;
    connected(&client, &[&a, &b]).await;
    a.hold();
    let before = a.calls();
    let calls: Vec<_> = (0..2)
        .map(|_| {
            tokio::spawn({
                let client = client.clone();
                async move { client.hello().await }
            })
        })
        .collect();
    a.wait_for_calls(before + 1).await;
    a.stop().await;
    for call in calls {
        assert_eq!(call.await.unwrap().expect("the other endpoint answers"), "b");
    }
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_repeated_elsewhere() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let limited = RetryPolicy { per_try_timeout: millis(100), ..policy("deadline-exceeded", 1) };
    let (_control_plane, _mesh, client) = client_of(route().retry(limited), &[&a, &b]).await;
    connected(&client, &[&a, &b]).await;
    a.hold();
    for _ in 0..4 {
        assert_eq!(client.hello().await.expect("the other endpoint answers"), "b");
    }
    a.wait_for_in_flight(0).await;
    b.hold();
    let status = client.hello().await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_says(&status, &["100ms per try", "attempts 2", "cluster greeter"]);
}

#[tokio::test]
async fn headers_that_ask_an_envoy_for_retries_and_timeouts_are_the_servers_to_read() {
    for profile in [Profile::Grpc, Profile::Envoy] {
        let asks = [
            ("x-envoy-retry-on", "5xx"),
            ("x-envoy-retry-grpc-on", "unavailable"),
            ("x-envoy-max-retries", "3"),
            ("x-envoy-upstream-rq-timeout-ms", "1"),
            ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
        ];
        let greeter = Greeter::start_with(quick().profile(profile), |plain| plain).await;
        greeter.client.hello().await.unwrap();
        greeter.backend.fail(down());
        let status = greeter.client.hello_with(metadata(&asks)).await.unwrap_err();
        assert_eq!((status.code(), greeter.backend.calls()), (Code::Unavailable, 2), "{profile:?}");
        let seen = greeter.backend.seen().remove(1).metadata;
        assert!(asks.iter().all(|(name, value)| seen.get(*name).is_some_and(|seen| seen == value)), "{seen:?}");
        assert!(!seen.contains_key("grpc-timeout"));
    }
}

#[tokio::test]
async fn a_streamed_request_is_sent_again_from_its_start() {
    let backend = Backend::start("a").await;
    backend.fail_times(2, down());
    let (_control_plane, _mesh, client) = client_of(retrying("unavailable", 2), &[&backend]).await;
    let requests = (0..100).map(|number: u32| HelloRequest { name: number.to_string() });
    let reply = client.greeter().collect_hellos(tokio_stream::iter(requests)).await.expect("the third attempt");
    assert_eq!(reply.extensions().get::<CallInfo>().unwrap().attempts(), 3);
    assert_eq!((backend.calls(), backend.messages()), (3, 100));
}

#[tokio::test]
async fn a_request_of_more_than_64_kib_is_not_sent_again() {
    for (size, attempts) in [(60 << 10, 2), (70 << 10, 1)] {
        let backend = Backend::start("a").await;
        backend.fail_times(1, down());
        let (_control_plane, _mesh, client) = client_of(retrying("unavailable", 1), &[&backend]).await;
        let reply = client.greeter().say_hello(HelloRequest { name: "x".repeat(size) }).await;
        assert_eq!((reply.is_ok(), backend.calls()), (attempts == 2, attempts), "{size} bytes");
    }
}

#[tokio::test]
async fn pushback_of_the_server_is_obeyed() {
    let backend = Backend::start("a").await;
    let (_control_plane, _mesh, client) = client_of(retrying("unavailable", 4), &[&backend]).await;
    client.hello().await.unwrap();
    backend.fail_times(1, pushing_back("300"));
    let begin = tokio::time::Instant::now();
    client.hello().await.expect("the second attempt");
    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
    for stop in ["-1", "soon"] {
        let before = backend.calls();
        backend.fail_times(1, pushing_back(stop));
        client.hello().await.unwrap_err();
        assert_eq!(backend.calls() - before, 1, "pushback {stop}");
    }
}

#[tokio::test]
async fn each_attempt_is_told_how_many_there_were_and_what_time_is_left() {
    let backend = Backend::start("a").await;
    backend.fail(down());
    let (_control_plane, _mesh, client) = client_of(retrying("unavailable", 2), &[&backend]).await;
    client.hello_within(Duration::from_secs(60)).await.unwrap_err();
    let previous = told(&backend, "grpc-previous-rpc-attempts");
    assert_eq!(previous, [None, Some("1".to_owned()), Some("2".to_owned())]);
    let left = told(&backend, "grpc-timeout").into_iter().map(|told| read_timeout(&told.expect("a deadline")));
    let left: Vec<_> = left.collect();
    assert!(left[0] > left[1] && left[1] > left[2], "{left:?}");
}

#[tokio::test]
async fn the_deadline_bounds_all_attempts() {
    timed(async || {
        let backend = Backend::start("a").await;
        let slow = RetryPolicy {
            retry_back_off: Some(RetryBackOff { base_interval: millis(60_000), max_interval: None }),
            ..policy("unavailable", 4)
        };
        let (_control_plane, _mesh, client) = client_of(route().retry(slow), &[&backend]).await;
        client.hello().await.unwrap();
        backend.fail(down());
        // The next attempt would come after the deadline: the outcome is told at once.
        let status = client.hello_within(Duration::from_secs(30)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(backend.calls(), 2);

        let (_control_plane, _mesh, client) =
            client_of(retrying("unavailable,deadline-exceeded", 4), &[&backend]).await;
        backend.succeed();
        client.hello().await.unwrap();
        backend.hold();
        let status = client.hello_within(SOON).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(backend.calls(), 4);
    })
    .await;
}

#[tokio::test]
async fn budget_bounds_the_load_of_a_backend_that_always_fails() {
    let backend = Backend::start("a").await;
    backend.fail(down());
    let (_control_plane, _mesh, client) = client_of(retrying("unavailable", 4), &[&backend]).await;
    let start = Instant::now();
    for _ in 0..1_000 {
        client.hello().await.unwrap_err();
    }
    // 20 % of the calls, and 10 a second of the last ten; a slow machine sees more than one such window.
    let most = 1_350 + 10 * start.elapsed().as_secs();
    assert!((1_200..=most).contains(&backend.calls()), "{} attempts", backend.calls());
}

#[tokio::test]
async fn the_budget_is_the_meshs_to_set() {
    let backend = Backend::start("a").await;
    backend.fail(down());
    let control_plane = serving(retrying("unavailable", 4), &[&backend]);
    let mesh = quick().retry_budget(0, 0).control_plane(&control_plane).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    for _ in 0..100 {
        client.hello().await.unwrap_err();
    }
    assert_eq!(backend.calls(), 100);
}

#[tokio::test]
async fn throttling_stops_retries_while_half_of_the_tokens_are_gone() {
    let backend = Backend::start("a").await;
    let control_plane = serving(retrying("unavailable", 1), &[&backend]);
    let mesh = quick().retry_throttling(4, 1.0).control_plane(&control_plane).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello().await.unwrap();
    backend.fail(down());
    let before = backend.calls();
    for (attempts, why) in [(2, "4 tokens"), (1, "2 tokens"), (1, "1 token")] {
        let before = backend.calls();
        client.hello().await.unwrap_err();
        assert_eq!(backend.calls() - before, attempts, "{why}");
    }
    assert_eq!(backend.calls() - before, 4);
    backend.succeed();
    for _ in 0..4 {
        client.hello().await.unwrap();
    }
    backend.fail(down());
    let before = backend.calls();
    client.hello().await.unwrap_err();
    assert_eq!(backend.calls() - before, 2, "answers gave them back");
}

#[tokio::test]
async fn a_failure_gives_the_throttle_nothing_back_and_one_that_forbids_another_attempt_takes() {
    let backend = Backend::start("a").await;
    let control_plane = serving(retrying("unavailable", 1), &[&backend]);
    let mesh = quick().retry_throttling(4, 1.0).control_plane(&control_plane).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    let attempts = async |status: Status| {
        backend.fail(status);
        let before = backend.calls();
        client.hello().await.unwrap_err();
        backend.calls() - before
    };
    assert_eq!(attempts(down()).await, 2, "4 tokens, then 2");
    for _ in 0..4 {
        assert_eq!(attempts(Status::internal("broken")).await, 1);
    }
    assert_eq!(attempts(down()).await, 1, "none of those gave one back: 2 tokens, then 1");
    backend.succeed();
    for _ in 0..4 {
        client.hello().await.unwrap();
    }
    for _ in 0..2 {
        let mut last = Status::internal("broken, and nobody is to try again");
        last.metadata_mut().insert("grpc-retry-pushback-ms", "-1".parse().unwrap());
        assert_eq!(attempts(last).await, 1);
    }
    assert_eq!(attempts(down()).await, 1, "each of the two took one of 4");
}

#[tokio::test]
async fn an_update_of_the_endpoints_does_not_fill_the_budget() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = serving(retrying("unavailable", 1), &[&a]);
    let mesh = quick().retry_budget(0, 1).control_plane(&control_plane).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello().await.unwrap();
    a.fail(down());
    for _ in 0..20 {
        client.hello().await.unwrap_err();
    }
    let used = a.calls();
    assert!((29..=40).contains(&used), "{used} attempts");
    b.fail(down());
    control_plane.put(mesh_core::testing::endpoints("greeter").endpoint(b.address()));
    while b.calls() == 0 {
        client.hello().await.unwrap_err();
    }
    let before = (a.calls(), b.calls());
    for _ in 0..5 {
        client.hello().await.unwrap_err();
    }
    assert!(b.calls() + a.calls() - before.0 - before.1 <= 7, "{} attempts of 5 calls", b.calls());
}

#[tokio::test]
async fn the_virtual_hosts_policy_is_that_of_routes_without_one() {
    let backend = Backend::start("a").await;
    backend.fail(down());
    let control_plane = ControlPlane::new();
    let routes = [
        route().header("own", "none-known").retry(policy("nonsense", 4)),
        route().header("own", "yes").retry(policy("unavailable", 1)),
        route(),
    ];
    let routes = routes.map(|route| route.cluster("greeter"));
    let host =
        routes.into_iter().fold(virtual_host(["*"]).retry(policy("unavailable", 2)), |host, route| host.route(route));
    let service = Resources::service("greeter", [backend.address()]).with(listener("greeter"));
    control_plane.set(service.with(route_config("greeter").with(host)));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    for (own, attempts) in [(None, 3), (Some("yes"), 2), (Some("none-known"), 1)] {
        let before = backend.calls();
        let mut metadata = MetadataMap::new();
        own.map(|own| metadata.insert("own", own.parse().unwrap()));
        client.hello_with(metadata).await.unwrap_err();
        assert_eq!(backend.calls() - before, attempts, "{own:?}");
    }
    let ignored = mesh.ignored_fields();
    let nonsense = ignored.iter().any(|field| field.path.ends_with("retry_policy.retry_on[nonsense]"));
    assert!(nonsense, "{ignored:?}");
}

#[tokio::test]
async fn a_bad_policy_is_rejected_by_field_and_the_last_good_one_serves() {
    let backend = Backend::start("a").await;
    let (control_plane, _mesh, client) = client_of(retrying("unavailable", 2), &[&backend]).await;
    client.hello().await.unwrap();
    let backoff = |base_interval, max_interval| Some(RetryBackOff { base_interval, max_interval });
    let good = || policy("unavailable", 4);
    let unnamed = HeaderMatcher::default();
    let cases = [
        (RetryPolicy { num_retries: Some(0), ..good() }, "retry_policy.num_retries: must be greater than 0"),
        (
            RetryPolicy { retry_back_off: backoff(None, millis(1)), ..good() },
            "retry_back_off.base_interval: must be set",
        ),
        (
            RetryPolicy { retry_back_off: backoff(millis(2), millis(1)), ..good() },
            "retry_back_off.max_interval: must not",
        ),
        (RetryPolicy { per_try_timeout: Some(Interval { seconds: -1, nanos: 0 }), ..good() }, "per_try_timeout: -1 s"),
        (RetryPolicy { retriable_headers: vec![unnamed], ..good() }, "retriable_headers[0]"),
        (
            RetryPolicy { rate_limited_retry_back_off: Some(RateLimitedRetryBackOff::default()), ..good() },
            "rate_limited_retry_back_off.reset_headers: must not be empty",
        ),
    ];
    for (bad, expected) in cases {
        control_plane.modify::<RouteConfiguration>("greeter", |routes| {
            routes.virtual_hosts[0].routes[0] = route().cluster("greeter").retry(bad).build();
        });
        let (_, text) = control_plane.next_nack().await.error.expect("a NACK says why");
        assert!(text.contains(expected), "`{expected}` is not in: {text}");
    }
    backend.fail(down());
    let before = backend.calls();
    client.hello().await.unwrap_err();
    assert_eq!(backend.calls() - before, 3);
}

/// A client whose calls to a service are tried up to five times, while a budget of a fifth of them lasts.
async fn retrying_client_of(address: std::net::SocketAddr) -> (ControlPlane, Mesh, Client) {
    let control_plane = ControlPlane::new();
    let routes = route_config("greeter").routes([retrying("unavailable", 4).cluster("greeter")]);
    control_plane.set(Resources::service("greeter", [address]).with(routes));
    let mesh = quick().retry_budget(20, 0).control_plane(&control_plane).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    mesh.ready().await.unwrap();
    (control_plane, mesh, client)
}

#[tokio::test]
async fn retries_of_three_tiers_do_not_multiply() {
    const CALLS: u64 = 300;
    let leaf = Backend::start("leaf").await;
    leaf.fail(down());
    let (_cp_c, _mesh_c, to_leaf) = retrying_client_of(leaf.address()).await;
    let c = Tier::start(mesh_tonic::deadline_layer(), Duration::ZERO, &to_leaf).await;
    let (_cp_b, _mesh_b, to_c) = retrying_client_of(c.address()).await;
    let b = Tier::start(mesh_tonic::deadline_layer(), Duration::ZERO, &to_c).await;
    let (_cp_a, _mesh_a, to_b) = retrying_client_of(b.address()).await;
    for _ in 0..CALLS {
        assert_eq!(to_b.hello().await.unwrap_err().code(), Code::Unavailable);
    }
    // What each allows itself would multiply to 1.2 * 1.2 * 1.2.
    assert_eq!((b.calls(), c.calls()), (CALLS, CALLS), "only the lowest tier tries again");
    assert!((CALLS..=CALLS * 12 / 10).contains(&leaf.calls()), "{} of {CALLS}", leaf.calls());
}

#[tokio::test]
async fn a_servers_word_not_to_try_again_is_passed_on_by_those_without_a_policy() {
    let leaf = Backend::start("leaf").await;
    leaf.fail(pushing_back("-1"));
    let (_cp_c, _mesh_c, to_leaf) = client_of(route(), &[&leaf]).await;
    let c = Tier::start(mesh_tonic::deadline_layer(), Duration::ZERO, &to_leaf).await;
    let (_cp_b, _mesh_b, to_c) = retrying_client_of(c.address()).await;
    for _ in 0..20 {
        to_c.hello().await.unwrap_err();
    }
    assert_eq!(leaf.calls(), 20);

    leaf.fail(down());
    for _ in 0..20 {
        to_c.hello().await.unwrap_err();
    }
    assert!(leaf.calls() > 40, "a failure alone is tried again: {} calls", leaf.calls());
}

#[tokio::test]
async fn a_policy_made_in_code_is_that_of_calls_whose_route_has_none() {
    let backend = Backend::start("a").await;
    backend.fail(down());
    let policy = || mesh_core::RetryPolicy::on("unavailable").unwrap().max_attempts(3);
    let mesh = quick().retry_policy(policy()).build().await.unwrap();
    let client = Client::new(&mesh, &format!("static:///{}", backend.address()));
    assert_eq!(client.hello().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(backend.calls(), 3);

    let address = backend.address().to_string().parse().unwrap();
    let own = mesh_core::RouteBuilder::any().cluster("c").retry(policy().max_attempts(2));
    let cluster = mesh_core::ClusterBuilder::new("c").endpoint(address);
    let snapshot = mesh_core::Snapshot::builder("s").cluster(cluster).route(own).build().unwrap();
    let mesh = quick().retry_policy(policy()).snapshot("xds:///greeter", snapshot).build().await.unwrap();
    let before = backend.calls();
    Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
    assert_eq!(backend.calls() - before, 2, "the route's own goes before");
}

#[tokio::test]
async fn a_server_that_limits_rates_is_asked_again_when_it_says() {
    let backend = Backend::start("a").await;
    let reset = ResetHeader { name: "x-reset".into(), format: ResetHeaderFormat::Seconds as i32 };
    let limited = RateLimitedRetryBackOff { reset_headers: vec![reset], max_interval: None };
    let slow = RetryBackOff { base_interval: millis(60_000), max_interval: None };
    let policy = RetryPolicy {
        retry_back_off: Some(slow),
        rate_limited_retry_back_off: Some(limited),
        ..policy("resource-exhausted", 1)
    };
    let (_control_plane, _mesh, client) = client_of(route().retry(policy), &[&backend]).await;
    let mut metadata = MetadataMap::new();
    metadata.insert("x-reset", "0".parse().unwrap());
    backend.fail_times(1, Status::with_metadata(Code::ResourceExhausted, "too many", metadata));
    // Not after a minute, as the backoff has it.
    client.hello_within(Duration::from_secs(30)).await.expect("the second attempt");
    assert_eq!(backend.calls(), 2);
}

#[tokio::test]
async fn only_requests_with_one_of_the_policys_headers_are_repeated() {
    let backend = Backend::start("a").await;
    backend.fail(down());
    let specifier = Some(HeaderMatchSpecifier::PresentMatch(true));
    let header = HeaderMatcher { name: "x-again".into(), header_match_specifier: specifier, ..Default::default() };
    let policy = RetryPolicy { retriable_request_headers: vec![header], ..policy("unavailable", 1) };
    let (_control_plane, _mesh, client) = client_of(route().retry(policy), &[&backend]).await;
    client.hello().await.unwrap_err();
    assert_eq!(backend.calls(), 1);
    let mut metadata = MetadataMap::new();
    metadata.insert("x-again", "".parse().unwrap());
    client.hello_with(metadata).await.unwrap_err();
    assert_eq!(backend.calls(), 3);
}

#[tokio::test]
async fn requests_that_do_not_fit_into_the_buffer_of_all_are_sent_once() {
    let backend = Backend::start("a").await;
    backend.fail(down());
    let control_plane = serving(retrying("unavailable", 1), &[&backend]);
    let mesh = quick().retry_buffer_size(1 << 10).control_plane(&control_plane).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    for (size, attempts) in [(2_000, 1), (500, 2), (2_000, 1), (500, 2)] {
        let before = backend.calls();
        client.greeter().say_hello(HelloRequest { name: "x".repeat(size) }).await.unwrap_err();
        assert_eq!(backend.calls() - before, attempts, "{size} bytes");
    }
}

#[tokio::test]
async fn a_clusters_breakers_bound_the_retries_under_way() {
    const CALLS: u64 = 6;
    let share = |percent, min| thresholds::RetryBudget {
        budget_percent: Some(Percent { value: percent }),
        min_retry_concurrency: Some(min),
        ..Default::default()
    };
    for (max_retries, retry_budget, retries) in [
        (None, None, CALLS),
        (Some(0), None, 0),
        (Some(2), None, 2),
        (Some(0), Some(share(50.0, 0)), 3),
        (None, Some(share(1.0, 1)), 1),
    ] {
        let backend = Backend::start("a").await;
        // A retry is under way from when it is decided on, and the delay is long beside the calls' beginnings.
        let slow = RetryBackOff { base_interval: millis(400), max_interval: None };
        let policy = RetryPolicy { retry_back_off: Some(slow), ..policy("unavailable", 1) };
        let control_plane = serving(route().retry(policy), &[&backend]);
        let limits = Thresholds { max_retries, retry_budget, ..Default::default() };
        control_plane.modify::<Cluster>("greeter", |cluster| {
            cluster.circuit_breakers = Some(CircuitBreakers { thresholds: vec![limits], ..Default::default() });
        });
        let mesh = quick_mesh(&control_plane).await;
        let client = Client::new(&mesh, "xds:///greeter");
        client.hello().await.unwrap();
        backend.fail(down());
        backend.hold();
        let before = backend.calls();
        let calls: Vec<_> = (0..CALLS)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.hello().await })
            })
            .collect();
        backend.wait_for_calls(before + CALLS).await;
        backend.release();
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
        }
        assert_eq!(backend.calls() - before - CALLS, retries, "{max_retries:?}");
    }
}

#[tokio::test]
async fn each_attempt_is_told_its_number_and_the_caller_how_many_there_were_if_the_virtual_host_says_so() {
    const COUNT: &str = "x-envoy-attempt-count";
    for told_to in ["nobody", "endpoint", "caller"] {
        let backend = Backend::start("a").await;
        let control_plane = serving(retrying("unavailable", 2), &[&backend]);
        let host = virtual_host(["greeter"]).route(retrying("unavailable", 2).cluster("greeter")).modify(|host| {
            host.include_request_attempt_count = told_to == "endpoint";
            host.include_attempt_count_in_response = told_to == "caller";
        });
        control_plane.put(route_config("greeter").with(host));
        let mesh = quick_mesh(&control_plane).await;
        let client = Client::new(&mesh, "xds:///greeter");
        backend.fail_times(2, down());
        let mut request = Request::new(HelloRequest::default());
        request.metadata_mut().insert(COUNT, "7".parse().expect("a value"));
        let reply = client.greeter().say_hello(request).await.expect("the third answers");
        let count = |counts: [&str; 3]| counts.map(|count| Some(count.to_owned())).to_vec();
        let at_endpoint = if told_to == "endpoint" { count(["1", "2", "3"]) } else { count(["7"; 3]) };
        assert_eq!(told(&backend, COUNT), at_endpoint, "told to {told_to}");
        let answered = reply.metadata().get(COUNT).map(|count| count.to_str().unwrap().to_owned());
        assert_eq!(answered, (told_to == "caller").then(|| "3".to_owned()), "told to {told_to}");
        assert_eq!(mesh.ignored_fields(), []);
    }
}

#[tokio::test]
async fn a_refused_request_that_is_sent_elsewhere_is_the_same_attempt_and_counts_in_the_answer() {
    const COUNT: &str = "x-envoy-attempt-count";
    let backend = Backend::start("a").await;
    let refusing = FrameServer::start(|mut peer| async move {
        peer.greet(&[]).await?;
        loop {
            let call = peer.next_call().await?;
            peer.reset(call, REFUSED_STREAM).await?;
        }
    })
    .await;
    let control_plane = ControlPlane::new();
    let host = virtual_host(["greeter"]).route(route().cluster("greeter")).modify(|host| {
        (host.include_request_attempt_count, host.include_attempt_count_in_response) = (true, true);
    });
    let service = Resources::service("greeter", [refusing.address(), backend.address()]);
    control_plane.set(service.with(route_config("greeter").with(host)));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let sent_twice = async {
        loop {
            let reply = client.greeter().say_hello(HelloRequest::default()).await.expect("the other one answers");
            if reply.metadata().get(COUNT).is_some_and(|count| count == "2") {
                return;
            }
        }
    };
    in_time("a request is refused, and answered elsewhere", sent_twice).await;
    assert!(told(&backend, COUNT).iter().all(|count| count.as_deref() == Some("1")));
}

/// Beyond the once that any request is sent again of which its endpoint says that it did nothing with it.
#[tokio::test]
async fn refused_requests_are_made_again_by_each_word_that_asks_for_it() {
    const ASKS: [(&str, bool); 4] =
        [("refused-stream", true), ("connect-failure", true), ("reset-before-request", true), ("retriable-4xx", false)];
    for (word, is_repeated) in ASKS {
        let refusing = FrameServer::start(|mut peer| async move {
            peer.greet(&[]).await?;
            for _ in 0..3 {
                let call = peer.next_call().await?;
                peer.reset(call, REFUSED_STREAM).await?;
            }
            peer.serve("taken").await
        })
        .await;
        let control_plane = ControlPlane::new();
        let routes = route_config("greeter").routes([retrying(word, 4).cluster("greeter")]);
        control_plane.set(Resources::service("greeter", [refusing.address()]).with(routes));
        let mesh = quick_mesh(&control_plane).await;
        let answer = Client::new(&mesh, "xds:///greeter").hello().await;
        match is_repeated {
            true => assert_eq!(answer.expect(word), "taken"),
            false => assert_eq!(answer.expect_err(word).code(), Code::Unavailable),
        }
    }
}

#[tokio::test]
async fn a_call_without_a_retry_policy_is_its_first_attempt() {
    let greeter = Greeter::start(|plain| {
        let host = virtual_host(["greeter"]).route(route().cluster("greeter"));
        plain.with(route_config("greeter").with(host.modify(|host| host.include_request_attempt_count = true)))
    })
    .await;
    greeter.client.hello().await.unwrap();
    assert_eq!(told(&greeter.backend, "x-envoy-attempt-count"), [Some("1".to_owned())]);
}

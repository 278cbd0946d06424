//! Faults that the control plane injects (A33), and which configuration of a filter holds (A39).

use std::time::Duration;

use mesh_core::testing::{ListenerBuilder, Resources, RouteBuilder, listener, route, route_config, virtual_host};
use mesh_examples::helloworld::HelloRequest;
use mesh_xds_proto::envoy::config::route::v3::{FilterConfig, RouteConfiguration, route, route_action};
use mesh_xds_proto::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay};
use mesh_xds_proto::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort};
use mesh_xds_proto::envoy::extensions::filters::http::router::v3::Router;
use mesh_xds_proto::envoy::r#type::v3::FractionalPercent;
use tokio::time::Instant;
use tonic::{Code, Request};

use crate::support::client::{Client, assert_says, metadata};
use crate::support::greeter::Greeter;
use crate::support::timed::timed;
use crate::support::timeout::read_timeout;
use crate::support::{PATIENCE, in_time};

fn percent(numerator: u32) -> Option<FractionalPercent> {
    Some(FractionalPercent { numerator, denominator: 0 })
}

fn aborting(error: fault_abort::ErrorType, share: u32) -> HttpFault {
    let abort = FaultAbort { percentage: percent(share), error_type: Some(error), ..Default::default() };
    HttpFault { abort: Some(abort), ..Default::default() }
}

fn grpc(code: u32) -> HttpFault {
    aborting(fault_abort::ErrorType::GrpcStatus(code), 100)
}

fn delaying(specifier: fault_delay::FaultDelaySecifier, share: u32) -> HttpFault {
    let delay = FaultDelay { percentage: percent(share), fault_delay_secifier: Some(specifier) };
    HttpFault { delay: Some(delay), ..Default::default() }
}

fn by(delay: Duration) -> HttpFault {
    let delay = prost_types::Duration::try_from(delay).expect("a short delay");
    delaying(fault_delay::FaultDelaySecifier::FixedDelay(delay), 100)
}

/// The greeter's listener with the filter `fault`.
fn faulty(fault: &HttpFault) -> ListenerBuilder {
    listener("greeter").filter("fault", fault)
}

async fn start(listener: ListenerBuilder, route: RouteBuilder) -> Greeter {
    Greeter::start(|plain| plain.with(listener).with(route_config("greeter").routes([route]))).await
}

async fn with_fault(fault: &HttpFault) -> Greeter {
    start(faulty(fault), route().cluster("greeter")).await
}

async fn code(greeter: &Greeter, pairs: &[(&'static str, &str)]) -> Code {
    greeter.client.hello_with(metadata(pairs)).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn an_aborted_call_fails_with_the_configured_code_and_nothing_is_sent() {
    for (fault, code) in [
        (grpc(5), Code::NotFound),
        (grpc(16), Code::Unauthenticated),
        (aborting(fault_abort::ErrorType::HttpStatus(503), 100), Code::Unavailable),
        (aborting(fault_abort::ErrorType::HttpStatus(403), 100), Code::PermissionDenied),
        (aborting(fault_abort::ErrorType::HttpStatus(200), 100), Code::Unknown),
    ] {
        let greeter = with_fault(&fault).await;
        let status = greeter.client.hello().await.expect_err("it is aborted");
        assert_eq!((status.code(), status.message()), (code, "fault filter abort"));
        assert_eq!(greeter.backend.calls(), 0);
    }
}

#[tokio::test]
async fn an_abort_with_ok_ends_a_stream_without_messages() {
    let greeter = with_fault(&grpc(0)).await;
    let replies = greeter.client.greeter().say_hello_stream(HelloRequest::default()).await.expect("OK");
    assert!(replies.into_inner().message().await.expect("OK").is_none());
    assert!(greeter.client.hello().await.is_err(), "a message is missing");
    assert_eq!(greeter.backend.calls(), 0);
}

#[tokio::test]
async fn a_share_of_the_calls_is_aborted() {
    let greeter = with_fault(&aborting(fault_abort::ErrorType::GrpcStatus(10), 20)).await;
    let mut aborted = 0_u32;
    for _ in 0..1_000 {
        aborted += u32::from(code(&greeter, &[]).await == Code::Aborted);
    }
    // 200 expected; six standard deviations are 76.
    assert!((124..=276).contains(&aborted), "{aborted} of 1000");
    assert_eq!(greeter.backend.calls(), u64::from(1_000 - aborted));
}

#[tokio::test]
async fn a_call_is_delayed_before_anything_is_sent() {
    let greeter = with_fault(&by(Duration::from_millis(50))).await;
    greeter.mesh.ready().await.expect("ready");
    let start = Instant::now();
    let mut request = Request::new(HelloRequest::default());
    request.set_timeout(Duration::from_secs(60));
    greeter.client.greeter().say_hello(request).await.expect("it goes on");
    assert!(start.elapsed() >= Duration::from_millis(50), "{:?}", start.elapsed());
    let told = greeter.backend.seen()[0].metadata.get("grpc-timeout").expect("a deadline").to_str().unwrap().to_owned();
    assert!(
        read_timeout(&told) <= Duration::from_millis(59_950),
        "the server is told what remains behind the delay: {told}"
    );
}

#[tokio::test]
async fn a_delay_beyond_the_deadline_ends_at_the_deadline() {
    timed(async || {
        let greeter = with_fault(&by(Duration::from_secs(60))).await;
        let start = Instant::now();
        let status = greeter.client.hello_within(Duration::from_millis(50)).await.expect_err("too late");
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_says(&status, &["a fault of the configuration delayed the call", "xds:///greeter"]);
        assert!(start.elapsed() < Duration::from_secs(30));
        assert_eq!(greeter.backend.calls(), 0);
    })
    .await;
}

#[tokio::test]
async fn the_calls_headers_ask_for_faults_where_the_configuration_lets_them() {
    let header_delay = fault_delay::FaultDelaySecifier::HeaderDelay(fault_delay::HeaderDelay {});
    let header_abort = fault_abort::ErrorType::HeaderAbort(fault_abort::HeaderAbort {});
    let fault = HttpFault { delay: delaying(header_delay, 100).delay, ..aborting(header_abort, 100) };
    let greeter = with_fault(&fault).await;
    for (pairs, wanted) in [
        (&[][..], Code::Ok),
        (&[("x-envoy-fault-abort-grpc-request", "3")], Code::InvalidArgument),
        (&[("x-envoy-fault-abort-request", "503")], Code::Unavailable),
        (&[("x-envoy-fault-abort-request", "503"), ("x-envoy-fault-abort-request-percentage", "0")], Code::Ok),
        (&[("x-envoy-fault-abort-request", "nonsense")], Code::Ok),
    ] {
        assert_eq!(code(&greeter, pairs).await, wanted, "{pairs:?}");
    }
    let start = Instant::now();
    assert_eq!(code(&greeter, &[("x-envoy-fault-delay-request", "30")]).await, Code::Ok);
    assert!(start.elapsed() >= Duration::from_millis(30));
    let configured = with_fault(&grpc(5)).await;
    let pairs = [("x-envoy-fault-abort-grpc-request", "3"), ("x-envoy-fault-abort-request-percentage", "0")];
    assert_eq!(code(&configured, &pairs).await, Code::NotFound, "headers do not change a configured fault");
}

#[tokio::test]
async fn active_faults_are_counted_over_all_targets_of_a_mesh() {
    let fault = HttpFault { max_active_faults: Some(1), ..by(Duration::from_secs(60)) };
    let greeter = with_fault(&fault).await;
    let other = Resources::service("other", [greeter.backend.address()]);
    greeter.control_plane.put_all(other.with(listener("other").filter("elsewhere", &fault)));
    let delayed = tokio::spawn({
        let client = Client::new(&greeter.mesh, "xds:///other");
        async move { client.hello().await }
    });
    // The other target's call is the one that is delayed once this one is not.
    let passes = async { while greeter.client.hello_within(Duration::from_millis(100)).await.is_err() {} };
    in_time("calls beyond the limit are not delayed", passes).await;
    assert!(!delayed.is_finished());
    delayed.abort();
}

#[tokio::test]
async fn the_most_specific_override_holds_whole() {
    let host = virtual_host(["*"]).filter_config("fault", &grpc(2));
    let weighted = |weights: [u32; 2]| {
        let route = route().path("/helloworld.Greeter/SayHello").filter_config("fault", &grpc(3));
        route.weighted([("greeter", weights[0]), ("other", weights[1])]).modify(|route| {
            let Some(route::Action::Route(action)) = &mut route.action else { panic!("it forwards") };
            let Some(route_action::ClusterSpecifier::WeightedClusters(clusters)) = &mut action.cluster_specifier else {
                panic!("to weighted clusters")
            };
            let fault = mesh_core::testing::any(&grpc(4));
            clusters.clusters[1].typed_per_filter_config.insert("fault".into(), fault);
        })
    };
    let everywhere = |weights| -> RouteConfiguration {
        let host = host.clone().route(weighted(weights)).route(route().cluster("greeter"));
        let whole = route_config("greeter").with(host).build();
        RouteConfiguration {
            typed_per_filter_config: [("fault".to_owned(), mesh_core::testing::any(&grpc(7)))].into(),
            ..whole
        }
    };
    let greeter = with_fault(&grpc(1)).await;
    let resources = |routes: RouteConfiguration| {
        let other = Resources::service("other", [greeter.backend.address()]);
        other.with(faulty(&grpc(1))).with(routes)
    };
    let stream = || async {
        greeter.client.greeter().say_hello_stream(HelloRequest::default()).await.expect_err("aborted").code()
    };
    let codes = async |routes, expected: [Code; 2]| {
        greeter.control_plane.put_all(resources(routes));
        let reached = async {
            while [code(&greeter, &[]).await, stream().await] != expected {
                // A call that is aborted leaves no time for the update.
                tokio::task::yield_now().await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, reached).await.is_ok();
        assert!(in_time, "{:?} instead of {expected:?}", [code(&greeter, &[]).await, stream().await]);
    };
    let plain = || route_config("greeter").routes([route().cluster("greeter")]).build();
    codes(plain(), [Code::Cancelled, Code::Cancelled]).await;
    codes(everywhere([0, 1]), [Code::DeadlineExceeded, Code::Unknown]).await;
    codes(everywhere([1, 0]), [Code::InvalidArgument, Code::Unknown]).await;
    let configuration =
        RouteConfiguration { typed_per_filter_config: everywhere([1, 0]).typed_per_filter_config, ..plain() };
    codes(configuration, [Code::PermissionDenied, Code::PermissionDenied]).await;
}

#[tokio::test]
async fn a_route_switches_a_filter_off_and_on() {
    let off = FilterConfig { disabled: true, ..Default::default() };
    let on = FilterConfig { config: Some(mesh_core::testing::any(&grpc(9))), ..Default::default() };
    let quiet = start(faulty(&grpc(5)), route().cluster("greeter").filter_config("fault", &off)).await;
    assert_eq!(code(&quiet, &[]).await, Code::Ok);
    let disabled = || faulty(&grpc(5)).modify_manager(|manager| manager.http_filters[0].disabled = true);
    let off_by_default = start(disabled(), route().cluster("greeter")).await;
    assert_eq!(code(&off_by_default, &[]).await, Code::Ok);
    let switched_on = start(disabled(), route().cluster("greeter").filter_config("fault", &on)).await;
    assert_eq!(code(&switched_on, &[]).await, Code::FailedPrecondition);
}

#[tokio::test]
async fn what_a_filter_answers_is_not_retried() {
    let greeter = start(faulty(&grpc(14)), route().cluster("greeter").retry_on("unavailable", 4)).await;
    assert_eq!(code(&greeter, &[]).await, Code::Unavailable);
    assert_eq!(greeter.backend.calls(), 0);
}

/// What is wrong with the next resource that is rejected.
async fn nack(greeter: &Greeter) -> String {
    greeter.control_plane.next_nack().await.error.expect("a NACK says why").1
}

#[tokio::test]
async fn a_bad_fault_is_rejected_by_field_and_the_last_good_one_serves() {
    let greeter = with_fault(&grpc(5)).await;
    assert_eq!(code(&greeter, &[]).await, Code::NotFound);
    for (bad, says) in [
        (grpc(17), "abort.grpc_status: 17 is not a code of gRPC, 0 to 16"),
        (aborting(fault_abort::ErrorType::HttpStatus(99), 100), "abort.http_status: 99 is not a status of HTTP"),
    ] {
        greeter.control_plane.put(faulty(&bad));
        let nack = nack(&greeter).await;
        assert!(nack.contains("http_filters[0].typed_config") && nack.contains(says), "{nack}");
        assert_eq!(code(&greeter, &[]).await, Code::NotFound);
    }
    let twice = faulty(&grpc(5)).filter("fault", &Router::default());
    greeter.control_plane.put(twice);
    let nack = nack(&greeter).await;
    assert!(nack.contains("\"fault\" stands twice in the list"), "{nack}");
}

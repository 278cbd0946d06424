//! A service with everything on that a call may meet, and nothing of it triggered.

use std::net::SocketAddr;

use mesh_core::testing::{
    ClusterBuilder, ListenerBuilder, Resources, RouteBuilder, RouteConfigBuilder, listener, route, route_config,
};
use mesh_xds_proto::envoy::config::cluster::v3::OutlierDetection;
use mesh_xds_proto::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay};
use mesh_xds_proto::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort};
use mesh_xds_proto::envoy::r#type::v3::FractionalPercent;

/// More than there are callers.
const MOST_REQUESTS: u32 = 10_000;

/// The service `echo` at these addresses: routes that match headers, a retry policy, faults at 0 %, outlier detection
/// and a circuit breaker.
pub(crate) fn service(servers: &[SocketAddr], cluster: ClusterBuilder) -> Resources {
    Resources::service("echo", servers.iter().copied())
        .with(faultless())
        .with(routes())
        .with(cluster.outlier_detection(detection()).max_requests(MOST_REQUESTS))
}

/// Calls pass the filter and meet no fault.
fn faultless() -> ListenerBuilder {
    let never = Some(FractionalPercent::default());
    let by = prost_types::Duration { seconds: 1, nanos: 0 };
    let delay =
        FaultDelay { percentage: never, fault_delay_secifier: Some(fault_delay::FaultDelaySecifier::FixedDelay(by)) };
    let abort = FaultAbort {
        percentage: never,
        error_type: Some(fault_abort::ErrorType::GrpcStatus(14)),
        ..Default::default()
    };
    listener("echo").filter("fault", &HttpFault { delay: Some(delay), abort: Some(abort), ..Default::default() })
}

/// A call's route is the last: each of those before it looks at the call's headers.
fn routes() -> RouteConfigBuilder {
    let to = |route: RouteBuilder| route.cluster("echo").retry_on("unavailable", 3);
    let others = ["canary", "internal", "batch"].map(|tenant| to(route().header("x-tenant", tenant)));
    let mine = route().path("/bench.Echo/Unary").header("content-type", "application/grpc");
    route_config("echo").routes(others.into_iter().chain([to(mine), to(route())]))
}

/// Every way to find endpoints that fail.
fn detection() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: Some(5),
        consecutive_gateway_failure: Some(5),
        enforcing_consecutive_gateway_failure: Some(100),
        enforcing_success_rate: Some(100),
        enforcing_failure_percentage: Some(100),
        ..Default::default()
    }
}

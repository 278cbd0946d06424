//! Filters around a service of HTTP, without a mesh.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{Fault, FaultLayer};

const ALL: u32 = 1_000_000;
const SECOND: Duration = Duration::from_secs(1);

/// A service that counts its calls.
fn counting(
    calls: &Arc<AtomicU32>,
) -> impl Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send> + Clone + use<> {
    let calls = calls.clone();
    service_fn(move |_| {
        calls.fetch_add(1, Ordering::Relaxed);
        async { Ok(Response::new(Full::from("inner"))) }
    })
}

#[tokio::test(start_paused = true)]
async fn a_call_is_delayed_and_then_aborted_and_nothing_is_sent() {
    let calls = Arc::default();
    let fault = Fault::new().delay(SECOND, ALL).abort_with_http_status(StatusCode::BAD_GATEWAY, ALL);
    let start = Instant::now();
    let response = FaultLayer::new(fault).layer(counting(&calls)).oneshot(Request::new(())).await.expect("infallible");
    assert_eq!((response.status(), start.elapsed().as_secs()), (StatusCode::BAD_GATEWAY, 1));
    assert_eq!(response.into_body().collect().await.expect("infallible").to_bytes(), "fault filter abort");
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn beyond_the_most_active_faults_calls_pass_unharmed() {
    let calls = Arc::default();
    let mut service = FaultLayer::new(Fault::new().delay(SECOND, ALL).max_active(1)).layer(counting(&calls));
    let start = Instant::now();
    let delayed = service.call(Request::new(()));
    service.call(Request::new(())).await.expect("infallible");
    assert_eq!(start.elapsed(), Duration::ZERO, "the second call is not delayed");
    delayed.await.expect("infallible");
    assert_eq!(start.elapsed().as_secs(), 1);
    service.call(Request::new(())).await.expect("infallible");
    assert_eq!(start.elapsed().as_secs(), 2, "the first is active no more");
    drop(service.call(Request::new(())));
    service.call(Request::new(())).await.expect("infallible");
    assert_eq!(start.elapsed().as_secs(), 3, "nor is one that was given up");
}

#[tokio::test]
async fn a_code_of_grpc_is_a_status_of_http_to_who_does_not_speak_grpc() {
    for (code, status) in [(0, 200), (1, 499), (5, 404), (8, 429), (14, 503), (16, 401), (2, 500)] {
        let layer = FaultLayer::new(Fault::new().abort_with_grpc_status(code, ALL));
        let response = layer.layer(counting(&Arc::default())).oneshot(Request::new(())).await.expect("infallible");
        assert_eq!(response.status(), status, "{code}");
    }
}

use std::sync::Arc;

use http::HeaderName;
use tower_layer::Layer;

use super::exchange::Running;
use super::{ConcurrencyLimit, ConcurrencyStatus, Fault, Filter, HeaderMutation, LocalRateLimit};
use crate::call::AnswerProtocol;
use crate::resource::filter::{FilterConfig, HeaderMutationConfig};
use crate::snapshot::{Chain, ChainFilter};

/// Makes [`Filter`] services that do as the configuration of each call says; all of them count together.
///
/// ```
/// use tower_layer::Layer;
/// let layer = mesh_core::filter::FilterLayer::new();
/// # let _ = layer.layer(());
/// ```
#[derive(Clone, Debug, Default)]
pub struct FilterLayer {
    running: Arc<Running>,
    protocol: Option<&'static dyn AnswerProtocol>,
}

impl FilterLayer {
    /// For calls of whose protocol nothing is known but HTTP.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the calls speak, and so what an answer of a filter looks like; gRPC's is the adapter's.
    pub fn protocol(mut self, protocol: &'static dyn AnswerProtocol) -> Self {
        self.protocol = Some(protocol);
        self
    }
}

impl<S> Layer<S> for FilterLayer {
    type Service = Filter<S>;

    fn layer(&self, inner: S) -> Filter<S> {
        Filter { inner, fixed: None, running: self.running.clone(), protocol: self.protocol }
    }
}

/// Injects faults into all calls (A33), whatever they are configured to.
///
/// ```
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{Request, Response, StatusCode};
/// use mesh_core::filter::{Fault, FaultLayer};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let all = 1_000_000;
/// let fault = Fault::new().delay(Duration::from_millis(5), all).abort_with_http_status(StatusCode::SERVICE_UNAVAILABLE, all);
/// let service = ServiceBuilder::new().layer(FaultLayer::new(fault)).service(service_fn(|_: Request<()>| async {
///     Ok::<_, std::convert::Infallible>(Response::new(http_body_util::Full::new(Bytes::new())))
/// }));
/// let response = service.oneshot(Request::new(())).await.unwrap();
/// assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FaultLayer {
    chain: Arc<Chain>,
    filters: FilterLayer,
}

impl FaultLayer {
    /// A layer that injects these faults; its services count active faults together.
    pub fn new(fault: Fault) -> Self {
        let filter = ChainFilter::alone(FilterConfig::Fault(Arc::new(fault)));
        Self { chain: Arc::new(Chain::of(vec![filter])), filters: FilterLayer::new() }
    }

    /// What the calls speak, and so what an aborted call is answered with; gRPC's is the adapter's.
    pub fn protocol(mut self, protocol: &'static dyn AnswerProtocol) -> Self {
        self.filters = self.filters.protocol(protocol);
        self
    }
}

impl<S> Layer<S> for FaultLayer {
    type Service = Filter<S>;

    fn layer(&self, inner: S) -> Filter<S> {
        Filter { fixed: Some(self.chain.clone()), ..self.filters.layer(inner) }
    }
}

/// Changes the headers of all calls.
///
/// ```
/// use http::{HeaderName, HeaderValue, Request, Response};
/// use mesh_core::filter::{HeaderMutation, HeaderMutationLayer};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let (tenant, blue) = (HeaderName::from_static("x-tenant"), HeaderValue::from_static("blue"));
/// let layer = HeaderMutationLayer::new(HeaderMutation::new().set_in_request(tenant, blue));
/// let service = ServiceBuilder::new().layer(layer).service(service_fn(|request: Request<()>| async move {
///     assert_eq!(request.headers()["x-tenant"], "blue");
///     Ok::<_, std::convert::Infallible>(Response::new(()))
/// }));
/// service.oneshot(Request::new(())).await.unwrap();
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct HeaderMutationLayer {
    chain: Arc<Chain>,
}

impl HeaderMutationLayer {
    /// A layer that makes these changes.
    pub fn new(changes: HeaderMutation) -> Self {
        let config = HeaderMutationConfig { changes: Arc::new(changes), most_specific_wins: false };
        Self { chain: Arc::new(Chain::of(vec![ChainFilter::alone(FilterConfig::HeaderMutation(config))])) }
    }
}

impl<S> Layer<S> for HeaderMutationLayer {
    type Service = Filter<S>;

    fn layer(&self, inner: S) -> Filter<S> {
        Filter { fixed: Some(self.chain.clone()), ..FilterLayer::new().layer(inner) }
    }
}

/// Holds all calls to a rate.
///
/// ```
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{Request, Response, StatusCode};
/// use mesh_core::filter::{LocalRateLimit, LocalRateLimitLayer};
/// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let limit = LocalRateLimit::new(1, 1, Duration::from_secs(60));
/// let mut service = ServiceBuilder::new().layer(LocalRateLimitLayer::new(limit)).service(service_fn(
///     |_: Request<()>| async {
///         Ok::<_, std::convert::Infallible>(Response::new(http_body_util::Full::new(Bytes::new())))
///     },
/// ));
/// for status in [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS] {
///     let response = service.ready().await.unwrap().call(Request::new(())).await.unwrap();
///     assert_eq!(response.status(), status);
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LocalRateLimitLayer {
    chain: Arc<Chain>,
    filters: FilterLayer,
}

impl LocalRateLimitLayer {
    /// A layer that holds calls to this rate; its services share the bucket.
    pub fn new(limit: LocalRateLimit) -> Self {
        let filter = ChainFilter::alone(FilterConfig::LocalRateLimit(Arc::new(limit)));
        Self { chain: Arc::new(Chain::of(vec![filter])), filters: FilterLayer::new() }
    }

    /// What the calls speak, and so what a refused call is answered with; gRPC's is the adapter's.
    pub fn protocol(mut self, protocol: &'static dyn AnswerProtocol) -> Self {
        self.filters = self.filters.protocol(protocol);
        self
    }
}

impl<S> Layer<S> for LocalRateLimitLayer {
    type Service = Filter<S>;

    fn layer(&self, inner: S) -> Filter<S> {
        Filter { fixed: Some(self.chain.clone()), ..self.filters.layer(inner) }
    }
}

/// Bounds the calls that are served at a time, by a number or by what it learns from how long they take; less important
/// calls are refused first. A call counts until its response begins.
///
/// ```
/// use std::time::Duration;
/// use http::{Request, Response, StatusCode};
/// use http_body_util::Empty;
/// use mesh_core::Criticality;
/// use mesh_core::filter::{ConcurrencyLimit, ConcurrencyLimitLayer};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let slow = service_fn(|_: Request<()>| async {
///     tokio::time::sleep(Duration::from_secs(1)).await;
///     Ok::<_, std::convert::Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// });
/// let layer = ConcurrencyLimitLayer::new(ConcurrencyLimit::fixed(2).share(Criticality::Sheddable, 50));
/// let service = ServiceBuilder::new().layer(layer.clone()).service(slow);
/// let sheddable = || Request::builder().header(Criticality::HEADER, Criticality::Sheddable).body(()).unwrap();
/// let (first, second, third) = tokio::join!(
///     service.clone().oneshot(Request::new(())),
///     service.clone().oneshot(sheddable()),
///     service.clone().oneshot(Request::new(())),
/// );
/// assert_eq!(first.unwrap().status(), StatusCode::OK);
/// assert_eq!(second.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE, "half of the places is taken");
/// assert_eq!(third.unwrap().status(), StatusCode::OK);
/// assert_eq!(layer.status().refused(), 1);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ConcurrencyLimitLayer {
    limit: Arc<ConcurrencyLimit>,
    chain: Arc<Chain>,
    filters: FilterLayer,
}

impl ConcurrencyLimitLayer {
    /// A layer that holds calls to this limit; its services share the places.
    pub fn new(limit: ConcurrencyLimit) -> Self {
        let limit = Arc::new(limit);
        let filter = ChainFilter::alone(FilterConfig::ConcurrencyLimit(limit.clone()));
        Self { limit, chain: Arc::new(Chain::of(vec![filter])), filters: FilterLayer::new() }
    }

    /// The header that says how important a call is. Default: [`Criticality::HEADER`](crate::Criticality::HEADER).
    pub fn criticality_header(mut self, name: HeaderName) -> Self {
        self.filters.running = Arc::new(Running::new(name));
        self
    }

    /// What the calls speak, and so what a refused call is answered with; gRPC's is the adapter's.
    pub fn protocol(mut self, protocol: &'static dyn AnswerProtocol) -> Self {
        self.filters = self.filters.protocol(protocol);
        self
    }

    /// The state of the limit.
    pub fn status(&self) -> ConcurrencyStatus {
        self.limit.status_of("code".into())
    }
}

impl<S> Layer<S> for ConcurrencyLimitLayer {
    type Service = Filter<S>;

    fn layer(&self, inner: S) -> Filter<S> {
        Filter { fixed: Some(self.chain.clone()), ..self.filters.layer(inner) }
    }
}

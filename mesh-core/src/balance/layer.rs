//! The layer and the service.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use http::{Extensions, HeaderName, Request, Response};
use tokio_util::sync::CancellationToken;
use tower_layer::Layer;
use tower_service::Service;

use super::body::ResponseBody;
use super::clusters::Clusters;
use super::future::ResponseFuture;
use super::options::BalanceOptions;
use super::picker::Slot;
use crate::call::{self, Classify, HttpStatus};
use crate::connect::{Connect, SendRequest};
use crate::error::Error;
use crate::profile::Profile;
use crate::resource::endpoints::Address;
use crate::snapshot::fixed::ClusterBuilder;
use crate::snapshot::{ClusterEntry, ClusterKey};

/// Tells how often a call was tried, as in Envoy.
pub(super) const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// Makes [`Balance`] of a connector.
#[derive(Clone, Debug, Default)]
pub struct BalanceLayer {
    options: BalanceOptions,
}

impl BalanceLayer {
    /// A layer with these options.
    pub fn new(options: BalanceOptions) -> Self {
        Self { options }
    }

    /// Whose rules hold where gRPC and Envoy differ: whether calls spill over priorities, whether degraded endpoints take
    /// calls, and when health is disregarded. Default [`Profile::Grpc`].
    pub fn profile(mut self, profile: Profile) -> Self {
        self.options = self.options.profile(profile);
        self
    }
}

impl<C: Connect> Layer<C> for BalanceLayer {
    type Service = Balance<C>;

    fn layer(&self, connector: C) -> Balance<C> {
        Balance::of(Clusters::new(connector, self.options.clone(), None, CancellationToken::new()))
    }
}

/// Sends each call to an endpoint of its cluster.
///
/// Always ready: a call that finds no endpoint waits in its own future while there is hope, and no longer. The cluster
/// is the one that a layer above chose ([`Call`](crate::Call)); a call without one goes to the endpoints given by
/// [`with_endpoints`](Balance::with_endpoints), and fails with [`ErrorKind::Setup`](crate::ErrorKind::Setup) if there are
/// none. Clones share connections.
///
/// ```
/// use mesh_core::Address;
/// use mesh_core::balance::{BalanceLayer, BalanceOptions};
/// use mesh_core::connect::{Http2Connector, Http2Options};
/// use tower::{Layer, ServiceExt};
///
/// # async fn call() -> Result<(), mesh_core::Error> {
/// let endpoints = [50051, 50052].map(|port| Address::Socket(([127, 0, 0, 1], port).into()));
/// let connector = Http2Connector::new(Http2Options::new());
/// let balance = BalanceLayer::new(BalanceOptions::new()).layer(connector).with_endpoints("greeter", endpoints);
///
/// let request = http::Request::get("http://greeter/").body(http_body_util::Empty::new()).unwrap();
/// let response = balance.oneshot(request).await?;
/// # drop(response);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Balance<C: Connect> {
    clusters: Clusters<C>,
    default: Option<Arc<ClusterEntry>>,
    classify: &'static dyn Classify,
}

impl<C: Connect> Balance<C> {
    pub(crate) fn of(clusters: Clusters<C>) -> Self {
        Self { clusters, default: None, classify: &HttpStatus }
    }

    /// How good responses are told from bad ones, for outlier detection. Default: by the HTTP status, 5xx are bad.
    pub fn classify(mut self, classify: &'static dyn Classify) -> Self {
        self.classify = classify;
        self
    }

    /// Sends calls for which no layer above chose a cluster to these endpoints in turn; `name` is the cluster's name in
    /// errors and in [`CallInfo`](crate::CallInfo). It need not be unique: only clones share their endpoints.
    pub fn with_endpoints(self, name: &str, endpoints: impl IntoIterator<Item = Address>) -> Self {
        self.with_cluster(endpoints.into_iter().fold(ClusterBuilder::new(name).round_robin(), ClusterBuilder::endpoint))
    }

    /// Sends calls for which no layer above chose a cluster to this one, balanced as it says.
    ///
    /// ```
    /// use mesh_core::balance::{BalanceLayer, BalanceOptions};
    /// use mesh_core::connect::{Http2Connector, Http2Options};
    /// use mesh_core::{CallOptions, ClusterBuilder};
    /// use tower::Layer;
    ///
    /// let cluster = ClusterBuilder::new("greeter").endpoint("127.0.0.1:50051".parse().unwrap()).maglev();
    /// let connector = Http2Connector::new(Http2Options::new());
    /// let balance = BalanceLayer::new(BalanceOptions::new()).layer(connector).with_cluster(cluster);
    ///
    /// let mut request = http::Request::new(());
    /// request.extensions_mut().insert(CallOptions::new().hash_key("user-1"));
    /// # let _ = (balance, request);
    /// ```
    pub fn with_cluster(mut self, cluster: ClusterBuilder) -> Self {
        self.default = Some(Arc::new(alone(cluster)));
        self
    }
}

/// A cluster of its own, whatever others have the same name.
fn alone(cluster: ClusterBuilder) -> ClusterEntry {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let config = cluster.assemble();
    let source = format!("code {}", NUMBER.fetch_add(1, Ordering::Relaxed)).into();
    let key = ClusterKey { source, name: config.cluster.name.clone() };
    ClusterEntry::new(key, Ok(config))
}

impl<C: Connect> Clone for Balance<C> {
    fn clone(&self) -> Self {
        Self { clusters: self.clusters.clone(), default: self.default.clone(), classify: self.classify }
    }
}

impl<C, B> Service<Request<B>> for Balance<C>
where
    C: Connect,
    Slot<C>: SendRequest<B>,
{
    type Response = Response<ResponseBody<<Slot<C> as SendRequest<B>>::Body>>;
    type Error = Error;
    type Future = ResponseFuture<C, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> ResponseFuture<C, B> {
        let mut extensions = std::mem::take(request.extensions_mut());
        if let Some(default) = &self.default {
            choose(&mut extensions, default);
        }
        ResponseFuture::new(&self.clusters, request, extensions, self.classify)
    }
}

/// The cluster of a call that has none, and the key of its own that it is hashed by.
fn choose(extensions: &mut Extensions, default: &Arc<ClusterEntry>) {
    let key = call::hash_key(extensions);
    let call = call::of(extensions);
    if call.cluster.is_none() {
        call.cluster = Some(default.clone());
        call.hash = key;
    }
}

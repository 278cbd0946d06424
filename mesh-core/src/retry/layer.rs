use std::sync::Arc;

use tower_layer::Layer;

use super::budget::Limits;
use super::plan::Terms;
use super::throttle::Throttling;
use super::{Budgets, Retry, RetryProtocol};
use crate::origin::Sourced;
use crate::resource::retry_policy::RetryPolicy;

/// Makes [`Retry`] services, which share one budget per cluster.
///
/// In a client's stack the policies are those of the calls' routes. Around any other `http` service the layer works
/// with a [`policy`](Self::policy) of its own, and then all calls share one budget:
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
///
/// use bytes::Bytes;
/// use http::{Request, Response, StatusCode};
/// use http_body_util::Empty;
/// use mesh_core::RetryPolicy;
/// use mesh_core::retry::{RequestBody, RetryLayer};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), mesh_core::Error> {
/// static CALLS: AtomicU32 = AtomicU32::new(0);
/// let flaky = service_fn(|_: Request<RequestBody<Empty<Bytes>>>| async {
///     let mut response = Response::new(());
///     if CALLS.fetch_add(1, Relaxed) < 2 {
///         *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
///     }
///     Ok(response)
/// });
/// let policy = RetryPolicy::on("gateway-error")?.max_attempts(3);
/// let client = ServiceBuilder::new().layer(RetryLayer::new().policy(policy)).service(flaky);
/// let response = client.oneshot(Request::new(Empty::new())).await?;
/// assert_eq!((response.status(), CALLS.load(Relaxed)), (StatusCode::OK, 3));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct RetryLayer {
    pub(super) limits: Limits,
    budgets: Budgets,
    pub(super) policy: Option<Arc<RetryPolicy>>,
    protocol: Option<&'static dyn RetryProtocol>,
    lends: bool,
}

impl RetryLayer {
    /// With the default budget, for calls of whose protocol nothing is known but HTTP.
    pub fn new() -> Self {
        let limits = Limits::DEFAULT;
        Self { limits, budgets: Budgets::new(limits), policy: None, protocol: None, lends: false }
    }

    /// How many retries a cluster gets: so many for each hundred calls that have a retry policy, and so many more each
    /// second, over the last 10 s. Default 20 and 10. A retry that the budget does not allow is not made: the call ends
    /// as its last attempt did. The share is rounded down to one retry in so many calls (100, 50, 33, 25, 20 … of a
    /// hundred); zero and zero means no retries.
    pub fn budget(self, percent: u32, min_per_second: u32) -> Self {
        let (percent, min_per_second) = (Sourced::code(percent), Sourced::code(min_per_second));
        let limits = Limits { percent, min_per_second, ..self.limits };
        Self { limits, budgets: Budgets::new(limits), ..self }
    }

    /// Throttles retries and hedges as gRPC does (A6, `retryThrottling`), beside the [`budget`](Self::budget): each cluster has
    /// `max_tokens`, of which an attempt that fails in a way that its policy names takes one, and any other answer gives
    /// `token_ratio` back; while no more than half of them are left, nothing is tried again. Held to gRPC's bounds: 1 to
    /// 1,000 tokens, and a ratio of 0.001 at least. gRPC reads it from a service config alone, xDS has no field for
    /// it; and counts by target, as a stream ends, where here it is by cluster and the head of the answer. Default: none.
    pub fn throttling(self, max_tokens: u32, token_ratio: f32) -> Self {
        let limits = Limits { throttling: Some(Throttling::new(max_tokens, token_ratio)), ..self.limits };
        Self { limits, budgets: Budgets::new(limits), ..self }
    }

    /// How many bytes of requests are held for sending them again, of all calls together and beside the 64 KiB of each;
    /// default 16 MiB. A request that does not fit is sent on, and not again.
    pub fn buffer_size(self, bytes: usize) -> Self {
        let limits = Limits { buffer: Sourced::code(bytes), ..self.limits };
        Self { limits, budgets: Budgets::new(limits), ..self }
    }

    /// The policy of calls whose route has none. Default: those are made once.
    pub fn policy(mut self, policy: RetryPolicy) -> Self {
        self.policy = Some(Arc::new(policy));
        self
    }

    /// What the calls speak; gRPC's is the adapter's.
    pub fn protocol(mut self, protocol: &'static dyn RetryProtocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// Whether the service below is the mesh's own alone, which gives the extensions of a request that failed back to who
    /// follows its call: then an attempt needs no copy of them.
    #[cfg(feature = "discover")]
    pub(crate) fn lend_extensions(mut self, lends: bool) -> Self {
        self.lends = lends;
        self
    }
}

impl Default for RetryLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        let terms = Terms { budgets: self.budgets.clone(), protocol: self.protocol, lends: self.lends };
        Retry { inner, terms, policy: self.policy.clone() }
    }
}

use std::time::Duration;

use http::HeaderName;
use tower_layer::Layer;

use super::{Deadline, InboundProtocol};
use crate::criticality::Criticality;

/// Makes [`Deadline`] services: goes around a server's services, inside whatever authenticates callers.
///
/// ```
/// use std::convert::Infallible;
/// use std::time::Duration;
///
/// use http::{Request, Response, StatusCode};
/// use mesh_core::deadline::DeadlineLayer;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let slow = service_fn(|_: Request<()>| async {
///     tokio::time::sleep(Duration::from_secs(60)).await;
///     Ok::<_, Infallible>(Response::new(String::new()))
/// });
/// let server = ServiceBuilder::new().layer(DeadlineLayer::new().limit(Duration::from_secs(1))).service(slow);
/// let response = server.oneshot(Request::new(())).await.unwrap();
/// assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DeadlineLayer {
    limit: Option<Duration>,
    protocol: Option<&'static dyn InboundProtocol>,
    criticality: HeaderName,
}

impl Default for DeadlineLayer {
    fn default() -> Self {
        Self { limit: None, protocol: None, criticality: Criticality::HEADER }
    }
}

impl DeadlineLayer {
    /// For calls of whose protocol nothing is known but HTTP: none has a deadline but the server's own
    /// [`limit`](Self::limit), at which a handler that has not answered ends with 504, and an answer that has begun goes
    /// on.
    pub fn new() -> Self {
        Self::default()
    }

    /// The longest a call may take, whatever its caller allows. Default: no limit.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// The header in which calls say how important they are, and are told to be that serve them. Default:
    /// [`Criticality::HEADER`].
    pub fn criticality_header(mut self, name: HeaderName) -> Self {
        self.criticality = name;
        self
    }

    /// What the callers speak; gRPC's is the adapter's.
    pub fn protocol(mut self, protocol: &'static dyn InboundProtocol) -> Self {
        self.protocol = Some(protocol);
        self
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner, limit: self.limit, protocol: self.protocol, criticality: self.criticality.clone() }
    }
}

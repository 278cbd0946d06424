use tower_layer::Layer;

use super::{EncodeDeadline, Settings, Timeout};
use crate::call::Classify;
use crate::profile::Profile;

/// Makes [`Timeout`] services, around the mesh's layers or any other `http` service.
///
/// ```
/// use std::time::Duration;
///
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use mesh_core::Call;
/// use mesh_core::timeout::{RequestBody, TimeoutLayer};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let slow = service_fn(|_: Request<RequestBody<()>>| async {
///     tokio::time::sleep(Duration::from_secs(60)).await;
///     Ok(Response::new(Empty::<Bytes>::new()))
/// });
/// let client = ServiceBuilder::new().layer(TimeoutLayer::new()).service(slow);
/// let mut request = Request::new(());
/// request.extensions_mut().insert(Call::new(Some(Duration::from_secs(1))));
/// let error = client.oneshot(request).await.unwrap_err();
/// assert!(error.is_timeout());
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct TimeoutLayer {
    settings: Settings,
}

impl TimeoutLayer {
    /// Deadlines are enforced here and not told to the peer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells the peer the time that remains in the header that `encode` makes; gRPC's is `grpc-timeout`.
    pub fn tell_peer(mut self, encode: EncodeDeadline) -> Self {
        self.settings.encode = Some(encode);
        self
    }

    /// The protocol of the responses. One that says at the deadline that the call was cancelled fails as every call does whose
    /// deadline passed: the peer counts on a clock of its own, which may be ahead by 1 ms and a thousandth of the
    /// limit. Default: none, and what the peer says stands.
    pub fn protocol(mut self, protocol: &'static dyn Classify) -> Self {
        self.settings.protocol = Some(protocol);
        self
    }

    /// Whether Envoy's `timeout` of a route limits its calls, from their start, and its `idle_timeout` (or the listener's
    /// `stream_idle_timeout`) how long nothing of them may move: in [`Profile::Envoy`] they do, where they are set. Default
    /// [`Profile::Grpc`].
    pub fn profile(mut self, profile: Profile) -> Self {
        self.settings.profile = profile;
        self
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Timeout<S> {
        Timeout { inner, settings: self.settings }
    }
}

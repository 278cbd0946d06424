use tower_layer::Layer;

use super::{EncodeDeadline, Timeout};
use crate::profile::Profile;

/// Makes [`Timeout`] services.
///
/// ```
/// use tower_layer::Layer;
/// let layer = mesh_core::timeout::TimeoutLayer::new();
/// # let _ = layer.layer(());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct TimeoutLayer {
    encode: Option<EncodeDeadline>,
    profile: Profile,
}

impl TimeoutLayer {
    /// Deadlines are enforced here and not told to the peer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells the peer the time that remains in the header that `encode` makes; gRPC's is `grpc-timeout`.
    pub fn tell_peer(mut self, encode: EncodeDeadline) -> Self {
        self.encode = Some(encode);
        self
    }

    /// Whether Envoy's `timeout` of a route limits its calls, from their start: in [`Profile::Envoy`] it does. Default
    /// [`Profile::Grpc`].
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Timeout<S> {
        Timeout { inner, encode: self.encode, profile: self.profile }
    }
}

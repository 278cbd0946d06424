use tower_layer::Layer;

use super::Route;

/// Makes [`Route`] services.
///
/// ```
/// use tower_layer::Layer;
/// let routed = mesh_core::route::RouteLayer::new().layer(tower::service_fn(
///     |_: http::Request<()>| async { Ok::<_, mesh_core::Error>(()) },
/// ));
/// # let _ = routed;
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct RouteLayer {}

impl RouteLayer {
    /// A layer that routes by the call's snapshot; there is nothing to set.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<S> Layer<S> for RouteLayer {
    type Service = Route<S>;

    fn layer(&self, inner: S) -> Route<S> {
        Route::new(inner)
    }
}

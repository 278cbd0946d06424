use tower_layer::Layer;

use super::Cluster;

/// Makes [`Cluster`] services.
///
/// ```
/// use tower_layer::Layer;
/// let admitted = mesh_core::cluster::ClusterLayer::new().layer(tower::service_fn(
///     |_: http::Request<()>| async { Ok::<_, mesh_core::Error>(()) },
/// ));
/// # let _ = admitted;
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ClusterLayer {}

impl ClusterLayer {
    /// A layer that admits by the call's cluster; there is nothing to set.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<S> Layer<S> for ClusterLayer {
    type Service = Cluster<S>;

    fn layer(&self, inner: S) -> Cluster<S> {
        Cluster::new(inner)
    }
}

use tower_layer::Layer;

use super::Cluster;
use super::admission::{AdmissionStatus, Admissions};
use crate::snapshot::ClusterEntry;

/// Makes [`Cluster`] services. What one layer makes counts together, and so do clones of the layer.
///
/// ```
/// use http::{Request, Response};
/// use mesh_core::Error;
/// use tower_layer::Layer;
///
/// let admitted = mesh_core::cluster::ClusterLayer::new()
///     .layer(tower::service_fn(|_: Request<()>| async { Ok::<_, Error>(Response::new(())) }));
/// # let _ = admitted;
/// ```
#[derive(Clone, Debug, Default)]
pub struct ClusterLayer {
    admissions: Admissions,
}

impl ClusterLayer {
    /// A layer that admits by the call's cluster; there is nothing to set.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was counted of a cluster.
    pub(crate) fn status(&self, cluster: &ClusterEntry) -> AdmissionStatus {
        self.admissions.status(cluster)
    }
}

impl<S> Layer<S> for ClusterLayer {
    type Service = Cluster<S>;

    fn layer(&self, inner: S) -> Cluster<S> {
        Cluster::new(inner, self.admissions.clone())
    }
}

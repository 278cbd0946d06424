use std::sync::Arc;

use tower_layer::Layer;

use super::{Rbac, RbacService};
use crate::deadline::InboundProtocol;
use crate::resource::rbac::RbacFilter;

/// Makes [`RbacService`]s.
///
/// It takes the caller's `Peer` and [`ConnectInfo`](crate::server::ConnectInfo) from the extensions of each request, where
/// a server of the mesh puts them. Without a `Peer` the caller is not verified; without a `ConnectInfo` nothing is known of
/// addresses. What is not known counts against the caller: it is no reason to allow a call.
#[derive(Clone, Debug)]
pub struct RbacLayer {
    filter: Arc<RbacFilter>,
    protocol: Option<&'static dyn InboundProtocol>,
}

impl RbacLayer {
    /// Lets pass what this allows, or does not deny. Callers of a protocol of which nothing is known but HTTP are answered
    /// with 403.
    pub fn new(rbac: Rbac) -> Self {
        Self { filter: Arc::new(RbacFilter { rules: Some(rbac), shadow: None }), protocol: None }
    }

    /// What the callers speak; gRPC's is the adapter's.
    pub fn protocol(mut self, protocol: &'static dyn InboundProtocol) -> Self {
        self.protocol = Some(protocol);
        self
    }
}

impl<S> Layer<S> for RbacLayer {
    type Service = RbacService<S>;

    fn layer(&self, inner: S) -> RbacService<S> {
        RbacService { inner, filter: self.filter.clone(), protocol: self.protocol }
    }
}

//! Which meaning holds for the few fields that gRPC and Envoy read differently.

/// Whose rules hold where gRPC and Envoy treat the same configuration differently; [`MeshBuilder::profile`] sets it.
///
/// Everywhere else there is one meaning: gRPC's where gRPC gives a field one, Envoy's where gRPC ignores or refuses it.
///
/// [`MeshBuilder::profile`]: crate::MeshBuilder::profile
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Profile {
    /// As gRPC's own xDS clients: calls go to one priority at a time (A56), and the control plane is told so
    /// (`envoy.lb.does_not_support_overprovisioning`).
    #[default]
    Grpc,
    /// As Envoy: the control plane may leave it to the client how calls spill over to lower priorities, and the `timeout`
    /// of a route limits its calls where it is set.
    Envoy,
}

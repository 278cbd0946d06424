//! Which meaning holds for the few fields that gRPC and Envoy read differently.

/// Whose rules hold where gRPC and Envoy treat the same configuration differently; [`MeshBuilder::profile`] sets it.
///
/// Everywhere else there is one meaning: gRPC's where gRPC gives a field one, Envoy's where gRPC ignores or refuses it.
///
/// [`MeshBuilder::profile`]: crate::MeshBuilder::profile
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Profile {
    /// As gRPC's own xDS clients: calls go to one priority at a time (A56), degraded endpoints take none, and the control
    /// plane is told that it must not rely on more (`envoy.lb.does_not_support_overprovisioning`).
    #[default]
    Grpc,
    /// As Envoy: calls spill over to lower priorities by the share of endpoints that are available and the
    /// overprovisioning factor, DEGRADED endpoints take what the healthy ones cannot, and where too few are left the panic
    /// threshold disregards health; whatever the profile says, only connected endpoints are picked. The `timeout` of a
    /// route limits its calls where it is set, and its `idle_timeout`, or else the listener's `stream_idle_timeout`, how long
    /// nothing of a call may move.
    Envoy,
}

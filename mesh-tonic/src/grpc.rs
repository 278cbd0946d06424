//! The adapter's protocol, by name.

/// gRPC, for the layers of a stack of one's own: what they read and write of the protocol.
///
/// ```
/// let retry = mesh_core::retry::RetryLayer::new().protocol(&mesh_tonic::Grpc);
/// let filter = mesh_core::filter::FilterLayer::new().protocol(&mesh_tonic::Grpc);
/// # let _ = (retry, filter);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Grpc;

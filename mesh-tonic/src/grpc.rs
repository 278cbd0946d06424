//! The adapter's protocol, by name, and the headers that more than one of its rooms reads or writes.

use http::{HeaderMap, HeaderName, HeaderValue};

/// gRPC, for the layers of a stack of one's own: what they read and write of the protocol.
///
/// ```
/// let retry = mesh_core::retry::RetryLayer::new().protocol(&mesh_tonic::Grpc);
/// let filter = mesh_core::filter::FilterLayer::new().protocol(&mesh_tonic::Grpc);
/// # let _ = (retry, filter);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Grpc;

/// How a call ended, in its trailers or in a response that has nothing else.
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The media type of gRPC's messages, before what says their format.
pub(crate) const MEDIA_TYPE: &str = "application/grpc";

/// The `content-type` of the mesh's own answers.
pub(crate) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static(MEDIA_TYPE);

/// Found by looking at all: there are few, and hashing the name costs more.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.iter().find_map(|(name, value)| (name == GRPC_STATUS).then_some(value))
}

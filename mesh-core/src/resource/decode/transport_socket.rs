//! `TransportSocket`: the extension that secures connections.

use mesh_xds_proto::envoy::config::core::v3::TransportSocket;
use mesh_xds_proto::envoy::config::core::v3::transport_socket::ConfigType;
use mesh_xds_proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use prost::Name;
use prost_types::Any;

use super::place::{At, quoted};
use super::value::Extension;
use crate::resource::verdict::Fields;

/// Judges the socket, and says where its configuration stands.
pub(super) fn typed<'a>(socket: &TransportSocket, at: &'a At<'_>) -> At<'a> {
    socket.judge(at);
    at.field("typed_config")
}

fn typed_config(socket: &TransportSocket) -> Option<&Any> {
    socket.config_type.as_ref().map(|ConfigType::TypedConfig(config)| config)
}

/// The socket's TLS context, at the place that [`typed`] says; `None`: it asks for plaintext, or is refused.
pub(super) fn secured_by<'a, M: Name>(socket: &'a TransportSocket, at: &At<'_>) -> Option<Extension<'a>> {
    let extension = Extension::open(typed_config(socket), at)?;
    if extension.is::<RawBuffer>() {
        return None;
    }
    if !extension.is::<M>() {
        let name = quoted(&extension.type_name);
        at.error(format!("{name} is not supported, and is never replaced by plaintext"));
        return None;
    }
    Some(extension)
}

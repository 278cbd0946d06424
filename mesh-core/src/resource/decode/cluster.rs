//! `Cluster` (A27, A47, A48).

use mesh_xds_proto::envoy::config::cluster::v3 as proto;
use mesh_xds_proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CustomClusterType, DiscoveryType, EdsClusterConfig, TransportSocketMatch,
};
use mesh_xds_proto::envoy::config::core::v3::TransportSocket;
use mesh_xds_proto::envoy::config::core::v3::transport_socket::ConfigType;
use mesh_xds_proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;

use super::lb_policy::balancing;
use super::place::{At, quoted};
use super::policy::check_outlier_detection;
use super::value::{Extension, duration, from_control_plane, is_self};
use crate::resource::cluster::Cluster;
use crate::resource::verdict::Fields;

pub(super) fn cluster(message: proto::Cluster, at: &At<'_>) -> Option<Cluster> {
    message.judge(at);
    check_type(message.cluster_discovery_type.as_ref(), at);
    let balancing = balancing(&message, at);
    check_sockets(&message, at);
    if let Some(server) = &message.lrs_server {
        is_self(server, &at.field("lrs_server"));
    }
    if let Some(policy) = &message.outlier_detection {
        check_outlier_detection(policy, &at.field("outlier_detection"));
    }
    let connect_timeout = duration(message.connect_timeout, &at.field("connect_timeout"));
    let eds = eds(message.eds_cluster_config, &message.name, at);
    Some(Cluster {
        eds_service_name: eds.map(Into::into),
        balancing: balancing?,
        connect_timeout: connect_timeout.filter(|timeout| !timeout.is_zero()),
        name: message.name.into(),
    })
}

/// Reports every way of finding endpoints but EDS.
fn check_type(discovery: Option<&ClusterDiscoveryType>, at: &At<'_>) {
    match discovery {
        Some(&ClusterDiscoveryType::Type(number)) => match DiscoveryType::try_from(number) {
            Ok(DiscoveryType::Eds) => {}
            Ok(other) => at.field("type").error(format!("{} is not supported yet, only EDS is", other.as_str_name())),
            Err(_) => at.field("type").error(format!("{number} is no known type, only EDS is supported")),
        },
        Some(ClusterDiscoveryType::ClusterType(custom)) => check_custom_type(custom, &at.field("cluster_type")),
        None => at.field("type").error("must be set to EDS; unset means STATIC, which is not supported yet"),
    }
}

fn check_custom_type(custom: &CustomClusterType, at: &At<'_>) {
    let at = &at.field("typed_config");
    if let Some(extension) = Extension::open(custom.typed_config.as_ref(), at) {
        at.error(format!("{} is not supported yet", quoted(&extension.type_name)));
    }
}

/// The name to ask EDS for, if it is not the cluster's.
fn eds(config: Option<EdsClusterConfig>, cluster: &str, at: &At<'_>) -> Option<String> {
    let config = at.required("eds_cluster_config", config)?;
    let at = &at.field("eds_cluster_config");
    config.judge(at);
    from_control_plane(config.eds_config.as_ref(), &at.field("eds_config"));
    if config.service_name.is_empty() && cluster.starts_with("xdstp:") {
        at.field("service_name").error("must be set, because the cluster's name is an `xdstp:` one (A47)");
    }
    Some(config.service_name).filter(|name| !name.is_empty() && name != cluster)
}

/// Reports every socket that is not plaintext: what TLS was asked for never goes out without it.
fn check_sockets(message: &proto::Cluster, at: &At<'_>) {
    if let Some(socket) = &message.transport_socket {
        check_socket(socket, &at.field("transport_socket"));
    }
    for (index, matching) in message.transport_socket_matches.iter().enumerate() {
        let at = &at.item("transport_socket_matches", index);
        matching.judge(at);
        let TransportSocketMatch { transport_socket, .. } = matching;
        if let Some(socket) = transport_socket {
            check_socket(socket, &at.field("transport_socket"));
        }
    }
}

fn check_socket(socket: &TransportSocket, at: &At<'_>) {
    socket.judge(at);
    let config = socket.config_type.as_ref().map(|ConfigType::TypedConfig(config)| config);
    let at = &at.field("typed_config");
    let Some(extension) = Extension::open(config, at) else {
        return;
    };
    if !extension.is::<RawBuffer>() {
        at.error(format!("{} is not supported yet, and is never replaced by plaintext", quoted(&extension.type_name)));
    }
}

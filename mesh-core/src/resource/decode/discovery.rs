//! How the endpoints of a cluster are found: EDS, or other clusters (A27, A37, A47).

use mesh_xds_proto::envoy::config::cluster::v3 as proto;
use mesh_xds_proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CustomClusterType, DiscoveryType, EdsClusterConfig,
};
use mesh_xds_proto::envoy::extensions::clusters::aggregate::v3::ClusterConfig;

use super::place::{At, quoted};
use super::value::{Extension, from_control_plane};
use crate::resource::cluster::Discovery;
use crate::resource::verdict::Fields;

pub(super) fn discovery(message: &proto::Cluster, at: &At<'_>) -> Option<Discovery> {
    let discovery = match &message.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(number)) => by_type(*number, message, at),
        Some(ClusterDiscoveryType::ClusterType(custom)) => by_extension(custom, &at.field("cluster_type")),
        None => {
            at.field("type").error("must be set to EDS; unset means STATIC, which is not supported yet");
            None
        }
    };
    if !matches!(discovery, Some(Discovery::Eds { .. })) && message.eds_cluster_config.is_some() {
        at.field("eds_cluster_config").ignored("the cluster is not of type EDS");
    }
    discovery
}

fn by_type(number: i32, message: &proto::Cluster, at: &At<'_>) -> Option<Discovery> {
    let problem = match DiscoveryType::try_from(number) {
        Ok(DiscoveryType::Eds) => return eds(message.eds_cluster_config.as_ref(), &message.name, at),
        Ok(other) => format!("{} is not supported yet, only EDS is", other.as_str_name()),
        Err(_) => format!("{number} is no known type, only EDS is supported"),
    };
    at.field("type").error(problem);
    None
}

fn eds(config: Option<&EdsClusterConfig>, cluster: &str, at: &At<'_>) -> Option<Discovery> {
    let config = at.required("eds_cluster_config", config)?;
    let at = &at.field("eds_cluster_config");
    config.judge(at);
    from_control_plane(config.eds_config.as_ref(), &at.field("eds_config"));
    let service_name = config.service_name.as_str();
    if service_name.is_empty() && cluster.starts_with("xdstp:") {
        at.field("service_name").error("must be set, because the cluster's name is an `xdstp:` one (A47)");
    }
    let is_other = !service_name.is_empty() && service_name != cluster;
    Some(Discovery::Eds { service_name: is_other.then(|| service_name.into()) })
}

fn by_extension(custom: &CustomClusterType, at: &At<'_>) -> Option<Discovery> {
    custom.judge(at);
    let at = &at.field("typed_config");
    let extension = Extension::open(custom.typed_config.as_ref(), at)?;
    if extension.is::<ClusterConfig>() {
        return aggregate(&extension.unpack(at)?, at);
    }
    at.error(format!("{} is not supported yet", quoted(&extension.type_name)));
    None
}

fn aggregate(config: &ClusterConfig, at: &At<'_>) -> Option<Discovery> {
    config.judge(at);
    if config.clusters.is_empty() {
        at.field("clusters").error("must name at least one cluster (A37)");
    }
    for (index, name) in config.clusters.iter().enumerate() {
        if name.is_empty() {
            at.item("clusters", index).error("must not be empty");
        }
    }
    Some(Discovery::Aggregate(config.clusters.iter().map(|name| name.as_str().into()).collect()))
}

//! How the endpoints of a cluster are found: EDS (A27), in the cluster itself, DNS, or other clusters (A37).

use mesh_xds_proto::envoy::config::cluster::v3 as proto;
use mesh_xds_proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CustomClusterType, DiscoveryType, EdsClusterConfig,
};
use mesh_xds_proto::envoy::extensions::clusters::aggregate::v3::ClusterConfig;
use mesh_xds_proto::envoy::extensions::clusters::dns::v3::DnsCluster;

use super::endpoints::{Form, endpoints};
use super::place::{At, quoted};
use super::resolution;
use super::value::{Extension, from_control_plane};
use crate::resource::cluster::{Discovery, DnsEndpoints, Resolution};
use crate::resource::endpoints::{Address, Endpoints};
use crate::resource::verdict::Fields;

pub(super) fn discovery(message: &proto::Cluster, at: &At<'_>) -> Option<Discovery> {
    let discovery = match &message.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(number)) => by_type(*number, message, at),
        Some(ClusterDiscoveryType::ClusterType(custom)) => by_extension(custom, message, &at.field("cluster_type"), at),
        // The enum's default (Envoy); gRPC refuses it.
        None => fixed(message, at),
    }?;
    let is_eds = matches!(discovery, Discovery::Eds { .. });
    if !is_eds && message.eds_cluster_config.is_some() {
        at.field("eds_cluster_config").ignored("the cluster is not of type EDS");
    }
    if message.load_assignment.is_some() && (is_eds || matches!(discovery, Discovery::Aggregate(_))) {
        at.field("load_assignment").ignored("the endpoints come from elsewhere");
    }
    if !matches!(discovery, Discovery::Dns(_)) {
        judge_dns(message, at);
    }
    Some(discovery)
}

fn by_type(number: i32, message: &proto::Cluster, at: &At<'_>) -> Option<Discovery> {
    let problem = match DiscoveryType::try_from(number) {
        Ok(DiscoveryType::Eds) => return eds(message.eds_cluster_config.as_ref(), &message.name, at),
        Ok(DiscoveryType::Static) => return fixed(message, at),
        Ok(kind @ (DiscoveryType::StrictDns | DiscoveryType::LogicalDns)) => {
            let logical = kind == DiscoveryType::LogicalDns;
            return dns(message, logical, resolution::of_cluster(message, logical, at), &at.field("type"), at);
        }
        Ok(other) => format!("{} is not supported", other.as_str_name()),
        Err(_) => format!("{number} is no known type"),
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

fn fixed(message: &proto::Cluster, at: &At<'_>) -> Option<Discovery> {
    Some(Discovery::Static(assignment(message, Form::Inline, at)?.into()))
}

/// The endpoints that the cluster carries itself.
fn assignment(message: &proto::Cluster, form: Form, at: &At<'_>) -> Option<Endpoints> {
    let assignment = at.required("load_assignment", message.load_assignment.clone())?;
    endpoints(assignment, form, &at.field("load_assignment"))
}

fn dns(
    message: &proto::Cluster,
    logical: bool,
    resolution: Resolution,
    kind: &At<'_>,
    at: &At<'_>,
) -> Option<Discovery> {
    if cfg!(not(feature = "dns")) {
        kind.error("needs DNS, and the feature `dns` is off");
    }
    let endpoints = assignment(message, Form::Names, at)?;
    if logical && !is_one_name(&endpoints) {
        let at = &at.field("load_assignment");
        at.field("endpoints").error("must be one locality with one endpoint, a host and a port, for LOGICAL_DNS (A37)");
    }
    Some(Discovery::Dns(DnsEndpoints { endpoints: endpoints.into(), logical, resolution: resolution.into() }.into()))
}

/// One locality with one endpoint, and that a TCP one.
fn is_one_name(endpoints: &Endpoints) -> bool {
    let mut localities = endpoints.priorities.iter().flat_map(|priority| &priority.localities);
    match (localities.next(), localities.next()) {
        (Some(only), None) => match &only.endpoints[..] {
            [endpoint] => !matches!(endpoint.address, Address::Unix(_)),
            _ => false,
        },
        _ => false,
    }
}

fn by_extension(custom: &CustomClusterType, message: &proto::Cluster, kind: &At<'_>, at: &At<'_>) -> Option<Discovery> {
    custom.judge(kind);
    let typed = &kind.field("typed_config");
    let extension = Extension::open(custom.typed_config.as_ref(), typed)?;
    if extension.is::<ClusterConfig>() {
        return aggregate(&extension.unpack(typed)?, typed);
    }
    if extension.is::<DnsCluster>() {
        let config = extension.unpack::<DnsCluster>(typed)?;
        config.judge(typed);
        let resolution = resolution::of_extension(&config, typed);
        return dns(message, config.all_addresses_in_single_endpoint, resolution, kind, at);
    }
    typed.error(format!("{} is not supported", quoted(&extension.type_name)));
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

/// What says how names are resolved, where there are none.
fn judge_dns(message: &proto::Cluster, at: &At<'_>) {
    const NO_NAMES: &str = "the cluster's endpoints are not found by DNS";
    let set = [
        ("dns_refresh_rate", message.dns_refresh_rate.is_some()),
        ("dns_jitter", message.dns_jitter.is_some()),
        ("dns_failure_refresh_rate", message.dns_failure_refresh_rate.is_some()),
        ("respect_dns_ttl", message.respect_dns_ttl),
        ("dns_lookup_family", message.dns_lookup_family != 0),
        ("dns_resolvers", !message.dns_resolvers.is_empty()),
        ("dns_resolution_config", message.dns_resolution_config.is_some()),
    ];
    set.into_iter().filter(|(_, set)| *set).for_each(|(field, _)| at.field(field).ignored(NO_NAMES));
}

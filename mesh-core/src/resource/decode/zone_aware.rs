//! How the localities of a priority share calls: `zone_aware_lb_config` and `locality_weighted_lb_config`, which stand in
//! `common_lb_config` beside `lb_policy`, and in the configurations of Envoy's policies. gRPC reads neither: in its profile
//! they are listed.

use mesh_xds_proto::envoy::config::cluster::v3::Cluster;
use mesh_xds_proto::envoy::config::cluster::v3::cluster::common_lb_config;
use mesh_xds_proto::envoy::config::cluster::v3::cluster::common_lb_config::LocalityConfigSpecifier as InCluster;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::common::v3::LocalityLbConfig;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config as policy;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config::LocalityConfigSpecifier as InPolicy;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config::zone_aware_lb_config::LocalityBasis as Basis;
use mesh_xds_proto::envoy::r#type::v3::Percent;

use super::place::At;
use super::value::whole_percent;
use crate::profile::Profile;
use crate::resource::cluster::Balancing;
use crate::resource::verdict::Fields;
use crate::resource::zone_aware::{LocalityBasis, ZoneAware};

const NO_ZONES: &str = "no call goes by zones without `Profile::Envoy` and `MeshBuilder::local_cluster`";

/// Lists that of a cluster which has no use for it.
pub(super) fn unused(cluster: &Cluster, why: &'static str, at: &At<'_>) {
    let config = cluster.common_lb_config.as_ref().and_then(|config| config.locality_config_specifier.as_ref());
    if let Some(InCluster::ZoneAwareLbConfig(_)) = config {
        at.field("common_lb_config").field("zone_aware_lb_config").ignored(why);
    }
}

/// `at`: `common_lb_config`.
pub(super) fn in_cluster(balancing: Balancing, specifier: Option<&InCluster>, at: &At<'_>) -> Option<Balancing> {
    let Some(InCluster::ZoneAwareLbConfig(config)) = specifier else { return Some(balancing) };
    let common_lb_config::ZoneAwareLbConfig { routing_enabled, min_cluster_size, fail_traffic_on_panic } = config;
    let at = &at.field("zone_aware_lb_config");
    if !is_envoys(at) {
        at.ignored(NO_ZONES);
        return Some(balancing);
    }
    config.judge(at);
    unless_unknown(at);
    let zones = ZoneAware {
        fail_traffic_on_panic: *fail_traffic_on_panic,
        ..limits(routing_enabled.as_ref(), *min_cluster_size, at)?
    };
    Some(Balancing { zones: Some(zones), ..balancing })
}

/// `at`: the policy's configuration.
pub(super) fn in_policy(balancing: Balancing, config: Option<&LocalityLbConfig>, at: &At<'_>) -> Option<Balancing> {
    let Some(config) = config else { return Some(balancing) };
    let at = &at.field("locality_lb_config");
    if !is_envoys(at) {
        at.ignored("gRPC's policies have none (A48, A52), and it counts in `Profile::Envoy` alone");
        return Some(balancing);
    }
    config.judge(at);
    match at.required("locality_config_specifier", config.locality_config_specifier.as_ref())? {
        InPolicy::LocalityWeightedLbConfig(_) => Some(Balancing { by_locality: true, ..balancing }),
        InPolicy::ZoneAwareLbConfig(config) => {
            let zones = zone_aware(config, &at.field("zone_aware_lb_config"))?;
            Some(Balancing { zones: Some(zones), ..balancing })
        }
    }
}

fn zone_aware(config: &policy::ZoneAwareLbConfig, at: &At<'_>) -> Option<ZoneAware> {
    config.judge(at);
    unless_unknown(at);
    let basis = match Basis::try_from(config.locality_basis) {
        Ok(Basis::HealthyHostsNum) => LocalityBasis::HealthyNumber,
        Ok(Basis::HealthyHostsWeight) => LocalityBasis::HealthyWeight,
        Err(_) => {
            at.field("locality_basis").error(format!("{} is no known basis", config.locality_basis));
            return None;
        }
    };
    let force_local_zone = config.force_local_zone.as_ref().map(|force| {
        force.judge(&at.field("force_local_zone"));
        force.min_size.unwrap_or(1)
    });
    // What Envoy calls `force_local_zone` now.
    let forced_before = config.force_locality_direct_routing.then_some(1);
    Some(ZoneAware {
        fail_traffic_on_panic: config.fail_traffic_on_panic,
        force_local_zone: force_local_zone.or(forced_before),
        basis,
        ..limits(config.routing_enabled.as_ref(), config.min_cluster_size, at)?
    })
}

fn limits(routing_enabled: Option<&Percent>, min_cluster_size: Option<u64>, at: &At<'_>) -> Option<ZoneAware> {
    let default = ZoneAware::default();
    let routing_enabled = match routing_enabled {
        Some(percent) => whole_percent(percent.value, &at.field("routing_enabled"))?,
        None => default.routing_enabled,
    };
    let min_cluster_size = min_cluster_size.unwrap_or(default.min_cluster_size);
    Some(ZoneAware { routing_enabled, min_cluster_size, ..default })
}

fn is_envoys(at: &At<'_>) -> bool {
    at.report().local.profile == Profile::Envoy
}

/// Lists the configuration where nobody said how those who call share out over zones.
fn unless_unknown(at: &At<'_>) {
    if !at.report().local.knows_zones {
        at.ignored(NO_ZONES);
    }
}

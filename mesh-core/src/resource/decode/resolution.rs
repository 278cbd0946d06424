//! How the names of a cluster are resolved: STRICT_DNS, LOGICAL_DNS (A37), and the cluster type that took their place.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_xds_proto::envoy::config::cluster::v3 as proto;
use mesh_xds_proto::envoy::config::cluster::v3::cluster::DnsLookupFamily;
use mesh_xds_proto::envoy::config::core::v3 as core;
use mesh_xds_proto::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily as Family;
use mesh_xds_proto::envoy::extensions::clusters::dns::v3::DnsCluster;

use super::endpoints::address;
use super::place::At;
use super::value::duration;
use crate::resource::cluster::{AddressFamily, Resolution};
use crate::resource::endpoints::Address;
use crate::resource::verdict::Fields;

/// Of the fields of a `Cluster`.
pub(super) fn of_cluster(cluster: &proto::Cluster, is_logical: bool, at: &At<'_>) -> Resolution {
    let family = match DnsLookupFamily::try_from(cluster.dns_lookup_family) {
        Ok(DnsLookupFamily::Auto) => auto(is_logical),
        Ok(DnsLookupFamily::V4Only) => AddressFamily::V4,
        Ok(DnsLookupFamily::V6Only) => AddressFamily::V6,
        Ok(DnsLookupFamily::V4Preferred) => AddressFamily::V4ElseV6,
        Ok(DnsLookupFamily::All) => AddressFamily::Both,
        Err(_) => unknown_family(cluster.dns_lookup_family, at),
    };
    let after_failure = cluster.dns_failure_refresh_rate.and_then(|rate| {
        let at = &at.field("dns_failure_refresh_rate");
        rate.judge(at);
        backoff(rate.base_interval, rate.max_interval, at)
    });
    let refresh = interval(cluster.dns_refresh_rate, &at.field("dns_refresh_rate"));
    Resolution {
        servers: servers(cluster, at),
        family,
        refresh: refresh.filter(|_| !cluster.respect_dns_ttl),
        jitter: duration(cluster.dns_jitter, &at.field("dns_jitter")).unwrap_or_default(),
        after_failure,
    }
}

/// Of a `DnsCluster`.
pub(super) fn of_extension(config: &DnsCluster, at: &At<'_>) -> Resolution {
    let is_logical = config.all_addresses_in_single_endpoint;
    let family = match Family::try_from(config.dns_lookup_family) {
        Ok(Family::Unspecified | Family::Auto) => auto(is_logical),
        Ok(Family::V4Only) => AddressFamily::V4,
        Ok(Family::V6Only) => AddressFamily::V6,
        Ok(Family::V4Preferred) => AddressFamily::V4ElseV6,
        Ok(Family::All) => AddressFamily::Both,
        Err(_) => unknown_family(config.dns_lookup_family, at),
    };
    let after_failure = config.dns_failure_refresh_rate.and_then(|rate| {
        let at = &at.field("dns_failure_refresh_rate");
        rate.judge(at);
        backoff(rate.base_interval, rate.max_interval, at)
    });
    let refresh = interval(config.dns_refresh_rate, &at.field("dns_refresh_rate"));
    Resolution {
        servers: Vec::new(),
        family,
        refresh: refresh.filter(|_| !config.respect_dns_ttl),
        jitter: duration(config.dns_jitter, &at.field("dns_jitter")).unwrap_or_default(),
        after_failure,
    }
}

/// Where all addresses are tried as one endpoint, more of them do no harm (A37); else as Envoy does.
fn auto(is_logical: bool) -> AddressFamily {
    if is_logical { AddressFamily::Both } else { AddressFamily::V6ElseV4 }
}

fn unknown_family(number: i32, at: &At<'_>) -> AddressFamily {
    at.field("dns_lookup_family").error(format!("{number} is no known family"));
    AddressFamily::Both
}

/// At least a millisecond, as in Envoy.
fn interval(value: Option<prost_types::Duration>, at: &At<'_>) -> Option<Duration> {
    let interval = duration(value, at)?;
    if interval < Duration::from_millis(1) {
        at.error(format!("{interval:?} is less than 1 ms"));
    }
    Some(interval)
}

/// The shortest and the longest pause; ten times the shortest if that is not said.
fn backoff(
    base: Option<prost_types::Duration>,
    max: Option<prost_types::Duration>,
    at: &At<'_>,
) -> Option<(Duration, Duration)> {
    let base = interval(at.required("base_interval", base).map(Some)?, &at.field("base_interval"))?;
    let max_at = &at.field("max_interval");
    let max = interval(max, max_at).unwrap_or(base.saturating_mul(10));
    if max < base {
        max_at.error(format!("{max:?} is less than `base_interval`, {base:?}"));
    }
    Some((base, max))
}

/// Those of `dns_resolution_config`, else of the older field.
fn servers(cluster: &proto::Cluster, at: &At<'_>) -> Vec<SocketAddr> {
    match &cluster.dns_resolution_config {
        Some(config) => {
            let at = &at.field("dns_resolution_config");
            config.judge(at);
            all(&config.resolvers, "resolvers", at)
        }
        None => all(&cluster.dns_resolvers, "dns_resolvers", at),
    }
}

fn all(servers: &[core::Address], field: &'static str, at: &At<'_>) -> Vec<SocketAddr> {
    let server = |(index, message): (usize, &core::Address)| {
        let at = &at.item(field, index);
        match address(message, false, at)? {
            Address::Socket(socket) => Some(socket),
            _ => {
                at.error("must be a `socket_address`");
                None
            }
        }
    };
    servers.iter().enumerate().filter_map(server).collect()
}

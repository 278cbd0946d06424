//! `Cluster` (A27, A47, A48).

use std::sync::Arc;

use mesh_xds_proto::envoy::config::cluster::v3 as proto;
use mesh_xds_proto::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use mesh_xds_proto::envoy::config::cluster::v3::cluster::common_lb_config::LocalityConfigSpecifier;
use mesh_xds_proto::envoy::config::core::v3::{HealthStatus, TransportSocket};
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;

use super::circuit_breakers::circuit_breakers;
use super::discovery::discovery;
use super::lb_policy::{balancing, unused_balancing};
use super::outlier_detection::outlier_detection;
use super::place::At;
use super::transport_socket::{secured_by, typed};
use super::value::{Extension, duration, is_self, whole_percent};
use crate::origin::{Origin, Sourced};
use crate::resource::cluster::{Balancing, Cluster, Discovery, HealthSet};
use crate::resource::security::UpstreamTls;
use crate::resource::socket_match::SocketMatch;
use crate::resource::verdict::Fields;

pub(super) fn cluster(message: proto::Cluster, at: &At<'_>) -> Option<Cluster> {
    message.judge(at);
    let discovery = discovery(&message, at);
    let balancing = match &discovery {
        // Each leaf has a policy of its own (A75).
        Some(Discovery::Aggregate(_)) => Some(unused_balancing(&message, at)),
        Some(Discovery::Static(_) | Discovery::Dns(_)) => balancing(&message, at).map(|balancing| Balancing {
            by_locality: balancing.by_locality && weighs_localities(&message),
            ..balancing
        }),
        _ => balancing(&message, at),
    };
    let panic_threshold = panic_threshold(&message, at);
    let override_host_status = override_host_status(&message, at);
    let security = message.transport_socket.as_ref();
    let security = security.and_then(|socket| socket_security(socket, &at.field("transport_socket")));
    let socket_matches = socket_matches(&message, at);
    if let Some(server) = &message.lrs_server {
        is_self(server, &at.field("lrs_server"));
    }
    let detection = message.outlier_detection.as_ref();
    let detection = detection.map(|policy| outlier_detection(policy, &at.field("outlier_detection")));
    let circuit_breakers = circuit_breakers(message.circuit_breakers.as_ref(), &at.field("circuit_breakers"));
    let connect_timeout = duration(message.connect_timeout, &at.field("connect_timeout"));
    Some(Cluster {
        discovery: discovery?,
        balancing: balancing?,
        balanced_by: Origin::Xds,
        connect_timeout: connect_timeout.filter(|timeout| !timeout.is_zero()),
        outlier_detection: detection.map(Arc::new),
        circuit_breakers,
        security,
        socket_matches,
        panic_threshold: panic_threshold?,
        override_host_status,
        name: message.name.into(),
        origin: Origin::Xds,
    })
}

fn panic_threshold(message: &proto::Cluster, at: &At<'_>) -> Option<Sourced<u32>> {
    let Some(config) = &message.common_lb_config else { return Some(Cluster::PANIC_THRESHOLD) };
    let at = &at.field("common_lb_config");
    config.judge(at);
    match config.healthy_panic_threshold {
        Some(threshold) => whole_percent(threshold.value, &at.field("healthy_panic_threshold")).map(Sourced::xds),
        None => Some(Cluster::PANIC_THRESHOLD),
    }
}

/// Of which health endpoints may have sessions (A55).
fn override_host_status(message: &proto::Cluster, at: &At<'_>) -> Sourced<HealthSet> {
    let config = message.common_lb_config.as_ref();
    let Some(set) = config.and_then(|config| config.override_host_status.as_ref()) else { return HealthSet::DEFAULT };
    let at = &at.field("common_lb_config");
    let at = &at.field("override_host_status");
    set.judge(at);
    let mut statuses = HealthSet::default();
    for (index, status) in set.statuses.iter().enumerate() {
        match HealthStatus::try_from(*status) {
            Ok(HealthStatus::Unknown) => statuses.unknown = true,
            Ok(HealthStatus::Healthy) => statuses.healthy = true,
            Ok(HealthStatus::Draining) => statuses.draining = true,
            _ => at.item("statuses", index).ignored("only UNKNOWN, HEALTHY and DRAINING count (A55)"),
        }
    }
    Sourced::xds(statuses)
}

/// Whether localities share the calls by weight, where gRPC does not say so: Envoy wants to be told.
fn weighs_localities(message: &proto::Cluster) -> bool {
    let specifier = message.common_lb_config.as_ref().and_then(|config| config.locality_config_specifier.as_ref());
    message.load_balancing_policy.is_some()
        || matches!(specifier, Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)))
}

/// What secures the connections to endpoints of some labels.
fn socket_matches(message: &proto::Cluster, at: &At<'_>) -> Vec<SocketMatch> {
    let matches = message.transport_socket_matches.iter().enumerate();
    matches.filter_map(|(index, one)| socket_match(one, &at.item("transport_socket_matches", index))).collect()
}

fn socket_match(message: &TransportSocketMatch, at: &At<'_>) -> Option<SocketMatch> {
    message.judge(at);
    let socket = at.required("transport_socket", message.transport_socket.as_ref())?;
    let security = socket_security(socket, &at.field("transport_socket"));
    let labels = message.r#match.as_ref().map(|labels| labels.fields.clone()).unwrap_or_default();
    Some(SocketMatch { labels, security })
}

/// What TLS was asked for never goes out without it: what cannot be done is reported.
fn socket_security(socket: &TransportSocket, at: &At<'_>) -> Option<Arc<UpstreamTls>> {
    let at = &typed(socket, at);
    tls_context(&secured_by::<UpstreamTlsContext>(socket, at)?, at)
}

#[cfg(feature = "tls")]
fn tls_context(extension: &Extension<'_>, at: &At<'_>) -> Option<Arc<UpstreamTls>> {
    super::upstream_tls::upstream_tls(&extension.unpack(at)?, at).map(Arc::new)
}

#[cfg(not(feature = "tls"))]
fn tls_context(_: &Extension<'_>, at: &At<'_>) -> Option<Arc<UpstreamTls>> {
    at.error("needs mesh-core's feature `tls`, which is off, and is never replaced by plaintext");
    None
}

//! `RouteAction`: the clusters that calls go to, and how long they may take, and
//! how often they are tried (A28, A31, A44).

use std::sync::Arc;

use http::HeaderName;
use mesh_xds_proto::envoy::config::route::v3 as proto;
use mesh_xds_proto::envoy::config::route::v3::route_action::{ClusterSpecifier, MaxStreamDuration};
use mesh_xds_proto::envoy::config::route::v3::weighted_cluster::cluster_weight::HostRewriteSpecifier;

use super::hash_policy::hash_policies;
use super::header_mutation::Lists;
use super::http_filter::overrides;
use super::place::{At, quoted};
use super::retry_policy::{hedged, hedges, retry_policy};
use super::rewrite::authority;
use super::value::duration;
use crate::resource::level::Level;
use crate::resource::mirror::MirrorPolicy;
use crate::resource::retry_policy::RetryPolicy;
use crate::resource::route::{BadWeights, ClusterWeight, Forward, RouteAction, RouteDeadline};
use crate::resource::verdict::Fields;

/// What the virtual host says for routes that do not; the two are not merged (A44).
#[derive(Default)]
pub(super) struct OfHost {
    pub(super) retry: Option<Arc<RetryPolicy>>,
    /// Whether attempts run beside each other.
    pub(super) hedges: bool,
    /// The host's own, or else the route configuration's.
    pub(super) mirrors: Option<Arc<[MirrorPolicy]>>,
}

pub(super) fn forward(message: proto::RouteAction, host: &OfHost, at: &At<'_>) -> Option<RouteAction> {
    message.judge(at);
    let retry = retry(&message, host, at);
    let hash = hash_policies(&message.hash_policy, at);
    let max = message.max_stream_duration;
    let deadline = max.map(|max| deadline(&max, &at.field("max_stream_duration"))).unwrap_or_default();
    let deadline = deadline.with_timeout(duration(message.timeout, &at.field("timeout")));
    let deadline = deadline.with_idle(duration(message.idle_timeout, &at.field("idle_timeout")));
    let forward = match message.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => {
            let name = Some(name).filter(|name| !name.is_empty());
            Forward::to(at.required("cluster", name)?)
        }
        Some(ClusterSpecifier::WeightedClusters(clusters)) => weighted(clusters, &at.field("weighted_clusters"))?,
        Some(ClusterSpecifier::ClusterHeader(name)) => {
            Forward::by_header(header_name(&name, &at.field("cluster_header"))?)
        }
        Some(ClusterSpecifier::ClusterSpecifierPlugin(_) | ClusterSpecifier::InlineClusterSpecifierPlugin(_)) => {
            return Some(RouteAction::Unsupported("cluster_specifier_plugin"));
        }
        // Not set, or a kind that a later version of xDS added: calls fail, the resource is accepted (A28).
        None => return Some(RouteAction::Unsupported("an unknown cluster specifier")),
    };
    Some(RouteAction::Forward(forward.with_deadline(deadline).with_retry(retry).with_hash(hash)))
}

fn retry(message: &proto::RouteAction, host: &OfHost, at: &At<'_>) -> Option<Arc<RetryPolicy>> {
    let policy = match &message.retry_policy {
        Some(policy) => retry_policy(policy, &at.field("retry_policy")),
        None => host.retry.clone(),
    };
    let own = message.hedge_policy.as_ref().map(|policy| hedges(policy, &at.field("hedge_policy")));
    if !own.unwrap_or(host.hedges) {
        return policy;
    }
    let hedged = policy.as_deref().and_then(hedged);
    if own.is_some() && hedged.is_none() {
        let at = at.field("hedge_policy");
        at.field("hedge_on_per_try_timeout").ignored("there is no retry policy with `per_try_timeout`");
    }
    hedged.or(policy)
}

fn deadline(message: &MaxStreamDuration, at: &At<'_>) -> RouteDeadline {
    message.judge(at);
    RouteDeadline::new(match message.grpc_timeout_header_max {
        Some(max) => duration(Some(max), &at.field("grpc_timeout_header_max")),
        None => duration(message.max_stream_duration, &at.field("max_stream_duration")),
    })
}

fn weighted(message: proto::WeightedCluster, at: &At<'_>) -> Option<Forward> {
    message.judge(at);
    let clusters = message.clusters.into_iter().enumerate();
    let clusters: Vec<_> =
        clusters.map(|(index, cluster)| cluster_weight(cluster, &at.item("clusters", index))).collect();
    let clusters = clusters.into_iter().collect::<Option<Vec<_>>>()?;
    let forward = Forward::weighted(clusters);
    forward.map_err(|BadWeights| at.field("clusters").error("the weights must add up to 1 to 4294967295")).ok()
}

fn cluster_weight(message: proto::weighted_cluster::ClusterWeight, at: &At<'_>) -> Option<ClusterWeight> {
    message.judge(at);
    let lists = Lists {
        request_add: &message.request_headers_to_add,
        request_remove: &message.request_headers_to_remove,
        response_add: &message.response_headers_to_add,
        response_remove: &message.response_headers_to_remove,
    };
    let level = Level {
        overrides: overrides(&message.typed_per_filter_config, at),
        headers: lists.read(at),
        ..Level::default()
    };
    let host = message
        .host_rewrite_specifier
        .and_then(|HostRewriteSpecifier::HostRewriteLiteral(host)| authority(&host, &at.field("host_rewrite_literal")));
    let weight = at.required("weight", message.weight);
    let own = match (message.name.as_str(), message.cluster_header.as_str()) {
        ("", "") => {
            at.required("name", None::<()>);
            return None;
        }
        ("", header) => ClusterWeight::by_header(header_name(header, &at.field("cluster_header"))?, weight?),
        (name, "") => ClusterWeight::new(name, weight?),
        (name, _) => {
            at.field("cluster_header").ignored("there is a `name`");
            ClusterWeight::new(name, weight?)
        }
    };
    Some(ClusterWeight { level, host: host.map(Box::new), ..own })
}

fn header_name(name: &str, at: &At<'_>) -> Option<HeaderName> {
    let read = HeaderName::from_bytes(name.as_bytes());
    read.map_err(|_| at.error(format!("{} is not the name of a header", quoted(name)))).ok()
}

//! `RequestMirrorPolicy`, which stands at a route, a virtual host or a whole route configuration.

use std::sync::Arc;

use http::HeaderName;
use mesh_xds_proto::envoy::config::route::v3::route_action::RequestMirrorPolicy;

use super::header_mutation::change;
use super::place::{At, quoted};
use super::rewrite::authority;
use super::value::runtime_fraction;
use crate::resource::mirror::{MirrorCluster, MirrorPolicy};
use crate::resource::verdict::Fields;

/// The policies of the message at `at`; `None` if it has none, so that those of the level above hold.
pub(super) fn mirror_policies(messages: &[RequestMirrorPolicy], at: &At<'_>) -> Option<Arc<[MirrorPolicy]>> {
    if messages.is_empty() {
        return None;
    }
    // Clusters that only copies would go to are not asked for.
    if !cfg!(feature = "mirror") {
        return None;
    }
    let policies = messages.iter().enumerate();
    Some(policies.filter_map(|(index, message)| policy(message, &at.item("request_mirror_policies", index))).collect())
}

fn policy(message: &RequestMirrorPolicy, at: &At<'_>) -> Option<MirrorPolicy> {
    message.judge(at);
    let fraction = message.runtime_fraction.as_ref();
    let share = fraction.and_then(|fraction| runtime_fraction(fraction, &at.field("runtime_fraction")));
    let changes = message.request_headers_mutations.iter().enumerate();
    let headers = changes
        .filter_map(|(index, message)| change(message, true, &at.item("request_headers_mutations", index)))
        .collect();
    let host = authority(&message.host_rewrite_literal, &at.field("host_rewrite_literal"));
    let policy = MirrorPolicy::to(cluster(message, at)?);
    let has_suffix = !message.disable_shadow_host_suffix_append;
    Some(MirrorPolicy { share: share.unwrap_or(policy.share), has_suffix, headers, host, ..policy })
}

fn cluster(message: &RequestMirrorPolicy, at: &At<'_>) -> Option<MirrorCluster> {
    match (message.cluster.as_str(), message.cluster_header.as_str()) {
        ("", "") => at.field("cluster").error("must be set, or `cluster_header`"),
        (name, "") => return Some(MirrorCluster::Named(name.into())),
        ("", header) => match HeaderName::from_bytes(header.as_bytes()) {
            Ok(header) => return Some(MirrorCluster::Header(header)),
            Err(_) => at.field("cluster_header").error(format!("{} is not the name of a header", quoted(header))),
        },
        _ => at.field("cluster_header").error("must not be set beside `cluster`"),
    }
    None
}

//! Which filters calls of a route pass, for those who ask.

use crate::origin::Held;
use crate::resource::filter::FilterConfig;
use crate::resource::route::{ClusterWeight, RouteAction};
use crate::snapshot::{Chain, RouteTable};

/// The filters of a route's calls, in their order; of each of its clusters, where those differ.
pub(crate) fn in_force(table: &RouteTable, route: usize) -> Vec<Held> {
    let clusters = match &table.virtual_host.routes[route].action {
        RouteAction::Forward(forward) => forward.clusters(),
        RouteAction::Answer(_) | RouteAction::NonForwarding | RouteAction::Unsupported(_) => &[],
    };
    let names: Vec<String> =
        (0..clusters.len().max(1)).map(|choice| names(table.chain(route, choice).map(|chain| &**chain))).collect();
    if names.iter().all(|other| *other == names[0]) {
        let all = names.into_iter().take(1).filter(|names| !names.is_empty());
        return all.map(|names| Held::new("http_filters", names, table.origin)).collect();
    }
    let of_cluster = |(cluster, names): (&ClusterWeight, String)| {
        let names = if names.is_empty() { "none".to_owned() } else { names };
        Held::new(format!("weighted_clusters.{}.http_filters", cluster.name), names, table.origin)
    };
    clusters.iter().zip(names).map(of_cluster).collect()
}

fn names(chain: Option<&Chain>) -> String {
    let filters = chain.into_iter().flat_map(|chain| &chain.filters);
    let name = |config: &FilterConfig| match config {
        FilterConfig::Composite(_) => "composite",
        FilterConfig::ConcurrencyLimit(_) => "adaptive_concurrency",
        FilterConfig::ExtAuthz(_) => "ext_authz",
        FilterConfig::Fault(_) => "fault",
        FilterConfig::HeaderMutation(_) => "header_mutation",
        FilterConfig::LocalRateLimit(_) => "local_ratelimit",
        FilterConfig::StatefulSession(_) => "stateful_session",
        #[cfg(feature = "jwt")]
        FilterConfig::Jwt(_) => "jwt_authn",
        FilterConfig::Rbac(_) => "rbac",
    };
    filters.map(|filter| name(&filter.config)).collect::<Vec<_>>().join(", ")
}

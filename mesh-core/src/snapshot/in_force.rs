//! What the routes of a table say of their calls, for those who ask.

use super::RouteTable;
use crate::origin::Held;
use crate::resource::route::{ClusterWeight, RouteAction};

impl RouteTable {
    /// Whether the calls of a route are sent anywhere.
    pub(crate) fn forwards(&self, route: usize) -> bool {
        matches!(self.virtual_host.routes[route].action, RouteAction::Forward(_))
    }

    /// Where the calls of a route go, and what is hashed of them.
    pub(crate) fn in_force(&self, route: usize) -> Vec<Held> {
        let held = |name: &'static str, value: String| Held::new(name, value, self.origin);
        let forward = match &self.virtual_host.routes[route].action {
            RouteAction::Forward(forward) => forward,
            RouteAction::Answer(answer) => return vec![held("action", answer.name().to_owned())],
            other => return vec![held("action", format!("{}, which fails calls", other.name()))],
        };
        let mut all = Vec::new();
        all.push(match forward.clusters() {
            [ClusterWeight { header: Some(header), .. }] => held("cluster_header", header.to_string()),
            [cluster] => held("cluster", cluster.name.to_string()),
            clusters => {
                let weights = clusters.iter().map(|cluster| match &cluster.header {
                    Some(header) => format!("header {header} {}", cluster.weight),
                    None => format!("{} {}", cluster.name, cluster.weight),
                });
                held("weighted_clusters", weights.collect::<Vec<_>>().join(", "))
            }
        });
        all.extend(forward.hash().iter().map(|policy| held("hash_policy", policy.to_string())));
        all
    }
}

//! One immutable value per target: listener, routes, clusters and endpoints joined (A74).
//!
//! A call takes one `Arc<Snapshot>` and keeps it to the end, so it never sees half of an update. `dependencies` finds
//! out what to watch and when a snapshot is complete; `fixed` makes one by hand, without a control plane.

mod chain;
pub(crate) mod cluster;
pub(crate) mod demand;
pub(crate) mod dependencies;
pub(crate) mod fixed;
mod in_force;
mod table;

use std::sync::Arc;

#[cfg(feature = "server")]
pub(crate) use chain::Chains;
pub(crate) use chain::{Chain, ChainFilter, RouteSteps};
pub(crate) use cluster::{ClusterConfig, ClusterEntry, ClusterKey, CurrentLeaf, PrepareClusters};
pub(crate) use table::{Problem, RouteTable};

/// The configuration of one target at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// How requests are routed, or why they cannot be.
    pub(crate) routing: Result<Arc<RouteTable>, Problem>,
    /// The clusters that the table's routes name, in the table's order.
    pub(crate) clusters: Arc<[Arc<ClusterEntry>]>,
}

impl Snapshot {
    /// The clusters that routes name, and those that calls named.
    pub(crate) fn all_clusters(&self) -> Vec<Arc<ClusterEntry>> {
        let demand = self.routing.iter().filter_map(|table| table.demand());
        self.clusters.iter().cloned().chain(demand.flat_map(|demand| demand.entries())).collect()
    }

    /// The name of a route of this snapshot, for people.
    pub(crate) fn route_name(&self, route: usize) -> Option<Arc<str>> {
        self.routing.as_ref().ok()?.route_name(route)
    }
}

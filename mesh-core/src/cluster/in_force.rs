//! What limits the attempts to a cluster, for those who ask.

use super::ClusterLayer;
use crate::origin::{Held, Origin};
use crate::snapshot::ClusterConfig;

impl ClusterLayer {
    pub(crate) fn in_force(&self, config: &ClusterConfig) -> Vec<Held> {
        let max = config.cluster.circuit_breakers.max_requests;
        let limit = if max.value == u32::MAX { "no limit".to_owned() } else { max.value.to_string() };
        let mut all = vec![Held::new("circuit_breakers.max_requests", limit, max.origin)];
        let drops = config.endpoints.drops.iter();
        all.extend(drops.map(|drop| {
            let share = f64::from(drop.per_million) / 10_000.0;
            Held::new("drop_overloads", format!("{share} %, category {}", drop.category), Origin::Xds)
        }));
        all
    }
}

//! How the endpoints of a cluster are, for people: in errors, in explanations, on pages.

use std::sync::Arc;

use super::active::Ejected;
use crate::connect::SubchannelStatus;
use crate::resource::endpoints::{Address, Endpoints, Health, Locality};

/// One endpoint of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct EndpointReport {
    pub(crate) address: Address,
    pub(crate) priority: usize,
    pub(crate) locality: Arc<Locality>,
    /// As the control plane sees it.
    pub(crate) health: Health,
    /// As we see it; `None`: the cluster or the priority is not in use, or the endpoint takes no calls.
    pub(crate) subchannel: Option<SubchannelStatus>,
    pub(crate) in_flight: u32,
    /// Why it takes no calls although it is connected.
    pub(crate) ejected: Option<Ejected>,
}

/// In the order of the configuration.
pub(crate) fn statuses(
    endpoints: &Endpoints,
    subchannel: impl Fn(&Address) -> Option<(SubchannelStatus, u32, Option<Ejected>)>,
) -> Vec<EndpointReport> {
    let mut statuses = Vec::new();
    for (priority, localities) in endpoints.priorities.iter().enumerate() {
        for locality in &localities.localities {
            for endpoint in &locality.endpoints {
                let found = subchannel(&endpoint.address);
                let (subchannel, in_flight, ejected) =
                    found.map_or((None, 0, None), |(status, calls, ejected)| (Some(status), calls, ejected));
                statuses.push(EndpointReport {
                    address: endpoint.address.clone(),
                    priority,
                    locality: locality.locality.clone(),
                    health: endpoint.health,
                    subchannel,
                    in_flight,
                    ejected,
                });
            }
        }
    }
    statuses
}

//! `Cluster`: how to find and balance the endpoints of one cluster (A27, A48, A52).

use std::sync::Arc;
use std::time::Duration;

/// A validated cluster.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cluster {
    pub(crate) name: Arc<str>,
    pub(crate) discovery: Discovery,
    pub(crate) balancing: Balancing,
    /// `None`: 5 s.
    pub(crate) connect_timeout: Option<Duration>,
}

/// How the endpoints of a cluster are found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Discovery {
    /// By EDS (A27).
    Eds {
        /// The name to ask for, when it is not the cluster's.
        service_name: Option<Arc<str>>,
    },
    /// It has none: calls go to the first of these clusters that can take them (A37). At least one.
    Aggregate(Arc<[Arc<str>]>),
}

impl Discovery {
    /// By EDS, under the cluster's own name.
    pub(crate) const EDS: Self = Self::Eds { service_name: None };
}

/// How calls are spread over the endpoints of a priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Balancing {
    /// Whether localities share the calls by their weights (`wrr_locality`), or all endpoints of a priority are one set.
    pub(crate) by_locality: bool,
    pub(crate) policy: EndpointPolicy,
}

impl Default for Balancing {
    /// That of a cluster that says nothing.
    fn default() -> Self {
        Self { by_locality: true, policy: EndpointPolicy::RoundRobin }
    }
}

/// The policy among the endpoints of a locality.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EndpointPolicy {
    RoundRobin,
    /// Power of `choices` choices by calls in flight (A48); 2 to 10.
    LeastRequest {
        choices: u32,
    },
    Random,
}

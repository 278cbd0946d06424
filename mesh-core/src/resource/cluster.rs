//! `Cluster`: how to find and balance the endpoints of one cluster (A27, A48, A52).

use std::sync::Arc;
use std::time::Duration;

/// A validated cluster.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cluster {
    pub(crate) name: Arc<str>,
    /// The name to ask EDS for, when it is not the cluster's.
    pub(crate) eds_service_name: Option<Arc<str>>,
    pub(crate) balancing: Balancing,
    /// `None`: 5 s.
    pub(crate) connect_timeout: Option<Duration>,
}

/// How calls are spread over the endpoints of a priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Balancing {
    /// Whether localities share the calls by their weights (`wrr_locality`), or all endpoints of a priority are one set.
    pub(crate) by_locality: bool,
    pub(crate) policy: EndpointPolicy,
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

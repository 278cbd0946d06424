//! How much may be under way to a cluster at a time (A32, A105), with Envoy's other limits in addition.

/// The limits of one cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CircuitBreakers {
    /// Attempts from their admission to the end of their stream (A32).
    pub(crate) max_requests: u32,
    /// Calls that wait for an endpoint or a slot; `None`: as many as the mesh's options say.
    pub(crate) max_pending_requests: Option<u32>,
    /// Connections to all endpoints together. Each endpoint in use may have one all the same.
    pub(crate) max_connections: Option<u32>,
    /// Retries under way at a time.
    pub(crate) max_retries: Option<u32>,
    pub(crate) retry_budget: Option<RetryBudget>,
    /// Connections to one endpoint, 1 to 10 (A105); `None`: as many as the mesh's options say.
    pub(crate) max_connections_per_endpoint: Option<usize>,
}

/// Retries under way as a share of the calls under way, in place of `max_retries`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RetryBudget {
    /// Percent, 0 to 100.
    pub(crate) percent: f64,
    /// So many are allowed however few calls there are.
    pub(crate) min_concurrency: u32,
}

impl CircuitBreakers {
    /// The limit of a cluster whose control plane sets none (A32).
    pub(crate) const DEFAULT_MAX_REQUESTS: u32 = 1024;
    /// More connections to one endpoint are never opened (A105).
    pub(crate) const MOST_CONNECTIONS_PER_ENDPOINT: u32 = 10;

    /// No limit but those of the mesh's options: for clusters that no control plane describes.
    pub(crate) const NONE: Self = Self {
        max_requests: u32::MAX,
        max_pending_requests: None,
        max_connections: None,
        max_retries: None,
        retry_budget: None,
        max_connections_per_endpoint: None,
    };
}

//! When an endpoint that fails is ejected, and for how long (A50), with Envoy's consecutive failures in addition.

use std::time::Duration;

/// What makes an endpoint an outlier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutlierDetection {
    /// Between two looks at what was counted; more than 0.
    pub(crate) interval: Duration,
    /// The first ejection lasts so long, the second in a row twice as long, and so on …
    pub(crate) base_ejection_time: Duration,
    /// … up to this, or `base_ejection_time` if that is longer.
    pub(crate) max_ejection_time: Duration,
    /// Of the endpoints of a priority; one may always be ejected.
    pub(crate) max_ejection_percent: u32,
    pub(crate) success_rate: Option<SuccessRate>,
    pub(crate) failure_percentage: Option<FailurePercentage>,
    pub(crate) consecutive_5xx: Option<Consecutive>,
    pub(crate) consecutive_gateway_failure: Option<Consecutive>,
    pub(crate) consecutive_local_origin_failure: Option<Consecutive>,
    /// Whether failures of local origin are counted apart, or as gateway failures and 5xx as well.
    pub(crate) split_local_origin: bool,
}

/// Ejects whose success rate is far below the others' (A50).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SuccessRate {
    /// So many thousandths of the standard deviation are too far below the mean.
    pub(crate) stdev_factor: u32,
    /// Percent.
    pub(crate) enforcing: u32,
    /// Endpoints that must have enough calls for any to be judged.
    pub(crate) minimum_hosts: u32,
    /// Calls within an interval that are enough.
    pub(crate) request_volume: u32,
}

/// Ejects who fails more than a share of the calls (A50).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FailurePercentage {
    /// More than so many percent are too many.
    pub(crate) threshold: u32,
    /// Percent.
    pub(crate) enforcing: u32,
    /// Endpoints that there must be for any to be judged.
    pub(crate) minimum_hosts: u32,
    /// Calls within an interval that are enough to judge an endpoint.
    pub(crate) request_volume: u32,
}

/// Ejects who fails so often in a row, at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Consecutive {
    /// At least 1.
    pub(crate) failures: u32,
    /// Percent.
    pub(crate) enforcing: u32,
}

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

impl OutlierDetection {
    /// For clusters of which the control plane says nothing: an endpoint that resets five calls or loses five connections
    /// in a row is left alone for ten seconds, as long as most others are not.
    pub(crate) const LOCAL: Self = Self {
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(10),
        max_ejection_time: Duration::from_secs(300),
        max_ejection_percent: 30,
        success_rate: None,
        failure_percentage: None,
        consecutive_5xx: None,
        consecutive_gateway_failure: None,
        consecutive_local_origin_failure: Some(Consecutive { failures: 5, enforcing: 100 }),
        split_local_origin: true,
    };

    /// Whether successes and failures are counted for each interval.
    pub(crate) fn needs_totals(&self) -> bool {
        self.success_rate.is_some() || self.failure_percentage.is_some()
    }

    /// How long an ejection lasts that is the `multiplier`th in a row.
    pub(crate) fn ejection_time(&self, multiplier: u32) -> Duration {
        let longest = self.base_ejection_time.max(self.max_ejection_time);
        self.base_ejection_time.saturating_mul(multiplier).min(longest)
    }
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

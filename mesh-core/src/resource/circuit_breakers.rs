//! How much may be under way to a cluster at a time (A32, A105), with Envoy's other limits in addition.

#[cfg(feature = "retry")]
use std::time::Duration;

use crate::origin::Sourced;

/// The limits of one cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CircuitBreakers {
    /// Attempts from their admission to the end of their stream (A32).
    pub(crate) max_requests: Sourced<u32>,
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
    pub(crate) const DEFAULT_MAX_REQUESTS: Sourced<u32> = Sourced::by_default(1024);
    /// More connections to one endpoint are never opened (A105).
    pub(crate) const MOST_CONNECTIONS_PER_ENDPOINT: u32 = 10;

    /// No limit but those of the mesh's options: for clusters that no control plane describes.
    pub(crate) const NONE: Self = Self {
        max_requests: Sourced::by_default(u32::MAX),
        max_pending_requests: None,
        max_connections: None,
        max_retries: None,
        retry_budget: None,
        max_connections_per_endpoint: None,
    };

    /// How many retries may be under way beside so many calls.
    #[cfg(feature = "retry")]
    pub(crate) fn most_retries(&self, calls: u32) -> u32 {
        let Some(RetryBudget { percent, min_concurrency }) = self.retry_budget else {
            return self.max_retries.unwrap_or(u32::MAX);
        };
        // A millionth of a share is exact enough, and leaves no cast from a float that could be out of range.
        let ppm = Duration::try_from_secs_f64(percent / 100.0).map_or(0, |share| share.as_micros());
        let share = u128::from(calls) * ppm / 1_000_000;
        u32::try_from(share).unwrap_or(u32::MAX).max(min_concurrency)
    }
}

#[cfg(all(test, feature = "retry"))]
mod tests {
    use super::*;

    #[test]
    fn a_retry_budget_is_a_share_with_a_least_and_goes_before_a_number() {
        let budget = |percent, min_concurrency| Some(RetryBudget { percent, min_concurrency });
        for (max_retries, retry_budget, calls, most) in [
            (None, None, 5, u32::MAX),
            (Some(7), None, 5, 7),
            (Some(7), budget(20.0, 3), 5, 3),
            (None, budget(20.0, 3), 100, 20),
            (None, budget(0.5, 0), 199, 0),
            (None, budget(0.5, 0), 200, 1),
            (None, budget(100.0, 0), u32::MAX, u32::MAX),
            (Some(7), budget(0.0, 0), 5, 0),
        ] {
            let breakers = CircuitBreakers { max_retries, retry_budget, ..CircuitBreakers::NONE };
            assert_eq!(breakers.most_retries(calls), most, "{max_retries:?}, {retry_budget:?}, {calls}");
        }
    }
}

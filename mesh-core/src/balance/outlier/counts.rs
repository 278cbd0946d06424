//! How often endpoints were ejected, or were not although they were outliers (A91).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::connect::Streak;

/// What made an endpoint an outlier, by A91's names and Envoy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    SuccessRate,
    FailurePercentage,
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    ConsecutiveLocalOriginFailure,
}

/// Why an outlier was not ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unenforced {
    /// By chance: it is enforced for a share of the outliers.
    EnforcementPercentage,
    /// So many are ejected already.
    MaxEjectionOverflow,
    /// It is the only READY endpoint that is left.
    LastEndpoint,
}

/// The counts of one cluster.
#[derive(Debug, Default)]
pub(crate) struct EjectionCounts([[AtomicU64; 4]; 5]);

impl Method {
    const ALL: [Self; 5] = [
        Self::SuccessRate,
        Self::FailurePercentage,
        Self::Consecutive5xx,
        Self::ConsecutiveGatewayFailure,
        Self::ConsecutiveLocalOriginFailure,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SuccessRate => "success_rate",
            Self::FailurePercentage => "failure_percentage",
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Self::ConsecutiveLocalOriginFailure => "consecutive_local_origin_failure",
        }
    }
}

impl From<Streak> for Method {
    fn from(streak: Streak) -> Self {
        match streak {
            Streak::ServerErrors => Self::Consecutive5xx,
            Streak::GatewayErrors => Self::ConsecutiveGatewayFailure,
            Streak::LocalOrigin => Self::ConsecutiveLocalOriginFailure,
        }
    }
}

impl Unenforced {
    const ALL: [Self; 3] = [Self::EnforcementPercentage, Self::MaxEjectionOverflow, Self::LastEndpoint];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::EnforcementPercentage => "enforcement_percentage",
            Self::MaxEjectionOverflow => "max_ejection_overflow",
            Self::LastEndpoint => "last_endpoint",
        }
    }
}

impl EjectionCounts {
    /// Counts an outlier: ejected, or why not.
    pub(super) fn count(&self, method: Method, outcome: Result<(), Unenforced>) {
        self.of(method, outcome.err()).fetch_add(1, Ordering::Relaxed);
    }

    /// All that was counted at least once: ejections enforced, and by reason those that were not.
    pub(crate) fn list(&self) -> Vec<(Method, Option<Unenforced>, u64)> {
        let reasons = || std::iter::once(None).chain(Unenforced::ALL.map(Some));
        let all = Method::ALL.into_iter().flat_map(|method| reasons().map(move |reason| (method, reason)));
        let counted = all.map(|(method, reason)| (method, reason, self.of(method, reason).load(Ordering::Relaxed)));
        counted.filter(|(.., count)| *count > 0).collect()
    }

    fn of(&self, method: Method, reason: Option<Unenforced>) -> &AtomicU64 {
        &self.0[method as usize][reason.map_or(0, |reason| 1 + reason as usize)]
    }
}

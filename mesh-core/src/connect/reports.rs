//! What an endpoint reports of its load (ORCA, A51), and the weight that it comes to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName};

use crate::resource::weighted_round_robin::{Reporting, WeightedRoundRobin};

/// An `xds.data.orca.v3.OrcaLoadReport` in base64.
const HEADER: HeaderName = HeaderName::from_static("endpoint-load-metrics-bin");
/// A longer header is not read.
const MAX_HEADER: usize = 16 << 10;

/// gRPC's binary headers come with padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How the reports of a cluster's endpoints are weighed, if they are.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// Whether responses are looked into: all that a call pays whose cluster has no use for reports.
    in_headers: AtomicBool,
    config: ArcSwapOption<WeightedRoundRobin>,
}

impl Reports {
    pub(super) fn weigh(&self, config: Option<&Arc<WeightedRoundRobin>>) {
        if self.config.load().as_ref().map(Arc::as_ptr) == config.map(Arc::as_ptr) {
            return;
        }
        let per_call = config.is_some_and(|config| config.reporting == Reporting::PerCall);
        self.in_headers.store(per_call, Ordering::Relaxed);
        self.config.store(config.cloned());
    }

    pub(super) fn are_in_headers(&self) -> bool {
        self.in_headers.load(Ordering::Relaxed)
    }

    pub(super) fn weight(&self, report: &[u8]) -> Option<f64> {
        self.config.load().as_ref()?.weight(report)
    }
}

/// The report in the head or the trailers of a response; `None` if there is none that could be one.
#[cold]
pub(super) fn in_headers(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(HEADER)?.as_bytes();
    if value.len() > MAX_HEADER {
        return None;
    }
    BASE64.decode(value).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn header(value: &str) -> HeaderMap {
        [(HEADER, HeaderValue::from_str(value).expect("a header's value"))].into_iter().collect()
    }

    #[test]
    fn a_report_is_read_with_padding_or_without_and_what_is_none_is_not() {
        assert_eq!(in_headers(&header("AQI=")), Some(vec![1, 2]));
        assert_eq!(in_headers(&header("AQI")), Some(vec![1, 2]));
        for none in ["A", "AQI=,AQI=", "?", "TEXT cpu_utilization=0.3", &"A".repeat(MAX_HEADER + 4)] {
            assert_eq!(in_headers(&header(none)), None, "{none}");
        }
        assert_eq!(in_headers(&HeaderMap::new()), None);
    }

    #[test]
    fn reports_are_looked_for_in_responses_only_if_a_policy_asks_for_them_there() {
        let reports = Reports::default();
        assert!(!reports.are_in_headers());
        let config = |reporting| Arc::new(WeightedRoundRobin { reporting, ..WeightedRoundRobin::default() });
        reports.weigh(Some(&config(Reporting::PerCall)));
        assert!(reports.are_in_headers());
        reports.weigh(Some(&config(Reporting::OutOfBand(WeightedRoundRobin::OOB_REPORTING_PERIOD))));
        assert!(!reports.are_in_headers());
        reports.weigh(None);
        assert_eq!(reports.weight(b""), None);
    }
}

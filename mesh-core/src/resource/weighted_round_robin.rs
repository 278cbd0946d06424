//! `ClientSideWeightedRoundRobin`: weights by what the endpoints report of their load (A58, A114).

use std::time::Duration;

use bytes::Bytes;
use mesh_xds_proto::xds::data::orca::v3::OrcaLoadReport;
use mesh_xds_proto::xds::service::orca::v3::OrcaLoadReportRequest;
use prost::Message;

use super::slow_start::SlowStart;

/// A longer report is not read.
const MAX_REPORT: usize = 16 << 10;

/// How weights are made and used.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WeightedRoundRobin {
    pub(crate) reporting: Reporting,
    pub(crate) blackout_period: Duration,
    pub(crate) weight_expiration_period: Duration,
    /// At least [`MIN_UPDATE_PERIOD`](Self::MIN_UPDATE_PERIOD).
    pub(crate) weight_update_period: Duration,
    /// Finite and not negative.
    pub(crate) error_utilization_penalty: f32,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) slow_start: Option<SlowStart>,
}

/// How endpoints report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reporting {
    /// In the trailers of each response.
    PerCall,
    /// On a stream of its own, about this often.
    OutOfBand(Duration),
}

/// A number in a report that may stand for the utilization (A114).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    Application,
    Cpu,
    Memory,
    Named(String),
    Utilization(String),
}

impl Default for WeightedRoundRobin {
    fn default() -> Self {
        Self {
            reporting: Reporting::PerCall,
            blackout_period: Duration::from_secs(10),
            weight_expiration_period: Duration::from_secs(180),
            weight_update_period: Duration::from_secs(1),
            error_utilization_penalty: 1.0,
            metrics: Vec::new(),
            slow_start: None,
        }
    }
}

impl WeightedRoundRobin {
    pub(crate) const MIN_UPDATE_PERIOD: Duration = Duration::from_millis(100);
    pub(crate) const OOB_REPORTING_PERIOD: Duration = Duration::from_secs(10);

    /// How often endpoints are to report out of band, if they are.
    pub(crate) fn out_of_band(&self) -> Option<Duration> {
        match self.reporting {
            Reporting::PerCall => None,
            Reporting::OutOfBand(period) => Some(period),
        }
    }

    /// The weight that a report comes to; `None` if it is no report, or says nothing.
    pub(crate) fn weight(&self, report: &[u8]) -> Option<f64> {
        if report.len() > MAX_REPORT {
            return None;
        }
        let report = OrcaLoadReport::decode(report).ok()?;
        let (rate, errors) = (report.rps_fractional, report.eps);
        let utilization = self.utilization(&report);
        let penalty = f64::from(self.error_utilization_penalty) * errors / rate;
        let loss = if penalty > 0.0 { penalty } else { 0.0 };
        let weight = rate / (utilization? + loss);
        (weight.is_finite() && weight > 0.0).then_some(weight)
    }

    /// What the application says of itself, else the largest of the metrics asked for, else the CPU's.
    fn utilization(&self, report: &OrcaLoadReport) -> Option<f64> {
        let positive = |value: &f64| *value > 0.0 && value.is_finite();
        let named = || self.metrics.iter().filter_map(|metric| metric.read(report)).filter(positive).reduce(f64::max);
        let application = Some(report.application_utilization).filter(positive);
        application.or_else(named).or_else(|| Some(report.cpu_utilization).filter(positive))
    }
}

/// What asks an endpoint for a report about every `period`.
pub(crate) fn report_request(period: Duration) -> Bytes {
    let report_interval = prost_types::Duration::try_from(period).ok();
    OrcaLoadReportRequest { report_interval, request_cost_names: Vec::new() }.encode_to_vec().into()
}

impl Metric {
    /// `None` for a name that stands for no number in a report: such a metric is never reported.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name.split_once('.') {
            Some(("named_metrics", key)) => Self::Named(key.to_owned()),
            Some(("utilization", key)) => Self::Utilization(key.to_owned()),
            Some(_) => return None,
            None => match name {
                "application_utilization" => Self::Application,
                "cpu_utilization" => Self::Cpu,
                "mem_utilization" => Self::Memory,
                _ => return None,
            },
        })
    }

    fn read(&self, report: &OrcaLoadReport) -> Option<f64> {
        match self {
            Self::Application => Some(report.application_utilization),
            Self::Cpu => Some(report.cpu_utilization),
            Self::Memory => Some(report.mem_utilization),
            Self::Named(key) => report.named_metrics.get(key).copied(),
            Self::Utilization(key) => report.utilization.get(key).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Queries and errors per second, utilization by the application and of the CPU.
    fn report(qps: f64, eps: f64, application: f64, cpu: f64) -> OrcaLoadReport {
        OrcaLoadReport {
            rps_fractional: qps,
            eps,
            application_utilization: application,
            cpu_utilization: cpu,
            ..OrcaLoadReport::default()
        }
    }

    fn asking_for(names: &[&str]) -> WeightedRoundRobin {
        let metrics = names.iter().filter_map(|name| Metric::parse(name)).collect();
        WeightedRoundRobin { metrics, ..WeightedRoundRobin::default() }
    }

    #[test]
    fn a_weight_is_calls_per_utilization_and_errors_lessen_it() {
        for (penalty, report, expected) in [
            (1.0, report(100.0, 0.0, 0.5, 0.0), Some(200.0)),
            (1.0, report(100.0, 0.0, 0.0, 0.25), Some(400.0)),
            (1.0, report(100.0, 0.0, 0.5, 0.25), Some(200.0)),
            (1.0, report(100.0, 50.0, 0.5, 0.0), Some(100.0)),
            (2.0, report(100.0, 50.0, 0.5, 0.0), Some(100.0 / 1.5)),
            (0.0, report(100.0, 50.0, 0.5, 0.0), Some(200.0)),
            (1.0, report(100.0, 0.0, 0.0, 0.0), None),
            (1.0, report(0.0, 0.0, 0.5, 0.5), None),
            (1.0, report(-1.0, 0.0, 0.5, 0.0), None),
            (1.0, report(100.0, 0.0, -0.5, f64::NAN), None),
            (1.0, report(100.0, 0.0, f64::INFINITY, 0.5), Some(200.0)),
            (1.0, report(f64::INFINITY, 0.0, 0.5, 0.0), None),
            (1.0, report(f64::NAN, 0.0, 0.5, 0.0), None),
            (1.0, report(100.0, f64::NAN, 0.5, 0.0), Some(200.0)),
            (1.0, report(100.0, -100.0, 0.5, 0.0), Some(200.0)),
            (1.0, report(1e300, 0.0, 1e-300, 0.0), None),
        ] {
            let config = WeightedRoundRobin { error_utilization_penalty: penalty, ..WeightedRoundRobin::default() };
            assert_eq!(config.weight(&report.encode_to_vec()), expected, "penalty {penalty}, {report:?}");
        }
    }

    #[test]
    fn utilization_is_the_largest_metric_asked_for_unless_the_application_says_it() {
        let mut full = report(100.0, 0.0, 0.0, 0.5);
        full.mem_utilization = 0.8;
        full.named_metrics = [("queue".to_owned(), 0.2), ("a.b".to_owned(), 0.4), ("bad".to_owned(), f64::NAN)].into();
        full.utilization = [("disk".to_owned(), 0.1)].into();
        for (names, expected) in [
            (&[][..], 0.5),
            (&["mem_utilization"], 0.8),
            (&["named_metrics.queue"], 0.2),
            (&["named_metrics.a.b", "named_metrics.queue"], 0.4),
            (&["utilization.disk", "named_metrics.queue"], 0.2),
            (&["named_metrics.bad", "utilization.disk"], 0.1),
            (&["application_utilization", "cpu_utilization", "named_metrics.queue"], 0.5),
            (&["named_metrics.unknown", "unknown", "request_cost.queue", "rps", ""], 0.5),
        ] {
            assert_eq!(asking_for(names).weight(&full.encode_to_vec()), Some(100.0 / expected), "{names:?}");
        }
        full.application_utilization = 0.4;
        assert_eq!(asking_for(&["mem_utilization"]).weight(&full.encode_to_vec()), Some(250.0));
    }

    #[test]
    fn what_is_no_report_is_none() {
        let config = WeightedRoundRobin::default();
        let mut long = report(100.0, 0.0, 0.5, 0.0);
        long.named_metrics.insert("x".repeat(MAX_REPORT), 1.0);
        for bytes in [&b""[..], &[0xff; 40], &[0x0a], &long.encode_to_vec()] {
            assert_eq!(config.weight(bytes), None);
        }
    }
}

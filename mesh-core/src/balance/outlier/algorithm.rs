//! The two algorithms of A50: who is an outlier by what was counted in an interval.

use crate::resource::outlier_detection::{FailurePercentage, SuccessRate};

/// What was counted of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) successes: u32,
    pub(crate) failures: u32,
}

impl Totals {
    fn volume(self) -> u64 {
        u64::from(self.successes) + u64::from(self.failures)
    }

    /// From 0 to 1.
    fn success_rate(self) -> f64 {
        f64::from(self.successes) / self.volume().max(1) as f64
    }
}

/// Those whose success rate is lower than the mean by more than the factor times the standard deviation.
pub(super) fn by_success_rate(config: &SuccessRate, hosts: &[Totals]) -> Vec<usize> {
    let enough = |totals: &Totals| totals.volume() >= u64::from(config.request_volume.max(1));
    let rates: Vec<(usize, f64)> = (0..).zip(hosts).filter(|(_, totals)| enough(totals)).map(rate).collect();
    if rates.is_empty() || rates.len() < config.minimum_hosts as usize {
        return Vec::new();
    }
    let count = rates.len() as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
    let threshold = mean - variance.sqrt() * f64::from(config.stdev_factor) / 1000.0;
    rates.into_iter().filter(|(_, rate)| *rate < threshold).map(|(index, _)| index).collect()
}

fn rate((index, totals): (usize, &Totals)) -> (usize, f64) {
    (index, totals.success_rate())
}

/// Those that failed more than a share of their calls. As in gRPC C-core and grpc-go, `minimum_hosts` is of those that
/// had enough calls.
pub(super) fn by_failure_percentage(config: &FailurePercentage, hosts: &[Totals]) -> Vec<usize> {
    let enough = |totals: &Totals| totals.volume() >= u64::from(config.request_volume.max(1));
    if hosts.iter().filter(|totals| enough(totals)).count() < config.minimum_hosts as usize {
        return Vec::new();
    }
    let fails = |totals: &Totals| 100.0 * (1.0 - totals.success_rate()) > f64::from(config.threshold);
    (0..).zip(hosts).filter(|(_, totals)| enough(totals) && fails(totals)).map(|(index, _)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(counted: &[(u32, u32)]) -> Vec<Totals> {
        counted.iter().map(|&(successes, failures)| Totals { successes, failures }).collect()
    }

    #[test]
    fn an_endpoint_is_an_outlier_by_its_distance_to_the_others() {
        let config = |stdev_factor| SuccessRate { stdev_factor, enforcing: 100, minimum_hosts: 5, request_volume: 100 };
        let one_fails = hosts(&[(100, 0), (100, 0), (100, 0), (100, 0), (0, 100)]);
        // Mean 0.8 and standard deviation 0.4: the threshold is 0.04.
        assert_eq!(by_success_rate(&config(1900), &one_fails), [4]);
        assert_eq!(by_success_rate(&config(2000), &one_fails), [0; 0], "0.0 is not below 0.8 - 2 * 0.4");
        let all_alike = hosts(&[(50, 50); 6]);
        assert_eq!(by_success_rate(&config(1900), &all_alike), [0; 0]);
        assert_eq!(by_success_rate(&config(0), &one_fails), [4], "without a factor it is the mean that counts");
    }

    #[test]
    fn too_few_calls_or_endpoints_are_no_ground_for_success_rates() {
        let config =
            |minimum_hosts| SuccessRate { stdev_factor: 1000, enforcing: 100, minimum_hosts, request_volume: 100 };
        let counted = hosts(&[(100, 0), (100, 0), (100, 0), (100, 0), (0, 100), (0, 99)]);
        assert_eq!(by_success_rate(&config(5), &counted), [4], "the last one had too few calls");
        assert_eq!(by_success_rate(&config(6), &counted), [0; 0]);
        assert_eq!(by_success_rate(&config(0), &hosts(&[(0, 0), (1, 1)])), [0; 0]);
    }

    #[test]
    fn a_percentage_must_be_exceeded() {
        let config = |threshold, minimum_hosts| FailurePercentage {
            threshold,
            enforcing: 100,
            minimum_hosts,
            request_volume: 50,
        };
        let counted = hosts(&[(15, 85), (14, 86), (0, 49), (0, 50)]);
        assert_eq!(by_failure_percentage(&config(85, 3), &counted), [1, 3]);
        assert_eq!(by_failure_percentage(&config(85, 4), &counted), [0; 0], "only three had enough calls");
        assert_eq!(by_failure_percentage(&config(100, 0), &counted), [0; 0]);
        assert_eq!(by_failure_percentage(&config(0, 0), &hosts(&[(0, 0)])), [0; 0]);
    }
}

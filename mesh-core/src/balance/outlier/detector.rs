//! Who is ejected, why, and for how long; without I/O: what was counted, the time and chance come in, ejections go out.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::algorithm::{Totals, by_failure_percentage, by_success_rate};
use super::counts::{EjectionCounts, Method, Unenforced};
use crate::connect::Streak;
use crate::resource::endpoints::Address;
use crate::resource::outlier_detection::OutlierDetection;

/// The ejections of one cluster, by address.
#[derive(Debug, Default)]
pub(crate) struct Detector {
    /// Endpoints that are ejected, or were not long ago.
    records: HashMap<Address, Record>,
}

#[derive(Debug, Default)]
struct Record {
    ejected: Option<Ejection>,
    /// Grows by one with each ejection, and shrinks with each interval without one.
    multiplier: u32,
    /// When it returned, if it did.
    returned: Option<Instant>,
}

/// Why an endpoint is ejected, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ejection {
    pub(crate) method: Method,
    since: Instant,
}

/// What the detector is told and told by: the policy, the time, a number below 100 by chance, and where it counts.
pub(crate) struct Look<'a> {
    pub(crate) policy: &'a OutlierDetection,
    pub(crate) now: Instant,
    pub(crate) draw: fn() -> u32,
    pub(crate) counts: &'a EjectionCounts,
}

/// The endpoints of a priority, as far as their number matters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) endpoints: usize,
    pub(crate) ejected: usize,
    /// READY ones beside the one that is judged.
    pub(crate) others_ready: usize,
}

impl Detector {
    /// An interval is over for the endpoints of a priority. Answers whom it ejects.
    pub(crate) fn sweep(&mut self, hosts: &[(&Address, Totals)], look: &Look<'_>) -> Vec<usize> {
        let totals: Vec<Totals> = hosts.iter().map(|(_, totals)| *totals).collect();
        let success_rate = look.policy.success_rate.iter();
        let success_rate =
            success_rate.map(|config| (Method::SuccessRate, config.enforcing, by_success_rate(config, &totals)));
        let percentage = look.policy.failure_percentage.iter();
        let percentage = percentage
            .map(|config| (Method::FailurePercentage, config.enforcing, by_failure_percentage(config, &totals)));
        let mut ejected = hosts.iter().filter(|(address, _)| self.is_ejected(address)).count();
        let mut answer = Vec::new();
        for (method, enforcing, outliers) in success_rate.chain(percentage) {
            for index in outliers {
                // As in gRPC, no endpoint is too few to eject one.
                let group = Group { endpoints: hosts.len(), ejected, others_ready: usize::MAX };
                if self.judge(hosts[index].0, method, enforcing, group, look) {
                    ejected += 1;
                    answer.push(index);
                }
            }
        }
        answer
    }

    /// An endpoint failed too often in a row. Answers whether it is ejected.
    pub(crate) fn fail(&mut self, address: &Address, streak: Streak, group: Group, look: &Look<'_>) -> bool {
        let config = match streak {
            Streak::ServerErrors => look.policy.consecutive_5xx,
            Streak::GatewayErrors => look.policy.consecutive_gateway_failure,
            Streak::LocalOrigin => look.policy.consecutive_local_origin_failure,
        };
        config.is_some_and(|config| self.judge(address, streak.into(), config.enforcing, group, look))
    }

    fn judge(&mut self, address: &Address, method: Method, enforcing: u32, group: Group, look: &Look<'_>) -> bool {
        if self.is_ejected(address) {
            return false;
        }
        let outcome = enforced(enforcing, group, look);
        look.counts.count(method, outcome);
        if outcome.is_ok() {
            let record = self.records.entry(address.clone()).or_default();
            record.ejected = Some(Ejection { method, since: look.now });
            record.multiplier = record.multiplier.saturating_add(1);
        }
        outcome.is_ok()
    }

    /// Ends an interval for all endpoints of the cluster. Answers who returns. For `returning` after its return an endpoint has
    /// few calls (slow start): that it does not fail then says little, and its next ejection is none the shorter for it.
    pub(crate) fn finish(&mut self, policy: &OutlierDetection, returning: Duration, now: Instant) -> Vec<Address> {
        let mut returned = Vec::new();
        self.records.retain(|address, record| {
            match record.ejected {
                None if record.returned.is_some_and(|since| now.duration_since(since) < returning) => {}
                None => record.multiplier = record.multiplier.saturating_sub(1),
                Some(ejection) if until(ejection, record.multiplier, policy).is_some_and(|until| until <= now) => {
                    (record.ejected, record.returned) = (None, Some(now));
                    returned.push(address.clone());
                }
                Some(_) => {}
            }
            record.ejected.is_some() || record.multiplier > 0
        });
        returned
    }

    /// Nobody is ejected any more. Answers who was.
    pub(crate) fn clear(&mut self) -> Vec<Address> {
        self.records.drain().filter(|(_, record)| record.ejected.is_some()).map(|(address, _)| address).collect()
    }

    /// Forgets the endpoints that are gone.
    pub(crate) fn retain(&mut self, is_there: impl Fn(&Address) -> bool) {
        self.records.retain(|address, _| is_there(address));
    }

    /// Whether there is anybody to think of at the next interval.
    pub(crate) fn is_idle(&self) -> bool {
        self.records.is_empty()
    }

    pub(crate) fn is_ejected(&self, address: &Address) -> bool {
        self.records.get(address).is_some_and(|record| record.ejected.is_some())
    }

    pub(crate) fn ejected(&self) -> impl Iterator<Item = &Address> {
        self.records.iter().filter(|(_, record)| record.ejected.is_some()).map(|(address, _)| address)
    }

    /// Why an endpoint is ejected, and when that ends at the earliest; it does at the end of an interval.
    pub(crate) fn ejection(&self, address: &Address, policy: &OutlierDetection) -> Option<(Method, Option<Instant>)> {
        let record = self.records.get(address)?;
        let ejection = record.ejected?;
        Some((ejection.method, until(ejection, record.multiplier, policy)))
    }
}

/// `None`: beyond what the clock can say.
fn until(ejection: Ejection, multiplier: u32, policy: &OutlierDetection) -> Option<Instant> {
    ejection.since.checked_add(policy.ejection_time(multiplier))
}

fn enforced(enforcing: u32, group: Group, look: &Look<'_>) -> Result<(), Unenforced> {
    if (look.draw)() >= enforcing {
        return Err(Unenforced::EnforcementPercentage);
    }
    if group.others_ready == 0 {
        return Err(Unenforced::LastEndpoint);
    }
    // One may always be ejected; the others only below the share, as in C-core and grpc-go.
    if group.ejected > 0 && 100 * group.ejected >= look.policy.max_ejection_percent as usize * group.endpoints {
        return Err(Unenforced::MaxEjectionOverflow);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::connect::testing::address;
    use crate::resource::outlier_detection::{Consecutive, FailurePercentage};

    const GOOD: Totals = Totals { successes: 10, failures: 0 };
    const BAD: Totals = Totals { successes: 0, failures: 10 };

    fn policy() -> OutlierDetection {
        let failure_percentage =
            FailurePercentage { threshold: 50, enforcing: 100, minimum_hosts: 0, request_volume: 10 };
        OutlierDetection {
            base_ejection_time: Duration::from_secs(30),
            max_ejection_percent: 50,
            failure_percentage: Some(failure_percentage),
            consecutive_5xx: Some(Consecutive { failures: 5, enforcing: 30 }),
            ..OutlierDetection::LOCAL
        }
    }

    struct Cluster {
        detector: Detector,
        policy: OutlierDetection,
        counts: EjectionCounts,
        returning: Duration,
        start: Instant,
    }

    impl Cluster {
        fn new() -> Self {
            let (detector, counts) = (Detector::default(), EjectionCounts::default());
            Self { detector, policy: policy(), counts, returning: Duration::ZERO, start: Instant::now() }
        }

        fn at(&self, second: u64) -> Instant {
            self.start + Duration::from_secs(second)
        }

        /// An interval in which these endpoints did so is over at that second: the indices of those ejected and returned.
        fn sweep(&mut self, second: u64, totals: &[Totals]) -> (Vec<usize>, Vec<usize>) {
            let addresses: Vec<Address> = (0..).take(totals.len()).map(address).collect();
            let hosts: Vec<_> = addresses.iter().zip(totals.iter().copied()).collect();
            let now = self.at(second);
            let look = Look { policy: &self.policy, now, draw: || 0, counts: &self.counts };
            let ejected = self.detector.sweep(&hosts, &look);
            let returned = self.detector.finish(&self.policy, self.returning, now);
            let index = |one: &Address| addresses.iter().position(|other| other == one).expect("one of them");
            (ejected, returned.iter().map(index).collect())
        }

        fn fail(&mut self, draw: fn() -> u32, group: Group) -> bool {
            let look = Look { policy: &self.policy, now: self.start, draw, counts: &self.counts };
            self.detector.fail(&address(1), Streak::ServerErrors, group, &look)
        }

        fn counted(&self) -> Vec<(Method, Option<Unenforced>, u64)> {
            self.counts.list()
        }
    }

    #[test]
    fn an_endpoint_returns_after_its_time_and_ever_later_if_it_fails_again() {
        let mut cluster = Cluster::new();
        assert_eq!(cluster.sweep(0, &[GOOD, BAD]), (vec![1], vec![]));
        assert_eq!(cluster.sweep(10, &[GOOD, Totals::default()]), (vec![], vec![]));
        assert_eq!(cluster.sweep(20, &[GOOD, Totals::default()]), (vec![], vec![]));
        assert_eq!(cluster.sweep(30, &[GOOD, Totals::default()]), (vec![], vec![1]));
        assert_eq!(cluster.sweep(40, &[GOOD, BAD]), (vec![1], vec![]), "the second time lasts 60 s");
        assert_eq!(cluster.sweep(90, &[GOOD, GOOD]), (vec![], vec![]));
        assert_eq!(cluster.sweep(100, &[GOOD, GOOD]), (vec![], vec![1]));
        // Two intervals without an ejection take the multiplier back to 0.
        assert_eq!(cluster.sweep(110, &[GOOD, GOOD]), (vec![], vec![]));
        assert!(!cluster.detector.is_idle());
        assert_eq!(cluster.sweep(120, &[GOOD, GOOD]), (vec![], vec![]));
        assert!(cluster.detector.is_idle(), "there is nothing left to think of");
    }

    #[test]
    fn an_endpoint_that_has_few_calls_after_its_return_is_none_the_sooner_forgiven() {
        let mut cluster = Cluster { returning: Duration::from_secs(25), ..Cluster::new() };
        let few = Totals::default();
        assert_eq!(cluster.sweep(0, &[GOOD, BAD]), (vec![1], vec![]));
        assert_eq!(cluster.sweep(30, &[GOOD, few]), (vec![], vec![1]));
        assert_eq!(cluster.sweep(40, &[GOOD, few]), (vec![], vec![]));
        assert_eq!(cluster.sweep(50, &[GOOD, BAD]), (vec![1], vec![]));
        assert_eq!(cluster.sweep(100, &[GOOD, few]), (vec![], vec![]), "the second time lasts 60 s");
        assert_eq!(cluster.sweep(110, &[GOOD, few]), (vec![], vec![1]));
        assert_eq!(cluster.sweep(130, &[GOOD, GOOD]), (vec![], vec![]));
        assert_eq!(cluster.sweep(140, &[GOOD, GOOD]), (vec![], vec![]));
        assert_eq!(cluster.sweep(150, &[GOOD, GOOD]), (vec![], vec![]));
        assert!(cluster.detector.is_idle());
    }

    #[test]
    fn an_ejection_lasts_no_longer_than_the_longest() {
        let policy = policy();
        for (multiplier, seconds) in [(1, 30), (2, 60), (9, 270), (10, 300), (11, 300), (u32::MAX, 300)] {
            assert_eq!(policy.ejection_time(multiplier).as_secs(), seconds, "{multiplier}");
        }
        let longer = OutlierDetection { base_ejection_time: Duration::from_secs(600), ..policy };
        assert_eq!(longer.ejection_time(3).as_secs(), 600);
        let absurd = OutlierDetection { base_ejection_time: Duration::MAX, ..longer };
        assert_eq!(absurd.ejection_time(u32::MAX), Duration::MAX);
    }

    #[test]
    fn one_may_always_be_ejected_and_more_only_below_the_share() {
        for (percent, expected) in [(0, 1), (10, 1), (25, 1), (26, 2), (50, 2), (51, 3), (100, 4)] {
            let mut cluster = Cluster::new();
            cluster.policy.max_ejection_percent = percent;
            let (ejected, _) = cluster.sweep(0, &[BAD; 4]);
            assert_eq!(ejected.len(), expected, "{percent} %");
            let enforced = (Method::FailurePercentage, None, expected as u64);
            let overflow = Some(Unenforced::MaxEjectionOverflow);
            let unenforced = (Method::FailurePercentage, overflow, 4 - expected as u64);
            let counted = [enforced, unenforced].into_iter().filter(|(.., count)| *count > 0).collect::<Vec<_>>();
            assert_eq!(cluster.counted(), counted, "{percent} %");
        }
    }

    #[test]
    fn chance_and_the_last_endpoint_keep_an_outlier_from_being_ejected() {
        let group = Group { endpoints: 10, ejected: 0, others_ready: 1 };
        let mut cluster = Cluster::new();
        assert!(!cluster.fail(|| 30, group), "enforced for 30 of 100: the numbers from 0 to 29");
        assert!(!cluster.fail(|| 29, Group { others_ready: 0, ..group }));
        assert!(!cluster.fail(|| 29, Group { ejected: 5, ..group }));
        assert!(cluster.fail(|| 29, Group { ejected: 4, ..group }));
        assert!(!cluster.fail(|| 29, group), "it is ejected already, and that counts for nothing");
        let method = Method::Consecutive5xx;
        let expected = [
            (method, None, 1),
            (method, Some(Unenforced::EnforcementPercentage), 1),
            (method, Some(Unenforced::MaxEjectionOverflow), 1),
            (method, Some(Unenforced::LastEndpoint), 1),
        ];
        assert_eq!(cluster.counted(), expected);
    }

    #[test]
    fn what_is_gone_or_not_wanted_any_more_is_forgotten() {
        let mut cluster = Cluster::new();
        cluster.policy.max_ejection_percent = 100;
        cluster.sweep(0, &[BAD, BAD, GOOD]);
        cluster.detector.retain(|one| *one != address(0));
        assert!(!cluster.detector.is_ejected(&address(0)) && cluster.detector.is_ejected(&address(1)));
        assert_eq!(cluster.detector.clear(), [address(1)]);
        assert!(cluster.detector.is_idle());
    }
}

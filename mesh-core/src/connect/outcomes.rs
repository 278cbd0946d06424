//! How attempts end: what one end is, and what is counted of them per endpoint, as far as the cluster's outlier detection
//! wants it (A50). What it says of the endpoint's load is in `load.rs`.

use std::sync::{Arc, Weak};

use super::reports::Reports;
use super::subchannel::Observer;
use crate::resource::endpoints::Address;
use crate::resource::outlier_detection::{Consecutive, OutlierDetection};
use crate::resource::weighted_round_robin::WeightedRoundRobin;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};

/// What a response says of the endpoint that sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It did what was asked.
    Success,
    /// It failed the call, and is none the worse for it: the request was wrong, or came at a wrong time.
    Failure,
    /// It took no more calls, as it has too many: as with HTTP's 429. To outlier detection that is a [`Failure`](Self::Failure);
    /// who balances by load keeps away.
    Overloaded,
    /// It could not do what was asked, as with HTTP's 500.
    ServerError,
    /// Something that it needs did not answer, or it is overloaded: as with HTTP's 502, 503 and 504.
    GatewayError,
}

/// How an attempt, or one to connect, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Answered(Outcome),
    Reset,
    ConnectionLost,
    TimedOut,
    /// The endpoint did nothing with the request. Outlier detection does not hold that against it.
    Refused,
    /// No call was sent.
    NotConnected,
}

/// What fails in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streak {
    ServerErrors,
    GatewayErrors,
    LocalOrigin,
}

/// What is counted of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    successes: AtomicU32,
    failures: AtomicU32,
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_origin: AtomicU32,
    /// Connections that were made so far, and the last that took calls with it when it was lost.
    connections: AtomicU32,
    lost: AtomicU32,
    ejected: AtomicBool,
}

/// What a cluster wants counted of its endpoints. Calls read it, and so it is nothing but atomics.
#[derive(Debug)]
pub(crate) struct Criteria {
    flags: AtomicU8,
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_origin: AtomicU32,
    pub(super) reports: Reports,
    observer: Weak<dyn Observer>,
}

/// Outcomes are counted at all.
const ON: u8 = 1;
/// So are successes and failures, for the next look at them.
const TOTALS: u8 = 1 << 1;
/// Failures of local origin are counted apart.
const SPLIT: u8 = 1 << 2;
/// Only resets and lost connections are failures of local origin, and of a connection's calls all together are one.
const MILD: u8 = 1 << 3;
/// Nobody looks at what is counted, until there is something to look at.
const ASLEEP: u8 = 1 << 4;

impl Criteria {
    /// Nothing is counted, until [`set`](Self::set).
    pub(crate) fn new(observer: Weak<dyn Observer>) -> Self {
        Self {
            flags: AtomicU8::new(0),
            server_errors: AtomicU32::new(0),
            gateway_errors: AtomicU32::new(0),
            local_origin: AtomicU32::new(0),
            reports: Reports::default(),
            observer,
        }
    }

    /// From now on what this policy needs is counted; `mild`: it is not the control plane's.
    pub(crate) fn set(&self, policy: Option<&OutlierDetection>, mild: bool) {
        let failures =
            |of: fn(&OutlierDetection) -> Option<Consecutive>| policy.and_then(of).map_or(0, |is| is.failures);
        self.server_errors.store(failures(|policy| policy.consecutive_5xx), Relaxed);
        self.gateway_errors.store(failures(|policy| policy.consecutive_gateway_failure), Relaxed);
        self.local_origin.store(failures(|policy| policy.consecutive_local_origin_failure), Relaxed);
        let flag = |wanted: fn(&OutlierDetection) -> bool, flag| if policy.is_some_and(wanted) { flag } else { 0 };
        let totals = flag(|policy| policy.needs_totals(), TOTALS | ASLEEP);
        let flags = flag(|_| true, ON) | totals | flag(|policy| policy.split_local_origin, SPLIT);
        self.flags.store(if mild { flags | MILD } else { flags }, Relaxed);
    }

    /// What the endpoints report of their load is weighed so from now on; `None`: it is not read.
    pub(crate) fn weigh_reports(&self, config: Option<&Arc<WeightedRoundRobin>>) {
        self.reports.weigh(config);
    }

    /// Nobody looks any more; the next outcome says that there is something to look at.
    pub(crate) fn sleep(&self) {
        self.flags.fetch_or(ASLEEP, Relaxed);
    }

    fn wake(&self) {
        if self.flags.fetch_and(!ASLEEP, Relaxed) & ASLEEP != 0
            && let Some(observer) = self.observer.upgrade()
        {
            observer.outcomes_arrive();
        }
    }

    fn limit(&self, streak: Streak) -> u32 {
        let limit = match streak {
            Streak::ServerErrors => &self.server_errors,
            Streak::GatewayErrors => &self.gateway_errors,
            Streak::LocalOrigin => &self.local_origin,
        };
        limit.load(Relaxed)
    }

    /// Whether outcomes are counted at all.
    pub(crate) fn counts(&self) -> bool {
        self.flags.load(Relaxed) & ON != 0
    }
}

impl Outcomes {
    /// Counts an end, and tells the observer if it is one failure too many.
    pub(super) fn record(&self, ended: Ended, endpoint: &Address, criteria: &Criteria) {
        let flags = criteria.flags.load(Relaxed);
        if flags & ON == 0 {
            return;
        }
        match ended {
            Ended::Answered(Outcome::Success) => {
                if flags & TOTALS != 0 {
                    self.successes.fetch_add(1, Relaxed);
                }
                self.forget_streaks();
            }
            Ended::Refused => return,
            failed => self.record_failure(failed, flags, endpoint, criteria),
        }
        if flags & ASLEEP != 0 {
            criteria.wake();
        }
    }

    #[cold]
    fn record_failure(&self, failed: Ended, flags: u8, endpoint: &Address, criteria: &Criteria) {
        if flags & TOTALS != 0 && failed != Ended::NotConnected {
            self.failures.fetch_add(1, Relaxed);
        }
        let grow = |streak| self.grow(streak, endpoint, criteria);
        match failed {
            Ended::Answered(outcome) => {
                clear(&self.local_origin);
                match outcome {
                    Outcome::GatewayError => {
                        grow(Streak::GatewayErrors);
                        grow(Streak::ServerErrors);
                    }
                    Outcome::ServerError => {
                        clear(&self.gateway_errors);
                        grow(Streak::ServerErrors);
                    }
                    Outcome::Success | Outcome::Failure | Outcome::Overloaded => self.forget_streaks(),
                }
            }
            _ if flags & MILD != 0 => {
                if failed == Ended::Reset || (failed == Ended::ConnectionLost && self.is_first_of_connection()) {
                    grow(Streak::LocalOrigin);
                }
            }
            _ if flags & SPLIT != 0 => grow(Streak::LocalOrigin),
            // To Envoy they are 503 and 504.
            _ => {
                grow(Streak::GatewayErrors);
                grow(Streak::ServerErrors);
            }
        }
    }

    fn grow(&self, streak: Streak, endpoint: &Address, criteria: &Criteria) {
        let limit = criteria.limit(streak);
        if limit > 0
            && self.streak(streak).fetch_add(1, Relaxed) + 1 == limit
            && let Some(observer) = criteria.observer.upgrade()
        {
            observer.endpoint_failed(endpoint, streak);
        }
    }

    /// A connection is lost once, however many calls go with it.
    fn is_first_of_connection(&self) -> bool {
        let made = self.connections.load(Relaxed);
        self.lost.swap(made, Relaxed) != made
    }

    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    fn streak(&self, streak: Streak) -> &AtomicU32 {
        match streak {
            Streak::ServerErrors => &self.server_errors,
            Streak::GatewayErrors => &self.gateway_errors,
            Streak::LocalOrigin => &self.local_origin,
        }
    }

    /// Whatever failed in a row, the row is over.
    pub(super) fn forget_streaks(&self) {
        clear(&self.server_errors);
        clear(&self.gateway_errors);
        clear(&self.local_origin);
    }

    /// One of the rows is over.
    pub(super) fn forget_streak(&self, streak: Streak) {
        clear(self.streak(streak));
    }

    /// Successes and failures since this was last asked.
    pub(super) fn take_totals(&self) -> (u32, u32) {
        (self.successes.swap(0, Relaxed), self.failures.swap(0, Relaxed))
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.ejected.load(Relaxed)
    }

    pub(super) fn set_ejected(&self, ejected: bool) {
        self.ejected.store(ejected, Relaxed);
    }
}

/// Mostly it is 0 already, and only read: what all threads write is dear.
fn clear(count: &AtomicU32) {
    if count.load(Relaxed) != 0 {
        count.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::connect::ConnectivityState;
    use crate::connect::testing::address;

    #[derive(Debug, Default)]
    struct Told {
        failed: Mutex<Vec<Streak>>,
        awake: AtomicU32,
    }

    impl Observer for Told {
        fn subchannel_changed(&self, _: ConnectivityState) {}

        fn endpoint_failed(&self, _: &Address, streak: Streak) {
            self.failed.lock().push(streak);
        }

        fn outcomes_arrive(&self) {
            self.awake.fetch_add(1, Relaxed);
        }
    }

    struct Endpoint {
        told: Arc<Told>,
        criteria: Criteria,
        outcomes: Outcomes,
    }

    impl Endpoint {
        fn new(policy: Option<OutlierDetection>, mild: bool) -> Self {
            let told = Arc::<Told>::default();
            let observer: Arc<dyn Observer> = told.clone();
            let criteria = Criteria::new(Arc::downgrade(&observer));
            criteria.set(policy.as_ref(), mild);
            Self { told, criteria, outcomes: Outcomes::default() }
        }

        /// What the observer is told of these ends.
        fn record(&self, ends: &[Ended]) -> Vec<Streak> {
            ends.iter().for_each(|end| self.outcomes.record(*end, &address(1), &self.criteria));
            std::mem::take(&mut *self.told.failed.lock())
        }
    }

    const SUCCESS: Ended = Ended::Answered(Outcome::Success);
    const FAILURE: Ended = Ended::Answered(Outcome::Failure);
    const OVERLOADED: Ended = Ended::Answered(Outcome::Overloaded);
    const SERVER: Ended = Ended::Answered(Outcome::ServerError);
    const GATEWAY: Ended = Ended::Answered(Outcome::GatewayError);

    fn twice() -> OutlierDetection {
        let twice = Some(Consecutive { failures: 2, enforcing: 100 });
        OutlierDetection {
            consecutive_5xx: twice,
            consecutive_gateway_failure: twice,
            consecutive_local_origin_failure: twice,
            split_local_origin: false,
            ..OutlierDetection::LOCAL
        }
    }

    #[test]
    fn each_end_grows_and_ends_the_rows_that_it_should() {
        use Streak::{GatewayErrors, LocalOrigin, ServerErrors};
        let split = OutlierDetection { split_local_origin: true, ..twice() };
        for (policy, ends, expected) in [
            (twice(), vec![SERVER, SERVER], vec![ServerErrors]),
            (twice(), vec![SERVER, SUCCESS, SERVER], vec![]),
            (twice(), vec![SERVER, FAILURE, SERVER], vec![]),
            (twice(), vec![SERVER, OVERLOADED, SERVER], vec![]),
            (twice(), vec![SERVER, Ended::Refused, SERVER], vec![ServerErrors]),
            (twice(), vec![GATEWAY, SERVER], vec![ServerErrors]),
            (twice(), vec![GATEWAY, SERVER, GATEWAY], vec![ServerErrors]),
            (twice(), vec![GATEWAY, GATEWAY], vec![GatewayErrors, ServerErrors]),
            (twice(), vec![Ended::Reset, Ended::TimedOut], vec![GatewayErrors, ServerErrors]),
            (twice(), vec![Ended::ConnectionLost, Ended::NotConnected], vec![GatewayErrors, ServerErrors]),
            (split.clone(), vec![Ended::Reset, Ended::TimedOut], vec![LocalOrigin]),
            (split.clone(), vec![Ended::Reset, SERVER, Ended::Reset], vec![]),
            (split.clone(), vec![SERVER, Ended::Reset, SERVER], vec![ServerErrors]),
            (split, vec![Ended::ConnectionLost, Ended::NotConnected], vec![LocalOrigin]),
        ] {
            assert_eq!(Endpoint::new(Some(policy), false).record(&ends), expected, "{ends:?}");
        }
    }

    #[test]
    fn a_row_is_told_of_once_until_it_is_forgotten() {
        let endpoint = Endpoint::new(Some(twice()), false);
        assert_eq!(endpoint.record(&[SERVER; 9]), [Streak::ServerErrors]);
        endpoint.outcomes.forget_streaks();
        assert_eq!(endpoint.record(&[SERVER; 9]), [Streak::ServerErrors]);
    }

    #[test]
    fn the_meshs_own_policy_counts_resets_and_each_lost_connection_once() {
        let policy = || Endpoint::new(Some(OutlierDetection::LOCAL), true);
        let told = [Streak::LocalOrigin];
        assert_eq!(policy().record(&[Ended::Reset; 5]), told);
        assert_eq!(policy().record(&[Ended::Reset; 4]), []);
        for harmless in [SERVER, GATEWAY, FAILURE, Ended::TimedOut, Ended::NotConnected] {
            assert_eq!(policy().record(&[harmless; 50]), [], "{harmless:?}");
        }
        let endpoint = policy();
        for lost in 1..=5 {
            endpoint.outcomes.connected();
            let expected: &[Streak] = if lost == 5 { &told } else { &[] };
            assert_eq!(endpoint.record(&[Ended::ConnectionLost; 100]), expected, "connection {lost}");
        }
    }

    #[test]
    fn without_a_policy_nothing_is_counted() {
        let endpoint = Endpoint::new(None, false);
        assert_eq!(endpoint.record(&[SERVER; 50]), []);
        endpoint.record(&[SUCCESS; 50]);
        assert_eq!(endpoint.outcomes.take_totals(), (0, 0));
        assert!(!endpoint.criteria.counts());
    }

    #[test]
    fn totals_wake_who_looks_at_them_once() {
        let success_rate = crate::resource::outlier_detection::SuccessRate {
            stdev_factor: 1900,
            enforcing: 100,
            minimum_hosts: 5,
            request_volume: 100,
        };
        let policy = OutlierDetection { success_rate: Some(success_rate), ..twice() };
        let endpoint = Endpoint::new(Some(policy), false);
        endpoint.record(&[SUCCESS, FAILURE, Ended::TimedOut, Ended::NotConnected, Ended::Refused]);
        assert_eq!(endpoint.told.awake.load(Relaxed), 1);
        assert_eq!(endpoint.outcomes.take_totals(), (1, 2), "no call was made to what could not be connected");
        assert_eq!(endpoint.outcomes.take_totals(), (0, 0));
        endpoint.criteria.sleep();
        endpoint.record(&[SUCCESS; 3]);
        assert_eq!(endpoint.told.awake.load(Relaxed), 2);
    }
}

//! The ejections of a cluster in use: hands what was counted to the detector, and does as it says.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::Active;
use super::members::Members;
use crate::balance::options::BalanceOptions;
use crate::balance::outlier::{Detector, EjectionCounts, Group, Look, Method, Totals};
use crate::connect::{Connect, ConnectivityState, EndpointStats, Streak};
use crate::resource::cluster::{Cluster, EndpointPolicy};
use crate::resource::endpoints::Address;
use crate::resource::outlier_detection::OutlierDetection;
use crate::resource::slow_start::SlowStart;

/// No interval is shorter.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// What outlier detection knows of a cluster in use.
#[derive(Debug)]
pub(super) struct Ejections {
    detector: Detector,
    policy: Option<OutlierDetection>,
    /// Whether clusters of which the control plane says nothing have a policy all the same.
    local: bool,
    /// How long the share of an endpoint that returns grows at most, where the control plane says nothing of it.
    slow_start: Duration,
    /// When an endpoint returned last.
    returned: Option<Instant>,
    /// When the interval under way began.
    began: Instant,
    /// Whether anything was counted that needs a look when the interval is over.
    counted: bool,
}

/// Why an endpoint takes no calls, and until when at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ejected {
    pub(crate) method: Method,
    /// `None`: for longer than the clock can say.
    pub(crate) until: Option<Instant>,
}

impl fmt::Display for Ejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ejected by {}", self.method.name())
    }
}

impl Ejections {
    pub(super) fn new(options: &BalanceOptions) -> Self {
        Self {
            detector: Detector::default(),
            policy: None,
            local: options.outlier_detection.value,
            slow_start: options.slow_start.value,
            returned: None,
            began: Instant::now(),
            counted: false,
        }
    }

    pub(super) fn of(&self, address: &Address) -> Option<Ejected> {
        let (method, until) = self.detector.ejection(address, self.policy.as_ref()?)?;
        Some(Ejected { method, until })
    }
}

/// The policy for a cluster, and whether it is the mesh's own, which is there for clusters without one if `local`.
pub(in crate::balance) fn outlier_policy(cluster: &Cluster, local: bool) -> (Option<OutlierDetection>, bool) {
    if matches!(cluster.balancing.policy, EndpointPolicy::PickFirst { .. }) {
        // There is no other endpoint that calls could go to (A61).
        return (None, false);
    }
    match &cluster.outlier_detection {
        None if local => (Some(OutlierDetection::LOCAL), true),
        policy => (policy.as_deref().cloned(), false),
    }
}

/// How an endpoint that is back from an ejection gets its share, where the control plane does not say it of all that are new:
/// as long as it was away at least, and no longer than `longest`.
pub(in crate::balance) fn slow_start(policy: &OutlierDetection, longest: Duration) -> Option<SlowStart> {
    SlowStart::evenly(policy.base_ejection_time.min(longest))
}

impl<C: Connect> Active<C> {
    /// How endpoints that returned get their share, if any did not long ago.
    pub(in crate::balance) fn returning(&self) -> Option<SlowStart> {
        let Ejections { policy, slow_start: longest, returned, .. } = &self.ejections;
        let slow_start = slow_start(policy.as_ref()?, *longest)?;
        ((*returned)?.elapsed() < slow_start.window()).then_some(slow_start)
    }

    /// Takes in what a new configuration says of outlier detection. Ejections outlive it, unless the control plane
    /// has none any more.
    pub(super) fn configure_ejections(&mut self) {
        let (policy, mild) = outlier_policy(&self.config.cluster, self.ejections.local);
        let Self { ejections, subchannels, .. } = self;
        ejections.detector.retain(|address| subchannels.contains_key(address));
        if ejections.policy == policy {
            return;
        }
        self.environment.criteria.set(policy.as_ref(), mild);
        // A row that is longer than the new limit would never reach it.
        subchannels.values().for_each(|subchannel| subchannel.stats.forget_streaks());
        let ends = policy.is_none() || mild;
        self.ejections.policy = policy;
        if ends {
            let returned = self.ejections.detector.clear();
            self.restore(&returned, Instant::now());
        }
    }

    /// An endpoint failed too often in a row. Answers whether it was ejected.
    pub(crate) fn endpoint_failed(&mut self, address: &Address, streak: Streak, counts: &EjectionCounts) -> bool {
        let Self { ejections, members, subchannels, .. } = self;
        let (Some(policy), Some(failed)) = (&ejections.policy, subchannels.get(address)) else { return false };
        // From here on the row is a new one, whatever becomes of this one.
        failed.stats.forget_streak(streak);
        let of_priority =
            || members.iter().flatten().find(|members| members.subchannels().any(|one| one.address() == address));
        let Some(priority) = of_priority() else { return false };
        let is_ready = |one: &Address| {
            // Also one that is ejected, in a panic.
            !ejections.detector.is_ejected(one)
                && subchannels.get(one).is_some_and(|one| one.state() == ConnectivityState::Ready)
        };
        let addresses = || priority.subchannels().map(|one| one.address());
        let group = Group {
            endpoints: addresses().count(),
            ejected: addresses().filter(|one| ejections.detector.is_ejected(one)).count(),
            others_ready: addresses().filter(|one| *one != address && is_ready(one)).count(),
        };
        let look = Look { policy, now: Instant::now(), draw, counts };
        let is_ejected = ejections.detector.fail(address, streak, group, &look);
        if is_ejected {
            failed.stats.set_ejected(true);
        }
        is_ejected
    }

    pub(in crate::balance) fn is_ejected(&self, address: &Address) -> bool {
        self.ejections.detector.is_ejected(address)
    }

    /// Keeps the ejected endpoints from calls, but for those of `panicking` parts.
    pub(in crate::balance) fn keep_ejected_but_of<'a>(&self, panicking: impl Iterator<Item = &'a Members<C>>)
    where
        C: 'a,
    {
        let subchannels = panicking.flat_map(Members::subchannels);
        let admitted: HashSet<&Address> =
            subchannels.map(|one| one.address()).filter(|address| self.is_ejected(address)).collect();
        for address in self.ejections.detector.ejected() {
            if let Some(subchannel) = self.subchannels.get(address) {
                subchannel.stats.set_ejected(!admitted.contains(address));
            }
        }
    }

    /// Outcomes are counted again, after a time without any.
    pub(crate) fn outcomes_arrive(&mut self) {
        self.ejections.counted = true;
    }

    /// When the interval is over, if that is of interest. While it is not, time stands still: the next one begins when
    /// there is something to look at.
    pub(crate) fn next_sweep(&mut self, now: Instant) -> Option<Instant> {
        let Ejections { detector, policy, began, counted, .. } = &mut self.ejections;
        let policy = policy.as_ref()?;
        let interval = policy.interval.max(SHORTEST_INTERVAL);
        if detector.is_idle() && !*counted {
            return None;
        }
        if now.duration_since(*began) > interval.saturating_mul(2) {
            *began = now;
        }
        began.checked_add(interval)
    }

    /// An interval is over. Answers whether an endpoint was ejected or returned.
    pub(crate) fn sweep(&mut self, counts: &EjectionCounts) -> bool {
        let Self { ejections, members, .. } = self;
        let Ejections { detector, policy: Some(policy), slow_start: longest, began, counted, .. } = ejections else {
            return false;
        };
        let now = Instant::now();
        let look = Look { policy, now, draw, counts };
        (*began, *counted) = (now, false);
        let mut ejected = false;
        for priority in members.iter().flatten() {
            let stats: Vec<&EndpointStats> = priority.subchannels().map(|subchannel| &*subchannel.stats).collect();
            let hosts: Vec<_> = stats.iter().map(|stats| (&stats.address, totals(stats))).collect();
            *counted |= hosts.iter().any(|(_, totals)| *totals != Totals::default());
            for index in detector.sweep(&hosts, &look) {
                stats[index].set_ejected(true);
                ejected = true;
            }
        }
        let returning = slow_start(policy, *longest).map_or(Duration::ZERO, |slow_start| slow_start.window());
        let returned = detector.finish(policy, returning, now);
        let sleeps = policy.needs_totals() && !*counted;
        if sleeps {
            self.environment.criteria.sleep();
        }
        self.restore(&returned, now);
        ejected || !returned.is_empty()
    }

    fn restore(&mut self, returned: &[Address], now: Instant) {
        if !returned.is_empty() {
            self.ejections.returned = Some(now);
        }
        let subchannels = returned.iter().filter_map(|address| self.subchannels.get(address));
        subchannels.for_each(|subchannel| subchannel.stats.restore(now));
    }
}

fn draw() -> u32 {
    fastrand::u32(..100)
}

fn totals(stats: &EndpointStats) -> Totals {
    let (successes, failures) = stats.take_totals();
    Totals { successes, failures }
}

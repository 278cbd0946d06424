//! How many calls are served at a time (Envoy's `adaptive_concurrency`, or a number), and who is refused first beyond that.
//!
//! A call counts until its response begins: what is behind that, a stream or a reader that takes its time, says nothing of
//! how busy the server is. In Envoy it counts until its response ends.

mod gradient;
mod samples;
#[cfg(test)]
mod tests;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::gradient::Gradient;
pub use self::gradient::GradientController;
pub(crate) use self::gradient::MinRtt;
use crate::criticality::Criticality;
use crate::resource::answer::{Answer, AnswerStatus, or_error};

/// A bound on the calls that are served at a time, each until its response begins. One more is refused at once, with 503 (gRPC:
/// UNAVAILABLE). Health checks (gRPC: those of `grpc.health.v1`) are not bounded and do not count: who checks a server must not
/// find it dead because it is busy.
///
/// Each [`Criticality`] may use a [`share`](Self::share) of the limit, so that calls that are less important are refused
/// first: by default `SHEDDABLE_PLUS` three quarters, `SHEDDABLE` half, and all others the whole.
///
/// ```
/// use mesh_core::Criticality;
/// use mesh_core::filter::ConcurrencyLimit;
///
/// // The last ten places are for CRITICAL_PLUS.
/// let limit = ConcurrencyLimit::fixed(100).share(Criticality::Critical, 90);
/// # let _ = limit;
/// ```
#[derive(Debug)]
pub struct ConcurrencyLimit {
    by: By,
    is_enabled: bool,
    /// In percent, from the least to the most important.
    shares: [u32; 4],
    status: AnswerStatus,
    /// From the first call on.
    running: OnceLock<Arc<Running>>,
}

#[derive(Clone, Debug, PartialEq)]
enum By {
    Fixed(u32),
    Gradient(GradientController),
}

/// The state of a [`ConcurrencyLimit`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConcurrencyStatus {
    /// What has it: `Listener` filter chains and filters by their names, or `code`.
    pub name: Arc<str>,
    /// How many calls may be served at a time.
    pub limit: u32,
    /// How many are: their response has not begun.
    pub in_flight: u32,
    /// How long a call takes that others do not hold up; `None`: it has not been measured yet, or the limit is fixed.
    pub min_rtt: Option<Duration>,
    /// How many calls were refused, by their criticality; from the least to the most important.
    pub shed: [(Criticality, u64); 4],
}

impl ConcurrencyStatus {
    /// How many calls were refused in all.
    pub fn refused(&self) -> u64 {
        self.shed.iter().map(|(_, count)| count).sum()
    }
}

impl ConcurrencyLimit {
    /// So many calls, 1 at least.
    pub fn fixed(max_concurrency: u32) -> Self {
        Self::new(By::Fixed(max_concurrency.max(1)))
    }

    /// As many calls as do not hold each other up, as the controller learns from how long they take.
    pub fn adaptive(controller: GradientController) -> Self {
        Self::new(By::Gradient(controller))
    }

    fn new(by: By) -> Self {
        let status = AnswerStatus::Http(StatusCode::SERVICE_UNAVAILABLE);
        Self { by, is_enabled: true, shares: [50, 75, 100, 100], status, running: OnceLock::new() }
    }

    /// Calls of this criticality may use so many hundredths of the limit, and one place at least; they are refused when as
    /// many are served, of whatever criticality. More than 100 is 100.
    pub fn share(mut self, of: Criticality, percent: u32) -> Self {
        self.shares[of as usize] = percent.min(100);
        self
    }

    /// Refused calls are answered with this status. Default 503, which also takes the place of one that says no error (below
    /// 400), as in Envoy: a call that was refused must not look like one that was served.
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = AnswerStatus::Http(or_error(status, StatusCode::SERVICE_UNAVAILABLE));
        self
    }

    /// Limits nothing unless `is_enabled`.
    pub(crate) fn enabled(mut self, is_enabled: bool) -> Self {
        self.is_enabled = is_enabled;
        self
    }

    /// Whether no call is limited.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_enabled
    }

    /// Goes on with what the one learnt and counted that it takes the place of.
    pub(crate) fn inherit(&self, before: &Self) {
        let Some(running) = before.running.get() else { return };
        self.running.get_or_init(|| match self.by == before.by {
            true => running.clone(),
            false => Arc::new(Running::start(&self.by, Some(running), Instant::now())),
        });
    }

    /// Lets a call be served.
    ///
    /// # Errors
    ///
    /// The answer to a call that is not.
    pub(crate) fn admit(&self, criticality: Criticality, now: Instant) -> Result<Permit, Box<Answer>> {
        let running = self.running.get_or_init(|| Arc::new(Running::start(&self.by, None, now)));
        let share = self.shares[criticality as usize];
        running.admit(share, now).ok_or_else(|| {
            running.counts.shed[criticality as usize].fetch_add(1, Relaxed);
            let text = match share {
                100 => "reached concurrency limit".to_owned(),
                _ => format!("reached concurrency limit of {criticality} calls"),
            };
            Box::new(Answer::new(self.status, text))
        })
    }

    pub(crate) fn status_of(&self, name: Arc<str>) -> ConcurrencyStatus {
        let running = self.running.get();
        let count = |of: Criticality| running.map_or(0, |running| running.counts.shed[of as usize].load(Relaxed));
        let controller = running.and_then(|running| running.controller.as_ref());
        ConcurrencyStatus {
            name,
            limit: running.map_or_else(|| self.by.least(), |running| running.limit.load(Relaxed)),
            in_flight: running.map_or(0, |running| running.counts.in_flight.load(Relaxed)),
            min_rtt: controller.and_then(|controller| controller.lock().min_rtt()),
            shed: Criticality::ALL.map(|one| (one, count(one))),
        }
    }
}

impl By {
    /// The first limit.
    fn least(&self) -> u32 {
        match self {
            Self::Fixed(limit) => *limit,
            Self::Gradient(controller) => controller.min_concurrency,
        }
    }
}

/// What a limit learns and counts. Calls share no lock until they are served.
#[derive(Debug)]
struct Running {
    limit: AtomicU32,
    counts: Arc<Counts>,
    /// `None`: the limit is fixed.
    controller: Option<Mutex<Gradient>>,
    start: Instant,
    /// When the controller has something to do, in microseconds from the start.
    due: AtomicU64,
}

/// What outlives the limit itself.
#[derive(Debug, Default)]
struct Counts {
    in_flight: AtomicU32,
    shed: [AtomicU64; 4],
}

impl Running {
    fn start(by: &By, before: Option<&Self>, now: Instant) -> Self {
        let counts = before.map(|before| before.counts.clone()).unwrap_or_default();
        let controller = match by {
            By::Fixed(_) => None,
            By::Gradient(config) => {
                let known = before.and_then(|before| before.controller.as_ref()?.lock().known());
                Some(Gradient::new(config.clone(), known, now, random))
            }
        };
        let limit = controller.as_ref().map_or_else(|| by.least(), Gradient::limit);
        let due =
            controller.as_ref().map_or(u64::MAX, |controller| micros(controller.due().saturating_duration_since(now)));
        Self {
            limit: AtomicU32::new(limit),
            counts,
            controller: controller.map(Mutex::new),
            start: now,
            due: AtomicU64::new(due),
        }
    }

    fn admit(self: &Arc<Self>, share: u32, now: Instant) -> Option<Permit> {
        if let Some(controller) = &self.controller
            && micros(now.saturating_duration_since(self.start)) >= self.due.load(Relaxed)
        {
            let mut controller = controller.lock();
            let is_full = self.counts.in_flight.load(Relaxed) >= places(controller.limit(), share);
            controller.handle_time(now, is_full, random);
            self.take_up(&controller);
        }
        let places = places(self.limit.load(Relaxed), share);
        let in_flight = &self.counts.in_flight;
        let took = in_flight.fetch_update(Relaxed, Relaxed, |calls| (calls < places).then_some(calls + 1));
        took.is_ok().then(|| Permit { running: self.clone(), since: now })
    }

    fn take_up(&self, controller: &Gradient) {
        self.limit.store(controller.limit(), Relaxed);
        self.due.store(micros(controller.due().saturating_duration_since(self.start)), Relaxed);
    }
}

/// A place among the calls that are served, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    running: Arc<Running>,
    since: Instant,
}

impl Permit {
    /// The call was served: how long that took tells how busy the server is. A call that was given up, or refused by
    /// something else, tells nothing.
    pub(crate) fn served(self, now: Instant) {
        let Some(controller) = &self.running.controller else { return };
        let mut controller = controller.lock();
        controller.handle_time(now, false, random);
        controller.handle_sample(self.since, now, random);
        self.running.take_up(&controller);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.running.counts.in_flight.fetch_sub(1, Relaxed);
    }
}

/// How many calls there are when those with this share of the limit are refused.
fn places(limit: u32, share: u32) -> u32 {
    u32::try_from((u64::from(limit) * u64::from(share)).div_ceil(100)).unwrap_or(limit).max(1)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A number below a million.
fn random() -> u32 {
    fastrand::u32(..1_000_000)
}

//! Envoy's gradient controller: how many calls may be served at a time, learnt from how long they take.
//!
//! ```text
//!            every `min_rtt_interval`, and after five windows at the least limit
//!          ┌───────────────────────────────────────────────────────────────────┐
//!          ▼                                                                   │
//!   MinRtt: the least limit, until so many calls tell ──▸ Samples: each `update_interval`
//!   how long one takes that others do not hold up         limit × gradient + √(limit × gradient), where
//!                                                         gradient = (minRTT + buffer) / sampleRTT, 0.5 to 2
//! ```
//!
//! It has no clock, no timer and no randomness of its own: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::samples::Samples;
use crate::backoff::bounded;

/// Envoy's bounds of the gradient: one window changes the limit no more than so.
const LEAST_GRADIENT: f64 = 0.5;
const MOST_GRADIENT: f64 = 2.0;
/// So many windows at the least limit say that the minRTT may be wrong.
const WINDOWS_AT_LEAST: u32 = 5;
/// A measurement that gets no sample for so long, or for so many minRTTs, while calls are refused is of no use.
const PATIENCE: Duration = Duration::from_secs(1);
const PATIENCE_IN_RTTS: u32 = 10;
/// The shortest time from one measurement to the next.
const LEAST_INTERVAL: Duration = Duration::from_millis(1);
const MILLION: f64 = 1_000_000.0;

/// How an adaptive [`ConcurrencyLimit`](super::ConcurrencyLimit) finds its limit: Envoy's gradient controller, with the
/// defaults of Envoy's documentation.
///
/// ```
/// use std::time::Duration;
/// use mesh_core::filter::{ConcurrencyLimit, GradientController};
///
/// let controller = GradientController::new().max_concurrency(500).min_rtt_interval(Duration::from_secs(30));
/// let limit = ConcurrencyLimit::adaptive(controller);
/// # let _ = limit;
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct GradientController {
    pub(crate) update_interval: Duration,
    pub(crate) max_concurrency: u32,
    pub(crate) min_concurrency: u32,
    /// Of one.
    pub(crate) percentile: f64,
    /// Of the minRTT.
    pub(crate) buffer: f64,
    pub(crate) min_rtt: MinRtt,
}

/// Where the minRTT comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum MinRtt {
    Fixed(Duration),
    Measured {
        interval: Duration,
        /// Calls that are measured.
        requests: u32,
        /// The most by which the interval is longer, of itself.
        jitter: f64,
    },
}

impl MinRtt {
    pub(crate) const REQUESTS: u32 = 50;
    pub(crate) const JITTER: f64 = 0.15;
}

impl Default for GradientController {
    fn default() -> Self {
        let (requests, jitter) = (MinRtt::REQUESTS, MinRtt::JITTER);
        Self {
            update_interval: Duration::from_millis(100),
            max_concurrency: 1_000,
            min_concurrency: 3,
            percentile: 0.5,
            buffer: 0.25,
            min_rtt: MinRtt::Measured { interval: Duration::from_secs(60), requests, jitter },
        }
    }
}

impl GradientController {
    /// With every default.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long calls are sampled before the limit is set anew (`concurrency_update_interval`). Default 100 ms.
    pub fn update_interval(mut self, interval: Duration) -> Self {
        self.update_interval = bounded(interval);
        self
    }

    /// The highest limit (`max_concurrency_limit`), 1 at least. Default 1,000.
    pub fn max_concurrency(mut self, calls: u32) -> Self {
        self.max_concurrency = calls.max(1);
        self
    }

    /// The lowest limit, which also holds while the minRTT is measured (`min_concurrency`), 1 at least. Default 3.
    pub fn min_concurrency(mut self, calls: u32) -> Self {
        self.min_concurrency = calls.max(1);
        self
    }

    /// Which latency of a window is compared with the minRTT (`sample_aggregate_percentile`), 100 at most. Default 50.
    pub fn percentile(mut self, percent: u32) -> Self {
        self.percentile = share(percent);
        self
    }

    /// By how many hundredths of the minRTT latencies may be above it (`buffer`), 100 at most. Default 25.
    pub fn buffer(mut self, percent: u32) -> Self {
        self.buffer = share(percent);
        self
    }

    /// How often the minRTT is measured (`min_rtt_calc_params.interval`), 1 ms at least; up to 15 % longer. Default 60 s.
    pub fn min_rtt_interval(mut self, interval: Duration) -> Self {
        let (requests, jitter) = match self.min_rtt {
            MinRtt::Measured { requests, jitter, .. } => (requests, jitter),
            MinRtt::Fixed(_) => (MinRtt::REQUESTS, MinRtt::JITTER),
        };
        let interval = bounded(interval).max(LEAST_INTERVAL);
        self.min_rtt = MinRtt::Measured { interval, requests, jitter };
        self
    }

    /// The minRTT (`fixed_value`), 1 ns at least, which is never measured then. Default: it is measured.
    pub fn min_rtt(mut self, min_rtt: Duration) -> Self {
        self.min_rtt = MinRtt::Fixed(bounded(min_rtt).max(Duration::from_nanos(1)));
        self
    }
}

fn share(percent: u32) -> f64 {
    f64::from(percent.min(100)) / 100.0
}

/// The state of a controller.
#[derive(Debug)]
pub(super) struct Gradient {
    config: GradientController,
    limit: u32,
    min_rtt: Option<Duration>,
    /// When the last measurement of the minRTT began: calls that are older tell nothing.
    epoch: Instant,
    samples: Samples,
    window: Window,
    at_least: u32,
}

#[derive(Debug)]
enum Window {
    /// The minRTT is measured.
    MinRtt {
        /// When the last sample came, or the measurement began.
        progress: Instant,
        /// The limit behind it.
        then: u32,
    },
    Samples {
        /// When the last sample came, or there was last room for a call.
        progress: Instant,
        ends: Instant,
        /// `None`: the minRTT is not measured.
        measure: Option<Instant>,
    },
}

impl Gradient {
    /// `known`: the limit and the minRTT of a controller that this one takes the place of. `random` is a number below a
    /// million.
    pub(super) fn new(
        config: GradientController,
        known: Option<(u32, Duration)>,
        now: Instant,
        random: impl FnOnce() -> u32,
    ) -> Self {
        let least = config.min_concurrency;
        let (limit, min_rtt) = match (&config.min_rtt, known) {
            (MinRtt::Fixed(fixed), known) => (known.map_or(least, |(limit, _)| limit), Some(*fixed)),
            (MinRtt::Measured { .. }, Some((limit, min_rtt))) => (limit, Some(min_rtt)),
            (MinRtt::Measured { .. }, None) => (least, None),
        };
        let limit = config.clamped(limit);
        let window = Window::MinRtt { progress: now, then: limit };
        let mut this = Self { config, limit, min_rtt, epoch: now, samples: Samples::new(), window, at_least: 0 };
        if min_rtt.is_some() {
            this.sample(now, random);
        }
        this
    }

    /// How many calls may be served at a time.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    pub(super) fn min_rtt(&self) -> Option<Duration> {
        self.min_rtt
    }

    /// For the controller that takes its place; nothing if the minRTT was not measured.
    pub(super) fn known(&self) -> Option<(u32, Duration)> {
        if matches!(self.config.min_rtt, MinRtt::Fixed(_)) {
            return None;
        }
        let limit = match self.window {
            Window::MinRtt { then, .. } => then,
            Window::Samples { .. } => self.limit,
        };
        Some((limit, self.min_rtt?))
    }

    /// When [`handle_time`](Self::handle_time) has something to do.
    pub(super) fn due(&self) -> Instant {
        match self.window {
            Window::MinRtt { progress, .. } => progress + self.patience(),
            Window::Samples { ends, measure, .. } => measure.map_or(ends, |measure| measure.min(ends)),
        }
    }

    /// Time has passed. `is_full`: the call that tells so would be refused.
    pub(super) fn handle_time(&mut self, now: Instant, is_full: bool, random: impl FnOnce() -> u32) {
        if now < self.due() {
            return;
        }
        match self.window {
            Window::MinRtt { .. } => self.waited_in_vain(now, is_full, random),
            Window::Samples { measure: Some(measure), .. } if now >= measure => self.measure(now),
            Window::Samples { progress, measure, .. } => {
                let is_stuck = is_full && now >= progress + self.patience();
                let progress = if is_full && !is_stuck { progress } else { now };
                self.window = Window::Samples { progress, ends: now + self.config.update_interval, measure };
                self.update(now, is_stuck);
            }
        }
    }

    /// A call that was admitted at `admitted` was served.
    pub(super) fn handle_sample(&mut self, admitted: Instant, now: Instant, random: impl FnOnce() -> u32) {
        if admitted < self.epoch {
            return;
        }
        self.samples.add(now.saturating_duration_since(admitted));
        match &mut self.window {
            Window::MinRtt { progress, .. } => *progress = now,
            Window::Samples { progress, .. } => {
                *progress = now;
                return;
            }
        }
        if let MinRtt::Measured { requests, .. } = self.config.min_rtt
            && self.samples.count() >= requests
        {
            self.min_rtt = self.samples.percentile(self.config.percentile).or(self.min_rtt);
            self.sample(now, random);
        }
    }

    /// Calls that take as long as these, such as ones that wait for news, cannot tell a minRTT, and must not keep all others
    /// out meanwhile. The one that is known goes on; without one, more calls are let in until one tells.
    fn waited_in_vain(&mut self, now: Instant, is_full: bool, random: impl FnOnce() -> u32) {
        if is_full && self.min_rtt.is_some() {
            return self.sample(now, random);
        }
        if is_full {
            self.limit = self.config.clamped(self.limit.saturating_mul(2));
        }
        if let Window::MinRtt { progress, then } = &mut self.window {
            (*progress, *then) = (now, self.limit.max(*then));
        }
    }

    fn patience(&self) -> Duration {
        self.min_rtt.map_or(PATIENCE, |min_rtt| bounded(min_rtt.saturating_mul(PATIENCE_IN_RTTS)).max(PATIENCE))
    }

    /// Begins to measure the minRTT.
    fn measure(&mut self, now: Instant) {
        self.window = Window::MinRtt { progress: now, then: self.limit };
        (self.limit, self.epoch, self.at_least) = (self.config.min_concurrency, now, 0);
        self.samples.clear();
    }

    /// Begins to sample, with the limit of before the measurement.
    fn sample(&mut self, now: Instant, random: impl FnOnce() -> u32) {
        if let Window::MinRtt { then, .. } = self.window {
            self.limit = then;
        }
        let measure = match &self.config.min_rtt {
            MinRtt::Fixed(_) => None,
            MinRtt::Measured { interval, jitter, .. } => {
                Some(now + interval.mul_f64(1.0 + jitter * f64::from(random()) / MILLION))
            }
        };
        self.window = Window::Samples { progress: now, ends: now + self.config.update_interval, measure };
        self.samples.clear();
    }

    /// A window of samples has ended. `is_stuck`: calls are refused, and none has ended for long. As those that are served may
    /// be of a kind that never ends, a few more are let in then; not many, as the server may hang.
    fn update(&mut self, now: Instant, is_stuck: bool) {
        let Some((sample_rtt, min_rtt)) = self.samples.percentile(self.config.percentile).zip(self.min_rtt) else {
            if is_stuck {
                self.limit = self.config.clamped(self.limit.saturating_add(self.limit.isqrt().max(1)));
            }
            return;
        };
        self.samples.clear();
        let before = self.limit;
        self.limit = self.config.next_limit(before, min_rtt, sample_rtt);
        let least = self.config.min_concurrency;
        self.at_least = if before == least && self.limit == least { self.at_least.saturating_add(1) } else { 0 };
        let is_measured = matches!(self.config.min_rtt, MinRtt::Measured { .. });
        if self.at_least >= WINDOWS_AT_LEAST && is_measured {
            self.measure(now);
        }
    }
}

impl GradientController {
    fn next_limit(&self, limit: u32, min_rtt: Duration, sample_rtt: Duration) -> u32 {
        let buffered = min_rtt.as_secs_f64() * (1.0 + self.buffer);
        let gradient = (buffered / sample_rtt.as_secs_f64().max(1e-9)).clamp(LEAST_GRADIENT, MOST_GRADIENT);
        let limit = f64::from(limit) * gradient;
        // Room for bursts, without which the limit could never rise.
        let limit = (limit + limit.sqrt()).min(f64::from(u32::MAX));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and the most")]
        self.clamped(limit as u32)
    }

    fn clamped(&self, limit: u32) -> u32 {
        limit.min(self.max_concurrency).max(self.min_concurrency)
    }
}

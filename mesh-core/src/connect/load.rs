//! How loaded an endpoint is: how long its calls take, which of them fail, what it says of itself, since when it is READY.
//!
//! A record is a handful of atomics, written by calls and read by picks, in any order; time is an argument. Each number
//! that decays is one atomic with the moment it is of, so that no reader sees the one without the other. What two calls
//! write at the same moment is one after the other; what a pick reads meanwhile is either.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::outcomes::{Ended, Outcome};

/// In this time, what is known of an endpoint that gets no calls shrinks to 1/e (as in Finagle and linkerd).
const DECAY: Duration = Duration::from_secs(10);
/// Of an endpoint that answered nothing for so long nothing is known any more but that it was slow: one call finds out what it
/// is now, and what that says replaces what was known.
const SILENCE: Duration = Duration::from_secs(1);
/// With a larger share of failures it is not silence that keeps calls from an endpoint.
const FAILING: f32 = 0.1;
/// What an endpoint is taken to cost whose first call is not answered yet, or failed: others are better.
const UNKNOWN: Duration = Duration::from_secs(1);
/// How far the share of failures goes to 0 or 1 with each call.
const PER_CALL: f32 = 0.25;
/// A smaller share of failures is none; a larger share of successes is all an endpoint can lose.
const NEGLIGIBLE: f32 = 1.0 / 4096.0;

/// What is known of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct EndpointLoad {
    /// Time to the response's head in ns; 0: not known.
    latency: Decaying,
    /// The share of calls that fail.
    failures: Decaying,
    /// When it was last [asked again](Self::ask_again).
    asked: Moment,
    ready_since: Moment,
    /// When outlier detection let it take calls again.
    returned: Moment,
    reported: Reported,
}

/// A weight made of what the endpoint reports (A58).
#[derive(Debug, Default)]
struct Reported {
    /// The bits of an `f64`.
    weight: AtomicU64,
    updated: Moment,
    /// When reports began, after the endpoint became READY or its weight expired.
    since: Moment,
}

impl EndpointLoad {
    /// The endpoint takes calls, after it did not: it got READY, or is not kept from calls any more.
    pub(crate) fn handle_ready(&self, now: Instant) {
        self.ready_since.set(Stamp::of(now));
        self.reported.since.clear();
    }

    /// Outlier detection lets the endpoint take calls again.
    pub(crate) fn handle_return(&self, now: Instant) {
        self.handle_ready(now);
        self.returned.set(Stamp::of(now));
    }

    /// The endpoint is connected again after it was not at all: how long calls took on the connection that was lost,
    /// as those that waited for a silent peer, says nothing of this one. What failed is remembered.
    pub(crate) fn handle_reconnect(&self) {
        self.latency.clear();
    }

    /// For how long the endpoint has been READY; `None` if it never was.
    pub(crate) fn ready_for(&self, now: Instant) -> Option<Duration> {
        self.ready_since.age(Stamp::of(now))
    }

    /// For how long the endpoint has been back from its last ejection; `None` if it never was ejected.
    pub(crate) fn back_for(&self, now: Instant) -> Option<Duration> {
        self.returned.age(Stamp::of(now))
    }
}

/// Peak-EWMA.
impl EndpointLoad {
    /// An attempt ended, or was given up (`None`), and took so long until then or, if the response's head came, until its
    /// head.
    pub(crate) fn handle_end(&self, ended: Option<Ended>, head: bool, took: Duration, now: Instant) {
        match ended {
            Some(Ended::Answered(Outcome::Success | Outcome::Failure)) => self.handle_success(took, now),
            // It answered: how long the caller wants to listen is the caller's affair.
            None | Some(Ended::TimedOut) if head => self.handle_success(took, now),
            None => self.handle_abandoned(took, now),
            Some(_) => self.handle_failure(took, now),
        }
    }

    /// A call was answered well, its response's head `took` so long. A longer time than the average counts at once, a
    /// shorter one bit by bit, unless it is the first after a silence.
    pub(crate) fn handle_success(&self, took: Duration, now: Instant) {
        let (sample, tick) = (nanos(took), Stamp::of(now).tick());
        self.latency.update(tick, |average, elapsed| match average < sample || elapsed.is_silence() {
            true => sample,
            false => sample + (average - sample) * elapsed.decay(),
        });
        self.failures.update_unless_zero(tick, |share, elapsed| {
            let share = share * elapsed.decay() * (1.0 - PER_CALL);
            if share < NEGLIGIBLE { 0.0 } else { share }
        });
    }

    /// A call failed. However fast it did, the endpoint is no faster for it than it was, and dearer for each failure.
    pub(crate) fn handle_failure(&self, took: Duration, now: Instant) {
        let (sample, tick) = (nanos(took), Stamp::of(now).tick());
        self.latency.update(tick, |average, _| match average {
            0.0 => sample.max(nanos(UNKNOWN)),
            known => known.max(sample),
        });
        self.failures.update(tick, |share, elapsed| {
            let share = share * elapsed.decay();
            share + (1.0 - share) * PER_CALL
        });
    }

    /// A call was given up before its response's head. That is no fault of the endpoint, unless it is slow.
    pub(crate) fn handle_abandoned(&self, waited: Duration, now: Instant) {
        let sample = nanos(waited);
        if self.latency.value() < sample {
            self.latency.update(Stamp::of(now).tick(), |average, _| average.max(sample));
        }
    }

    /// What one more call costs at this endpoint beside `in_flight` others: the time it is expected to take, more for
    /// each that it shares the endpoint with, and more when its kind fails. 0 for an endpoint that was never tried.
    pub(crate) fn cost(&self, in_flight: u32, now: Stamp) -> f32 {
        let tick = now.tick();
        #[expect(clippy::cast_precision_loss, reason = "a count of calls, to be compared")]
        let calls = in_flight as f32 + 1.0;
        let latency = match self.latency.decayed(tick) {
            0.0 if in_flight == 0 => return 0.0,
            0.0 => nanos(UNKNOWN),
            known => known,
        };
        let good = (1.0 - self.failures.decayed(tick)).max(NEGLIGIBLE);
        latency * calls / good
    }

    /// Whether it is known how long calls took here, and not how long they take now.
    pub(crate) fn is_silent(&self, now: Stamp) -> bool {
        self.latency.is_silent(now.tick())
    }

    /// Whether a call that would go elsewhere should find out how long one takes here now: of all that ask, one a second, and
    /// none while calls fail here.
    pub(crate) fn ask_again(&self, now: Stamp) -> bool {
        self.failures.decayed(now.tick()) < FAILING && self.asked.renew(now, SILENCE)
    }
}

/// Weights by the endpoint's own reports (A58).
impl EndpointLoad {
    /// The endpoint reported what comes to this weight; one that is not above 0 says nothing.
    pub(crate) fn handle_weight(&self, weight: f64, now: Instant) {
        if !(weight.is_finite() && weight > 0.0) {
            return;
        }
        let now = Stamp::of(now);
        let Reported { weight: last, updated, since } = &self.reported;
        if since.age(now).is_none() {
            since.set(now);
        }
        updated.set(now);
        last.store(weight.to_bits(), Ordering::Relaxed);
    }

    /// The weight to use, `None` if there is none: there was no report, the last is older than `expiration`, or reports
    /// have not come for as long as `blackout` yet.
    pub(crate) fn weight(&self, blackout: Duration, expiration: Duration, now: Instant) -> Option<f64> {
        let Reported { weight, updated, since } = &self.reported;
        let now = Stamp::of(now);
        if updated.age(now)? >= expiration {
            since.clear();
            return None;
        }
        if !blackout.is_zero() && since.age(now).is_none_or(|age| age < blackout) {
            return None;
        }
        Some(f64::from_bits(weight.load(Ordering::Relaxed)))
    }
}

/// All moments are counted from here: an hour before the process first asked, so that a clock which a test began earlier
/// stands behind it, too.
static EPOCH: LazyLock<Instant> = LazyLock::new(|| {
    let now = Instant::now();
    now.checked_sub(Duration::from_secs(3600)).unwrap_or(now)
});

/// A moment as what is known of endpoints counts it, in ns: made once of the time of a call, though it is held against
/// several of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp(u64);

impl Stamp {
    pub(crate) fn of(now: Instant) -> Self {
        let elapsed = now.saturating_duration_since(*EPOCH);
        Self(elapsed.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(elapsed.subsec_nanos())))
    }

    fn tick(self) -> Tick {
        Tick::of(self.0)
    }
}

/// A [`Stamp`] or none.
#[derive(Debug, Default)]
struct Moment(AtomicU64);

impl Moment {
    fn set(&self, now: Stamp) {
        self.0.store(now.0.saturating_add(1), Ordering::Relaxed);
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// How long it is past; `None` if there is none.
    fn age(&self, now: Stamp) -> Option<Duration> {
        let moment = self.0.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_nanos(now.0.saturating_sub(moment)))
    }

    /// Sets it, unless it was set less than `period` before. Of several who try at once, one does.
    fn renew(&self, now: Stamp, period: Duration) -> bool {
        let last = self.0.load(Ordering::Relaxed);
        let is_due = last == 0 || Duration::from_nanos(now.0.saturating_sub(last - 1)) >= period;
        let renewed = || self.0.compare_exchange(last, now.0.saturating_add(1), Ordering::Relaxed, Ordering::Relaxed);
        is_due && renewed().is_ok()
    }
}

/// A moment in units of 65 µs. Of two that are more than 39 hours apart, the later may look like the earlier: what was
/// known in between is then forgotten late, or early.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tick(u32);

impl Tick {
    #[expect(clippy::cast_possible_truncation, reason = "it is to wrap")]
    fn of(nanos: u64) -> Self {
        Self((nanos >> 16) as u32)
    }

    /// Whether this is before `other`, as the moment of a call may be that took longer than the next.
    fn is_before(self, other: Tick) -> bool {
        self.0.wrapping_sub(other.0) > u32::MAX / 2
    }

    /// The time from `earlier` to here; none if this is before it.
    fn since(self, earlier: Tick) -> Elapsed {
        Elapsed(if self.is_before(earlier) { 0 } else { self.0.wrapping_sub(earlier.0) })
    }
}

/// The time between two moments, in the same units.
#[derive(Clone, Copy, Debug)]
struct Elapsed(u32);

impl Elapsed {
    /// What is left of a number after this time, between 0 and 1.
    fn decay(self) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "known exactly enough")]
        const TICKS: f32 = (DECAY.as_nanos() >> 16) as f32;
        if self.0 == 0 {
            return 1.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "known exactly enough")]
        let elapsed = self.0 as f32;
        (-elapsed / TICKS).exp()
    }

    fn is_silence(self) -> bool {
        u128::from(self.0) >= SILENCE.as_nanos() >> 16
    }
}

/// A number that is not negative and shrinks with time, and the moment it is of: the bits of an `f32`, and a [`Tick`].
#[derive(Debug, Default)]
struct Decaying(AtomicU64);

impl Decaying {
    fn value(&self) -> f32 {
        Self::unpack(self.0.load(Ordering::Relaxed)).0
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// What is left of it now.
    fn decayed(&self, now: Tick) -> f32 {
        match Self::unpack(self.0.load(Ordering::Relaxed)) {
            (0.0, _) => 0.0,
            (value, then) => value * now.since(then).decay(),
        }
    }

    /// Whether it is not 0, and was long not replaced.
    fn is_silent(&self, now: Tick) -> bool {
        let (value, then) = Self::unpack(self.0.load(Ordering::Relaxed));
        value != 0.0 && now.since(then).is_silence()
    }

    /// Replaces it by what `next` makes of it and of the time since it was last replaced.
    fn update(&self, now: Tick, next: impl Fn(f32, Elapsed) -> f32) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |packed| {
            let (value, then) = Self::unpack(packed);
            let at = if now.is_before(then) { then } else { now };
            Some(Self::pack(next(value, now.since(then)), at))
        });
    }

    /// What is 0 stays so, and nothing is written.
    fn update_unless_zero(&self, now: Tick, next: impl Fn(f32, Elapsed) -> f32) {
        if self.value() != 0.0 {
            self.update(now, next);
        }
    }

    fn pack(value: f32, tick: Tick) -> u64 {
        u64::from(value.to_bits()) << 32 | u64::from(tick.0)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    fn unpack(packed: u64) -> (f32, Tick) {
        (f32::from_bits((packed >> 32) as u32), Tick(packed as u32))
    }
}

/// At least 1: 0 means that nothing is known.
fn nanos(duration: Duration) -> f32 {
    (duration.as_secs_f32() * 1e9).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    /// A record and the time, which a test moves by hand.
    struct Endpoint {
        load: EndpointLoad,
        now: Instant,
    }

    impl Endpoint {
        fn new() -> Self {
            let now = Instant::now();
            Self { load: EndpointLoad::default(), now }
        }

        fn answers(mut self, times: u32, took: Duration) -> Self {
            for _ in 0..times {
                self.now += took;
                self.load.handle_success(took, self.now);
            }
            self
        }

        fn fails(mut self, times: u32, took: Duration) -> Self {
            for _ in 0..times {
                self.now += took;
                self.load.handle_failure(took, self.now);
            }
            self
        }

        fn after(mut self, time: Duration) -> Self {
            self.now += time;
            self
        }

        /// In ms.
        fn cost(&self, in_flight: u32) -> f32 {
            self.load.cost(in_flight, Stamp::of(self.now)) / 1e6
        }
    }

    #[track_caller]
    fn assert_near(value: f32, expected: f32) {
        assert!((value - expected).abs() <= expected * 0.01, "{value}, not {expected}");
    }

    #[test]
    fn an_endpoint_never_tried_is_the_first_choice_and_not_flooded() {
        let new = Endpoint::new();
        assert_eq!(new.cost(0), 0.0);
        let slow = Endpoint::new().answers(1, 500 * MS);
        assert!(new.cost(1) > slow.cost(0), "its first call is not answered yet");
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_bit_by_bit() {
        let endpoint = Endpoint::new().answers(100, MS);
        assert_near(endpoint.cost(0), 1.0);
        let endpoint = endpoint.answers(1, 500 * MS);
        assert_near(endpoint.cost(0), 500.0);
        let endpoint = endpoint.answers(100, MS);
        assert!(endpoint.cost(0) > 490.0, "{}", endpoint.cost(0));
        let endpoint = endpoint.answers(60_000, MS);
        assert!(endpoint.cost(0) < 5.0, "{}", endpoint.cost(0));
    }

    #[test]
    fn after_a_silence_an_answer_replaces_what_was_known() {
        let one_after = |silence| Endpoint::new().answers(100, MS).answers(1, 340 * MS).after(silence).answers(1, MS);
        assert!(one_after(SECOND - 10 * MS).cost(0) > 300.0, "bit by bit");
        assert_near(one_after(SECOND).cost(0), 1.0);
        let failed = Endpoint::new().answers(1, MS).fails(10, MS).after(SECOND).answers(1, MS);
        assert!(failed.cost(0) > 2.0, "what failed is remembered: {}", failed.cost(0));
    }

    #[test]
    fn cost_grows_with_the_calls_in_flight() {
        let endpoint = Endpoint::new().answers(10, MS);
        assert_near(endpoint.cost(9) / endpoint.cost(0), 10.0);
    }

    #[test]
    fn an_endpoint_without_calls_is_tried_again_in_time() {
        let endpoint = Endpoint::new().answers(1, 500 * MS);
        assert_near(endpoint.after(DECAY).cost(0), 500.0 / std::f32::consts::E);
        let endpoint = Endpoint::new().answers(1, 500 * MS).after(80 * SECOND);
        assert!(endpoint.cost(0) < 1.0);
    }

    #[test]
    fn an_endpoint_that_is_connected_again_is_not_taken_for_as_slow_as_its_lost_connection() {
        let endpoint = Endpoint::new().answers(10, MS).fails(1, 20 * SECOND).fails(20, MS).after(SECOND);
        endpoint.load.handle_reconnect();
        assert_eq!(endpoint.cost(0), 0.0, "one call finds out");
        assert!(endpoint.cost(1) > 1_000.0, "and no second beside it");
        let endpoint = endpoint.answers(1, MS);
        assert!(endpoint.cost(0) > 2.0, "it failed a moment ago: {}", endpoint.cost(0));
        assert!(endpoint.after(30 * SECOND).answers(10, MS).cost(0) < 1.5);
    }

    #[test]
    fn to_fail_fast_is_never_an_advantage() {
        let healthy = Endpoint::new().answers(100, 50 * MS);
        let failing = Endpoint::new().answers(100, 50 * MS).fails(1, MS);
        assert!(failing.cost(0) > healthy.cost(0), "{} {}", failing.cost(0), healthy.cost(0));
        let failing = failing.fails(20, MS);
        assert!(failing.cost(0) > 50.0 * healthy.cost(0), "{} {}", failing.cost(0), healthy.cost(0));
        let from_the_start = Endpoint::new().fails(1, MS);
        assert!(from_the_start.cost(0) > Endpoint::new().answers(1, 500 * MS).cost(0));
    }

    #[test]
    fn an_endpoint_that_fails_for_long_does_not_come_to_look_fast() {
        let mut failing = Endpoint::new().answers(100, 50 * MS);
        for _ in 0..100 {
            failing = failing.after(10 * SECOND).fails(3, MS);
            assert!(failing.cost(0) > 100.0, "{}", failing.cost(0));
        }
    }

    #[test]
    fn a_failure_in_a_hundred_is_soon_forgotten() {
        let endpoint = Endpoint::new().answers(99, MS).fails(1, MS).answers(10, MS);
        assert!(endpoint.cost(0) < 1.1, "{}", endpoint.cost(0));
        let endpoint = endpoint.answers(30, MS);
        assert_eq!(endpoint.load.failures.value(), 0.0);
    }

    #[test]
    fn a_call_that_is_given_up_tells_that_the_endpoint_is_slow_and_never_that_it_is_fast() {
        let endpoint = Endpoint::new().answers(1, 100 * MS);
        endpoint.load.handle_abandoned(MS, endpoint.now);
        assert_near(endpoint.cost(0), 100.0);
        endpoint.load.handle_abandoned(SECOND, endpoint.now);
        assert_near(endpoint.cost(0), 1000.0);
    }

    #[test]
    fn each_end_is_a_success_a_failure_or_no_more_than_a_wait() {
        let (bad, answered) = (1_000.0..f32::MAX, |outcome| Some(Ended::Answered(outcome)));
        for (ended, head, expected) in [
            (answered(Outcome::Success), true, 99.0..101.0),
            (answered(Outcome::Failure), true, 99.0..101.0),
            (answered(Outcome::Overloaded), true, bad.clone()),
            (answered(Outcome::ServerError), true, bad.clone()),
            (answered(Outcome::GatewayError), true, bad.clone()),
            (Some(Ended::Reset), true, bad.clone()),
            (Some(Ended::Reset), false, bad.clone()),
            (Some(Ended::ConnectionLost), false, bad.clone()),
            (Some(Ended::Refused), false, bad.clone()),
            (Some(Ended::TimedOut), false, bad),
            (Some(Ended::TimedOut), true, 99.0..101.0),
            (None, true, 99.0..101.0),
            (None, false, 99.0..101.0),
        ] {
            let endpoint = Endpoint::new();
            endpoint.load.handle_end(ended, head, 100 * MS, endpoint.now);
            assert!(expected.contains(&endpoint.cost(0)), "{ended:?}, head: {head}: {}", endpoint.cost(0));
        }
    }

    #[test]
    fn moments_out_of_order_and_long_silence_do_no_harm() {
        let endpoint = Endpoint::new().after(SECOND).answers(1, 100 * MS);
        assert_near(endpoint.load.cost(0, Stamp::of(endpoint.now - 500 * MS)) / 1e6, 100.0);
        // A stream ends, the head of which came long ago.
        endpoint.load.handle_success(MS, endpoint.now - 900 * MS);
        assert_near(endpoint.cost(0), 100.0);
        let endpoint = endpoint.after(Duration::from_secs(1 << 40)).answers(1, MS);
        assert!(endpoint.cost(0).is_finite());
    }

    #[test]
    fn a_weight_is_used_from_the_end_of_its_blackout_until_it_expires() {
        let (blackout, expiration) = (10 * SECOND, 180 * SECOND);
        let mut endpoint = Endpoint::new();
        let weight = |endpoint: &Endpoint| endpoint.load.weight(blackout, expiration, endpoint.now);
        endpoint.load.handle_ready(endpoint.now);
        assert_eq!(weight(&endpoint), None, "no report yet");
        for (after, report, expected) in [
            (0, Some(2.0), None),
            (9, Some(3.0), None),
            (1, None, Some(3.0)),
            (178, None, Some(3.0)),
            (1, None, None),
            // Expired: what comes now is blacked out again.
            (0, Some(4.0), None),
            (10, None, Some(4.0)),
            // No reports at all.
            (1, Some(0.0), Some(4.0)),
            (1, Some(-1.0), Some(4.0)),
            (1, Some(f64::NAN), Some(4.0)),
            (1, Some(f64::INFINITY), Some(4.0)),
        ] {
            endpoint = endpoint.after(after * SECOND);
            report.into_iter().for_each(|weight| endpoint.load.handle_weight(weight, endpoint.now));
            assert_eq!(weight(&endpoint), expected, "after {after} s, {report:?}");
        }
        endpoint.load.handle_ready(endpoint.now);
        assert_eq!(weight(&endpoint), None, "reconnected");
        assert_eq!(endpoint.load.weight(Duration::ZERO, expiration, endpoint.now), Some(4.0), "no blackout");
    }

    #[test]
    fn an_endpoint_that_returns_is_as_new() {
        let endpoint = Endpoint::new();
        assert_eq!(endpoint.load.ready_for(endpoint.now), None);
        endpoint.load.handle_ready(endpoint.now);
        let endpoint = endpoint.after(60 * SECOND);
        assert_eq!(endpoint.load.ready_for(endpoint.now), Some(60 * SECOND));
        endpoint.load.handle_ready(endpoint.now);
        assert_eq!(endpoint.load.ready_for(endpoint.now), Some(Duration::ZERO));
    }
}

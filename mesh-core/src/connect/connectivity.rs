//! The connectivity state of one endpoint, without I/O: events and the time in, the time of the next try out.
//!
//! As gRPC's subchannel, with two differences. A lost connection is replaced at once, not at the next call, since the
//! balancer connects in the background; and a connection that neither answered a call nor lived as long as the first
//! backoff does not end the backoff, so that a peer that accepts and hangs up is not hammered.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::{Backoff, BackoffConfig};

/// A delay that the clock cannot express is cut to a year.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Whether calls can be sent, as gRPC names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectivityState {
    /// No connection, and nothing asks for one.
    Idle,
    /// A connection is being made, and the attempt before it did not fail.
    Connecting,
    /// Calls can be sent.
    Ready,
    /// The last attempt failed; it is repeated after its backoff, and stays in this state until one succeeds.
    TransientFailure,
    /// It was shut down.
    Shutdown,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Connectivity {
    phase: Phase,
    /// Whether an attempt failed since the last connection: while it is repeated, there is no hope for calls.
    failed: bool,
    backoff: Backoff,
    /// A connection that lived this long ends the backoff.
    stable: Duration,
    /// Whether an attempt failed, or a connection was lost, since the last that was stable.
    troubled: bool,
    last_error: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Connecting,
    Ready { since: Instant },
    Backoff { until: Instant },
}

impl Connectivity {
    /// A machine whose first attempt starts now.
    pub(crate) fn new(backoff: BackoffConfig) -> Self {
        Self {
            phase: Phase::Connecting,
            failed: false,
            backoff: Backoff::new(backoff),
            stable: backoff.initial,
            troubled: false,
            last_error: None,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) fn last_error(&self) -> Option<&Arc<str>> {
        self.last_error.as_ref()
    }

    pub(crate) fn state(&self) -> ConnectivityState {
        match self.phase {
            Phase::Ready { .. } => ConnectivityState::Ready,
            Phase::Connecting if !self.failed => ConnectivityState::Connecting,
            Phase::Connecting | Phase::Backoff { .. } => ConnectivityState::TransientFailure,
        }
    }

    /// An attempt starts.
    pub(crate) fn handle_attempt(&mut self) {
        self.phase = Phase::Connecting;
    }

    /// The attempt succeeded.
    pub(crate) fn handle_connected(&mut self, now: Instant) {
        self.phase = Phase::Ready { since: now };
        self.failed = false;
    }

    /// The attempt failed. Answers when the next one is due.
    pub(crate) fn handle_failed(&mut self, error: Arc<str>, now: Instant, random: f64) -> Instant {
        self.last_error = Some(error);
        self.troubled = true;
        self.back_off(now, random)
    }

    /// The connection, which may have been of use, ended or takes no new calls. Answers when the next attempt is due: now,
    /// unless this one and what was before it were of no use.
    pub(crate) fn handle_ended(&mut self, error: Arc<str>, useful: bool, now: Instant, random: f64) -> Instant {
        self.last_error = Some(error);
        let lasted = matches!(self.phase, Phase::Ready { since } if now.duration_since(since) >= self.stable);
        if useful || lasted {
            self.backoff.reset();
            self.troubled = false;
        }
        if std::mem::replace(&mut self.troubled, true) {
            return self.back_off(now, random);
        }
        self.phase = Phase::Connecting;
        now
    }

    /// No attempt can be made, since what would secure the connection is missing; if it `is_awaited`, there is hope for calls.
    pub(crate) fn handle_withheld(&mut self, why: Arc<str>, is_awaited: bool) {
        self.last_error = Some(why);
        self.failed |= !is_awaited;
        self.phase = Phase::Connecting;
    }

    /// An error that does not change the state.
    pub(crate) fn note(&mut self, error: Arc<str>) {
        self.last_error = Some(error);
    }

    fn back_off(&mut self, now: Instant, random: f64) -> Instant {
        let delay = self.backoff.next_delay(random);
        let until = now.checked_add(delay).unwrap_or(now + NEVER);
        self.failed = true;
        self.phase = Phase::Backoff { until };
        until
    }
}

#[cfg(test)]
mod tests {
    use super::ConnectivityState::{Connecting, Ready, TransientFailure};
    use super::*;

    /// In the middle of the jitter.
    const RANDOM: f64 = 0.5;

    fn machine() -> (Connectivity, Instant) {
        (Connectivity::new(BackoffConfig::default()), Instant::now())
    }

    fn seconds(since: Instant, until: Instant) -> f64 {
        until.duration_since(since).as_secs_f64()
    }

    #[test]
    fn failures_back_off_ever_longer_and_stay_failures_until_one_succeeds() {
        let (mut machine, now) = machine();
        assert_eq!(machine.state(), Connecting);
        for delay in [1.0, 1.6, 2.56] {
            let due = machine.handle_failed("refused".into(), now, RANDOM);
            assert!((seconds(now, due) - delay).abs() < 1e-6);
            assert_eq!(machine.state(), TransientFailure);
            assert_eq!(machine.phase(), Phase::Backoff { until: due });
            machine.handle_attempt();
            assert_eq!(machine.state(), TransientFailure, "a repeated attempt is no hope");
        }
        machine.handle_connected(now);
        assert_eq!(machine.state(), Ready);
        assert_eq!(machine.last_error().map(|error| &**error), Some("refused"));
    }

    #[test]
    fn a_lost_connection_is_replaced_at_once() {
        let (mut machine, now) = machine();
        machine.handle_connected(now);
        let later = now + Duration::from_secs(60);
        assert_eq!(machine.handle_ended("GOAWAY".into(), false, later, RANDOM), later);
        assert_eq!(machine.state(), Connecting);
    }

    #[test]
    fn a_peer_that_accepts_and_hangs_up_is_backed_off_from() {
        let (mut machine, mut now) = machine();
        let mut delays = Vec::new();
        for _ in 0..4 {
            machine.handle_attempt();
            machine.handle_connected(now);
            now += Duration::from_millis(1);
            delays.push(seconds(now, machine.handle_ended("reset".into(), false, now, RANDOM)));
        }
        assert_eq!(delays[..2], [0.0, 1.0]);
        assert!((delays[3] - 2.56).abs() < 1e-6, "{delays:?}");
        assert_eq!(machine.state(), TransientFailure);
        machine.handle_connected(now);
        now += Duration::from_secs(1);
        assert_eq!(machine.handle_ended("reset".into(), false, now, RANDOM), now, "this one lasted");
    }

    #[test]
    fn a_server_that_limits_the_calls_of_a_connection_is_not_backed_off_from() {
        let (mut machine, now) = machine();
        for _ in 0..10 {
            machine.handle_connected(now);
            assert_eq!(machine.handle_ended("GOAWAY".into(), true, now, RANDOM), now);
        }
    }

    #[test]
    fn a_connection_that_did_not_last_does_not_end_the_backoff() {
        let (mut machine, now) = machine();
        machine.handle_failed("refused".into(), now, RANDOM);
        machine.handle_connected(now);
        let due = machine.handle_ended("reset".into(), false, now, RANDOM);
        assert!((seconds(now, due) - 1.6).abs() < 1e-6);
    }

    #[test]
    fn absurd_delays_do_not_panic() {
        let config = BackoffConfig { initial: Duration::MAX, max: Duration::MAX, ..BackoffConfig::default() };
        let mut machine = Connectivity::new(config);
        machine.handle_failed("refused".into(), Instant::now(), 1.0);
    }
}

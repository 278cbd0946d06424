//! PING to a silent peer (gRFC A8), so that a connection which the network forgot, or whose peer hangs, is noticed while a
//! call waits on it.
//!
//! No timer is armed per call: while streams are open, one timer in the connection's task looks now and then whether
//! anything was read.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::config::Keepalive;
use super::error::{ConnectionError, ConnectionErrorKind};

/// After this time without a PING, servers do not mind one: five minutes in grpc-go and C-core, and some for the way there.
const FORGIVEN_AFTER: Duration = Duration::from_secs(330);

/// What has passed over the connection so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// Reads that brought bytes.
    pub(super) reads: u64,
    /// Those of them that brought a part of a response.
    pub(super) responses: u64,
    /// Whether any stream is open.
    pub(super) open: bool,
    /// Whether a request was sent that nothing was read after, be it given up meanwhile.
    pub(super) unanswered: bool,
}

/// What to do now that a pause is over.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Nothing is awaited: look again when a stream opens.
    Rest,
    /// Look again after this time.
    Look(Duration),
    /// Send a PING and look again after this time.
    Ping(Duration),
    /// The peer is gone.
    Lost,
}

/// Decides by what was read; knows no clock and no socket.
#[derive(Debug)]
struct Silence {
    config: Keepalive,
    reads: u64,
    responses: u64,
    /// The pause that is under way.
    pause: Duration,
    /// How long nothing was read, as far as the pauses tell.
    quiet: Duration,
    /// Whether a request was unanswered when the pause before ended.
    unanswered: bool,
    pinged: bool,
    without_data: u32,
    /// Whether the peer owes an answer for so long that it may hang.
    doubted: bool,
}

impl Silence {
    fn new(config: Keepalive) -> Self {
        Self {
            config,
            reads: 0,
            responses: 0,
            pause: Duration::ZERO,
            quiet: Duration::ZERO,
            unanswered: false,
            pinged: false,
            without_data: 0,
            doubted: false,
        }
    }

    fn wanted(&self, traffic: Traffic) -> bool {
        traffic.open || self.config.without_calls || self.hurries(traffic)
    }

    /// Whether the first PING since the peer sent data is to go out early, for a request: calls with short deadlines would
    /// else hide that the peer hangs. One that answers it is slow, and no more.
    fn hurries(&self, traffic: Traffic) -> bool {
        traffic.unanswered && self.config.after_requests && self.without_data == 0
    }

    /// The pause with which to begin.
    fn begin(&mut self, traffic: Traffic) -> Duration {
        self.heard(traffic);
        self.look(traffic)
    }

    /// The pause that takes the place of a longer one, if a request came in it.
    fn hurry(&mut self, traffic: Traffic) -> Option<Duration> {
        let hurries = !self.pinged && self.hurries(traffic) && self.pause > self.short_look();
        hurries.then(|| self.look(traffic))
    }

    /// The PING was answered: the pause that follows. The answer itself is no reason to allow more PINGs.
    fn answered(&mut self, traffic: Traffic) -> Duration {
        self.pinged = false;
        self.heard(traffic);
        self.look(traffic)
    }

    fn paused(&mut self, traffic: Traffic) -> Next {
        if traffic.reads != self.reads {
            self.heard(traffic);
        } else {
            self.quiet = self.quiet.saturating_add(self.pause);
        }
        if self.pinged {
            return self.await_answer();
        }
        if !self.wanted(traffic) {
            return Next::Rest;
        }
        let unanswered = std::mem::replace(&mut self.unanswered, traffic.unanswered);
        if self.is_silent() || unanswered && self.hurries(traffic) {
            return self.ping();
        }
        Next::Look(self.look(traffic))
    }

    fn is_silent(&self) -> bool {
        let Keepalive { interval, max_without_data, .. } = self.config;
        let longest = if self.without_data < max_without_data { interval } else { FORGIVEN_AFTER.max(interval) };
        self.quiet >= longest
    }

    fn ping(&mut self) -> Next {
        self.without_data = self.without_data.saturating_add(1);
        self.pinged = true;
        self.quiet = Duration::ZERO;
        Next::Ping(self.next(self.config.doubt.min(self.config.timeout)))
    }

    /// A pause after a PING is over, and its answer has not come.
    fn await_answer(&mut self) -> Next {
        let Keepalive { doubt, timeout, .. } = self.config;
        if self.quiet >= timeout {
            return Next::Lost;
        }
        self.doubted = self.quiet >= doubt;
        // If anything else was read, the peer lives, and has as much time again.
        let until = if self.doubted { timeout } else { doubt.min(timeout) };
        Next::Look(self.next(until - self.quiet))
    }

    /// The peer that did not answer a PING in time was heard after all: the pause that follows.
    fn heard_again(&mut self, traffic: Traffic) -> Option<Duration> {
        if !self.doubted || traffic.reads == self.reads {
            return None;
        }
        self.heard(traffic);
        Some(self.next(self.config.doubt.min(self.config.timeout)))
    }

    fn heard(&mut self, traffic: Traffic) {
        if traffic.responses != self.responses {
            self.without_data = 0;
        }
        (self.reads, self.responses) = (traffic.reads, traffic.responses);
        (self.quiet, self.unanswered, self.doubted) = (Duration::ZERO, false, false);
    }

    fn look(&mut self, traffic: Traffic) -> Duration {
        let pause = if self.hurries(traffic) { self.short_look() } else { self.config.interval / 2 };
        self.next(pause)
    }

    fn short_look(&self) -> Duration {
        self.config.interval.min(self.config.doubt) / 2
    }

    fn next(&mut self, pause: Duration) -> Duration {
        self.pause = pause;
        pause
    }
}

/// [`Silence`] with a timer.
pub(super) struct Pinger {
    silence: Silence,
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether the timer runs and has this task's waker.
    armed: bool,
}

/// What the connection's task has to do.
#[derive(Debug)]
pub(super) enum Due {
    /// Send a PING.
    Ping,
    /// Give the connection up.
    Lost(ConnectionError),
}

impl Pinger {
    pub(super) fn new(config: Keepalive) -> Self {
        Self { silence: Silence::new(config), timer: None, armed: false }
    }

    /// Whether a PING is unanswered for so long that the peer may hang.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.silence.doubted
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>, traffic: Traffic) -> Option<Due> {
        if let Some(pause) = self.silence.heard_again(traffic) {
            self.arm(cx, pause);
        }
        if !self.armed {
            if self.silence.wanted(traffic) {
                let pause = self.silence.begin(traffic);
                self.arm(cx, pause);
            }
            return None;
        }
        if !self.timer.as_ref().is_some_and(|timer| timer.is_elapsed()) {
            if let Some(pause) = self.silence.hurry(traffic) {
                self.arm(cx, pause);
            }
            return None;
        }
        self.paused(cx, traffic)
    }

    fn paused(&mut self, cx: &mut Context<'_>, traffic: Traffic) -> Option<Due> {
        self.armed = false;
        match self.silence.paused(traffic) {
            Next::Rest => None,
            Next::Look(pause) => {
                self.arm(cx, pause);
                None
            }
            Next::Ping(pause) => {
                self.arm(cx, pause);
                Some(Due::Ping)
            }
            Next::Lost => Some(Due::Lost(ConnectionError::new(
                ConnectionErrorKind::KeepaliveTimeout,
                format!("peer silent for {:?} after a PING", self.silence.config.timeout),
            ))),
        }
    }

    /// A PING was answered, this one's or the window's.
    pub(super) fn answered(&mut self, cx: &mut Context<'_>, traffic: Traffic) {
        if self.silence.pinged {
            let pause = self.silence.answered(traffic);
            self.arm(cx, pause);
        }
    }

    fn arm(&mut self, cx: &mut Context<'_>, pause: Duration) {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(pause)));
        timer.as_mut().reset(Instant::now() + pause);
        self.armed = true;
        if timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Next = Next::Look(Duration::from_secs(5));
    const SHORT_LOOK: Next = Next::Look(Duration::from_millis(500));
    const PING: Next = Next::Ping(Duration::from_secs(1));

    fn traffic(reads: u64, responses: u64) -> Traffic {
        Traffic { reads, responses, open: true, unanswered: false }
    }

    /// The same, and a request is unanswered.
    fn unanswered(reads: u64, responses: u64) -> Traffic {
        Traffic { unanswered: true, ..traffic(reads, responses) }
    }

    fn begun(config: Keepalive) -> Silence {
        let mut silence = Silence::new(config);
        assert_eq!(silence.begin(traffic(1, 1)), config.interval / 2);
        silence
    }

    /// What comes after pauses without any PING, and after how long.
    fn after_looks(silence: &mut Silence, traffic: Traffic) -> (Duration, Next) {
        let mut passed = silence.pause;
        loop {
            match silence.paused(traffic) {
                Next::Look(pause) => passed += pause,
                next => return (passed, next),
            }
        }
    }

    #[test]
    fn a_silent_peer_is_pinged_after_the_interval_and_lost_after_the_timeout() {
        let mut silence = begun(Keepalive::default());
        assert_eq!(after_looks(&mut silence, traffic(1, 1)), (Duration::from_secs(10), PING));
        assert!(!silence.doubted);
        assert_eq!(silence.paused(traffic(1, 1)), Next::Look(Duration::from_secs(19)));
        assert!(silence.doubted, "for a second without an answer");
        assert_eq!(silence.paused(traffic(1, 1)), Next::Lost);
    }

    #[test]
    fn a_peer_that_does_not_answer_a_request_is_pinged_early_and_once() {
        let mut silence = begun(Keepalive::default());
        assert_eq!(silence.hurry(traffic(1, 1)), None);
        assert_eq!(silence.hurry(unanswered(1, 1)), Some(Duration::from_millis(500)));
        assert_eq!(silence.hurry(unanswered(1, 1)), None, "it looks soon already");
        assert_eq!(silence.paused(unanswered(1, 1)), SHORT_LOOK, "it may have been sent just now");
        assert_eq!(silence.paused(unanswered(1, 1)), PING);
        assert_eq!(silence.hurry(unanswered(1, 1)), None, "its answer is awaited");
        silence.answered(traffic(2, 1));
        assert_eq!(after_looks(&mut silence, unanswered(2, 1)), (Duration::from_secs(10), PING), "slow, but there");
        silence.answered(traffic(3, 1));
        assert_eq!(silence.paused(unanswered(4, 2)), SHORT_LOOK, "it answers: that counts as none");
        assert_eq!(silence.paused(unanswered(4, 2)), PING);
    }

    #[test]
    fn a_request_that_was_given_up_is_asked_for_all_the_same() {
        let given_up = Traffic { open: false, ..unanswered(1, 1) };
        let mut silence = begun(Keepalive::default());
        assert_eq!(silence.paused(given_up), SHORT_LOOK);
        assert_eq!(silence.paused(given_up), PING);
        silence.answered(Traffic { open: false, ..traffic(2, 1) });
        assert_eq!(
            silence.paused(Traffic { open: false, ..unanswered(2, 1) }),
            Next::Rest,
            "a second PING would count"
        );
    }

    #[test]
    fn a_request_that_something_was_read_after_is_no_reason_for_a_ping() {
        let mut silence = begun(Keepalive::default());
        for reads in 2..100 {
            assert_eq!(silence.paused(unanswered(reads, reads)), SHORT_LOOK, "each time another request");
        }
        assert_eq!(silence.paused(traffic(99, 99)), LOOK);
        assert_eq!(silence.paused(unanswered(99, 99)), SHORT_LOOK);
        let mut seldom = begun(Keepalive::default().slower());
        assert_eq!(after_looks(&mut seldom, unanswered(1, 1)).0, Duration::from_secs(20), "after a complaint");
    }

    #[test]
    fn a_peer_in_doubt_is_trusted_as_soon_as_it_is_heard() {
        let mut silence = begun(Keepalive::default());
        after_looks(&mut silence, traffic(1, 1));
        silence.paused(traffic(1, 1));
        assert_eq!(silence.heard_again(traffic(1, 1)), None);
        assert_eq!(silence.heard_again(traffic(2, 1)), Some(Duration::from_secs(1)));
        assert!(!silence.doubted);
        assert_eq!(silence.paused(traffic(2, 1)), Next::Look(Duration::from_secs(19)), "the PING has no answer yet");
        assert!(silence.doubted);
        assert_eq!(silence.answered(traffic(3, 1)), Duration::from_secs(5));
        assert!(!silence.doubted);
    }

    #[test]
    fn whatever_is_read_keeps_the_peer_alive() {
        let mut silence = begun(Keepalive::default());
        for reads in 2..100 {
            assert_eq!(silence.paused(traffic(reads, 1)), LOOK);
        }
        assert_eq!(after_looks(&mut silence, traffic(99, 1)).1, PING);
        for reads in 100..200 {
            assert_eq!(silence.paused(traffic(reads, 1)), Next::Look(Duration::from_secs(1)));
        }
        assert_eq!(silence.paused(traffic(199, 1)), Next::Look(Duration::from_secs(19)));
        assert_eq!(silence.paused(traffic(199, 1)), Next::Lost);
    }

    #[test]
    fn at_most_two_pings_in_minutes_until_the_peer_sends_data() {
        let mut silence = begun(Keepalive::default());
        for reads in [2, 3] {
            assert_eq!(after_looks(&mut silence, unanswered(reads - 1, 1)).1, PING);
            silence.answered(traffic(reads, 1));
        }
        assert_eq!(after_looks(&mut silence, unanswered(3, 1)), (FORGIVEN_AFTER, PING));
        silence.answered(traffic(4, 2));
        assert_eq!(after_looks(&mut silence, traffic(4, 2)), (Duration::from_secs(10), PING));
    }

    #[test]
    fn no_stream_no_ping_unless_asked_for() {
        let idle = Traffic { open: false, ..traffic(1, 1) };
        assert_eq!(begun(Keepalive::default()).paused(idle), Next::Rest);
        let mut always = Silence::new(Keepalive::always(Duration::from_secs(10)));
        assert_eq!(always.begin(idle), Duration::from_secs(5));
        assert_eq!(after_looks(&mut always, idle), (Duration::from_secs(10), PING));
    }
}

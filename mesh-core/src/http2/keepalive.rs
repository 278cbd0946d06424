//! PING to a silent peer (gRFC A8), so that a connection which the network forgot is noticed while a call waits on it.
//!
//! No timer is armed per call: while streams are open, one timer in the connection's task looks twice per interval
//! whether anything was read.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::config::Keepalive;
use super::error::{ConnectionError, ConnectionErrorKind};

/// What has passed over the connection so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// Reads that brought bytes.
    pub(super) reads: u64,
    /// Those of them that brought a part of a response.
    pub(super) responses: u64,
    /// Whether any stream is open.
    pub(super) open: bool,
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
    quiet: bool,
    pinged: bool,
    without_data: u32,
}

impl Silence {
    fn new(config: Keepalive) -> Self {
        Self { config, reads: 0, responses: 0, quiet: false, pinged: false, without_data: 0 }
    }

    fn wanted(&self, traffic: Traffic) -> bool {
        traffic.open || self.config.without_calls
    }

    /// The pause with which to begin.
    fn begin(&mut self, traffic: Traffic) -> Duration {
        self.heard(traffic);
        self.half()
    }

    /// The PING was answered: the pause that follows. The answer itself is no reason to allow more PINGs.
    fn answered(&mut self, traffic: Traffic) -> Duration {
        self.pinged = false;
        self.heard(traffic);
        self.half()
    }

    fn paused(&mut self, traffic: Traffic) -> Next {
        let heard = traffic.reads != self.reads;
        match (self.pinged, heard) {
            (true, false) => return Next::Lost,
            // Not the answer yet, but the peer lives.
            (true, true) => {
                self.heard(traffic);
                return Next::Look(self.config.timeout);
            }
            (false, _) if !self.wanted(traffic) => return Next::Rest,
            (false, true) => self.heard(traffic),
            (false, false) if self.quiet && self.without_data < self.config.max_without_data => return self.ping(),
            (false, false) => self.quiet = true,
        }
        Next::Look(self.half())
    }

    fn ping(&mut self) -> Next {
        self.without_data = self.without_data.saturating_add(1);
        self.pinged = true;
        Next::Ping(self.config.timeout)
    }

    fn heard(&mut self, traffic: Traffic) {
        if traffic.responses != self.responses {
            self.without_data = 0;
        }
        (self.reads, self.responses, self.quiet) = (traffic.reads, traffic.responses, false);
    }

    fn half(&self) -> Duration {
        self.config.interval / 2
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

    pub(super) fn poll(&mut self, cx: &mut Context<'_>, traffic: Traffic) -> Option<Due> {
        if !self.armed {
            if self.silence.wanted(traffic) {
                let pause = self.silence.begin(traffic);
                self.arm(cx, pause);
            }
            return None;
        }
        if !self.timer.as_ref().is_some_and(|timer| timer.is_elapsed()) {
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
    const PING: Next = Next::Ping(Duration::from_secs(20));

    fn traffic(reads: u64, responses: u64) -> Traffic {
        Traffic { reads, responses, open: true }
    }

    fn begun(config: Keepalive) -> Silence {
        let mut silence = Silence::new(config);
        assert_eq!(silence.begin(traffic(1, 1)), Duration::from_secs(5));
        silence
    }

    #[test]
    fn a_silent_peer_is_pinged_after_the_interval_and_lost_after_the_timeout() {
        let mut silence = begun(Keepalive::default());
        assert_eq!(silence.paused(traffic(1, 1)), LOOK);
        assert_eq!(silence.paused(traffic(1, 1)), PING);
        assert_eq!(silence.paused(traffic(1, 1)), Next::Lost);
    }

    #[test]
    fn whatever_is_read_keeps_the_peer_alive() {
        let mut silence = begun(Keepalive::default());
        for reads in 2..100 {
            assert_eq!(silence.paused(traffic(reads, 1)), LOOK);
        }
        assert_eq!(silence.paused(traffic(99, 1)), LOOK);
        assert_eq!(silence.paused(traffic(99, 1)), PING);
        assert_eq!(silence.paused(traffic(100, 1)), Next::Look(Duration::from_secs(20)));
        assert_eq!(silence.paused(traffic(100, 1)), Next::Lost);
    }

    #[test]
    fn at_most_two_pings_until_the_peer_sends_data() {
        let mut silence = begun(Keepalive::default());
        for reads in [2, 3] {
            assert_eq!(silence.paused(traffic(reads - 1, 1)), LOOK);
            assert_eq!(silence.paused(traffic(reads - 1, 1)), PING);
            silence.answered(traffic(reads, 1));
        }
        for _ in 0..10 {
            assert_eq!(silence.paused(traffic(3, 1)), LOOK);
        }
        assert_eq!(silence.paused(traffic(4, 2)), LOOK);
        assert_eq!(silence.paused(traffic(4, 2)), LOOK);
        assert_eq!(silence.paused(traffic(4, 2)), PING);
    }

    #[test]
    fn no_stream_no_ping_unless_asked_for() {
        let idle = Traffic { open: false, ..traffic(1, 1) };
        assert_eq!(begun(Keepalive::default()).paused(idle), Next::Rest);
        let mut always = Silence::new(Keepalive::always(Duration::from_secs(10)));
        always.begin(idle);
        assert_eq!(always.paused(idle), LOOK);
        assert_eq!(always.paused(idle), PING);
    }
}

//! The stages of a connection, without its I/O: what it is told and the time go in, what is to be done comes out. It ends by
//! itself, whatever its peer does.
//!
//! ```text
//! TLS ─▸ handshake ─ began? ─▸ serving ─ told to drain, or old ─▸ draining ─ calls ended, or grace over ─▸ closed
//!  └ no ─────┴ no ─▸ closed      └ PINGs unanswered ─▸ closed       │  └ cut ─▸ closed
//!                                                                   └ a moment later ─▸ new calls are refused
//!                                                                      └ at a shutdown, nothing under way, silence ─▸ closed
//! ```

use std::time::Duration;

use tokio::time::Instant;

use super::ServerOptions;
use super::secure::Turn;

/// How long a client may take to hear that its connection drains: calls that it makes meanwhile are served, and later ones
/// refused for it to make elsewhere. Without that end, one that never acknowledges the GOAWAY (RFC 9113, 6.8) would be
/// served under a configuration that is gone for as long as it likes.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a client without a call may be silent when the server shuts down and it had the time to hear that. A client
/// that is there acknowledges a PING by then, and its connection is over; one that is not holds nobody up until the end of the
/// shutdown. As Envoy's `delayed_close_timeout`, it does not count while anything waits to be written to a slow reader.
const SILENCE: Duration = Duration::from_secs(1);
/// What no timer waits for.
const NEVER: Duration = Duration::from_secs(3600 * 24 * 365);

/// How far a connection is.
#[derive(Debug)]
pub(super) struct Stages {
    stage: Stage,
    /// When it has its age.
    old: Instant,
    /// How long its calls may take when it is told to drain.
    drain_grace: Duration,
    shuts_down: bool,
    is_distrusted: bool,
    /// Its calls have no more than the grace.
    is_limited: bool,
    /// When that is over.
    grace: Instant,
    /// What had come from the client when it was last looked whether it is silent.
    heard: usize,
    timer: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Handshake,
    Serving,
    /// The client is told.
    Draining,
    /// It has had the time to hear it.
    Refusing,
}

/// What a connection is told.
#[derive(Debug)]
pub(super) enum Sign {
    /// It ends at once.
    Cut,
    /// It takes no new call, and has until it is cut for those it has.
    Shutdown,
    /// It takes no new call, and has the grace for those it has.
    Drain,
    Certificates(Turn),
    /// What it waited for has come.
    Time,
}

/// Which signs count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Awaited {
    pub(super) shutdown: bool,
    pub(super) drain: bool,
    /// When to tell the time.
    pub(super) until: Instant,
}

/// What can be seen of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Its peer speaks HTTP/2.
    pub(super) has_begun: bool,
    /// How many bytes came; it wraps around.
    pub(super) read: usize,
    /// No call is under way, and nothing waits to be written.
    pub(super) is_idle: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Stay,
    /// Tell the client that no new call is taken.
    Drain,
    /// Refuse new calls.
    Refuse,
    Close(End),
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Cut,
    Certificates,
    NoHttp2,
    Silent,
    Grace,
}

impl From<End> for &'static str {
    fn from(end: End) -> Self {
        match end {
            End::Cut => "it was cut",
            End::Certificates => "its certificates do not hold any more",
            End::NoHttp2 => "its peer did not speak HTTP/2",
            End::Silent => "its client, told of the shutdown and without a call, answered nothing",
            End::Grace => "it did not end within the grace",
        }
    }
}

impl Stages {
    pub(super) fn new(options: &ServerOptions, start: Instant) -> Self {
        let old = old_at(start, options.max_connection_age);
        Self {
            stage: Stage::Handshake,
            old,
            drain_grace: options.drain_grace,
            shuts_down: false,
            is_distrusted: false,
            is_limited: false,
            grace: start + NEVER,
            heard: 0,
            timer: old.min(start + options.handshake_timeout),
        }
    }

    pub(super) fn awaited(&self) -> Awaited {
        // One that drains for its certificates is told to drain, too: what it serves by may be gone.
        Awaited { shutdown: !self.shuts_down, drain: !self.is_limited && !self.shuts_down, until: self.timer }
    }

    pub(super) fn told(&mut self, sign: Sign, seen: Seen, now: Instant) -> Step {
        match sign {
            Sign::Cut => return Step::Close(End::Cut),
            Sign::Shutdown => self.shuts_down = true,
            Sign::Drain => self.is_limited = true,
            Sign::Certificates(Turn::Drain) if self.takes_calls() => {}
            Sign::Certificates(Turn::Drain) => return Step::Stay,
            Sign::Certificates(Turn::Refuse) => self.is_distrusted = true,
            Sign::Certificates(Turn::End) => return Step::Close(End::Certificates),
            Sign::Time if self.takes_calls() => {
                match self.stage == Stage::Handshake && seen.has_begun && now < self.old {
                    true => return self.serve(),
                    false => self.is_limited = true,
                }
            }
            Sign::Time => return self.wait(seen, now),
        }
        match seen.has_begun {
            true => self.drain(now),
            false => Step::Close(End::NoHttp2),
        }
    }

    fn takes_calls(&self) -> bool {
        matches!(self.stage, Stage::Handshake | Stage::Serving)
    }

    fn serve(&mut self) -> Step {
        (self.stage, self.timer) = (Stage::Serving, self.old);
        Step::Stay
    }

    fn drain(&mut self, now: Instant) -> Step {
        self.stage = Stage::Draining;
        // What a shutdown leaves its calls is the server's to time, whyever the connection drained before; what certificates
        // alone do, theirs.
        self.grace = match self.is_limited && !self.shuts_down {
            true => self.grace.min(now + self.drain_grace),
            false => now + NEVER,
        };
        self.timer = self.grace.min(now + if self.is_distrusted { Duration::ZERO } else { FAREWELL });
        Step::Drain
    }

    /// The time of one that drains.
    fn wait(&mut self, seen: Seen, now: Instant) -> Step {
        let before = std::mem::replace(&mut self.heard, seen.read);
        let is_told = self.stage == Stage::Refusing;
        self.stage = Stage::Refusing;
        self.timer = if self.shuts_down { now + SILENCE } else { self.grace };
        match (is_told, self.shuts_down) {
            (false, _) => Step::Refuse,
            (true, false) => Step::Close(End::Grace),
            (true, true) if seen.is_idle && seen.read == before => Step::Close(End::Silent),
            (true, true) => Step::Stay,
        }
    }
}

/// When a connection has its age, up to 10 % more or less so that they do not all leave at once (A9).
fn old_at(start: Instant, age: Option<Duration>) -> Instant {
    start + age.map_or(NEVER, |age| age.mul_f64(0.9 + 0.2 * fastrand::f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEAKS: Seen = Seen { has_begun: true, read: 33, is_idle: false };
    const IDLE: Seen = Seen { is_idle: true, ..SPEAKS };

    /// A connection, and the clock that it goes by.
    struct Played(Stages, Instant);

    impl Played {
        fn new(options: &ServerOptions) -> Self {
            let now = Instant::now();
            Self(Stages::new(options, now), now)
        }

        /// One that serves.
        fn serving(options: &ServerOptions) -> Self {
            let mut played = Self::new(options);
            assert_eq!(played.waits(SPEAKS).1, Step::Stay);
            played
        }

        fn told(&mut self, sign: Sign) -> Step {
            self.0.told(sign, SPEAKS, self.1)
        }

        /// After how long its time comes, and what it does then.
        fn waits(&mut self, seen: Seen) -> (Duration, Step) {
            let until = self.0.awaited().until;
            let waited = until - std::mem::replace(&mut self.1, until);
            (waited, self.0.told(Sign::Time, seen, until))
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn options() -> ServerOptions {
        ServerOptions::new().handshake_timeout(seconds(10)).drain_grace(seconds(30))
    }

    #[test]
    fn who_does_not_speak_http2_in_time_is_closed() {
        let mut played = Played::new(&options());
        assert_eq!(played.waits(Seen { has_begun: false, ..IDLE }), (seconds(10), Step::Close(End::NoHttp2)));
        for sign in [Sign::Drain, Sign::Shutdown, Sign::Certificates(Turn::Drain), Sign::Certificates(Turn::Refuse)] {
            let mut played = Played::new(&options());
            let step = played.0.told(sign, Seen { has_begun: false, ..IDLE }, played.1);
            assert_eq!(step, Step::Close(End::NoHttp2));
        }
    }

    #[test]
    fn one_that_is_told_to_drain_refuses_calls_a_moment_later_and_ends_with_the_grace() {
        let mut played = Played::serving(&options());
        assert_eq!(played.told(Sign::Drain), Step::Drain);
        assert!(!played.0.awaited().drain, "told once");
        assert_eq!(played.waits(SPEAKS), (FAREWELL, Step::Refuse));
        assert_eq!(played.waits(SPEAKS), (seconds(29), Step::Close(End::Grace)));
    }

    #[test]
    fn an_old_one_drains_so_too() {
        let mut played = Played::serving(&options().max_connection_age(Some(seconds(100))));
        let (age, step) = played.waits(SPEAKS);
        assert!((seconds(80)..seconds(110)).contains(&age), "{age:?} after the 10 s of the handshake");
        assert_eq!(step, Step::Drain);
        assert_eq!(played.waits(SPEAKS), (FAREWELL, Step::Refuse));
        assert_eq!(played.waits(SPEAKS), (seconds(29), Step::Close(End::Grace)));
    }

    #[test]
    fn certificates_alone_limit_no_call_until_they_do_not_hold() {
        let mut played = Played::serving(&options());
        assert_eq!(played.told(Sign::Certificates(Turn::Drain)), Step::Drain);
        assert_eq!(played.told(Sign::Certificates(Turn::Drain)), Step::Stay, "told already");
        assert_eq!(played.waits(SPEAKS), (FAREWELL, Step::Refuse));
        assert!(played.0.awaited().until > played.1 + seconds(3600 * 24));
        // Its configuration may be gone, too.
        assert_eq!(played.told(Sign::Drain), Step::Drain);
        assert_eq!(played.waits(SPEAKS), (FAREWELL, Step::Refuse));
        assert_eq!(played.told(Sign::Certificates(Turn::End)), Step::Close(End::Certificates));
    }

    #[test]
    fn who_is_not_trusted_any_more_is_refused_at_once() {
        let mut played = Played::serving(&options());
        assert_eq!(played.told(Sign::Certificates(Turn::Refuse)), Step::Drain);
        assert_eq!(played.waits(SPEAKS), (Duration::ZERO, Step::Refuse));
    }

    #[test]
    fn a_second_sign_makes_no_grace_longer() {
        let mut played = Played::serving(&options());
        played.told(Sign::Drain);
        played.waits(SPEAKS);
        assert_eq!(played.told(Sign::Certificates(Turn::Refuse)), Step::Drain);
        assert_eq!(played.waits(SPEAKS), (Duration::ZERO, Step::Refuse));
        assert_eq!(played.waits(SPEAKS), (seconds(29), Step::Close(End::Grace)));
    }

    #[test]
    fn at_a_shutdown_only_who_is_idle_and_silent_is_closed() {
        let mut played = Played::serving(&options());
        assert_eq!(played.told(Sign::Shutdown), Step::Drain);
        assert_eq!(played.waits(IDLE), (FAREWELL, Step::Refuse));
        assert_eq!(played.waits(SPEAKS), (SILENCE, Step::Stay), "it has a call");
        assert_eq!(played.waits(Seen { read: 50, ..IDLE }), (SILENCE, Step::Stay), "it said something");
        assert_eq!(played.waits(Seen { read: 50, ..IDLE }), (SILENCE, Step::Close(End::Silent)));
        assert_eq!(Played::serving(&options()).told(Sign::Cut), Step::Close(End::Cut));
    }
}

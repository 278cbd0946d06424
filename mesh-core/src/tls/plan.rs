//! When a connection that certificates secure is replaced, drained and closed; without I/O: the time and chance in, what is
//! to be done out.
//!
//! ```text
//! made ──▸ serving ── a new own certificate, or the peer's near its end ──▸ Replace ──▸ … the calls end
//!              ├── roots that do not vouch for the peer ──▸ Drain ── 1 s ──▸ End
//!              └── either certificate expired ──▸ End
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// What is to become of an open connection.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Turn {
    /// Another is to take its place: once that one serves, this one takes no new calls. Who accepts connections cannot make
    /// another, and lets the peer do so: no new calls from now on, and time for those it has.
    Replace(Arc<str>),
    /// It takes no new calls from now on, and is closed in a moment.
    Drain(Arc<str>),
    /// It is closed now, whatever calls it has.
    End(Arc<str>),
}

/// One moment, by both clocks: certificates expire by the wall clock, which people set; timers run by the other, which
/// stands still while a machine sleeps. What is over by either is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) at: Instant,
    pub(crate) wall: SystemTime,
}

/// A moment to come.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Instant,
    wall: SystemTime,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Plan {
    /// When the first of the two certificates expires, and whose it is.
    end: (Due, Whose),
    /// When the own certificate expires, until a newer one is known.
    own_end: Option<Due>,
    replacement: Option<(Due, Whose)>,
    /// The roots do not vouch for the peer: why, and when the connection is closed.
    refused: Option<(Arc<str>, Instant)>,
    is_drained: bool,
}

/// Who looks at the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The one who made it, and can make another.
    Made,
    /// The one who accepted it.
    #[cfg_attr(not(feature = "server"), expect(dead_code, reason = "nothing is accepted"))]
    Accepted,
}

/// Whose certificate is the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Own,
    Peers,
}

/// What is due, for the one who knows the words.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Replace(Whose),
    Drain(Arc<str>),
    /// Of an expired certificate.
    Expired(Whose),
    /// The roots do not vouch for the peer.
    Refused(Arc<str>),
}

/// After roots were published that do not vouch for a peer, calls to it have so long.
pub(crate) const REFUSED_FOR: Duration = Duration::from_secs(1);
/// A peer whose certificate ends sooner than this after the handshake is not asked for another.
const TOO_SHORT: Duration = Duration::from_millis(500);
/// What no timer waits for.
const NEVER: Duration = Duration::from_secs(3600 * 24 * 365);

impl Plan {
    /// Of a connection that was made `now`. The peer renews its certificate without telling: near its end, wherever by
    /// chance (`random` from 0 to 1), the connection is replaced. Who made it does so after 75 to 90 % of what is left of
    /// the certificate; who accepted it leaves it the time for that.
    pub(super) fn new(side: Side, own: Option<SystemTime>, peer: Option<SystemTime>, now: Now, random: f64) -> Self {
        let own = own.map(|own| now.due(own));
        let end = match (own, peer.map(|peer| now.due(peer))) {
            (Some(own), Some(peer)) if own.at > peer.at => (peer, Whose::Peers),
            (Some(own), _) => (own, Whose::Own),
            (None, Some(peer)) => (peer, Whose::Peers),
            (None, None) => (now.after(NEVER), Whose::Peers),
        };
        let (first, last) = match side {
            Side::Made => (0.75, 0.9),
            Side::Accepted => (0.92, 0.97),
        };
        let left = peer.map(|peer| now.until(peer)).filter(|left| *left >= TOO_SHORT);
        let replacement = left.map(|left| (now.after(left.mul_f64(first + (last - first) * random)), Whose::Peers));
        Self { end, own_end: own, replacement, refused: None, is_drained: false }
    }

    /// There is a new own certificate: after 50 to 90 % of what is left of the one that was shown, the connection is
    /// replaced. One that came before the replacement was due makes no second one necessary.
    pub(super) fn handle_renewed(&mut self, now: Now, random: f64) {
        let Some(own) = self.own_end else { return };
        let due = now.after(own.left(now).mul_f64(0.5 + 0.4 * random));
        match self.replacement {
            Some((_, Whose::Own)) => {}
            Some((known, Whose::Peers)) if known.at <= due.at => {}
            _ => self.replacement = Some((due, Whose::Own)),
        }
        // Once is enough.
        self.own_end = None;
    }

    /// The roots that were `published` do not vouch for the peer.
    pub(super) fn handle_refused(&mut self, why: Arc<str>, published: Instant) {
        self.refused.get_or_insert((why, published + REFUSED_FOR));
    }

    /// Whether it takes no calls any more: roots that vouch for the peer again come too late.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// What is to be done now, each once; `None`: nothing before [`due`](Self::due).
    pub(super) fn step(&mut self, now: Now) -> Option<Step> {
        let (end, whose) = self.end;
        if end.is_over(now) {
            return Some(Step::Expired(whose));
        }
        if let Some((why, closed)) = &self.refused {
            if now.at >= *closed {
                return Some(Step::Refused(why.clone()));
            }
            return (!std::mem::replace(&mut self.is_drained, true)).then(|| Step::Drain(why.clone()));
        }
        let (_, whose) = self.replacement.take_if(|(due, _)| due.is_over(now))?;
        Some(Step::Replace(whose))
    }

    /// When the next step is due.
    pub(super) fn due(&self) -> Instant {
        let (end, _) = self.end;
        match (&self.refused, &self.replacement) {
            (Some((_, closed)), _) => end.at.min(*closed),
            (None, Some((replacement, _))) => end.at.min(replacement.at),
            (None, None) => end.at,
        }
    }
}

impl Now {
    pub(crate) fn here() -> Self {
        Self { at: Instant::now(), wall: SystemTime::now() }
    }

    fn until(self, wall: SystemTime) -> Duration {
        wall.duration_since(self.wall).unwrap_or(Duration::ZERO).min(NEVER)
    }

    fn after(self, wait: Duration) -> Due {
        Due { at: self.at + wait, wall: self.wall + wait }
    }

    fn due(self, wall: SystemTime) -> Due {
        Due { at: self.at + self.until(wall), wall }
    }
}

impl Due {
    /// By the clock that is ahead.
    fn left(self, now: Now) -> Duration {
        self.at.saturating_duration_since(now.at).min(now.until(self.wall))
    }

    fn is_over(self, now: Now) -> bool {
        now.at >= self.at || now.wall >= self.wall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn start() -> Now {
        Now { at: Instant::now(), wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) }
    }

    fn later(now: Now, seconds: u64) -> Now {
        let seconds = Duration::from_secs(seconds);
        Now { at: now.at + seconds, wall: now.wall + seconds }
    }

    fn plan(own: Option<u64>, peer: u64, random: f64) -> (Plan, Now) {
        let now = start();
        (Plan::new(Side::Made, own.map(|own| later(now, own).wall), Some(later(now, peer).wall), now, random), now)
    }

    fn due(plan: &Plan, since: Now) -> u64 {
        plan.due().duration_since(since.at).as_secs()
    }

    #[test]
    fn a_new_own_certificate_replaces_after_half_to_nine_tenths_of_what_is_left_of_the_old_one() {
        for (random, wanted) in [(0.0, 500), (0.5, 700), (1.0, 900)] {
            let (mut plan, now) = plan(Some(HOUR), 100 * HOUR, 0.0);
            let renewed = later(now, HOUR - 1000);
            plan.handle_renewed(renewed, random);
            assert_eq!(due(&plan, renewed), wanted);
            assert_eq!(plan.step(later(renewed, wanted - 1)), None);
            assert_eq!(plan.step(later(renewed, wanted)), Some(Step::Replace(Whose::Own)));
            assert_eq!(plan.step(later(renewed, wanted)), None, "once");
            assert_eq!(plan.step(later(now, HOUR)), Some(Step::Expired(Whose::Own)));
        }
    }

    #[test]
    fn certificates_that_come_before_the_replacement_is_due_are_replaced_for_at_once() {
        let (mut plan, now) = plan(Some(HOUR), 100 * HOUR, 0.0);
        plan.handle_renewed(now, 0.5);
        let before = due(&plan, now);
        plan.handle_renewed(later(now, 60), 1.0);
        assert_eq!(due(&plan, now), before);
    }

    #[test]
    fn the_peers_certificate_is_looked_at_again_before_it_ends() {
        for (random, wanted) in [(0.0, 750), (1.0, 900)] {
            let (mut plan, now) = plan(None, 1000, random);
            assert_eq!(due(&plan, now), wanted);
            assert_eq!(plan.step(later(now, wanted)), Some(Step::Replace(Whose::Peers)));
            assert_eq!((plan.step(later(now, wanted)), due(&plan, now)), (None, 1000));
            assert_eq!(plan.step(later(now, 1000)), Some(Step::Expired(Whose::Peers)));
        }
    }

    #[test]
    fn who_accepts_connections_leaves_their_clients_the_time_to_replace_them() {
        let now = start();
        for (random, wanted) in [(0.0, 920), (1.0, 970)] {
            let peer = Some(later(now, 1000).wall);
            let plan = Plan::new(Side::Accepted, Some(later(now, HOUR).wall), peer, now, random);
            assert_eq!(due(&plan, now), wanted);
        }
        // One that showed no certificate has the time of the own one.
        let mut plan = Plan::new(Side::Accepted, Some(later(now, HOUR).wall), None, now, 0.5);
        assert_eq!(due(&plan, now), HOUR);
        assert_eq!(plan.step(later(now, HOUR)), Some(Step::Expired(Whose::Own)));
    }

    #[test]
    fn a_replacement_that_is_due_for_the_peer_serves_for_the_own_certificate_too() {
        let (mut plan, now) = plan(Some(HOUR), 100, 0.0);
        plan.handle_renewed(now, 0.0);
        assert_eq!(plan.step(later(now, 75)), Some(Step::Replace(Whose::Peers)));
        assert_eq!(plan.step(later(now, 99)), None);
    }

    #[test]
    fn the_earlier_end_of_the_two_certificates_is_the_connections_end() {
        for (own, peer, end, whose) in [
            (Some(10), 20, 10, Whose::Own),
            (Some(20), 10, 10, Whose::Peers),
            (Some(10), 10, 10, Whose::Own),
            (None, 10, 10, Whose::Peers),
            (Some(0), 10, 0, Whose::Own),
        ] {
            let (mut plan, now) = plan(own, peer, 0.0);
            plan.replacement = None;
            assert_eq!(due(&plan, now), end);
            assert_eq!(plan.step(later(now, end)), Some(Step::Expired(whose)));
            assert!(end == 0 || plan.step(later(now, end - 1)).is_none(), "no second sooner");
        }
    }

    #[test]
    fn what_roots_do_not_vouch_for_takes_no_calls_and_is_closed_one_second_after_they_came() {
        let (mut plan, now) = plan(Some(HOUR), HOUR, 0.0);
        plan.handle_refused("unknown".into(), now.at);
        assert_eq!(plan.step(now), Some(Step::Drain("unknown".into())));
        assert_eq!((plan.step(now), due(&plan, now)), (None, 1));
        plan.handle_refused("another reason".into(), later(now, 5).at);
        plan.handle_renewed(now, 0.0);
        assert_eq!(plan.step(later(now, 1)), Some(Step::Refused("unknown".into())));
    }

    #[test]
    fn roots_that_came_long_ago_leave_no_time() {
        let (mut plan, now) = plan(Some(HOUR), HOUR, 0.0);
        plan.handle_refused("unknown".into(), now.at);
        assert_eq!(plan.step(later(now, 2)), Some(Step::Refused("unknown".into())));
    }

    #[test]
    fn what_is_over_by_either_clock_is_over() {
        let (mut plan, now) = plan(Some(100), HOUR, 0.0);
        let asleep = Now { at: now.at, ..later(now, 100) };
        assert_eq!(plan.step(asleep), Some(Step::Expired(Whose::Own)));
        let set_back = Now { wall: now.wall, ..later(now, 100) };
        assert_eq!(plan.step(set_back), Some(Step::Expired(Whose::Own)));
    }

    #[test]
    fn certificates_of_a_moment_and_of_millennia_are_no_trouble() {
        let now = start();
        let short = Plan::new(Side::Made, None, Some(now.wall + Duration::from_millis(100)), now, 0.5);
        assert!(short.replacement.is_none());
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(250_000_000_000);
        let mut long = Plan::new(Side::Made, Some(far), Some(far), now, 0.5);
        assert_eq!(long.step(now), None);
        assert!(long.due() > later(now, 200 * 24 * HOUR).at);
        let mut past = Plan::new(Side::Made, Some(SystemTime::UNIX_EPOCH), Some(far), now, 0.5);
        assert_eq!(past.step(now), Some(Step::Expired(Whose::Own)));
    }
}

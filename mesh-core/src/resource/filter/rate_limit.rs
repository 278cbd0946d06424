//! A rate that calls are held to by their client or their server itself (Envoy's `local_ratelimit`).

use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::time::Instant;

use super::descriptor::{Descriptors, HostRateLimits, Matched, RateLimits, Rule};
use super::header_mutation::{AppendAction, Change};
use crate::resource::answer::AnswerStatus;
use crate::resource::matcher::RequestHead;

const MILLION: u32 = 1_000_000;
/// Envoy's least time between fills.
pub(crate) const LEAST_INTERVAL: Duration = Duration::from_millis(50);
/// What sums of fractions are short of a whole token.
const ROUNDING: f64 = 1e-6;
const RESOURCE_EXHAUSTED: AnswerStatus = AnswerStatus::Grpc(8);

/// A rate that calls are held to: each takes a token from a bucket, and a call that finds none is refused at once. Clones share
/// the tokens.
///
/// ```
/// use std::time::Duration;
/// use mesh_core::filter::LocalRateLimit;
///
/// // A hundred calls a second, and at most ten at once.
/// let limit = LocalRateLimit::new(10, 100, Duration::from_secs(1));
/// # let _ = limit;
/// ```
#[derive(Clone, Debug)]
pub struct LocalRateLimit {
    bucket: Option<Arc<TokenBucket>>,
    /// Whether answers tell of the bucket that holds their call.
    tells: bool,
    descriptors: Descriptors,
    /// Which rules of the routes it takes, where it has none itself.
    stage: u32,
    of_host: HostRateLimits,
    /// A call with a limit of its own takes a token of the bucket, too.
    takes_both: bool,
    /// Of a million calls, those that take a token.
    enabled: u32,
    /// Of a million of those that find none, the refused.
    enforced: u32,
    pub(crate) status: AnswerStatus,
    /// What is changed in the request of a call that is let pass without a token.
    pub(crate) unenforced: Vec<Change>,
    /// What is changed in the response that a refused call gets.
    pub(crate) refused: Vec<Change>,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limited {
    Passes,
    /// It found no token, and the limit is not enforced for it.
    PassesWithoutToken,
    Refused,
}

impl LocalRateLimit {
    /// The bucket starts with `max_tokens`, and gets `tokens_per_fill` in each interval (of 50 ms at least), evenly. A refused
    /// call is answered with status 429, which gRPC's callers see as UNAVAILABLE.
    pub fn new(max_tokens: u32, tokens_per_fill: u32, fill_interval: Duration) -> Self {
        let bucket = Some(Arc::new(TokenBucket::new(max_tokens, tokens_per_fill, fill_interval)));
        Self { bucket, ..Self::idle() }.shares(MILLION, MILLION)
    }

    /// Limits nothing.
    pub(crate) fn idle() -> Self {
        Self {
            bucket: None,
            tells: false,
            descriptors: Descriptors::default(),
            stage: 0,
            of_host: HostRateLimits::default(),
            takes_both: true,
            enabled: 0,
            enforced: 0,
            status: AnswerStatus::Http(StatusCode::TOO_MANY_REQUESTS),
            unenforced: Vec::new(),
            refused: Vec::new(),
        }
    }

    pub(crate) fn with_bucket(mut self, bucket: Option<TokenBucket>) -> Self {
        self.bucket = bucket.map(Arc::new);
        self
    }

    /// Has answers tell their callers how much more they may ask for, in the headers `x-ratelimit-limit`,
    /// `x-ratelimit-remaining` and `x-ratelimit-reset`, as Envoy's do. Default: no.
    pub fn tell_callers(mut self, tells: bool) -> Self {
        self.tells = tells;
        self
    }

    /// Calls with certain descriptors are held to limits of their own; those take a token of the bucket, too, if `takes_both`.
    pub(crate) fn with_descriptors(mut self, descriptors: Descriptors, takes_both: bool) -> Self {
        (self.descriptors, self.takes_both) = (descriptors, takes_both);
        self
    }

    /// Without rules of its own it takes those of this stage from the routes, and from their virtual hosts as told.
    pub(crate) fn with_stage(mut self, stage: u32, of_host: HostRateLimits) -> Self {
        (self.stage, self.of_host) = (stage, of_host);
        self
    }

    /// The same limit, with the same tokens, for calls of a route with these rules (Envoy). `None`: they change nothing.
    pub(crate) fn with_rules(&self, route: Option<&RateLimits>, host: Option<&RateLimits>) -> Option<Self> {
        if !self.descriptors.lack_rules() {
            return None;
        }
        let of_route = route.map_or(&[][..], |route| &route.rules);
        let has_host = match self.of_host {
            _ if route.is_some_and(|route| route.includes_host) => true,
            HostRateLimits::Include => true,
            HostRateLimits::Ignore => false,
            HostRateLimits::Override => of_route.is_empty(),
        };
        let of_host = host.filter(|_| has_host).map_or(&[][..], |host| &host.rules);
        let rules = of_route.iter().chain(of_host).filter(|rule| rule.stage == self.stage);
        let rules: Vec<Arc<Rule>> = rules.cloned().collect();
        (!rules.is_empty()).then(|| Self { descriptors: self.descriptors.with_rules(rules), ..self.clone() })
    }

    /// Of a million calls, how many take a token; and of a million that find none, how many are refused. Default: all.
    pub fn shares(mut self, enabled_per_million: u32, enforced_per_million: u32) -> Self {
        (self.enabled, self.enforced) = (enabled_per_million, enforced_per_million);
        self
    }

    /// Refused calls are answered with this status. Default 429.
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = AnswerStatus::Http(status);
        self
    }

    /// Refused calls are answered with gRPC's RESOURCE_EXHAUSTED, which is status 429 for callers that do not speak gRPC.
    pub fn as_resource_exhausted(mut self) -> Self {
        self.status = RESOURCE_EXHAUSTED;
        self
    }

    /// Gives the answers of refused calls this header, in place of any that has its name.
    pub fn header_of_refused(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.refused.push(Change::literal(name, value, AppendAction::OverwriteOrAdd));
        self
    }

    /// Goes on with the tokens of the one that it takes the place of, if they come at the same rate: an update of a
    /// resource gives nobody new ones.
    pub(crate) fn inherit(&self, before: &Self) {
        if let (Some(bucket), Some(before)) = (&self.bucket, &before.bucket) {
            bucket.inherit(before);
        }
        self.descriptors.inherit(&before.descriptors);
    }

    /// Whether no call is limited.
    pub(crate) fn is_idle(&self) -> bool {
        self.enabled == 0 || self.bucket.is_none() && !self.descriptors.have_limits()
    }

    /// `caller` is the address that the call came from, if it did. `random` gives a number below a million, each time another
    /// one.
    pub(crate) fn decide(
        &self,
        head: &RequestHead<'_>,
        caller: Option<IpAddr>,
        now: Instant,
        mut random: impl FnMut() -> u32,
    ) -> (Limited, Option<Quota>) {
        if !takes(self.enabled, &mut random) {
            return (Limited::Passes, None);
        }
        let (has_tokens, of_descriptor) = self.take(head, caller, now);
        let bucket = || of_descriptor.as_ref().or(self.bucket.as_ref());
        let quota = if self.tells { bucket().map(|bucket| bucket.quota(now)) } else { None };
        let limited = match has_tokens {
            true => Limited::Passes,
            false if takes(self.enforced, &mut random) => Limited::Refused,
            false => Limited::PassesWithoutToken,
        };
        (limited, quota)
    }

    /// Whether there were all the tokens that the call needs, and the bucket of its descriptor if that is what holds it.
    fn take(&self, head: &RequestHead<'_>, caller: Option<IpAddr>, now: Instant) -> (bool, Option<Arc<TokenBucket>>) {
        let of_bucket = || self.bucket.as_ref().is_none_or(|bucket| bucket.take(now));
        if self.descriptors.is_idle() {
            return (of_bucket(), None);
        }
        match self.descriptors.take(head, caller, now) {
            Matched::Refused(bucket) => (false, Some(bucket)),
            Matched::Passes(bucket) if !self.takes_both || of_bucket() => (true, Some(bucket)),
            Matched::Passes(_) => (false, None),
            Matched::None => (of_bucket(), None),
        }
    }
}

/// What a bucket holds, as callers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    limit: u64,
    remaining: u64,
    /// Whole seconds until there is a token, as Envoy counts them.
    reset: u64,
}

impl Quota {
    pub(crate) fn tell(self, headers: &mut HeaderMap) {
        for (name, number) in [
            ("x-ratelimit-limit", self.limit),
            ("x-ratelimit-remaining", self.remaining),
            ("x-ratelimit-reset", self.reset),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from(number));
        }
    }
}

fn takes(share: u32, random: &mut impl FnMut() -> u32) -> bool {
    share >= MILLION || share > 0 && random() < share
}

/// Tokens that come at a constant rate, up to a most; calls that share it share no lock.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    max: f64,
    per_second: f64,
    level: OnceLock<Arc<Level>>,
}

#[derive(Debug)]
struct Level {
    /// The first time that it was asked.
    start: Instant,
    /// When it was empty, in seconds from the start, as bits: all that came since is in it.
    empty_at: AtomicU64,
}

impl TokenBucket {
    /// A full one.
    pub(crate) fn new(max_tokens: u32, tokens_per_fill: u32, fill_interval: Duration) -> Self {
        let (max, interval) = (f64::from(max_tokens), fill_interval.max(LEAST_INTERVAL));
        let per_second = f64::from(tokens_per_fill.max(1)) / interval.as_secs_f64();
        Self { max, per_second, level: OnceLock::new() }
    }

    /// Another one like it, full.
    pub(super) fn another(&self) -> Self {
        Self { level: OnceLock::new(), ..*self }
    }

    /// Whether the other one is as large, and fills as quickly.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.max.to_bits() == other.max.to_bits() && self.per_second.to_bits() == other.per_second.to_bits()
    }

    pub(super) fn inherit(&self, before: &Self) {
        if let Some(level) = before.level.get().filter(|_| self.is_like(before)) {
            self.level.get_or_init(|| level.clone());
        }
    }

    fn full(&self, now: Instant) -> Arc<Level> {
        Arc::new(Level { start: now, empty_at: AtomicU64::new((-self.max / self.per_second).to_bits()) })
    }

    /// How long it takes until there is one token more.
    pub(super) fn time_to_fill_one(&self) -> Duration {
        Duration::try_from_secs_f64(1.0 / self.per_second).unwrap_or(Duration::MAX)
    }

    /// What it holds, for those who ask how long they can go on.
    fn quota(&self, now: Instant) -> Quota {
        let held = self.level.get().map_or(self.max, |level| {
            let now = now.saturating_duration_since(level.start).as_secs_f64();
            ((now - f64::from_bits(level.empty_at.load(Relaxed))) * self.per_second).clamp(0.0, self.max)
        });
        let held = held + ROUNDING;
        let wait = if held >= 1.0 { 0.0 } else { (1.0 - held) / self.per_second };
        let whole = |number: f64| Duration::try_from_secs_f64(number).map_or(u64::MAX, |number| number.as_secs());
        Quota { limit: whole(self.max), remaining: whole(held.min(self.max)), reset: whole(wait) }
    }

    /// Whether there was a token.
    pub(super) fn take(&self, now: Instant) -> bool {
        let level = self.level.get_or_init(|| self.full(now));
        let now = now.saturating_duration_since(level.start).as_secs_f64();
        let took = level.empty_at.fetch_update(Relaxed, Relaxed, |bits| {
            let empty_at = f64::from_bits(bits).max(now - self.max / self.per_second);
            let tokens = (now - empty_at) * self.per_second;
            (tokens + ROUNDING >= 1.0).then(|| (empty_at + 1.0 / self.per_second).to_bits())
        });
        took.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_bucket_starts_full_and_fills_evenly_to_its_most() {
        let (bucket, start) = (TokenBucket::new(5, 10, SECOND), Instant::now());
        let taken = |millis: u64| (0..9).take_while(|_| bucket.take(start + Duration::from_millis(millis))).count();
        let counts = [0, 0, 99, 100, 150, 200, 450, 10_000, 10_050, 10_100].map(taken);
        assert_eq!(counts, [5, 0, 0, 1, 0, 1, 2, 5, 0, 1]);
    }

    #[test]
    fn a_bucket_tells_what_it_holds_and_when_there_is_more() {
        let (bucket, start) = (TokenBucket::new(2, 1, 10 * SECOND), Instant::now());
        let told = |seconds: u64| {
            let Quota { limit, remaining, reset } = bucket.quota(start + Duration::from_secs(seconds));
            (limit, remaining, reset)
        };
        assert_eq!(told(0), (2, 2, 0));
        assert!(bucket.take(start) && bucket.take(start));
        assert_eq!([0, 4, 10, 15, 60].map(told), [(2, 0, 9), (2, 0, 5), (2, 1, 0), (2, 1, 0), (2, 2, 0)]);
    }

    #[test]
    fn every_size_of_bucket_gives_what_it_has() {
        for (max, per_fill, interval) in [
            (1, 1, SECOND),
            (1, u32::MAX, LEAST_INTERVAL),
            (7, 3, Duration::from_millis(70)),
            (1_000, 1, Duration::from_secs(315_576_000_000)),
        ] {
            let (bucket, start) = (TokenBucket::new(max, per_fill, interval), Instant::now());
            let taken = (0..=max).filter(|_| bucket.take(start)).count();
            assert_eq!(taken, max as usize, "{max} tokens, {per_fill} in {interval:?}");
        }
        assert!(!TokenBucket::new(0, 1, SECOND).take(Instant::now()));
    }

    #[test]
    fn a_bucket_goes_on_with_the_tokens_of_one_like_it() {
        let (now, before) = (Instant::now(), TokenBucket::new(2, 1, SECOND));
        assert!(before.take(now));
        for (bucket, left) in [(TokenBucket::new(2, 1, SECOND), 1), (TokenBucket::new(3, 1, SECOND), 3)] {
            bucket.inherit(&before);
            bucket.inherit(&TokenBucket::new(2, 1, SECOND));
            assert_eq!((0..9).filter(|_| bucket.take(now)).count(), left);
        }
        assert!(!before.take(now), "the one that it takes the place of may be in use still");
    }

    #[test]
    fn over_a_long_time_the_rate_is_kept() {
        let (bucket, start) = (TokenBucket::new(10, 30, SECOND), Instant::now());
        let asked = (0..600_000_u64).map(|tick| start + Duration::from_millis(tick));
        let taken = asked.filter(|now| bucket.take(*now)).count();
        assert!((18_009..=18_010).contains(&taken), "{taken} in 600 s");
    }

    #[test]
    fn threads_take_no_token_twice() {
        let (bucket, start) = (TokenBucket::new(1_000, 1, Duration::from_secs(1_000)), Instant::now());
        let taken: usize = std::thread::scope(|scope| {
            let thread = || scope.spawn(|| (0..2_000).filter(|_| bucket.take(start)).count());
            [thread(), thread(), thread()].map(|thread| thread.join().expect("no panic")).iter().sum()
        });
        assert_eq!(taken, 1_000);
    }

    #[test]
    fn shares_say_who_takes_a_token_and_who_is_refused() {
        let now = Instant::now();
        for (enabled, enforced, random, expected) in [
            (MILLION, MILLION, 999_999, Limited::Refused),
            (MILLION, 0, 0, Limited::PassesWithoutToken),
            (MILLION, 500_000, 499_999, Limited::Refused),
            (MILLION, 500_000, 500_000, Limited::PassesWithoutToken),
            (0, MILLION, 0, Limited::Passes),
            (500_000, MILLION, 500_000, Limited::Passes),
            (500_000, MILLION, 499_999, Limited::Refused),
        ] {
            let limit = LocalRateLimit::new(0, 1, SECOND).shares(enabled, enforced);
            let headers = http::HeaderMap::new();
            let head = RequestHead { path: "/", method: &http::Method::POST, authority: "", headers: &headers };
            assert_eq!(limit.decide(&head, None, now, || random).0, expected, "{enabled} {enforced} {random}");
        }
        assert!(LocalRateLimit::idle().is_idle() && LocalRateLimit::new(1, 1, SECOND).shares(0, MILLION).is_idle());
    }
}

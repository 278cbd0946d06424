//! When and how often the attempts of a call are repeated (A6, A44), with Envoy's conditions in addition.

use std::ops::BitOr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::HeaderName;
use http::{HeaderMap, StatusCode};

use super::matcher::RequestHead;
use super::matcher::header::HeaderMatch;
use crate::backoff::{BackoffConfig, bounded};
use crate::error::Error;

/// A call is tried at most so often, whatever its policy says (A6).
pub(crate) const MAX_ATTEMPTS: u32 = 5;

/// What an Envoy sets in the answer to a call over its rate limit.
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// When and how often the attempts of a call are repeated: that of an xDS route, or one made in code.
///
/// ```
/// use std::time::Duration;
/// use mesh_core::RetryPolicy;
///
/// # fn main() -> Result<(), mesh_core::Error> {
/// let retry = RetryPolicy::on("unavailable,reset")?.max_attempts(3);
/// // A second attempt beside the first when that takes longer than 50 ms.
/// let hedge = RetryPolicy::on("unavailable")?.hedge(Duration::from_millis(50));
/// # let _ = (retry, hedge); Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    pub(crate) conditions: Conditions,
    /// 2 to [`MAX_ATTEMPTS`], the first one included.
    pub(crate) max_attempts: u32,
    pub(crate) backoff: BackoffConfig,
    /// How long an attempt may take to its response's head.
    pub(crate) per_try_timeout: Option<Duration>,
    /// How long nothing of an attempt may move, whether its head has come or not.
    pub(crate) per_try_idle_timeout: Option<Duration>,
    /// Whether attempts run beside each other.
    pub(crate) hedge: Option<Hedge>,
    /// For [`Conditions::STATUS_CODES`].
    pub(crate) status_codes: Arc<[u32]>,
    /// For [`Conditions::HEADERS`].
    pub(crate) headers: Arc<[HeaderMatch]>,
    /// One of these must match the request, if there are any.
    pub(crate) request_headers: Arc<[HeaderMatch]>,
    pub(crate) rate_limited: Option<Arc<RateLimitedBackoff>>,
}

/// How attempts run beside each other: the first that succeeds ends the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hedge {
    /// How long after the last attempt's start the next one starts, while none has been answered.
    pub(crate) delay: Duration,
    /// Whether the next attempt starts as soon as one fails (A6), or after the backoff.
    pub(crate) at_once: bool,
}

/// Where a response says when a limit ends that it was refused for; the backoff is not used then.
#[derive(Debug)]
pub(crate) struct RateLimitedBackoff {
    pub(crate) headers: Vec<(HeaderName, ResetFormat)>,
    /// A longer time is not believed.
    pub(crate) max: Duration,
}

/// What such a header's number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResetFormat {
    /// How many seconds from now.
    Seconds,
    /// When, in seconds since 1970.
    UnixTimestamp,
}

/// A policy made in code.
impl RetryPolicy {
    /// What an attempt can end with to be repeated, in the words of xDS's `retry_on`, separated by commas: gRPC's codes
    /// `cancelled`, `deadline-exceeded`, `internal`, `resource-exhausted`, `unavailable` (A44); and Envoy's `5xx`,
    /// `gateway-error`, `reset`, `reset-before-request`, `connect-failure`, `refused-stream`, `retriable-4xx`,
    /// `envoy-ratelimited`. A call is tried twice, unless [`max_attempts`](Self::max_attempts) says otherwise.
    ///
    /// # Errors
    ///
    /// When a word is none of these.
    pub fn on(retry_on: &str) -> Result<Self, Error> {
        let mut conditions = Conditions::default();
        for word in retry_on.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let known =
                Conditions::named(word).filter(|known| !known.has(Conditions::STATUS_CODES | Conditions::HEADERS));
            conditions = conditions
                | known.ok_or_else(|| Error::setup(format!("retry on `{word}`: it is no known condition")))?;
        }
        Ok(Self::of(conditions, 2))
    }

    /// How often a call is tried, the first time included: 1 to 5. Default 2.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts.clamp(1, MAX_ATTEMPTS);
        self
    }

    /// The delay before the first retry and the longest one; each is twice the one before, 20 % more or less. Default
    /// 25 ms and 250 ms.
    pub fn backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.backoff = Self::delays(bounded(initial), bounded(max));
        self
    }

    /// How long an attempt may take to its response's head. One that takes longer has failed, for the conditions
    /// `deadline-exceeded`, `reset`, `5xx` and `gateway-error`. Default: no limit.
    pub fn per_try_timeout(mut self, timeout: Duration) -> Self {
        self.per_try_timeout = Some(bounded(timeout));
        self
    }

    /// Starts the next attempt, at another endpoint, when this much time has passed since the last one started and no
    /// attempt was answered, or as soon as one fails in a way that the policy names (A6, `hedgingPolicy`). The first
    /// answer of another kind is the call's, and ends the other attempts. Hedges are held to the same budget as
    /// retries, and no attempt is ended for its [`per_try_timeout`](Self::per_try_timeout). Default: attempts are made
    /// one after the other.
    pub fn hedge(mut self, delay: Duration) -> Self {
        self.hedge = Some(Hedge { delay: bounded(delay), at_once: true });
        self
    }
}

impl RetryPolicy {
    /// The delays of A44 when the policy names none.
    pub(crate) const DEFAULT_BACKOFF: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(250));

    pub(crate) fn of(conditions: Conditions, max_attempts: u32) -> Self {
        let (initial, max) = Self::DEFAULT_BACKOFF;
        Self {
            conditions,
            max_attempts,
            backoff: Self::delays(initial, max),
            per_try_timeout: None,
            per_try_idle_timeout: None,
            hedge: None,
            status_codes: Arc::default(),
            headers: Arc::default(),
            request_headers: Arc::default(),
            rate_limited: None,
        }
    }

    /// The delay before the first retry and the longest one (A6: each is twice the one before, 20 % more or less).
    pub(crate) fn delays(initial: Duration, max: Duration) -> BackoffConfig {
        BackoffConfig { initial, multiplier: 2.0, max, jitter: 0.2 }
    }

    /// How long an attempt may take until its response's head is there.
    pub(crate) fn until_head(&self) -> Option<Duration> {
        self.per_try_timeout.into_iter().chain(self.per_try_idle_timeout).min()
    }

    /// Whether a request may be tried again at all.
    pub(crate) fn takes(&self, head: &RequestHead<'_>) -> bool {
        self.request_headers.is_empty() || self.request_headers.iter().any(|header| header.matches(head))
    }

    /// Whether one of Envoy's conditions on a response's head holds.
    pub(crate) fn retries_response(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let on = |condition| self.conditions.has(condition);
        let named = (on(Conditions::SERVER_ERROR) && status.is_server_error())
            || (on(Conditions::GATEWAY_ERROR) && matches!(status.as_u16(), 502..=504))
            || (on(Conditions::RETRIABLE_4XX) && status == StatusCode::CONFLICT)
            || (on(Conditions::STATUS_CODES) && self.status_codes.contains(&status.as_u16().into()))
            || (on(Conditions::HEADERS) && self.headers.iter().any(|header| header.matches_response(status, headers)));
        // Of an Envoy that was asked for too much: to ask again is no help, unless the policy says so by this very word.
        let even_limited = on(Conditions::RATE_LIMITED);
        // A look-up that decides nothing is spared.
        if named != even_limited && headers.contains_key(RATE_LIMITED) { even_limited } else { named }
    }
}

impl RateLimitedBackoff {
    /// Envoy's and so ours.
    pub(crate) const DEFAULT_MAX: Duration = Duration::from_secs(300);

    /// How long the first header that says so asks to wait, given the time of day.
    pub(crate) fn delay(&self, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
        let asks = |(name, format): &(HeaderName, ResetFormat)| {
            let number: u64 = headers.get(name)?.to_str().ok()?.trim().parse().ok()?;
            let delay = match format {
                ResetFormat::Seconds => Duration::from_secs(number),
                ResetFormat::UnixTimestamp => {
                    let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
                    Duration::from_secs(number).checked_sub(now)?
                }
            };
            (delay <= self.max).then_some(delay)
        };
        self.headers.iter().find_map(asks)
    }
}

/// A set of what an attempt can end with to be repeated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions(u16);

impl Conditions {
    pub(crate) const CANCELLED: Self = Self(1);
    pub(crate) const DEADLINE_EXCEEDED: Self = Self(1 << 1);
    pub(crate) const INTERNAL: Self = Self(1 << 2);
    pub(crate) const RESOURCE_EXHAUSTED: Self = Self(1 << 3);
    pub(crate) const UNAVAILABLE: Self = Self(1 << 4);
    pub(crate) const CONNECT_FAILURE: Self = Self(1 << 5);
    pub(crate) const REFUSED_STREAM: Self = Self(1 << 6);
    pub(crate) const RESET: Self = Self(1 << 7);
    pub(crate) const RESET_BEFORE_REQUEST: Self = Self(1 << 8);
    pub(crate) const SERVER_ERROR: Self = Self(1 << 9);
    pub(crate) const GATEWAY_ERROR: Self = Self(1 << 10);
    pub(crate) const RETRIABLE_4XX: Self = Self(1 << 11);
    pub(crate) const STATUS_CODES: Self = Self(1 << 12);
    pub(crate) const HEADERS: Self = Self(1 << 13);
    pub(crate) const RATE_LIMITED: Self = Self(1 << 14);

    /// No response came. Envoy answers such a call with 503, and so repeats it for `5xx` and `gateway-error` too.
    pub(crate) const ANY_RESET: Self = Self(Self::RESET.0 | Self::SERVER_ERROR.0 | Self::GATEWAY_ERROR.0);
    /// The peer did nothing with the request.
    pub(crate) const ANY_UNPROCESSED: Self =
        Self(Self::ANY_RESET.0 | Self::CONNECT_FAILURE.0 | Self::REFUSED_STREAM.0 | Self::RESET_BEFORE_REQUEST.0);

    /// The words of `retry_on`.
    const WORDS: [(&str, Self); 15] = [
        ("cancelled", Self::CANCELLED),
        ("deadline-exceeded", Self::DEADLINE_EXCEEDED),
        ("internal", Self::INTERNAL),
        ("resource-exhausted", Self::RESOURCE_EXHAUSTED),
        ("unavailable", Self::UNAVAILABLE),
        ("connect-failure", Self::CONNECT_FAILURE),
        ("refused-stream", Self::REFUSED_STREAM),
        ("reset", Self::RESET),
        ("reset-before-request", Self::RESET_BEFORE_REQUEST),
        ("5xx", Self::SERVER_ERROR),
        ("gateway-error", Self::GATEWAY_ERROR),
        ("retriable-4xx", Self::RETRIABLE_4XX),
        ("retriable-status-codes", Self::STATUS_CODES),
        ("retriable-headers", Self::HEADERS),
        ("envoy-ratelimited", Self::RATE_LIMITED),
    ];

    /// The condition of a word of `retry_on`.
    pub(crate) fn named(word: &str) -> Option<Self> {
        let known = Self::WORDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word));
        known.map(|(_, condition)| *condition)
    }

    /// The words of this set.
    pub(crate) fn words(self) -> impl Iterator<Item = &'static str> {
        Self::WORDS.into_iter().filter(move |(_, condition)| self.has(*condition)).map(|(word, _)| word)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether any of `other` is in this set.
    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Conditions {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_end_of_a_limit_is_a_number_of_seconds_or_a_time_and_not_too_far_away() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_500);
        let named = |name: &'static str, format| (HeaderName::from_static(name), format);
        let headers = vec![named("in", ResetFormat::Seconds), named("at", ResetFormat::UnixTimestamp)];
        let limited = RateLimitedBackoff { headers, max: Duration::from_secs(300) };
        for (name, value, delay) in [
            ("in", "0", Some(0)),
            ("in", " 300 ", Some(300_000)),
            ("in", "301", None),
            ("in", "-1", None),
            ("in", "1.5", None),
            ("at", "1001", Some(500)),
            ("at", "1000", None),
            ("at", "1301", None),
            ("at", "18446744073709551615", None),
            ("other", "1", None),
        ] {
            let headers = [(HeaderName::from_static(name), value.parse().expect("a value"))].into_iter().collect();
            assert_eq!(limited.delay(&headers, now), delay.map(Duration::from_millis), "{name}: {value}");
        }
    }

    #[test]
    fn an_answer_over_envoys_rate_limit_is_repeated_by_its_own_word_only() {
        let limited = [(RATE_LIMITED, HeaderValue::from_static("true"))].into_iter().collect();
        for (retry_on, plain, over_limit) in [("5xx", true, false), ("envoy-ratelimited", false, true)] {
            let policy = RetryPolicy::on(retry_on).expect("a known word");
            let repeats = |headers| policy.retries_response(StatusCode::SERVICE_UNAVAILABLE, headers);
            assert_eq!((repeats(&HeaderMap::new()), repeats(&limited)), (plain, over_limit), "{retry_on}");
        }
    }

    #[test]
    fn a_policy_made_in_code_knows_its_words_and_keeps_within_bounds() {
        for bad in ["nonsense", "unavailable,", "retriable-headers", "retriable-status-codes"] {
            assert_eq!(RetryPolicy::on(bad).is_err(), bad != "unavailable,", "{bad}");
        }
        let policy = RetryPolicy::on("unavailable, 5xx").expect("known words");
        assert!(policy.conditions.has(Conditions::UNAVAILABLE) && policy.conditions.has(Conditions::SERVER_ERROR));
        assert_eq!(policy.max_attempts, 2);
        assert_eq!(policy.clone().max_attempts(0).max_attempts, 1);
        assert_eq!(policy.max_attempts(100).max_attempts, MAX_ATTEMPTS);
    }
}

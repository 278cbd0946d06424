//! When and how often the attempts of a call are repeated (A6, A44), with Envoy's conditions in addition.

use std::ops::BitOr;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::matcher::header::HeaderMatch;
use crate::backoff::BackoffConfig;

/// A call is tried at most so often, whatever its policy says (A6).
pub(crate) const MAX_ATTEMPTS: u32 = 5;

/// The policy of a route.
#[derive(Debug)]
pub(crate) struct RetryPolicy {
    pub(crate) conditions: Conditions,
    /// 2 to [`MAX_ATTEMPTS`], the first one included.
    pub(crate) max_attempts: u32,
    pub(crate) backoff: BackoffConfig,
    /// How long an attempt may take to its response's head.
    pub(crate) per_try_timeout: Option<Duration>,
    /// For [`Conditions::STATUS_CODES`].
    pub(crate) status_codes: Vec<u32>,
    /// For [`Conditions::HEADERS`].
    pub(crate) headers: Vec<HeaderMatch>,
}

impl RetryPolicy {
    /// The delays of A44 when the policy names none.
    pub(crate) const DEFAULT_BACKOFF: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(250));

    /// The delay before the first retry and the longest one (A6: each is twice the one before, 20 % more or less).
    pub(crate) fn backoff(initial: Duration, max: Duration) -> BackoffConfig {
        BackoffConfig { initial, multiplier: 2.0, max, jitter: 0.2 }
    }

    /// Whether one of Envoy's conditions on a response's head holds.
    pub(crate) fn retries_response(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let on = |condition| self.conditions.has(condition);
        (on(Conditions::SERVER_ERROR) && status.is_server_error())
            || (on(Conditions::GATEWAY_ERROR) && matches!(status.as_u16(), 502..=504))
            || (on(Conditions::RETRIABLE_4XX) && status == StatusCode::CONFLICT)
            || (on(Conditions::STATUS_CODES) && self.status_codes.contains(&status.as_u16().into()))
            || (on(Conditions::HEADERS) && self.headers.iter().any(|header| header.matches_response(status, headers)))
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

    /// No response came. Envoy answers such a call with 503, and so repeats it for `5xx` and `gateway-error` too.
    pub(crate) const ANY_RESET: Self = Self(Self::RESET.0 | Self::SERVER_ERROR.0 | Self::GATEWAY_ERROR.0);
    /// The peer did nothing with the request.
    pub(crate) const ANY_UNPROCESSED: Self =
        Self(Self::ANY_RESET.0 | Self::CONNECT_FAILURE.0 | Self::REFUSED_STREAM.0 | Self::RESET_BEFORE_REQUEST.0);

    /// The condition of a word of `retry_on`.
    pub(crate) fn named(word: &str) -> Option<Self> {
        let condition = match word.to_ascii_lowercase().as_str() {
            "cancelled" => Self::CANCELLED,
            "deadline-exceeded" => Self::DEADLINE_EXCEEDED,
            "internal" => Self::INTERNAL,
            "resource-exhausted" => Self::RESOURCE_EXHAUSTED,
            "unavailable" => Self::UNAVAILABLE,
            "connect-failure" => Self::CONNECT_FAILURE,
            "refused-stream" => Self::REFUSED_STREAM,
            "reset" => Self::RESET,
            "reset-before-request" => Self::RESET_BEFORE_REQUEST,
            "5xx" => Self::SERVER_ERROR,
            "gateway-error" => Self::GATEWAY_ERROR,
            "retriable-4xx" => Self::RETRIABLE_4XX,
            "retriable-status-codes" => Self::STATUS_CODES,
            "retriable-headers" => Self::HEADERS,
            _ => return None,
        };
        Some(condition)
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

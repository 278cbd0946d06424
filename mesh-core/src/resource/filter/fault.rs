//! Fault injection (A33): what calls are delayed and aborted, as a pure decision.

use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode};

use crate::resource::answer::AnswerStatus;
use crate::resource::matcher::RequestHead;
use crate::resource::matcher::header::HeaderMatch;

const DELAY: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request");
const DELAY_PERCENTAGE: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request-percentage");
const ABORT: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request");
const ABORT_GRPC: HeaderName = HeaderName::from_static("x-envoy-fault-abort-grpc-request");
const ABORT_PERCENTAGE: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request-percentage");

const MILLION: u32 = 1_000_000;

/// The faults that are injected into calls (A33): a share of them is delayed, a share aborted, before anything is sent.
/// The two shares are drawn independently; a call that meets both is delayed and then aborted.
///
/// ```
/// use std::time::Duration;
/// use mesh_core::filter::Fault;
///
/// // Every tenth call takes 200 ms longer, and one in a hundred fails with UNAVAILABLE.
/// let fault = Fault::new().delay(Duration::from_millis(200), 100_000).abort_with_grpc_status(14, 10_000);
/// # let _ = fault;
/// ```
#[derive(Debug, Default)]
pub struct Fault {
    delay: Option<Delay>,
    abort: Option<Abort>,
    max_active: Option<u32>,
    scope: Scope,
}

#[derive(Debug)]
struct Delay {
    /// `None`: as the call's headers say.
    fixed: Option<Duration>,
    share: Share,
}

#[derive(Debug)]
struct Abort {
    /// `None`: as the call's headers say.
    status: Option<AnswerStatus>,
    share: Share,
}

/// A share of the calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) numerator: u32,
    /// 100, 10,000 or a million.
    pub(crate) denominator: u32,
}

/// The calls that faults may meet: all of them, unless something here is said (Envoy's fields, which gRPC does not read).
#[derive(Debug, Default)]
pub(crate) struct Scope {
    pub(crate) cluster: Option<Box<str>>,
    pub(crate) headers: Vec<HeaderMatch>,
}

/// The faults that one call meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) delay: Option<Duration>,
    pub(crate) abort: Option<AnswerStatus>,
}

impl Fault {
    /// No fault at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Delays so many of a million calls by so much.
    pub fn delay(self, delay: Duration, per_million: u32) -> Self {
        self.with_delay(Some(delay), Share::of_million(per_million))
    }

    /// Delays the calls that ask for it in `x-envoy-fault-delay-request` (milliseconds), at most so many of a million of
    /// them; `x-envoy-fault-delay-request-percentage` can lower that.
    pub fn delay_by_header(self, per_million: u32) -> Self {
        self.with_delay(None, Share::of_million(per_million))
    }

    /// Ends so many of a million calls with this status. Of gRPC's calls each becomes the code that HTTP's status stands
    /// for, and 200 UNKNOWN.
    pub fn abort_with_http_status(self, status: StatusCode, per_million: u32) -> Self {
        self.with_abort(Some(AnswerStatus::Http(status)), Share::of_million(per_million))
    }

    /// Ends so many of a million calls with this code of gRPC, 0 to 16; a greater one is UNKNOWN.
    pub fn abort_with_grpc_status(self, code: u8, per_million: u32) -> Self {
        self.with_abort(Some(grpc_status(code.into()).unwrap_or(UNKNOWN)), Share::of_million(per_million))
    }

    /// Ends the calls that ask for it in `x-envoy-fault-abort-grpc-request` or `x-envoy-fault-abort-request` (a status of
    /// HTTP), at most so many of a million of them; `x-envoy-fault-abort-request-percentage` can lower that.
    pub fn abort_by_header(self, per_million: u32) -> Self {
        self.with_abort(None, Share::of_million(per_million))
    }

    /// The most calls that meet a fault at a time, over all filters of a mesh. Default: no limit.
    pub fn max_active(mut self, calls: u32) -> Self {
        self.max_active = Some(calls);
        self
    }

    pub(crate) fn with_delay(mut self, fixed: Option<Duration>, share: Share) -> Self {
        self.delay = Some(Delay { fixed, share });
        self
    }

    pub(crate) fn with_abort(mut self, status: Option<AnswerStatus>, share: Share) -> Self {
        self.abort = Some(Abort { status, share });
        self
    }

    pub(crate) fn within(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    pub(crate) fn max_active_faults(&self) -> Option<u32> {
        self.max_active
    }

    /// Whether no call can meet a fault.
    pub(crate) fn is_idle(&self) -> bool {
        let never = |share: Share| share.numerator == 0;
        self.delay.as_ref().is_none_or(|delay| never(delay.share))
            && self.abort.as_ref().is_none_or(|abort| never(abort.share))
    }

    /// Whether a call to `cluster` may meet a fault at all.
    pub(crate) fn concerns(&self, cluster: Option<&str>, head: &RequestHead<'_>) -> bool {
        self.scope.cluster.as_deref().is_none_or(|only| cluster == Some(only))
            && self.scope.headers.iter().all(|header| header.matches(head))
    }

    /// The faults of a call with these headers. `random` gives a number below a million, for each fault another one.
    pub(crate) fn decide(&self, headers: &HeaderMap, mut random: impl FnMut() -> u32) -> Faults {
        let delay = self.delay.as_ref().and_then(|delay| delay.decide(headers, &mut random));
        let abort = self.abort.as_ref().and_then(|abort| abort.decide(headers, &mut random));
        Faults { delay, abort }
    }
}

impl Delay {
    fn decide(&self, headers: &HeaderMap, random: impl FnOnce() -> u32) -> Option<Duration> {
        let (delay, share) = match self.fixed {
            Some(fixed) => (fixed, self.share),
            None => {
                let millis = number(headers, &DELAY)?;
                (Duration::from_millis(millis), self.share.lowered_by(headers, &DELAY_PERCENTAGE))
            }
        };
        (!delay.is_zero() && share.takes(random())).then_some(delay)
    }
}

impl Abort {
    fn decide(&self, headers: &HeaderMap, random: impl FnOnce() -> u32) -> Option<AnswerStatus> {
        let (status, share) = match self.status {
            Some(status) => (status, self.share),
            None => (asked_status(headers)?, self.share.lowered_by(headers, &ABORT_PERCENTAGE)),
        };
        share.takes(random()).then_some(status)
    }
}

fn asked_status(headers: &HeaderMap) -> Option<AnswerStatus> {
    let grpc = number(headers, &ABORT_GRPC).and_then(grpc_status);
    grpc.or_else(|| number(headers, &ABORT).and_then(http_status))
}

const UNKNOWN: AnswerStatus = AnswerStatus::Grpc(2);

/// gRPC's codes are 0 to 16.
pub(crate) fn grpc_status(code: u64) -> Option<AnswerStatus> {
    u8::try_from(code).ok().filter(|code| *code <= 16).map(AnswerStatus::Grpc)
}

/// The statuses that can end a call, 200 to 599.
pub(crate) fn http_status(status: u64) -> Option<AnswerStatus> {
    let status = u16::try_from(status).ok().filter(|status| (200..600).contains(status))?;
    StatusCode::from_u16(status).ok().map(AnswerStatus::Http)
}

impl Share {
    fn of_million(numerator: u32) -> Self {
        Self { numerator, denominator: MILLION }
    }

    /// A header replaces the numerator, and is capped by it.
    fn lowered_by(self, headers: &HeaderMap, name: &HeaderName) -> Self {
        let asked = number(headers, name).and_then(|asked| u32::try_from(asked).ok());
        Self { numerator: asked.map_or(self.numerator, |asked| asked.min(self.numerator)), ..self }
    }

    /// Whether the share takes a call that drew this number below a million.
    fn takes(self, random: u32) -> bool {
        let per_million = u64::from(self.numerator) * u64::from(MILLION / self.denominator);
        u64::from(random) < per_million
    }
}

/// What is no number is not there.
fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn decide(fault: Fault, headers: &[(&HeaderName, &'static str)], randoms: [u32; 2]) -> Faults {
        let headers = headers.iter().map(|(name, value)| ((*name).clone(), HeaderValue::from_static(value))).collect();
        let mut randoms = randoms.into_iter();
        fault.decide(&headers, || randoms.next().expect("one for each fault"))
    }

    #[test]
    fn delay_and_abort_are_drawn_independently() {
        let fault = || Fault::new().delay(Duration::from_secs(1), 200_000).abort_with_grpc_status(5, 50_000);
        for (randoms, delayed, aborted) in [
            ([0, 0], true, true),
            ([199_999, 50_000], true, false),
            ([200_000, 49_999], false, true),
            ([200_000, 50_000], false, false),
        ] {
            let faults = decide(fault(), &[], randoms);
            assert_eq!((faults.delay.is_some(), faults.abort.is_some()), (delayed, aborted), "{randoms:?}");
        }
    }

    #[test]
    fn headers_say_the_fault_and_lower_its_share() {
        let half = Share { numerator: 50, denominator: 100 };
        let fault = || Fault::new().with_delay(None, half).with_abort(None, half);
        let millis = |millis| Some(Duration::from_millis(millis));
        let http = |status| Some(AnswerStatus::Http(StatusCode::from_u16(status).expect("a status")));
        let grpc = |code| Some(AnswerStatus::Grpc(code));
        for (headers, random, delay, abort) in [
            (&[][..], 0, None, None),
            (&[(&DELAY, "53")], 499_999, millis(53), None),
            (&[(&DELAY, "53")], 500_000, None, None),
            (&[(&DELAY, "53"), (&DELAY_PERCENTAGE, "5")], 49_999, millis(53), None),
            (&[(&DELAY, "53"), (&DELAY_PERCENTAGE, "5")], 50_000, None, None),
            (&[(&DELAY, "53"), (&DELAY_PERCENTAGE, "100")], 500_000, None, None),
            (&[(&DELAY, "53"), (&DELAY_PERCENTAGE, "many")], 499_999, millis(53), None),
            (&[(&DELAY, "0")], 0, None, None),
            (&[(&DELAY, "-1")], 0, None, None),
            (&[(&DELAY, "soon"), (&ABORT, "503")], 0, None, http(503)),
            (&[(&ABORT, "503"), (&ABORT_PERCENTAGE, "0")], 0, None, None),
            (&[(&ABORT, "99")], 0, None, None),
            (&[(&ABORT, "600")], 0, None, None),
            (&[(&ABORT_GRPC, "3")], 0, None, grpc(3)),
            (&[(&ABORT_GRPC, "3"), (&ABORT, "503")], 0, None, grpc(3)),
            (&[(&ABORT_GRPC, "17"), (&ABORT, "503")], 0, None, http(503)),
        ] {
            assert_eq!(decide(fault(), headers, [random; 2]), Faults { delay, abort }, "{headers:?}, {random}");
        }
    }

    #[test]
    fn headers_change_nothing_about_a_fault_that_is_configured() {
        let fault = Fault::new().delay(Duration::from_secs(1), MILLION);
        let faults = decide(fault, &[(&DELAY, "5"), (&DELAY_PERCENTAGE, "0"), (&ABORT, "503")], [0; 2]);
        assert_eq!(faults, Faults { delay: Some(Duration::from_secs(1)), abort: None });
    }

    #[test]
    fn a_share_may_exceed_all() {
        for denominator in [100, 10_000, MILLION] {
            assert!(Share { numerator: u32::MAX, denominator }.takes(MILLION - 1));
            assert!(Share { numerator: denominator, denominator }.takes(MILLION - 1));
            assert!(!Share { numerator: 0, denominator }.takes(0));
        }
    }

    #[test]
    fn what_cannot_meet_a_call_is_idle() {
        let second = Duration::from_secs(1);
        assert!(Fault::new().is_idle());
        assert!(Fault::new().delay(second, 0).abort_with_grpc_status(5, 0).is_idle());
        assert!(!Fault::new().delay(second, 1).is_idle());
        assert!(!Fault::new().delay(second, 0).abort_by_header(1).is_idle());
    }
}

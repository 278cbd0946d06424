//! What retries read and write of gRPC (A6): `grpc-status`, pushback, and the number of attempts.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use mesh_core::filter::AnswerStatus;
use mesh_core::retry::{Pushback, RetryCode, RetryProtocol};
use tonic::Code;

use crate::grpc::{Grpc, grpc_status};
use crate::status::code_of;

pub(crate) const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

impl RetryProtocol for Grpc {
    fn is_repeatable(&self, _: &Method) -> bool {
        true
    }

    fn code_of_response(&self, status: StatusCode, headers: &HeaderMap) -> Option<RetryCode> {
        match grpc_status(headers) {
            Some(code) => named(Code::from_bytes(code.as_bytes())),
            None => named(Code::from_i32(AnswerStatus::Http(status).grpc_code().into())),
        }
    }

    fn is_success(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        status.is_success() && !failed(headers)
    }

    fn code_of_error(&self, error: &mesh_core::Error) -> Option<RetryCode> {
        named(code_of(error.kind()))
    }

    /// Anything but one number of milliseconds asks not to try again.
    fn pushback(&self, headers: &HeaderMap) -> Option<Pushback> {
        let mut values = headers.get_all(PUSHBACK).iter();
        let value = values.next()?;
        let millis =
            value.to_str().ok().and_then(|value| value.parse::<u32>().ok()).filter(|_| values.next().is_none());
        Some(millis.map_or(Pushback::Stop, |millis| Pushback::After(Duration::from_millis(millis.into()))))
    }

    fn tell_attempts(&self, previous: u32) -> (HeaderName, HeaderValue) {
        (PREVIOUS_ATTEMPTS, HeaderValue::from(previous))
    }
}

/// Whether these are an answer's last headers, and say that the call failed.
pub(crate) fn failed(headers: &HeaderMap) -> bool {
    grpc_status(headers).is_some_and(|code| code != "0")
}

fn named(code: Code) -> Option<RetryCode> {
    match code {
        Code::Cancelled => Some(RetryCode::Cancelled),
        Code::DeadlineExceeded => Some(RetryCode::DeadlineExceeded),
        Code::Internal => Some(RetryCode::Internal),
        Code::ResourceExhausted => Some(RetryCode::ResourceExhausted),
        Code::Unavailable => Some(RetryCode::Unavailable),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::GRPC_STATUS;

    #[test]
    fn pushback_is_one_number_of_milliseconds_or_a_stop() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(PUSHBACK, value.parse().expect("a header's value"));
            }
            Grpc.pushback(&headers)
        };
        let after = |millis| Some(Pushback::After(Duration::from_millis(millis)));
        assert_eq!(read(&[]), None);
        assert_eq!(read(&["0"]), after(0));
        assert_eq!(read(&["4294967295"]), after(4_294_967_295));
        for stop in [&["-1"][..], &[""], &["x"], &["1.5"], &["4294967296"], &["10", "10"]] {
            assert_eq!(read(stop), Some(Pushback::Stop), "{stop:?}");
        }
    }

    #[test]
    fn a_response_fails_by_its_grpc_status_and_without_one_by_its_http_status() {
        let read = |status: u16, code: Option<&'static str>| {
            let headers = code.map(|code| (GRPC_STATUS, HeaderValue::from_static(code))).into_iter().collect();
            Grpc.code_of_response(StatusCode::from_u16(status).expect("a status"), &headers)
        };
        for (status, code, expected) in [
            (200, None, None),
            (200, Some("0"), None),
            (200, Some("1"), Some(RetryCode::Cancelled)),
            (200, Some("4"), Some(RetryCode::DeadlineExceeded)),
            (200, Some("5"), None),
            (200, Some("8"), Some(RetryCode::ResourceExhausted)),
            (200, Some("13"), Some(RetryCode::Internal)),
            (200, Some("14"), Some(RetryCode::Unavailable)),
            (200, Some("nonsense"), None),
            (503, None, Some(RetryCode::Unavailable)),
            (503, Some("5"), None),
            (500, None, None),
        ] {
            assert_eq!(read(status, code), expected, "{status} {code:?}");
        }
    }
}

//! Whether a policy names what became of an attempt.

use http::{HeaderMap, Response, StatusCode};

use crate::call::{RetryCode, RetryProtocol};
use crate::error::{Error, ErrorKind};
use crate::resource::retry_policy::{Conditions, RetryPolicy};

pub(super) type Protocol = Option<&'static dyn RetryProtocol>;

/// Whether an attempt that ended so is to be repeated.
pub(super) fn is_retriable<R>(policy: &RetryPolicy, protocol: Protocol, outcome: &Result<Response<R>, Error>) -> bool {
    match outcome {
        Ok(response) => is_retriable_head(policy, protocol, response.status(), response.headers()),
        Err(error) => match error.response() {
            Some((status, headers)) => is_retriable_head(policy, protocol, status, headers),
            None => of_error(policy, protocol, error),
        },
    }
}

/// Whether one whose response has this head is.
pub(super) fn is_retriable_head(
    policy: &RetryPolicy,
    protocol: Protocol,
    status: StatusCode,
    headers: &HeaderMap,
) -> bool {
    let code = protocol.and_then(|protocol| protocol.code_of_response(status, headers));
    policy.conditions.has(named(code)) || policy.retries_response(status, headers)
}

/// Only what may be better later or elsewhere: not what the configuration or the application is to blame for, nor a call
/// that the control plane asked to drop.
fn of_error(policy: &RetryPolicy, protocol: Protocol, error: &Error) -> bool {
    let conditions = match error.kind() {
        ErrorKind::Connection if !error.request_sent() => Conditions::ANY_UNPROCESSED,
        // The deadline is that of the attempt: past the call's own there is no other attempt.
        ErrorKind::Connection | ErrorKind::Reset(_) | ErrorKind::Protocol | ErrorKind::Deadline => {
            Conditions::ANY_RESET
        }
        ErrorKind::NoEndpoint => Conditions::default(),
        _ => return false,
    };
    let code = protocol.and_then(|protocol| protocol.code_of_error(error));
    policy.conditions.has(conditions | named(code))
}

fn named(code: Option<RetryCode>) -> Conditions {
    match code {
        None => Conditions::default(),
        Some(RetryCode::Cancelled) => Conditions::CANCELLED,
        Some(RetryCode::DeadlineExceeded) => Conditions::DEADLINE_EXCEEDED,
        Some(RetryCode::Internal) => Conditions::INTERNAL,
        Some(RetryCode::ResourceExhausted) => Conditions::RESOURCE_EXHAUSTED,
        Some(RetryCode::Unavailable) => Conditions::UNAVAILABLE,
    }
}

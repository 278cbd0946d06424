//! What a layer must ask of the protocol that the calls speak: mesh-core does not know gRPC, the adapter does.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use super::Classify;
use crate::error::Error;
use crate::resource::answer::Answer;

/// What retries must know of the protocol that the calls speak. An adapter has one; without one, only the conditions of
/// a retry policy that speak of HTTP are met, and only for methods that HTTP calls idempotent.
pub trait RetryProtocol: fmt::Debug + Send + Sync {
    /// Whether a call by this method may be made again though a server may have acted on it already. In gRPC it may if
    /// its policy says so: the method is always POST.
    fn is_repeatable(&self, method: &Method) -> bool;

    /// The code of a response that failed and is over with its head; `None` if there is more to come.
    fn code_of_response(&self, status: StatusCode, headers: &HeaderMap) -> Option<RetryCode>;

    /// Whether the head of a response says of no failure; of one that has more to come, that may still fail. By default as
    /// HTTP's status has it.
    fn is_success(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let _ = headers;
        status.is_success()
    }

    /// The code of an attempt that got no response.
    fn code_of_error(&self, error: &Error) -> Option<RetryCode>;

    /// What the server says in a failed response about the next attempt.
    fn pushback(&self, headers: &HeaderMap) -> Option<Pushback>;

    /// The header that tells the server how many attempts there were before this one.
    fn tell_attempts(&self, previous: u32) -> (HeaderName, HeaderValue);
}

/// The form that an answer of the mesh's own takes in the protocol that the calls speak, and which calls must not be refused.
/// An adapter has one; without one, it is a response of HTTP with the answer's status.
pub trait AnswerProtocol: fmt::Debug + Send + Sync {
    /// The answer as a response.
    fn respond(&self, answer: Answer) -> Response<Bytes>;

    /// Whether calls to this path ask for the health of their server. Those are served, however many others are. By default
    /// none does.
    fn is_health_check(&self, path: &str) -> bool {
        let _ = path;
        false
    }
}

/// All that the layers must know of a protocol.
pub trait Protocol: RetryProtocol + AnswerProtocol + Classify {}

impl<P: RetryProtocol + AnswerProtocol + Classify> Protocol for P {}

/// The codes that a retry policy can name (A44).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryCode {
    /// `cancelled`
    Cancelled,
    /// `deadline-exceeded`
    DeadlineExceeded,
    /// `internal`
    Internal,
    /// `resource-exhausted`
    ResourceExhausted,
    /// `unavailable`
    Unavailable,
}

/// A server's word on when to try again (A6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pushback {
    /// Not at all.
    Stop,
    /// Not before this has passed.
    After(Duration),
}

//! What a response says of its endpoint: mesh-core knows HTTP, the adapter its own protocol.

use std::fmt;

use http::{HeaderMap, StatusCode};

use crate::connect::Outcome;

/// Tells good responses from bad ones, for outlier detection and for balancing by load. An adapter has one; without one, the HTTP status decides.
pub trait Classify: fmt::Debug + Send + Sync {
    /// Whether a response that begins so is one of the protocol. One that is not ends its attempt with an error of kind
    /// [`ErrorKind::HttpResponse`](crate::ErrorKind::HttpResponse), and its outcome is that without trailers. Default: each
    /// is.
    fn is_answer(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let _ = (status, headers);
        true
    }

    /// The outcome of a response that has ended, by its status and its trailers; the headers stand for trailers where the
    /// response was nothing but a head.
    fn outcome(&self, status: StatusCode, trailers: Option<&HeaderMap>) -> Outcome;

    /// Whether a response that ended so, by its trailers or as nothing but a head, says that the call was given up. A peer
    /// that knows the call's deadline may say so at its end. Default: none does.
    fn is_cancelled(&self, trailers: &HeaderMap) -> bool {
        let _ = trailers;
        false
    }
}

/// By the HTTP status alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpStatus;

impl Classify for HttpStatus {
    fn outcome(&self, status: StatusCode, _trailers: Option<&HeaderMap>) -> Outcome {
        match status.as_u16() {
            429 => Outcome::Overloaded,
            502..=504 => Outcome::GatewayError,
            500..=599 => Outcome::ServerError,
            _ => Outcome::Success,
        }
    }
}

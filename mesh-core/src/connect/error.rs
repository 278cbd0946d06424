//! Why a request got no response, or a response no end.

use std::error::Error as StdError;
use std::fmt;

use crate::error::BoxError;

/// A request that got no response head.
#[derive(Debug)]
pub struct SendError<R> {
    /// What happened.
    pub error: StreamError,
    /// The request as it was, when it can be sent again: only with [`SendErrorKind::Unsent`] and
    /// [`SendErrorKind::Refused`].
    pub replay: Option<Box<R>>,
}

/// A stream that did not end as it should.
#[derive(Debug)]
pub struct StreamError {
    kind: SendErrorKind,
    source: BoxError,
}

/// What happened to a stream, and so whether the peer may have acted on its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// No byte of it was written: safe to send elsewhere, as often as needed.
    Unsent,
    /// The peer said that it did nothing with it (REFUSED_STREAM, or a GOAWAY below its stream): safe to send elsewhere,
    /// but only once, as the request itself may be why.
    Refused,
    /// The peer reset the stream, with this HTTP/2 error code.
    Reset(u32),
    /// The connection ended; the peer may have acted on the request.
    ConnectionLost,
    /// The connection was closed on this side, as the mesh was shut down or its runtime is gone; the peer may have acted
    /// on the request.
    Closed,
    /// The connection was closed on this side, as its certificates do not hold any more: one of them expired, or the roots
    /// changed and do not vouch for the peer. The peer may have acted on the request.
    Untrusted,
    /// What the peer sent breaks the protocol, or a limit.
    BadResponse,
    /// The request cannot be expressed in the protocol; nothing was sent.
    BadRequest,
    /// The head of the request is larger than the peer takes; nothing was sent.
    TooLarge,
    /// The body of the request failed.
    RequestBody,
}

impl StreamError {
    /// What happened, with its cause.
    pub fn new(kind: SendErrorKind, source: impl Into<BoxError>) -> Self {
        Self { kind, source: source.into() }
    }

    /// What happened.
    pub fn kind(&self) -> SendErrorKind {
        self.kind
    }

    pub(crate) fn into_source(self) -> BoxError {
        self.source
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            SendErrorKind::Unsent => "request not sent",
            SendErrorKind::Refused => "request refused by the endpoint, unprocessed",
            SendErrorKind::Reset(_) => "stream reset by the endpoint",
            SendErrorKind::ConnectionLost => "connection lost",
            SendErrorKind::Closed => "call cut off",
            SendErrorKind::Untrusted => "connection closed, as its certificates do not hold any more",
            SendErrorKind::BadResponse => "invalid response",
            SendErrorKind::BadRequest => "invalid request",
            SendErrorKind::TooLarge => "request too large, not sent",
            SendErrorKind::RequestBody => "request body failed",
        })
    }
}

impl StdError for StreamError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}

impl<R> fmt::Display for SendError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<R: fmt::Debug> StdError for SendError<R> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.source()
    }
}

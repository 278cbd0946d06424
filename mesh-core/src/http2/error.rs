//! What went wrong, whether the request was sent, and the request itself when it can be sent elsewhere.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use super::request::Outgoing;

/// An error of the layer above or below that is only carried.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// An HTTP/2 error code (RFC 9113, section 7); prints its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u32);

impl Code {
    /// The peer closes the connection for reasons of its own.
    pub(crate) const NO_ERROR: Self = Self(0x0);
    /// The other side broke the protocol, in a way that has no code of its own.
    pub(crate) const PROTOCOL_ERROR: Self = Self(0x1);
    /// The peer did nothing with the stream.
    pub(crate) const REFUSED_STREAM: Self = Self(0x7);
    /// The peer considers our behaviour excessive.
    pub(crate) const ENHANCE_YOUR_CALM: Self = Self(0xb);
}

const NAMES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match usize::try_from(self.0).ok().and_then(|at| NAMES.get(at)) {
            Some(name) => f.write_str(name),
            None => write!(f, "error code {:#x}", self.0),
        }
    }
}

impl From<h2::Reason> for Code {
    fn from(reason: h2::Reason) -> Self {
        Self(reason.into())
    }
}

/// Why a connection could not be set up, or ended.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionError {
    kind: ConnectionErrorKind,
    text: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionErrorKind {
    /// The socket failed or ended.
    Io(io::ErrorKind),
    /// The peer's SETTINGS did not arrive in time.
    HandshakeTimeout,
    /// The peer was silent after a PING.
    KeepaliveTimeout,
    /// The peer sent GOAWAY with this code, and the connection ended.
    GoAway(Code),
    /// The peer broke HTTP/2, or does not speak it.
    Protocol(Code),
    /// It was closed on this side.
    Closed,
    /// It was closed on this side, as its certificates do not hold any more.
    #[cfg(feature = "tls")]
    Untrusted,
}

impl ConnectionError {
    pub(super) fn new(kind: ConnectionErrorKind, text: impl Into<Arc<str>>) -> Self {
        Self { kind, text: text.into() }
    }

    /// What `h2` says of the connection, in words that name the peer's part in it.
    pub(super) fn from_h2(error: &h2::Error) -> Self {
        if let Some(io) = error.get_io() {
            return Self::from_io(io);
        }
        let code = Code::from(error.reason().unwrap_or(h2::Reason::INTERNAL_ERROR));
        if error.is_go_away() && error.is_remote() {
            return Self::new(ConnectionErrorKind::GoAway(code), format!("peer sent GOAWAY {code}"));
        }
        Self::new(ConnectionErrorKind::Protocol(code), format!("peer broke HTTP/2: {code} ({error})"))
    }

    pub(super) fn from_io(error: &io::Error) -> Self {
        let text = match error.kind() {
            io::ErrorKind::ConnectionReset => "connection reset by peer".into(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => "connection closed by peer".into(),
            _ => error.to_string(),
        };
        Self::new(ConnectionErrorKind::Io(error.kind()), text)
    }

    /// Whether this side closed it, neither the peer nor the network.
    pub(crate) fn is_closed_here(&self) -> bool {
        self.kind == ConnectionErrorKind::Closed
    }

    /// Whether this side closed it as its certificates do not hold any more.
    pub(crate) fn is_untrusted(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.kind == ConnectionErrorKind::Untrusted;
        #[cfg(not(feature = "tls"))]
        false
    }

    #[cfg(test)]
    pub(super) fn kind(&self) -> ConnectionErrorKind {
        self.kind
    }

    /// Whether the peer closed because of our PINGs: the next connection should send fewer, [`Keepalive::slower`].
    ///
    /// [`Keepalive::slower`]: super::Keepalive::slower
    pub(crate) fn is_too_many_pings(&self) -> bool {
        self.kind == ConnectionErrorKind::GoAway(Code::ENHANCE_YOUR_CALM) && self.text.contains("too_many_pings")
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for ConnectionError {}

/// A request that got no response head.
pub(crate) struct SendError<B> {
    pub(crate) kind: SendErrorKind,
    /// The request as it was given, when all that was taken from its body is still held; only with
    /// [`Unsent`](SendErrorKind::Unsent) and [`Refused`](SendErrorKind::Refused).
    pub(crate) replay: Option<Box<Outgoing<B>>>,
}

/// Why there is no response head, and so whether the peer may have acted on the request.
#[derive(Debug)]
pub(crate) enum SendErrorKind {
    /// No byte of it was written: safe to send elsewhere, as often as needed.
    Unsent(ConnectionError),
    /// The peer said that it did nothing with it, by a GOAWAY below its stream or, with `None`, by REFUSED_STREAM: safe
    /// to send elsewhere, but only once, as the request itself may be why.
    Refused(Option<ConnectionError>),
    /// The peer reset the stream.
    Reset(Code),
    /// The connection ended; the peer may have acted on the request.
    ConnectionLost(ConnectionError),
    /// The response head breaks HTTP/2, or is larger than the limit.
    BadResponse(String),
    /// The request cannot be expressed in HTTP/2; nothing was sent.
    BadRequest(String),
    /// The request's head is larger than the peer takes; nothing was sent.
    TooLarge(String),
    /// The request's body failed; the stream was reset.
    RequestBody(BoxError),
}

impl fmt::Display for SendErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsent(_) => f.write_str("request not sent"),
            Self::Refused(_) => f.write_str("request refused by peer, unprocessed"),
            Self::Reset(code) => write!(f, "stream reset by peer: {code}"),
            Self::ConnectionLost(_) => f.write_str("connection lost"),
            Self::BadResponse(why) => write!(f, "invalid response: {why}"),
            Self::BadRequest(why) => write!(f, "invalid request: {why}"),
            Self::TooLarge(why) => write!(f, "request not sent: {why}"),
            Self::RequestBody(_) => f.write_str("request body failed"),
        }
    }
}

impl<B> fmt::Display for SendError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl<B> fmt::Debug for SendError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError").field("kind", &self.kind).field("replay", &self.replay.is_some()).finish()
    }
}

impl<B> StdError for SendError<B> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.kind {
            SendErrorKind::Unsent(why) | SendErrorKind::Refused(Some(why)) | SendErrorKind::ConnectionLost(why) => {
                Some(why)
            }
            SendErrorKind::RequestBody(why) => Some(&**why),
            _ => None,
        }
    }
}

/// A response body that did not end as it should.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// The peer reset the stream.
    Reset(Code),
    /// The connection ended.
    ConnectionLost(ConnectionError),
    /// What the peer sent breaks HTTP/2, or is larger than the limit.
    BadResponse(String),
    /// The request's body failed, and so the stream was reset.
    RequestBody(BoxError),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset(code) => write!(f, "stream reset by peer: {code}"),
            Self::ConnectionLost(_) => f.write_str("connection lost"),
            Self::BadResponse(why) => write!(f, "invalid response: {why}"),
            Self::RequestBody(_) => f.write_str("request body failed"),
        }
    }
}

impl StdError for BodyError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::ConnectionLost(why) => Some(why),
            Self::RequestBody(why) => Some(&**why),
            _ => None,
        }
    }
}

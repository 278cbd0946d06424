//! Streams of messages to a control plane, as bytes.

pub(crate) mod connector;
pub(crate) mod credentials;
pub(crate) mod encode;
mod frames;
pub(crate) mod grpc;
#[cfg_attr(not(feature = "filter"), allow(dead_code, reason = "only filters ask other services"))]
pub(crate) mod side_channel;
mod token;

#[cfg(feature = "istio")]
pub(crate) use token::authorization;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;

/// The method of ADS.
pub(crate) const ADS: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// The method of a service of secrets alone (SDS).
#[cfg(feature = "tls")]
pub(crate) const SDS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";

/// Opens streams to one control plane.
pub(crate) trait Transport: Send + Sync + 'static {
    /// Opens a bidirectional stream of a method. Ready when the connection is there and the stream goes out on it: not
    /// when the server answers, which may be when it has something to say.
    fn open(&self, method: &'static str) -> OpenFuture;

    /// Closes the connection, whose streams have ended, in order: ready when it is gone. The next stream would make
    /// another. Dropped before, it closes at once.
    fn close(&self) -> CloseFuture;
}

/// A [`Stream`] to come.
pub(crate) type OpenFuture = Pin<Box<dyn Future<Output = Result<Box<dyn Stream>, StreamError>> + Send>>;

/// The orderly end of a connection.
pub(crate) type CloseFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A stream of messages both ways. Dropped, it is cancelled.
pub(crate) trait Stream: Send {
    /// Whether [`send`](Self::send) may be called: what was sent before was taken by the transport. After the stream's
    /// end it may stay pending; [`poll_recv`](Self::poll_recv) tells of that.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Sends one message.
    fn send(&mut self, message: Bytes);

    /// Sends no more. What was sent still goes, as long as the stream is polled.
    fn finish(&mut self);

    /// The next message, or why none comes any more. This is also what drives the stream.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, StreamError>>;
}

/// Why a stream could not be opened, or ended: `UNAVAILABLE: connection refused`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamError(String);

impl StreamError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The name of the gRPC status code that it starts with, such as `PERMISSION_DENIED`.
    pub(crate) fn code(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StreamError {}

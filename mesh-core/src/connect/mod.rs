//! Connections to endpoints: what makes one, what can be asked of it, and the subchannel that keeps one open.
//!
//! [`Connect`] is the seam below the balancer. The mesh's own implementation speaks HTTP/2; a test or an application may
//! bring another. A connection says what a balancer must know and tower's `Service` cannot say: that it takes no new
//! calls (GOAWAY), that all its slots are taken, that a request never left.
//!
//! ```text
//! Balancer ─ Subchannel ─ drive: connect ▸ ready ▸ ended ▸ connect … (background, backoff)     subchannel/
//!                │           └ Connectivity: the state machine, without I/O                     connectivity.rs
//!                ├ EndpointStats: calls in flight, kept by the guard of each call               stats.rs
//!                │   ├ Outcomes: how they end, as far as outlier detection wants it             outcomes.rs
//!                │   └ EndpointLoad: how long they take, which fail, what weight it has         load.rs
//!                └ reports of the endpoint's load, if the policy asks for them (ORCA)           reports.rs, load_reports.rs
//! ```

mod complaints;
mod connectivity;
mod error;
mod first;
mod http2;
mod leaving;
mod load;
mod load_reports;
mod outcomes;
mod peer;
mod readiness;
mod reports;
#[cfg(feature = "tls")]
mod secured;
mod stats;
mod subchannel;
#[cfg(test)]
pub(crate) mod testing;

use std::future::{Future, pending, ready};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;

pub use connectivity::ConnectivityState;
pub use error::{SendError, SendErrorKind, StreamError};
pub use http2::{Http2Body, Http2Connection, Http2Connector, Http2Options, Http2Request, Http2Send, Http2Slot};
pub use load_reports::{ReportSink, ReportsEnd};
pub use outcomes::Outcome;
pub use peer::VerifiedPeer;
pub use readiness::Readiness;

pub(crate) use first::is_v6;
pub(crate) use leaving::Leaving;
pub(crate) use load::Stamp;
pub(crate) use outcomes::{Criteria, Ended, Streak};
pub(crate) use stats::{EndpointStats, InFlight, SlotQueue};
pub(crate) use subchannel::{Connections, Environment, Limits, Observer, Subchannel, SubchannelStatus};

use crate::error::BoxError;
use crate::resource::endpoints::Address;
pub use crate::resource::security::Security;
#[cfg(feature = "tls")]
pub use crate::tls::{ConnectionSecurity, Peer};

/// Makes connections to endpoints.
pub trait Connect: Send + Sync + 'static {
    /// What it makes.
    type Connection: Connection;
    /// Resolves when the connection takes calls: for HTTP/2, when the peer's SETTINGS were received.
    type Future: Future<Output = Result<Self::Connection, BoxError>> + Send + 'static;

    /// Starts to connect to `address`. The caller bounds the time it takes; a dropped future gives up.
    fn connect(&self, address: &Address) -> Self::Future;

    /// The same for an endpoint whose cluster asks for TLS. `None`, the default: the connector cannot, and the endpoint is
    /// not connected, as TLS is never replaced by plaintext.
    fn connect_secured(&self, address: &Address, security: &Security) -> Option<Self::Future> {
        let _ = (address, security);
        None
    }

    /// What such connections are secured with, as far as it must be waited for before the time of an attempt begins. By
    /// default, nothing.
    fn readiness(&self, security: &Security) -> Readiness {
        let _ = security;
        Readiness::default()
    }
}

/// One connection to an endpoint; clones are handles on the same one.
pub trait Connection: Clone + Send + Sync + 'static {
    /// The right to send one call, given back on drop.
    type Slot: Send + 'static;

    /// Takes a slot for one call. Never blocks.
    fn try_acquire(&self) -> Result<Self::Slot, Unavailable>;

    /// Resolves when the connection takes no new calls, with why: the peer said so (GOAWAY), it ended, or it was drained or
    /// closed on this side.
    fn ended(&self) -> impl Future<Output = BoxError> + Send;

    /// Resolves when another connection is to take the place of this one while it still takes calls, with why: certificates
    /// that secure it near their end. By default, never.
    fn outlived(&self) -> impl Future<Output = Arc<str>> + Send {
        pending()
    }

    /// Resolves when the peer may hang, with why: it owes an answer. It gets no new calls from then on, and another connection
    /// is made; those in flight go on. By default, never.
    fn doubted(&self) -> impl Future<Output = Arc<str>> + Send {
        pending()
    }

    /// Resolves when the peer, which was doubted, is heard. By default, never.
    fn heard(&self) -> impl Future<Output = ()> + Send {
        pending()
    }

    /// Takes no new calls from now on, and closes once those in flight have ended.
    fn drain(&self);

    /// Another security takes the place of the one that it was made with: a peer that would not be let in by that one is to
    /// lose the calls in flight, too. By default, nothing happens.
    fn reconsider(&self, security: &Security) {
        let _ = security;
    }

    /// Whether no call is in flight.
    fn is_idle(&self) -> bool;

    /// Closes: at once if calls are in flight, which fail; else as its protocol has it, but within about a second.
    fn close(&self);

    /// How it is secured; `None`, the default: it is not.
    #[cfg(feature = "tls")]
    fn security(&self) -> Option<Arc<ConnectionSecurity>> {
        None
    }

    /// Asks the endpoint to report its load about every `period` and hands each report to `sink` (ORCA out of band, A51);
    /// resolves when no more come. By default, a connection knows of no reports.
    fn load_reports(&self, period: Duration, sink: ReportSink) -> impl Future<Output = ReportsEnd> + Send {
        let _ = (period, sink);
        ready(ReportsEnd::Unsupported)
    }
}

/// A slot that sends a request with a body `B`.
pub trait SendRequest<B>: Send + 'static {
    /// The request in the form in which it is sent, and handed back when it can be sent elsewhere.
    type Outgoing: From<http::Request<B>> + Send + 'static;
    /// The response's body.
    type Body: http_body::Body<Data = Bytes, Error = StreamError>;
    /// Resolves when the response's head is there.
    type Future: Future<Output = Result<http::Response<Self::Body>, SendError<Self::Outgoing>>> + Send;

    /// Gives a request the authority of the endpoint that it is sent to (`auto_host_rewrite`, A81); `None`: the one that it came
    /// with. By default, it keeps that.
    fn set_authority(request: &mut Self::Outgoing, authority: Option<&Authority>) {
        let _ = (request, authority);
    }

    /// Whom the request would be sent to, as the connection's certificates say. By default, nobody
    /// says.
    fn peer(&self) -> VerifiedPeer {
        VerifiedPeer::default()
    }

    /// Sends the request. The slot is given back when the stream has ended, not before.
    fn send(self, request: Self::Outgoing) -> Self::Future;
}

/// Why a connection gives no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unavailable {
    /// All slots that the peer allows are taken.
    Full,
    /// No new calls are taken: the peer said so, or it is drained here.
    Draining,
    /// It ended.
    Closed,
}

//! What a call carries from layer to layer, in its request's extensions.
//!
//! [`Call`] is put in once, by the adapter or by the first layer; every layer reads what those before it decided and
//! adds its own decision. [`CallOptions`] is what the application may put in, [`CallInfo`] what it finds in the
//! response's extensions.

mod classify;
mod progress;
mod protocol;

use std::sync::Arc;
use std::time::Duration;

pub use classify::Classify;
pub(crate) use classify::HttpStatus;
use http::{HeaderName, HeaderValue};
pub(crate) use progress::{Follow, Progress, Stage};
pub use protocol::{AnswerProtocol, Protocol, Pushback, RetryCode, RetryProtocol};
use tokio::time::Instant;

use crate::connect::VerifiedPeer;
use crate::context::Context;
use crate::error::Error;
use crate::resource::endpoints::Address;
use crate::resource::hash_policy::xxh64;
use crate::resource::route_config::AttemptCount;
use crate::snapshot::{ClusterEntry, Snapshot};
#[cfg(feature = "tls")]
use crate::tls::{ExpectedPeers, Peer};

/// Writes a deadline into a header: the name, and the value for the time that remains.
pub type EncodeDeadline = fn(Duration) -> (HeaderName, HeaderValue);

/// What the application asks of one call: insert it into the request's extensions.
///
/// ```
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(mesh_core::CallOptions::new().wait_for_ready(true));
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct CallOptions {
    wait_for_ready: bool,
    no_retry: bool,
    hash: Option<u64>,
    idempotent: bool,
}

impl CallOptions {
    /// Options with every default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the call waits for an endpoint although there is no hope at the moment (no endpoint is connected or
    /// connecting): until its deadline, or `max_wait` (20 s) if it has none. Default: no, such a call fails at once.
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = wait;
        self
    }

    /// Whether a server may act on the call twice without harm, so that a retry policy may have it made again whatever
    /// its method. Default: as the protocol says: HTTP's methods but POST, PATCH and CONNECT are, and gRPC's calls are
    /// as their policy says.
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// Whether the call may be made again, as the retry policy of its route says. Default: yes. A request that no endpoint
    /// processed is sent elsewhere in any case.
    pub fn retry(mut self, retry: bool) -> Self {
        self.no_retry = !retry;
        self
    }

    /// Chooses the endpoint by this key where the cluster's policy has affinity (`RING_HASH`): equal keys have the same
    /// endpoint. Default: what the control plane says is hashed. Other policies take no notice.
    pub fn hash_key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.hash = Some(xxh64(key.as_ref()));
        self
    }
}

/// What became of a call: in the extensions of every response that an endpoint gave. An answer of the mesh's own, such
/// as an injected fault, has none.
#[derive(Clone, Debug)]
pub struct CallInfo {
    cluster: Arc<str>,
    endpoint: Address,
    attempts: u32,
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "without TLS nobody is verified"))]
    peer: VerifiedPeer,
}

impl CallInfo {
    pub(crate) fn new(cluster: Arc<str>, endpoint: Address, attempts: u32, peer: VerifiedPeer) -> Self {
        Self { cluster, endpoint, attempts, peer }
    }

    /// The cluster the call was routed to.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The endpoint that answered.
    pub fn endpoint(&self) -> &Address {
        &self.endpoint
    }

    /// How often the call was tried, the answered attempt included; an attempt that never left is not counted.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Who answered, as its certificate says, which was verified; `None`: the connection was in plaintext.
    #[cfg(feature = "tls")]
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.get().map(AsRef::as_ref)
    }
}

/// The state of one call on its way through the layers.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// What the application allowed the call, from its start.
    pub(crate) timeout: Option<Duration>,
    /// When the call must have ended, the whole response included.
    pub(crate) deadline: Option<Instant>,
    /// The call that this one helps to serve, if there is one.
    pub(crate) context: Context,
    /// The deadline is that of the call that is being served.
    pub(crate) inherited: bool,
    /// The application gave the call its `:authority`, which no control plane changes (A81).
    pub(crate) has_own_authority: bool,
    /// When the call first waited, for its configuration or for an endpoint: all its waits together are bounded.
    pub(crate) waiting_since: Option<Instant>,
    /// The configuration of this call, from its first to its last attempt (A74).
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    /// Index of the route in the snapshot's table.
    pub(crate) route: Option<usize>,
    /// Which of the clusters that the route names was chosen.
    pub(crate) choice: usize,
    /// Where the route sends the call.
    pub(crate) cluster: Option<Arc<ClusterEntry>>,
    /// The hash of the request (A42), by which some policies choose the endpoint; every attempt has the same.
    pub(crate) hash: Option<u64>,
    /// Where the call's session is (A55).
    pub(crate) session: Option<Arc<Session>>,
    /// Tells the channel's calls from those of others (A42).
    pub(crate) channel: u64,
    /// A cookie that the response sets, so that later calls have it to hash.
    pub(crate) set_cookie: Option<Box<HeaderValue>>,
    /// Number of this attempt, from 1 once it is sent.
    pub(crate) attempt: u32,
    /// Endpoints at which attempts of this call failed: any other is better.
    pub(crate) avoid: Vec<Address>,
    /// Who alone may answer, by the security floor.
    #[cfg(feature = "tls")]
    pub(crate) expected: Option<Arc<ExpectedPeers>>,
    /// How the peer is told of the deadline, by each attempt anew.
    pub(crate) tell_deadline: Option<EncodeDeadline>,
    /// Who above follows the call: for the message of a deadline that passes, or for the attempts after this one.
    pub(crate) follower: Option<Arc<dyn Follow>>,
}

/// Where the session of a call is.
#[derive(Debug)]
pub(crate) struct Session {
    /// Those of one endpoint.
    pub(crate) addresses: Vec<Address>,
    /// Whether the call fails rather than go elsewhere.
    pub(crate) strict: bool,
}

impl Call {
    /// A call that must have ended within `timeout` from now; `None`: the application sets no limit. Made while a call is
    /// [served](crate::context), it has no more time than that one has left.
    pub fn new(timeout: Option<Duration>) -> Self {
        let own = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let context = Context::current();
        let inbound = context.deadline().filter(|inbound| own.is_none_or(|own| *inbound < own));
        Self { timeout, deadline: inbound.or(own), inherited: inbound.is_some(), context, ..Self::default() }
    }

    /// Where the call stands, if anybody follows it.
    pub(crate) fn progress(&self) -> Option<&Progress> {
        self.follower.as_deref().map(Follow::progress)
    }

    /// Since when this call waits: since now, if it did not before.
    pub(crate) fn starts_to_wait(&mut self) -> Instant {
        if let Some(progress) = self.progress() {
            progress.starts_to_wait();
        }
        *self.waiting_since.get_or_insert_with(Instant::now)
    }

    /// Later picks are made elsewhere if they can. Of many endpoints the last few are remembered.
    pub(crate) fn failed_at(&mut self, endpoint: &Address) {
        const REMEMBERED: usize = 4;
        if self.avoid.contains(endpoint) {
            return;
        }
        if self.avoid.len() == REMEMBERED {
            self.avoid.remove(0);
        }
        self.avoid.push(endpoint.clone());
    }

    /// How long there is until the deadline; `None` without one.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Adds what this call knows to an error that a layer below it made.
    pub(crate) fn explain(&self, error: &mut Error) {
        let context = error.context_mut();
        if let Some(cluster) = &self.cluster {
            context.cluster.get_or_insert_with(|| cluster.key.name.clone());
        }
        context.route = context.route.take().or_else(|| self.route_name());
    }

    /// Whether the call may go to whom a connection leads to.
    ///
    /// # Errors
    ///
    /// When code expects another peer.
    #[cfg(feature = "tls")]
    pub(crate) fn check_peer(&self, peer: &VerifiedPeer) -> Result<(), Error> {
        self.expected.as_ref().map_or(Ok(()), |expected| expected.check(peer.get().map(AsRef::as_ref)))
    }

    #[cfg(not(feature = "tls"))]
    pub(crate) fn check_peer(&self, _: &VerifiedPeer) -> Result<(), Error> {
        Ok(())
    }

    /// Who is told how often the call was tried.
    pub(crate) fn attempt_count(&self) -> AttemptCount {
        let table = self.snapshot.as_ref().and_then(|snapshot| snapshot.routing.as_ref().ok());
        table.map(|table| table.virtual_host.attempt_count).unwrap_or_default()
    }

    /// Whether the host name of the endpoint that it is sent to becomes its authority (A81).
    pub(crate) fn takes_host_of_endpoint(&self) -> bool {
        let table = self.snapshot.as_ref().and_then(|snapshot| snapshot.routing.as_ref().ok());
        let route = table.zip(self.route).map(|(table, route)| &table.virtual_host.routes[route]);
        route.is_some_and(|route| route.auto_host)
            && table.is_some_and(|table| table.trusted)
            && !self.has_own_authority
    }

    /// The name of the call's route, for what outlives the call's head.
    pub(crate) fn route_name(&self) -> Option<Arc<str>> {
        self.snapshot.as_ref()?.route_name(self.route?)
    }
}

/// The call of a request; started here if no layer before did.
pub(crate) fn of(extensions: &mut http::Extensions) -> &mut Call {
    extensions.get_or_insert_with(|| Call::new(None))
}

/// Whether a call waits although there is no hope at the moment. Only a call that would fail otherwise asks, so that no
/// other pays for the look-up.
pub(crate) fn waits_for_ready(extensions: &http::Extensions) -> bool {
    extensions.get::<CallOptions>().is_some_and(|options| options.wait_for_ready)
}

/// Whether a call may be made again as its route's policy says.
pub(crate) fn may_retry(extensions: &http::Extensions) -> bool {
    !extensions.get::<CallOptions>().is_some_and(|options| options.no_retry)
}

/// The hash of the key that the application gave the call.
pub(crate) fn hash_key(extensions: &http::Extensions) -> Option<u64> {
    extensions.get::<CallOptions>()?.hash
}

/// Whether the application says that a call may be acted on twice.
#[cfg(feature = "retry")]
pub(crate) fn is_idempotent(extensions: &http::Extensions) -> bool {
    extensions.get::<CallOptions>().is_some_and(|options| options.idempotent)
}

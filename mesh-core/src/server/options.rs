//! What can be set about a server; every default is stated here.

use std::sync::Arc;
use std::time::Duration;

use crate::backoff::bounded;
use crate::filter::ConcurrencyLimit;
use crate::http2::TcpConfig;

/// The limits of a server, and how it ends.
///
/// ```
/// use std::time::Duration;
/// use mesh_core::server::ServerOptions;
///
/// let options = ServerOptions::new().max_connections(500).shutdown_timeout(Duration::from_secs(10));
/// ```
#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub(super) max_connections: usize,
    pub(super) max_concurrent_streams: u32,
    pub(super) max_header_list_size: u32,
    pub(super) max_connection_age: Option<Duration>,
    pub(super) drain_grace: Duration,
    pub(super) handshake_timeout: Duration,
    pub(super) keepalive_interval: Option<Duration>,
    pub(super) keepalive_timeout: Duration,
    pub(crate) shutdown_timeout: Duration,
    pub(super) tcp: TcpConfig,
    pub(super) deny_by_default: bool,
    pub(super) ends_denied_streams: bool,
    pub(crate) concurrency_limit: Option<Arc<ConcurrencyLimit>>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_concurrent_streams: 1_000,
            max_header_list_size: 16 * 1024,
            max_connection_age: None,
            drain_grace: Duration::from_secs(600),
            handshake_timeout: Duration::from_secs(10),
            keepalive_interval: Some(Duration::from_secs(60)),
            keepalive_timeout: Duration::from_secs(20),
            shutdown_timeout: Duration::from_secs(30),
            tcp: TcpConfig::default(),
            deny_by_default: false,
            ends_denied_streams: false,
            concurrency_limit: None,
        }
    }
}

impl ServerOptions {
    /// Options with every default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Connections that are open at once; one more is closed without a byte, so that its client goes elsewhere at once.
    /// Default 10,000.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// Calls that are open at once on one connection; the client is told, and waits with the next. Default 1,000.
    pub fn max_concurrent_streams(mut self, streams: u32) -> Self {
        self.max_concurrent_streams = streams;
        self
    }

    /// The largest list of request headers, as HTTP/2 counts it. Default 16 KiB; a longer one fails its call with 431.
    pub fn max_header_list_size(mut self, bytes: u32) -> Self {
        self.max_header_list_size = bytes;
        self
    }

    /// How old a connection becomes, up to 10 % more or less, before it drains, so that clients look for other servers
    /// (A9). Default `None`: as old as its client likes.
    pub fn max_connection_age(mut self, age: Option<Duration>) -> Self {
        self.max_connection_age = age.map(bounded);
        self
    }

    /// How long a connection that drains, because it is old or was accepted under another configuration, may take to end
    /// its calls. Default 10 min (A36).
    pub fn drain_grace(mut self, grace: Duration) -> Self {
        self.drain_grace = bounded(grace);
        self
    }

    /// How long a client may take from connecting to its first bytes of HTTP/2. Default 10 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = bounded(timeout);
        self
    }

    /// Between the PINGs that ask whether a client is there, `None` for never, and the silence after one that ends its
    /// connection. Default 60 s and 20 s; the kernel probes a silent peer after 10 s, three times 5 s apart.
    pub fn keepalive(mut self, interval: Option<Duration>, timeout: Duration) -> Self {
        self.keepalive_interval = interval.map(bounded);
        self.keepalive_timeout = bounded(timeout);
        self
    }

    /// Serves no more calls at a time than this allows, whatever the control plane says; a header of each call
    /// ([`Criticality`](crate::Criticality)), as it comes, before any filter, decides which are refused first. A call counts until its response begins;
    /// health checks do not count, and are served however many others are. Servers with clones of these options share the limit.
    /// [`ServerStatus::concurrency`] has its state. Default: no limit.
    ///
    /// [`ServerStatus::concurrency`]: crate::ServerStatus::concurrency
    ///
    /// ```
    /// use mesh_core::filter::{ConcurrencyLimit, GradientController};
    /// use mesh_core::server::ServerOptions;
    ///
    /// let limit = ConcurrencyLimit::adaptive(GradientController::new().max_concurrency(200));
    /// let options = ServerOptions::new().concurrency_limit(limit);
    /// ```
    pub fn concurrency_limit(mut self, limit: ConcurrencyLimit) -> Self {
        self.concurrency_limit = Some(Arc::new(limit));
        self
    }

    /// Serves only calls that an ALLOW policy of the control plane matched (A41): lists of filters without one, with DENY or
    /// LOG alone, and no filter at all admit nothing. No control plane can lift it, and without one nothing is served.
    /// Default: calls that nothing denies are served, as in gRPC.
    pub fn deny_by_default(mut self) -> Self {
        self.deny_by_default = true;
        self
    }

    /// Ends calls that are open when policies (RBAC, A41) come into force that deny them: the caller hears that it is not
    /// allowed, and what the handler would still read of it fails. A caller that has not taken within a second what was under
    /// way to it has its stream reset (CANCEL); an answer that was complete by then goes on. It is so for calls that filters
    /// hold back, too, on connections that drain, and for calls for which there is no filter chain or no route any more. While
    /// no listener is in force, or its routes cannot be had, calls go on; the next ones judge them. New calls do not wait for
    /// it: those that are open are judged a few at a time. Policies see a call as it came, behind what the filters before them
    /// change of it, also in the filters that a composite leads to. Its tokens are verified anew, by the keys of now and the
    /// time when it came: that one expires ends no call, that its key is taken out of the set does. What other services said
    /// when it came stays, and they are not asked again; nor is chance: what only a share of calls takes (`runtime_fraction`, a
    /// composite's `sample_percent`) is for the same calls. Policies with audit logging write down how calls begin, not how
    /// they end. [`ServerStatus::refused_calls`] counts it. Each call's head is kept for that, and what filters that are not
    /// asked again change of its headers. Default: policies decide when a call begins, as in gRPC.
    ///
    /// [`ServerStatus::refused_calls`]: crate::ServerStatus::refused_calls
    pub fn end_denied_streams(mut self) -> Self {
        self.ends_denied_streams = true;
        self
    }

    /// How long calls may go on after the shutdown began. What is left then is cut, whatever the peers do. Default 30 s. A
    /// client that has no call, and has read all that was sent to it, is waited for as long only if it is not silent: two
    /// seconds after it was told, its connection is closed.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = bounded(timeout);
        self
    }
}

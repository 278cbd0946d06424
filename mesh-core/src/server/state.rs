//! What a server knows of itself: its connections and the calls on them.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::mode::Gate;
use super::options::ServerOptions;
use super::secure::AcceptedSecurity;
use crate::criticality::Criticality;
use crate::error::Error;
use crate::filter::{Answer, ConcurrencyLimit, ConcurrencyStatus, Running};
use crate::resource::filter::concurrency::Permit;

/// Floods in between are counted alone.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);

/// A running server, as its connections and `Mesh::status` see it.
#[derive(Debug)]
pub(crate) struct ServerState {
    pub(crate) address: SocketAddr,
    /// The name of its listener at the control plane; `None`: it has no control plane.
    pub(crate) listener: Option<Arc<str>>,
    pub(crate) gate: Gate,
    /// Locked when a connection comes or goes, never by a call.
    connections: Mutex<Vec<Arc<ConnectionState>>>,
    accepted: AtomicU64,
    refused: AtomicU64,
    plaintext: AtomicU64,
    failed_handshakes: AtomicU64,
    /// Why the last handshake failed.
    last_handshake_error: Mutex<Option<Arc<str>>>,
    silent: AtomicU64,
    flooding: AtomicU64,
    /// When it was last told that clients do.
    told_of_flood: Mutex<Option<Instant>>,
    refused_calls: AtomicU64,
    /// Why the last of them was. Locked when a call is refused, never by one that is served.
    last_refused_call: Mutex<Option<Arc<str>>>,
    /// Why some connections cannot be secured.
    cannot_secure: Mutex<Option<Arc<str>>>,
    /// What holds a newer listener back.
    waiting_for: Mutex<Option<Arc<str>>>,
    has_untuned_sockets: AtomicBool,
    /// What the filters of its listener count.
    pub(super) running: Arc<Running>,
    /// That of code.
    concurrency_limit: Option<Arc<ConcurrencyLimit>>,
}

/// One connection. Calls count on their own connection, so that those of different connections share nothing.
#[derive(Debug)]
pub(crate) struct ConnectionState {
    pub(super) local_address: SocketAddr,
    pub(crate) peer_address: SocketAddr,
    /// Set when the connection is ready for HTTP/2; to `None`, if it is not secured.
    security: OnceLock<Option<Arc<AcceptedSecurity>>>,
    in_flight: AtomicUsize,
    refuses_calls: AtomicBool,
}

impl ConnectionState {
    /// New calls are to be made elsewhere.
    pub(super) fn refuse_calls(&self) {
        self.refuses_calls.store(true, Ordering::Relaxed);
    }

    pub(super) fn refuses_calls(&self) -> bool {
        self.refuses_calls.load(Ordering::Relaxed)
    }

    /// `None`: it is not secured, or not yet.
    pub(crate) fn security(&self) -> Option<Arc<AcceptedSecurity>> {
        self.security.get().cloned().flatten()
    }

    /// Calls whose response has not ended.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

impl ServerState {
    pub(crate) fn new(
        address: SocketAddr,
        listener: Option<Arc<str>>,
        options: &ServerOptions,
        criticality: Option<HeaderName>,
    ) -> Self {
        Self {
            address,
            listener,
            gate: Gate::default(),
            connections: Mutex::default(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            plaintext: AtomicU64::new(0),
            failed_handshakes: AtomicU64::new(0),
            last_handshake_error: Mutex::default(),
            silent: AtomicU64::new(0),
            flooding: AtomicU64::new(0),
            told_of_flood: Mutex::default(),
            refused_calls: AtomicU64::new(0),
            last_refused_call: Mutex::default(),
            cannot_secure: Mutex::default(),
            waiting_for: Mutex::default(),
            has_untuned_sockets: AtomicBool::new(false),
            running: Arc::new(criticality.map(Running::new).unwrap_or_default()),
            concurrency_limit: options.concurrency_limit.clone(),
        }
    }

    /// The state of the limits of code and of the listener.
    pub(crate) fn concurrency(&self) -> Vec<ConcurrencyStatus> {
        let of_code = self.concurrency_limit.iter().map(|limit| limit.status_of("code".into()));
        let of_listener = self.gate.setup().map(|setup| setup.concurrency()).unwrap_or_default();
        of_code.chain(of_listener).collect()
    }

    /// Lets a call be served, as far as the limit of code goes.
    ///
    /// # Errors
    ///
    /// The answer to a call that there is no room for.
    pub(super) fn make_room(&self, headers: &HeaderMap) -> Result<Option<Permit>, Box<Answer>> {
        let Some(limit) = &self.concurrency_limit else { return Ok(None) };
        let criticality = Criticality::of(headers, self.running.criticality()).unwrap_or_default();
        limit.admit(criticality, Instant::now()).map(Some)
    }

    /// Connections that are open.
    pub(crate) fn connections(&self) -> usize {
        self.connections.lock().len()
    }

    /// Those that are open.
    pub(crate) fn open(&self) -> Vec<Arc<ConnectionState>> {
        self.connections.lock().clone()
    }

    /// Calls whose response has not ended.
    pub(crate) fn in_flight(&self) -> usize {
        self.connections.lock().iter().map(|connection| connection.in_flight()).sum()
    }

    /// Connections that were served since the start.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections that were closed without a byte.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that were served in plaintext though TLS was asked for.
    pub(crate) fn plaintext(&self) -> u64 {
        self.plaintext.load(Ordering::Relaxed)
    }

    /// Handshakes that failed, and why the last one did.
    pub(crate) fn failed_handshakes(&self) -> (u64, Option<Arc<str>>) {
        (self.failed_handshakes.load(Ordering::Relaxed), self.last_handshake_error.lock().clone())
    }

    pub(super) fn handshake_failed(&self, peer: SocketAddr, error: &Error) {
        let why: Arc<str> = format!("{peer}: {}", error.report()).into();
        tracing::debug!(address = %self.address, %why, "a connection could not be secured");
        self.failed_handshakes.fetch_add(1, Ordering::Relaxed);
        *self.last_handshake_error.lock() = Some(why);
    }

    /// Connections that were closed by a shutdown as their client, which had no call, answered nothing.
    pub(crate) fn silent(&self) -> u64 {
        self.silent.load(Ordering::Relaxed)
    }

    pub(super) fn silent_connection(&self) {
        self.silent.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that were cut as their client sent too many frames that ask for nothing.
    pub(crate) fn flooding(&self) -> u64 {
        self.flooding.load(Ordering::Relaxed)
    }

    /// It is told once in a while: who attacks comes again and again.
    pub(super) fn flooding_connection(&self, peer: SocketAddr) {
        let flooding = self.flooding.fetch_add(1, Ordering::Relaxed) + 1;
        let now = Instant::now();
        let mut told = self.told_of_flood.lock();
        if told.is_none_or(|before| now.duration_since(before) >= BETWEEN_WARNINGS) {
            *told = Some(now);
            let address = self.address;
            tracing::warn!(%address, %peer, flooding, "a client was cut that sent too many frames that ask for nothing");
        }
    }

    /// Calls that the listener does not let be served, and why the last one was not.
    pub(crate) fn refused_calls(&self) -> (u64, Option<Arc<str>>) {
        (self.refused_calls.load(Ordering::Relaxed), self.last_refused_call.lock().clone())
    }

    /// Keeps what the caller is not told: how this server is configured is none of its business.
    pub(super) fn refuse_call(&self, error: &Error) {
        let why: Arc<str> = error.report().into();
        tracing::debug!(address = %self.address, %why, "a call was refused");
        self.refused_calls.fetch_add(1, Ordering::Relaxed);
        *self.last_refused_call.lock() = Some(why);
    }

    /// Why some connections cannot be secured, and are closed, while others are served.
    pub(crate) fn why_not_secured(&self) -> Option<Arc<str>> {
        self.cannot_secure.lock().clone()
    }

    pub(super) fn cannot_secure(&self, why: Option<String>) {
        if replaced(&self.cannot_secure, why.as_deref())
            && let Some(why) = &why
        {
            tracing::warn!(address = %self.address, %why, "connections that cannot be secured are closed");
        }
    }

    /// What a newer listener waits for while an older one serves.
    pub(crate) fn waiting_for(&self) -> Option<Arc<str>> {
        self.waiting_for.lock().clone()
    }

    pub(super) fn wait_for(&self, what: Option<String>) {
        if replaced(&self.waiting_for, what.as_deref())
            && let Some(what) = &what
        {
            tracing::warn!(address = %self.address, %what, "serving on under an older listener: the newer one waits");
        }
    }

    /// The system does not have the options of sockets that are asked for: this is told once.
    pub(super) fn socket_is_untuned(&self, error: &io::Error) {
        if !self.has_untuned_sockets.swap(true, Ordering::Relaxed) {
            tracing::warn!(address = %self.address, %error, "connections are served without their TCP options");
        }
    }

    /// A connection that is listed until the value is dropped.
    pub(super) fn connect(self: &Arc<Self>, local_address: SocketAddr, peer_address: SocketAddr) -> Connected {
        let state = Arc::new(ConnectionState {
            local_address,
            peer_address,
            security: OnceLock::new(),
            in_flight: AtomicUsize::new(0),
            refuses_calls: AtomicBool::new(false),
        });
        self.connections.lock().push(state.clone());
        Connected { server: self.clone(), state }
    }
}

/// Puts another text there; `false`: it is the same.
fn replaced(place: &Mutex<Option<Arc<str>>>, text: Option<&str>) -> bool {
    let mut known = place.lock();
    let is_new = known.as_deref() != text;
    if is_new {
        *known = text.map(Into::into);
    }
    is_new
}

/// A connection that is open.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) server: Arc<ServerState>,
    pub(super) state: Arc<ConnectionState>,
}

impl Connected {
    /// It is ready for HTTP/2. `was_to_be_secured`: TLS was asked for; if it has none, it is excused.
    pub(super) fn begins(&self, security: Option<Arc<AcceptedSecurity>>, was_to_be_secured: bool) {
        if was_to_be_secured && security.is_none() {
            self.server.plaintext.fetch_add(1, Ordering::Relaxed);
        }
        // Nothing else sets it.
        let _ = self.state.security.set(security);
        self.server.accepted.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut connections = self.server.connections.lock();
        if let Some(place) = connections.iter().position(|other| Arc::ptr_eq(other, &self.state)) {
            connections.swap_remove(place);
        }
    }
}

/// A call that is being served. What is left to be sent of its response shares it.
#[derive(Debug)]
pub(super) struct InFlight(Arc<ConnectionState>);

impl InFlight {
    pub(super) fn on(connection: &Arc<ConnectionState>) -> Arc<Self> {
        connection.in_flight.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self(connection.clone()))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

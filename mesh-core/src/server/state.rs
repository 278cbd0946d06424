//! What a server knows of itself: its connections and the calls on them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::ConnectInfo;
use super::mode::Gate;

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
}

/// One connection. Calls count on their own connection, so that those of different connections share nothing.
#[derive(Debug)]
pub(super) struct ConnectionState {
    pub(super) info: ConnectInfo,
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
}

impl ServerState {
    pub(crate) fn new(address: SocketAddr, listener: Option<Arc<str>>) -> Self {
        let (accepted, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { address, listener, gate: Gate::default(), connections: Mutex::default(), accepted, refused }
    }

    /// Connections that are open.
    pub(crate) fn connections(&self) -> usize {
        self.connections.lock().len()
    }

    /// Calls whose response has not ended.
    pub(crate) fn in_flight(&self) -> usize {
        self.connections.lock().iter().map(|connection| connection.in_flight.load(Ordering::Relaxed)).sum()
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

    /// A connection that is listed until the value is dropped.
    pub(super) fn connect(self: &Arc<Self>, info: ConnectInfo) -> Connected {
        let (in_flight, refuses_calls) = (AtomicUsize::new(0), AtomicBool::new(false));
        let state = Arc::new(ConnectionState { info, in_flight, refuses_calls });
        self.connections.lock().push(state.clone());
        self.accepted.fetch_add(1, Ordering::Relaxed);
        Connected { server: self.clone(), state }
    }
}

/// A connection that is open.
#[derive(Debug)]
pub(super) struct Connected {
    server: Arc<ServerState>,
    pub(super) state: Arc<ConnectionState>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut connections = self.server.connections.lock();
        if let Some(place) = connections.iter().position(|other| Arc::ptr_eq(other, &self.state)) {
            connections.swap_remove(place);
        }
    }
}

/// A call that is being served.
#[derive(Debug)]
pub(super) struct InFlight(Arc<ConnectionState>);

impl InFlight {
    pub(super) fn on(connection: &Arc<ConnectionState>) -> Self {
        connection.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(connection.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

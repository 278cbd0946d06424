//! What the handle of a control plane and its connections share: one lock, and two bells.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_xds_proto::envoy::service::discovery::v3::DiscoveryRequest;
use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fault::{ConnectionPlan, Faults, StreamEnd, StreamPlan};
use super::requests::{RequestLog, SeenRequest};
use super::server::wire::Wire;
use super::sotw::Sotw;
use super::store::Store;

pub(super) struct Shared {
    state: Mutex<State>,
    /// Rung when streams must look again: resources or faults changed.
    config: watch::Sender<()>,
    /// Rung when those who wait must look again: a request came, a stream ended, a fault was applied.
    events: watch::Sender<()>,
    pub(super) runtime: Handle,
    pub(super) tasks: TaskTracker,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) store: Store,
    pub(super) faults: Faults,
    pub(super) log: RequestLog,
    pub(super) streams: BTreeMap<u64, OpenStream>,
    pub(super) connections: BTreeMap<u64, Arc<Connection>>,
    streams_opened: u64,
    connections_opened: u64,
    /// Cancelled when the server stops; none while it is stopped.
    pub(super) run: Option<CancellationToken>,
    pub(super) address: Option<SocketAddr>,
    /// Number of the first request that `next_nack` has not looked at.
    pub(super) nacks_from: u64,
}

/// One ADS stream.
#[derive(Debug, Default)]
pub(super) struct OpenStream {
    pub(super) machine: Sotw,
    /// Set when the stream has to end.
    pub(super) end: Option<StreamEnd>,
    /// Frames to send in disregard of the protocol.
    pub(super) extra: Vec<Bytes>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) wire: Wire,
    pub(super) kill: CancellationToken,
    pub(super) go_away: CancellationToken,
}

/// What a stream has to send now.
#[derive(Debug, Default)]
pub(super) struct Due {
    pub(super) frames: Vec<(Duration, Bytes)>,
    pub(super) end: Option<(Duration, StreamEnd)>,
}

impl Shared {
    pub(super) fn new(runtime: Handle) -> Arc<Self> {
        let state = State { run: Some(CancellationToken::new()), ..Default::default() };
        Arc::new(Self {
            state: Mutex::new(state),
            config: watch::Sender::new(()),
            events: watch::Sender::new(()),
            runtime,
            tasks: TaskTracker::new(),
        })
    }

    /// Only looks; nobody is told.
    pub(super) fn look(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Changes resources or faults, and wakes the streams.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let value = change(&mut self.state.lock());
        self.config.send_replace(());
        self.events.send_replace(());
        value
    }

    /// Changes what those who wait look at.
    fn note<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let value = change(&mut self.state.lock());
        self.events.send_replace(());
        value
    }

    pub(super) fn config_changes(&self) -> watch::Receiver<()> {
        self.config.subscribe()
    }

    pub(super) fn events(&self) -> watch::Receiver<()> {
        self.events.subscribe()
    }

    /// A new connection, unless the server is stopped or refuses it.
    pub(super) fn open_connection(&self) -> Option<Arc<Connection>> {
        self.note(|state| {
            let kill = state.run.as_ref()?.child_token();
            let plan = state.faults.on_new_connection();
            if plan.refused {
                return None;
            }
            state.connections_opened += 1;
            let id = state.connections_opened;
            let connection = Connection { id, wire: Wire::default(), kill, go_away: CancellationToken::new() };
            connection.apply(&plan);
            let connection = Arc::new(connection);
            state.connections.insert(id, connection.clone());
            Some(connection)
        })
    }

    pub(super) fn close_connection(&self, id: u64) {
        self.note(|state| state.connections.remove(&id));
    }

    /// A new stream, with what is to become of it.
    pub(super) fn open_stream(&self) -> (u64, StreamPlan) {
        self.note(|state| {
            state.streams_opened += 1;
            state.streams.insert(state.streams_opened, OpenStream::default());
            (state.streams_opened, state.faults.on_new_stream())
        })
    }

    pub(super) fn close_stream(&self, id: u64) {
        self.note(|state| state.streams.remove(&id));
    }

    pub(super) fn receive(&self, id: u64, request: DiscoveryRequest) {
        self.note(|state| {
            let Some(stream) = state.streams.get_mut(&id) else { return };
            let (kind, names) = stream.machine.handle_request(&request);
            state.log.push(SeenRequest::new(id, kind, names, request));
        });
    }

    /// What stream `id` has to send now; it counts as sent.
    pub(super) fn due(&self, id: u64) -> Due {
        self.note(|state| state.due(id))
    }
}

impl State {
    fn due(&mut self, id: u64) -> Due {
        let mut due = Due::default();
        let Some(stream) = self.streams.get_mut(&id) else { return due };
        due.end = stream.end.take().map(|end| (Duration::ZERO, end));
        due.frames.extend(stream.extra.drain(..).map(|frame| (Duration::ZERO, frame)));
        let mut types = stream.machine.types();
        if self.faults.reorders() {
            types.reverse();
        }
        for type_url in types {
            if due.end.is_some() || self.faults.silences(&type_url) {
                continue;
            }
            let Some(response) = stream.machine.poll_response(&type_url, &self.store) else { continue };
            let plan = self.faults.on_response(response);
            due.frames.extend(plan.frames.into_iter().map(|frame| (plan.delay, frame)));
            due.end = plan.end.map(|end| (plan.delay, end));
        }
        due
    }

    /// Whether some stream acknowledged all that is there for it of this type, and none that asked for it did not.
    pub(super) fn is_acked(&self, type_url: &str) -> bool {
        let mut asking = self.streams.values().filter(|stream| stream.machine.asks_for(type_url)).peekable();
        asking.peek().is_some() && asking.all(|stream| stream.machine.is_settled(type_url, &self.store))
    }
}

impl Connection {
    pub(super) fn apply(&self, plan: &ConnectionPlan) {
        if let Some(fault) = plan.half_open {
            self.wire.freeze(fault);
        }
        if let Some((fault, bytes)) = plan.cut {
            self.wire.cut_after(fault, bytes);
        }
    }
}

//! Connections that take no new calls, until the calls that they have are over.

use std::sync::Arc;

use parking_lot::Mutex;

use super::outcomes::Criteria;
use super::{Connection, Security};
use crate::resource::endpoints::Address;

/// The connections that left their subchannels, of all clusters: whoever shuts down waits for their calls and ends them.
#[derive(Debug)]
pub(crate) struct Leaving<N>(Mutex<State<N>>);

#[derive(Debug)]
struct State<N> {
    /// Those of which calls were in flight when another one came.
    connections: Vec<Left<N>>,
    closed: bool,
}

/// A connection that left its subchannel.
#[derive(Debug)]
pub(super) struct Left<N> {
    /// Tells the cluster in use that it is of from others.
    pub(super) cluster: Arc<Criteria>,
    pub(super) endpoint: Address,
    pub(super) connection: N,
}

impl<N> Default for Leaving<N> {
    fn default() -> Self {
        Self(Mutex::new(State { connections: Vec::new(), closed: false }))
    }
}

impl<N: Connection> Leaving<N> {
    /// Drains a connection, and knows it as long as it has calls.
    pub(super) fn add(&self, left: Left<N>) {
        left.connection.drain();
        let mut state = self.0.lock();
        if state.closed {
            drop(state);
            if !left.connection.is_idle() {
                left.connection.close();
            }
            return;
        }
        state.connections.retain(|other| !other.connection.is_idle());
        if !left.connection.is_idle() {
            state.connections.push(left);
        }
    }

    /// The endpoints of a cluster are secured otherwise from now on, as `successor` says of each; `None`: nothing is known of
    /// that one. Calls to peers that are not let in any more do not go on.
    pub(crate) fn reconsider(&self, cluster: &Arc<Criteria>, successor: impl Fn(&Address) -> Option<Security>) {
        for left in self.0.lock().connections.iter().filter(|left| Arc::ptr_eq(&left.cluster, cluster)) {
            if let Some(security) = successor(&left.endpoint) {
                left.connection.reconsider(&security);
            }
        }
    }

    /// Whether any has calls in flight.
    pub(crate) fn is_busy(&self) -> bool {
        self.0.lock().connections.iter().any(|left| !left.connection.is_idle())
    }

    /// Cuts off the calls of all, now and of those that are still to come. A connection without calls closes by itself.
    pub(crate) fn close(&self) {
        let connections = {
            let mut state = self.0.lock();
            state.closed = true;
            std::mem::take(&mut state.connections)
        };
        let connections = connections.iter().map(|left| &left.connection);
        connections.filter(|connection| !connection.is_idle()).for_each(Connection::close);
    }
}

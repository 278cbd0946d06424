//! Connections that take no new calls, until the calls that they have are over.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::outcomes::Criteria;
use super::{Connection, Security};
use crate::resource::endpoints::Address;

/// So many connections are known before it is asked which of them have no calls any more.
const FEW: usize = 16;

/// The connections that left their subchannels, of all clusters: whoever shuts down waits for their calls and ends them, and
/// whom what secures their endpoint now does not let in loses them.
#[derive(Debug)]
pub(crate) struct Leaving<N>(Mutex<State<N>>);

#[derive(Debug)]
struct State<N> {
    /// Those of which calls were in flight when another one came, by their endpoint.
    connections: HashMap<Address, Vec<Left<N>>>,
    /// How many there are.
    known: usize,
    /// How many there may be before those without calls are forgotten.
    most: usize,
    closed: bool,
}

#[derive(Debug)]
struct Left<N> {
    /// Tells the cluster in use that it is of from others.
    cluster: Arc<Criteria>,
    connection: N,
}

impl<N> Default for Leaving<N> {
    fn default() -> Self {
        Self(Mutex::new(State { connections: HashMap::new(), known: 0, most: FEW, closed: false }))
    }
}

impl<N: Connection> Leaving<N> {
    /// Drains a connection to an endpoint of a cluster, and knows it as long as it has calls.
    pub(super) fn add(&self, cluster: &Arc<Criteria>, endpoint: &Address, connection: N) {
        connection.drain();
        let mut state = self.0.lock();
        if connection.is_idle() {
            return;
        }
        if state.closed {
            drop(state);
            return connection.close();
        }
        state.connections.entry(endpoint.clone()).or_default().push(Left { cluster: cluster.clone(), connection });
        state.known += 1;
        if state.known > state.most {
            state.forget_idle();
        }
    }

    /// The endpoints of a cluster are secured otherwise from now on, as `successor` says of each; `None`: nothing is known of
    /// that one. Calls to peers that are not let in any more do not go on.
    pub(crate) fn reconsider(&self, cluster: &Arc<Criteria>, successor: impl Fn(&Address) -> Option<Security>) {
        for (endpoint, connections) in &self.0.lock().connections {
            if let Some(security) = successor(endpoint) {
                judge(connections, cluster, &security);
            }
        }
    }

    /// The same of one endpoint.
    pub(crate) fn reconsider_at(&self, cluster: &Arc<Criteria>, endpoint: &Address, successor: &Security) {
        if let Some(connections) = self.0.lock().connections.get(endpoint) {
            judge(connections, cluster, successor);
        }
    }

    /// Whether any has calls in flight.
    pub(crate) fn is_busy(&self) -> bool {
        self.0.lock().all().any(|connection| !connection.is_idle())
    }

    /// Cuts off the calls of all, now and of those that are still to come. A connection without calls closes by itself.
    pub(crate) fn close(&self) {
        let connections = {
            let mut state = self.0.lock();
            state.closed = true;
            std::mem::take(&mut state.connections)
        };
        let connections = connections.values().flatten().map(|left| &left.connection);
        connections.filter(|connection| !connection.is_idle()).for_each(Connection::close);
    }
}

impl<N: Connection> State<N> {
    fn all(&self) -> impl Iterator<Item = &N> {
        self.connections.values().flatten().map(|left| &left.connection)
    }

    /// Seldom enough that it costs each connection little, however many come.
    fn forget_idle(&mut self) {
        self.connections.retain(|_, connections| {
            connections.retain(|left| !left.connection.is_idle());
            !connections.is_empty()
        });
        self.known = self.all().count();
        self.most = FEW.max(2 * self.known);
    }
}

fn judge<N: Connection>(connections: &[Left<N>], cluster: &Arc<Criteria>, successor: &Security) {
    let of_cluster = connections.iter().filter(|left| Arc::ptr_eq(&left.cluster, cluster));
    of_cluster.for_each(|left| left.connection.reconsider(successor));
}

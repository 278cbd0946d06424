//! Connections that take no new calls, until the calls that they have are over.

use parking_lot::Mutex;

use super::Connection;

/// The connections that left their subchannels, of all clusters: whoever shuts down waits for their calls and ends them.
#[derive(Debug)]
pub(crate) struct Leaving<N>(Mutex<State<N>>);

#[derive(Debug)]
struct State<N> {
    /// Those of which calls were in flight when another one came.
    connections: Vec<N>,
    closed: bool,
}

impl<N> Default for Leaving<N> {
    fn default() -> Self {
        Self(Mutex::new(State { connections: Vec::new(), closed: false }))
    }
}

impl<N: Connection> Leaving<N> {
    /// Drains a connection, and knows it as long as it has calls.
    pub(crate) fn add(&self, connection: N) {
        connection.drain();
        let mut state = self.0.lock();
        if state.closed {
            drop(state);
            if !connection.is_idle() {
                connection.close();
            }
            return;
        }
        state.connections.retain(|other| !other.is_idle());
        if !connection.is_idle() {
            state.connections.push(connection);
        }
    }

    /// Whether any has calls in flight.
    pub(crate) fn is_busy(&self) -> bool {
        self.0.lock().connections.iter().any(|connection| !connection.is_idle())
    }

    /// Cuts off the calls of all, now and of those that are still to come. A connection without calls closes by itself.
    pub(crate) fn close(&self) {
        let connections = {
            let mut state = self.0.lock();
            state.closed = true;
            std::mem::take(&mut state.connections)
        };
        connections.iter().filter(|connection| !connection.is_idle()).for_each(Connection::close);
    }
}

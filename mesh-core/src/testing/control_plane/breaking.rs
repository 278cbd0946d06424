//! What goes wrong: faults that stand, and ends that come at once.

use super::ControlPlane;
use crate::testing::fault::{Fault, FaultId, StreamEnd};

/// What goes wrong.
impl ControlPlane {
    /// Lets something go wrong, from now on.
    pub fn inject(&self, fault: Fault) -> FaultId {
        self.shared().change(|state| {
            let id = state.faults.add(fault);
            for connection in state.connections.values() {
                connection.apply(&state.faults.on_open_connection(id));
            }
            id
        })
    }

    /// Ends a fault. What it held back goes on.
    pub fn lift(&self, fault: FaultId) {
        self.shared().change(|state| {
            state.faults.lift(fault);
            state.connections.values().for_each(|connection| connection.wire.lift(fault));
        });
    }

    /// Ends all faults. What they held back goes on.
    pub fn heal(&self) {
        self.shared().change(|state| {
            state.faults.clear();
            state.connections.values().for_each(|connection| connection.wire.heal());
        });
    }

    /// Waits until a fault was applied so many times, of those that `times` counts. A lifted fault counts no more.
    pub async fn applied(&self, fault: FaultId, times: u32) {
        let what = format!("fault {fault:?} for the {times}. time");
        self.wait(&what, |state| (state.faults.applied(fault) >= times).then_some(())).await;
    }

    /// Ends every open stream now, with this gRPC status code and message.
    pub fn close_streams(&self, code: i32, message: impl Into<String>) {
        let end = StreamEnd::Status(code, message.into());
        self.shared().change(|state| state.streams.values_mut().for_each(|stream| stream.end = Some(end.clone())));
    }

    /// Ends every open connection now: those over TCP by a reset, those in process by an end of file.
    pub fn kill_connections(&self) {
        self.shared().change(|state| {
            for connection in state.connections.values() {
                connection.wire.reset_on_close();
                connection.kill.cancel();
            }
        });
    }

    /// Announces on every open connection that it takes no more streams (GOAWAY); it ends with the last open one.
    pub fn go_away(&self) {
        self.shared().change(|state| state.connections.values().for_each(|connection| connection.go_away.cancel()));
    }
}

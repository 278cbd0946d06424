//! What clients did, to be read and waited for.

use super::ControlPlane;
use crate::testing::requests::SeenRequest;
use crate::testing::shared::State;

/// What clients did. What waits panics when it waited longer than the [patience](crate::testing::ControlPlaneBuilder::patience), and
/// then says which requests came.
impl ControlPlane {
    /// The requests that came, of all streams; the last 10,000.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.shared().look().log.since(0).map(|(_, request)| request.clone()).collect()
    }

    /// The first request that `wanted` accepts, of those that came already and those to come.
    pub async fn wait_for(&self, wanted: impl FnMut(&SeenRequest) -> bool) -> SeenRequest {
        self.watch_from(0).wait_for(wanted).await
    }

    /// Requests from now on, in their order.
    pub fn watch_requests(&self) -> RequestWatch {
        let end = self.shared().look().log.end();
        self.watch_from(end)
    }

    /// The next NACK: each is returned once.
    pub async fn next_nack(&self) -> SeenRequest {
        self.wait("a NACK", |state| {
            let (number, nack) = state.log.since(state.nacks_from).find(|(_, request)| request.is_nack())?;
            let nack = nack.clone();
            state.nacks_from = number + 1;
            Some(nack)
        })
        .await
    }

    /// Waits until a stream acknowledged all that is there for it of this type, and no stream that asked for the type
    /// is behind.
    pub async fn acked(&self, type_url: &str) {
        let what = format!("the ACK of {type_url}");
        self.wait(&what, |state| state.is_acked(type_url).then_some(())).await;
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.shared().look().streams.len()
    }

    /// Waits until so many streams are open.
    pub async fn wait_for_streams(&self, count: usize) {
        let what = format!("{count} open streams");
        self.wait(&what, |state| (state.streams.len() == count).then_some(())).await;
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.shared().look().connections.len()
    }

    /// Waits until so many connections are open.
    pub async fn wait_for_connections(&self, count: usize) {
        let what = format!("{count} open connections");
        self.wait(&what, |state| (state.connections.len() == count).then_some(())).await;
    }

    fn watch_from(&self, next: u64) -> RequestWatch {
        RequestWatch { control_plane: self.clone(), next }
    }

    pub(super) async fn wait<T>(&self, what: &str, mut check: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut events = self.shared().events();
        let found = async {
            loop {
                if let Some(found) = check(&mut self.shared().look()) {
                    return found;
                }
                // The sender lives as long as `self`.
                let _ = events.changed().await;
            }
        };
        match tokio::time::timeout(self.owner.patience, found).await {
            Ok(found) => found,
            Err(_) => panic!("{what} did not come within {:?}; {self:?}", self.owner.patience),
        }
    }
}

/// Requests in the order in which they come; made by [`ControlPlane::watch_requests`].
#[derive(Clone, Debug)]
pub struct RequestWatch {
    control_plane: ControlPlane,
    next: u64,
}

impl RequestWatch {
    /// The next request, however long it takes. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> SeenRequest {
        let mut events = self.control_plane.shared().events();
        loop {
            if let Some(request) = self.advance(&mut |_| true) {
                return request;
            }
            // The sender lives as long as the control plane that `self` holds.
            let _ = events.changed().await;
        }
    }

    /// The next request that `wanted` accepts; those before it are skipped.
    ///
    /// # Panics
    ///
    /// After the [patience](crate::testing::ControlPlaneBuilder::patience).
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&SeenRequest) -> bool) -> SeenRequest {
        let control_plane = self.control_plane.clone();
        let check = |state: &mut State| self.advance_in(state, &mut wanted);
        control_plane.wait("the request", check).await
    }

    fn advance(&mut self, wanted: &mut dyn FnMut(&SeenRequest) -> bool) -> Option<SeenRequest> {
        let control_plane = self.control_plane.clone();
        let state = control_plane.shared().look();
        self.advance_in(&state, wanted)
    }

    fn advance_in(&mut self, state: &State, wanted: &mut dyn FnMut(&SeenRequest) -> bool) -> Option<SeenRequest> {
        for (number, request) in state.log.since(self.next) {
            self.next = number + 1;
            if wanted(request) {
                return Some(request.clone());
            }
        }
        None
    }
}

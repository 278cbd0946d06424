//! Calls that belong to a session go to the endpoint that has it (A55): past the policy, as long as the endpoint may have
//! sessions and can be reached.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::balancer::Balancer;
use super::picker::{Blocked, Picked, take};
use crate::call::Session;
use crate::connect::{Connect, ConnectivityState, InFlight, Subchannel, Unavailable};
use crate::resource::endpoints::Address;

/// The endpoints of a cluster that may have sessions, by each of their addresses.
pub(super) type SessionEndpoints<C> = HashMap<Address, SessionEndpoint<C>>;

/// Where they are published: made when the first call of a session comes, and from then on renewed with the picker.
pub(super) type Sessions<C> = ArcSwap<SessionEndpoints<C>>;

/// An endpoint that may have sessions.
pub(super) struct SessionEndpoint<C: Connect> {
    /// The address that it is known by.
    pub(super) address: Address,
    /// `None`: nothing asks for a connection to it.
    pub(super) subchannel: Option<Arc<Subchannel<C>>>,
}

impl<C: Connect> Balancer<C> {
    /// The pick of a call that belongs to a session; `None`: the policy picks.
    #[cold]
    pub(super) fn pick_session(&self, session: &Session) -> Option<Result<Picked<C>, Blocked>> {
        let sessions = self.sessions().load();
        match session.addresses.iter().find_map(|address| sessions.get(address)) {
            Some(endpoint) => {
                self.pick_session_endpoint(endpoint).or(session.strict.then_some(Err(Blocked::NoSession)))
            }
            // Before the cluster is in use, it is not known which endpoints there are.
            None => (session.strict && self.is_active()).then_some(Err(Blocked::NoSession)),
        }
    }

    fn pick_session_endpoint(&self, endpoint: &SessionEndpoint<C>) -> Option<Result<Picked<C>, Blocked>> {
        let Some(subchannel) = &endpoint.subchannel else {
            return self.connect_for_session(&endpoint.address).then_some(Err(Blocked::Connecting));
        };
        match subchannel.state() {
            ConnectivityState::Ready => {}
            ConnectivityState::Idle | ConnectivityState::Connecting => return Some(Err(Blocked::Connecting)),
            ConnectivityState::TransientFailure | ConnectivityState::Shutdown => return None,
        }
        Some(match take::<C>(&subchannel.connections()) {
            Ok(slot) => {
                let timed_from = self.times_calls().then(Instant::now);
                Ok(Picked { slot, in_flight: InFlight::new(&subchannel.stats), timed_from })
            }
            Err(Unavailable::Full) => Err(Blocked::Pinned(subchannel.stats.clone())),
            Err(_) => Err(Blocked::Stale),
        })
    }
}

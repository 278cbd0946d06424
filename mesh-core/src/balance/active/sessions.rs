//! Which endpoints of a cluster in use may have sessions (A55), and those that are connected for that alone.

use std::collections::HashSet;
use std::sync::Arc;

use super::Active;
use crate::balance::sessions::{SessionEndpoint, SessionEndpoints};
use crate::connect::{Connect, Subchannel};
use crate::profile::Profile;
use crate::resource::endpoints::{Address, Endpoint, Priority};

impl<C: Connect> Active<C> {
    /// Of the priority in use, as in gRPC; in Envoy's profile of all.
    pub(crate) fn session_endpoints(&self) -> SessionEndpoints<C> {
        let mut found = SessionEndpoints::new();
        for endpoint in self.may_have_sessions() {
            let (address, others) = (&endpoint.address, endpoint.reached_at().into_iter().flat_map(|all| all.iter()));
            for known_as in std::iter::once(address).chain(others) {
                // One that sessions alone have, and that is secured otherwise than the endpoint now asks, takes no more calls:
                // the next of a session connects it anew.
                let may_take =
                    |known: &&Arc<Subchannel<C>>| self.is_secured_for(known, endpoint) || self.is_taken(endpoint);
                let subchannel = self.subchannels.get(address).filter(may_take).cloned();
                found.insert(known_as.clone(), SessionEndpoint { address: address.clone(), subchannel });
            }
        }
        found
    }

    fn may_have_sessions(&self) -> impl Iterator<Item = &Endpoint> {
        let all = &self.config.endpoints.priorities[..];
        let used: &[Priority] = match (self.profile, self.in_use) {
            (Profile::Envoy, _) => all,
            (Profile::Grpc, Some(priority)) => all.get(priority..=priority).unwrap_or_default(),
            (Profile::Grpc, None) => &[],
        };
        let statuses = self.config.cluster.override_host_status.value;
        let localities = used.iter().flat_map(|priority| &priority.localities);
        let endpoints = localities.flat_map(|locality| &locality.endpoints);
        endpoints.filter(move |endpoint| statuses.has(endpoint.health))
    }

    /// Connects an endpoint that has a session and that nothing else connects. `false`: it may have none any more.
    pub(crate) fn connect_for_session(&mut self, address: &Address) -> bool {
        let Some(endpoint) = self.may_have_sessions().find(|endpoint| endpoint.address == *address).cloned() else {
            return false;
        };
        self.for_sessions.insert(address.clone());
        let _ = self.subchannel(&endpoint);
        true
    }

    /// Forgets those that may have no sessions any more.
    pub(super) fn keep_for_sessions(&mut self) {
        if self.for_sessions.is_empty() {
            return;
        }
        let allowed: HashSet<Address> = self.may_have_sessions().map(|endpoint| endpoint.address.clone()).collect();
        self.for_sessions.retain(|address| allowed.contains(address));
    }

    /// Lets go of those without a call, which the next call of their session connects again.
    pub(super) fn expire_sessions(&mut self) -> bool {
        let Self { for_sessions, subchannels, .. } = self;
        let before = for_sessions.len();
        for_sessions
            .retain(|address| subchannels.get(address).is_some_and(|subchannel| subchannel.stats.in_flight() > 0));
        for_sessions.len() < before
    }
}

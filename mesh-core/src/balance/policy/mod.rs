//! The policies: which endpoint of a group takes a call.
//!
//! A group is a locality, or a whole priority. What a policy works out from the configuration and the endpoints is its
//! [`Plan`], made anew only when one of them changes; [`Plan::start`] makes of it the [`Policy`] that calls ask, whenever a
//! connection came or went. A policy has a file of its own and its configuration in
//! [`EndpointPolicy`](crate::resource::cluster::EndpointPolicy).

mod least_request;
mod random;
mod round_robin;

use std::sync::Arc;

use self::least_request::LeastRequest;
use self::random::Random;
use self::round_robin::RoundRobin;
use crate::connect::{ConnectivityState, EndpointStats};
use crate::resource::cluster::EndpointPolicy;
use crate::resource::endpoints::Address;

/// Chooses among the endpoints of a group. Asked by every call: no lock, no allocation.
pub(crate) trait Policy: Send + Sync {
    /// The choice among `members`, which are those that the policy was started with, and are not empty.
    fn pick(&self, members: &[Member], request: &PickRequest<'_>) -> Choice;

    /// Whether a call waits for the endpoint that was chosen for it when that has no slot, rather than going elsewhere.
    /// Such a policy keeps clear of [`PickRequest::avoid`] itself.
    fn is_sticky(&self) -> bool {
        false
    }
}

/// One endpoint of a group.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) stats: Arc<EndpointStats>,
    /// At least 1. Most policies weigh all alike.
    #[allow(dead_code, reason = "for policies that weigh")]
    pub(crate) weight: u32,
    /// READY, unless the plan [wants all](Plan::wants_all) endpoints.
    pub(crate) state: ConnectivityState,
}

/// What a policy may know of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PickRequest<'a> {
    /// Endpoints at which attempts of this call failed: any other is better.
    pub(crate) avoid: &'a [Address],
    #[allow(dead_code, reason = "for policies that hash")]
    /// The hash of the request (A42); `None`: nothing asks for one, or the request has nothing to hash.
    pub(crate) hash: Option<u64>,
}

/// What a policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The index of a member that is READY.
    Endpoint(usize),
    /// The endpoint for this call may be READY soon.
    #[allow(dead_code, reason = "for policies that hash")]
    Wait,
    /// No endpoint is left that could take this call.
    #[allow(dead_code, reason = "for policies that hash")]
    Fail,
}

/// What a policy made of its configuration and the endpoints of a group, whatever the state of their connections.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    config: EndpointPolicy,
}

impl Plan {
    pub(crate) fn new(config: &EndpointPolicy) -> Self {
        Self { config: config.clone() }
    }

    /// Whether the policy must see every endpoint of the group, or only those that are READY.
    pub(crate) fn wants_all(&self) -> bool {
        false
    }

    /// The policy among these members: all of the group in the order of the plan's endpoints, or the READY ones.
    pub(crate) fn start(&self, _members: &[Member]) -> Box<dyn Policy> {
        match &self.config {
            EndpointPolicy::RoundRobin => Box::new(RoundRobin::new(fastrand::usize(..))),
            EndpointPolicy::LeastRequest { choices } => Box::new(LeastRequest::new(*choices)),
            EndpointPolicy::Random => Box::new(Random),
        }
    }
}

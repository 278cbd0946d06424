//! How resources stand, for listings.

use std::sync::Arc;
use std::time::SystemTime;

use crate::xds::resource_type::ResourceType;

/// How a resource stands, for listings: A88's cache states, as CSDS (A40) and A78's metrics name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheState {
    Requested,
    DoesNotExist,
    Acked,
    Nacked,
    ReceivedError,
    Timeout,
}

/// One resource, for listings.
#[derive(Clone, Debug)]
pub(crate) struct ResourceReport {
    pub(crate) resource_type: &'static ResourceType,
    pub(crate) name: Arc<str>,
    pub(crate) state: CacheState,
    /// Of the value; empty without one.
    pub(crate) version: Arc<str>,
    /// The last error, if it came after the value.
    pub(crate) error: Option<Arc<str>>,
    /// Whether there is a value.
    pub(crate) has_value: bool,
    /// When the control plane last said something new.
    pub(crate) updated: Option<SystemTime>,
}

impl ResourceReport {
    /// The label of `grpc.xds.cache_state` (A78, A88).
    pub(crate) fn cache_state(&self) -> &'static str {
        match (self.state, self.has_value) {
            (CacheState::Requested, _) => "requested",
            (CacheState::DoesNotExist, false) => "does_not_exist",
            (CacheState::DoesNotExist, true) => "does_not_exist_but_cached",
            (CacheState::Acked, _) => "acked",
            (CacheState::Nacked, false) => "nacked",
            (CacheState::Nacked, true) => "nacked_but_cached",
            (CacheState::ReceivedError, false) => "received_error",
            (CacheState::ReceivedError, true) => "received_error_but_cached",
            (CacheState::Timeout, _) => "timeout",
        }
    }
}

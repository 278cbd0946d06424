//! Where a call stands, for those above who follow it.

use std::fmt;
use std::time::Duration;

use http::{Extensions, HeaderMap, StatusCode};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::resource::endpoints::Address;

/// Follows a call on its way, from a layer above.
pub(crate) trait Follow: fmt::Debug + Send + Sync {
    /// Where the call stands.
    fn progress(&self) -> &Progress;

    /// Whether the call may be made again when this is the head of its response: then its extensions are wanted back.
    fn may_repeat(&self, _: StatusCode, _: &HeaderMap) -> bool {
        false
    }

    /// Takes the extensions of an attempt that is over, with its [`Call`](super::Call).
    fn take_back(&self, _: Extensions) {}
}

/// Where a call stands.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<Place>);

#[derive(Debug, Default)]
struct Place {
    stage: Stage,
    waiting_since: Option<Instant>,
    /// In the waits that are over.
    waited: Duration,
}

/// The stages a call passes through.
#[derive(Clone, Debug, Default)]
pub(crate) enum Stage {
    /// Not handed to an endpoint yet.
    #[default]
    Waiting,
    /// Held back by an injected fault.
    Delayed,
    /// Sent to this endpoint, no response head yet.
    Sent(Address),
    /// The response head is there, its body is not complete.
    Responding(Address),
}

impl Progress {
    pub(crate) fn set(&self, stage: Stage) {
        let mut place = self.0.lock();
        place.stage = stage;
        if let Some(since) = place.waiting_since.take() {
            place.waited += since.elapsed();
        }
    }

    pub(crate) fn stage(&self) -> Stage {
        self.0.lock().stage.clone()
    }

    pub(super) fn starts_to_wait(&self) {
        self.0.lock().waiting_since.get_or_insert_with(Instant::now);
    }

    /// How long the call waited, until it was handed to an endpoint or given up.
    #[cfg(feature = "retry")]
    pub(crate) fn waited(&self) -> Duration {
        self.0.lock().waited
    }
}

impl Follow for Progress {
    fn progress(&self) -> &Progress {
        self
    }
}

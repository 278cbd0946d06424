//! What the layer learns from below of an attempt, while it runs and when it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Extensions, HeaderMap, Response, StatusCode};
use parking_lot::Mutex;

use super::outcome::{Protocol, is_retriable, is_retriable_head};
use crate::call::{Follow, Progress};
use crate::error::Error;
use crate::resource::retry_policy::RetryPolicy;

/// What a policy says of attempts that are over.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) policy: Arc<RetryPolicy>,
    pub(super) protocol: Protocol,
    /// Whether a server may act on the request twice.
    pub(super) is_repeatable: bool,
}

impl Verdict {
    /// Whether the policy has the call tried again after this.
    pub(super) fn is_retriable<R>(&self, outcome: &Result<Response<R>, Error>) -> bool {
        let unprocessed = outcome.as_ref().is_err_and(|error| !error.request_sent());
        (self.is_repeatable || unprocessed) && is_retriable(&self.policy, self.protocol, outcome)
    }
}

/// Follows the attempts of one call.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) verdict: Verdict,
    /// Who followed the call before its first attempt: they see all attempts as one.
    outer: Option<Arc<dyn Follow>>,
    progress: Progress,
    /// Whether attempts have the call's extensions themselves, and not a copy.
    pub(super) lends: bool,
    /// Whether an attempt whose response fails is to give them back: there may be another.
    wants_back: AtomicBool,
    returned: Mutex<Option<Extensions>>,
}

impl Following {
    pub(super) fn new(verdict: Verdict, outer: Option<Arc<dyn Follow>>, lends: bool) -> Self {
        let (progress, wants_back) = (Progress::default(), AtomicBool::new(false));
        Self { verdict, outer, progress, lends, wants_back, returned: Mutex::default() }
    }

    pub(super) fn progress(&self) -> &Progress {
        self.outer.as_deref().map_or(&self.progress, Follow::progress)
    }

    /// An attempt starts, after which there may be another.
    pub(super) fn start(&self, may_repeat: bool) {
        self.wants_back.store(self.lends && may_repeat, Ordering::Relaxed);
    }

    pub(super) fn may_repeat(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let Verdict { policy, protocol, is_repeatable } = &self.verdict;
        self.wants_back.load(Ordering::Relaxed)
            && *is_repeatable
            && is_retriable_head(policy, *protocol, status, headers)
    }

    pub(super) fn take_back(&self, extensions: Extensions) {
        if self.lends {
            *self.returned.lock() = Some(extensions);
        }
    }

    /// What an attempt that is over gave back.
    pub(super) fn returned(&self) -> Option<Extensions> {
        self.returned.lock().take()
    }
}

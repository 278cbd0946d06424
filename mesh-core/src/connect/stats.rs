//! What is counted per endpoint, shared by its subchannel, the pickers and the calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use http::HeaderMap;
use http::uri::Authority;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::load::EndpointLoad;
use super::outcomes::{Criteria, Ended, Outcomes, Streak};
use super::reports;
use crate::resource::endpoints::Address;

/// One call, in the count of those in flight: the low half.
const CALL: u64 = 1;
/// In the high half, one of them whose response's head came.
const ANSWERED: u64 = 1 << 32;

/// One endpoint of one cluster, as calls see it.
#[derive(Debug)]
pub(crate) struct EndpointStats {
    /// Calls, and how many of them were answered: one number, so that a call's end is one write.
    in_flight: AtomicU64,
    /// Whether a call was answered since this was last asked.
    answered: AtomicBool,
    pub(crate) address: Address,
    pub(crate) cluster: Arc<str>,
    /// Its host name, for calls whose route has it take the place of their authority (A81).
    authority: ArcSwapOption<Authority>,
    queue: Arc<SlotQueue>,
    pub(crate) load: EndpointLoad,
    outcomes: Outcomes,
    criteria: Arc<Criteria>,
}

impl EndpointStats {
    pub(crate) fn new(address: Address, cluster: Arc<str>, queue: Arc<SlotQueue>, criteria: Arc<Criteria>) -> Self {
        Self {
            in_flight: AtomicU64::new(0),
            answered: AtomicBool::new(false),
            address,
            cluster,
            authority: ArcSwapOption::empty(),
            queue,
            load: EndpointLoad::default(),
            outcomes: Outcomes::default(),
            criteria,
        }
    }

    pub(crate) fn authority(&self) -> Option<Arc<Authority>> {
        self.authority.load_full()
    }

    pub(crate) fn set_authority(&self, authority: Option<&Arc<Authority>>) {
        if self.authority.load().as_ref() != authority {
            self.authority.store(authority.cloned());
        }
    }

    /// Whether anybody wants to know how calls end.
    pub(crate) fn counts_outcomes(&self) -> bool {
        self.criteria.counts()
    }

    /// Counts how an attempt, or one to connect, ended. Not to be called under a lock that the owner of the cluster takes.
    pub(crate) fn record(&self, ended: Ended) {
        self.outcomes.record(ended, &self.address, &self.criteria);
    }

    /// Successes and failures since this was last asked.
    pub(crate) fn take_totals(&self) -> (u32, u32) {
        self.outcomes.take_totals()
    }

    /// Whatever failed in a row, the row is over.
    pub(crate) fn forget_streaks(&self) {
        self.outcomes.forget_streaks();
    }

    /// What failed in a row in this way, the row is over.
    pub(crate) fn forget_streak(&self, streak: Streak) {
        self.outcomes.forget_streak(streak);
    }

    /// One more connection was made.
    pub(super) fn connected(&self) {
        self.outcomes.connected();
    }

    /// Whether outlier detection lets it take no calls at the moment.
    pub(crate) fn is_ejected(&self) -> bool {
        self.outcomes.is_ejected()
    }

    pub(crate) fn set_ejected(&self, ejected: bool) {
        self.outcomes.set_ejected(ejected);
    }

    /// Calls that were picked for this endpoint and have not ended; a stream counts until its end (A48).
    pub(crate) fn in_flight(&self) -> u32 {
        halves(self.in_flight.load(Ordering::Relaxed)).0
    }

    /// Whether any of them waits for its response's head, as far as calls tell of theirs.
    pub(crate) fn has_unanswered(&self) -> bool {
        let (calls, answered) = halves(self.in_flight.load(Ordering::Relaxed));
        answered < calls
    }

    /// The endpoint responded to a call.
    pub(crate) fn answered(&self) {
        if !self.answered.load(Ordering::Relaxed) {
            self.answered.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it did since this was last asked.
    pub(super) fn take_answered(&self) -> bool {
        self.answered.swap(false, Ordering::Relaxed)
    }

    /// The head or the trailers of a response, which may hold a report of the endpoint's load.
    pub(crate) fn handle_headers(&self, headers: &HeaderMap) {
        if self.criteria.reports.are_in_headers()
            && let Some(report) = reports::in_headers(headers)
        {
            self.handle_report(&report, Instant::now());
        }
    }

    /// A report came, by whatever way.
    pub(super) fn handle_report(&self, report: &[u8], now: Instant) {
        if let Some(weight) = self.criteria.reports.weight(report) {
            self.load.handle_weight(weight, now);
        }
    }

    /// Outlier detection lets it take calls again, as a new endpoint does.
    pub(crate) fn restore(&self, now: Instant) {
        self.outcomes.forget_streaks();
        self.load.handle_return(now);
        self.outcomes.set_ejected(false);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves")]
fn halves(in_flight: u64) -> (u32, u32) {
    (in_flight as u32, (in_flight >> 32) as u32)
}

/// One call at an endpoint: it counts as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    endpoint: Arc<EndpointStats>,
    /// What it adds to the count.
    counted: u64,
}

impl InFlight {
    pub(crate) fn new(endpoint: &Arc<EndpointStats>) -> Self {
        endpoint.in_flight.fetch_add(CALL, Ordering::Relaxed);
        Self { endpoint: Arc::clone(endpoint), counted: CALL }
    }

    pub(crate) fn endpoint(&self) -> &EndpointStats {
        &self.endpoint
    }

    /// The response's head came, and its end did not: the call may go on for long, and is not one the endpoint is silent on.
    pub(crate) fn handle_head(&mut self) {
        if self.counted == CALL {
            self.counted += ANSWERED;
            self.endpoint.in_flight.fetch_add(ANSWERED, Ordering::Relaxed);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(self.counted, Ordering::Relaxed);
        self.endpoint.queue.release();
    }
}

/// The calls of one cluster that wait because all slots of all its connections are taken: first come, first served.
/// A caller that ends one call and starts the next would otherwise take its own slot back for ever, and those who wait
/// would starve.
#[derive(Debug, Default)]
pub(crate) struct SlotQueue {
    waiting: AtomicU32,
    freed: Notify,
}

impl SlotQueue {
    /// Whether a new call must queue behind others.
    pub(crate) fn is_occupied(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Wakes the call that waits longest.
    pub(crate) fn release(&self) {
        if self.is_occupied() {
            self.freed.notify_one();
        }
    }

    /// Ends when a slot was released for the one who waits; only for those who [`enter`](Self::enter).
    pub(crate) fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }

    /// Queues; the place is given up on drop.
    pub(crate) fn enter(self: &Arc<Self>) -> Place {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Place(Arc::clone(self))
    }
}

/// A place in a [`SlotQueue`].
#[derive(Debug)]
pub(crate) struct Place(Arc<SlotQueue>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

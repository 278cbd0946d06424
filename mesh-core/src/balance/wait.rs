//! The slow path of a call: waits for an endpoint or a slot while there is hope, and no longer.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::balancer::Balancer;
use super::error;
use super::picker::{Blocked, Picked};
use super::policy::PickRequest;
use crate::call::Session;
use crate::connect::Connect;
use crate::error::{Error, ErrorKind};
use crate::resource::endpoints::Address;

/// A call whose task does not poll it may have swallowed a wake-up, and a peer may allow more streams without a call's
/// end: whoever waits for a slot looks again after this long.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Who waits for a slot of one endpoint does not queue, lest all other calls queue behind; it looks again after this long.
const LOOK_SOON: Duration = Duration::from_millis(5);
/// Requests that came back unsent before the call waits for news instead of trying on at once.
pub(crate) const EAGER_TRIES: u32 = 3;

/// What the waiting needs to know of a call.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// When the call first waited, for whatever.
    pub(crate) since: Instant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) wait_for_ready: bool,
    /// Requests of this call that came back unsent.
    pub(crate) unsent: u32,
    /// As in [`PickRequest`].
    pub(crate) avoid: Vec<Address>,
    pub(crate) hash: Option<u64>,
    pub(crate) session: Option<Arc<Session>>,
}

impl Terms {
    fn request(&self) -> PickRequest<'_> {
        PickRequest { avoid: &self.avoid, hash: self.hash, session: self.session.as_deref(), now: None }
    }
}

/// Boxed: only calls that wait pay for it.
pub(crate) type Wait<C> = Pin<Box<dyn Future<Output = Result<Picked<C>, Error>> + Send>>;

/// Picks, and waits as long as that makes sense.
pub(crate) async fn wait<C: Connect>(balancer: Arc<Balancer<C>>, terms: Terms) -> Result<Picked<C>, Error> {
    let registry = balancer.registry.upgrade().ok_or_else(Error::shut_down)?;
    let (max_pending, max_wait) = (balancer.max_pending.load(Ordering::Relaxed), registry.options.max_wait.value);
    drop(registry);
    let Some(_pending) = Pending::enter(&balancer.pending, max_pending) else {
        let full = balancer.queue.is_occupied();
        return Err(error::too_many_waiting(&balancer.key.name, max_pending, full, &balancer.summary()));
    };
    let (end, kind) = match terms.deadline {
        Some(deadline) => (deadline, ErrorKind::Deadline),
        None => (terms.since + max_wait, ErrorKind::NoEndpoint),
    };
    let mut waiter = Waiter { balancer: &balancer, terms: &terms, full: false, pinned: false };
    match tokio::time::timeout_at(end, waiter.run()).await {
        Ok(result) => result,
        Err(_) => {
            let kind = if waiter.full && terms.deadline.is_none() { ErrorKind::Overloaded } else { kind };
            Err(error::waited(kind, &balancer.key.name, terms.since.elapsed(), waiter.full, &balancer.summary()))
        }
    }
}

struct Waiter<'a, C: Connect> {
    balancer: &'a Balancer<C>,
    terms: &'a Terms,
    /// Whether it is slots that are missing.
    full: bool,
    /// Whether it is those of one endpoint.
    pinned: bool,
}

impl<C: Connect> Waiter<'_, C> {
    async fn run(&mut self) -> Result<Picked<C>, Error> {
        let Balancer { queue, changed, .. } = self.balancer;
        let mut place = None;
        let mut freed = pin!(queue.freed());
        // Behind those who wait already; and not in a circle, when what was picked before did not take the request.
        self.full = queue.is_occupied();
        let mut patient = self.full || self.terms.unsent > EAGER_TRIES;
        loop {
            // Registered before the look, so that no news falls in between.
            let mut changed = pin!(changed.notified());
            changed.as_mut().enable();
            if !patient && let Some(picked) = self.look()? {
                if place.take().is_some() {
                    // If there is one more slot, giving it back wakes the next.
                    drop(self.balancer.pick(&PickRequest::default()));
                }
                return Ok(picked);
            }
            if self.full && !self.pinned && place.is_none() {
                place = Some(queue.enter());
                freed.as_mut().enable();
                continue;
            }
            if (!self.full || self.pinned) && place.take().is_some() {
                freed.set(queue.freed());
            }
            tokio::select! {
                () = changed => {}
                () = freed.as_mut(), if place.is_some() => {
                    freed.set(queue.freed());
                    freed.as_mut().enable();
                }
                () = tokio::time::sleep(LOOK_SOON), if self.pinned => {}
                () = tokio::time::sleep(LOOK_AGAIN), if patient || place.is_some() => {}
            }
            patient = false;
        }
    }

    /// Picks. `None`: wait.
    fn look(&mut self) -> Result<Option<Picked<C>>, Error> {
        (self.full, self.pinned) = (false, false);
        match self.balancer.pick(&self.terms.request()) {
            Ok(picked) => return Ok(Some(picked)),
            Err(Blocked::Idle) => self.balancer.exit_idle()?,
            Err(Blocked::Failing) if !self.terms.wait_for_ready => {
                return Err(self.balancer.no_endpoint());
            }
            Err(Blocked::NoSession) => {
                return Err(error::no_session(&self.balancer.key.name, self.terms.session.as_deref()));
            }
            Err(Blocked::Shutdown) => return Err(Error::shut_down()),
            Err(Blocked::Full(endpoint)) => {
                self.full = true;
                self.balancer.expand(&endpoint.address);
            }
            Err(Blocked::Pinned(endpoint)) => {
                (self.full, self.pinned) = (true, true);
                self.balancer.expand(&endpoint.address);
            }
            Err(Blocked::Failing | Blocked::Connecting | Blocked::Stale) => {}
        }
        Ok(None)
    }
}

/// One of the calls that wait.
struct Pending<'a>(&'a AtomicU32);

impl<'a> Pending<'a> {
    fn enter(pending: &'a AtomicU32, max: u32) -> Option<Self> {
        let others = pending.fetch_add(1, Ordering::Relaxed);
        let pending = Self(pending);
        (others < max).then_some(pending)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

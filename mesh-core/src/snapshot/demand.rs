//! Clusters that calls name and no route does (`cluster_header`): watched because a call asked for them, and bounded in
//! number, as whoever makes the calls decides which there are.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ClusterEntry;
use crate::error::{Error, ErrorKind};

/// So many clusters of one target at most.
const MOST: usize = 100;
/// One that no call named for this long makes place for another; one that does not exist does at once.
const UNUSED: Duration = Duration::from_secs(10);

/// The clusters that the calls of a target ask for.
pub(crate) struct Demand {
    names: Mutex<HashMap<Arc<str>, LastUse>>,
    asked: Notify,
    known: ArcSwap<HashMap<Arc<str>, Known>>,
    /// Told of every change of `known`.
    published: watch::Sender<()>,
    pending: AtomicU32,
    limits: Limits,
    /// The mesh takes no calls any more.
    closed: CancellationToken,
    start: Instant,
}

/// What bounds the calls that wait for a cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The longest wait of a call without a deadline.
    pub(crate) max_wait: Duration,
    /// The most calls that wait at a time.
    pub(crate) max_pending: u32,
}

/// When a cluster was last named, in milliseconds from the start.
type LastUse = Arc<AtomicU64>;

/// A cluster with the control plane's verdict.
struct Known {
    entry: Arc<ClusterEntry>,
    last_use: LastUse,
}

impl Demand {
    /// Of a mesh that takes calls until `closed`.
    pub(crate) fn new(limits: Limits, closed: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            names: Mutex::default(),
            asked: Notify::new(),
            known: ArcSwap::default(),
            published: watch::Sender::new(()),
            pending: AtomicU32::new(0),
            limits,
            closed,
            start: Instant::now(),
        })
    }

    /// The cluster of this name, if there is a verdict on it; a call goes there now.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<ClusterEntry>> {
        let known = self.known.load();
        let found = known.get(name)?;
        found.last_use.store(self.now(), Ordering::Relaxed);
        Some(found.entry.clone())
    }

    /// All of them.
    pub(crate) fn entries(&self) -> Vec<Arc<ClusterEntry>> {
        self.known.load().values().map(|known| known.entry.clone()).collect()
    }

    /// The cluster of this name, which a call waits for until its deadline, or `max_wait` from `since` without one.
    pub(crate) async fn wait(
        self: Arc<Self>,
        name: Arc<str>,
        since: Instant,
        deadline: Option<Instant>,
    ) -> Result<Arc<ClusterEntry>, Error> {
        let _place = Place::take(&self)?;
        let mut published = self.published.subscribe();
        self.ask(&name)?;
        let found = async {
            loop {
                published.mark_unchanged();
                match self.find(&name) {
                    Some(entry) => return entry,
                    // The sender is in `self`, so it cannot be gone.
                    None => drop(published.changed().await),
                }
            }
        };
        let limit = deadline.unwrap_or(since + self.limits.max_wait);
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(Error::shut_down()),
            found = found => Ok(found),
            () = tokio::time::sleep_until(limit) => Err(no_verdict(&name, deadline.is_some())),
        }
    }

    /// From now on the cluster is watched.
    fn ask(&self, name: &Arc<str>) -> Result<(), Error> {
        let mut names = self.names.lock();
        if names.contains_key(name) {
            return Ok(());
        }
        if names.len() >= MOST {
            let known = self.known.load();
            let exists = |name: &Arc<str>| known.get(name).is_none_or(|known| known.entry.config.is_ok());
            let unused = |last: &LastUse| self.now().saturating_sub(last.load(Ordering::Relaxed));
            let spare = names.iter().filter(|(name, last)| !exists(name) || unused(last) >= UNUSED.as_millis() as u64);
            let spare = spare.max_by_key(|(_, last)| unused(last)).map(|(name, _)| name.clone());
            names.remove(&spare.ok_or_else(|| too_many(name))?);
        }
        names.insert(name.clone(), Arc::new(AtomicU64::new(self.now())));
        drop(names);
        self.asked.notify_one();
        Ok(())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The clusters to watch, when there are others than before.
    pub(crate) async fn asked(&self) -> Vec<Arc<str>> {
        self.asked.notified().await;
        self.names.lock().keys().cloned().collect()
    }

    /// These have a verdict.
    pub(crate) fn publish(&self, entries: impl IntoIterator<Item = Arc<ClusterEntry>>) {
        let names = self.names.lock();
        let known = |entry: Arc<ClusterEntry>| {
            let last_use = names.get(&entry.key.name)?.clone();
            Some((entry.key.name.clone(), Known { entry, last_use }))
        };
        self.known.store(Arc::new(entries.into_iter().filter_map(known).collect()));
        drop(names);
        self.published.send_replace(());
    }
}

/// A place among the calls that wait.
struct Place<'a>(&'a Demand);

impl<'a> Place<'a> {
    fn take(demand: &'a Demand) -> Result<Self, Error> {
        let place = Self(demand);
        let before = demand.pending.fetch_add(1, Ordering::Relaxed);
        match before < demand.limits.max_pending {
            true => Ok(place),
            false => Err(Error::new(ErrorKind::Overloaded, format!("{before} calls already wait for a cluster"))
                .with_next_step("see what the control plane says of the clusters, or raise `max_pending`")),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

fn too_many(name: &str) -> Error {
    let message = format!("the call names the cluster `{name}`, and calls use {MOST} already that no route names");
    Error::new(ErrorKind::Overloaded, message).with_next_step("name fewer clusters in headers, or name them in routes")
}

fn no_verdict(name: &str, deadline: bool) -> Error {
    let (kind, passed) = match deadline {
        true => (ErrorKind::Deadline, "deadline exceeded, "),
        false => (ErrorKind::ControlPlane, ""),
    };
    let message = format!("{passed}the call names the cluster `{name}`, of which the control plane says nothing yet");
    Error::new(kind, message).with_next_step("check that the control plane runs and has this cluster for this node")
}

impl fmt::Debug for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Demand").field("names", &self.names.lock().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{ClusterKey, Problem};

    fn demand() -> Arc<Demand> {
        Demand::new(Limits { max_wait: Duration::from_secs(20), max_pending: 2 }, CancellationToken::new())
    }

    fn missing(name: &str) -> Arc<ClusterEntry> {
        let problem = Problem { message: "does not exist".into(), resource: name.into(), next_step: "none" };
        Arc::new(ClusterEntry::new(ClusterKey { source: "cp".into(), name: name.into() }, Err(problem)))
    }

    #[tokio::test(start_paused = true)]
    async fn clusters_are_bounded_and_those_that_are_used_keep_their_places() {
        let demand = demand();
        let name = |number: usize| -> Arc<str> { format!("c{number}").into() };
        (0..MOST).for_each(|number| demand.ask(&name(number)).expect("there is room"));
        assert_eq!(demand.asked().await.len(), MOST);
        assert!(demand.ask(&name(MOST)).is_err_and(|error| error.to_string().contains("calls use 100 already")));
        demand.ask(&name(7)).expect("it is there");
        // What does not exist makes place at once.
        demand.publish([missing("c7")]);
        demand.ask(&name(MOST)).expect("the place of c7");
        assert!(demand.ask(&name(7)).is_err());
        tokio::time::advance(UNUSED).await;
        demand.publish((1..MOST).map(|number| missing(&name(number))));
        for number in 1..MOST {
            demand.find(&name(number));
        }
        demand.ask(&name(7)).expect("the place of c0, which was not named for longest");
        let asked = demand.asked().await;
        assert!(asked.len() == MOST && asked.contains(&name(7)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_the_verdict_and_no_longer_than_it_may() {
        let demand = demand();
        let now = Instant::now();
        let wait = |name: &str, deadline| demand.clone().wait(name.into(), now, deadline);
        let first = tokio::spawn(wait("a", None));
        assert_eq!(demand.asked().await, ["a".into()]);
        let late = wait("b", Some(now + Duration::from_secs(1))).await.map(drop).unwrap_err();
        assert_eq!((late.kind(), now.elapsed().as_secs()), (ErrorKind::Deadline, 1));
        let _second = tokio::spawn(wait("c", None));
        tokio::task::yield_now().await;
        let third = wait("d", None).await.map(drop).unwrap_err();
        assert_eq!(third.kind(), ErrorKind::Overloaded);
        demand.publish([missing("a")]);
        assert_eq!(&*first.await.expect("no panic").expect("a verdict").key.name, "a");
    }
}

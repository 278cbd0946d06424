//! The names in clusters' configurations: each is resolved once for all targets of a mesh, as long as one needs it.
//!
//! An answer that fails leaves the last good one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::SHORTEST_INTERVAL;
use super::reach::Reach;
use super::resolver::{Answer, Question, ask};
use crate::backoff::{Backoff, BackoffConfig, bounded};
use crate::names::NameIndexSet;
use crate::resource::cluster::DnsName;
use crate::snapshot::dependencies::Resolved;
use crate::snapshot::{PrepareClusters, Problem, Snapshot};

/// The names that are followed. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    runtime: Handle,
    tasks: TaskTracker,
    cancel: CancellationToken,
    /// So long after it was asked for, a name is asked for again while nobody can be reached there.
    interval: Duration,
    followed: Arc<Mutex<HashMap<DnsName, Weak<Followed>>>>,
}

/// One name; dropped when nobody needs it.
#[derive(Debug)]
struct Followed {
    state: Arc<State>,
    _stop: DropGuard,
}

#[derive(Debug, Default)]
struct State {
    /// What is known, and how often it changed.
    known: Mutex<(Resolved, u64)>,
    listeners: Mutex<Vec<Weak<Notify>>>,
    /// Whether the clusters that are this name find nobody at its addresses.
    lost: watch::Sender<bool>,
}

impl Names {
    /// Lookups run on `runtime` until `cancel`. While nobody can be reached at a name's addresses, it is asked for again
    /// `interval` after the last time.
    pub(crate) fn new(runtime: Handle, tasks: TaskTracker, cancel: CancellationToken, interval: Duration) -> Self {
        Self { runtime, tasks, cancel, interval, followed: Arc::default() }
    }

    /// Someone who needs names, for `clusters`; none yet.
    pub(crate) fn subscriber(&self, clusters: Arc<dyn PrepareClusters>) -> NameSubscriber {
        let reach = Reach::new(clusters);
        NameSubscriber { names: self.clone(), followed: HashMap::new(), notify: Arc::default(), reach }
    }

    fn follow(&self, name: &DnsName) -> Arc<Followed> {
        let mut followed = self.followed.lock();
        if let Some(known) = followed.get(name).and_then(Weak::upgrade) {
            return known;
        }
        followed.retain(|_, known| known.strong_count() > 0);
        let (state, stop) = (Arc::<State>::default(), self.cancel.child_token());
        let task = stop.clone().run_until_cancelled_owned(resolve(name.clone(), state.clone(), self.interval));
        self.tasks.spawn_on(task, &self.runtime);
        let new = Arc::new(Followed { state, _stop: stop.drop_guard() });
        followed.insert(name.clone(), Arc::downgrade(&new));
        new
    }
}

/// The names that one target needs.
#[derive(Debug)]
pub(crate) struct NameSubscriber {
    names: Names,
    /// Each with how often it had changed when it was last looked at.
    followed: HashMap<DnsName, (Arc<Followed>, u64)>,
    notify: Arc<Notify>,
    reach: Reach,
}

impl NameSubscriber {
    /// The target's calls go to these clusters from now on.
    pub(crate) fn publish(&mut self, snapshot: &Snapshot) {
        self.reach.publish(snapshot);
    }

    /// Follows these names and no others.
    pub(crate) fn watch(&mut self, wanted: &NameIndexSet<DnsName>) {
        self.followed.retain(|name, _| wanted.contains(name));
        for name in wanted {
            if !self.followed.contains_key(name) {
                let followed = self.names.follow(name);
                followed.state.listeners.lock().push(Arc::downgrade(&self.notify));
                self.followed.insert(name.clone(), (followed, 0));
                // Another target may have brought the answer already.
                self.notify.notify_one();
            }
        }
    }

    /// What is known of a name.
    pub(crate) fn get(&self, name: &DnsName) -> Resolved {
        let followed = self.followed.get(name);
        followed.map(|(followed, _)| followed.state.known.lock().0.clone()).unwrap_or_default()
    }

    /// Resolves with the names of which something new is known.
    pub(crate) async fn changed(&mut self) -> Vec<DnsName> {
        loop {
            let mut changed = Vec::new();
            for (name, (followed, seen)) in &mut self.followed {
                let changes = followed.state.known.lock().1;
                if std::mem::replace(seen, changes) != changes {
                    changed.push(name.clone());
                }
            }
            if !changed.is_empty() {
                return changed;
            }
            tokio::select! {
                () = self.notify.notified() => {}
                () = self.reach.changed() => self.tell_lost(),
            }
        }
    }

    fn tell_lost(&self) {
        for (names, lost) in self.reach.look() {
            for (followed, _) in names.names().filter_map(|name| self.followed.get(&name)) {
                followed.state.lost.send_if_modified(|was| std::mem::replace(was, lost) != lost);
            }
        }
    }
}

impl State {
    fn answered(&self, addresses: &Arc<[IpAddr]>) {
        let is_known = |known: &Resolved| matches!(known, Resolved::Addresses(known) if known == addresses);
        self.change(is_known, Resolved::Addresses(addresses.clone()));
    }

    /// The last good answer stays.
    fn failed(&self, problem: Problem) {
        let is_better = |known: &Resolved| match known {
            Resolved::Pending => false,
            Resolved::Failed(known) => *known == problem,
            Resolved::Addresses(_) => true,
        };
        self.change(is_better, Resolved::Failed(problem.clone()));
    }

    fn change(&self, stays: impl Fn(&Resolved) -> bool, to: Resolved) {
        let mut known = self.known.lock();
        if stays(&known.0) {
            return;
        }
        *known = (to, known.1 + 1);
        drop(known);
        self.listeners.lock().retain(|listener| {
            listener.upgrade().is_some_and(|listener| {
                listener.notify_one();
                true
            })
        });
    }

    /// Resolves at `due`, or at `sooner` if nobody can be reached meanwhile.
    async fn pause(&self, due: Instant, sooner: Instant) {
        let mut lost = self.lost.subscribe();
        let again = async {
            // The sender is this state's own.
            let _ = lost.wait_for(|lost| *lost).await;
            sleep_until(sooner).await;
        };
        let _ = timeout_at(due, again).await;
    }
}

/// Asks for a name again and again.
async fn resolve(name: DnsName, state: Arc<State>, interval: Duration) {
    let resolution = name.resolution.clone();
    let failure = resolution.after_failure.map(|(initial, max)| BackoffConfig { initial, max, ..Default::default() });
    let mut backoff = Backoff::new(failure.unwrap_or_default());
    loop {
        let asked = Instant::now();
        let question = Question { host: &name.host, servers: &resolution.servers, family: resolution.family };
        let pause = match ask(question).await {
            Ok(Answer { addresses, valid_for }) => {
                backoff.reset();
                state.answered(&addresses);
                let jitter = resolution.jitter.mul_f64(fastrand::f64());
                let pause = resolution.refresh.unwrap_or_else(|| valid_for.max(SHORTEST_INTERVAL));
                pause.saturating_add(jitter)
            }
            Err(problem) => {
                tracing::warn!(host = %name.host, %problem, "resolving failed");
                state.failed(problem);
                backoff.next_delay(fastrand::f64())
            }
        };
        let due = Instant::now() + bounded(pause);
        state.pause(due, asked + interval).await;
    }
}

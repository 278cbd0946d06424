//! The names in clusters' configurations: each is resolved once for all targets of a mesh, as long as one needs it.
//!
//! An answer that fails leaves the last good one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use indexmap::IndexSet;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::SHORTEST_INTERVAL;
use super::resolver::{Answer, Question, ask};
use crate::backoff::{Backoff, BackoffConfig};
use crate::resource::cluster::DnsName;
use crate::snapshot::Problem;
use crate::snapshot::dependencies::Resolved;

/// The names that are followed. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    runtime: Handle,
    tasks: TaskTracker,
    cancel: CancellationToken,
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
}

impl Names {
    /// Lookups run on `runtime` until `cancel`.
    pub(crate) fn new(runtime: Handle, tasks: TaskTracker, cancel: CancellationToken) -> Self {
        Self { runtime, tasks, cancel, followed: Arc::default() }
    }

    /// Someone who needs names; none yet.
    pub(crate) fn subscriber(&self) -> NameSubscriber {
        NameSubscriber { names: self.clone(), followed: HashMap::new(), notify: Arc::default() }
    }

    fn follow(&self, name: &DnsName) -> Arc<Followed> {
        let mut followed = self.followed.lock();
        if let Some(known) = followed.get(name).and_then(Weak::upgrade) {
            return known;
        }
        followed.retain(|_, known| known.strong_count() > 0);
        let (state, stop) = (Arc::<State>::default(), self.cancel.child_token());
        let task = stop.clone().run_until_cancelled_owned(resolve(name.clone(), state.clone()));
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
}

impl NameSubscriber {
    /// Follows these names and no others.
    pub(crate) fn watch(&mut self, wanted: &IndexSet<DnsName>) {
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
            self.notify.notified().await;
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
}

/// Asks for a name again and again.
async fn resolve(name: DnsName, state: Arc<State>) {
    let resolution = name.resolution.clone();
    let failure = resolution.after_failure.map(|(initial, max)| BackoffConfig { initial, max, ..Default::default() });
    let mut backoff = Backoff::new(failure.unwrap_or_default());
    loop {
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
        tokio::time::sleep(pause).await;
    }
}

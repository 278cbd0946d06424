//! A target in use: the snapshot that its calls take, and what is known while there is none.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Uri};
use parking_lot::Mutex;
use tokio::runtime::{EnterGuard, Handle};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connectivity::{Prospect, Readiness, is_ready, taking_calls};
use super::current::Current;
use crate::call::{self, Call};
use crate::connect::ConnectivityState;
use crate::error::{Error, ErrorKind};
use crate::snapshot::{PrepareClusters, Snapshot};
#[cfg(feature = "tls")]
use crate::tls::ExpectedPeers;

/// A target in use. Cheap to clone; when the last clone is dropped, nothing is watched for it any more.
#[derive(Clone)]
pub struct Target {
    shared: Arc<Shared>,
}

/// A target that is not kept in use.
#[derive(Clone)]
pub(crate) struct WeakTarget(Weak<Shared>);

impl WeakTarget {
    pub(crate) fn upgrade(&self) -> Option<Target> {
        self.0.upgrade().map(|shared| Target { shared })
    }
}

/// What publishes a target's snapshots; it does not keep the target in use. Dropped, also with the runtime it runs on, it
/// ends the target: calls through it fail.
pub(crate) struct Source {
    shared: Weak<Shared>,
    dropped: CancellationToken,
}

/// What is known of a target from the start.
pub(crate) struct Facts {
    /// As the application wrote it.
    pub(crate) target: Arc<str>,
    /// The `:authority` of its calls.
    pub(crate) authority: Authority,
    /// The control plane and the node id, of a target that has them.
    pub(crate) control_plane: Option<ControlPlaneFacts>,
    /// Who alone may answer its calls, by the security floor.
    #[cfg(feature = "tls")]
    pub(crate) expected: Option<Arc<ExpectedPeers>>,
    /// What keeps the clusters that its calls go to.
    pub(crate) clusters: Arc<dyn PrepareClusters>,
    /// The longest wait of a call without a deadline.
    pub(crate) max_wait: Duration,
    /// The most calls that wait at a time.
    pub(crate) max_pending: u32,
    /// Where the mesh runs.
    pub(crate) runtime: Handle,
}

/// The control plane of a target.
pub(crate) struct ControlPlaneFacts {
    pub(crate) name: Arc<str>,
    pub(crate) node_id: Arc<str>,
    /// Whether a stream is open.
    pub(crate) is_connected: Box<dyn Fn() -> bool + Send + Sync>,
    /// How the connection to it is, in words.
    pub(crate) status: Box<dyn Fn() -> String + Send + Sync>,
}

struct Shared {
    facts: Facts,
    snapshot: Current<Snapshot>,
    connectivity: watch::Sender<ConnectivityState>,
    /// Whether calls would have to wait, and whether that would help.
    prospect: watch::Sender<Prospect>,
    waiting_for: Mutex<Option<String>>,
    pending: AtomicU32,
    /// No call is taken any more.
    closed: CancellationToken,
    _dropped: DropGuard,
}

impl Target {
    /// A target that ends with `mesh`, and its source.
    pub(crate) fn new(facts: Facts, mesh: &CancellationToken) -> (Self, Source) {
        let dropped = mesh.child_token();
        let shared = Arc::new(Shared {
            facts,
            snapshot: Current::empty(),
            connectivity: watch::Sender::new(ConnectivityState::Idle),
            prospect: watch::Sender::new(Prospect::Open),
            waiting_for: Mutex::new(None),
            pending: AtomicU32::new(0),
            closed: mesh.child_token(),
            _dropped: dropped.clone().drop_guard(),
        });
        let source = Source { shared: Arc::downgrade(&shared), dropped };
        (Self { shared }, source)
    }

    pub(crate) fn downgrade(&self) -> WeakTarget {
        WeakTarget(Arc::downgrade(&self.shared))
    }

    /// The target as the application wrote it.
    pub fn name(&self) -> &str {
        &self.shared.facts.target
    }

    /// The `:authority` of the target's calls.
    pub fn authority(&self) -> &str {
        self.shared.facts.authority.as_str()
    }

    /// The connectivity of the target's clusters, now and whenever it changes: READY if any of them is, as gRPC takes them
    /// together. Whether all are is the question of [`ready`](Self::ready).
    pub fn connectivity(&self) -> watch::Receiver<ConnectivityState> {
        self.shared.connectivity.subscribe()
    }

    /// Resolves when no call would have to wait: the configuration is there, and each cluster that routes send calls to has
    /// an endpoint that is connected, or connects at its first call.
    ///
    /// # Errors
    ///
    /// At once, with the error of the calls that it would concern, when it is known that waiting does not help: a resource does
    /// not exist or was rejected with no good one before it, or a cluster is not to be used (see
    /// [`SecurityFloor`](crate::SecurityFloor)). After the mesh's `max_wait` (20 s) when it is not: the control plane has not
    /// answered, or a cluster has no endpoint yet, or none that can be reached. When the mesh is shut down.
    pub async fn ready(&self) -> Result<(), Error> {
        let mut ready = pin!(self.wait_until_ready());
        poll_fn(|cx| {
            let _entered = is_outside_runtimes().then(|| self.enter());
            ready.as_mut().poll(cx)
        })
        .await
    }

    async fn wait_until_ready(&self) -> Result<(), Error> {
        let since = Instant::now();
        let limit = since + self.shared.facts.max_wait;
        let snapshot = self.wait_for_snapshot(since, None, false).await.map_err(|error| self.explain(error))?;
        if let Err(problem) = &snapshot.routing {
            return Err(self.explain(problem.to_error()));
        }
        let mut prospect = self.shared.prospect.subscribe();
        let verdict = prospect.wait_for(|prospect| !matches!(prospect, Prospect::Open));
        let verdict = tokio::select! {
            biased;
            // The sender is in `self`, so there is a verdict.
            verdict = verdict => verdict.map(|verdict| verdict.clone()).unwrap_or(Prospect::Open),
            () = self.shared.closed.cancelled() => return Err(self.explain(Error::shut_down())),
            () = tokio::time::sleep_until(limit) => Prospect::Open,
        };
        Err(self.explain(match verdict {
            Prospect::Ready => return Ok(()),
            Prospect::Open => self.not_ready(since),
            Prospect::Unroutable(problem) => problem.to_error(),
            Prospect::Unusable(cluster) => self.shared.facts.clusters.not_ready(&cluster, since.elapsed()),
        }))
    }

    /// What the first cluster lacks that is not ready.
    fn not_ready(&self, since: Instant) -> Error {
        let (snapshot, clusters) = (self.snapshot(), &self.shared.facts.clusters);
        let mut taking_calls = snapshot.as_ref().and_then(|snapshot| taking_calls(snapshot).ok()).into_iter().flatten();
        match taking_calls.find(|entry| !is_ready(clusters.state(entry))) {
            Some(cluster) => clusters.not_ready(cluster, since.elapsed()),
            None => self.no_snapshot(false),
        }
    }

    /// Gives this thread the mesh's runtime, for timers.
    pub(super) fn enter(&self) -> EnterGuard<'_> {
        self.shared.facts.runtime.enter()
    }

    /// The snapshot in force.
    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.shared.snapshot.load()
    }

    /// What the target waits for, or which newer configuration is held back.
    pub(crate) fn waiting_for(&self) -> Option<String> {
        self.shared.waiting_for.lock().clone()
    }

    /// Gives a request without an authority the target's.
    pub(crate) fn address<B>(&self, request: &mut Request<B>) {
        if request.uri().authority().is_some() {
            call::of(request.extensions_mut()).has_own_authority = true;
            return;
        }
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.shared.facts.authority.clone());
        parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are there");
    }

    /// Has a call go to nobody but those who may answer it.
    pub(crate) fn expect_peers(&self, call: &mut Call) {
        #[cfg(feature = "tls")]
        call.expected.clone_from(&self.shared.facts.expected);
        let _ = call;
    }

    /// The first snapshot, waited for until `deadline`, or for `max_wait` from `since` without one; with `routable`, the
    /// first that has routes.
    pub(crate) fn wait_for_snapshot(
        &self,
        since: Instant,
        deadline: Option<Instant>,
        routable: bool,
    ) -> impl Future<Output = Result<Arc<Snapshot>, Error>> + Send + use<> {
        let target = self.clone();
        async move {
            let _place = target.take_place()?;
            let limit = deadline.unwrap_or_else(|| since + target.shared.facts.max_wait);
            tokio::select! {
                biased;
                () = target.shared.closed.cancelled() => Err(Error::shut_down()),
                snapshot = target.next_snapshot(routable) => Ok(snapshot),
                () = tokio::time::sleep_until(limit) => Err(target.no_snapshot(deadline.is_some())),
            }
        }
    }

    async fn next_snapshot(&self, routable: bool) -> Arc<Snapshot> {
        self.shared.snapshot.wait_for(|snapshot| snapshot.routing.is_ok() || !routable).await
    }

    fn take_place(&self) -> Result<Place, Error> {
        let place = Place(self.shared.clone());
        let before = self.shared.pending.fetch_add(1, Ordering::Relaxed);
        match before < self.shared.facts.max_pending {
            true => Ok(place),
            false => {
                let message = format!("{before} calls already wait for the configuration");
                Err(Error::new(ErrorKind::Overloaded, message)
                    .with_next_step("see what the configuration waits for, or raise `max_pending`"))
            }
        }
    }

    fn no_snapshot(&self, deadline: bool) -> Error {
        let kind = if deadline { ErrorKind::Deadline } else { ErrorKind::ControlPlane };
        // There is one, but not what a call waits for that would rather wait than fail.
        if let Some(snapshot) = self.snapshot()
            && let Err(problem) = &snapshot.routing
        {
            return problem.to_error_of(kind);
        }
        let missing = self.waiting_for().unwrap_or_else(|| "its first answer".into());
        let status = self.shared.facts.control_plane.as_ref().map(|facts| (facts.status)());
        let status = status.map(|status| format!("; {status}")).unwrap_or_default();
        let passed = if deadline { "deadline exceeded, " } else { "" };
        let message = format!("{passed}no configuration yet: waiting for {missing}{status}");
        let next_step = match self.shared.facts.control_plane.as_ref().map(|facts| (facts.is_connected)()) {
            Some(true) => "check that the control plane has this resource for this node",
            Some(false) => "check that the control plane runs and that this process may reach it",
            None => "check that the DNS server runs and that this process may reach it",
        };
        Error::new(kind, message).with_next_step(next_step)
    }

    /// Adds what the target knows to an error of one of its calls.
    pub(crate) fn explain(&self, mut error: Error) -> Error {
        let facts = &self.shared.facts;
        let context = error.context_mut();
        context.target = Some(facts.target.clone());
        if let Some(control_plane) = &facts.control_plane {
            context.control_plane = Some(control_plane.name.clone());
            context.node_id = Some(match &*control_plane.node_id {
                "" => "without id (see `node.id` of the bootstrap)".into(),
                _ => control_plane.node_id.clone(),
            });
        }
        error
    }
}

/// Whether the caller runs in no tokio runtime, so that it can make no timers. Nearly always it is in a task, which is
/// cheaper to see.
pub(super) fn is_outside_runtimes() -> bool {
    tokio::task::try_id().is_none() && Handle::try_current().is_err()
}

/// A place among the calls that wait.
struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Source {
    /// Puts a snapshot in force; `false` when nobody uses the target any more.
    pub(crate) fn publish(&self, snapshot: Arc<Snapshot>) -> bool {
        let Some(shared) = self.shared.upgrade() else { return false };
        shared.snapshot.publish(snapshot);
        true
    }

    /// Says what the target waits for.
    pub(crate) fn waiting_for(&self, what: Option<String>) {
        if let Some(shared) = self.shared.upgrade() {
            *shared.waiting_for.lock() = what;
        }
    }

    /// Says how well the target's clusters are connected.
    pub(super) fn readiness(&self, now: Readiness) {
        if let Some(shared) = self.shared.upgrade() {
            shared.connectivity.send_if_modified(|known| std::mem::replace(known, now.state) != now.state);
            shared.prospect.send_replace(now.prospect);
        }
    }

    /// Resolves when nobody uses the target any more, or the mesh ends.
    pub(crate) async fn dropped(&self) {
        self.dropped.cancelled().await;
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.closed.cancel();
            shared.snapshot.clear();
            shared.connectivity.send_replace(ConnectivityState::Shutdown);
            shared.prospect.send_replace(Prospect::Open);
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("target", &self.shared.facts.target).finish_non_exhaustive()
    }
}

//! The xDS client: a handle, its subscribers, and the task that drives the protocol.

mod driver;
mod subscriber;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::driver::Driver;
pub(crate) use self::subscriber::Subscriber;
use super::ads::{Ads, AdsOptions, AdsStatus, StreamState};
use super::resource_type::{Extensions, ResourceType};
use super::store::{Counters, IgnoredSummary, ResourceReport, Store};
use super::transport::encode::Encoder;
use super::transport::{ADS, Transport};
use crate::backoff::BackoffConfig;
use crate::bootstrap::{Bootstrap, ServerFeatures};
use crate::profile::Profile;

/// What can be set about the client.
#[derive(Clone, Debug)]
pub(crate) struct XdsOptions {
    /// What is called. Default ADS.
    pub(crate) method: &'static str,
    /// How long a resource may be awaited on a live stream. Default 15 s, or 30 s where the server has the feature
    /// `resource_timer_is_transient_error` (A57, A88).
    pub(crate) does_not_exist_timeout: Option<Duration>,
    /// Between streams that bring nothing.
    pub(crate) backoff: BackoffConfig,
    /// Rejected and deleted resources take their good value away, as with the server feature `fail_on_data_errors`.
    pub(crate) fail_on_data_errors: bool,
    /// Decides which features the control plane is told of.
    pub(crate) profile: Profile,
    /// What the decoders know beside what is built in.
    pub(crate) extensions: Extensions,
}

impl Default for XdsOptions {
    fn default() -> Self {
        Self {
            method: ADS,
            does_not_exist_timeout: None,
            backoff: BackoffConfig::default(),
            fail_on_data_errors: false,
            profile: Profile::default(),
            extensions: Extensions::default(),
        }
    }
}

/// Knows one control plane. Clones share its stream, which ends with the last clone and the last subscriber.
#[derive(Clone)]
pub(crate) struct XdsClient {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

/// What the handles and the driver both see.
struct Shared {
    server: Arc<str>,
    node_id: Arc<str>,
    store: Mutex<Store>,
    status: Mutex<AdsStatus>,
    /// Rung when names become wanted or unwanted.
    interests: Notify,
    /// Rung when the status changed.
    moved: Notify,
}

/// The state of the control plane; prints as a part of an error.
#[derive(Clone, Debug)]
pub(crate) struct ServerStatus {
    pub(crate) server: Arc<str>,
    pub(crate) state: StreamState,
    /// When it came into this state.
    pub(crate) since: Instant,
    /// Attempts in a row that brought nothing.
    pub(crate) failures: u32,
    /// When the first of them failed.
    pub(crate) failing_since: Option<Instant>,
    /// Why the last stream ended.
    pub(crate) last_error: Option<Arc<str>>,
}

impl XdsClient {
    /// Starts the client's task on `runtime`, as one of `tasks`. It connects when the first resource is wanted, and ends
    /// within a second of `cancel`, or of the last handle's end: what the control plane is owed it is told first.
    pub(crate) fn start(
        bootstrap: &Bootstrap,
        options: XdsOptions,
        transport: Arc<dyn Transport>,
        runtime: &Handle,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Self {
        let encoder = Encoder::new(bootstrap.node(), options.profile);
        let method = options.method;
        let ads = Ads::new(ads_options(bootstrap.server().features, options), Instant::now());
        let shared = Arc::new(Shared {
            server: bootstrap.server().uri.clone(),
            node_id: bootstrap.node().id.clone(),
            store: Mutex::default(),
            status: Mutex::new(ads.status()),
            interests: Notify::new(),
            moved: Notify::new(),
        });
        let cancel = cancel.child_token();
        let driver = Driver::new(shared.clone(), (transport, method), ads, encoder);
        tasks.spawn_on(driver.run(cancel.clone()), runtime);
        Self { inner: Arc::new(Inner { shared, _stop: cancel.drop_guard() }) }
    }

    /// A new subscriber, independent of all others.
    pub(crate) fn subscriber(&self) -> Subscriber {
        Subscriber::new(self.clone())
    }

    /// The control plane's address as the bootstrap has it, for texts.
    pub(crate) fn control_plane(&self) -> Arc<str> {
        self.inner.shared.server.clone()
    }

    pub(crate) fn node_id(&self) -> Arc<str> {
        self.inner.shared.node_id.clone()
    }

    pub(crate) fn status(&self) -> ServerStatus {
        let AdsStatus { state, since, failures, failing_since, last_error } = self.inner.shared.status.lock().clone();
        ServerStatus { server: self.control_plane(), state, since, failures, failing_since, last_error }
    }

    /// Waits until the status is another than before; for one who waits.
    #[cfg(feature = "tls")]
    pub(crate) async fn status_changed(&self) {
        self.inner.shared.moved.notified().await;
    }

    /// Fields that received resources set and nothing acts on.
    pub(crate) fn ignored_fields(&self) -> Vec<IgnoredSummary> {
        self.inner.shared.store.lock().ignored_fields()
    }

    /// Every resource that is watched.
    pub(crate) fn resources(&self) -> Vec<ResourceReport> {
        self.inner.shared.store.lock().resources()
    }

    /// What was received of each type since the start.
    pub(crate) fn counters(&self) -> Vec<(&'static ResourceType, Counters)> {
        self.inner.shared.store.lock().counters()
    }
}

impl fmt::Debug for XdsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdsClient").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl fmt::Display for ServerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, state, failures, failing_since, last_error, .. } = self;
        write!(f, "control plane {server} ")?;
        match (state, failures) {
            (StreamState::Idle, _) => f.write_str("was not asked yet")?,
            (StreamState::Open, _) => f.write_str("is connected")?,
            (StreamState::Closed, _) => f.write_str("is not asked any more: the mesh was shut down")?,
            (StreamState::Connecting, 0) => f.write_str("is being connected to")?,
            (StreamState::Waiting { .. }, 0) => f.write_str("ended the stream")?,
            (StreamState::Connecting | StreamState::Waiting { .. }, 1) => f.write_str("failed once")?,
            (StreamState::Connecting | StreamState::Waiting { .. }, n) => {
                let since = failing_since.map_or(Duration::ZERO, |since| since.elapsed());
                write!(f, "failed {n} times in {:.1} s", since.as_secs_f64())?;
            }
        }
        if let (Some(error), StreamState::Connecting | StreamState::Waiting { .. }) = (last_error, state) {
            write!(f, ": {error}")?;
        }
        match state {
            StreamState::Waiting { until } => {
                let left = until.saturating_duration_since(Instant::now());
                write!(f, ", next try in {:.1} s", left.as_secs_f64())
            }
            StreamState::Connecting if *failures > 0 => f.write_str(", trying again"),
            _ => Ok(()),
        }
    }
}

fn ads_options(features: ServerFeatures, options: XdsOptions) -> AdsOptions {
    let timeout_is_transient = features.resource_timer_is_transient_error;
    let default_timeout = Duration::from_secs(if timeout_is_transient { 30 } else { 15 });
    AdsOptions {
        does_not_exist_timeout: options.does_not_exist_timeout.unwrap_or(default_timeout),
        timeout_is_transient,
        fail_on_data_errors: options.fail_on_data_errors || features.fail_on_data_errors,
        backoff: options.backoff,
        extensions: options.extensions,
    }
}

#[cfg(test)]
mod tests;

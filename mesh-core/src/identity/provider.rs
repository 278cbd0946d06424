//! The seam for whatever obtains certificates: it publishes key material, and those who make connections read the latest.

use std::collections::VecDeque;
use std::fmt;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::certificate::Utc;
use super::own::Identity;
use super::trust::TrustBundle;
use crate::error::{BoxError, with_causes};

/// Obtains certificates, keys and roots, and obtains them anew in time (gRFC A29).
///
/// A mesh knows its providers by name; the control plane's clusters say which to use for what. Besides those that the
/// bootstrap configures, `MeshBuilder::certificate_provider` adds any by code.
///
/// ```
/// use mesh_core::identity::{CertificateProvider, KeyMaterial, ProviderFuture, Publisher};
///
/// /// Asks some service of one's own.
/// struct Vault;
///
/// impl CertificateProvider for Vault {
///     fn kind(&self) -> &str {
///         "vault"
///     }
///
///     fn run(self: Box<Self>, publisher: Publisher) -> ProviderFuture {
///         Box::pin(async move {
///             loop {
///                 match ask().await {
///                     Ok(material) => publisher.publish(material),
///                     Err(error) => publisher.fail(error),
///                 }
///                 tokio::time::sleep(std::time::Duration::from_secs(600)).await;
///             }
///         })
///     }
/// }
/// # async fn ask() -> Result<KeyMaterial, mesh_core::Error> { Ok(KeyMaterial::new()) }
/// ```
pub trait CertificateProvider: Send + Sync + 'static {
    /// What it is, for logs, errors and `Mesh::status`, such as `file_watcher`.
    fn kind(&self) -> &str;

    /// Publishes for as long as it runs, in a task of the mesh; the mesh's end drops it. What it published last stays
    /// after it ended by itself or panicked, and the end is reported as its failure.
    fn run(self: Box<Self>, publisher: Publisher) -> ProviderFuture;
}

/// The work of a [`CertificateProvider`].
pub type ProviderFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a provider has at one time, all of it of one issue: an identity, whom to trust, or both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyMaterial {
    pub(crate) identity: Option<Identity>,
    pub(crate) trust: Option<TrustBundle>,
}

impl KeyMaterial {
    /// Without anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// What to show to peers.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Whom to trust.
    pub fn trust(mut self, trust: TrustBundle) -> Self {
        self.trust = Some(trust);
        self
    }
}

/// Key material that never changes is a provider of itself.
impl CertificateProvider for KeyMaterial {
    fn kind(&self) -> &str {
        "fixed"
    }

    fn run(self: Box<Self>, publisher: Publisher) -> ProviderFuture {
        publisher.publish(*self);
        Box::pin(pending())
    }
}

/// Where a [`CertificateProvider`] puts what it obtained. Clones publish to the same place.
#[derive(Clone)]
pub struct Publisher {
    name: Arc<str>,
    state: Arc<watch::Sender<State>>,
    tasks: TaskTracker,
}

/// What a provider published last.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Counts what was published; 0: nothing.
    pub(crate) generation: u64,
    pub(crate) material: Option<Arc<KeyMaterial>>,
    /// When the identity came that is known: other roots for it make it no younger.
    pub(crate) received: Option<(Instant, SystemTime)>,
    /// When anything new came last.
    pub(crate) updated: Option<(Instant, SystemTime)>,
    /// Since the last publication.
    pub(crate) failure: Option<Failure>,
    /// A failure that goes on, whatever is published.
    standing: Option<Failure>,
    warned: Warned,
    /// What came last, if it is not valid yet while `material` is.
    pub(super) early: Option<Arc<KeyMaterial>>,
}

/// Why a provider could not publish anew.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) why: Arc<str>,
    pub(crate) at: SystemTime,
    /// Whether it was logged: what was held back once is logged when its time has come, if it lasts.
    said: bool,
}

/// What was warned of lately. Failures may take turns, or come and go with each attempt, for as long as an outage lasts.
#[derive(Clone, Debug, Default)]
struct Warned(VecDeque<(Instant, Arc<str>)>);

impl Warned {
    /// The same is said no more often.
    const PERIOD: Duration = Duration::from_secs(60);
    /// And no more in that time, whatever it is: `Mesh::status` has the last.
    const MOST: usize = 8;

    /// Whether it is to be said.
    fn is_new(&mut self, why: &Arc<str>, now: Instant) -> bool {
        self.0.retain(|(at, _)| now.duration_since(*at) < Self::PERIOD);
        let is_new = self.0.len() < Self::MOST && !self.0.iter().any(|(_, said)| said == why);
        if is_new {
            self.0.push_back((now, why.clone()));
        }
        is_new
    }
}

impl Publisher {
    /// For a provider whose connections count among `tasks`.
    pub(crate) fn new(name: Arc<str>, tasks: &TaskTracker) -> (Self, watch::Receiver<State>) {
        let (sender, receiver) = watch::channel(State::default());
        (Self { name, state: Arc::new(sender), tasks: tasks.clone() }, receiver)
    }

    /// Takes the place of what was published before. The same once more changes nothing but that the last failure is over.
    ///
    /// A certificate that is not valid yet, or expired already, does not take the place of one that is valid: that is a failure,
    /// and what is too early is taken up when its time has come.
    pub fn publish(&self, material: KeyMaterial) {
        self.state.send_modify(|state| state.publish(&self.name, material, SystemTime::now()));
    }

    /// Nothing could be obtained. What was published last stays in use until it expires.
    pub fn fail(&self, why: impl Into<BoxError>) {
        let why: Arc<str> = with_causes(&*why.into()).into();
        self.state.send_modify(|state| state.fail(&self.name, why));
    }

    /// As [`fail`](Self::fail), until this is told to be over (`None`): what is published meanwhile does not end it.
    pub(crate) fn stand(&self, why: Option<BoxError>) {
        let why = why.map(|why| Arc::from(with_causes(&*why)));
        self.state.send_if_modified(|state| state.stand(&self.name, why));
    }

    /// What counts the connections that the provider makes, each until its socket is closed: the end of the mesh waits for them.
    #[cfg_attr(not(any(feature = "istio", feature = "spiffe")), expect(dead_code, reason = "no provider makes any"))]
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }
}

impl State {
    fn publish(&mut self, provider: &str, material: KeyMaterial, now: SystemTime) {
        if self.material.as_deref() != Some(&material) {
            if let Some(problem) = self.is_worse(&material, now) {
                self.fail(provider, format!("what came last has {problem}").into());
                let is_early = material.identity.as_ref().is_some_and(|identity| identity.not_before() > now);
                self.early = is_early.then(|| Arc::new(material));
                return;
            }
            let is_known = |known: &KeyMaterial| known.identity.is_some() && known.identity == material.identity;
            let has_other_roots_alone = self.material.as_deref().is_some_and(is_known);
            self.generation += 1;
            self.updated = Some((Instant::now(), now));
            if !has_other_roots_alone {
                self.received = self.updated;
            }
            let generation = self.generation;
            match &material.identity {
                Some(identity) => tracing::info!(provider, generation, ?identity, "new certificate"),
                None => tracing::info!(provider, generation, "new root certificates"),
            }
            self.material = Some(Arc::new(material));
        }
        (self.failure, self.early) = (self.standing.clone(), None);
    }

    /// Whether anything is different now.
    fn stand(&mut self, provider: &str, why: Option<Arc<str>>) -> bool {
        let Some(why) = why else {
            let Some(over) = self.standing.take() else { return false };
            self.failure.take_if(|failure| failure.why == over.why);
            return true;
        };
        self.fail(provider, why);
        self.standing.clone_from(&self.failure);
        true
    }

    /// Why an identity cannot be used while the known one can.
    fn is_worse(&self, material: &KeyMaterial, now: SystemTime) -> Option<String> {
        let known = self.material.as_ref()?.identity.as_ref()?;
        material.identity.as_ref()?.problem(now).filter(|_| known.problem(now).is_none())
    }

    fn fail(&mut self, provider: &str, why: Arc<str>) {
        let was_said = self.failure.as_ref().is_some_and(|known| known.why == why && known.said);
        let is_said_now = !was_said && self.warned.is_new(&why, Instant::now());
        if is_said_now {
            match self.expiry() {
                Some(expiry) => {
                    let expires = Utc(expiry);
                    tracing::warn!(provider, %expires, "no new certificate, the last stays in use: {why}");
                }
                None => tracing::warn!(provider, "no new key material: {why}"),
            }
        }
        self.failure = Some(Failure { why, at: SystemTime::now(), said: was_said || is_said_now });
    }

    /// When the own certificate expires.
    pub(crate) fn expiry(&self) -> Option<SystemTime> {
        Some(self.material.as_ref()?.identity.as_ref()?.not_after())
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_of_and_not_each_attempt_in_it() {
        let (mut warned, begin) = (Warned::default(), Instant::now());
        let mut told = |why: &str, after: u64| warned.is_new(&why.into(), begin + Duration::from_millis(after));
        // Two failures that take turns, twice a second.
        let turns = (0..240).filter(|turn| told(["no answer", "hung up"][turn % 2], 500 * *turn as u64));
        assert_eq!(turns.collect::<Vec<_>>(), [0, 1, 120, 121]);
        // Failures of which none is like another.
        let many = (0..1000).filter(|turn| told(&format!("failure {turn}"), 200_000 + turn));
        assert_eq!(many.count(), Warned::MOST);
        assert!(told("another", 262_000));
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_that_was_over_for_a_moment_is_told_of_when_it_lasts() {
        let mut state = State::default();
        let said = |state: &State| state.failure.as_ref().is_some_and(|failure| failure.said);
        state.fail("p", "no answer".into());
        assert!(said(&state));
        state.publish("p", KeyMaterial::default(), SystemTime::now());
        state.fail("p", "no answer".into());
        assert!(!said(&state), "it was said a moment ago");
        tokio::time::advance(Warned::PERIOD).await;
        state.fail("p", "no answer".into());
        assert!(said(&state));
    }
}

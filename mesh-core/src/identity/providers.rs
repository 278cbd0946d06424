//! The providers of a mesh, by name, each with the task that keeps its material fresh.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::carried::Carried;
use super::certificate::Utc;
use super::own::Identity;
use super::provider::{CertificateProvider, KeyMaterial, Publisher, State};
use super::source::{MaterialSource, SecretSource};
use crate::error::{Error, ErrorKind, with_causes};

/// All of them; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Providers(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Those of bootstrap and code.
    named: BTreeMap<Arc<str>, Provider>,
    /// What runs while it is used.
    on_demand: Mutex<OnDemand>,
    /// `None`: nothing is started on demand.
    starter: Option<Starter>,
    /// Set as soon as there is whom to ask.
    open: OnceLock<OpenSecret>,
}

/// Makes the provider of a secret.
pub(crate) type OpenSecret = Box<dyn Fn(&Arc<SecretSource>) -> Box<dyn CertificateProvider> + Send + Sync>;

#[derive(Default)]
struct OnDemand {
    running: HashMap<MaterialSource, Weak<Running>>,
    /// How many are known when those that ended are looked for next.
    sweep_at: usize,
}

/// One that ends with its last user.
struct Running {
    kind: Arc<str>,
    state: watch::Receiver<State>,
    _end: DropGuard,
}

/// Runs providers.
struct Starter {
    tasks: TaskTracker,
    runtime: Handle,
    shutdown: CancellationToken,
}

/// One that runs; clones see the same.
#[derive(Clone)]
pub(crate) struct Provider {
    pub(crate) name: Arc<str>,
    pub(crate) kind: Arc<str>,
    source: MaterialSource,
    state: watch::Receiver<State>,
    /// When this clone was last told of a change.
    told: Option<Instant>,
    /// Of one on demand.
    _running: Option<Arc<Running>>,
}

/// Whoever waits for what a provider publishes is told at most so often, however fast it publishes.
pub(crate) const NEWS_EVERY: Duration = Duration::from_millis(100);

/// Why there is nothing to make connections with.
#[derive(Debug)]
pub(crate) enum Unready {
    /// The provider neither published nor failed yet.
    Awaited(Error),
    /// There is no hope before the provider publishes anew.
    Failed(Error),
}

impl Providers {
    /// Starts those of bootstrap and code; they end with `shutdown`, and so do those that are started on demand.
    pub(crate) fn start(
        providers: BTreeMap<Arc<str>, Box<dyn CertificateProvider>>,
        tasks: &TaskTracker,
        runtime: &Handle,
        shutdown: &CancellationToken,
    ) -> Self {
        let starter = Starter { tasks: tasks.clone(), runtime: runtime.clone(), shutdown: shutdown.clone() };
        let start = |(name, provider): (Arc<str>, Box<dyn CertificateProvider>)| {
            let (kind, source) = (provider.kind().into(), MaterialSource::Provider(name.clone()));
            let (publisher, state) = Publisher::new(name.clone(), tasks);
            starter.run(provider, publisher, starter.shutdown.clone());
            (name.clone(), Provider { name, kind, source, state, told: None, _running: None })
        };
        let named = providers.into_iter().map(start).collect();
        Self(Arc::new(Inner { named, starter: Some(starter), ..Default::default() }))
    }

    /// From now on secrets can be asked for.
    pub(crate) fn open_secrets_with(&self, open: OpenSecret) {
        let _ = self.0.open.set(open);
    }

    /// The provider of this name.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(crate) fn named(&self, name: &str) -> Result<&Provider, Error> {
        self.0.named.get(name).ok_or_else(|| {
            let message = format!("there is no certificate provider `{name}`");
            let next = "add it to the bootstrap's `certificate_providers`, or by `MeshBuilder::certificate_provider`";
            Error::new(ErrorKind::Setup, message).with_next_step(next)
        })
    }

    /// The provider of this source. One on demand runs until the last that was had is dropped.
    ///
    /// # Errors
    ///
    /// When there is none of that name, or nobody to ask for a secret.
    pub(crate) fn of(&self, source: &MaterialSource) -> Result<Provider, Error> {
        match source {
            MaterialSource::Provider(name) => self.named(name).cloned(),
            MaterialSource::Carried(carried) => {
                self.on_demand(source, || Ok(Box::new(Carried::clone(carried))), carried.at_once())
            }
            MaterialSource::Secret(secret) => {
                let open = || match self.0.open.get() {
                    Some(open) => Ok(open(secret)),
                    None => Err(Error::setup(format!("there is nobody to ask for secret `{}`", secret.name))),
                };
                self.on_demand(source, open, None)
            }
        }
    }

    fn on_demand(
        &self,
        source: &MaterialSource,
        open: impl FnOnce() -> Result<Box<dyn CertificateProvider>, Error>,
        at_once: Option<&KeyMaterial>,
    ) -> Result<Provider, Error> {
        let starter = self.0.starter.as_ref().ok_or_else(|| Error::setup("nothing is started on demand here"))?;
        let mut known = self.0.on_demand.lock();
        if let Some(running) = known.running.get(source).and_then(Weak::upgrade) {
            return Ok(Provider::on_demand(source, running));
        }
        let provider = open()?;
        let kind = provider.kind().into();
        let (publisher, state) = Publisher::new(source.name(), &starter.tasks);
        if let Some(material) = at_once {
            publisher.publish(material.clone());
        }
        let end = starter.shutdown.child_token();
        starter.run(provider, publisher, end.clone());
        let running = Arc::new(Running { kind, state, _end: end.drop_guard() });
        known.add(source.clone(), &running);
        Ok(Provider::on_demand(source, running))
    }

    pub(crate) fn names(&self) -> BTreeSet<Arc<str>> {
        self.0.named.keys().cloned().collect()
    }

    /// Those that run now: of bootstrap and code, and on demand.
    pub(crate) fn all(&self) -> Vec<Provider> {
        let known = self.0.on_demand.lock();
        let running = known.running.iter().filter_map(|(source, running)| Some((source, running.upgrade()?)));
        let mut on_demand: Vec<_> = running.map(|(source, running)| Provider::on_demand(source, running)).collect();
        on_demand.sort_by(|one, other| one.name.cmp(&other.name));
        self.0.named.values().cloned().chain(on_demand).collect()
    }
}

impl Starter {
    fn run(&self, provider: Box<dyn CertificateProvider>, publisher: Publisher, end: CancellationToken) {
        let (told, kept) = (publisher.name().clone(), publisher.clone());
        let upkeep = async move {
            let announcing = announce(kept.subscribe(), move |share, state| say(&told, share, state));
            tokio::join!(announcing, take_up(kept.clone()), work(provider, publisher))
        };
        self.tasks.spawn_on(async move { end.run_until_cancelled(upkeep).await }, &self.runtime);
    }
}

impl OnDemand {
    /// A source may have a private key in it: not much longer than it is used.
    fn add(&mut self, source: MaterialSource, running: &Arc<Running>) {
        if self.running.len() >= self.sweep_at {
            self.running.retain(|_, running| running.strong_count() > 0);
            self.sweep_at = self.running.len() * 2;
        }
        self.running.insert(source, Arc::downgrade(running));
    }
}

impl Provider {
    /// One that has what a test publishes.
    #[cfg(test)]
    pub(crate) fn told(name: &str) -> (Publisher, Self) {
        let (publisher, state) = Publisher::new(name.into(), &TaskTracker::new());
        let (kind, source) = ("told".into(), name.into());
        (publisher, Self { name: name.into(), kind, source, state, told: None, _running: None })
    }

    fn on_demand(source: &MaterialSource, running: Arc<Running>) -> Self {
        let (kind, state) = (running.kind.clone(), running.state.clone());
        Self { name: source.name(), kind, source: source.clone(), state, told: None, _running: Some(running) }
    }

    /// What it is, for errors.
    pub(crate) fn label(&self) -> String {
        self.source.label(&self.kind)
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// What it published last; [`changed`](Self::changed) waits for what comes after.
    pub(crate) fn latest(&mut self) -> State {
        self.state.borrow_and_update().clone()
    }

    /// Waits until it published or failed since it was last [looked at](Self::latest), and at least [`NEWS_EVERY`] since this was
    /// told last. `false`: it ended, and will not. May be dropped and asked again.
    pub(crate) async fn changed(&mut self) -> bool {
        if let Some(told) = self.told {
            tokio::time::sleep_until(told + NEWS_EVERY).await;
        }
        let is_there = self.state.changed().await.is_ok();
        self.told = Some(Instant::now());
        is_there
    }

    /// How long until its certificate becomes valid; `None`: it is, or there is none.
    pub(crate) fn valid_in(&self) -> Option<Duration> {
        let material = self.state.borrow().material.clone()?;
        material.identity.as_ref()?.not_before().duration_since(SystemTime::now()).ok()
    }

    /// What is said of a connection that was made with a certificate which is over.
    pub(crate) fn expired(&self, shown: &Identity) -> String {
        let expired = format!("gave a certificate that expired at {}", Utc(shown.not_after()));
        self.unusable(&expired, &self.state()).to_string()
    }

    /// What it published last, if that is anything.
    ///
    /// # Errors
    ///
    /// When it has nothing yet.
    pub(crate) fn material_now(&self) -> Result<Arc<KeyMaterial>, Error> {
        let state = self.state();
        state.material.clone().ok_or_else(|| self.unusable("has no key material", &state))
    }

    /// What it published last. Waits while there is nothing yet and it has not failed; the caller bounds the time.
    ///
    /// # Errors
    ///
    /// When it has nothing and there is no hope.
    pub(crate) async fn material(&self) -> Result<Arc<KeyMaterial>, Error> {
        let mut state = self.state.clone();
        let is_decided = |state: &State| state.material.is_some() || state.failure.is_some();
        // An error means that it ended: what it has is all that there will be.
        let _ = state.wait_for(is_decided).await;
        self.material_now()
    }

    /// What it published last.
    ///
    /// # Errors
    ///
    /// When it has nothing, and whether there is hope.
    pub(crate) fn published(&self) -> Result<Arc<KeyMaterial>, Unready> {
        let state = self.state();
        match (&state.material, &state.failure) {
            (Some(material), _) => Ok(material.clone()),
            (None, None) => Err(Unready::Awaited(self.unusable("has no key material yet", &state))),
            (None, Some(_)) => Err(self.unusable("has no key material", &state).into()),
        }
    }

    /// The identity to show to a peer now.
    ///
    /// # Errors
    ///
    /// When it has none, or it is not valid at the moment: never a reason to go without.
    pub(crate) fn identity(&self, material: &KeyMaterial) -> Result<Identity, Error> {
        let Some(identity) = &material.identity else {
            return Err(self.unusable("has roots alone, and no certificate", &self.state()));
        };
        match identity.problem(SystemTime::now()) {
            None => Ok(identity.clone()),
            Some(problem) => Err(self.unusable(&format!("has {problem}"), &self.state())),
        }
    }

    /// For a context that takes roots from it, and it has none.
    pub(crate) fn without_roots(&self) -> Error {
        self.unusable("has a certificate alone, and no roots", &self.state())
    }

    fn unusable(&self, problem: &str, state: &State) -> Error {
        let last_error = match &state.failure {
            Some(failure) => format!("; last error, at {}: {}", Utc(failure.at), failure.why),
            None => "; it reports no error".to_owned(),
        };
        let message = format!("{} {problem}{last_error}", self.label());
        Error::new(ErrorKind::Connection, message).with_next_step(self.source.next_step())
    }
}

/// Says when a certificate nears its end and no new one came. Half of its life is when it should come, but those who put
/// it into files have habits of their own: without a failure that is nothing to speak of yet.
async fn announce(mut state: watch::Receiver<State>, say: impl Fn(u32, &State)) {
    loop {
        let known = state.borrow_and_update().clone();
        let latest = state.clone();
        let wait = async {
            for (share, due) in milestones(&known) {
                tokio::time::sleep_until(due).await;
                let now = latest.borrow();
                if share > 50 || now.failure.is_some() {
                    say(share, &now);
                }
            }
            pending::<()>().await;
        };
        tokio::select! {
            changed = state.wait_for(|state| state.generation != known.generation) => if changed.is_err() { return },
            () = wait => {}
        }
    }
}

/// Publishes in its time what came too early.
async fn take_up(publisher: Publisher) {
    let mut state = publisher.subscribe();
    loop {
        let early = state.borrow_and_update().early.clone();
        let valid = async {
            match early.as_deref().and_then(|material| material.identity.as_ref()) {
                Some(identity) => until(identity.not_before()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = state.wait_for(|state| state.early != early) => {}
            () = valid => early.iter().for_each(|material| publisher.publish(KeyMaterial::clone(material))),
        }
    }
}

/// The wall clock may be set meanwhile.
async fn until(wall: SystemTime) {
    const LOOK_EVERY: Duration = Duration::from_secs(60);
    while let Ok(left) = wall.duration_since(SystemTime::now())
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(LOOK_EVERY)).await;
    }
}

/// Runs a provider; that it came to an end is a failure of its.
async fn work(provider: Box<dyn CertificateProvider>, publisher: Publisher) {
    let working = AssertUnwindSafe(async { provider.run(publisher.clone()).await });
    match working.catch_unwind().await {
        Ok(()) if publisher.state().failure.is_some() => {}
        Ok(()) => publisher.fail("the provider ended, and publishes nothing more"),
        Err(panic) => publisher.fail(format!("the provider panicked: {}", message(&*panic))),
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// Percent of the life since receipt, and when they are over.
fn milestones(state: &State) -> Vec<(u32, Instant)> {
    let (Some((received, at)), Some(expiry)) = (state.received, state.expiry()) else { return Vec::new() };
    let life = expiry.duration_since(at).unwrap_or(Duration::ZERO);
    let due = |share: u32| Some((share, received.checked_add(life / 100 * share)?));
    [50, 75, 90, 100].into_iter().filter_map(due).collect()
}

fn say(provider: &str, share: u32, state: &State) {
    let Some(expiry) = state.expiry() else { return };
    let last_error = state.failure.as_ref().map_or("none", |failure| &*failure.why);
    let expires = Utc(expiry);
    match share {
        100 => {
            tracing::error!(provider, %expires, last_error, "the certificate expired: no connection is made with it")
        }
        75 if state.failure.is_none() => {
            tracing::info!(provider, %expires, "75 % of the certificate's life are over, and no new one came yet")
        }
        _ => {
            tracing::warn!(provider, %expires, last_error, "{share} % of the certificate's life are over, and no new one came")
        }
    }
}

impl From<Error> for Unready {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Awaited(error) | Self::Failed(error)) = self;
        f.write_str(&with_causes(error))
    }
}

impl fmt::Debug for Providers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.all();
        f.debug_map().entries(all.iter().map(|provider| (&provider.name, &provider.kind))).finish()
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::identity::{ProviderFuture, TrustBundle};

    /// Of a certificate that ends so many seconds from now.
    fn material(seconds: u64) -> KeyMaterial {
        let mut params = CertificateParams::default();
        params.not_after = (SystemTime::now() + Duration::from_secs(seconds)).into();
        let key = KeyPair::generate().unwrap();
        let chain = params.self_signed(&key).unwrap().pem();
        KeyMaterial::new().identity(Identity::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap())
    }

    fn trust() -> TrustBundle {
        let root = CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap();
        TrustBundle::from_pem(root.pem().as_bytes()).unwrap()
    }

    struct Panics;

    impl CertificateProvider for Panics {
        fn kind(&self) -> &str {
            "panics"
        }

        fn run(self: Box<Self>, _: Publisher) -> ProviderFuture {
            panic!("the vault is gone")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn s1_a_provider_that_panicked_says_so_and_fixed_material_is_announced_to_its_end() {
        let (publisher, mut state) = Publisher::new("default".into(), &TaskTracker::new());
        work(Box::new(Panics), publisher).await;
        let why = state.borrow_and_update().failure.as_ref().map(|failure| failure.why.to_string());
        assert_eq!(why.as_deref(), Some("the provider panicked: the vault is gone"));

        let given: Box<dyn CertificateProvider> = Box::new(material(1000));
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let providers = Providers::start([("fixed".into(), given)].into(), &tasks, &Handle::current(), &shutdown);
        tokio::time::sleep(Duration::from_secs(2000)).await;
        assert_eq!(tasks.len(), 1, "who announces it is there to the end");
        assert!(providers.named("fixed").unwrap().state().failure.is_none());
    }

    #[tokio::test]
    async fn s9_a_key_that_came_along_is_kept_not_much_longer_than_it_is_used() {
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let providers = Providers::start(BTreeMap::new(), &tasks, &Handle::current(), &shutdown);
        let carried = || MaterialSource::Carried(Arc::new(Carried::Inline(material(1000))));
        let _used = providers.of(&carried()).unwrap();
        for _ in 0..10 {
            drop(providers.of(&carried()).unwrap());
            let known = providers.0.on_demand.lock().running.len();
            assert!(known <= 2, "{known} are known, and one is used");
        }
    }

    #[tokio::test]
    async fn s2_what_is_too_early_does_not_replace_what_is_valid_and_is_taken_up_in_its_time() {
        let (publisher, state) = Publisher::new("default".into(), &TaskTracker::new());
        let valid = material(1000);
        publisher.publish(valid.clone());
        let late = SystemTime::now() + Duration::from_secs(1);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        // Certificates know whole seconds.
        params.not_before = (late + Duration::from_secs(1)).into();
        let chain = params.self_signed(&key).unwrap().pem();
        let early = Identity::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        publisher.publish(KeyMaterial::new().identity(early.clone()));
        let known = state.borrow().clone();
        assert_eq!((known.generation, known.material.as_deref()), (1, Some(&valid)));
        let why = known.failure.unwrap().why;
        assert!(why.contains("what came last has a certificate that is valid from"), "{why}");
        let mut news = state.clone();
        tokio::select! {
            () = take_up(publisher.clone()) => {}
            _ = news.wait_for(|state| state.generation == 2) => {}
        }
        let known = state.borrow().clone();
        assert_eq!(known.material.unwrap().identity.as_ref(), Some(&early));
        assert!(known.failure.is_none());
        publisher.publish(material(0));
        assert_eq!(state.borrow().generation, 2, "nor does what is expired");
    }

    /// An outage of the issuer is announced in time, however long it is.
    #[tokio::test(start_paused = true)]
    async fn s1_a_certificate_that_is_not_renewed_is_announced_at_a_half_three_quarters_nine_tenths_and_its_end() {
        let (publisher, state) = Publisher::new("default".into(), &TaskTracker::new());
        let (start, said) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
        let noted = said.clone();
        let note = move |share, state: &State| {
            let why = state.failure.as_ref().map_or_else(String::new, |failure| failure.why.to_string());
            // Certificates know whole seconds: their life is up to one shorter.
            noted.lock().push((share, (start.elapsed().as_secs_f64() / 10.0).round() as u64, why));
        };
        publisher.publish(material(1000));
        let announcing = tokio::spawn(announce(state, note));
        let after = |seconds| tokio::time::sleep_until(start + Duration::from_secs(seconds));
        let said = || std::mem::take(&mut *said.lock());

        // It is renewed in time, twice: nobody is told anything.
        after(490).await;
        publisher.publish(material(1000));
        after(900).await;
        assert_eq!(said(), []);
        publisher.publish(material(1000));
        // Once it comes late, and nothing went wrong.
        after(1550).await;
        assert_eq!(said(), []);
        publisher.publish(material(1000));
        // Then the issuer is gone.
        after(1600).await;
        publisher.fail("no answer");
        after(3000).await;
        let why = || "no answer".to_owned();
        assert_eq!(said(), [(50, 205, why()), (75, 230, why()), (90, 245, why()), (100, 255, why())]);
        // Other roots make no certificate younger.
        let renewed = material(1000);
        publisher.publish(renewed.clone());
        after(3600).await;
        publisher.publish(renewed.trust(trust()));
        publisher.fail("no answer");
        after(3760).await;
        assert_eq!(said(), [(50, 360, why()), (75, 375, why())]);
        // It returns.
        publisher.publish(material(1000));
        after(4160).await;
        assert_eq!(said(), []);
        announcing.abort();
    }
}

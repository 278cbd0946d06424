//! The providers of a mesh, by name, each with the task that keeps its material fresh.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::certificate::Utc;
use super::own::Identity;
use super::provider::{CertificateProvider, KeyMaterial, Publisher, State};
use crate::error::{Error, ErrorKind};

/// All of them; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Providers(Arc<BTreeMap<Arc<str>, Provider>>);

/// One that runs; clones see the same.
#[derive(Clone)]
pub(crate) struct Provider {
    pub(crate) name: Arc<str>,
    pub(crate) kind: Arc<str>,
    state: watch::Receiver<State>,
}

impl Providers {
    /// Starts them; they end with `shutdown`.
    pub(crate) fn start(
        providers: BTreeMap<Arc<str>, Box<dyn CertificateProvider>>,
        tasks: &TaskTracker,
        runtime: &Handle,
        shutdown: &CancellationToken,
    ) -> Self {
        let start = |(name, provider): (Arc<str>, Box<dyn CertificateProvider>)| {
            let kind = provider.kind().into();
            let (publisher, state) = Publisher::new(name.clone());
            let told = name.clone();
            let announcing = announce(state.clone(), move |share, state| say(&told, share, state));
            let working = async move { tokio::join!(provider.run(publisher), announcing) };
            let shutdown = shutdown.clone();
            tasks.spawn_on(async move { shutdown.run_until_cancelled(working).await }, runtime);
            (name.clone(), Provider { name, kind, state })
        };
        Self(Arc::new(providers.into_iter().map(start).collect()))
    }

    /// The provider of this name.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(crate) fn named(&self, name: &str) -> Result<&Provider, Error> {
        self.0.get(name).ok_or_else(|| {
            let message = format!("there is no certificate provider `{name}`");
            let next = "add it to the bootstrap's `certificate_providers`, or by `MeshBuilder::certificate_provider`";
            Error::new(ErrorKind::Setup, message).with_next_step(next)
        })
    }

    pub(crate) fn names(&self) -> BTreeSet<Arc<str>> {
        self.0.keys().cloned().collect()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Provider> {
        self.0.values()
    }
}

impl Provider {
    /// One that has what a test publishes.
    #[cfg(test)]
    pub(crate) fn told(name: &str) -> (Publisher, Self) {
        let (publisher, state) = Publisher::new(name.into());
        (publisher, Self { name: name.into(), kind: "told".into(), state })
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// What it published last; [`changed`](Self::changed) waits for what comes after.
    pub(crate) fn latest(&mut self) -> State {
        self.state.borrow_and_update().clone()
    }

    /// Waits until it published or failed since it was last [looked at](Self::latest). `false`: it ended, and will not.
    pub(crate) async fn changed(&mut self) -> bool {
        self.state.changed().await.is_ok()
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

    /// The identity to show to a peer now.
    ///
    /// # Errors
    ///
    /// When it has none, or it is not valid at the moment: never a reason to go without.
    pub(crate) fn identity(&self, material: &KeyMaterial) -> Result<Identity, Error> {
        let Some(identity) = &material.identity else {
            return Err(self.unusable("has roots alone, and no certificate", &self.state()));
        };
        let now = SystemTime::now();
        let problem = match (now.duration_since(identity.not_after()), identity.not_before().duration_since(now)) {
            (Ok(ago), _) => {
                format!("has an expired certificate: since {} ({} s ago)", Utc(identity.not_after()), ago.as_secs())
            }
            (_, Ok(early)) if !early.is_zero() => {
                format!(
                    "has a certificate that is valid from {} on ({} s from now)",
                    Utc(identity.not_before()),
                    early.as_secs()
                )
            }
            _ => return Ok(identity.clone()),
        };
        Err(self.unusable(&problem, &self.state()))
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
        let Self { name, kind, .. } = self;
        let message = format!("certificate provider `{name}` ({kind}) {problem}{last_error}");
        let next = format!(
            "see what keeps certificate provider `{name}` from having what is needed (`Mesh::status`, `certificate_providers`)"
        );
        Error::new(ErrorKind::Connection, message).with_next_step(next)
    }
}

/// Says when a certificate nears its end and no new one came: half of its life is when it should have come.
async fn announce(mut state: watch::Receiver<State>, say: impl Fn(u32, &State)) {
    loop {
        let known = state.borrow_and_update().clone();
        let wait = async {
            for (share, due) in milestones(&known) {
                tokio::time::sleep_until(due).await;
                say(share, &state.borrow());
            }
            std::future::pending::<()>().await;
        };
        let mut news = state.clone();
        tokio::select! {
            changed = news.wait_for(|state| state.generation != known.generation) => if changed.is_err() { return },
            () = wait => {}
        }
        state = news;
    }
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
        _ => {
            tracing::warn!(provider, %expires, last_error, "{share} % of the certificate's life are over, and no new one came")
        }
    }
}

impl fmt::Debug for Providers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.all().map(|provider| (&provider.name, &provider.kind))).finish()
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// Of a certificate that ends so many seconds from now.
    fn material(seconds: u64) -> KeyMaterial {
        let mut params = CertificateParams::default();
        params.not_after = (SystemTime::now() + Duration::from_secs(seconds)).into();
        let key = KeyPair::generate().unwrap();
        let chain = params.self_signed(&key).unwrap().pem();
        KeyMaterial::new().identity(Identity::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap())
    }

    /// R-09 of the plan for reliability: an outage of the issuer is announced in time, however long it is.
    #[tokio::test(start_paused = true)]
    async fn s1_a_certificate_that_is_not_renewed_is_announced_at_a_half_three_quarters_nine_tenths_and_its_end() {
        let (publisher, state) = Publisher::new("default".into());
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
        // Then the issuer is gone.
        after(1000).await;
        publisher.fail("no answer");
        after(3000).await;
        let why = || "no answer".to_owned();
        assert_eq!(said(), [(50, 140, why()), (75, 165, why()), (90, 180, why()), (100, 190, why())]);
        // It returns.
        publisher.publish(material(1000));
        after(3400).await;
        assert_eq!(said(), []);
        announcing.abort();
    }
}

//! The providers of a mesh, by name, each with the task that keeps its material fresh.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::certificate::Utc;
use super::provider::{CertificateProvider, Publisher, State};

/// All of them; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Providers(Arc<BTreeMap<Arc<str>, Provider>>);

/// One that runs.
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
            let announcing = announce(name.clone(), state.clone());
            let working = async move { tokio::join!(provider.run(publisher), announcing) };
            let shutdown = shutdown.clone();
            tasks.spawn_on(async move { shutdown.run_until_cancelled(working).await }, runtime);
            (name.clone(), Provider { name, kind, state })
        };
        Self(Arc::new(providers.into_iter().map(start).collect()))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Provider> {
        self.0.values()
    }
}

impl Provider {
    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }
}

/// Says when a certificate nears its end and no new one came: half of its life is when it should have come.
async fn announce(provider: Arc<str>, mut state: watch::Receiver<State>) {
    loop {
        let known = state.borrow_and_update().clone();
        let wait = async {
            for (share, due) in milestones(&known) {
                tokio::time::sleep_until(due).await;
                say(&provider, share, &state.borrow());
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

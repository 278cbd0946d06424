//! Whether sources that are started on demand have something already, for those who put a configuration in force only then.

use std::collections::HashMap;
use std::fmt;
use std::future::pending;
use std::time::{Duration, SystemTime};

use futures_util::future::select_all;
use tokio::time::sleep;

use super::provider::KeyMaterial;
use super::providers::{Provider, Providers};
use super::source::MaterialSource;
use crate::error::Error;
use crate::names::NameIndexSet;

/// The wall clock, by which certificates become valid, may be set meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Keeps sources running for one user, and hears when one of them has something, or comes to have an error.
pub(crate) struct Awaited {
    providers: Providers,
    held: HashMap<MaterialSource, Held>,
}

struct Held {
    provider: Result<Provider, Error>,
    /// As it was told last.
    told: Readiness,
}

/// The state of a source.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Readiness {
    /// It can be used. A source that was ready remains so, even when its certificate expires: what is in force is not taken
    /// back for that.
    Ready,
    /// It has said nothing yet; what, in words.
    Awaited(String),
    /// It has nothing that can be used, and why.
    Failed(String),
}

impl Awaited {
    pub(crate) fn new(providers: Providers) -> Self {
        Self { providers, held: HashMap::new() }
    }

    /// From now on these are kept running, and no others.
    pub(crate) fn watch(&mut self, sources: &NameIndexSet<MaterialSource>) {
        self.held.retain(|source, _| sources.contains(source));
        for source in sources {
            if !self.held.contains_key(source) {
                // What it has already is news.
                let held = Held { provider: self.providers.of(source), told: first(source) };
                self.held.insert(source.clone(), held);
            }
        }
    }

    /// The state of a source, by what [`changed`](Self::changed) told last.
    pub(crate) fn of(&self, source: &MaterialSource) -> Readiness {
        self.held.get(source).map_or_else(|| first(source), |held| held.told.clone())
    }

    /// Waits until it stands otherwise with some than was told: those.
    pub(crate) async fn changed(&mut self) -> Vec<MaterialSource> {
        loop {
            let changed = |(source, held): (&MaterialSource, &mut Held)| {
                let now = held.readiness(source);
                let is_news = now != held.told;
                held.told = now;
                is_news.then(|| source.clone())
            };
            let news: Vec<_> = self.held.iter_mut().filter_map(changed).collect();
            if !news.is_empty() {
                return news;
            }
            let waiting = self.held.values_mut().filter(|held| held.told != Readiness::Ready);
            let waiting: Vec<_> = waiting.map(|held| Box::pin(held.published())).collect();
            match waiting.is_empty() {
                true => return pending().await,
                false => drop(select_all(waiting).await),
            }
        }
    }
}

impl fmt::Debug for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.held.keys()).finish()
    }
}

/// Of a source that was not asked yet.
fn first(source: &MaterialSource) -> Readiness {
    match source.at_once() {
        Some(material) => of_material(material, || source.label("")),
        None => Readiness::Awaited(source.label("")),
    }
}

/// A certificate that is not valid at the moment is no better than none.
fn of_material(material: &KeyMaterial, label: impl FnOnce() -> String) -> Readiness {
    let problem = material.identity.as_ref().and_then(|identity| identity.problem(SystemTime::now()));
    problem.map_or(Readiness::Ready, |problem| Readiness::Failed(format!("{} has {problem}", label())))
}

impl Held {
    fn readiness(&mut self, source: &MaterialSource) -> Readiness {
        let provider = match &mut self.provider {
            Ok(provider) => provider,
            Err(error) => return Readiness::Failed(error.to_string()),
        };
        // Whatever comes from here on is news; that the same goes wrong once more is none.
        let state = provider.latest();
        match (state.material, state.failure) {
            (Some(_), _) if self.told == Readiness::Ready => Readiness::Ready,
            (Some(material), _) => of_material(&material, || provider.label()),
            (None, None) => first(source),
            (None, Some(failure)) => {
                Readiness::Failed(format!("{} has no key material: {}", provider.label(), failure.why))
            }
        }
    }

    /// Waits until it may stand otherwise.
    async fn published(&mut self) {
        let Ok(provider) = &mut self.provider else { return pending().await };
        let early = provider.valid_in().map(|early| early.min(LOOK_EVERY));
        let valid = async {
            match early {
                Some(early) => sleep(early).await,
                None => pending().await,
            }
        };
        let news = async {
            if !provider.changed().await {
                pending().await
            }
        };
        tokio::select! {
            () = news => {}
            () = valid => {}
        }
    }
}

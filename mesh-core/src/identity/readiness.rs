//! Whether sources that are started on demand have something already, for those who put a configuration in force only then.

use std::collections::HashMap;
use std::fmt;
use std::future::pending;

use futures_util::future::select_all;
use indexmap::IndexSet;

use super::providers::{Provider, Providers};
use super::source::MaterialSource;
use crate::error::Error;

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

/// How it stands with a source.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Readiness {
    /// It can be used. What is there stays: a source that is ready remains so.
    Ready,
    /// It has said nothing yet; what, in words.
    Awaited(String),
    /// It has nothing, and why.
    Failed(String),
}

impl Awaited {
    pub(crate) fn new(providers: Providers) -> Self {
        Self { providers, held: HashMap::new() }
    }

    /// From now on these are kept running, and no others.
    pub(crate) fn watch(&mut self, sources: &IndexSet<MaterialSource>) {
        self.held.retain(|source, _| sources.contains(source));
        for source in sources {
            if !self.held.contains_key(source) {
                // What it has already is news.
                let held = Held { provider: self.providers.of(source), told: first(source) };
                self.held.insert(source.clone(), held);
            }
        }
    }

    /// How it stands with a source, by what [`changed`](Self::changed) told last.
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
    if source.is_there() { Readiness::Ready } else { Readiness::Awaited(source.label("")) }
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
            (Some(_), _) => Readiness::Ready,
            (None, None) => first(source),
            (None, Some(failure)) => {
                Readiness::Failed(format!("{} has no key material: {}", provider.label(), failure.why))
            }
        }
    }

    async fn published(&mut self) {
        let is_news = match &mut self.provider {
            Ok(provider) => provider.changed().await,
            Err(_) => false,
        };
        if !is_news {
            pending().await
        }
    }
}

//! What the connections to one endpoint are secured with: whether it can be used now, and when there is newer.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::client::ClientTls;
use super::lifetime::news;
use crate::identity::{Provider, Unready};
use crate::resource::security::Security;
use crate::resource::upstream_tls::RootsFrom;

/// What cannot be used is looked at again after so long, even without news: the wall clock may be set.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The providers that an endpoint's security names.
#[derive(Clone)]
pub(crate) struct Material {
    tls: ClientTls,
    security: Security,
    own: Option<Provider>,
    vouching: Option<Provider>,
    /// What they had when it could be used last.
    generations: [Option<u64>; 2],
}

impl Material {
    pub(super) fn new(tls: ClientTls, security: Security) -> Self {
        let find = |name: &str| tls.provider(name).ok().cloned();
        let context = security.context.as_ref();
        let own = context.and_then(|context| find(context.identity.as_deref()?));
        let vouching = match context.map(|context| &context.roots) {
            Some(RootsFrom::Provider(name)) => find(name),
            Some(RootsFrom::System) | None => None,
        };
        Self { tls, security, own, vouching, generations: [None, None] }
    }

    /// Ends when it can be used, however long that takes. `tell` is told why it cannot be yet, whenever that changes.
    pub(crate) async fn usable(&mut self, mut tell: impl FnMut(&Unready)) {
        let mut told = String::new();
        loop {
            self.generations = self.latest();
            let Err(unready) = self.check().await else { return };
            let text = unready.to_string();
            if text != told {
                tell(&unready);
                told = text;
            }
            let look_again = self.valid_in().map_or(LOOK_EVERY, |early| early.min(LOOK_EVERY));
            tokio::select! {
                () = self.changed() => {}
                () = tokio::time::sleep(look_again) => {}
            }
        }
    }

    /// Ends when there is newer than what could be used last.
    pub(crate) async fn renewed(&mut self) {
        while self.latest() == self.generations {
            self.changed().await;
        }
    }

    async fn check(&self) -> Result<(), Unready> {
        let context = self.tls.context(&self.security)?;
        if let Some(name) = &context.identity {
            let provider = self.tls.provider(name)?;
            provider.identity(&*provider.published()?)?;
        }
        match &context.roots {
            RootsFrom::System => _ = self.tls.system_roots().await?,
            RootsFrom::Provider(name) => {
                let provider = self.tls.provider(name)?;
                if provider.published()?.trust.is_none() {
                    return Err(provider.without_roots().into());
                }
            }
        }
        Ok(())
    }

    fn latest(&mut self) -> [Option<u64>; 2] {
        [&mut self.own, &mut self.vouching].map(|one| one.as_mut().map(|provider| provider.latest().generation))
    }

    async fn changed(&mut self) {
        tokio::select! {
            () = news(self.own.as_mut()) => {}
            () = news(self.vouching.as_mut()) => {}
        }
    }

    /// How long until the own certificate becomes valid.
    fn valid_in(&self) -> Option<Duration> {
        let material = self.own.as_ref()?.state().material?;
        material.identity.as_ref()?.not_before().duration_since(SystemTime::now()).ok()
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("security", &self.security).finish_non_exhaustive()
    }
}

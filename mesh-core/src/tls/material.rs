//! What the connections to one endpoint are secured with: whether it can be used now, and when there is newer.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::client::ClientTls;
use super::lifetime::news;
use crate::identity::{MaterialSource, NEWS_EVERY, Provider, Unready};
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
    /// When there was newer last.
    renewed: Option<Instant>,
}

impl Material {
    pub(super) fn new(tls: ClientTls, security: Security) -> Self {
        let find = |source: &MaterialSource| tls.provider(source).ok();
        let context = security.context.as_ref();
        let own = context.and_then(|context| find(context.identity.as_ref()?));
        let vouching = match context.map(|context| &context.roots) {
            Some(RootsFrom::Source(source)) => find(source),
            Some(RootsFrom::System) | None => None,
        };
        Self { tls, security, own, vouching, generations: [None, None], renewed: None }
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
            let early = self.own.as_ref().and_then(Provider::valid_in);
            let look_again = early.map_or(LOOK_EVERY, |early| early.min(LOOK_EVERY));
            tokio::select! {
                () = self.changed() => {}
                () = tokio::time::sleep(look_again) => {}
            }
        }
    }

    /// Ends when there is newer than what could be used last; at most once in [`NEWS_EVERY`], as what is tried on account of it may
    /// fail each time.
    pub(crate) async fn renewed(&mut self) {
        if let Some(renewed) = self.renewed {
            sleep_until(renewed + NEWS_EVERY).await;
        }
        while self.latest() == self.generations {
            self.changed().await;
        }
        self.renewed = Some(Instant::now());
    }

    async fn check(&self) -> Result<(), Unready> {
        let context = self.tls.context(&self.security)?;
        if let Some(source) = &context.identity {
            let provider = self.tls.provider(source)?;
            provider.identity(&*provider.published()?)?;
        }
        match &context.roots {
            RootsFrom::System => _ = self.tls.system_roots().await?,
            RootsFrom::Source(source) => {
                let provider = self.tls.provider(source)?;
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
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("security", &self.security).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::runtime::Handle;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::identity::{CertificateProvider, KeyMaterial, ProviderFuture, Providers, Publisher, TrustBundle};
    use crate::resource::security::UpstreamTls;
    use crate::tls::SecurityFloor;

    /// Publishes other roots a thousand times a second.
    struct Storm;

    impl CertificateProvider for Storm {
        fn kind(&self) -> &str {
            "storm"
        }

        fn run(self: Box<Self>, publisher: Publisher) -> ProviderFuture {
            let root = || rcgen::generate_simple_self_signed(["root".to_owned()]).unwrap().cert.pem();
            let roots = [root(), root()].map(|pem| TrustBundle::from_pem(pem.as_bytes()).unwrap());
            Box::pin(async move {
                for trust in roots.iter().cycle() {
                    publisher.publish(KeyMaterial::new().trust(trust.clone()));
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_publishes_without_pause_has_connections_tried_ten_times_a_second_at_most() {
        let storm: Box<dyn CertificateProvider> = Box::new(Storm);
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let providers = Providers::start([("storm".into(), storm)].into(), &tasks, &Handle::current(), &shutdown);
        let context = UpstreamTls {
            identity: None,
            roots: RootsFrom::Source("storm".into()),
            revoked: None,
            names: Vec::new(),
            sni: None,
            auto_host_sni: false,
            auto_sni_san_validation: false,
        };
        let security = Security { cluster: "a".into(), context: Some(Arc::new(context)), server_name: None };
        let mut material = ClientTls::new(providers.clone(), SecurityFloor::new()).material(&security);
        let mut provider = providers.named("storm").unwrap().clone();
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut tried = 0;
        while start.elapsed() < 10 * second {
            // What is tried fails at once.
            material.usable(|_| {}).await;
            tried += 1;
            material.renewed().await;
        }
        assert!((90..=102).contains(&tried), "{tried}");
        let (start, mut told) = (Instant::now(), 0);
        while start.elapsed() < 10 * second {
            assert!(provider.changed().await);
            told += 1;
        }
        assert!((90..=102).contains(&told), "{told}");
        assert!(provider.state().generation > 19_000);
    }
}

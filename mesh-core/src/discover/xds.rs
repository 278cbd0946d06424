//! Follows one target at the control plane: what changed in the store becomes the next snapshot.

use std::sync::Arc;

#[cfg(feature = "dns")]
use super::dns::NameSubscriber;
use super::{Source, connectivity};
#[cfg(feature = "tls")]
use crate::identity::Awaited;
use crate::resource::cluster::DnsName;
use crate::resource::security::{MaterialSource, Readiness};
use crate::snapshot::PrepareClusters;
use crate::snapshot::demand::Demand;
use crate::snapshot::dependencies::{Dependencies, Resolved, Step, View};
use crate::xds::resource_type::ResourceType;
use crate::xds::{Change, ResourceState, Subscriber};

/// What one target subscribes to.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    pub(crate) resources: Subscriber,
    #[cfg(feature = "dns")]
    pub(crate) names: NameSubscriber,
    #[cfg(feature = "tls")]
    pub(crate) material: Awaited,
}

/// Publishes the target's snapshots until nobody uses it any more.
pub(crate) async fn follow(
    source: Source,
    mut subscriptions: Subscriptions,
    mut dependencies: Dependencies,
    clusters: Arc<dyn PrepareClusters>,
) {
    let mut connectivity = connectivity::Aggregate::new(clusters.clone());
    let demand = dependencies.demand().cloned();
    subscriptions.watch(&dependencies);
    // Another target may have brought everything already.
    let known = dependencies.everything();
    let mut step = dependencies.handle_changes(&known, &subscriptions);
    loop {
        take(step, &source, &mut subscriptions, &dependencies, &*clusters, &mut connectivity);
        let news = connectivity.shown_until(&source, subscriptions.changed(&demand)).await;
        step = match news {
            Some(News::Resources(changes)) => dependencies.handle_changes(&changes, &subscriptions),
            #[cfg(feature = "dns")]
            Some(News::Names(names)) => dependencies.handle_resolved(&names, &subscriptions),
            #[cfg(feature = "tls")]
            Some(News::Material(sources)) => dependencies.handle_material(&sources, &subscriptions),
            Some(News::Demand(names)) => dependencies.handle_demand(names, &subscriptions),
            None => return,
        };
    }
}

/// Carries out what a step asks for.
fn take(
    step: Step,
    source: &Source,
    subscriptions: &mut Subscriptions,
    dependencies: &Dependencies,
    clusters: &dyn PrepareClusters,
    connectivity: &mut connectivity::Aggregate,
) {
    let Step { watch, publish, waiting_for, demanded } = step;
    if watch {
        subscriptions.watch(dependencies);
    }
    if let Some(snapshot) = publish {
        #[cfg(feature = "dns")]
        subscriptions.names.publish(&snapshot);
        connectivity.publish(snapshot, source);
    }
    if let Some((demanded, demand)) = demanded.zip(dependencies.demand()) {
        clusters.attach(&demanded);
        demand.publish(demanded);
    }
    if let Some(what) = &waiting_for {
        tracing::debug!(%what, "waiting");
    }
    source.waiting_for(waiting_for);
}

/// The clusters that calls name, when there are others than before.
async fn asked(demand: &Option<Arc<Demand>>) -> Vec<Arc<str>> {
    match demand {
        Some(demand) => demand.asked().await,
        None => std::future::pending().await,
    }
}

/// What changed of that to which a target subscribes, or is to.
enum News {
    Resources(Vec<Change>),
    Demand(Vec<Arc<str>>),
    #[cfg(feature = "dns")]
    Names(Vec<DnsName>),
    #[cfg(feature = "tls")]
    Material(Vec<MaterialSource>),
}

impl Subscriptions {
    fn watch(&mut self, dependencies: &Dependencies) {
        let watched = dependencies.watched();
        watched.apply(&mut self.resources);
        #[cfg(feature = "dns")]
        self.names.watch(&watched.names);
        #[cfg(feature = "tls")]
        self.material.watch(&watched.sources);
    }

    async fn changed(&mut self, demand: &Option<Arc<Demand>>) -> News {
        #[cfg(feature = "dns")]
        let names = async { News::Names(self.names.changed().await) };
        #[cfg(not(feature = "dns"))]
        let names = std::future::pending();
        #[cfg(feature = "tls")]
        let material = async { News::Material(self.material.changed().await) };
        #[cfg(not(feature = "tls"))]
        let material = std::future::pending();
        tokio::select! {
            changes = self.resources.changed() => News::Resources(changes),
            news = material => news,
            news = names => news,
            names = asked(demand) => News::Demand(names),
        }
    }
}

impl View for Subscriptions {
    fn get(&self, resource_type: &'static ResourceType, name: &str) -> ResourceState {
        self.resources.get(resource_type, name)
    }

    fn resolve(&self, name: &DnsName) -> Resolved {
        #[cfg(feature = "dns")]
        return self.names.get(name);
        #[cfg(not(feature = "dns"))]
        return {
            let _ = name;
            Resolved::Pending
        };
    }

    fn readiness(&self, source: &MaterialSource) -> Readiness {
        #[cfg(feature = "tls")]
        return self.material.of(source);
        #[cfg(not(feature = "tls"))]
        return *source;
    }
}

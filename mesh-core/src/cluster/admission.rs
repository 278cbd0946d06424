//! What a mesh counts per cluster to admit attempts: those in flight, those that were refused, and those dropped.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::breaker::{CircuitBreaker, Permit};
use crate::resource::cluster::{Cluster, Discovery};
use crate::resource::endpoints::DropOverload;
use crate::snapshot::{ClusterConfig, ClusterEntry, ClusterKey};

/// The counts of all clusters, by cluster and EDS service name (A32); clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Admissions(Arc<Registry>);

#[derive(Debug, Default)]
struct Registry {
    clusters: Mutex<HashMap<Key, Arc<Admission>>>,
}

type Key = (ClusterKey, Option<Arc<str>>);

/// The counts of one cluster, which outlive its configuration. A cluster's entry keeps them, so that an attempt finds
/// them without the registry's lock.
#[derive(Debug)]
struct Admission {
    owner: Weak<Registry>,
    breaker: Arc<CircuitBreaker>,
    dropped: Mutex<BTreeMap<Arc<str>, u64>>,
}

/// Why an attempt is not made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Refusal<'a> {
    Dropped(&'a DropOverload),
    CircuitBreaker { max_requests: u32 },
}

/// What was counted of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AdmissionStatus {
    pub(crate) in_flight: u32,
    /// Attempts that the circuit breaker refused.
    pub(crate) refused: u64,
    /// Attempts that were dropped, by category.
    pub(crate) dropped: Vec<(Arc<str>, u64)>,
}

impl Admissions {
    /// Admits an attempt unless it is to be dropped, or is one too many. `draw` gives a number below a million. An
    /// attempt that nothing limits needs no permit.
    pub(super) fn admit<'a>(
        &self,
        entry: &ClusterEntry,
        config: &'a ClusterConfig,
        mut draw: impl FnMut() -> u32,
    ) -> Result<Option<Permit>, Refusal<'a>> {
        // Each category has a chance of its own (A27).
        if let Some(drop) = config.endpoints.drops.iter().find(|drop| draw() < drop.per_million) {
            self.with(entry, config, |admission| admission.count_drop(&drop.category));
            return Err(Refusal::Dropped(drop));
        }
        let max_requests = config.cluster.circuit_breakers.max_requests.value;
        if max_requests == u32::MAX {
            return Ok(None);
        }
        let permit = self.with(entry, config, |admission| admission.breaker.acquire(max_requests));
        permit.map(Some).ok_or(Refusal::CircuitBreaker { max_requests })
    }

    pub(crate) fn status(&self, entry: &ClusterEntry) -> AdmissionStatus {
        let Ok(config) = &entry.config else { return AdmissionStatus::default() };
        self.with(entry, config, |admission| AdmissionStatus {
            in_flight: admission.breaker.in_flight(),
            refused: admission.breaker.refused(),
            dropped: admission.dropped.lock().iter().map(|(category, count)| (category.clone(), *count)).collect(),
        })
    }

    fn with<T>(&self, entry: &ClusterEntry, config: &ClusterConfig, then: impl FnOnce(&Admission) -> T) -> T {
        let attached = entry.admission.get_or_init(|| self.0.admission(entry, config));
        match attached.filter(|admission: &&Admission| admission.owner.as_ptr() == Arc::as_ptr(&self.0)) {
            Some(admission) => then(admission),
            // An entry made in code, which another mesh used first.
            None => then(&self.0.admission(entry, config)),
        }
    }
}

impl Registry {
    fn admission(self: &Arc<Self>, entry: &ClusterEntry, config: &ClusterConfig) -> Arc<Admission> {
        let key = (entry.key.clone(), eds_service_name(&config.cluster));
        let mut clusters = self.clusters.lock();
        if let Some(admission) = clusters.get(&key) {
            return admission.clone();
        }
        if clusters.len() == clusters.capacity() {
            // Clusters come and go: before the map grows, it lets go of those that no snapshot and no attempt has.
            clusters.retain(|_, admission| Arc::strong_count(admission) > 1 || admission.breaker.in_flight() > 0);
        }
        let admission =
            Arc::new(Admission { owner: Arc::downgrade(self), breaker: Arc::default(), dropped: Mutex::default() });
        clusters.insert(key, admission.clone());
        admission
    }
}

fn eds_service_name(cluster: &Cluster) -> Option<Arc<str>> {
    match &cluster.discovery {
        Discovery::Eds { service_name } => service_name.clone(),
        Discovery::Static(_) | Discovery::Dns(_) | Discovery::Aggregate(_) => None,
    }
}

impl Admission {
    fn count_drop(&self, category: &Arc<str>) {
        *self.dropped.lock().entry(category.clone()).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::Sourced;
    use crate::resource::circuit_breakers::CircuitBreakers;
    use crate::resource::cluster::{Balancing, EndpointPolicy};
    use crate::resource::endpoints::Endpoints;

    fn entry(eds_service_name: Option<&str>, max_requests: u32, drops: &[(&str, u32)]) -> ClusterEntry {
        let balancing = Balancing::new(false, EndpointPolicy::RoundRobin);
        let cluster = Cluster {
            discovery: Discovery::Eds { service_name: eds_service_name.map(Into::into) },
            circuit_breakers: CircuitBreakers { max_requests: Sourced::xds(max_requests), ..CircuitBreakers::NONE },
            ..Cluster::plain("greeter".into(), balancing)
        };
        let drop = |&(category, per_million): &(&str, u32)| DropOverload { category: category.into(), per_million };
        let endpoints = Endpoints { drops: drops.iter().map(drop).collect(), ..Default::default() };
        let config = ClusterConfig { cluster: Arc::new(cluster), endpoints: Arc::new(endpoints) };
        ClusterEntry::new(ClusterKey { source: "test".into(), name: "greeter".into() }, Ok(config))
    }

    /// The category that the draws drop a call of, `None` if it is admitted.
    fn admit(admissions: &Admissions, entry: &ClusterEntry, draws: &[u32]) -> Option<String> {
        let mut draws = draws.iter().copied();
        let config = entry.config.as_ref().expect("a good cluster");
        match admissions.admit(entry, config, || draws.next().expect("one draw for each category")) {
            Ok(_) => None,
            Err(Refusal::Dropped(drop)) => Some(drop.category.to_string()),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_category_drops_its_share_of_what_those_before_it_left() {
        let admissions = Admissions::default();
        let entry = entry(None, 10, &[("throttle", 100_000), ("lb", 500_000)]);
        for (draws, dropped) in [
            (&[99_999][..], Some("throttle")),
            (&[100_000, 499_999], Some("lb")),
            (&[999_999, 0], Some("lb")),
            (&[100_000, 500_000], None),
        ] {
            assert_eq!(admit(&admissions, &entry, draws).as_deref(), dropped, "{draws:?}");
        }
        let status = admissions.status(&entry);
        assert_eq!(status.dropped, [("lb".into(), 2), ("throttle".into(), 1)]);
        assert_eq!((status.in_flight, status.refused), (0, 0));
    }

    #[test]
    fn counts_are_those_of_a_mesh_and_of_a_cluster_and_its_eds_name() {
        let (one, other) = (Admissions::default(), Admissions::default());
        let entries = [entry(None, 2, &[]), entry(None, 2, &[]), entry(Some("v2"), 2, &[])];
        let acquire = |admissions: &Admissions, entry: &ClusterEntry| {
            let permit = admissions.admit(entry, entry.config.as_ref().expect("good"), || 0).expect("admitted");
            permit.expect("there is a limit")
        };
        let _held = [acquire(&one, &entries[0]), acquire(&one, &entries[1]), acquire(&other, &entries[1])];
        let in_flight = |admissions: &Admissions| entries.each_ref().map(|entry| admissions.status(entry).in_flight);
        assert_eq!(in_flight(&one), [2, 2, 0]);
        assert_eq!(in_flight(&other), [1, 1, 0]);
    }
}

//! Zone-aware choice (Envoy): how much of its calls this process sends to each locality of a cluster, a pure function of
//! where its like and the endpoints run.
//!
//! Where the endpoints have at least the share in the locality of this process that its like have there, every call
//! stays there. Otherwise as many stay as leave each endpoint its fair part, and the others go to the localities that have
//! a greater share of the endpoints than of the callers, in proportion to how much greater it is.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::load::Census;
use crate::resource::endpoints::{Endpoints, Locality, LocalityEndpoints};
use crate::resource::zone_aware::{LocalityBasis, ZoneAware};

/// Shares are counted in so many parts, as Envoy does.
const WHOLE: u64 = 10_000;

/// The cluster to which this process belongs, and where in it this process is.
#[derive(Debug)]
pub(crate) struct LocalCluster {
    locality: Locality,
    spread: ArcSwapOption<LocalSpread>,
}

/// Where the endpoints of the local cluster are.
#[derive(Debug)]
struct LocalSpread {
    census: Census,
    zones: Vec<Zone>,
}

/// The endpoints of one locality.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Zone {
    pub(crate) locality: Arc<Locality>,
    /// Of any health.
    pub(crate) total: u64,
    /// Those that can take calls, or may be able to soon.
    pub(crate) healthy: Counted,
    /// Those of them that take calls now. Others count for nothing while there is one in any locality.
    pub(crate) ready: Counted,
}

/// How many endpoints there are, and the sum of their weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) number: u64,
    pub(crate) weight: u64,
}

impl LocalCluster {
    /// Of a process in this locality, whose like are not known yet.
    pub(crate) fn new(locality: Locality) -> Arc<Self> {
        Arc::new(Self { locality, spread: ArcSwapOption::empty() })
    }

    /// Its endpoints are these now.
    pub(crate) fn publish(&self, endpoints: &Endpoints) {
        // Envoy knows no other priority of a local cluster.
        let spread = endpoints.priorities.first().map(|priority| LocalSpread {
            census: Census::of(priority, |_| false),
            zones: priority.localities.iter().map(Zone::of).collect(),
        });
        self.spread.store(spread.map(Arc::new));
    }

    /// The weights of a cluster's localities, of which one is above 0; `None`: calls do not go by zones. A panic of the local
    /// cluster is below `panic_threshold` percent.
    pub(crate) fn weights(&self, config: &ZoneAware, upstream: &[Zone], panic_threshold: u32) -> Option<Vec<u32>> {
        let local = self.spread.load_full()?;
        if local.census.is_below(panic_threshold) {
            return None;
        }
        shares(config, &self.locality, &local.zones, upstream)
    }
}

impl Zone {
    /// As the control plane sees it.
    fn of(endpoints: &LocalityEndpoints) -> Self {
        let healthy = || endpoints.endpoints.iter().filter(|endpoint| endpoint.health.is_usable());
        let healthy = Counted {
            number: healthy().count() as u64,
            weight: healthy().map(|endpoint| u64::from(endpoint.weight)).sum(),
        };
        let (locality, total) = (endpoints.locality.clone(), endpoints.endpoints.len() as u64);
        Self { locality, total, healthy, ready: healthy }
    }

    fn counts(&self, basis: LocalityBasis) -> u64 {
        match basis {
            LocalityBasis::HealthyNumber => self.healthy.number,
            LocalityBasis::HealthyWeight => self.healthy.weight,
        }
    }
}

/// What part of the calls of a process at `own` each locality gets.
fn shares(config: &ZoneAware, own: &Locality, local: &[Zone], upstream: &[Zone]) -> Option<Vec<u32>> {
    let of_several = |zones: &[Zone]| zones.iter().filter(|zone| zone.total > 0).count() > 1;
    let is_spread = of_several(upstream) && (of_several(local) || config.force_local_zone.is_some());
    let is_known = local.iter().any(|zone| *zone.locality == *own && zone.total > 0);
    let size: u64 = upstream.iter().map(|zone| zone.healthy.number).sum();
    if !is_spread || !is_known || size < config.min_cluster_size {
        return None;
    }
    let ready = ready(upstream);
    let here = ready.iter().map(|zone| parts(&ready, zone, config.basis)).collect::<Vec<_>>();
    let zones = by_zone(config, own, local, &ready, &here);
    let enabled = u64::from(config.routing_enabled);
    let blend = |(zone, all): (&u64, &u64)| (enabled * zone + (100 - enabled) * all * WHOLE) / 100;
    let blended: Vec<u32> = zones.iter().zip(&here).map(|part| blend(part) as u32).collect();
    blended.iter().any(|weight| *weight > 0).then_some(blended)
}

/// What cannot take a call now is not healthy, unless nothing can: one endpoint that is connected must not get the calls of
/// all that are not yet.
fn ready(upstream: &[Zone]) -> Vec<Zone> {
    let any = upstream.iter().any(|zone| zone.ready.number > 0);
    let mut zones = upstream.to_vec();
    zones.iter_mut().filter(|_| any).for_each(|zone| zone.healthy = zone.ready);
    zones
}

/// The share of one locality, in [`WHOLE`] parts.
fn parts(zones: &[Zone], zone: &Zone, basis: LocalityBasis) -> u64 {
    let all: u64 = zones.iter().map(|zone| zone.counts(basis)).sum();
    (WHOLE * zone.counts(basis)).checked_div(all).unwrap_or(0)
}

/// Of the calls that go by zones, in [`WHOLE`] × [`WHOLE`] parts; `here` are the shares of the endpoints.
fn by_zone(config: &ZoneAware, own: &Locality, local: &[Zone], upstream: &[Zone], here: &[u64]) -> Vec<u64> {
    let callers = |zone: &Zone| {
        let same = local.iter().find(|local| local.locality == zone.locality);
        same.map_or(0, |same| parts(local, same, config.basis))
    };
    let own = upstream.iter().position(|zone| *zone.locality == *own);
    let staying = own.map_or(0, |own| {
        let is_forced =
            config.force_local_zone.is_some_and(|least| upstream[own].healthy.number >= u64::from(least).max(1));
        match (here[own], callers(&upstream[own])) {
            (0, _) => 0,
            (here, callers) if here >= callers || is_forced => WHOLE,
            (here, callers) => here * WHOLE / callers,
        }
    });
    let leaving = WHOLE - staying;
    let capacity = |(at, zone): (usize, &Zone)| match own {
        Some(own) if at == own => 0,
        _ => here[at].saturating_sub(callers(zone)),
    };
    let mut capacities: Vec<u64> = upstream.iter().enumerate().map(capacity).collect();
    if capacities.iter().all(|capacity| *capacity == 0) {
        // Parts are whole numbers, and callers that are not healthy are part of no zone: what is left of them all may be none.
        capacities = here.to_vec();
    }
    let sum = capacities.iter().sum::<u64>().max(1);
    let weight = |(at, capacity): (usize, &u64)| {
        let stays = if own == Some(at) { staying * WHOLE } else { 0 };
        stays + leaving * WHOLE * capacity / sum
    };
    capacities.iter().enumerate().map(weight).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zone(name: &str, healthy: u64) -> Zone {
        let locality = Locality { zone: name.into(), ..Locality::default() };
        let counted = Counted { number: healthy, weight: healthy };
        Zone { locality: Arc::new(locality), total: healthy, healthy: counted, ready: counted }
    }

    /// Zones a, b and c with so many endpoints.
    fn zones(healthy: &[u64]) -> Vec<Zone> {
        ["a", "b", "c", "d", "e"].into_iter().zip(healthy).map(|(name, healthy)| zone(name, *healthy)).collect()
    }

    /// Of a process in `a`, in percent.
    fn percents(config: &ZoneAware, local: &[Zone], upstream: &[Zone]) -> Option<Vec<f64>> {
        let own = Locality { zone: "a".into(), ..Locality::default() };
        let weights = shares(config, &own, local, upstream)?;
        let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        Some(weights.iter().map(|weight| (f64::from(*weight) * 1000.0 / sum).round() / 10.0).collect())
    }

    #[test]
    fn calls_stay_in_their_zone_as_far_as_its_share_of_the_endpoints_allows() {
        let rows: &[(&[u64], &[u64], &[f64])] = &[
            // The same spread, and more endpoints than callers here: all stay.
            (&[2, 2, 2], &[3, 3, 3], &[100.0, 0.0, 0.0]),
            (&[2, 4, 4], &[4, 3, 3], &[100.0, 0.0, 0.0]),
            // Envoy's comment: 20 % of the callers and 10 % of the endpoints, so half stay. b has 5 points to spare, c 5.
            (&[20, 40, 40], &[10, 45, 45], &[50.0, 25.0, 25.0]),
            // The other one: 40, 40 and 20 % of the callers, 25, 50 and 25 % of the endpoints: spare are 10 and 5 points.
            (&[40, 40, 20], &[25, 50, 25], &[62.5, 25.0, 12.5]),
            // c has fewer endpoints than its own callers need, and gets none.
            (&[50, 10, 40], &[25, 45, 30], &[50.0, 50.0, 0.0]),
            // No endpoint here: all leave, by what the others have to spare.
            (&[50, 25, 25], &[0, 60, 40], &[0.0, 70.0, 30.0]),
            // b has less of them than of the callers, c has no callers.
            (&[10, 90, 0], &[0, 10, 10], &[0.0, 0.0, 100.0]),
        ];
        for (local, upstream, wanted) in rows {
            let config = ZoneAware { min_cluster_size: 1, ..ZoneAware::default() };
            let found = percents(&config, &zones(local), &zones(upstream));
            assert_eq!(found.as_deref(), Some(*wanted), "{local:?} to {upstream:?}");
        }
    }

    #[test]
    fn calls_do_not_go_by_zones_where_that_would_not_be_known_or_not_be_worth_it() {
        let config = ZoneAware::default();
        let by_zones = |local: &[u64], upstream: &[u64]| percents(&config, &zones(local), &zones(upstream)).is_some();
        assert!(by_zones(&[1, 1], &[3, 3]));
        assert!(!by_zones(&[1, 1], &[3, 2]), "fewer than 6 endpoints");
        assert!(!by_zones(&[1, 1], &[6]), "the endpoints are all in one zone");
        assert!(!by_zones(&[1, 1], &[6, 0]), "the same");
        assert!(!by_zones(&[2], &[3, 3]), "the callers are");
        assert!(!by_zones(&[0, 1, 1], &[3, 3]), "none of them is here");
        let none = Counted::default();
        let gone = Zone { healthy: none, ready: none, ..zone("b", 3) };
        let config = ZoneAware { min_cluster_size: 3, ..config };
        let found = percents(&config, &zones(&[1, 1]), &[zone("a", 3), gone]);
        assert_eq!(found, Some(vec![100.0, 0.0]), "a zone without a healthy endpoint is one still");
    }

    #[test]
    fn an_endpoint_that_takes_no_calls_yet_counts_for_nothing_while_another_does() {
        let config = ZoneAware::default();
        let unready = |name: &str| Zone { ready: Counted::default(), ..zone(name, 3) };
        let partly = Zone { ready: Counted { number: 1, weight: 1 }, ..zone("a", 9) };
        let found = percents(&config, &zones(&[1, 1]), &[partly, zone("b", 9)]);
        assert_eq!(found, Some(vec![20.0, 80.0]), "a tenth of the endpoints is in a, and half of the callers");
        let found = percents(&config, &zones(&[1, 1]), &[unready("a"), zone("b", 3)]);
        assert_eq!(found, Some(vec![0.0, 100.0]));
        let found = percents(&config, &zones(&[1, 1]), &[unready("a"), unready("b")]);
        assert_eq!(found, Some(vec![100.0, 0.0]), "where it is to go");
    }

    #[test]
    fn part_of_the_calls_goes_by_zones_if_that_is_what_is_asked() {
        let config = ZoneAware { routing_enabled: 60, ..ZoneAware::default() };
        let found = percents(&config, &zones(&[1, 1]), &zones(&[5, 5]));
        assert_eq!(found, Some(vec![80.0, 20.0]), "60 % to a, and half of the others");
        let none = ZoneAware { routing_enabled: 0, ..config };
        assert_eq!(percents(&none, &zones(&[1, 1]), &zones(&[5, 15])), Some(vec![25.0, 75.0]));
    }

    #[test]
    fn all_calls_stay_where_that_is_forced() {
        let forced = |least| ZoneAware { force_local_zone: Some(least), ..ZoneAware::default() };
        let (local, upstream) = (zones(&[8, 1]), zones(&[2, 8]));
        assert_eq!(percents(&forced(2), &local, &upstream), Some(vec![100.0, 0.0]));
        assert_ne!(percents(&forced(3), &local, &upstream), Some(vec![100.0, 0.0]), "too few endpoints here");
        assert_eq!(percents(&forced(0), &local, &zones(&[0, 8, 1])).map(|found| found[0]), Some(0.0));
        assert_eq!(
            percents(&forced(1), &zones(&[3]), &upstream),
            Some(vec![100.0, 0.0]),
            "one zone of callers will do"
        );
    }

    #[test]
    fn weights_count_instead_of_endpoints_if_that_is_the_basis() {
        let config = ZoneAware { basis: LocalityBasis::HealthyWeight, ..ZoneAware::default() };
        let heavy = |name: &str, weight: u64| {
            let counted = Counted { number: 3, weight };
            Zone { healthy: counted, ready: counted, ..zone(name, 3) }
        };
        let found = percents(&config, &[heavy("a", 40), heavy("b", 60)], &[heavy("a", 20), heavy("b", 80)]);
        assert_eq!(found, Some(vec![50.0, 50.0]));
    }

    fn counts() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(0..50_u64, 2..6)
    }

    #[test]
    fn where_the_callers_here_are_not_healthy_calls_go_by_the_number_of_endpoints() {
        let config = ZoneAware { min_cluster_size: 1, ..ZoneAware::default() };
        let local = [Zone { healthy: Counted::default(), ..zone("a", 1) }, zone("b", 9), zone("c", 1)];
        assert_eq!(percents(&config, &local, &zones(&[0, 9, 1])), Some(vec![0.0, 90.0, 10.0]));
    }

    proptest! {
        /// What makes it fair: when every caller does the same, no endpoint gets more than its part, unless a zone of callers
        /// has no way to send less.
        #[test]
        fn what_all_callers_send_is_spread_over_the_endpoints_by_their_number(local in counts(), upstream in counts()) {
            let (local, upstream) = (zones(&local), zones(&upstream));
            prop_assume!(upstream.iter().map(|zone| zone.healthy.number).sum::<u64>() > 0);
            // Zones of callers alone have no part in it: Envoy takes them for callers of nowhere.
            prop_assume!(local.len() <= upstream.len());
            let config = ZoneAware { min_cluster_size: 1, ..ZoneAware::default() };
            let callers: u64 = local.iter().map(|zone| zone.healthy.number).sum();
            let endpoints: u64 = upstream.iter().map(|zone| zone.healthy.number).sum();
            let mut loads = vec![0.0; upstream.len()];
            for from in &local {
                let Some(weights) = shares(&config, &from.locality, &local, &upstream) else { continue };
                prop_assert!(weights.iter().zip(&upstream).all(|(weight, zone)| *weight == 0 || zone.healthy.number > 0));
                let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
                prop_assert!((sum - 1e8).abs() <= 1e4, "{weights:?}");
                let part = from.healthy.number as f64 / callers.max(1) as f64;
                loads.iter_mut().zip(&weights).for_each(|(load, weight)| *load += part * f64::from(*weight) / sum);
            }
            for (load, zone) in loads.iter().zip(&upstream) {
                let fair = zone.healthy.number as f64 / endpoints as f64;
                prop_assert!(*load <= fair + 0.002, "{load} instead of {fair}");
            }
        }
    }
}

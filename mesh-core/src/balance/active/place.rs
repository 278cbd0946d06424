//! Which endpoints a part has: those of its priority that are usable and wanted, each with its subchannel.

use std::cell::LazyCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Active;
use super::members::{Locality, Members, Placed, candidates, is_same};
use crate::balance::policy::{OwnPolicy, PickFirst, Plan};
use crate::balance::spill::Takes;
use crate::balance::subset;
use crate::balance::zones::LocalCluster;
use crate::connect::{Connect, Security, Subchannel};
use crate::profile::Profile;
use crate::resource::cluster::Subset;
use crate::resource::endpoints::{Address, Endpoint, Health, LocalityEndpoints, Priority};
use crate::resource::zone_aware::ZoneAware;

impl<C: Connect> Active<C> {
    /// The priority of a part, and which of its endpoints belong to it.
    fn part(&self, part: usize) -> (usize, Takes) {
        match (self.profile, part % 2) {
            (Profile::Grpc, _) => (part, Takes::Healthy),
            (Profile::Envoy, 0) if self.disregards_health(part / 2) => (part / 2, Takes::All),
            (Profile::Envoy, 0) => (part / 2, Takes::Healthy),
            (Profile::Envoy, _) => (part / 2, Takes::Degraded),
        }
    }

    /// Whether each locality of a part has a policy of its own.
    fn by_locality(&self, part: usize) -> bool {
        match self.zone_aware() {
            // Only the first priority goes by zones, and of that the healthy endpoints.
            Some(_) => part == 0 && self.zones.is_some(),
            None => self.config.cluster.balancing.by_locality,
        }
    }

    /// How calls go by zones, if they are to.
    pub(in crate::balance) fn zone_aware(&self) -> Option<(&ZoneAware, &LocalCluster)> {
        let config = self.config.cluster.balancing.zones.as_ref()?;
        let local = self.local_cluster.as_deref().filter(|_| self.profile == Profile::Envoy)?;
        Some((config, local))
    }

    /// The endpoints of a part, and what their policies make of them.
    pub(super) fn gather(&mut self, part: usize, mut old: Option<&mut Members<C>>) -> Members<C> {
        let (priority, takes) = self.part(part);
        let endpoints = self.config.endpoints.clone();
        let priority = &endpoints.priorities[priority];
        let subset = self.subset(priority, takes);
        let firsts = self.firsts(priority, takes, subset.as_ref(), old.as_deref_mut());
        let old = old.as_deref();
        let localities = if firsts.is_empty() {
            self.place(priority, takes, subset.as_ref(), old)
        } else {
            let wanted = firsts.iter().flat_map(PickFirst::wanted).collect();
            self.place(priority, takes, Some(&wanted), old)
        };
        let policy = &self.config.cluster.balancing.policy;
        let size = if self.by_locality(part) { 1 } else { localities.len().max(1) };
        let old = old.filter(|old| policy.is_hashing() && old.policy == *policy);
        let own = self.own.clone().or_else(|| self.named.as_ref().map(OwnPolicy::of));
        let plan = |group: &[Locality<C>]| {
            if let Some(own) = &own {
                return Plan::own(own.clone(), policy.slow_start());
            }
            let unchanged = |(other, _): &(&[Locality<C>], &Plan)| is_same(other, group);
            let kept = old.and_then(|old| old.groups().find(unchanged)).map(|(_, plan)| plan.clone());
            kept.unwrap_or_else(|| Plan::new(policy, || candidates(group)))
        };
        let plans = localities.chunks(size).map(plan).collect();
        let period = self.reports().and_then(|config| config.out_of_band());
        self.may_report |= period.is_some();
        if self.may_report {
            let endpoints = localities.iter().flat_map(|locality| &locality.endpoints);
            endpoints.for_each(|endpoint| endpoint.subchannel.report_every(period));
        }
        Members { policy: policy.clone(), localities, plans, firsts }
    }

    /// The subchannels of a priority, or of those of its endpoints that are `used`. Most endpoints are where they were in
    /// `old`, but for those that came or went before them, which spares looking them up.
    fn place(
        &mut self,
        priority: &Priority,
        takes: Takes,
        used: Option<&HashSet<&Address>>,
        old: Option<&Members<C>>,
    ) -> Vec<Locality<C>> {
        let old: Vec<_> = old.into_iter().flat_map(Members::subchannels).collect();
        let mut at = 0;
        let mut localities = Vec::with_capacity(priority.localities.len());
        for locality in &priority.localities {
            self.stamp += 1;
            let mut endpoints = Vec::with_capacity(locality.endpoints.len());
            for endpoint in
                takes.of(locality).filter(|endpoint| used.is_none_or(|used| used.contains(&endpoint.address)))
            {
                let here = |at: &usize| {
                    old.get(*at)
                        .is_some_and(|old| *old.address() == endpoint.address && self.is_secured_for(old, endpoint))
                };
                let subchannel = match [at, at + 1].into_iter().find(here) {
                    _ if self.is_taken(endpoint) => self.subchannels[&endpoint.address].clone(),
                    Some(found) => {
                        at = found + 1;
                        old[found].clone()
                    }
                    None => self.subchannel(endpoint),
                };
                self.may_move |= endpoint.reached_at().is_some();
                if self.may_move {
                    subchannel.move_to(endpoint.reached_at());
                }
                self.may_be_named |= endpoint.authority().is_some();
                // One address has one authority: that of the name that comes first, for which it is secured, too.
                if self.may_be_named && subchannel.stamp.load(Ordering::Relaxed) <= self.released {
                    subchannel.stats.set_authority(endpoint.authority());
                }
                // An endpoint listed twice counts once (A48).
                if subchannel.stamp.swap(self.stamp, Ordering::Relaxed) != self.stamp {
                    let hash_key = endpoint.hash_key().cloned();
                    let health = endpoint.health;
                    endpoints.push(Placed { subchannel, health, weight: endpoint.weight, hash_key });
                }
            }
            localities.push(Locality { id: locality.locality.clone(), weight: locality.weight, endpoints });
        }
        localities
    }

    /// The endpoints of the priority that are used; `None`: all of them.
    fn subset<'e>(&self, priority: &'e Priority, takes: Takes) -> Option<HashSet<&'e Address>> {
        let addresses = |locality: &'e LocalityEndpoints| takes.of(locality).map(|endpoint| &endpoint.address);
        let localities = priority.localities.iter();
        Some(match self.config.cluster.balancing.subset? {
            Subset::OfPriority(size) => subset::choose(localities.flat_map(addresses), size, self.salt),
            Subset::OfLocality(size) => {
                localities.flat_map(|locality| subset::choose(addresses(locality), size, self.salt)).collect()
            }
        })
    }

    /// Whether the address stands in the cluster before, under another name. One address has one subchannel, secured for
    /// the name that comes first: a second one would drain it.
    pub(super) fn is_taken(&self, endpoint: &Endpoint) -> bool {
        let may_differ = self.config.cluster.securities().any(|security| security.is_some());
        let known = self.subchannels.get(&endpoint.address).filter(|_| may_differ);
        let is_in_use = |known: &&Arc<Subchannel<C>>| known.stamp.load(Ordering::Relaxed) > self.released;
        known.filter(is_in_use).is_some_and(|known| !self.is_secured_for(known, endpoint))
    }

    pub(super) fn subchannel(&mut self, endpoint: &Endpoint) -> Arc<Subchannel<C>> {
        let address = &endpoint.address;
        if let Some(subchannel) = self.subchannels.get(address)
            && self.is_secured_for(subchannel, endpoint)
        {
            return subchannel.clone();
        }
        let security = self.security(endpoint);
        if let Some(security) = &security {
            self.environment.leaving.reconsider_at(&self.environment.criteria, address, security);
        }
        let subchannel =
            Subchannel::start(address.clone(), endpoint.reached_at().cloned(), security, &self.environment);
        subchannel.stats.set_authority(endpoint.authority());
        // Until it returns, whatever becomes of its connections.
        subchannel.stats.set_ejected(self.is_ejected(address));
        if let Some(old) = self.subchannels.insert(address.clone(), subchannel.clone()) {
            leave(&old, subchannel.security.as_ref());
        }
        subchannel
    }

    /// As its cluster asks, unless that is plaintext and the mesh forbids it: then it is listed, and never connected.
    #[cfg(feature = "tls")]
    fn security(&self, endpoint: &Endpoint) -> Option<Security> {
        let cluster = &self.config.cluster;
        let asked = cluster.security_of(endpoint).map(|context| &**context);
        match self.floor.check_endpoint(&cluster.name, asked) {
            Ok(()) => Security::of(cluster, endpoint),
            Err(error) => {
                let (cluster_name, address) = (&*cluster.name, &endpoint.address);
                tracing::warn!(cluster = cluster_name, endpoint = %address, "an endpoint is not used: {error}");
                Some(Security::of(cluster, endpoint).unwrap_or_else(|| Security::forbidden(cluster)))
            }
        }
    }

    #[cfg(not(feature = "tls"))]
    fn security(&self, endpoint: &Endpoint) -> Option<Security> {
        Security::of(&self.config.cluster, endpoint)
    }

    /// No call is made any more on a connection that was made by another security context.
    pub(super) fn forget_secured_otherwise(&mut self) {
        let (cluster, priorities) = (&self.config.cluster, &self.config.endpoints.priorities);
        let endpoints = LazyCell::new(|| {
            let localities = priorities.iter().flat_map(|priority| &priority.localities);
            let endpoints = localities.flat_map(|locality| &locality.endpoints);
            // An address that is listed twice is secured for the name that comes first.
            endpoints.rev().map(|endpoint| (&endpoint.address, endpoint)).collect::<HashMap<_, _>>()
        });
        let successor = |address: &Address| Security::of(cluster, endpoints.get(address)?);
        self.subchannels.retain(|address, subchannel| {
            let known = subchannel.security.as_ref().and_then(|security| security.context.as_ref());
            // Those of endpoints that are secured by another one of these now are found when they are placed.
            let is_same = cluster.securities().any(|wanted| wanted == known);
            if !is_same {
                leave(subchannel, successor(address).as_ref());
            }
            is_same
        });
        self.environment.leaving.reconsider(&self.environment.criteria, successor);
    }

    /// Whether its connections are secured as the cluster now asks.
    pub(super) fn is_secured_for(&self, subchannel: &Subchannel<C>, endpoint: &Endpoint) -> bool {
        Security::is_of(subchannel.security.as_ref(), &self.config.cluster, endpoint)
    }

    /// Lets go of the subchannels that were not stamped since. What is draining takes no calls, and keeps its connections
    /// and the calls it has, until it is gone or takes calls again.
    pub(super) fn release(&mut self, before: u64) {
        let endpoints = self.config.endpoints.clone();
        let draining = LazyCell::new(|| {
            let endpoints = endpoints.priorities.iter().flat_map(|priority| &priority.localities);
            let endpoints = endpoints.flat_map(|locality| &locality.endpoints);
            let draining = endpoints.filter(|endpoint| endpoint.health == Health::Draining);
            draining.map(|endpoint| &endpoint.address).collect::<HashSet<_>>()
        });
        self.keep_for_sessions();
        let Self { subchannels, for_sessions, .. } = self;
        subchannels.retain(|address, subchannel| {
            let used = subchannel.stamp.load(Ordering::Relaxed) > before
                || for_sessions.contains(address)
                || draining.contains(address);
            if !used {
                subchannel.drain();
            }
            used
        });
    }
}

/// Takes no new calls from now on. Those it has go on to their end, unless they are with one whom the context that takes the
/// place of its own does not let in.
fn leave<C: Connect>(subchannel: &Subchannel<C>, successor: Option<&Security>) {
    match successor {
        Some(successor) => subchannel.drain_for(successor),
        None => subchannel.drain(),
    }
}

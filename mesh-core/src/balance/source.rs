//! Whom a call waits for: its cluster, or whichever leaf takes the calls of its aggregate.

use std::pin::pin;
use std::sync::Arc;

use super::aggregate::Aggregate;
use super::balancer::Balancer;
use super::picker::Picked;
use super::wait::{Terms, Wait, wait};
use crate::connect::Connect;
use crate::error::Error;

pub(crate) enum Source<C: Connect> {
    Cluster(Arc<Balancer<C>>),
    Aggregate(Arc<Aggregate<C>>),
}

impl<C: Connect> Source<C> {
    /// Where to pick at the moment.
    pub(crate) fn balancer(&self) -> Arc<Balancer<C>> {
        match self {
            Source::Cluster(balancer) => balancer.clone(),
            Source::Aggregate(aggregate) => aggregate.balancer(),
        }
    }

    /// Picks, and waits as long as that makes sense.
    pub(crate) fn wait(self, terms: Terms) -> Wait<C> {
        match self {
            Source::Cluster(balancer) => Box::pin(wait(balancer, terms)),
            Source::Aggregate(aggregate) => Box::pin(wait_for_leaf(aggregate, terms)),
        }
    }
}

impl<C: Connect> Clone for Source<C> {
    fn clone(&self) -> Self {
        match self {
            Source::Cluster(balancer) => Source::Cluster(balancer.clone()),
            Source::Aggregate(aggregate) => Source::Aggregate(aggregate.clone()),
        }
    }
}

/// Waits at the leaf that takes the calls, and goes with them when another does.
async fn wait_for_leaf<C: Connect>(aggregate: Arc<Aggregate<C>>, terms: Terms) -> Result<Picked<C>, Error> {
    loop {
        // Registered before the look, so that no news falls in between.
        let mut changed = pin!(aggregate.changed.notified());
        changed.as_mut().enable();
        let leaf = aggregate.balancer();
        let outcome = tokio::select! {
            outcome = wait(leaf.clone(), terms.clone()) => outcome,
            () = changed => continue,
        };
        // A leaf that failed just now is no reason to fail if another takes its place.
        if outcome.is_ok() || Arc::ptr_eq(&leaf, &aggregate.balancer()) {
            return outcome;
        }
    }
}

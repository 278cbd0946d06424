//! Aggregate clusters (A37, A74): the clusters that one leads to, in order, without the aggregates among them.

use std::sync::Arc;

use super::Dependencies;
use super::view::{Missing, View, read};
use crate::names::NameIndexSet;
use crate::resource::CLUSTER;
use crate::resource::cluster::{Cluster, Discovery};
use crate::snapshot::{ClusterEntry, Problem};

/// How deep aggregates may be nested, the first included (A37).
const MAX_DEPTH: usize = 16;

/// What an aggregate leads to.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Every cluster that was met, itself included.
    pub(super) members: NameIndexSet<Arc<str>>,
    /// The usable ones that have endpoints, each where it was first met.
    leaves: Vec<Arc<ClusterEntry>>,
    /// What has no verdict yet.
    awaits: Option<String>,
    /// What is wrong with the first that cannot be used. It is passed over: a leaf that does not exist must not fail an
    /// aggregate that has others (A74).
    skipped: Option<Problem>,
    /// From the aggregate down to where the walk is.
    path: Vec<Arc<str>>,
}

impl Walk {
    /// The leaves, if everything has a verdict and there are any.
    pub(super) fn finish(self, name: &str) -> Result<Vec<Arc<ClusterEntry>>, Missing> {
        match self.awaits {
            Some(what) => Err(Missing::Pending(what)),
            None if self.leaves.is_empty() => Err(Missing::Behind(no_leaf(name, self.skipped))),
            None => Ok(self.leaves),
        }
    }
}

impl Dependencies {
    /// Follows an aggregate down to its leaves, watching whatever it meets.
    ///
    /// # Errors
    ///
    /// When aggregates name each other in a circle, or are nested too deep.
    pub(super) fn walk(&mut self, name: &Arc<str>, walk: &mut Walk, view: &impl View) -> Result<(), Problem> {
        if let Some(start) = walk.path.iter().position(|above| above == name) {
            return Err(cycle(&walk.path[start..], name));
        }
        if walk.path.len() == MAX_DEPTH {
            return Err(too_deep(&walk.path));
        }
        if !walk.members.insert(name.clone()) {
            return Ok(());
        }
        self.follow(name);
        match read::<Cluster>(view, &CLUSTER, name) {
            Err(Missing::Pending(what)) => walk.awaits = walk.awaits.take().or(Some(what)),
            Err(Missing::Absent(problem) | Missing::Behind(problem)) => {
                walk.skipped = walk.skipped.take().or(Some(problem))
            }
            Ok(cluster) => match &cluster.discovery {
                Discovery::Aggregate(names) => {
                    walk.path.push(name.clone());
                    names.iter().try_for_each(|name| self.walk(name, walk, view))?;
                    walk.path.pop();
                }
                _ => self.add_leaf(name, walk, view),
            },
        }
        Ok(())
    }

    fn add_leaf(&mut self, name: &Arc<str>, walk: &mut Walk, view: &impl View) {
        self.refresh_cluster(name, view);
        let Some(state) = self.clusters.get(name) else { return };
        match &state.entry {
            None => walk.awaits = walk.awaits.take().or_else(|| state.awaits.clone()),
            Some(entry) => match &entry.config {
                Ok(_) => walk.leaves.push(entry.clone()),
                Err(problem) => walk.skipped = walk.skipped.take().or_else(|| Some(problem.clone())),
            },
        }
    }
}

fn no_leaf(name: &str, skipped: Option<Problem>) -> Problem {
    let why = skipped.map(|first| format!(": {first}")).unwrap_or_default();
    wrong(name, format!("aggregate cluster `{name}` has no usable cluster{why}"))
}

fn cycle(path: &[Arc<str>], name: &str) -> Problem {
    let chain = path.iter().map(|above| &**above).chain([name]).collect::<Vec<_>>().join(" > ");
    wrong(&path[0], format!("aggregate clusters form a cycle: {chain}"))
}

fn too_deep(path: &[Arc<str>]) -> Problem {
    let chain = path.iter().map(|above| &**above).collect::<Vec<_>>().join(" > ");
    wrong(&path[0], format!("aggregate clusters are nested more than {MAX_DEPTH} deep: {chain}"))
}

fn wrong(name: &str, message: String) -> Problem {
    Problem {
        message: message.into(),
        resource: format!("Cluster `{name}`").into(),
        next_step: "correct what the aggregates name in `clusters`",
    }
}

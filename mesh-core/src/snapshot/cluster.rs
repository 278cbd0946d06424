//! One cluster of a snapshot, shared by all snapshots in which it did not change.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use super::Problem;
use crate::connect::ConnectivityState;
use crate::error::Error;
use crate::resource::cluster::Cluster;
use crate::resource::endpoints::Endpoints;

/// A cluster with its endpoints, or why it cannot be used.
#[derive(Debug)]
pub(crate) struct ClusterEntry {
    pub(crate) key: ClusterKey,
    pub(crate) config: Result<ClusterConfig, Problem>,
    pub(crate) attachment: Attachment,
    pub(crate) retry_budget: Attachment,
}

impl ClusterEntry {
    pub(crate) fn new(key: ClusterKey, config: Result<ClusterConfig, Problem>) -> Self {
        Self { key, config, attachment: Attachment::default(), retry_budget: Attachment::default() }
    }
}

/// Names a cluster among all that a mesh knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClusterKey {
    /// Who defines the cluster: the control plane, or the target of a cluster made without one.
    pub(crate) source: Arc<str>,
    pub(crate) name: Arc<str>,
}

/// What is known of a usable cluster.
#[derive(Clone, Debug)]
pub(crate) struct ClusterConfig {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) endpoints: Arc<Endpoints>,
}

/// What keeps the clusters' running state: told of new entries before calls see them, and asked how they are.
pub(crate) trait PrepareClusters: Send + Sync {
    /// Gives the entries the running state of their clusters, and that state the entries' endpoints.
    fn attach(&self, entries: &[Arc<ClusterEntry>]);

    /// Starts to connect a cluster that calls will go to.
    fn prepare(&self, entry: &Arc<ClusterEntry>) -> watch::Receiver<ConnectivityState>;

    /// Why a cluster has no ready endpoint after a wait.
    fn not_ready(&self, entry: &ClusterEntry, waited: Duration) -> Error;
}

/// Where a layer keeps its running state of a cluster, so that a call needs no lookup by name. The state itself
/// is keyed by name and outlives the entry.
#[derive(Default)]
pub(crate) struct Attachment(OnceLock<Arc<dyn Any + Send + Sync>>);

impl Attachment {
    pub(crate) fn get<T: Any>(&self) -> Option<&T> {
        self.0.get()?.downcast_ref()
    }

    pub(crate) fn get_or_init<T: Any + Send + Sync>(&self, init: impl FnOnce() -> Arc<T>) -> Option<&T> {
        self.0.get_or_init(|| init()).downcast_ref()
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Attachment").field(&self.0.get().is_some()).finish()
    }
}

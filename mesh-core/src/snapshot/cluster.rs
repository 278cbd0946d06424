//! One cluster of a snapshot, shared by all snapshots in which it did not change.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::Problem;
use crate::connect::ConnectivityState;
use crate::error::Error;
use crate::resource::cluster::Cluster;
use crate::resource::endpoints::Endpoints;
use crate::resource::matcher::header::HeaderSource;

/// A cluster with its endpoints, or why it cannot be used.
#[derive(Debug)]
pub(crate) struct ClusterEntry {
    pub(crate) key: ClusterKey,
    /// Entries that are made later have greater ones: of a cluster's configurations the newest holds, whoever has it.
    pub(crate) number: u64,
    /// An aggregate has no endpoints of its own.
    pub(crate) config: Result<ClusterConfig, Problem>,
    /// Of an aggregate, the clusters it stands for.
    pub(crate) leaves: Option<Box<Leaves>>,
    /// Whether the cluster's policy goes by the hash of the request.
    pub(crate) is_hashing: bool,
    pub(crate) attachment: Attachment,
    pub(crate) retry_budget: Attachment,
    pub(crate) admission: Attachment,
}

impl ClusterEntry {
    pub(crate) fn new(key: ClusterKey, config: Result<ClusterConfig, Problem>) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let is_hashing = config.as_ref().is_ok_and(|config| config.cluster.balancing.policy.is_hashing());
        Self {
            key,
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            config,
            is_hashing,
            leaves: None,
            attachment: Attachment::default(),
            retry_budget: Attachment::default(),
            admission: Attachment::default(),
        }
    }

    /// An aggregate of these clusters; at least one, and each of them usable.
    pub(crate) fn aggregate(key: ClusterKey, cluster: Arc<Cluster>, leaves: Arc<[Arc<ClusterEntry>]>) -> Self {
        let config = ClusterConfig { cluster, endpoints: Arc::default() };
        let is_hashing = leaves.iter().any(|leaf| leaf.is_hashing);
        Self { is_hashing, leaves: Some(Box::new(Leaves::new(leaves))), ..Self::new(key, Ok(config)) }
    }

    /// The header that the cluster's policy hashes (A76): of an aggregate, the first that a leaf names.
    pub(crate) fn hash_header(&self) -> Option<&HeaderSource> {
        match &self.leaves {
            Some(leaves) => leaves.entries.iter().find_map(|leaf| leaf.hash_header()),
            None => self.config.as_ref().ok()?.cluster.balancing.policy.hash_header(),
        }
    }

    /// Whether two entries hold the same values, not only values that are alike.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let (a, b) = match (&self.config, &other.config) {
            (Ok(a), Ok(b)) => (a, b),
            (Err(a), Err(b)) => return a == b,
            _ => return false,
        };
        let same = Arc::ptr_eq(&a.cluster, &b.cluster);
        match (&self.leaves, &other.leaves) {
            (None, None) => same && Arc::ptr_eq(&a.endpoints, &b.endpoints),
            (Some(a), Some(b)) => {
                let mut pairs = a.entries.iter().zip(b.entries.iter());
                same && a.entries.len() == b.entries.len() && pairs.all(|(a, b)| Arc::ptr_eq(a, b))
            }
            _ => false,
        }
    }

    /// Of an aggregate, the cluster that takes its calls at the moment: what is asked of a call's cluster for one of its
    /// attempts is asked of this one. `None`: the cluster is no aggregate, and takes its calls itself.
    pub(crate) fn leaf(&self) -> Option<Arc<ClusterEntry>> {
        self.leaves.as_deref().map(Leaves::current)
    }
}

/// The clusters that an aggregate stands for, and which of them takes the calls (A37).
#[derive(Debug)]
pub(crate) struct Leaves {
    /// The first that can take calls takes them; at least one.
    pub(crate) entries: Arc<[Arc<ClusterEntry>]>,
    current: OnceLock<Arc<CurrentLeaf>>,
}

/// Where the balancer publishes which leaf takes the calls.
pub(crate) type CurrentLeaf = ArcSwap<ClusterEntry>;

impl Leaves {
    fn new(entries: Arc<[Arc<ClusterEntry>]>) -> Self {
        Self { entries, current: OnceLock::new() }
    }

    /// From now on the leaf is the one that is published here.
    pub(crate) fn follow(&self, current: &Arc<CurrentLeaf>) {
        self.current.get_or_init(|| current.clone());
    }

    fn current(&self) -> Arc<ClusterEntry> {
        self.current.get().map_or_else(|| self.entries[0].clone(), |current| current.load_full())
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
    /// Gives the entries the running state of their clusters, where there is one, and that state the entries' endpoints.
    fn attach(&self, entries: &[Arc<ClusterEntry>]);

    /// Starts to connect a cluster that calls will go to.
    fn prepare(&self, entry: &Arc<ClusterEntry>);

    /// How a cluster is connected at this moment.
    fn state(&self, entry: &ClusterEntry) -> ConnectivityState;

    /// Notifies the watcher, until it is dropped, of every change of this cluster's state, and of no other's.
    fn watch(&self, key: &ClusterKey, watcher: &Arc<Notify>);

    /// Whether calls of a cluster may find an endpoint; otherwise they fail, whatever they wait for.
    fn is_usable(&self, entry: &ClusterEntry) -> bool;

    /// Why a cluster has no ready endpoint after a wait, or cannot be used.
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

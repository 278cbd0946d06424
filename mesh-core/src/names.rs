//! Maps and sets by what a control plane names.
//!
//! A name is looked up dozens of times until its resource is in force, and there may be ten thousand, so the hash is a
//! fast one. Each map has a random seed of its own: no list of names makes them collide in every process. It does not
//! withstand who can watch a process's maps at work and sends keys to match. So what peers and callers choose is in maps
//! with the standard library's hash, which does; but for the clusters that calls name by a header (`cluster_header`), of
//! which there are a hundred at most.

use foldhash::fast::RandomState;

pub(crate) type NameMap<K, V> = std::collections::HashMap<K, V, RandomState>;
pub(crate) type NameSet<K> = std::collections::HashSet<K, RandomState>;
/// In the order of insertion.
pub(crate) type NameIndexMap<K, V> = indexmap::IndexMap<K, V, RandomState>;
/// In the order of insertion.
pub(crate) type NameIndexSet<K> = indexmap::IndexSet<K, RandomState>;

//! Balancing: sends each call to a READY endpoint of its cluster.
//!
//! The last layer of a call, directly above the connections. A cluster has one owner, its `Balancer`, which
//! keeps endpoints connected in the background and publishes an immutable picker; calls read the picker and nothing else.
//!
//! ```text
//! call ─ Balance ─ Call's ClusterEntry ▸ attachment ▸ Balancer ▸ Picker.pick: locality ▸ policy ▸ endpoint ▸ slot
//!          │                                             └ published anew when an endpoint's state changes
//!          ├ a session's endpoint goes before the policy (A55)
//!          ├ none ready or no slot ─ wait: while there is hope, within deadline and max_wait, max_pending of them
//!          ├ unsent ─ again elsewhere, without limit
//!          └ refused ─ again elsewhere, once
//! Aggregate ─ Balancers of its leaves: the first that can take calls (A37)
//! Balancer ─ Active: subchannels by address ─ Priorities (A56) ─ policies: a file each in policy/
//!                                                                      └ ticker: schedules by weight are made anew
//! ```

mod active;
mod aggregate;
mod balancer;
mod body;
mod clusters;
mod error;
mod future;
mod in_force;
mod layer;
mod load;
mod locality;
mod options;
mod outlier;
mod picker;
mod policy;
mod priority;
mod recorder;
mod sessions;
mod source;
mod spill;
mod status;
mod subset;
mod summary;
mod ticker;
mod wait;
mod watchers;
mod zones;

#[cfg(test)]
mod tests;

pub use crate::resource::named_policy::PolicyConfig;
pub use body::ResponseBody;
pub use future::ResponseFuture;
pub use layer::{Balance, BalanceLayer};
pub use options::BalanceOptions;
pub use policy::{Choice, Member, PeakEwma, PickRequest, Policy, PolicyFactory};

pub(crate) use active::Ejected;
pub(crate) use clusters::Clusters;
pub(crate) use outlier::{Method, Unenforced};
pub(crate) use policy::make_policy;
pub(crate) use status::EndpointReport;
pub(crate) use zones::LocalCluster;

//! A service mesh linked into the service: discovery, routing, load balancing and deadlines as tower layers, configured

mod backoff;
#[cfg(feature = "balance")]
pub mod balance;
mod bootstrap;
mod call;
#[cfg(feature = "cluster")]
pub mod cluster;
pub mod connect;
#[cfg(feature = "discover")]
pub mod discover;
mod error;
mod http2;
mod resource;
pub mod route;
mod snapshot;
#[cfg(all(feature = "discover", feature = "balance"))]
pub mod stack;
#[cfg(feature = "timeout")]
pub mod timeout;
mod xds;
pub use bootstrap::{Bootstrap, BootstrapBuilder};
pub use call::{Call, CallInfo, CallOptions};
#[cfg(feature = "discover")]
pub use discover::Target;
pub use error::{BoxError, Error, ErrorKind};
pub use resource::endpoints::Address;
pub use resource::verdict::{FieldVerdict, Verdict, verdicts};
pub use snapshot::Snapshot;
pub use snapshot::fixed::{ClusterBuilder, RouteBuilder, SnapshotBuilder};

//! A service mesh linked into the service: discovery, routing, load balancing and deadlines as tower layers, configured

mod backoff;
mod bootstrap;
mod call;
pub mod connect;
mod error;
mod http2;
mod resource;
mod snapshot;
mod xds;
pub use bootstrap::{Bootstrap, BootstrapBuilder};
pub use call::{Call, CallInfo, CallOptions};
pub use error::{BoxError, Error, ErrorKind};
pub use resource::endpoints::Address;
pub use resource::verdict::{FieldVerdict, Verdict, verdicts};
pub use snapshot::Snapshot;
pub use snapshot::fixed::{ClusterBuilder, RouteBuilder, SnapshotBuilder};

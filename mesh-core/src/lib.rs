//! A service mesh linked into the service: discovery, routing, load balancing and deadlines as tower layers, configured

mod backoff;
mod bootstrap;
pub mod connect;
mod error;
mod http2;
mod resource;
mod xds;
pub use bootstrap::{Bootstrap, BootstrapBuilder};
pub use error::{BoxError, Error, ErrorKind};
pub use resource::endpoints::Address;
pub use resource::verdict::{FieldVerdict, Verdict, verdicts};

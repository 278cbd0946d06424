//! A service mesh linked into the service: discovery, routing, load balancing and deadlines as tower layers, configured

mod backoff;
mod bootstrap;
mod error;
mod http2;
pub use bootstrap::{Bootstrap, BootstrapBuilder};
pub use error::{BoxError, Error, ErrorKind};

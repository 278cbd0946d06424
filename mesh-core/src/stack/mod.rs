//! The recommended order of the layers, and the only place that knows it.

pub mod client;
#[cfg(feature = "server")]
pub(crate) mod server;

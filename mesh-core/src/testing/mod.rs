//! An xDS control plane for tests: of mesh itself, and of services that use it.
//!
//! [`ControlPlane`] serves ADS (state of the world) in process and over TCP, and SDS. What it serves is [`Resources`], made by
//! short builders that start from what most tests want, or of any message of [`mesh_xds_proto`]. What clients do can
//! be read and waited for; what goes wrong is scripted with [`Fault`].
//!
//! With connections in process everything runs on tokio's clock, so that a test with paused time can let a control
//! plane be silent for 15 s in no time.
//!
//! The flow: a change or a request rings a bell; each stream (`server/stream.rs`) then asks its machine (`sotw.rs`)
//! what is due, sends it through the faults (`fault.rs`), and logs what comes back (`requests.rs`).

mod build;
mod control_plane;
mod fault;
mod frame;
#[cfg(feature = "tls")]
mod peer;
mod requests;
mod resources;
mod server;
mod shared;
mod sotw;
mod store;
pub mod type_url;

pub use build::{
    ClusterBuilder, EndpointBuilder, EndpointsBuilder, FilterChainBuilder, ListenerBuilder, LocalityBuilder,
    RouteBuilder, RouteConfigBuilder, SecretBuilder, ServerListenerBuilder, VirtualHostBuilder, any, cluster, endpoint,
    endpoints, filter_chain, inline, listener, locality, route, route_config, sds, sds_of_agent, secret,
    server_listener, spiffe_validator, virtual_host,
};
pub use control_plane::{Connector, ControlPlane, ControlPlaneBuilder, RequestWatch};
pub use fault::{Fault, FaultId};
#[cfg(feature = "tls")]
pub use peer::peer;
pub use requests::{RequestKind, SeenRequest};
pub use resources::{Resource, Resources};

#[cfg(test)]
mod tests;

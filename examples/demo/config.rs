//! What the control plane serves: one listener and route configuration, and a cluster per version.

use std::net::SocketAddr;

use mesh_core::testing::{
    EndpointsBuilder, Resources, RouteBuilder, cluster, endpoints, listener, locality, route, route_config,
};

use crate::fleet::Version;

/// What the client calls, as `xds:///greeter`.
pub(crate) const SERVICE: &str = "greeter";
/// Calls that carry this header with [`STAFF`] go where [`Config::staff`] says.
pub(crate) const GROUP: &str = "x-group";
/// The group that sees a new version first.
pub(crate) const STAFF: &str = "staff";

/// A desired state of the mesh.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Of 100 calls, how many go to v2.
    pub(crate) canary: u32,
    /// Where the calls of the staff go.
    pub(crate) staff: Version,
    /// Where instances of each version are.
    pub(crate) v1: Vec<SocketAddr>,
    pub(crate) v2: Vec<SocketAddr>,
    /// Whether a call that fails is made again, and whether v2 serves for v1 when that is lost.
    pub(crate) safety: bool,
}

impl Config {
    /// The resources that say so.
    pub(crate) fn resources(&self) -> Resources {
        let staff = route().header(GROUP, STAFF).cluster(cluster_of(self.staff));
        let everyone = match self.canary {
            0 => route().cluster(cluster_of(Version::V1)),
            share => route().weighted([(cluster_of(Version::V1), 100 - share), (cluster_of(Version::V2), share)]),
        };
        let retried = |route: RouteBuilder| if self.safety { route.retry_on("unavailable", 2) } else { route };
        Resources::new()
            .with(listener(SERVICE))
            .with(route_config(SERVICE).routes([staff, everyone].map(retried)))
            .with(cluster(cluster_of(Version::V1)))
            .with(self.v1_endpoints())
            .with(cluster(cluster_of(Version::V2)))
            .with(endpoints(cluster_of(Version::V2)).all(self.v2.clone()))
    }

    fn v1_endpoints(&self) -> EndpointsBuilder {
        let first = endpoints(cluster_of(Version::V1)).all(self.v1.clone());
        if !self.safety {
            return first;
        }
        first.locality(locality("", "fallback", "").priority(1).all(self.v2.clone()))
    }
}

fn cluster_of(version: Version) -> &'static str {
    match version {
        Version::V1 => "greeter-v1",
        Version::V2 => "greeter-v2",
    }
}

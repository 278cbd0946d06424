//! What secures the connections of a cluster, and those of a server (A29, A101).

use std::fmt;
use std::sync::Arc;

use super::cluster::Cluster;
use super::endpoints::Endpoint;

#[cfg(feature = "tls")]
pub(crate) use super::downstream_tls::DownstreamTls;
#[cfg(feature = "tls")]
pub(crate) use super::upstream_tls::UpstreamTls;
#[cfg(feature = "tls")]
pub(crate) use crate::identity::{MaterialSource, Readiness};

/// Without the feature `tls` no cluster that asks for it is accepted.
#[cfg(not(feature = "tls"))]
pub(crate) type UpstreamTls = std::convert::Infallible;

/// Nothing comes from anywhere.
#[cfg(not(feature = "tls"))]
pub(crate) type MaterialSource = std::convert::Infallible;

/// Nor is any filter chain.
#[cfg(not(feature = "tls"))]
pub(crate) type DownstreamTls = std::convert::Infallible;

/// The state of what is started on demand.
#[cfg(not(feature = "tls"))]
pub(crate) type Readiness = std::convert::Infallible;

/// What the connections of a cluster take certificates and roots from that is started on demand: a configuration is put in
/// force only when it has something.
pub(crate) fn on_demand(cluster: &Cluster) -> impl Iterator<Item = &MaterialSource> {
    let contexts = cluster.securities().flatten();
    #[cfg(feature = "tls")]
    return contexts.flat_map(|context| context.sources()).filter(|source| source.is_on_demand());
    #[cfg(not(feature = "tls"))]
    return contexts.map(|context| &**context);
}

/// The same of the connections to a server.
#[cfg(all(feature = "tls", feature = "server"))]
pub(crate) fn on_demand_by_servers(security: Option<&DownstreamTls>) -> impl Iterator<Item = &MaterialSource> {
    security.into_iter().flat_map(|context| context.sources()).filter(|source| source.is_on_demand())
}

/// What secures the connections to one endpoint. Two that are equal ask for the same; a connection made for one is never
/// used for another.
#[derive(Clone, PartialEq)]
pub struct Security {
    /// The cluster's name.
    pub(crate) cluster: Arc<str>,
    /// `None`: plaintext, where what the mesh insists on forbids it. Nothing is connected so.
    pub(crate) context: Option<Arc<UpstreamTls>>,
    /// The name to ask the peer for (SNI).
    pub(crate) server_name: Option<Arc<str>>,
}

impl Security {
    /// That of an endpoint of a cluster; `None`: plaintext.
    pub(crate) fn of(cluster: &Cluster, endpoint: &Endpoint) -> Option<Self> {
        let context = cluster.security_of(endpoint)?.clone();
        let (cluster, server_name) = (cluster.name.clone(), server_name(&context, endpoint));
        Some(Self { cluster, server_name, context: Some(context) })
    }

    /// That of endpoints which are to be connected in plaintext and must not.
    #[cfg(feature = "balance")]
    pub(crate) fn forbidden(cluster: &Cluster) -> Self {
        Self { cluster: cluster.name.clone(), context: None, server_name: None }
    }

    /// Whether it is that of this endpoint.
    pub(crate) fn is_of(this: Option<&Self>, cluster: &Cluster, endpoint: &Endpoint) -> bool {
        let known = this.and_then(|this| Some((this, this.context.as_ref()?)));
        match (known, cluster.security_of(endpoint)) {
            (None, None) => true,
            (Some((this, known)), Some(context)) => {
                (Arc::ptr_eq(known, context) || known == context) && this.server_name == server_name(context, endpoint)
            }
            _ => false,
        }
    }
}

/// A101: the endpoint's host name, else the one that is configured, else none.
#[cfg(feature = "tls")]
fn server_name(context: &UpstreamTls, endpoint: &Endpoint) -> Option<Arc<str>> {
    let hostname = endpoint.hostname().cloned().filter(|_| context.auto_host_sni);
    hostname.or_else(|| context.sni.clone())
}

#[cfg(not(feature = "tls"))]
fn server_name(context: &UpstreamTls, _: &Endpoint) -> Option<Arc<str>> {
    match *context {}
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Security").field("context", &self.context).field("server_name", &self.server_name).finish()
    }
}

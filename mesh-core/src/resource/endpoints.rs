//! `ClusterLoadAssignment`: the endpoints of a cluster by priority and locality (A27, A56).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use http::uri::Authority;

use super::socket_match::SocketLabels;
use crate::error::Error;

/// The validated endpoints of one cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Endpoints {
    /// Index 0 is tried first (A56). Localities of weight 0 are not here (A27).
    pub(crate) priorities: Vec<Priority>,
    /// Shares of the calls to fail, evaluated in this order.
    pub(crate) drops: Vec<DropOverload>,
    /// In percent, at least 1; `None`: 140. For [`Profile::Envoy`](crate::Profile) alone.
    pub(crate) overprovisioning: Option<u32>,
}

impl Endpoints {
    /// Whether there is no endpoint.
    pub(crate) fn is_empty(&self) -> bool {
        let mut localities = self.priorities.iter().flat_map(|priority| &priority.localities);
        localities.all(|locality| locality.endpoints.is_empty())
    }
}

/// The localities that share one priority.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Priority {
    pub(crate) localities: Vec<LocalityEndpoints>,
}

/// The endpoints of one locality.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LocalityEndpoints {
    pub(crate) locality: Arc<Locality>,
    /// Share of the calls among the localities of the priority; at least 1.
    pub(crate) weight: u32,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// Where a set of endpoints runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Locality {
    pub(crate) region: String,
    pub(crate) zone: String,
    pub(crate) sub_zone: String,
}

/// One endpoint as the control plane describes it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Endpoint {
    pub(crate) address: Address,
    /// At least 1.
    pub(crate) weight: u32,
    pub(crate) health: Health,
    /// `None` for most, of which there are many.
    pub(crate) particulars: Option<Box<Particulars>>,
}

/// What few endpoints have.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Particulars {
    /// What policies with affinity hash instead of the address (A76).
    pub(crate) hash_key: Option<Arc<str>>,
    /// The name under which its certificate is asked for, where the cluster says so (A101).
    pub(crate) hostname: Option<Arc<str>>,
    /// The same as the authority of requests, where the route says so: of a name that is resolved, with its port (A81).
    pub(crate) authority: Option<Arc<Authority>>,
    /// By which its cluster chooses what secures its connections.
    pub(crate) socket_labels: Option<Arc<SocketLabels>>,
    /// What to connect to, in order of preference, if it is not `address` alone (A61, LOGICAL_DNS).
    pub(crate) reached_at: Option<Arc<[Address]>>,
}

impl Endpoint {
    /// An endpoint of which nothing but the address is known.
    pub(crate) fn new(address: Address) -> Self {
        Self { address, weight: 1, health: Health::Unknown, particulars: None }
    }

    pub(crate) fn with(mut self, particulars: Particulars) -> Self {
        self.particulars = Some(particulars).filter(|some| *some != Particulars::default()).map(Box::new);
        self
    }

    pub(crate) fn hash_key(&self) -> Option<&Arc<str>> {
        self.particulars.as_ref()?.hash_key.as_ref()
    }

    pub(crate) fn hostname(&self) -> Option<&Arc<str>> {
        self.particulars.as_ref()?.hostname.as_ref()
    }

    pub(crate) fn authority(&self) -> Option<&Arc<Authority>> {
        self.particulars.as_ref()?.authority.as_ref()
    }

    pub(crate) fn socket_labels(&self) -> Option<&SocketLabels> {
        self.particulars.as_ref()?.socket_labels.as_deref()
    }

    pub(crate) fn reached_at(&self) -> Option<&Arc<[Address]>> {
        self.particulars.as_ref()?.reached_at.as_ref()
    }
}

/// Health as the control plane sees it; only the first two take calls (A27).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Unknown,
    Healthy,
    Unhealthy,
    Draining,
    Timeout,
    Degraded,
}

impl Health {
    /// Whether an endpoint of this health takes calls.
    pub(crate) fn is_usable(self) -> bool {
        matches!(self, Health::Unknown | Health::Healthy)
    }
}

/// A share of the calls that the control plane asks to fail.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DropOverload {
    pub(crate) category: Arc<str>,
    /// Of a million calls; at most 1,000,000.
    pub(crate) per_million: u32,
}

/// The address of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Address {
    /// A TCP address.
    Socket(SocketAddr),
    /// The path of a Unix socket.
    Unix(Arc<Path>),
    /// A host name, resolved each time a connection is made.
    Host(Arc<str>, u16),
}

/// Assignments have thousands of IPv4 addresses: one number is hashed faster than their parts one by one.
impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Address::Socket(SocketAddr::V4(address)) => {
                state.write_u64(u64::from(address.ip().to_bits()) << 16 | u64::from(address.port()));
            }
            Address::Socket(SocketAddr::V6(address)) => address.hash(state),
            Address::Unix(path) => path.hash(state),
            Address::Host(name, port) => (name, port).hash(state),
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    /// Reads `127.0.0.1:80`, `[::1]:80`, `host:80` or `unix:/path`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let problem = |what: String| Error::setup(format!("read address `{text}`: {what}"));
        if let Ok(socket) = text.parse() {
            return Ok(Address::Socket(socket));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Address::Unix(Path::new(path).into()));
        }
        let (host, port) =
            text.rsplit_once(':').ok_or_else(|| problem(format!("it has no port: write `{text}:PORT`")))?;
        if host.contains(':') {
            return Err(problem(format!("write an IPv6 address in brackets, `[{host}]:{port}`")));
        }
        let port = port.parse().map_err(|_| problem(format!("port `{port}` is not a number from 0 to 65535")))?;
        if host.is_empty() || host.contains('/') {
            return Err(problem(format!("`{host}` is not a host name")));
        }
        Ok(Address::Host(host.into(), port))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Socket(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Host(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

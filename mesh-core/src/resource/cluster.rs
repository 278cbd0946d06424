//! `Cluster`: how to find and balance the endpoints of one cluster (A27, A32, A48, A50, A52).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::circuit_breakers::CircuitBreakers;
use super::endpoints::{Address, Endpoint, Endpoints, Health};
use super::matcher::header::HeaderSource;
use super::named_policy::NamedPolicy;
use super::outlier_detection::OutlierDetection;
use super::security::UpstreamTls;
use super::slow_start::SlowStart;
use super::socket_match::SocketMatch;
use super::weighted_round_robin::WeightedRoundRobin;
use super::zone_aware::ZoneAware;
use crate::origin::{Origin, Sourced};

/// A validated cluster.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cluster {
    pub(crate) name: Arc<str>,
    pub(crate) discovery: Discovery,
    pub(crate) balancing: Balancing,
    /// Who chose how calls are balanced.
    pub(crate) balanced_by: Origin,
    /// `None`: 5 s.
    pub(crate) connect_timeout: Option<Duration>,
    /// In percent; for [`Profile::Envoy`](crate::Profile) alone.
    pub(crate) panic_threshold: Sourced<u32>,
    pub(crate) outlier_detection: Option<Arc<OutlierDetection>>,
    /// Of which health an endpoint may have sessions (A55).
    pub(crate) override_host_status: Sourced<HealthSet>,
    pub(crate) circuit_breakers: CircuitBreakers,
    /// What secures the connections to endpoints for which there is no match; `None`: plaintext.
    pub(crate) security: Option<Arc<UpstreamTls>>,
    /// The first that is for an endpoint goes before `security`.
    pub(crate) socket_matches: Vec<SocketMatch>,
    /// Who set what else is set here.
    pub(crate) origin: Origin,
}

impl Cluster {
    /// Envoy's default.
    pub(crate) const PANIC_THRESHOLD: Sourced<u32> = Sourced::by_default(50);

    /// A cluster that no control plane describes: there is nothing to say but how calls are spread.
    pub(crate) fn plain(name: Arc<str>, balancing: Balancing) -> Self {
        Self {
            name,
            discovery: Discovery::EDS,
            balancing,
            balanced_by: Origin::Default,
            connect_timeout: None,
            panic_threshold: Self::PANIC_THRESHOLD,
            outlier_detection: None,
            override_host_status: HealthSet::DEFAULT,
            circuit_breakers: CircuitBreakers::NONE,
            security: None,
            socket_matches: Vec::new(),
            origin: Origin::Code,
        }
    }
}

impl Cluster {
    /// What secures the connections to an endpoint; `None`: plaintext.
    pub(crate) fn security_of(&self, endpoint: &Endpoint) -> Option<&Arc<UpstreamTls>> {
        match self.socket_matches.iter().find(|one| one.is_for(endpoint.socket_labels())) {
            Some(found) => found.security.as_ref(),
            None => self.security.as_ref(),
        }
    }

    /// All that its endpoints may be secured with.
    pub(crate) fn securities(&self) -> impl Iterator<Item = Option<&Arc<UpstreamTls>>> {
        self.socket_matches.iter().map(|one| one.security.as_ref()).chain([self.security.as_ref()])
    }

    /// Whether two configurations secure all endpoints alike.
    pub(crate) fn secures_as(&self, other: &Self) -> bool {
        self.security == other.security && self.socket_matches == other.socket_matches
    }
}

/// Some of the healths that an endpoint with sessions can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HealthSet {
    pub(crate) unknown: bool,
    pub(crate) healthy: bool,
    pub(crate) draining: bool,
}

impl HealthSet {
    /// That of A55.
    pub(crate) const DEFAULT: Sourced<Self> =
        Sourced::by_default(Self { unknown: true, healthy: true, draining: false });

    pub(crate) fn has(self, health: Health) -> bool {
        match health {
            Health::Unknown => self.unknown,
            Health::Healthy => self.healthy,
            Health::Draining => self.draining,
            Health::Unhealthy | Health::Timeout | Health::Degraded => false,
        }
    }
}

/// How the endpoints of a cluster are found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Discovery {
    /// By EDS (A27).
    Eds {
        /// The name to ask for, when it is not the cluster's.
        service_name: Option<Arc<str>>,
    },
    /// The cluster carries them (Envoy's STATIC).
    Static(Arc<Endpoints>),
    /// They are names (Envoy's STRICT_DNS, A37's LOGICAL_DNS).
    Dns(Arc<DnsEndpoints>),
    /// It has none: calls go to the first of these clusters that can take them (A37). At least one.
    Aggregate(Arc<[Arc<str>]>),
}

impl Discovery {
    /// By EDS, under the cluster's own name.
    pub(crate) const EDS: Self = Self::Eds { service_name: None };
}

/// Endpoints that are names.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DnsEndpoints {
    /// As configured: an address that is a host name is to be resolved.
    pub(crate) endpoints: Arc<Endpoints>,
    /// Whether all addresses of a name are one endpoint (LOGICAL_DNS), or each is one (STRICT_DNS).
    pub(crate) logical: bool,
    pub(crate) resolution: Arc<Resolution>,
}

impl DnsEndpoints {
    /// The names, as often as they stand in the configuration and in its order.
    pub(crate) fn names(&self) -> impl Iterator<Item = DnsName> {
        let localities = self.endpoints.priorities.iter().flat_map(|priority| &priority.localities);
        localities.flat_map(|locality| &locality.endpoints).filter_map(|endpoint| match &endpoint.address {
            Address::Host(host, _) => Some(DnsName { host: host.clone(), resolution: self.resolution.clone() }),
            _ => None,
        })
    }
}

/// A name, and how it is resolved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DnsName {
    pub(crate) host: Arc<str>,
    pub(crate) resolution: Arc<Resolution>,
}

/// How names are resolved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Resolution {
    /// None: the system's.
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) family: AddressFamily,
    /// The pause between two answers; `None`: as long as the records hold.
    pub(crate) refresh: Option<Duration>,
    /// Up to this is added to each pause.
    pub(crate) jitter: Duration,
    /// The first and the longest pause after a failure; `None`: 1 s and 120 s.
    pub(crate) after_failure: Option<(Duration, Duration)>,
}

/// Which addresses of a name count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum AddressFamily {
    V4,
    V6,
    V4ElseV6,
    V6ElseV4,
    Both,
}

/// How calls are spread over the endpoints of a priority.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Balancing {
    /// Whether localities share the calls by their weights (`wrr_locality`), or all endpoints of a priority are one set.
    pub(crate) by_locality: bool,
    pub(crate) policy: EndpointPolicy,
    /// How many endpoints are used, and connected at all (A68); `None`: all of them.
    pub(crate) subset: Option<Subset>,
    /// Whether calls prefer endpoints near the caller.
    pub(crate) zones: Option<ZoneAware>,
}

impl Balancing {
    pub(crate) fn new(by_locality: bool, policy: EndpointPolicy) -> Self {
        Self { by_locality, policy, subset: None, zones: None }
    }
}

/// A part of the endpoints, chosen by each client for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subset {
    /// So many of the priority; at least 1.
    OfPriority(u32),
    /// So many of each locality; at least 1.
    OfLocality(u32),
}

impl Default for Balancing {
    /// That of a cluster that says nothing.
    fn default() -> Self {
        Self::new(true, EndpointPolicy::RoundRobin)
    }
}

/// The policy among the endpoints of a locality.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum EndpointPolicy {
    RoundRobin,
    /// Power of `choices` choices by calls in flight (A48); 2 to 10.
    LeastRequest {
        choices: u32,
    },
    Random,
    /// All calls to the first that can be connected; the order may be left to chance, by weight (A62, A113).
    PickFirst {
        shuffle: bool,
    },
    /// The application's own, which the control plane asks for by its name (A52).
    Named(NamedPolicy),
    /// By the hash of the request (A42).
    RingHash(RingHash),
    /// By the hash of the request, with equal shares (Envoy).
    Maglev(Maglev),
    /// By how long calls took and how many there are; no resource asks for it.
    PeakEwma,
    /// By what endpoints report of their load (A58).
    WeightedRoundRobin(Arc<WeightedRoundRobin>),
    /// Another policy, whose choices are passed over now and then while they are new.
    SlowStart {
        policy: Box<EndpointPolicy>,
        slow_start: SlowStart,
    },
}

impl EndpointPolicy {
    /// Whether the policy goes by the hash of the request.
    pub(crate) fn is_hashing(&self) -> bool {
        matches!(self, Self::RingHash(_) | Self::Maglev(_) | Self::Named(_))
    }

    /// The header that is hashed instead of what the route says (A76).
    pub(crate) fn hash_header(&self) -> Option<&HeaderSource> {
        match self {
            Self::RingHash(config) => config.header.as_ref(),
            _ => None,
        }
    }

    /// How endpoints that are new get their share, if bit by bit.
    pub(crate) fn slow_start(&self) -> Option<SlowStart> {
        match self {
            Self::SlowStart { slow_start, .. } => Some(*slow_start),
            Self::WeightedRoundRobin(config) => config.slow_start,
            _ => None,
        }
    }

    /// How the endpoints' reports of their load are weighed, if they are.
    pub(crate) fn reports(&self) -> Option<&Arc<WeightedRoundRobin>> {
        match self {
            EndpointPolicy::WeightedRoundRobin(config) => Some(config),
            EndpointPolicy::SlowStart { policy, .. } => policy.reports(),
            _ => None,
        }
    }
}

/// The ring of A42.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RingHash {
    /// Entries that the ring has at least, and at most; 1 to 8,388,608.
    pub(crate) min_size: u64,
    pub(crate) max_size: u64,
    /// `request_hash_header` (A76).
    pub(crate) header: Option<HeaderSource>,
}

impl Default for RingHash {
    fn default() -> Self {
        Self { min_size: 1024, max_size: 8 << 20, header: None }
    }
}

/// Envoy's table of hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Maglev {
    /// A prime from 2 to 5,000,011.
    pub(crate) table_size: u32,
    /// Whether localities have shares of the table by their weights.
    pub(crate) locality_weighted: bool,
}

impl Default for Maglev {
    fn default() -> Self {
        Self { table_size: 65_537, locality_weighted: false }
    }
}

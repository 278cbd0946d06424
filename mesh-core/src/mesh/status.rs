//! What a mesh knows of itself, as data: for logs, tests and pages.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Mesh;
use crate::balance::{Ejected, Method, Unenforced};
#[cfg(feature = "tls")]
use crate::connect::ConnectionSecurity;
use crate::connect::ConnectivityState;
use crate::discover::Target;
use crate::profile::Profile;
use crate::resource::endpoints::{Address, Locality};
use crate::resource::verdict::table::IN_ENVOYS_PROFILE;
use crate::snapshot::ClusterEntry;
use crate::xds::{Counters, StreamState, XdsClient};

/// The state of a [`Mesh`] at one moment; [`Mesh::status`] takes it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MeshStatus {
    /// The control plane, of a mesh that has one.
    pub control_plane: Option<ControlPlaneStatus>,
    /// Every resource that is asked for.
    pub resources: Vec<ResourceStatus>,
    /// Every field that was received and that nothing acts on.
    pub ignored_fields: Vec<IgnoredField>,
    /// Settings of the bootstrap that nothing acts on, with why.
    pub ignored_bootstrap: Vec<String>,
    /// The certificate providers, by name.
    #[cfg(feature = "tls")]
    pub certificate_providers: Vec<super::CertificateProviderStatus>,
    /// The targets in use.
    pub targets: Vec<TargetStatus>,
    /// What became of the copies of calls that routes mirror.
    #[cfg(feature = "mirror")]
    pub mirroring: crate::mirror::MirrorCounts,
    /// The servers that run.
    #[cfg(feature = "server")]
    pub servers: Vec<super::ServerStatus>,
    /// Lines of the servers' audit logs (A59) that were not written, as the standard output is closed or was not read fast
    /// enough: no call waits for it, and more than 1 MiB of them does not either.
    #[cfg(feature = "server")]
    pub lost_audit_lines: u64,
}

/// The state of the control plane.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ControlPlaneStatus {
    /// Its address, as the bootstrap has it.
    pub server: Arc<str>,
    /// The id under which this process asks.
    pub node_id: Arc<str>,
    /// Whether a stream is open.
    pub connected: bool,
    /// Since when it is, or is not, connected.
    pub since: Instant,
    /// Resources that were accepted.
    pub resources_valid: u64,
    /// Resources that were rejected.
    pub resources_invalid: u64,
    /// Responses that were rejected.
    pub nacks: u64,
    /// Attempts in a row that brought nothing.
    pub failures: u32,
    /// Why the last stream ended.
    pub last_error: Option<Arc<str>>,
    /// All of it in words: `control plane 127.0.0.1:18000 failed 3 times in 4.2 s: UNAVAILABLE: …, next try in 2.1 s`.
    pub summary: String,
}

/// The state of one resource.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResourceStatus {
    /// `Listener`, `RouteConfiguration`, `Cluster`, `ClusterLoadAssignment` or `Secret`.
    pub resource_type: &'static str,
    /// Its name.
    pub name: Arc<str>,
    /// The cache state as CSDS and A78 name it: `requested`, `acked`, `nacked`, `nacked_but_cached`, `does_not_exist`, …
    pub state: &'static str,
    /// The version that is good; empty if none is. A target takes it up a moment later, once all is there that it names.
    pub version: Arc<str>,
    /// What went wrong last.
    pub error: Option<Arc<str>>,
    /// When the control plane last said something new of it.
    pub updated: Option<SystemTime>,
}

/// A field that resources set and that nothing acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IgnoredField {
    /// `Listener`, `RouteConfiguration`, `Cluster`, `ClusterLoadAssignment` or `Secret`.
    pub resource_type: &'static str,
    /// Its path from the resource: `virtual_hosts.routes.route.prefix_rewrite`.
    pub path: String,
    /// Why, if it is not simply that nothing acts on it.
    pub reason: &'static str,
    /// How often it was received.
    pub count: u64,
    /// Some of the resources that set it.
    pub names: Vec<Arc<str>>,
}

/// The state of one target.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TargetStatus {
    /// As the application wrote it.
    pub target: String,
    /// The `:authority` of its calls.
    pub authority: String,
    /// That of its clusters, taken together.
    pub connectivity: ConnectivityState,
    /// What it waits for, or which newer configuration is held back, and why.
    pub waiting_for: Option<String>,
    /// Why its calls cannot be routed.
    pub problem: Option<String>,
    /// The clusters that its routes name, and those that calls named in a header (`cluster_header`).
    pub clusters: Vec<ClusterStatus>,
}

/// The state of one cluster.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClusterStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Why it cannot be used.
    pub problem: Option<String>,
    /// Its endpoints, those of lower priorities too; an aggregate has none of its own.
    pub endpoints: Vec<EndpointStatus>,
    /// Of an aggregate, the clusters that it stands for, in order (A37).
    pub leaves: Vec<LeafStatus>,
    /// Attempts that count against the circuit breaker's `max_requests` at the moment (A32).
    pub in_flight: u32,
    /// Attempts that the circuit breaker refused.
    pub refused: u64,
    /// How often its endpoints were outliers, and what became of it (A91).
    pub ejections: Vec<EjectionCount>,
    /// Attempts that were dropped as the control plane asks (`drop_overloads`), by category.
    pub dropped: Vec<(Arc<str>, u64)>,
}

/// The state of one leaf of an aggregate cluster.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LeafStatus {
    /// Whether the aggregate's calls go there at the moment.
    pub takes_calls: bool,
    /// The leaf.
    pub cluster: ClusterStatus,
}

/// The state of one endpoint.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointStatus {
    /// Its address.
    pub address: Address,
    /// The priority it belongs to; 0 is tried first.
    pub priority: usize,
    /// Region, zone and sub-zone, as far as they are known: `eu/a`.
    pub locality: String,
    /// Its connection; `None` while nothing asks for one.
    pub state: Option<ConnectivityState>,
    /// Why it could not be connected, or lost its connection.
    pub last_error: Option<Arc<str>>,
    /// How each of its connections is secured: with which certificate, to whom, and until when; empty: in plaintext, or there
    /// is none.
    #[cfg(feature = "tls")]
    pub security: Vec<Arc<ConnectionSecurity>>,
    /// Calls that it has not answered to the end.
    pub in_flight: u32,
    /// Why outlier detection lets it take no calls at the moment, but in a panic (`healthy_panic_threshold`) by
    /// [`Profile::Envoy`](crate::Profile::Envoy).
    pub ejection: Option<EjectionStatus>,
}

/// Why an endpoint takes no calls for a while, and how long that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EjectionStatus {
    /// What made it an outlier: `success_rate`, `failure_percentage`, `consecutive_5xx`, `consecutive_gateway_failure` or
    /// `consecutive_local_origin_failure`.
    pub method: &'static str,
    /// After this it returns, when the interval of outlier detection ends; `None`: for longer than a clock can say.
    pub remaining: Option<Duration>,
}

/// How often endpoints of a cluster were outliers by one method, with one result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EjectionCount {
    /// What made them outliers, as in [`EjectionStatus::method`].
    pub method: &'static str,
    /// Why they were not ejected: `enforcement_percentage`, `max_ejection_overflow` or `last_endpoint`; `None`: they were.
    pub unenforced: Option<&'static str>,
    /// How often.
    pub count: u64,
}

impl EjectionStatus {
    fn new(ejected: Ejected) -> Self {
        let now = Instant::now();
        let remaining = ejected.until.map(|until| until.saturating_duration_since(now));
        Self { method: ejected.method.name(), remaining }
    }
}

impl fmt::Display for EjectionStatus {
    /// "ejected by consecutive_5xx, for 28 s more"
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ejected by {}", self.method)?;
        match self.remaining {
            Some(remaining) => write!(f, ", for {:.0} s more", remaining.as_secs_f64().ceil()),
            None => Ok(()),
        }
    }
}

impl EjectionCount {
    fn new((method, unenforced, count): (Method, Option<Unenforced>, u64)) -> Self {
        Self { method: method.name(), unenforced: unenforced.map(Unenforced::name), count }
    }
}

impl Mesh {
    /// What the mesh knows of itself at this moment.
    pub fn status(&self) -> MeshStatus {
        let xds = self.inner.xds.as_ref();
        MeshStatus {
            control_plane: xds.map(control_plane),
            resources: xds.map(resources).unwrap_or_default(),
            ignored_fields: self.ignored_fields(),
            ignored_bootstrap: self.inner.bootstrap.iter().flat_map(|bootstrap| bootstrap.ignored()).cloned().collect(),
            #[cfg(feature = "tls")]
            certificate_providers: self.certificate_providers(),
            targets: self.targets().iter().map(|target| self.target_status(target)).collect(),
            #[cfg(feature = "mirror")]
            mirroring: self.inner.mirror.counts(),
            #[cfg(feature = "server")]
            servers: self.inner.servers.status(),
            #[cfg(feature = "server")]
            lost_audit_lines: self.inner.servers.lost_audit_lines(),
        }
    }

    /// Every field that was received and that nothing acts on: the question to ask when a setting has no effect.
    pub fn ignored_fields(&self) -> Vec<IgnoredField> {
        let summaries = self.inner.xds.as_ref().map(XdsClient::ignored_fields).unwrap_or_default();
        let field = |summary: crate::xds::IgnoredSummary| IgnoredField {
            resource_type: summary.resource_type,
            path: summary.path,
            reason: summary.reason,
            count: summary.count,
            names: summary.names,
        };
        let is_envoy = self.inner.profile.value == Profile::Envoy;
        let listed = |field: &IgnoredField| !(is_envoy && field.reason == IN_ENVOYS_PROFILE);
        summaries.into_iter().map(field).filter(listed).collect()
    }

    fn target_status(&self, target: &Target) -> TargetStatus {
        let snapshot = target.snapshot();
        let problem = snapshot.as_ref().and_then(|snapshot| snapshot.routing.as_ref().err().map(ToString::to_string));
        let clusters = snapshot.iter().flat_map(|snapshot| snapshot.all_clusters());
        TargetStatus {
            target: target.name().to_owned(),
            authority: target.authority().to_owned(),
            connectivity: *target.connectivity().borrow(),
            waiting_for: target.waiting_for(),
            problem,
            clusters: clusters.map(|entry| self.cluster_status(&entry)).collect(),
        }
    }

    fn cluster_status(&self, entry: &ClusterEntry) -> ClusterStatus {
        let endpoint = |status: crate::balance::EndpointReport| EndpointStatus {
            address: status.address,
            priority: status.priority,
            locality: locality_name(&status.locality),
            state: status.subchannel.as_ref().map(|subchannel| subchannel.state),
            #[cfg(feature = "tls")]
            security: status.subchannel.as_ref().map(|subchannel| subchannel.security.clone()).unwrap_or_default(),
            last_error: status.subchannel.and_then(|subchannel| subchannel.last_error),
            in_flight: status.in_flight,
            ejection: status.ejected.map(EjectionStatus::new),
        };
        #[cfg(feature = "cluster")]
        let (in_flight, refused, dropped) = {
            let status = self.inner.cluster.status(entry);
            (status.in_flight, status.refused, status.dropped)
        };
        #[cfg(not(feature = "cluster"))]
        let (in_flight, refused, dropped) = Default::default();
        let refusal = || self.inner.clusters.refusal(entry).map(|error| error.to_string());
        ClusterStatus {
            name: entry.key.name.clone(),
            problem: entry.config.as_ref().err().map(ToString::to_string).or_else(refusal),
            endpoints: self.inner.clusters.states(entry).into_iter().map(endpoint).collect(),
            leaves: self.leaves(entry),
            ejections: self.inner.clusters.ejections(entry).into_iter().map(EjectionCount::new).collect(),
            in_flight,
            refused,
            dropped,
        }
    }

    fn leaves(&self, entry: &ClusterEntry) -> Vec<LeafStatus> {
        let leaves = entry.leaves.iter().flat_map(|_| self.inner.clusters.leaves(entry));
        leaves.map(|(leaf, takes_calls)| LeafStatus { takes_calls, cluster: self.cluster_status(&leaf) }).collect()
    }
}

fn locality_name(locality: &Locality) -> String {
    let Locality { region, zone, sub_zone } = locality;
    let parts = [region, zone, sub_zone].into_iter().filter(|part| !part.is_empty());
    parts.map(String::as_str).collect::<Vec<_>>().join("/")
}

fn control_plane(xds: &XdsClient) -> ControlPlaneStatus {
    let status = xds.status();
    let counters = xds.counters();
    let sum = |count: fn(&Counters) -> u64| counters.iter().map(|(_, counters)| count(counters)).sum();
    ControlPlaneStatus {
        summary: status.to_string(),
        server: status.server,
        node_id: xds.node_id(),
        connected: status.state == StreamState::Open,
        since: status.since,
        resources_valid: sum(|counters| counters.resources_valid),
        resources_invalid: sum(|counters| counters.resources_invalid),
        nacks: sum(|counters| counters.nacks),
        failures: status.failures,
        last_error: status.last_error,
    }
}

fn resources(xds: &XdsClient) -> Vec<ResourceStatus> {
    let status = |status: crate::xds::ResourceReport| ResourceStatus {
        resource_type: status.resource_type.name,
        state: status.cache_state(),
        name: status.name,
        version: status.version,
        error: status.error,
        updated: status.updated,
    };
    xds.resources().into_iter().map(status).collect()
}

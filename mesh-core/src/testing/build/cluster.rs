//! Clusters (A27, A32, A37, A50, A52).

use std::time::Duration;

use mesh_xds_proto::envoy::config::cluster::v3 as pb;
use mesh_xds_proto::envoy::config::core::v3::TypedExtensionConfig;
use mesh_xds_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use mesh_xds_proto::envoy::extensions::clusters::aggregate::v3::ClusterConfig;
use prost::{Message, Name};

use super::{EndpointsBuilder, ads, any, duration, endpoints};

/// A cluster of this name: round robin over the endpoints (EDS) of the same name.
///
/// ```
/// use mesh_core::testing::cluster;
/// use mesh_xds_proto::envoy::config::cluster::v3::cluster::LbPolicy;
///
/// let cluster = cluster("greeter").eds_service_name("greeter-v2").lb(LbPolicy::RingHash).max_requests(100);
/// assert_eq!(cluster.build().lb_policy, LbPolicy::RingHash as i32);
/// ```
pub fn cluster(name: impl Into<String>) -> ClusterBuilder {
    let eds = pb::cluster::EdsClusterConfig { eds_config: Some(ads()), ..Default::default() };
    let cluster = pb::Cluster { name: name.into(), eds_cluster_config: Some(eds), ..Default::default() };
    ClusterBuilder(cluster).discovery(pb::cluster::DiscoveryType::Eds)
}

/// Made by [`cluster`].
#[derive(Clone, Debug)]
pub struct ClusterBuilder(pb::Cluster);

impl ClusterBuilder {
    /// Takes the endpoints of this name; by default those named like the cluster.
    pub fn eds_service_name(mut self, name: impl Into<String>) -> Self {
        let eds = self.0.eds_cluster_config.get_or_insert_with(Default::default);
        eds.service_name = name.into();
        self
    }

    /// Resolves `host:port` and takes all answers as one endpoint (A37).
    pub fn logical_dns(self, target: &str) -> Self {
        let name = self.0.name.clone();
        self.assignment(endpoints(name).endpoint(target)).discovery(pb::cluster::DiscoveryType::LogicalDns)
    }

    /// Carries its endpoints itself; Envoy's `STATIC`.
    pub fn fixed(self, assignment: EndpointsBuilder) -> Self {
        self.assignment(assignment).discovery(pb::cluster::DiscoveryType::Static)
    }

    /// Tries these clusters in order (A37).
    pub fn aggregate<C: Into<String>>(mut self, clusters: impl IntoIterator<Item = C>) -> Self {
        let clusters = ClusterConfig { clusters: clusters.into_iter().map(Into::into).collect() };
        let custom = pb::cluster::CustomClusterType {
            name: "envoy.clusters.aggregate".to_owned(),
            typed_config: Some(any(&clusters)),
        };
        self.0.eds_cluster_config = None;
        self.0.cluster_discovery_type = Some(pb::cluster::ClusterDiscoveryType::ClusterType(custom));
        self
    }

    /// Balances by one of the policies that the enum names; by default `RoundRobin`.
    pub fn lb(mut self, policy: pb::cluster::LbPolicy) -> Self {
        self.0.lb_policy = policy as i32;
        self
    }

    /// Sets the sizes of the ring, for [`lb`](Self::lb) with `RingHash`.
    pub fn ring_size(mut self, minimum: u64, maximum: u64) -> Self {
        let config = pb::cluster::RingHashLbConfig {
            minimum_ring_size: Some(minimum),
            maximum_ring_size: Some(maximum),
            ..Default::default()
        };
        self.0.lb_config = Some(pb::cluster::LbConfig::RingHashLbConfig(config));
        self
    }

    /// Adds a policy to the list that goes before [`lb`](Self::lb): the first supported one is taken (A52).
    pub fn policy<M: Message + Name>(mut self, name: impl Into<String>, config: &M) -> Self {
        let config = TypedExtensionConfig { name: name.into(), typed_config: Some(any(config)) };
        let policy = pb::load_balancing_policy::Policy { typed_extension_config: Some(config) };
        let policies = self.0.load_balancing_policy.get_or_insert_with(Default::default);
        policies.policies.push(policy);
        self
    }

    /// Limits the calls in flight (A32).
    pub fn max_requests(mut self, limit: u32) -> Self {
        let thresholds = pb::circuit_breakers::Thresholds { max_requests: Some(limit), ..Default::default() };
        self.0.circuit_breakers.get_or_insert_with(Default::default).thresholds.push(thresholds);
        self
    }

    /// Limits the time to connect to an endpoint.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.0.connect_timeout = Some(duration(limit));
        self
    }

    /// Ejects endpoints that fail (A50).
    pub fn outlier_detection(mut self, config: pb::OutlierDetection) -> Self {
        self.0.outlier_detection = Some(config);
        self
    }

    /// Changes any field of the message.
    pub fn modify(mut self, change: impl FnOnce(&mut pb::Cluster)) -> Self {
        change(&mut self.0);
        self
    }

    /// The message.
    pub fn build(self) -> pb::Cluster {
        self.0
    }

    fn assignment(mut self, assignment: EndpointsBuilder) -> Self {
        let assignment: ClusterLoadAssignment = assignment.build();
        self.0.eds_cluster_config = None;
        self.0.load_assignment = Some(assignment);
        self
    }

    fn discovery(mut self, discovery: pb::cluster::DiscoveryType) -> Self {
        self.0.cluster_discovery_type = Some(pb::cluster::ClusterDiscoveryType::Type(discovery as i32));
        self
    }
}

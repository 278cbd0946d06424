//! Load assignments: localities with their endpoints, and drops (A27, A32, A56).

use std::net::SocketAddr;

use mesh_xds_proto::envoy::config::core::v3::{HealthStatus, Locality};
use mesh_xds_proto::envoy::config::endpoint::v3 as pb;
use mesh_xds_proto::envoy::r#type::v3::{FractionalPercent, fractional_percent};

use super::address;

/// The endpoints of this name, none yet.
///
/// ```
/// use mesh_core::testing::{endpoint, endpoints, locality};
///
/// let flat = endpoints("greeter").endpoint("127.0.0.1:1").endpoint(endpoint("127.0.0.1:2").weight(3));
/// assert_eq!(flat.build().endpoints[0].lb_endpoints.len(), 2);
///
/// let near = locality("eu", "a", "").weight(2).endpoint("127.0.0.1:1");
/// let far = locality("us", "b", "").priority(1).endpoint("127.0.0.1:2");
/// assert_eq!(endpoints("greeter").locality(near).locality(far).build().endpoints.len(), 2);
/// ```
pub fn endpoints(name: impl Into<String>) -> EndpointsBuilder {
    EndpointsBuilder(pb::ClusterLoadAssignment { cluster_name: name.into(), ..Default::default() })
}

/// A locality of weight 1 and priority 0, without endpoints.
pub fn locality(region: impl Into<String>, zone: impl Into<String>, sub_zone: impl Into<String>) -> LocalityBuilder {
    let locality = Locality { region: region.into(), zone: zone.into(), sub_zone: sub_zone.into() };
    LocalityBuilder(pb::LocalityLbEndpoints {
        locality: Some(locality),
        load_balancing_weight: Some(1),
        ..Default::default()
    })
}

/// The endpoint at `host:port`, `[v6]:port` or `unix:path`.
///
/// # Panics
///
/// If the address is none of these.
pub fn endpoint(at: impl ToString) -> EndpointBuilder {
    let endpoint = pb::Endpoint { address: Some(address(&at.to_string())), ..Default::default() };
    EndpointBuilder(pb::LbEndpoint {
        host_identifier: Some(pb::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    })
}

/// Made by [`endpoints`].
#[derive(Clone, Debug)]
pub struct EndpointsBuilder(pb::ClusterLoadAssignment);

impl EndpointsBuilder {
    /// Adds an endpoint to the last locality; the first call makes one that is named `test`.
    pub fn endpoint(mut self, endpoint: impl Into<EndpointBuilder>) -> Self {
        if self.0.endpoints.is_empty() {
            self = self.locality(locality("test", "", ""));
        }
        if let Some(last) = self.0.endpoints.last_mut() {
            last.lb_endpoints.push(endpoint.into().build());
        }
        self
    }

    /// Adds endpoints as [`endpoint`](Self::endpoint) does.
    pub fn all<E: Into<EndpointBuilder>>(self, endpoints: impl IntoIterator<Item = E>) -> Self {
        endpoints.into_iter().fold(self, |builder, endpoint| builder.endpoint(endpoint))
    }

    /// Adds a locality.
    pub fn locality(mut self, locality: LocalityBuilder) -> Self {
        self.0.endpoints.push(locality.build());
        self
    }

    /// Drops so many of a million calls, counted under `category` (A32).
    pub fn drop_calls(mut self, category: impl Into<String>, per_million: u32) -> Self {
        let fraction = FractionalPercent {
            numerator: per_million,
            denominator: fractional_percent::DenominatorType::Million as i32,
        };
        let drop = pb::cluster_load_assignment::policy::DropOverload {
            category: category.into(),
            drop_percentage: Some(fraction),
        };
        self.0.policy.get_or_insert_with(Default::default).drop_overloads.push(drop);
        self
    }

    /// Changes any field of the message.
    pub fn modify(mut self, change: impl FnOnce(&mut pb::ClusterLoadAssignment)) -> Self {
        change(&mut self.0);
        self
    }

    /// The message.
    pub fn build(self) -> pb::ClusterLoadAssignment {
        self.0
    }
}

/// Made by [`locality`].
#[derive(Clone, Debug)]
pub struct LocalityBuilder(pb::LocalityLbEndpoints);

impl LocalityBuilder {
    /// The share of calls among the localities of a priority; by default 1.
    pub fn weight(mut self, weight: u32) -> Self {
        self.0.load_balancing_weight = Some(weight);
        self
    }

    /// The priority; 0, the default, is the highest.
    pub fn priority(mut self, priority: u32) -> Self {
        self.0.priority = priority;
        self
    }

    /// Adds an endpoint.
    pub fn endpoint(mut self, endpoint: impl Into<EndpointBuilder>) -> Self {
        self.0.lb_endpoints.push(endpoint.into().build());
        self
    }

    /// Adds endpoints.
    pub fn all<E: Into<EndpointBuilder>>(self, endpoints: impl IntoIterator<Item = E>) -> Self {
        endpoints.into_iter().fold(self, |builder, endpoint| builder.endpoint(endpoint))
    }

    /// Changes any field of the message.
    pub fn modify(mut self, change: impl FnOnce(&mut pb::LocalityLbEndpoints)) -> Self {
        change(&mut self.0);
        self
    }

    /// The message.
    pub fn build(self) -> pb::LocalityLbEndpoints {
        self.0
    }
}

/// Made by [`endpoint`], and from an address.
#[derive(Clone, Debug)]
pub struct EndpointBuilder(pb::LbEndpoint);

impl EndpointBuilder {
    /// Its health as the control plane sees it; by default `Unknown`, which counts as healthy.
    pub fn health(mut self, health: HealthStatus) -> Self {
        self.0.health_status = health as i32;
        self
    }

    /// Its share of calls within the locality; by default unset, which means 1.
    pub fn weight(mut self, weight: u32) -> Self {
        self.0.load_balancing_weight = Some(weight);
        self
    }

    /// Changes any field of the message.
    pub fn modify(mut self, change: impl FnOnce(&mut pb::LbEndpoint)) -> Self {
        change(&mut self.0);
        self
    }

    /// The message.
    pub fn build(self) -> pb::LbEndpoint {
        self.0
    }
}

impl From<&str> for EndpointBuilder {
    /// As [`endpoint`] does, with its panics.
    fn from(address: &str) -> Self {
        endpoint(address)
    }
}

impl From<String> for EndpointBuilder {
    /// As [`endpoint`] does, with its panics.
    fn from(address: String) -> Self {
        endpoint(address)
    }
}

impl From<SocketAddr> for EndpointBuilder {
    fn from(address: SocketAddr) -> Self {
        endpoint(address)
    }
}

//! One good set of resources, to be changed in one place; and shorthands.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_xds_proto::envoy::config::cluster::v3 as cluster;
use mesh_xds_proto::envoy::config::core::v3 as core;
use mesh_xds_proto::envoy::config::endpoint::v3 as endpoint;
use mesh_xds_proto::envoy::config::listener::v3 as listener;
use mesh_xds_proto::envoy::config::route::v3 as route;
use mesh_xds_proto::envoy::extensions::filters::http::router::v3::Router;
use mesh_xds_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use prost::{Message, Name};
use prost_types::Any;

use crate::resource::cluster::Cluster;
use crate::resource::endpoints::Endpoints;
use crate::resource::listener::{ApiListener, Listener};
use crate::resource::route_config::RouteConfiguration;
use crate::resource::{CLUSTER, ENDPOINTS, LISTENER, ROUTE_CONFIGURATION};
use crate::xds::resource_type::{Extensions, IgnoredField, ResourceType};

pub(super) struct Fixture {
    pub(super) listener: listener::Listener,
    /// Of the server.
    pub(super) chain: listener::FilterChain,
    /// Packed into the listener when it is encoded.
    pub(super) manager: hcm::HttpConnectionManager,
    pub(super) routes: route::RouteConfiguration,
    pub(super) cluster: cluster::Cluster,
    pub(super) endpoints: endpoint::ClusterLoadAssignment,
    /// A `Secret`, encoded.
    pub(super) secret: Vec<u8>,
}

impl Default for Fixture {
    /// `svc.test` → prefix `/` → cluster `c1` → 127.0.0.1:8080.
    fn default() -> Self {
        let rds = hcm::Rds { config_source: Some(ads()), route_config_name: "r1".into() };
        let manager = hcm::HttpConnectionManager {
            http_filters: vec![filter("router", &Router::default())],
            route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)),
            ..Default::default()
        };
        let host = route::VirtualHost {
            name: "v1".into(),
            domains: vec!["svc.test".into()],
            routes: vec![prefix_to("/", "c1")],
            ..Default::default()
        };
        let eds = cluster::cluster::EdsClusterConfig { eds_config: Some(ads()), service_name: "e1".into() };
        Self {
            listener: listener::Listener { name: "svc.test".into(), ..Default::default() },
            chain: listener::FilterChain::default(),
            manager,
            routes: route::RouteConfiguration { name: "r1".into(), virtual_hosts: vec![host], ..Default::default() },
            cluster: cluster::Cluster {
                name: "c1".into(),
                cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(3)),
                eds_cluster_config: Some(eds),
                ..Default::default()
            },
            secret: Vec::new(),
            endpoints: endpoint::ClusterLoadAssignment {
                cluster_name: "e1".into(),
                endpoints: vec![locality("z1", 0, 1, vec![member("127.0.0.1", 8080)])],
                ..Default::default()
            },
        }
    }
}

impl Fixture {
    pub(super) fn route(&mut self) -> &mut route::Route {
        &mut self.routes.virtual_hosts[0].routes[0]
    }

    pub(super) fn matching(&mut self) -> &mut route::RouteMatch {
        self.route().r#match.get_or_insert_default()
    }

    pub(super) fn action(&mut self) -> &mut route::RouteAction {
        match &mut self.route().action {
            Some(route::route::Action::Route(action)) => action,
            _ => panic!("the route forwards"),
        }
    }

    pub(super) fn forwards_to(&mut self, specifier: route::route_action::ClusterSpecifier) {
        self.action().cluster_specifier = Some(specifier);
    }

    pub(super) fn weighted(&mut self, weights: &[(&str, Option<u32>)]) {
        let clusters = weights.iter().map(|&(name, weight)| route::weighted_cluster::ClusterWeight {
            name: name.into(),
            weight,
            ..Default::default()
        });
        self.forwards_to(route::route_action::ClusterSpecifier::WeightedClusters(route::WeightedCluster {
            clusters: clusters.collect(),
            ..Default::default()
        }));
    }

    pub(super) fn group(&mut self) -> &mut endpoint::LocalityLbEndpoints {
        &mut self.endpoints.endpoints[0]
    }

    pub(super) fn member(&mut self) -> &mut endpoint::LbEndpoint {
        &mut self.group().lb_endpoints[0]
    }

    pub(super) fn packed(&self) -> listener::Listener {
        let api_listener = listener::ApiListener { api_listener: Some(any(&self.manager)) };
        listener::Listener { api_listener: Some(api_listener), ..self.listener.clone() }
    }

    pub(super) fn listener(&self) -> Result<ApiListener, Vec<String>> {
        match &*decode_shared::<Listener>(&LISTENER, &self.packed()).0? {
            Listener::Api(listener) => Ok((**listener).clone()),
            Listener::Socket(_) => panic!("a server's listener"),
        }
    }

    /// The listener of a server, with the same connection manager.
    pub(super) fn server(&self) -> listener::Listener {
        let mut chain = self.chain.clone();
        let config_type = Some(listener::filter::ConfigType::TypedConfig(any(&self.manager)));
        if chain.filters.is_empty() {
            chain.filters.push(listener::Filter { name: "http".into(), config_type });
        }
        listener::Listener { filter_chains: vec![chain], ..self.listener.clone() }
    }

    pub(super) fn routes(&self) -> Result<Arc<RouteConfiguration>, Vec<String>> {
        decode_shared(&ROUTE_CONFIGURATION, &self.routes).0
    }

    pub(super) fn cluster(&self) -> Result<Cluster, Vec<String>> {
        decode(&CLUSTER, &self.cluster).0
    }

    pub(super) fn endpoints(&self) -> Result<Endpoints, Vec<String>> {
        decode(&ENDPOINTS, &self.endpoints).0
    }
}

/// The value, or each error as the sender reads it; and the paths that nothing acts on.
pub(super) fn decode<T: Clone + Send + Sync + 'static>(
    kind: &ResourceType,
    message: &impl Message,
) -> (Result<T, Vec<String>>, Vec<String>) {
    let (value, ignored) = decode_shared::<T>(kind, message);
    (value.map(|value| T::clone(&value)), ignored)
}

pub(super) fn decode_shared<T: Send + Sync + 'static>(
    kind: &ResourceType,
    message: &impl Message,
) -> (Result<Arc<T>, Vec<String>>, Vec<String>) {
    let decoded = (kind.decode)(&message.encode_to_vec(), &Extensions::default());
    let value = decoded.value.map(|value| value.downcast().expect("the type that the resource type stands for"));
    let value = value.map_err(|errors| errors.iter().map(ToString::to_string).collect());
    (value, paths(decoded.ignored))
}

pub(super) fn paths(ignored: Vec<IgnoredField>) -> Vec<String> {
    ignored.into_iter().map(|field| field.path).collect()
}

pub(super) fn ads() -> core::ConfigSource {
    source(core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {}))
}

pub(super) fn source(specifier: core::config_source::ConfigSourceSpecifier) -> core::ConfigSource {
    core::ConfigSource { config_source_specifier: Some(specifier), ..Default::default() }
}

pub(super) fn path_source() -> core::ConfigSource {
    let path = core::PathConfigSource { path: "/x".into(), ..Default::default() };
    source(core::config_source::ConfigSourceSpecifier::PathConfigSource(path))
}

pub(super) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

pub(super) fn any_of(type_name: &str) -> Any {
    Any { type_url: format!("type.googleapis.com/{type_name}"), value: Vec::new() }
}

pub(super) fn filter<M: Message + Name>(name: &str, config: &M) -> hcm::HttpFilter {
    filter_of(name, any(config))
}

pub(super) fn filter_of(name: &str, config: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.into(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

pub(super) fn overrides(name: &str, config: Any) -> BTreeMap<String, Any> {
    BTreeMap::from([(name.to_owned(), config)])
}

pub(super) fn prefix_to(prefix: &str, cluster: &str) -> route::Route {
    path_to(route::route_match::PathSpecifier::Prefix(prefix.into()), cluster)
}

pub(super) fn path_to(path: route::route_match::PathSpecifier, cluster: &str) -> route::Route {
    let action = route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    };
    route::Route {
        r#match: Some(route::RouteMatch { path_specifier: Some(path), ..Default::default() }),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    }
}

pub(super) fn locality(
    zone: &str,
    priority: u32,
    weight: u32,
    members: Vec<endpoint::LbEndpoint>,
) -> endpoint::LocalityLbEndpoints {
    endpoint::LocalityLbEndpoints {
        locality: Some(core::Locality { zone: zone.into(), ..Default::default() }),
        priority,
        load_balancing_weight: Some(weight),
        lb_endpoints: members,
        ..Default::default()
    }
}

pub(super) fn member(ip: &str, port: u32) -> endpoint::LbEndpoint {
    let address = core::SocketAddress {
        address: ip.into(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
        ..Default::default()
    };
    member_at(core::address::Address::SocketAddress(address))
}

pub(super) fn member_at(address: core::address::Address) -> endpoint::LbEndpoint {
    let endpoint = endpoint::Endpoint { address: Some(core::Address { address: Some(address) }), ..Default::default() };
    endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    }
}

pub(super) fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

pub(super) fn balanced_by(policies: impl IntoIterator<Item = Any>) -> cluster::LoadBalancingPolicy {
    let policy = |config| cluster::load_balancing_policy::Policy {
        typed_extension_config: Some(core::TypedExtensionConfig { name: "p".into(), typed_config: Some(config) }),
    };
    cluster::LoadBalancingPolicy { policies: policies.into_iter().map(policy).collect() }
}

pub(super) fn socket(config: Any) -> core::TransportSocket {
    core::TransportSocket {
        name: "s".into(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(config)),
    }
}

//! Listeners of clients, API listeners with an HTTP connection manager (A27, A31, A39), and of servers (A36).

use std::time::Duration;

use mesh_xds_proto::envoy::config::core::v3::CidrRange;
use mesh_xds_proto::envoy::config::core::v3::HttpProtocolOptions;
use mesh_xds_proto::envoy::config::listener::v3 as pb;
use mesh_xds_proto::envoy::config::listener::v3::{ApiListener, Listener};
use mesh_xds_proto::envoy::extensions::filters::http::router::v3::Router;
use mesh_xds_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use prost::{Message, Name};

use super::{RouteConfigBuilder, address, ads, any, duration, route, route_config};

/// A client's listener of this name: its routes come from the route configuration of the same name, and its only
/// HTTP filter is the router.
///
/// ```
/// use mesh_core::testing::listener;
/// use std::time::Duration;
///
/// let listener = listener("greeter").rds("shared-routes").max_stream_duration(Duration::from_secs(5));
/// assert_eq!(listener.build().name, "greeter");
/// ```
pub fn listener(name: impl Into<String>) -> ListenerBuilder {
    let name = name.into();
    let manager = hcm::HttpConnectionManager {
        route_specifier: Some(rds(name.clone())),
        http_filters: vec![filter("router", &Router::default())],
        ..Default::default()
    };
    ListenerBuilder { listener: Listener { name, ..Default::default() }, manager }
}

/// Made by [`listener`].
#[derive(Clone, Debug)]
pub struct ListenerBuilder {
    listener: Listener,
    manager: hcm::HttpConnectionManager,
}

impl ListenerBuilder {
    /// Takes the routes from the route configuration `name`; by default the one named like the listener.
    pub fn rds(mut self, name: impl Into<String>) -> Self {
        self.manager.route_specifier = Some(rds(name.into()));
        self
    }

    /// Carries the routes inside the listener.
    pub fn inline(mut self, routes: RouteConfigBuilder) -> Self {
        self.manager.route_specifier = Some(inline(routes));
        self
    }

    /// Adds an HTTP filter behind those added before, and before the router.
    pub fn filter<M: Message + Name>(mut self, name: impl Into<String>, config: &M) -> Self {
        add_filter(&mut self.manager, filter(name, config));
        self
    }

    /// Limits every call that no route limits otherwise (A31).
    pub fn max_stream_duration(mut self, limit: Duration) -> Self {
        let options = self.manager.common_http_protocol_options.get_or_insert_with(HttpProtocolOptions::default);
        options.max_stream_duration = Some(duration(limit));
        self
    }

    /// Changes any field of the HTTP connection manager.
    pub fn modify_manager(mut self, change: impl FnOnce(&mut hcm::HttpConnectionManager)) -> Self {
        change(&mut self.manager);
        self
    }

    /// Changes any field of the listener; its API listener is filled in by [`build`](Self::build) unless set here.
    pub fn modify(mut self, change: impl FnOnce(&mut Listener)) -> Self {
        change(&mut self.listener);
        self
    }

    /// The message.
    pub fn build(self) -> Listener {
        let Self { mut listener, manager } = self;
        listener.api_listener.get_or_insert_with(|| ApiListener { api_listener: Some(any(&manager)) });
        listener
    }
}

/// The listener of a server that listens on `listening`, by the name that a mesh of [`ControlPlane`] asks for. Its one chain
/// takes all connections and serves all calls.
///
/// ```
/// use mesh_core::testing::{filter_chain, server_listener};
///
/// let listener = server_listener("127.0.0.1:50051").chains([filter_chain().rds("shared").from("10.0.0.0/8")]);
/// assert_eq!(listener.build().name, "grpc/server?xds.resource.listening_address=127.0.0.1:50051");
/// ```
///
/// # Panics
///
/// If `listening` is no address with a port.
///
/// [`ControlPlane`]: crate::testing::ControlPlane
pub fn server_listener(listening: impl ToString) -> ServerListenerBuilder {
    let listening = listening.to_string();
    let name = format!("grpc/server?xds.resource.listening_address={listening}");
    let listener = Listener { name, address: Some(address(&listening)), ..Default::default() };
    ServerListenerBuilder(listener).chains([filter_chain()])
}

/// Made by [`server_listener`].
#[derive(Clone, Debug)]
pub struct ServerListenerBuilder(Listener);

impl ServerListenerBuilder {
    /// Has these chains and no others.
    pub fn chains(mut self, chains: impl IntoIterator<Item = FilterChainBuilder>) -> Self {
        self.0.filter_chains = chains.into_iter().map(FilterChainBuilder::build).collect();
        self
    }

    /// The chain of connections that no other matches.
    pub fn default_chain(mut self, chain: FilterChainBuilder) -> Self {
        self.0.default_filter_chain = Some(chain.build());
        self
    }

    /// Changes any field of the listener.
    pub fn modify(mut self, change: impl FnOnce(&mut Listener)) -> Self {
        change(&mut self.0);
        self
    }

    /// The message.
    pub fn build(self) -> Listener {
        self.0
    }
}

/// A chain for all connections, whose only route serves all calls.
pub fn filter_chain() -> FilterChainBuilder {
    let routes = route_config("inline").routes([route().non_forwarding()]).build();
    let manager = hcm::HttpConnectionManager {
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(routes)),
        http_filters: vec![filter("router", &Router::default())],
        ..Default::default()
    };
    FilterChainBuilder { chain: pb::FilterChain::default(), manager }
}

/// Made by [`filter_chain`].
#[derive(Clone, Debug)]
pub struct FilterChainBuilder {
    chain: pb::FilterChain,
    manager: hcm::HttpConnectionManager,
}

impl FilterChainBuilder {
    /// Takes the routes from the route configuration `name`.
    pub fn rds(mut self, name: impl Into<String>) -> Self {
        self.manager.route_specifier = Some(rds(name.into()));
        self
    }

    /// Carries these routes.
    pub fn inline(mut self, routes: RouteConfigBuilder) -> Self {
        self.manager.route_specifier = Some(inline(routes));
        self
    }

    /// Adds an HTTP filter before the router.
    pub fn filter<M: Message + Name>(mut self, name: impl Into<String>, config: &M) -> Self {
        add_filter(&mut self.manager, filter(name, config));
        self
    }

    /// For peers whose address begins so, such as `10.0.0.0/8`.
    ///
    /// # Panics
    ///
    /// If it has no length.
    pub fn from(mut self, range: &str) -> Self {
        let (address, length) = range.split_once('/').expect("an address and a length");
        let prefix_len = Some(length.parse().expect("a length"));
        let range = CidrRange { address_prefix: address.into(), prefix_len };
        self.chain.filter_chain_match.get_or_insert_default().source_prefix_ranges.push(range);
        self
    }

    /// Changes any field of the HTTP connection manager.
    pub fn modify_manager(mut self, change: impl FnOnce(&mut hcm::HttpConnectionManager)) -> Self {
        change(&mut self.manager);
        self
    }

    /// Changes any field of the chain; its one filter is filled in by [`build`](Self::build) unless there is one.
    pub fn modify(mut self, change: impl FnOnce(&mut pb::FilterChain)) -> Self {
        change(&mut self.chain);
        self
    }

    /// The message.
    pub fn build(self) -> pb::FilterChain {
        let Self { mut chain, manager } = self;
        if chain.filters.is_empty() {
            let config_type = Some(pb::filter::ConfigType::TypedConfig(any(&manager)));
            chain.filters.push(pb::Filter { name: "http".into(), config_type });
        }
        chain
    }
}

fn rds(name: String) -> hcm::http_connection_manager::RouteSpecifier {
    let rds = hcm::Rds { config_source: Some(ads()), route_config_name: name };
    hcm::http_connection_manager::RouteSpecifier::Rds(rds)
}

fn inline(routes: RouteConfigBuilder) -> hcm::http_connection_manager::RouteSpecifier {
    hcm::http_connection_manager::RouteSpecifier::RouteConfig(routes.build())
}

/// Behind those added before, and before the router.
fn add_filter(manager: &mut hcm::HttpConnectionManager, filter: hcm::HttpFilter) {
    let before_router = manager.http_filters.len().saturating_sub(1);
    manager.http_filters.insert(before_router, filter);
}

fn filter<M: Message + Name>(name: impl Into<String>, config: &M) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.into(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}

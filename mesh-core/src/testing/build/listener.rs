//! Listeners of clients: an API listener with an HTTP connection manager (A27, A31, A39).

use std::time::Duration;

use mesh_xds_proto::envoy::config::core::v3::HttpProtocolOptions;
use mesh_xds_proto::envoy::config::listener::v3::{ApiListener, Listener};
use mesh_xds_proto::envoy::extensions::filters::http::router::v3::Router;
use mesh_xds_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use prost::{Message, Name};

use super::{RouteConfigBuilder, ads, any, duration};

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
        let specifier = hcm::http_connection_manager::RouteSpecifier::RouteConfig(routes.build());
        self.manager.route_specifier = Some(specifier);
        self
    }

    /// Adds an HTTP filter behind those added before, and before the router.
    pub fn filter<M: Message + Name>(mut self, name: impl Into<String>, config: &M) -> Self {
        let before_router = self.manager.http_filters.len().saturating_sub(1);
        self.manager.http_filters.insert(before_router, filter(name, config));
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

fn rds(name: String) -> hcm::http_connection_manager::RouteSpecifier {
    let rds = hcm::Rds { config_source: Some(ads()), route_config_name: name };
    hcm::http_connection_manager::RouteSpecifier::Rds(rds)
}

fn filter<M: Message + Name>(name: impl Into<String>, config: &M) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.into(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}

//! Builders of xDS resources: each starts from what most tests want, and a test states what differs.
//!
//! A builder wraps the generated message; `modify` reaches every field that has no method, `build` gives the message.

mod cluster;
mod endpoints;
mod listener;
mod route;
mod secret;

pub use cluster::{ClusterBuilder, cluster};
pub use endpoints::{EndpointBuilder, EndpointsBuilder, LocalityBuilder, endpoint, endpoints, locality};
pub use listener::{
    FilterChainBuilder, ListenerBuilder, ServerListenerBuilder, filter_chain, listener, server_listener,
};
pub use route::{RouteBuilder, RouteConfigBuilder, VirtualHostBuilder, route, route_config, virtual_host};
pub use secret::{SecretBuilder, inline, sds, sds_of_agent, secret, spiffe_validator};

use std::time::Duration;

use mesh_xds_proto::envoy::config::core::v3 as core;
use prost::{Message, Name};
use prost_types::Any;

/// `message` with its type URL, as extension fields and responses carry it.
pub fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// "Ask the stream that this came on", the only source that gRPC knows.
fn ads() -> core::ConfigSource {
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3 as i32,
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {})),
        ..Default::default()
    }
}

/// `host:port`, `[v6]:port` or `unix:path` as an address.
///
/// # Panics
///
/// If it is none of these: it is a mistake in the test.
fn address(text: &str) -> core::Address {
    let address = match text.strip_prefix("unix:") {
        Some(path) => core::address::Address::Pipe(core::Pipe { path: path.to_owned(), mode: 0 }),
        None => core::address::Address::SocketAddress(socket_address(text)),
    };
    core::Address { address: Some(address) }
}

fn socket_address(text: &str) -> core::SocketAddress {
    let split = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let Some((host, port)) = split else { panic!("address `{text}` is not host:port") };
    core::SocketAddress {
        address: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
        ..Default::default()
    }
}

/// As a protobuf duration; what exceeds it becomes its largest value.
fn duration(value: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(value.as_secs()).unwrap_or(i64::MAX);
    let nanos = i32::try_from(value.subsec_nanos()).unwrap_or(i32::MAX);
    prost_types::Duration { seconds, nanos }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_port_or_a_unix_path() {
        let socket = |text| socket_address(text).address;
        assert_eq!(socket("127.0.0.1:80"), "127.0.0.1");
        assert_eq!(socket("[::1]:80"), "::1");
        assert_eq!(socket("service.example:80"), "service.example");
        let path = address("unix:/run/x").address;
        assert!(matches!(path, Some(core::address::Address::Pipe(pipe)) if pipe.path == "/run/x"));
    }

    #[test]
    #[should_panic(expected = "address `nowhere` is not host:port")]
    fn an_address_without_a_port_is_the_tests_mistake() {
        address("nowhere");
    }
}

//! `FilterChain`: what is done to the calls of a connection, and which connections it is for (A36).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_xds_proto::envoy::config::core::v3 as core;
use mesh_xds_proto::envoy::config::listener::v3 as proto;
use mesh_xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use proto::filter::ConfigType;
use proto::filter_chain_match::ConnectionSourceType;

use super::http_filter::{Side, http_filters};
use super::listener::route_source;
use super::place::{At, quoted};
use super::transport_socket::{secured_by, typed};
use super::value::{Extension, is_positive};
use crate::resource::filter_chain::{ChainMatch, FilterChain, FilterChains, Prefix, SourceType};
use crate::resource::security::DownstreamTls;
use crate::resource::verdict::Fields;

/// Combinations of criteria that a listener may have: its chains are compared by them.
const MAX_COMBINATIONS: usize = 10_000;

pub(super) fn filter_chains(
    chains: &[proto::FilterChain],
    default: Option<&proto::FilterChain>,
    at: &At<'_>,
) -> FilterChains {
    if chains.is_empty() && default.is_none() {
        at.field("filter_chains").error(
            "must be set, or `default_filter_chain`, on a server, and on a client `api_listener` (from Istio, it means that \
             the node's metadata lacks GENERATOR: grpc)",
        );
    }
    let mut found = FilterChains::default();
    let mut seen = Seen::default();
    for (index, chain) in chains.iter().enumerate() {
        let at = &at.item("filter_chains", index);
        let decoded = filter_chain(chain, &format!("filter_chains[{index}]"), at);
        let Some(matched) = chain_match(chain, at) else { continue };
        seen.add(&matched, index, &at.field("filter_chain_match"));
        found.chains.extend(decoded.map(|chain| (matched, Arc::new(chain))));
    }
    let place = "default_filter_chain";
    if default.is_some_and(|chain| chain.filter_chain_match.is_some()) {
        at.field(place).field("filter_chain_match").ignored("it is for what no other chain matches");
    }
    found.default = default.and_then(|chain| filter_chain(chain, place, &at.field(place))).map(Arc::new);
    found
}

fn filter_chain(message: &proto::FilterChain, place: &str, at: &At<'_>) -> Option<FilterChain> {
    message.judge(at);
    let socket = message.transport_socket.as_ref();
    let security = socket.and_then(|socket| socket_security(socket, &at.field("transport_socket")));
    let [filter] = message.filters.as_slice() else {
        let found = message.filters.len();
        at.field("filters").error(format!("must be one HttpConnectionManager, and there are {found}"));
        return None;
    };
    let at = &at.item("filters", 0);
    filter.judge(at);
    let config = match &filter.config_type {
        Some(ConfigType::TypedConfig(config)) => Some(config),
        _ => None,
    };
    let at = &at.field("typed_config");
    let extension = Extension::open(config, at)?;
    if !extension.is::<HttpConnectionManager>() {
        at.error(format!("{} is not an HttpConnectionManager", quoted(&extension.type_name)));
        return None;
    }
    let mut manager: HttpConnectionManager = extension.unpack(at)?;
    // Clients act on it in one profile, servers in none.
    let idle = manager.stream_idle_timeout.take();
    manager.judge(at);
    if manager.common_http_protocol_options.is_some() {
        at.field("common_http_protocol_options").ignored("a server's limits are set in code");
    }
    if is_positive(&idle) {
        at.field("stream_idle_timeout").ignored("a server's limits are set in code");
    }
    let name = if message.name.is_empty() { place } else { message.name.as_str() };
    let filters = http_filters(&manager.http_filters, Side::Server, at);
    Some(FilterChain { name: name.into(), security, filters, routes: route_source(manager.route_specifier, at)? })
}

/// What secures the chain's connections. What cannot be done is refused: a server never answers in plaintext where TLS was
/// asked for.
fn socket_security(socket: &core::TransportSocket, at: &At<'_>) -> Option<Arc<DownstreamTls>> {
    let at = &typed(socket, at);
    tls_context(&secured_by::<DownstreamTlsContext>(socket, at)?, at)
}

#[cfg(feature = "tls")]
fn tls_context(extension: &Extension<'_>, at: &At<'_>) -> Option<Arc<DownstreamTls>> {
    super::downstream_tls::downstream_tls(&extension.unpack(at)?, at).map(Arc::new)
}

#[cfg(not(feature = "tls"))]
fn tls_context(_: &Extension<'_>, at: &At<'_>) -> Option<Arc<DownstreamTls>> {
    at.error("needs mesh-core's feature `tls`, which is off, and is never replaced by plaintext");
    None
}

/// `None`: the chain is for no connection, as what it asks for is never there (A36).
fn chain_match(chain: &proto::FilterChain, at: &At<'_>) -> Option<ChainMatch> {
    let Some(message) = &chain.filter_chain_match else { return Some(ChainMatch::default()) };
    let at = &at.field("filter_chain_match");
    message.judge(at);
    let source_type = match ConnectionSourceType::try_from(message.source_type) {
        Ok(ConnectionSourceType::Any) => SourceType::Any,
        Ok(ConnectionSourceType::SameIpOrLoopback) => SourceType::SameIpOrLoopback,
        Ok(ConnectionSourceType::External) => SourceType::External,
        Err(_) => {
            at.field("source_type").error(format!("{} is no known type", message.source_type));
            SourceType::Any
        }
    };
    let never = message.destination_port.is_some()
        || !message.server_names.is_empty()
        || !message.application_protocols.is_empty()
        || !matches!(message.transport_protocol.as_str(), "" | "raw_buffer");
    let matched = ChainMatch {
        destinations: prefixes("prefix_ranges", &message.prefix_ranges, at),
        raw_buffer: message.transport_protocol == "raw_buffer",
        source_type,
        sources: prefixes("source_prefix_ranges", &message.source_prefix_ranges, at),
        source_ports: message.source_ports.iter().filter_map(|port| source_port(*port, at)).collect(),
    };
    (!never).then_some(matched)
}

fn prefixes(field: &'static str, ranges: &[core::CidrRange], at: &At<'_>) -> Vec<Prefix> {
    let ranges = ranges.iter().enumerate();
    ranges.filter_map(|(index, range)| prefix(range, &at.item(field, index))).collect()
}

pub(super) fn prefix(range: &core::CidrRange, at: &At<'_>) -> Option<Prefix> {
    range.judge(at);
    let address: Result<IpAddr, _> = range.address_prefix.parse();
    if address.is_err() {
        at.field("address_prefix").error(format!("{} is not an IP address", quoted(&range.address_prefix)));
    }
    Some(Prefix::new(address.ok()?, range.prefix_len.unwrap_or(0)))
}

fn source_port(port: u32, at: &At<'_>) -> Option<u16> {
    let number = u16::try_from(port).ok().filter(|number| *number > 0);
    if number.is_none() {
        at.field("source_ports").error(format!("{port} is not a port from 1 to 65535"));
    }
    number
}

type Combination = (Option<Prefix>, bool, SourceType, Option<Prefix>, Option<u16>);

/// The combinations of criteria so far, with the chain of each: two chains must have none in common.
#[derive(Default)]
struct Seen(HashMap<Combination, usize>);

impl Seen {
    fn add(&mut self, matched: &ChainMatch, chain: usize, at: &At<'_>) {
        let lists = [matched.destinations.len(), matched.sources.len(), matched.source_ports.len()];
        let more = lists.iter().try_fold(1_usize, |count, len| count.checked_mul((*len).max(1)));
        if more.is_none_or(|more| more > MAX_COMBINATIONS - self.0.len().min(MAX_COMBINATIONS)) {
            return at.error(format!("the chains have more than {MAX_COMBINATIONS} combinations of criteria"));
        }
        for destination in each(&matched.destinations) {
            for source in each(&matched.sources) {
                for port in each(&matched.source_ports) {
                    let combination = (destination, matched.raw_buffer, matched.source_type, source, port);
                    if let Some(other) = self.0.insert(combination, chain).filter(|other| *other != chain) {
                        return at.error(format!("matches the same connections as filter_chains[{other}]"));
                    }
                }
            }
        }
    }
}

/// Each of a list, or once nothing.
fn each<T: Copy>(list: &[T]) -> impl Iterator<Item = Option<T>> {
    let nothing = list.is_empty().then_some(None);
    list.iter().copied().map(Some).chain(nothing)
}

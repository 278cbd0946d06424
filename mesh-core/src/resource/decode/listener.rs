//! `Listener` and the `HttpConnectionManager` in it (A27, A31, A36, A39).

use std::net::IpAddr;
use std::sync::Arc;

use hcm::http_connection_manager::RouteSpecifier;
use mesh_xds_proto::envoy::config::core::v3 as core;
use mesh_xds_proto::envoy::config::listener::v3 as proto;
use mesh_xds_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;

use super::filter_chain::filter_chains;
use super::http_filter::{Side, http_filters};
use super::place::{At, quoted};
use super::route_config::route_configuration;
use super::value::{Extension, duration, from_control_plane};
use crate::resource::listener::{ApiListener, CallLimits, Listener, RouteSource, SocketListener};
use crate::resource::verdict::Fields;

pub(super) fn listener(message: proto::Listener, at: &At<'_>) -> Option<Listener> {
    message.judge(at);
    match message.api_listener {
        Some(listener) => api_listener(listener, at).map(|listener| Listener::Api(Arc::new(listener))),
        None => Some(Listener::Socket(socket_listener(&message, at))),
    }
}

fn api_listener(api_listener: proto::ApiListener, at: &At<'_>) -> Option<ApiListener> {
    let at = &at.field("api_listener");
    api_listener.judge(at);
    let at = &at.field("api_listener");
    let extension = Extension::open(api_listener.api_listener.as_ref(), at)?;
    if !extension.is::<hcm::HttpConnectionManager>() {
        at.error(format!("{} is not an HttpConnectionManager", quoted(&extension.type_name)));
        return None;
    }
    connection_manager(extension.unpack(at)?, at)
}

/// What a server could not do is refused, and never done in part (A36).
fn socket_listener(message: &proto::Listener, at: &At<'_>) -> SocketListener {
    if message.use_original_dst == Some(true) {
        at.field("use_original_dst").error("is not supported on a server (A36)");
    }
    for (field, is_set) in [
        ("listener_filters", !message.listener_filters.is_empty()),
        ("fcds_config", message.fcds_config.is_some()),
        ("filter_chain_matcher", message.filter_chain_matcher.is_some()),
    ] {
        if is_set {
            at.field(field).error("is not supported on a server");
        }
    }
    let chains = filter_chains(&message.filter_chains, message.default_filter_chain.as_ref(), at);
    SocketListener { address: socket_address(message, at), chains }
}

fn socket_address(message: &proto::Listener, at: &At<'_>) -> Option<(IpAddr, u16)> {
    let Some(core::address::Address::SocketAddress(socket)) = &message.address.as_ref()?.address else { return None };
    socket.judge(&at.field("address").field("socket_address"));
    let Some(core::socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else { return None };
    Some((socket.address.parse().ok()?, u16::try_from(port).ok()?))
}

fn connection_manager(message: hcm::HttpConnectionManager, at: &At<'_>) -> Option<ApiListener> {
    message.judge(at);
    let filters = Arc::new(http_filters(&message.http_filters, Side::Client, at));
    let max_stream_duration = message.common_http_protocol_options.and_then(|options| {
        let at = &at.field("common_http_protocol_options");
        options.judge(at);
        duration(options.max_stream_duration, &at.field("max_stream_duration"))
    });
    let stream_idle_timeout = duration(message.stream_idle_timeout, &at.field("stream_idle_timeout"));
    let limits = CallLimits { max_stream_duration, stream_idle_timeout };
    Some(ApiListener { routes: route_source(message.route_specifier, at)?, limits, filters })
}

pub(super) fn route_source(specifier: Option<RouteSpecifier>, at: &At<'_>) -> Option<RouteSource> {
    match specifier {
        Some(RouteSpecifier::Rds(rds)) => named(rds, &at.field("rds")),
        Some(RouteSpecifier::RouteConfig(routes)) => {
            route_configuration(routes, &at.field("route_config")).map(|routes| RouteSource::Inline(Arc::new(routes)))
        }
        // Refused by the table.
        Some(RouteSpecifier::ScopedRoutes(_)) => None,
        None => {
            at.error("`rds` or `route_config` must be set");
            None
        }
    }
}

fn named(rds: hcm::Rds, at: &At<'_>) -> Option<RouteSource> {
    rds.judge(at);
    from_control_plane(rds.config_source.as_ref(), &at.field("config_source"));
    let name = Some(rds.route_config_name).filter(|name| !name.is_empty());
    Some(RouteSource::Named(at.required("route_config_name", name)?.into()))
}

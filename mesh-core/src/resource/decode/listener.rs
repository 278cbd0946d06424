//! `Listener` and the `HttpConnectionManager` in it (A27, A31, A39).

use std::sync::Arc;

use hcm::http_connection_manager::RouteSpecifier;
use mesh_xds_proto::envoy::config::listener::v3 as proto;
use mesh_xds_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;

use super::http_filter::http_filters;
use super::place::{At, quoted};
use super::route_config::route_configuration;
use super::value::{Extension, duration, from_control_plane};
use crate::resource::listener::{Listener, RouteSource};
use crate::resource::verdict::Fields;

pub(super) fn listener(message: proto::Listener, at: &At<'_>) -> Option<Listener> {
    message.judge(at);
    let Some(api_listener) = message.api_listener else {
        at.field("api_listener").error(
            "must be set: this is a listener for a proxy or a server, not for a client (from Istio, it means that the \
             node's metadata lacks GENERATOR: grpc)",
        );
        return None;
    };
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

fn connection_manager(message: hcm::HttpConnectionManager, at: &At<'_>) -> Option<Listener> {
    message.judge(at);
    let filters = Arc::new(http_filters(&message.http_filters, at));
    let max_stream_duration = message.common_http_protocol_options.and_then(|options| {
        let at = &at.field("common_http_protocol_options");
        options.judge(at);
        duration(options.max_stream_duration, &at.field("max_stream_duration"))
    });
    Some(Listener { routes: route_source(message.route_specifier, at)?, max_stream_duration, filters })
}

fn route_source(specifier: Option<RouteSpecifier>, at: &At<'_>) -> Option<RouteSource> {
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

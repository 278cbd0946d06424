//! That any bytes lead to a value or to errors, and that what is accepted can be used: for tests and fuzzers.

use http::{HeaderMap, Method};

use crate::resource::matcher::RequestHead;
use crate::resource::route::RouteAction;
use crate::resource::route_config::RouteConfiguration;
use crate::xds::resource_type::{Extensions, ResourceType};

/// Decodes as this type, and uses what comes out; routes, for a call of `path`.
pub(crate) fn decode(kind: &ResourceType, bytes: &[u8], extensions: &Extensions, path: &str) {
    match (kind.decode)(bytes, extensions).value {
        Err(errors) => assert!(!errors.is_empty() && errors.iter().all(|error| !error.path.is_empty())),
        Ok(value) => {
            if let Some(routes) = value.downcast_ref::<RouteConfiguration>() {
                use_routes(routes, path);
            }
        }
    }
}

fn use_routes(routes: &RouteConfiguration, path: &str) {
    let headers = HeaderMap::new();
    let head = RequestHead { path, method: &Method::POST, authority: "echo:7070", headers: &headers };
    let host = routes.virtual_host(path).or_else(|| routes.virtual_host("echo:7070"));
    let Some((host, route)) = host.and_then(|host| Some((host, host.route(&head, || 0)?))) else { return };
    if let RouteAction::Forward(forward) = &host.routes[route].action {
        assert!(forward.clusters()[forward.pick_cluster(|| u64::MAX)].weight > 0);
    }
}

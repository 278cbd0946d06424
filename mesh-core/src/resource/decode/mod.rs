//! Bytes to validated types: total, and with every error of a resource at once.
//!
//! Each decoder takes a message and the place where it stands, judges the message's fields by the table of verdicts,
//! and then reads what is acted on. It goes on after an error, so that the sender hears of all of them; what it returns
//! is used only if there were none.

mod adaptive_concurrency;
#[cfg(feature = "tls")]
mod certificate;
mod circuit_breakers;
mod cluster;
mod composite;
#[cfg(feature = "tls")]
mod data_source;
mod discovery;
#[cfg(feature = "tls")]
mod downstream_tls;
mod endpoints;
mod ext_authz;
mod fault;
mod filter_chain;
mod hash_policy;
mod header_mutation;
mod http_filter;
#[cfg(feature = "jwt")]
mod jwt;
mod lb_policy;
mod listener;
mod match_tree;
mod metadata;
mod mirror;
mod named_policy;
mod outlier_detection;
pub(super) mod place;
mod plain_endpoints;
mod rate_limit;
mod rbac;
mod resolution;
mod retry_policy;
mod rewrite;
mod route_action;
mod route_config;
mod route_match;
#[cfg(feature = "tls")]
mod secret;
mod seen;
mod slow_start;
#[cfg(feature = "tls")]
mod spiffe_validator;
mod stateful_session;
#[cfg(test)]
mod tests;
#[cfg(feature = "tls")]
mod tls_context;
mod transport_socket;
#[cfg(any(test, fuzzing))]
pub(crate) mod trial;
#[cfg(feature = "tls")]
mod upstream_tls;
pub(super) mod value;
mod weighted_round_robin;
mod zone_aware;

use std::any::Any;
use std::sync::Arc;

use prost::{Message, Name};

use self::place::{At, Report};
use self::plain_endpoints::Split;
use crate::xds::resource_type::{Decoded, Extensions, FieldError, ResourceType};

/// Decodes to [`Listener`](super::listener::Listener).
pub(crate) static LISTENER: ResourceType = ResourceType {
    type_url: "type.googleapis.com/envoy.config.listener.v3.Listener",
    name: "Listener",
    absence_deletes: true,
    decode: |bytes, extensions| decode(bytes, extensions, listener::listener),
};

/// Decodes to [`RouteConfiguration`](super::route_config::RouteConfiguration).
pub(crate) static ROUTE_CONFIGURATION: ResourceType = ResourceType {
    type_url: "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    name: "RouteConfiguration",
    absence_deletes: false,
    decode: |bytes, extensions| decode(bytes, extensions, route_config::route_configuration),
};

/// Decodes to [`Cluster`](super::cluster::Cluster).
pub(crate) static CLUSTER: ResourceType = ResourceType {
    type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    name: "Cluster",
    absence_deletes: true,
    decode: |bytes, extensions| decode(bytes, extensions, cluster::cluster),
};

/// Decodes to [`Endpoints`](super::endpoints::Endpoints); a resource's name is its `cluster_name`.
pub(crate) static ENDPOINTS: ResourceType = ResourceType {
    type_url: "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    name: "ClusterLoadAssignment",
    absence_deletes: false,
    decode: |bytes, extensions| {
        let Split { rest, plain } = Split::new(bytes);
        decode(&rest, extensions, |message, at| endpoints::assignment(message, &plain, at))
    },
};

/// Decodes to [`Secret`](super::secret::Secret).
#[cfg(feature = "tls")]
pub(crate) static SECRET: ResourceType = ResourceType {
    type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
    name: "Secret",
    absence_deletes: false,
    decode: |bytes, extensions| decode(bytes, extensions, secret::secret),
};

fn decode<M, T>(bytes: &[u8], extensions: &Extensions, validate: impl FnOnce(M, &At<'_>) -> Option<T>) -> Decoded
where
    M: Message + Default + Name,
    T: Any + Send + Sync,
{
    let report = Report::new(extensions);
    let value = match M::decode(bytes) {
        Ok(message) => validate(message, &report.root()),
        Err(error) => {
            report.root().field(M::NAME).error(format!("cannot be decoded: {error}"));
            None
        }
    };
    let (mut errors, ignored) = report.finish();
    if value.is_none() && errors.is_empty() {
        errors.push(FieldError { path: M::NAME.to_owned(), problem: "cannot be used".to_owned() });
    }
    let value = match value {
        Some(value) if errors.is_empty() => Ok(Arc::new(value) as Arc<dyn Any + Send + Sync>),
        _ => Err(errors),
    };
    Decoded { value, ignored }
}

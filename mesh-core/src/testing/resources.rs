//! What a control plane serves: resources by type and name, or an error in the place of one.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use mesh_xds_proto::envoy::config::cluster::v3::Cluster;
use mesh_xds_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use mesh_xds_proto::envoy::config::listener::v3::Listener;
use mesh_xds_proto::envoy::config::route::v3::RouteConfiguration;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::Secret;
use mesh_xds_proto::envoy::service::discovery::v3::{ResourceError, ResourceName};
use mesh_xds_proto::google::rpc::Status;
use prost::{Message, Name};
use prost_types::Any;

use super::build::{
    ClusterBuilder, EndpointBuilder, EndpointsBuilder, ListenerBuilder, RouteConfigBuilder, SecretBuilder,
    ServerListenerBuilder, any, cluster, endpoints, listener, route, route_config,
};

/// One resource, or an error in the place of one.
#[derive(Clone, PartialEq)]
pub struct Resource {
    type_url: String,
    name: String,
    body: Body,
}

/// What stands in a response; encoded once, sent many times.
#[derive(Clone, PartialEq)]
pub(super) enum Body {
    /// An encoded `google.protobuf.Any`.
    Any(Bytes),
    /// An encoded `ResourceError`.
    Error(Bytes),
}

impl Body {
    /// The message, if this is a resource, of this type, and decodes.
    pub(super) fn message<M: Message + Name + Default>(&self) -> Option<M> {
        match self {
            Self::Any(body) => Any::decode(body.clone()).ok()?.to_msg::<M>().ok(),
            Self::Error(_) => None,
        }
    }
}

impl Resource {
    /// Any message as the resource `name` of its type.
    pub fn new<M: Message + Name>(name: impl Into<String>, message: &M) -> Self {
        Self::from_any(M::type_url(), name, &any(message))
    }

    /// Bytes as the resource `name` of a type, whether they decode or not.
    pub fn raw(type_url: impl Into<String>, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        let type_url = type_url.into();
        let body = Any { type_url: type_url.clone(), value: value.into() };
        Self::from_any(type_url, name, &body)
    }

    /// An `Any` that is sent to those who ask for `name` of `type_url`, whatever is inside it: another type, the
    /// `Resource` wrapper of discovery.
    pub fn from_any(type_url: impl Into<String>, name: impl Into<String>, body: &Any) -> Self {
        let body = Body::Any(body.encode_to_vec().into());
        Self { type_url: type_url.into(), name: name.into(), body }
    }

    /// An error for those who ask for `name` of `type_url`, in `resource_errors` (A88); `code` is a gRPC status code.
    pub fn error(type_url: impl Into<String>, name: impl Into<String>, code: i32, message: impl Into<String>) -> Self {
        let name = name.into();
        let error = ResourceError {
            resource_name: Some(ResourceName { name: name.clone(), ..Default::default() }),
            error_detail: Some(Status { code, message: message.into(), details: Vec::new() }),
        };
        Self { type_url: type_url.into(), name, body: Body::Error(error.encode_to_vec().into()) }
    }

    /// The type that it is asked for as.
    pub fn type_url(&self) -> &str {
        &self.type_url
    }

    /// The name that it is asked for as.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn into_parts(self) -> (String, String, Body) {
        (self.type_url, self.name, self.body)
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, bytes) = match &self.body {
            Body::Any(bytes) => ("Resource", bytes),
            Body::Error(bytes) => ("ResourceError", bytes),
        };
        write!(f, "{what}({} `{}`, {} bytes)", self.type_url, self.name, bytes.len())
    }
}

impl From<Listener> for Resource {
    fn from(message: Listener) -> Self {
        Self::new(message.name.clone(), &message)
    }
}

impl From<RouteConfiguration> for Resource {
    fn from(message: RouteConfiguration) -> Self {
        Self::new(message.name.clone(), &message)
    }
}

impl From<Cluster> for Resource {
    fn from(message: Cluster) -> Self {
        Self::new(message.name.clone(), &message)
    }
}

impl From<ClusterLoadAssignment> for Resource {
    fn from(message: ClusterLoadAssignment) -> Self {
        Self::new(message.cluster_name.clone(), &message)
    }
}

impl From<Secret> for Resource {
    fn from(message: Secret) -> Self {
        Self::new(message.name.clone(), &message)
    }
}

impl From<SecretBuilder> for Resource {
    fn from(builder: SecretBuilder) -> Self {
        builder.build().into()
    }
}

impl From<ServerListenerBuilder> for Resource {
    fn from(builder: ServerListenerBuilder) -> Self {
        builder.build().into()
    }
}

impl From<ListenerBuilder> for Resource {
    fn from(builder: ListenerBuilder) -> Self {
        builder.build().into()
    }
}

impl From<RouteConfigBuilder> for Resource {
    fn from(builder: RouteConfigBuilder) -> Self {
        builder.build().into()
    }
}

impl From<ClusterBuilder> for Resource {
    fn from(builder: ClusterBuilder) -> Self {
        builder.build().into()
    }
}

impl From<EndpointsBuilder> for Resource {
    fn from(builder: EndpointsBuilder) -> Self {
        builder.build().into()
    }
}

/// A set of resources, one per type and name.
///
/// ```
/// use mesh_core::testing::{Resources, cluster, endpoints, route, route_config};
///
/// let resources = Resources::service("greeter", ["127.0.0.1:50051"])
///     .with(route_config("greeter").routes([route().weighted([("greeter", 90), ("canary", 10)])]))
///     .with(cluster("canary"))
///     .with(endpoints("canary").endpoint("127.0.0.1:50052"));
/// assert_eq!(resources.len(), 6);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    by_key: BTreeMap<(String, String), Resource>,
}

impl Resources {
    /// No resources.
    pub fn new() -> Self {
        Self::default()
    }

    /// Listener, route configuration, cluster and endpoints, all named `name`: what a call to `xds:///name` needs.
    ///
    /// # Panics
    ///
    /// As [`endpoint`](super::endpoint) does.
    pub fn service<E: Into<EndpointBuilder>>(name: impl Into<String>, addresses: impl IntoIterator<Item = E>) -> Self {
        let name = name.into();
        Self::new()
            .with(listener(&name))
            .with(route_config(&name).routes([route().cluster(&name)]))
            .with(cluster(&name))
            .with(endpoints(&name).all(addresses))
    }

    /// Adds a resource, or replaces the one of its type and name.
    pub fn with(mut self, resource: impl Into<Resource>) -> Self {
        self.put(resource);
        self
    }

    /// Adds all of `others`, which replace those of the same type and name.
    pub fn and(mut self, others: Self) -> Self {
        self.by_key.extend(others.by_key);
        self
    }

    /// Takes a resource out.
    pub fn without(mut self, type_url: &str, name: &str) -> Self {
        self.remove(type_url, name);
        self
    }

    /// Adds a resource, or replaces the one of its type and name.
    pub fn put(&mut self, resource: impl Into<Resource>) {
        let resource = resource.into();
        self.by_key.insert((resource.type_url.clone(), resource.name.clone()), resource);
    }

    /// Adds bytes as a resource; see [`Resource::raw`].
    pub fn put_raw(&mut self, type_url: &str, name: &str, value: impl Into<Vec<u8>>) {
        self.put(Resource::raw(type_url, name, value));
    }

    /// Takes a resource out; whether it was there.
    pub fn remove(&mut self, type_url: &str, name: &str) -> bool {
        self.by_key.remove(&(type_url.to_owned(), name.to_owned())).is_some()
    }

    /// The message of this type and name, if it is there and decodes.
    pub fn message<M: Message + Name + Default>(&self, name: &str) -> Option<M> {
        self.by_key.get(&(M::type_url(), name.to_owned()))?.body.message()
    }

    /// Changes the message of this type and name.
    ///
    /// # Panics
    ///
    /// If it is not there or does not decode: the test asks for something that it did not put.
    pub fn modify<M: Message + Name + Default>(&mut self, name: &str, change: impl FnOnce(&mut M)) {
        let Some(mut message) = self.message::<M>(name) else {
            panic!("there is no {} `{name}` to modify", M::full_name());
        };
        change(&mut message);
        self.put(Resource::new(name, &message));
    }

    /// The resources, ordered by type and name.
    pub fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.by_key.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(super) fn into_resources(self) -> impl Iterator<Item = Resource> {
        self.by_key.into_values()
    }
}

impl<R: Into<Resource>> FromIterator<R> for Resources {
    fn from_iter<I: IntoIterator<Item = R>>(resources: I) -> Self {
        resources.into_iter().fold(Self::new(), Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::type_url;

    #[test]
    fn a_service_is_four_resources_of_one_name() {
        let resources = Resources::service("greeter", ["127.0.0.1:1", "127.0.0.1:2"]);
        let names: Vec<_> = resources.iter().map(|resource| (resource.type_url(), resource.name())).collect();
        let expected = [type_url::CLUSTER, type_url::ENDPOINTS, type_url::LISTENER, type_url::ROUTE_CONFIGURATION];
        assert_eq!(names, expected.map(|type_url| (type_url, "greeter")));
        let assignment: ClusterLoadAssignment = resources.message("greeter").unwrap();
        assert_eq!(assignment.endpoints[0].lb_endpoints.len(), 2);
    }

    #[test]
    fn modify_changes_one_message() {
        let mut resources = Resources::service("greeter", ["127.0.0.1:1"]);
        resources.modify("greeter", |cluster: &mut Cluster| cluster.lb_policy = 2);
        assert_eq!(resources.message::<Cluster>("greeter").unwrap().lb_policy, 2);
        assert_eq!(resources.len(), 4);
    }

    #[test]
    #[should_panic(expected = "there is no envoy.config.cluster.v3.Cluster `other` to modify")]
    fn modify_wants_the_message_to_be_there() {
        Resources::new().modify("other", |_: &mut Cluster| ());
    }
}

//! A bootstrap by code. It writes the JSON that a file would hold, so that both are checked by the same rules.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::Bootstrap;
use super::grpc_service::{Credentials, GrpcService};
use crate::error::Error;

/// Builds a [`Bootstrap`]; see [`Bootstrap::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct BootstrapBuilder {
    server_uri: String,
    credentials: Credentials,
    features: Vec<Value>,
    node: Map<String, Value>,
    metadata: Map<String, Value>,
    top: Map<String, Value>,
    services: Vec<GrpcService>,
}

impl BootstrapBuilder {
    pub(super) fn new(server_uri: String) -> Self {
        Self {
            server_uri,
            credentials: Credentials::default(),
            features: Vec::new(),
            node: Map::new(),
            metadata: Map::new(),
            top: Map::new(),
            services: Vec::new(),
        }
    }

    /// Speaks to the control plane in plain text.
    pub fn insecure(mut self) -> Self {
        self.credentials.insecure();
        self
    }

    /// Speaks to the control plane over TLS, trusting the system's roots (A65).
    pub fn tls(mut self) -> Self {
        self.credentials.tls_files([]);
        self
    }

    /// Speaks to the control plane over TLS, trusting the roots in a PEM file (A65).
    pub fn tls_with_roots(mut self, ca_certificate_file: impl AsRef<Path>) -> Self {
        self.credentials.tls_files([("ca_certificate_file", ca_certificate_file.as_ref())]);
        self
    }

    /// Speaks to the control plane over mutual TLS, with the PEM files of the roots to trust, of the own certificate
    /// chain, and of its key (A65). They are read anew for connections made 600 s or more after the last reading.
    pub fn mutual_tls(
        mut self,
        ca_certificate_file: impl AsRef<Path>,
        certificate_file: impl AsRef<Path>,
        private_key_file: impl AsRef<Path>,
    ) -> Self {
        let (roots, certificate, key) =
            (ca_certificate_file.as_ref(), certificate_file.as_ref(), private_key_file.as_ref());
        self.credentials.mutual_tls(roots, certificate, key);
        self
    }

    /// Carries the JSON Web Token in a file to the control plane, with each stream (A97); the file is read anew for each. It
    /// takes one of the kinds of TLS: a token is never sent in plaintext.
    pub fn jwt_token_file(mut self, path: impl AsRef<Path>) -> Self {
        self.credentials.jwt_token_file(path.as_ref());
        self
    }

    /// Adds a server feature, such as `fail_on_data_errors` (A88).
    pub fn server_feature(mut self, feature: impl Into<String>) -> Self {
        self.features.push(feature.into().into());
        self
    }

    /// The name under which the control plane knows this process.
    pub fn node_id(mut self, id: impl Into<String>) -> Self {
        self.node.insert("id".into(), id.into().into());
        self
    }

    /// The name of the group of processes that this one belongs to.
    pub fn node_cluster(mut self, cluster: impl Into<String>) -> Self {
        self.node.insert("cluster".into(), cluster.into().into());
        self
    }

    /// Where this process runs; parts that are not known are empty.
    pub fn locality(mut self, region: impl Into<String>, zone: impl Into<String>, sub_zone: impl Into<String>) -> Self {
        let locality = json!({"region": region.into(), "zone": zone.into(), "sub_zone": sub_zone.into()});
        self.node.insert("locality".into(), locality);
        self
    }

    /// Adds one string to the node's metadata.
    pub fn node_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into().into());
        self
    }

    /// Adds a value of any kind to the node's metadata.
    #[cfg(feature = "istio")]
    pub(crate) fn node_metadata_value(mut self, key: &str, value: Value) -> Self {
        self.metadata.insert(key.into(), value);
        self
    }

    /// How the Listener of a server is called (A36): each `%s` stands for the address that it listens on, such as
    /// `0.0.0.0:50051`. Default: there is none, and servers of the mesh cannot be configured by the control plane.
    pub fn server_listener_resource_name_template(mut self, template: impl Into<String>) -> Self {
        self.top.insert("server_listener_resource_name_template".into(), template.into().into());
        self
    }

    /// Lets resources name this service, to be called beside the mesh's own (A102). Default: they can name none, and one that
    /// does is refused.
    pub fn allow_grpc_service(mut self, service: GrpcService) -> Self {
        self.services.push(service);
        self
    }

    /// Checks the whole.
    ///
    /// # Errors
    ///
    /// Of kind [`ErrorKind::Setup`](crate::ErrorKind::Setup): a `server_uri` that is no target, no credentials, or
    /// a path that is not UTF-8.
    pub fn build(mut self) -> Result<Bootstrap, Error> {
        let mut server = self.credentials.into_fields()?;
        server.insert("server_uri".into(), self.server_uri.into());
        server.insert("server_features".into(), self.features.into());
        let services = self.services.into_iter();
        let services = services.map(|service| Ok((service.target_uri, service.credentials.into_fields()?.into())));
        let services: Map<String, Value> = services.collect::<Result<_, Error>>()?;
        self.top.insert("allowed_grpc_services".into(), services.into());
        self.node.insert("metadata".into(), self.metadata.into());
        self.top.insert("xds_servers".into(), json!([server]));
        self.top.insert("node".into(), self.node.into());
        Bootstrap::from_value(self.top.into(), "bootstrap")
    }
}

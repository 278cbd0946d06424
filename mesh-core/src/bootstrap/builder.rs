//! A bootstrap by code. It writes the JSON that a file would hold, so that both are checked by the same rules.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::Bootstrap;
use crate::error::{Error, ErrorKind};

/// Builds a [`Bootstrap`]; see [`Bootstrap::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct BootstrapBuilder {
    server_uri: String,
    credentials: Option<Value>,
    call_credentials: Vec<Value>,
    features: Vec<Value>,
    node: Map<String, Value>,
    metadata: Map<String, Value>,
    top: Map<String, Value>,
    /// A path that JSON cannot hold.
    bad_path: Option<String>,
}

impl BootstrapBuilder {
    pub(super) fn new(server_uri: String) -> Self {
        Self {
            server_uri,
            credentials: None,
            call_credentials: Vec::new(),
            features: Vec::new(),
            node: Map::new(),
            metadata: Map::new(),
            top: Map::new(),
            bad_path: None,
        }
    }

    /// Speaks to the control plane in plain text.
    pub fn insecure(mut self) -> Self {
        self.credentials = Some(json!({"type": "insecure"}));
        self
    }

    /// Speaks to the control plane over TLS, trusting the system's roots (A65).
    pub fn tls(mut self) -> Self {
        self.credentials = Some(json!({"type": "tls"}));
        self
    }

    /// Speaks to the control plane over TLS, trusting the roots in a PEM file (A65).
    pub fn tls_with_roots(self, ca_certificate_file: impl AsRef<Path>) -> Self {
        self.tls_files([("ca_certificate_file", ca_certificate_file.as_ref())])
    }

    /// Speaks to the control plane over mutual TLS, with the PEM files of the roots to trust, of the own certificate
    /// chain, and of its key (A65). They are read anew for connections made 600 s or more after the last reading.
    pub fn mutual_tls(
        self,
        ca_certificate_file: impl AsRef<Path>,
        certificate_file: impl AsRef<Path>,
        private_key_file: impl AsRef<Path>,
    ) -> Self {
        self.tls_files([
            ("ca_certificate_file", ca_certificate_file.as_ref()),
            ("certificate_file", certificate_file.as_ref()),
            ("private_key_file", private_key_file.as_ref()),
        ])
    }

    fn tls_files<const N: usize>(mut self, files: [(&str, &Path); N]) -> Self {
        let mut config = Map::new();
        for (field, path) in files {
            match path.to_str() {
                Some(path) => drop(config.insert(field.into(), path.into())),
                None => self.bad_path = Some(format!("{field}: `{}` is not UTF-8", path.display())),
            }
        }
        self.credentials = Some(json!({"type": "tls", "config": config}));
        self
    }

    /// Carries the JSON Web Token in a file to the control plane, with each stream (A97); the file is read anew for each. It
    /// takes one of the kinds of TLS: a token is never sent in plaintext.
    pub fn jwt_token_file(mut self, path: impl AsRef<Path>) -> Self {
        match path.as_ref().to_str() {
            Some(path) => {
                self.call_credentials.push(json!({"type": "jwt_token_file", "config": {"jwt_token_file": path}}));
            }
            None => self.bad_path = Some(format!("jwt_token_file: `{}` is not UTF-8", path.as_ref().display())),
        }
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

    /// Checks the whole.
    ///
    /// # Errors
    ///
    /// Of kind [`ErrorKind::Setup`](crate::ErrorKind::Setup): a `server_uri` that is no target, no credentials, or
    /// a path that is not UTF-8.
    pub fn build(mut self) -> Result<Bootstrap, Error> {
        if let Some(problem) = self.bad_path {
            return Err(Error::new(ErrorKind::Setup, format!("bootstrap: {problem}")));
        }
        let server = json!({
            "server_uri": self.server_uri,
            "channel_creds": self.credentials.into_iter().collect::<Vec<_>>(),
            "call_creds": self.call_credentials,
            "server_features": self.features,
        });
        self.node.insert("metadata".into(), self.metadata.into());
        self.top.insert("xds_servers".into(), json!([server]));
        self.top.insert("node".into(), self.node.into());
        Bootstrap::from_value(self.top.into(), "bootstrap")
    }
}

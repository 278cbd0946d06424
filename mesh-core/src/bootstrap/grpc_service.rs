//! A service that resources may have this process call (A102), by code, and the credentials that it has in common with a
//! control plane.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind};

/// A gRPC service beside the mesh's own that resources may name (A102), such as one that authorizes calls
/// (`ext_authz`): how it is reached, and with which credentials. Those that a control plane sends are never used.
///
/// ```
/// use mesh_core::{Bootstrap, GrpcService};
///
/// let authorization = GrpcService::new("dns:///authz.example.org:9000").tls();
/// let bootstrap = Bootstrap::builder("127.0.0.1:18000").insecure().allow_grpc_service(authorization).build()?;
/// # Ok::<(), mesh_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a service is allowed by giving it to a bootstrap"]
pub struct GrpcService {
    pub(super) target_uri: String,
    pub(super) credentials: Credentials,
}

impl GrpcService {
    /// `target_uri` is what resources call it, character by character. It takes the forms of a control plane's address: see
    /// [`Bootstrap::builder`](crate::Bootstrap::builder).
    pub fn new(target_uri: impl Into<String>) -> Self {
        Self { target_uri: target_uri.into(), credentials: Credentials::default() }
    }

    fn with(mut self, change: impl FnOnce(&mut Credentials)) -> Self {
        change(&mut self.credentials);
        self
    }

    /// It is asked in plain text.
    pub fn insecure(self) -> Self {
        self.with(Credentials::insecure)
    }

    /// It is asked over TLS, trusting the system's roots (A65).
    pub fn tls(self) -> Self {
        self.with(|credentials| credentials.tls_files([]))
    }

    /// It is asked over TLS, trusting the roots in a PEM file (A65).
    pub fn tls_with_roots(self, ca_certificate_file: impl AsRef<Path>) -> Self {
        self.with(|credentials| credentials.tls_files([("ca_certificate_file", ca_certificate_file.as_ref())]))
    }

    /// It is asked over mutual TLS, with the PEM files of the roots to trust, of the own certificate chain, and of its key
    /// (A65). They are read anew for connections made 600 s or more after the last reading.
    pub fn mutual_tls(
        self,
        ca_certificate_file: impl AsRef<Path>,
        certificate_file: impl AsRef<Path>,
        private_key_file: impl AsRef<Path>,
    ) -> Self {
        self.with(|credentials| {
            credentials.mutual_tls(ca_certificate_file.as_ref(), certificate_file.as_ref(), private_key_file.as_ref());
        })
    }

    /// Each call carries the JSON Web Token in a file (A97), which is read anew for each. It takes one of the kinds of TLS.
    pub fn jwt_token_file(self, path: impl AsRef<Path>) -> Self {
        self.with(|credentials| credentials.jwt_token_file(path.as_ref()))
    }
}

/// Credentials as the JSON of a bootstrap has them.
#[derive(Clone, Debug, Default)]
pub(super) struct Credentials {
    channel: Option<Value>,
    call: Vec<Value>,
    /// A path that JSON cannot hold.
    bad_path: Option<String>,
}

impl Credentials {
    pub(super) fn insecure(&mut self) {
        self.channel = Some(json!({"type": "insecure"}));
    }

    pub(super) fn tls_files<const N: usize>(&mut self, files: [(&str, &Path); N]) {
        let mut config = Map::new();
        for (field, path) in files {
            match path.to_str() {
                Some(path) => drop(config.insert(field.into(), path.into())),
                None => self.bad_path = Some(format!("{field}: `{}` is not UTF-8", path.display())),
            }
        }
        self.channel = Some(json!({"type": "tls", "config": config}));
    }

    pub(super) fn mutual_tls(&mut self, ca_certificate: &Path, certificate: &Path, private_key: &Path) {
        self.tls_files([
            ("ca_certificate_file", ca_certificate),
            ("certificate_file", certificate),
            ("private_key_file", private_key),
        ]);
    }

    pub(super) fn jwt_token_file(&mut self, path: &Path) {
        match path.to_str() {
            Some(path) => self.call.push(json!({"type": "jwt_token_file", "config": {"jwt_token_file": path}})),
            None => self.bad_path = Some(format!("jwt_token_file: `{}` is not UTF-8", path.display())),
        }
    }

    /// As fields of an object.
    pub(super) fn into_fields(self) -> Result<Map<String, Value>, Error> {
        if let Some(problem) = self.bad_path {
            return Err(Error::new(ErrorKind::Setup, format!("bootstrap: {problem}")));
        }
        let channel: Vec<_> = self.channel.into_iter().collect();
        Ok([("channel_creds".to_owned(), channel.into()), ("call_creds".to_owned(), self.call.into())]
            .into_iter()
            .collect())
    }
}

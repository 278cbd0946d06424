//! The certificate providers of a mesh: which there are, and how they are.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Mesh, MeshBuilder};
use crate::bootstrap::{Bootstrap, ProviderConfig};
use crate::error::Error;
use crate::identity::{CertificateProvider, FileWatcher, Provider, SpiffeId, TrustDomain};
use crate::tls::SecurityFloor;

/// Providers that do not run yet.
pub(super) type Named = BTreeMap<Arc<str>, Box<dyn CertificateProvider>>;

/// The state of one certificate provider.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CertificateProviderStatus {
    /// The name under which clusters ask for it.
    pub name: Arc<str>,
    /// What it is: `file_watcher`, or what the application's own says.
    pub kind: Arc<str>,
    /// How often it published something new; 0 while it has nothing.
    pub generation: u64,
    /// When it last published something new.
    pub updated: Option<SystemTime>,
    /// The SPIFFE ID of the own certificate, if it has one.
    pub spiffe_id: Option<SpiffeId>,
    /// The serial number of the own certificate, in hexadecimal digits.
    pub serial: Option<String>,
    /// When the own certificate expires.
    pub expires: Option<SystemTime>,
    /// The trust domains that its roots are for, as far as it says so.
    pub trust_domains: Vec<TrustDomain>,
    /// Why it could not renew what it published last.
    pub last_error: Option<Arc<str>>,
}

impl MeshBuilder {
    /// Adds a provider of certificates, keys and roots under a name by which clusters ask for it, in the place of one of
    /// the same name in the bootstrap's `certificate_providers` (A29). Key material that never changes is a provider, too.
    ///
    /// ```
    /// use mesh_core::identity::FileWatcher;
    ///
    /// let files = FileWatcher::new().identity("tls.crt", "tls.key").roots("ca.crt");
    /// let builder = mesh_core::Mesh::builder().certificate_provider("default", files);
    /// # let _ = builder;
    /// ```
    pub fn certificate_provider(mut self, name: impl Into<Arc<str>>, provider: impl CertificateProvider) -> Self {
        self.certificate_providers.insert(name.into(), Box::new(provider));
        self
    }

    /// The least security of connections, whatever the control plane asks for. Default: as it asks.
    pub fn security_floor(mut self, floor: SecurityFloor) -> Self {
        self.floor = floor;
        self
    }

    /// Files that a control plane names in TLS contexts (`filename` of a `DataSource`) may be read if they are below this folder, or
    /// another one that is allowed as well. A resource that names any other is refused by its field; what a symbolic link leads to is
    /// looked at whenever it is read. Environment variables that a control plane names are never read. Default: no file is.
    ///
    /// The same holds for the Unix sockets of agents that a control plane has asked for secrets (SDS).
    ///
    /// Files that code and the bootstrap name are read wherever they are.
    pub fn allow_files_below(mut self, folder: impl AsRef<Path>) -> Self {
        self.folders.allow(folder.as_ref());
        self
    }
}

/// Those of the bootstrap, and those of code, which go before them.
///
/// # Errors
///
/// When one of the bootstrap's cannot be set up here.
pub(super) fn all(bootstrap: Option<&Bootstrap>, by_code: Named) -> Result<Named, Error> {
    let configured = bootstrap.map(Bootstrap::certificate_providers).unwrap_or_default();
    let mut providers = by_code;
    for (name, config) in configured {
        if !providers.contains_key(name) {
            providers.insert(name.clone(), provider(config)?);
        }
    }
    Ok(providers)
}

fn provider(config: &ProviderConfig) -> Result<Box<dyn CertificateProvider>, Error> {
    Ok(match config {
        ProviderConfig::FileWatcher(files) => Box::new(FileWatcher::from(files.clone())),
        #[cfg(feature = "spiffe")]
        ProviderConfig::WorkloadApi(config) => Box::new(crate::providers::WorkloadApi::configured(config)?),
    })
}

impl Mesh {
    pub(super) fn certificate_providers(&self) -> Vec<CertificateProviderStatus> {
        self.inner.certificate_providers.all().iter().map(status).collect()
    }
}

fn status(provider: &Provider) -> CertificateProviderStatus {
    let state = provider.state();
    let material = state.material.as_deref();
    let identity = material.and_then(|material| material.identity.as_ref());
    let trust = material.and_then(|material| material.trust.as_ref());
    CertificateProviderStatus {
        name: provider.name.clone(),
        kind: provider.kind.clone(),
        generation: state.generation,
        updated: state.updated.map(|(_, at)| at),
        spiffe_id: identity.and_then(|identity| identity.spiffe_id().cloned()),
        serial: identity.map(|identity| identity.serial()),
        expires: state.expiry(),
        trust_domains: trust.map(|trust| trust.trust_domains()).unwrap_or_default(),
        last_error: state.failure.as_ref().map(|failure| failure.why.clone()),
    }
}

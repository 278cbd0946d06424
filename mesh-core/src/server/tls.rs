//! TLS of a server that code asks for.

use std::sync::Arc;

use crate::identity::MaterialSource;
use crate::resource::downstream_tls::{Callers, DownstreamTls};

/// How a server secures its connections where no control plane says it: by default, both sides prove who they are (mTLS).
///
/// ```
/// use mesh_core::identity::FileWatcher;
/// use mesh_core::server::ServerTls;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mesh_core::Error> {
/// let files = FileWatcher::new().identity("tls.crt", "tls.key").roots("ca.crt");
/// let mesh = mesh_core::Mesh::builder().certificate_provider("default", files).build().await?;
/// let server = mesh.server().tls(ServerTls::new("default"));
/// # let _ = server; Ok(()) }
/// ```
///
/// Each connection is made with the provider's latest certificate. Without one that is valid at the moment the server does
/// not serve. TLS is of version 1.3 or 1.2, and for HTTP/2 alone (ALPN `h2`); sessions are never resumed.
#[derive(Debug)]
pub struct ServerTls(DownstreamTls);

impl ServerTls {
    /// Shows the certificate of this provider of the mesh, and takes the callers whom its roots vouch for.
    pub fn new(provider: impl Into<Arc<str>>) -> Self {
        let provider = MaterialSource::Provider(provider.into());
        let callers = Callers { roots: provider.clone(), revoked: None, names: Vec::new(), is_required: true };
        Self(DownstreamTls { identity: provider, callers: Some(callers) })
    }

    /// Takes the callers whom the roots of another provider vouch for.
    pub fn roots(mut self, provider: impl Into<Arc<str>>) -> Self {
        let is_required = self.0.callers.as_ref().is_none_or(|callers| callers.is_required);
        let roots = provider.into().into();
        self.0.callers = Some(Callers { roots, revoked: None, names: Vec::new(), is_required });
        self
    }

    /// Serves callers without a certificate, too; they have no [`Peer`](super::Peer). A certificate that is shown must be a
    /// good one. Default: they are refused.
    pub fn optional_client_certificates(mut self) -> Self {
        if let Some(callers) = &mut self.0.callers {
            callers.is_required = false;
        }
        self
    }

    /// Does not ask callers who they are: no call has a [`Peer`](super::Peer).
    pub fn without_client_certificates(mut self) -> Self {
        self.0.callers = None;
        self
    }

    pub(crate) fn into_context(self) -> DownstreamTls {
        self.0
    }
}

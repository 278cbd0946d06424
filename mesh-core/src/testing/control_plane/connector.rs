//! Connections to a control plane in process.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::io::DuplexStream;

use super::ControlPlane;
use crate::mesh::MeshBuilder;
use crate::testing::server::{self, wire::Socket};
use crate::testing::shared::Shared;

/// Bytes in flight each way.
const PIPE: usize = 256 << 10;

/// Makes connections to a [`ControlPlane`] in process. It does not keep the control plane running.
#[derive(Clone)]
pub struct Connector {
    pub(super) shared: Arc<Shared>,
}

impl Connector {
    /// A new connection, which the server reads as HTTP/2.
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` while the control plane is stopped, refuses connections, or is gone.
    pub fn connect(&self) -> io::Result<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        if server::start(&self.shared, Socket::InProcess(theirs)) {
            Ok(ours)
        } else {
            Err(io::ErrorKind::ConnectionRefused.into())
        }
    }
}

impl MeshBuilder {
    /// Connects to an embedded control plane, in process and without a socket; the node id is `test`.
    pub fn control_plane(self, control_plane: &ControlPlane) -> Self {
        let connector = control_plane.connector();
        self.in_process(Arc::new(move || Ok(Box::new(connector.connect()?))))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

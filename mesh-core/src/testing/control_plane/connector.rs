//! Connections to a control plane in process.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::io::DuplexStream;

use crate::testing::server::{self, wire::Socket};
use crate::testing::shared::Shared;

/// Bytes in flight each way.
const PIPE: usize = 256 << 10;

/// Makes connections to a [`ControlPlane`](super::ControlPlane) in process. It does not keep the control plane running.
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

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

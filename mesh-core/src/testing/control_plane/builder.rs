//! The options of a control plane.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Handle;

use super::{ControlPlane, Owner};
use crate::testing::resources::Resources;
use crate::testing::shared::Shared;

/// How long a test waits for something before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Options of a [`ControlPlane`].
#[derive(Clone, Debug)]
pub struct ControlPlaneBuilder {
    listen: Option<String>,
    patience: Duration,
    resources: Resources,
}

impl ControlPlaneBuilder {
    pub(super) fn new() -> Self {
        Self { listen: None, patience: PATIENCE, resources: Resources::new() }
    }

    /// Listens at this address as well; port 0 lets the system choose one.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// How long the methods that wait do so before they panic; by default 30 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Starts with these resources.
    pub fn resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// If it cannot listen at the address.
    pub async fn start(self) -> io::Result<ControlPlane> {
        let listener = match &self.listen {
            Some(address) => Some(TcpListener::bind(address).await?),
            None => None,
        };
        let address = listener.as_ref().map(TcpListener::local_addr).transpose()?;
        let control_plane = self.start_in_process();
        control_plane.shared().change(|state| state.address = address);
        control_plane.run(listener);
        Ok(control_plane)
    }

    pub(super) fn start_in_process(self) -> ControlPlane {
        let shared = Shared::new(Handle::current());
        let control_plane = ControlPlane { owner: Arc::new(Owner { shared, patience: self.patience }) };
        if !self.resources.is_empty() {
            control_plane.set(self.resources);
        }
        control_plane
    }
}

//! One backend behind a control plane whose resources a test changes, and a client.

use mesh_core::testing::{ControlPlane, Resources};
use mesh_core::{Mesh, MeshBuilder};

use super::backend::Backend;
use super::client::{Client, quick};

/// The service `greeter`, called through the mesh.
pub(crate) struct Greeter {
    pub(crate) backend: Backend,
    pub(crate) control_plane: ControlPlane,
    pub(crate) mesh: Mesh,
    pub(crate) client: Client,
}

impl Greeter {
    /// With the plain resources of a service at the backend as the test changes them.
    pub(crate) async fn start(change: impl FnOnce(Resources) -> Resources) -> Self {
        Self::start_with(quick(), change).await
    }

    /// The same through a mesh of the test's own.
    pub(crate) async fn start_with(mesh: MeshBuilder, change: impl FnOnce(Resources) -> Resources) -> Self {
        let backend = Backend::start("a").await;
        let control_plane = ControlPlane::new();
        control_plane.set(change(Resources::service("greeter", [backend.address()])));
        let mesh = mesh.control_plane(&control_plane).build().await.expect("a mesh");
        let client = Client::new(&mesh, "xds:///greeter");
        Self { backend, control_plane, mesh, client }
    }
}

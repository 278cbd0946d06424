//! A server of the mesh in plaintext that a control plane configures.

use mesh_core::server::{ServerOptions, ServingMode};
use mesh_core::testing::{ControlPlane, FilterChainBuilder, server_listener};
use mesh_core::{Mesh, MeshBuilder};
use mesh_tonic::MeshServer;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::PATIENCE;
use super::backend::Backend;
use super::client::{Client, quick};
use super::served::Served;

/// A server that a control plane configures, and a client whose one connection stays open.
pub(crate) struct Setting {
    pub(crate) control_plane: ControlPlane,
    pub(crate) greeter: Backend,
    pub(crate) server: Served,
    pub(crate) client: Client,
    /// The server's mesh.
    pub(crate) mesh: Mesh,
    _client: Mesh,
}

impl Setting {
    pub(crate) async fn start(chain: FilterChainBuilder, options: ServerOptions) -> Self {
        Self::start_in(quick(), chain, options).await
    }

    /// In a mesh of its own making.
    pub(crate) async fn start_in(mesh: MeshBuilder, chain: FilterChainBuilder, options: ServerOptions) -> Self {
        let control_plane = ControlPlane::new();
        let mesh = mesh.control_plane(&control_plane).build().await.unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        control_plane.put(server_listener(socket.local_addr().unwrap()).chains([chain]));
        let greeter = Backend::start("a").await;
        let services = |server: MeshServer| server.add_service(greeter.service());
        let server = Served::start_at(socket, &mesh, options, services).await;
        server.wait_for("a server that serves", |status| status.mode == ServingMode::Serving).await;
        let plain = quick().build().await.unwrap();
        let client = Client::new(&plain, &server.target());
        Self { control_plane, greeter, server, client, mesh, _client: plain }
    }

    /// Puts another chain in force, and waits until it is.
    pub(crate) async fn changes_to(&self, chain: FilterChainBuilder) {
        self.control_plane.put(server_listener(self.server.address()).chains([chain]));
        self.control_plane.acked("type.googleapis.com/envoy.config.listener.v3.Listener").await;
    }

    /// Calls until a call ends so.
    pub(crate) async fn answers(&self, wanted: Result<&str, Code>) -> Result<String, Status> {
        let reached = async {
            loop {
                let answer = self.client.hello().await;
                if answer.as_deref().map_err(Status::code) == wanted {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, reached).await.expect("calls are answered so")
    }
}

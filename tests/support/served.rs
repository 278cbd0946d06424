//! A server of the mesh that runs beside the test.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_core::server::{Ended, ServerOptions};
use mesh_core::{Mesh, ServerStatus};
use mesh_tonic::MeshServer;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::PATIENCE;

/// A server on a port of its own. It is cut when it is dropped.
pub(crate) struct Served {
    mesh: Mesh,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<Ended>,
}

impl Served {
    /// Serves what `services` adds to it, in a mesh without a control plane.
    pub(crate) async fn start(options: ServerOptions, services: impl FnOnce(MeshServer) -> MeshServer) -> Self {
        let mesh = Mesh::builder().build().await.expect("a mesh");
        Self::start_in(&mesh, options, services).await
    }

    /// Serves in this mesh.
    pub(crate) async fn start_in(
        mesh: &Mesh,
        options: ServerOptions,
        services: impl FnOnce(MeshServer) -> MeshServer,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::start_at(listener, mesh, options, services).await
    }

    /// Serves on this listener.
    pub(crate) async fn start_at(
        listener: TcpListener,
        mesh: &Mesh,
        options: ServerOptions,
        services: impl FnOnce(MeshServer) -> MeshServer,
    ) -> Self {
        let address = listener.local_addr().expect("a bound listener");
        let (stop, stopped) = oneshot::channel::<()>();
        // Only a shutdown ends the server this way; a dropped sender does not.
        let shutdown = async {
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let server = services(MeshServer::new(mesh).options(options)).serve_with_shutdown(listener, shutdown);
        let server = tokio::spawn(async { server.await.expect("the listener works") });
        let served = Self { mesh: mesh.clone(), address, stop: Some(stop), server };
        served.wait_for("a server that runs", |_| true).await;
        served
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn target(&self) -> String {
        format!("static:///{}", self.address)
    }

    /// What the mesh says of it.
    pub(crate) fn status(&self) -> ServerStatus {
        self.listed().expect("a server that runs")
    }

    fn listed(&self) -> Option<ServerStatus> {
        self.mesh.status().servers.into_iter().find(|server| server.address == self.address)
    }

    /// Waits until what the mesh says of it is as `wanted`.
    pub(crate) async fn wait_for(&self, what: &str, wanted: impl Fn(&ServerStatus) -> bool) {
        let reached = async {
            while !self.listed().is_some_and(|status| wanted(&status)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = timeout(PATIENCE, reached).await.is_ok();
        assert!(in_time, "{what}: still {:?}", self.listed());
    }

    /// Begins the shutdown.
    pub(crate) fn stop(&mut self) {
        let stop = self.stop.take().expect("a server that was not stopped already");
        stop.send(()).expect("a server that runs");
    }

    /// How the server ended.
    pub(crate) async fn ended(mut self) -> Ended {
        let ended = timeout(PATIENCE, &mut self.server).await;
        ended.expect("a server ends").expect("the server does not panic")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

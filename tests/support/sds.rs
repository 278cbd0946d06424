//! An agent with secrets (SDS) at a Unix socket: the embedded control plane behind it.

use std::path::PathBuf;

use mesh_core::testing::ControlPlane;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

pub(crate) struct SecretAgent {
    folder: TempDir,
    pub(crate) secrets: ControlPlane,
    serving: Option<JoinHandle<()>>,
}

impl SecretAgent {
    /// One whose socket is not there yet.
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), secrets: ControlPlane::new(), serving: None }
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub(crate) fn target(&self) -> String {
        format!("unix:{}", self.path().display())
    }

    pub(crate) fn start(&mut self) {
        let listener = UnixListener::bind(self.path()).unwrap();
        let connector = self.secrets.connector();
        self.serving = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let mut agent = connector.connect().unwrap();
                connections.spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut agent).await });
            }
        }));
    }

    /// The socket is gone, and every connection.
    pub(crate) async fn stop(&mut self) {
        let serving = self.serving.take().unwrap();
        serving.abort();
        let _ = serving.await;
        std::fs::remove_file(self.path()).unwrap();
    }
}

//! The control plane at a Unix socket.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use mesh_core::testing::Connector;
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

/// Serves at a path, which is free again when this is dropped.
pub(crate) struct Socket {
    path: PathBuf,
    _connections: JoinSet<()>,
}

impl Socket {
    /// Whoever may open it may have all keys: nobody but this user.
    pub(crate) fn serve(path: PathBuf, control_plane: Connector) -> io::Result<Self> {
        remove(&path)?;
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        let mut connections = JoinSet::new();
        connections.spawn(accept(listener, control_plane));
        Ok(Self { path, _connections: connections })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = remove(&self.path);
    }
}

/// One that an earlier run left there; nothing else.
fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(left) if left.file_type().is_socket() => fs::remove_file(path),
        _ => Ok(()),
    }
}

async fn accept(listener: UnixListener, control_plane: Connector) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => _ = connections.spawn(pass(client, control_plane.clone())),
                Err(error) => eprintln!("control-plane: a connection at the Unix socket: {error}"),
            },
        }
    }
}

/// How a client's connection ends is the client's affair.
async fn pass(mut client: UnixStream, control_plane: Connector) {
    if let Ok(mut serving) = control_plane.connect() {
        let _ = copy_bidirectional(&mut client, &mut serving).await;
    }
}

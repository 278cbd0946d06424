//! The control plane at a Unix socket.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
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
        let listener = bind(&path)?;
        let mut connections = JoinSet::new();
        connections.spawn(accept(listener, control_plane));
        Ok(Self { path, _connections: connections })
    }
}

/// Made in a folder of its own, into which nobody else can look, and moved from there: at no time may anybody else open it.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{}: there is something else", path.display()),
        ));
    }
    let folder = path.with_extension(std::process::id().to_string());
    DirBuilder::new().mode(0o700).create(&folder)?;
    let made = folder.join("s");
    let bound = UnixListener::bind(&made).and_then(|listener| {
        fs::set_permissions(&made, Permissions::from_mode(0o600))?;
        fs::rename(&made, path)?;
        Ok(listener)
    });
    fs::remove_dir_all(&folder)?;
    bound
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_its_users_alone_takes_the_place_of_an_old_one_and_of_nothing_else() {
        let folder = std::env::temp_dir().join(format!("control-plane-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("xds.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let connector = || mesh_core::testing::ControlPlane::new().connector();
        let socket = Socket::serve(path.clone(), connector()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).await.unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left there");
        drop(socket);
        assert!(!path.exists());
        fs::write(&path, "no socket").unwrap();
        assert!(Socket::serve(path.clone(), connector()).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "no socket");
        fs::remove_dir_all(&folder).unwrap();
    }
}

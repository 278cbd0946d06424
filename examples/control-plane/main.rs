//! A control plane over a folder of xDS resources: `mesh_core::testing`'s, on a port.
//!
//! It serves gRPC's xDS clients and Envoy alike (SotW ADS), secrets (SDS) too: with private keys at a Unix socket, as clients
//! of the mesh refuse them in plaintext over TCP. Standard output has the address first and then a JSON
//! object per line: `{"event":"request", …}` for each request that a client sends, `{"event":"error", …}` for each
//! file that could not be read.

mod decode;
mod folder;
mod socket;

use std::fmt::Display;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use mesh_core::testing::{ControlPlane, SeenRequest};
use serde_json::json;
use tokio::time::MissedTickBehavior;

use decode::Decoder;
use folder::Folder;
use socket::Socket;

/// Serves the xDS resources of a folder to gRPC clients and Envoys, until ctrl-c.
///
/// A file (.yaml, .yml or .json, in subfolders too) holds a resource in protobuf's JSON form with its "@type", a list
/// of them, or several YAML documents. The folder is read again when it changes; what was read of a file last is
/// served on while the file is wrong.
#[derive(Debug, Parser)]
struct Args {
    /// Where to listen; port 0 lets the system choose.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:18000")]
    listen: SocketAddr,
    /// Also listens at this Unix socket, which nobody but this user may open: the place for secrets with private keys.
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
    /// How often to look whether the folder changed, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 200)]
    poll: u64,
    /// The folder of resources.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match serve(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("control-plane: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let mut folder = Folder::new(args.folder, Decoder::new()?);
    if let Some(problem) = folder.read().into_iter().next() {
        return Err(problem.to_string().into());
    }
    let control_plane = ControlPlane::builder().listen(args.listen.to_string()).start().await?;
    // Before the first resource, so that no request is missed.
    let mut requests = control_plane.watch_requests();
    control_plane.set(folder.resources().map_err(|problem| problem.to_string())?);
    let _socket = args.unix.map(|path| Socket::serve(path, control_plane.connector())).transpose()?;
    print(&control_plane.addr());

    let mut ticks = tokio::time::interval(Duration::from_millis(args.poll.max(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // One for all turns: a signal between two of them would be lost.
    let mut stop = pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            request = requests.next() => print_request(&request),
            _ = ticks.tick() => reload(&mut folder, &control_plane),
            interrupted = &mut stop => return Ok(interrupted?),
        }
    }
}

/// Serves what changed, and prints what is wrong with it; what was there before is served on then.
fn reload(folder: &mut Folder, control_plane: &ControlPlane) {
    let before = folder.generation();
    folder.read().iter().for_each(|problem| print_error(&problem.file, &problem.text));
    if folder.generation() != before {
        match folder.resources() {
            Ok(resources) => control_plane.set(resources),
            Err(problem) => print_error(&problem.file, &problem.text),
        }
    }
}

fn print_request(request: &SeenRequest) {
    let error = request.error.as_ref().map_or("", |(_, message)| message);
    let line = json!({
        "event": "request",
        "stream": request.stream,
        "kind": request.kind.as_str(),
        "type": request.type_url,
        "names": *request.names,
        "version": request.version,
        "nonce": request.nonce,
        "error": error,
        "node": request.node.as_ref().map(|node| &node.id),
    });
    print(&line);
}

fn print_error(file: &str, text: &str) {
    print(&json!({ "event": "error", "file": file, "error": text }));
}

/// One line; whoever stopped reading has no need of it.
fn print(line: &impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

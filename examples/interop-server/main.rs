//! The server of gRPC's interoperability tests, and of its proxyless service mesh tests.
//!
//! It serves `grpc.testing.TestService` as `doc/interop-test-descriptions.md` of grpc/grpc wants it, with the
//! `rpc-behavior` header of the mesh tests, and beside it health and `XdsUpdateHealthService`. On SIGTERM or ctrl-c it
//! sends GOAWAY, lets calls in flight end, and cuts what is left at a hard limit.

mod echo_metadata;
mod maintenance;
mod rpc_behavior;
mod test_service;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Parser};
use mesh_core::Mesh;
use mesh_core::server::ServerOptions;
use mesh_examples::grpc_testing::test_service_server::TestServiceServer;
use mesh_examples::grpc_testing::xds_update_health_service_server::XdsUpdateHealthServiceServer;
use mesh_tonic::MeshServer;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tonic::service::LayerExt;
use tower::ServiceBuilder;

use crate::echo_metadata::EchoMetadataLayer;
use crate::maintenance::UpdateHealth;
use crate::rpc_behavior::RpcBehaviorLayer;
use crate::test_service::TestServer;

/// The server of gRPC's interop tests and mesh (PSM) interop tests.
///
/// The first line on standard output is the address that it listens on.
#[derive(Debug, Parser)]
struct Args {
    /// Where to listen; port 0 lets the system choose.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where to listen on 127.0.0.1; --listen goes before it.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Serves health and XdsUpdateHealthService on this port of 127.0.0.1 too; they are on the main port in any case.
    #[arg(long = "maintenance_port", value_name = "PORT")]
    maintenance_port: Option<u16>,
    /// What SimpleResponse.server_id says.
    #[arg(long = "server_id", default_value = "rust_server")]
    server_id: String,
    /// What SimpleResponse.hostname and the header `hostname` say. Default: the name of this machine.
    #[arg(long = "host_name_override", value_name = "NAME", default_value = "", hide_default_value = true)]
    host_name_override: String,
    /// Serves as the control plane of GRPC_XDS_BOOTSTRAP says (A36), with TLS if the listener asks for it (A29).
    #[arg(long = "secure_mode", value_name = "BOOL", action = ArgAction::Set, default_value_t = false,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    secure_mode: bool,
    /// Serves TLS with a fixed certificate. Not supported: pass false.
    #[arg(long = "use_tls", value_name = "BOOL", action = ArgAction::Set, default_value_t = false,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    use_tls: bool,
    /// How long calls in flight may take to end after SIGTERM or ctrl-c.
    #[arg(long = "drain_timeout_sec", value_name = "SECONDS", default_value_t = 10)]
    drain_timeout_sec: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("interop-server: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    if args.use_tls {
        return Err("--use_tls=true is not supported".into());
    }
    let mesh = match args.secure_mode {
        true => Mesh::builder().bootstrap_from_env()?.build().await?,
        false => Mesh::builder().build().await?,
    };
    let limit = Duration::from_secs(args.drain_timeout_sec);
    let host_name = host_name(&args.host_name_override);
    let test_service = ServiceBuilder::new()
        .layer(EchoMetadataLayer::new(&host_name)?)
        .layer(RpcBehaviorLayer::new(&host_name))
        .named_layer(TestServiceServer::new(TestServer::new(args.server_id.clone(), host_name)));
    let (health, update_health) = UpdateHealth::new().await;

    let listener = listen(args.listen.unwrap_or_else(|| loopback(args.port))).await?;
    println!("{}", listener.local_addr()?);
    let port = listener.local_addr()?.port();
    if let Some(port) = args.maintenance_port.filter(|maintenance| *maintenance != port) {
        let maintenance = listen(loopback(port)).await?;
        println!("maintenance {}", maintenance.local_addr()?);
        let services = MeshServer::new(&mesh)
            .without_control_plane()
            .add_service(health.clone())
            .add_service(XdsUpdateHealthServiceServer::new(update_health.clone()));
        tokio::spawn(services.serve(maintenance));
    }
    let server = MeshServer::new(&mesh)
        .options(ServerOptions::new().shutdown_timeout(limit))
        .on_serving_mode(|mode| eprintln!("{mode}"))
        .add_service(test_service)
        .add_service(health)
        .add_service(XdsUpdateHealthServiceServer::new(update_health));
    let ended = server.serve_with_shutdown(listener, until_told_to_stop()?).await?;
    match ended.cut_calls {
        0 => Ok(()),
        calls => Err(format!("{calls} calls were still open {limit:?} after the signal: they were cut off").into()),
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Box<dyn Error>> {
    TcpListener::bind(address).await.map_err(|error| format!("listen on {address}: {error}").into())
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Done at SIGTERM or ctrl-c.
fn until_told_to_stop() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    })
}

fn host_name(name: &str) -> String {
    if !name.is_empty() {
        return name.to_owned();
    }
    let system = std::fs::read_to_string("/proc/sys/kernel/hostname");
    system.map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned())
}

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
use mesh_examples::grpc_testing::test_service_server::TestServiceServer;
use mesh_examples::grpc_testing::xds_update_health_service_server::XdsUpdateHealthServiceServer;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tonic::service::LayerExt;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
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
    /// Takes listener, filters and credentials from the control plane. Not supported yet.
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
    if args.secure_mode {
        return Err("--secure_mode=true is not supported yet".into());
    }
    if args.use_tls {
        return Err("--use_tls=true is not supported".into());
    }
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(serve(&args, stopped).await?);
    until_told_to_stop().await?;
    let _ = stop.send(());
    let limit = Duration::from_secs(args.drain_timeout_sec);
    match tokio::time::timeout(limit, server).await {
        Ok(served) => Ok(served??),
        Err(_) => Err(format!("calls were still open {limit:?} after the signal: they were cut off").into()),
    }
}

/// Opens the ports, and returns what serves them until `stopped`.
async fn serve(
    args: &Args,
    stopped: oneshot::Receiver<()>,
) -> Result<impl Future<Output = Result<(), tonic::transport::Error>> + use<>, Box<dyn Error>> {
    let host_name = host_name(&args.host_name_override);
    let test_service = ServiceBuilder::new()
        .layer(EchoMetadataLayer::new(&host_name)?)
        .layer(RpcBehaviorLayer::new(&host_name))
        .named_layer(TestServiceServer::new(TestServer::new(args.server_id.clone(), host_name)));
    let (health, update_health) = UpdateHealth::new().await;

    let listener = listen(args.listen.unwrap_or_else(|| loopback(args.port))).await?;
    println!("{}", listener.local_addr()?);
    let maintenance = match args.maintenance_port {
        Some(port) if port == 0 || port != listener.local_addr()?.port() => Some(listen(loopback(port)).await?),
        _ => None,
    };
    if let Some(maintenance) = maintenance {
        println!("maintenance {}", maintenance.local_addr()?);
        let services = Server::builder()
            .add_service(health.clone())
            .add_service(XdsUpdateHealthServiceServer::new(update_health.clone()));
        tokio::spawn(services.serve_with_incoming(incoming(maintenance)));
    }
    let services = Server::builder()
        .add_service(test_service)
        .add_service(health)
        .add_service(XdsUpdateHealthServiceServer::new(update_health));
    Ok(services.serve_with_incoming_shutdown(incoming(listener), async { stopped.await.unwrap_or_default() }))
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Box<dyn Error>> {
    TcpListener::bind(address).await.map_err(|error| format!("listen on {address}: {error}").into())
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

async fn until_told_to_stop() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupt = tokio::signal::ctrl_c() => interrupt,
    }
}

fn host_name(name: &str) -> String {
    if !name.is_empty() {
        return name.to_owned();
    }
    let system = std::fs::read_to_string("/proc/sys/kernel/hostname");
    system.map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned())
}

//! A greeter: a tonic service, served by the mesh.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use mesh_core::server::{ServerOptions, ServerTls};
use mesh_core::{Mesh, MeshBuilder};
use mesh_examples::helloworld::greeter_server::{Greeter, GreeterServer};
use mesh_examples::helloworld::{HelloReply, HelloRequest};
use mesh_tonic::MeshServer;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tonic::{Request, Response, Status};
use tracing_subscriber::filter::LevelFilter;

/// Greets, until ctrl-c or SIGTERM. The first line on standard output is the address that it listens on. With
/// GRPC_XDS_BOOTSTRAP or GRPC_XDS_BOOTSTRAP_CONFIG it serves as the control plane says.
#[derive(Debug, Parser)]
struct Args {
    /// Where to listen; port 0 lets the system choose.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:50051")]
    listen: SocketAddr,
    /// Joins Istio's mesh without an agent, as the environment of this pod says.
    #[arg(long)]
    istio: bool,
    /// Serves none but those whom an access control policy of the control plane admits.
    #[arg(long)]
    deny_by_default: bool,
    /// Takes callers by mTLS and in plaintext where the control plane asks for no TLS: to move callers from one to the other.
    #[arg(long)]
    permissive: bool,
    /// Files, and Unix sockets of agents, that the control plane names may be used if they are below this folder.
    #[arg(long, value_name = "FOLDER")]
    allow_files_below: Vec<PathBuf>,
    /// How this instance calls itself in its answers.
    #[arg(long, default_value = "greeter")]
    name: String,
}

struct Instance {
    name: String,
}

#[tonic::async_trait]
impl Greeter for Instance {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let message = format!("Hello {}, this is {}", request.into_inner().name, self.name);
        Ok(Response::new(HelloReply { message }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(LevelFilter::WARN).with_ansi(false).init();
    let listener = TcpListener::bind(args.listen).await?;
    println!("{}", listener.local_addr()?);
    let builder = match args.istio {
        true => Mesh::builder().istio_from_env()?,
        false => Mesh::builder().bootstrap_from_env_if_set()?,
    };
    let builder = args.allow_files_below.iter().fold(builder, MeshBuilder::allow_files_below);
    let mesh = builder.build().await?;
    let greeter = GreeterServer::new(Instance { name: args.name });
    let mut options = ServerOptions::new();
    if args.deny_by_default {
        options = options.deny_by_default();
    }
    let server = MeshServer::new(&mesh).options(options).add_service(greeter);
    let mut server = server.on_serving_mode(|mode| eprintln!("{mode}"));
    if args.permissive {
        server = server.tls(ServerTls::new("default")).permissive();
    }
    let health = server.health();
    let mut terminate = signal(SignalKind::terminate())?;
    let told_to_stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    server.add_service(health).serve_with_shutdown(listener, told_to_stop).await?;
    mesh.shutdown().await;
    Ok(())
}

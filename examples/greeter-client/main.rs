//! A greeter's client through the mesh, as the README shows it.

use clap::Parser;
use mesh_core::Mesh;
use mesh_examples::helloworld::HelloRequest;
use mesh_examples::helloworld::greeter_client::GreeterClient;
use mesh_tonic::MeshChannel;

/// Says hello to a greeter that the control plane knows; GRPC_XDS_BOOTSTRAP names the control plane.
#[derive(Parser)]
struct Args {
    /// Which greeter.
    #[arg(default_value = "xds:///greeter")]
    target: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let mesh = Mesh::builder().bootstrap_from_env()?.build().await?; // GRPC_XDS_BOOTSTRAP
    let channel = MeshChannel::new(&mesh, &args.target)?;
    let reply = GreeterClient::new(channel).say_hello(HelloRequest { name: "mesh".into() }).await?;
    println!("{}", reply.into_inner().message);
    mesh.shutdown().await;
    Ok(())
}

//! What the docs show of Rust in pieces, each in a function that has what it takes for granted. It compiles, and nothing runs it:
//! `docs.rs` looks for the docs' pieces here.

use std::error::Error;
use std::net::SocketAddr;

use mesh_core::Mesh;
use mesh_core::SecurityFloor;
use mesh_core::identity::FileWatcher;
use mesh_core::server::ServerTls;
use mesh_examples::helloworld::greeter_server::{Greeter, GreeterServer};
use mesh_tonic::MeshServer;

type Done = Result<(), Box<dyn Error>>;

async fn readme_server(
    mesh: Mesh,
    greeter: impl Greeter,
    address: SocketAddr,
    told_to_stop: impl Future<Output = ()>,
) -> Done {
    MeshServer::new(&mesh).add_service(GreeterServer::new(greeter)).serve_with_shutdown(address, told_to_stop).await?;
    Ok(())
}

async fn readme_files() -> Result<Mesh, Box<dyn Error>> {
    let files = FileWatcher::new().identity("tls.crt", "tls.key").roots("ca.crt");
    let mesh = Mesh::builder().bootstrap_from_env()?.certificate_provider("default", files).build().await?;
    Ok(mesh)
}

async fn readme_server_tls(mesh: Mesh, greeter: impl Greeter, address: SocketAddr) -> Done {
    MeshServer::new(&mesh)
        .tls(ServerTls::new("default"))
        .add_service(GreeterServer::new(greeter))
        .serve(address)
        .await?;
    Ok(())
}

async fn identity_in_code(greeter: impl Greeter, address: SocketAddr) -> Done {
    let files = FileWatcher::new().identity("tls.crt", "tls.key").roots("ca.crt");
    let mesh = Mesh::builder().certificate_provider("default", files).build().await?;
    MeshServer::new(&mesh)
        .tls(ServerTls::new("default"))
        .add_service(GreeterServer::new(greeter))
        .serve(address)
        .await?;
    Ok(())
}

async fn identity_floor() -> Result<Mesh, Box<dyn Error>> {
    let floor = SecurityFloor::new()
        .require_mtls()
        .allow_trust_domain("cluster.local".parse()?)
        .expect_peer("payments", ["spiffe://cluster.local/ns/shop/sa/payments".parse()?])
        .require_secure_control_plane();
    let mesh = Mesh::builder().bootstrap_from_env()?.security_floor(floor).build().await?;
    Ok(mesh)
}

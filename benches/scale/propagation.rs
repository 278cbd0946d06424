//! From a push that replaces the only endpoint to the first reply from the new one, its connection included.

use std::net::SocketAddr;

use mesh_benches::echo::EchoRequest;
use mesh_benches::echo::echo_client::EchoClient;
use mesh_benches::server::Servers;
use mesh_benches::{Error, Flavor};
use mesh_core::testing::{ControlPlane, Resources, endpoints};
use mesh_core::{Address, Bootstrap, CallInfo, Mesh};
use mesh_tonic::MeshChannel;
use serde_json::{Value, json};
use tokio::time::Instant;

pub(crate) fn measure(toggles: usize) -> Result<Value, Error> {
    // The control plane has a thread of its own, as it would have a machine of its own.
    let elsewhere = Flavor::Multi.runtime()?;
    let servers = Servers::start(2)?;
    let resources = Resources::service("echo", servers.addresses()[..1].to_vec());
    let builder = ControlPlane::builder().listen("127.0.0.1:0").resources(resources);
    let control_plane = elsewhere.block_on(builder.start())?;
    let mut times = Flavor::Current.runtime()?.block_on(toggle(&control_plane, servers.addresses(), toggles))?;
    times.sort_by(f64::total_cmp);
    let at = |index: usize| times.get(index).copied();
    Ok(json!({ "toggles": times.len(), "p50_ms": at(times.len() / 2), "max_ms": times.last(), "min_ms": at(0) }))
}

async fn toggle(control_plane: &ControlPlane, servers: &[SocketAddr], toggles: usize) -> Result<Vec<f64>, Error> {
    let bootstrap = Bootstrap::builder(control_plane.addr().to_string()).insecure().node_id("bench").build()?;
    let mesh = Mesh::builder().bootstrap(bootstrap).build().await?;
    let mut client = EchoClient::new(MeshChannel::new(&mesh, "xds:///echo")?);
    client.unary(EchoRequest::default()).await?;
    let mut times = Vec::with_capacity(toggles);
    for server in servers.iter().cycle().skip(1).take(toggles) {
        let start = Instant::now();
        control_plane.put(endpoints("echo").endpoint(*server));
        while endpoint(&mut client).await? != Address::Socket(*server) {}
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    mesh.shutdown().await;
    Ok(times)
}

/// Which endpoint answers a call now. No call may fail meanwhile.
async fn endpoint(client: &mut EchoClient<MeshChannel>) -> Result<Address, Error> {
    let response = client.unary(EchoRequest::default()).await?;
    let info = response.extensions().get::<CallInfo>().ok_or("the response does not say who answered")?;
    Ok(info.endpoint().clone())
}

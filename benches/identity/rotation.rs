//! Handshakes while both sides get new certificates again and again under load.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh_benches::echo::EchoRequest;
use mesh_benches::echo::echo_client::EchoClient;
use mesh_benches::echo::echo_server::EchoServer;
use mesh_benches::paths::{PROVIDER, Path};
use mesh_benches::server::EchoService;
use mesh_benches::site::Authority;
use mesh_benches::{Error, Flavor};
use mesh_core::identity::{CertificateProvider, KeyMaterial, ProviderFuture, Publisher};
use mesh_core::server::ServerTls;
use mesh_core::testing::{ControlPlane, Resources};
use mesh_core::{Mesh, MeshBuilder};
use mesh_tonic::{MeshChannel, MeshServer};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

const ENDPOINTS: u32 = 4;
/// Between two calls.
const PACE: Duration = Duration::from_millis(2);

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    /// How long a certificate is valid.
    life_s: u64,
    interval_ms: u128,
    rotations: u32,
    endpoints: u32,
    /// Those of the first connections not included.
    handshakes: u64,
    /// For each connection and rotation.
    handshakes_each: f64,
    calls: u64,
    failed: u64,
}

/// Both sides get as many new certificates, and are called all the time.
pub(crate) fn measure(rotations: u32, apart: Duration, life: Duration) -> Result<Figures, Error> {
    Flavor::Multi.runtime()?.block_on(async {
        let authority = Authority::new()?;
        let (servers, server_side) = with_provider(Mesh::builder(), authority.server(life)?).await?;
        let mut addresses = Vec::new();
        for _ in 0..ENDPOINTS {
            let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            addresses.push(socket.local_addr()?);
            let server = MeshServer::new(&servers).tls(ServerTls::new(PROVIDER));
            tokio::spawn(server.add_service(EchoServer::new(EchoService::default())).serve(socket));
        }
        let control_plane = ControlPlane::new();
        control_plane.set(Resources::service("echo", addresses).with(Path::MeshMtls.cluster()));
        let builder = Mesh::builder().control_plane(&control_plane);
        let (mesh, client_side) = with_provider(builder, authority.client(life)?).await?;
        let client = EchoClient::new(MeshChannel::new(&mesh, "xds:///echo")?);
        while accepted(&servers) < ENDPOINTS.into() {
            client.clone().unary(EchoRequest::default()).await?;
        }

        let over = Arc::new(AtomicBool::new(false));
        let calling = tokio::spawn(call(client, over.clone()));
        for _ in 0..rotations {
            sleep(apart).await;
            server_side.publish(authority.server(life)?);
            client_side.publish(authority.client(life)?);
        }
        sleep(apart).await;
        over.store(true, Ordering::Relaxed);
        let (calls, failed) = calling.await?;
        let handshakes = accepted(&servers) - u64::from(ENDPOINTS);
        let figures = Figures {
            life_s: life.as_secs(),
            interval_ms: apart.as_millis(),
            rotations,
            endpoints: ENDPOINTS,
            handshakes,
            handshakes_each: f64::from(u32::try_from(handshakes)?) / f64::from(rotations) / f64::from(ENDPOINTS),
            calls,
            failed,
        };
        println!(
            "rotation  {rotations} times, {apart:?} apart, valid for {life:?}: {handshakes} handshakes of {ENDPOINTS} \
             connections, {:.2} for each and rotation; {failed} of {calls} calls failed",
            figures.handshakes_each,
        );
        mesh.shutdown().await;
        servers.shutdown().await;
        Ok(figures)
    })
}

/// Connections that servers of this mesh took so far.
fn accepted(mesh: &Mesh) -> u64 {
    mesh.status().servers.iter().map(|server| server.accepted).sum()
}

/// Calls until it is over; how many were made, and how many of them failed.
async fn call(client: EchoClient<MeshChannel>, over: Arc<AtomicBool>) -> (u64, u64) {
    let (mut ticks, mut calls) = (interval(PACE), JoinSet::new());
    let (mut made, mut failed) = (0, 0);
    while !over.load(Ordering::Relaxed) || !calls.is_empty() {
        tokio::select! {
            Some(outcome) = calls.join_next() => {
                made += 1;
                failed += u64::from(!matches!(outcome, Ok(Ok(_))));
            }
            _ = ticks.tick(), if !over.load(Ordering::Relaxed) => {
                let mut client = client.clone();
                calls.spawn(async move { client.unary(EchoRequest::default()).await });
            }
        }
    }
    (made, failed)
}

/// A mesh whose certificates come from what is published.
async fn with_provider(builder: MeshBuilder, first: KeyMaterial) -> Result<(Mesh, Publisher), Error> {
    let (hand, handed) = oneshot::channel();
    let mesh = builder.certificate_provider(PROVIDER, Handing(hand)).build().await?;
    let publisher = handed.await?;
    publisher.publish(first);
    Ok((mesh, publisher))
}

/// A provider that hands its publisher over.
struct Handing(oneshot::Sender<Publisher>);

impl CertificateProvider for Handing {
    fn kind(&self) -> &str {
        "handing"
    }

    fn run(self: Box<Self>, publisher: Publisher) -> ProviderFuture {
        drop(self.0.send(publisher));
        Box::pin(std::future::pending())
    }
}

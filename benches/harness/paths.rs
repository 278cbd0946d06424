//! The request paths that are compared. A further one is a variant of [`Path`] and its arm in
//! [`Path::load`].

use std::net::SocketAddr;

use bytes::Bytes;
use clap::ValueEnum;
use mesh_core::balance::{BalanceOptions, PeakEwma};
use mesh_core::testing::{ControlPlane, Resources};
use mesh_core::{Mesh, MeshBuilder};
use mesh_tonic::MeshChannel;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::transport::{Channel, Endpoint};

use crate::{Error, armed};

/// A way from the generated client to the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Path {
    /// tonic's channel to the first endpoint: no balancing.
    Tonic,
    /// tonic's channel balanced over all endpoints: what the others are compared with.
    Balance,
    /// The mesh with an embedded control plane, one route and round robin over all endpoints.
    Mesh,
    /// The mesh with everything on: routes that match headers, a retry policy, faults at 0 %, outlier detection, a circuit
    /// breaker, peak-EWMA.
    MeshFull,
}

impl Path {
    /// Every path, in the order in which they are compared.
    #[must_use]
    pub fn all() -> Vec<Path> {
        Path::value_variants().to_vec()
    }

    /// The name in options and reports.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Opens a channel to `servers` and puts `load` on it.
    ///
    /// # Errors
    ///
    /// Fails when the channel cannot be opened, or as the load does.
    pub async fn load<L: Load>(self, servers: &[SocketAddr], load: L) -> Result<L::Output, Error> {
        match self {
            Path::Tonic => load.run(first(servers)?.connect().await?).await,
            Path::Balance => load.run(Channel::balance_list(endpoints(servers)?.into_iter())).await,
            Path::Mesh => through_mesh(Mesh::builder(), service(servers), load).await,
            Path::MeshFull => {
                let mesh = Mesh::builder().balance(BalanceOptions::new().policy(PeakEwma));
                through_mesh(mesh, armed::service(servers), load).await
            }
        }
    }
}

fn first(servers: &[SocketAddr]) -> Result<Endpoint, Error> {
    endpoints(servers)?.into_iter().next().ok_or_else(|| "no server".into())
}

fn endpoints(servers: &[SocketAddr]) -> Result<Vec<Endpoint>, tonic::transport::Error> {
    servers.iter().map(|server| Endpoint::from_shared(format!("http://{server}"))).collect()
}

async fn through_mesh<L: Load>(mesh: MeshBuilder, resources: Resources, load: L) -> Result<L::Output, Error> {
    let control_plane = ControlPlane::new();
    control_plane.set(resources);
    let mesh = mesh.control_plane(&control_plane).build().await?;
    let output = load.run(MeshChannel::new(&mesh, "xds:///echo")?).await;
    mesh.shutdown().await;
    output
}

fn service(servers: &[SocketAddr]) -> Resources {
    Resources::service("echo", servers.iter().copied())
}

/// Work to be done on a channel, whatever its type.
pub trait Load {
    /// What comes of it.
    type Output;

    /// Does the work.
    ///
    /// # Errors
    ///
    /// Fails when the work could not be done.
    fn run<T: Transport>(self, channel: T) -> impl Future<Output = Result<Self::Output, Error>>;
}

/// A channel that generated clients can be built on, and that callers can share.
pub trait Transport:
    GrpcService<
        Body,
        Future: Send,
        Error: Into<Error> + Send,
        ResponseBody: http_body::Body<Data = Bytes, Error: Into<Error> + Send> + Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<T> Transport for T where
    T: GrpcService<
            Body,
            Future: Send,
            Error: Into<Error> + Send,
            ResponseBody: http_body::Body<Data = Bytes, Error: Into<Error> + Send> + Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

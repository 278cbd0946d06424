//! The request paths that are compared. A further one is a variant of [`Path`] and its arm in
//! [`Path::load`].

use std::net::SocketAddr;

use bytes::Bytes;
use clap::ValueEnum;
use mesh_core::balance::{BalanceOptions, PeakEwma};
use mesh_core::testing::{ClusterBuilder, ControlPlane, Resources, any, cluster, endpoints, route, route_config};
use mesh_core::{Mesh, MeshBuilder};
use mesh_tonic::MeshChannel;
use mesh_xds_proto::envoy::config::core::v3::{TransportSocket, transport_socket::ConfigType};
use mesh_xds_proto::envoy::config::route::v3::route::Action;
use mesh_xds_proto::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, UpstreamTlsContext,
};
use mesh_xds_proto::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::transport::{Channel, Endpoint};

use crate::site::{SPIFFE_ID, Site};
use crate::{Error, armed};

/// Where the mesh has its certificate and roots from.
pub const PROVIDER: &str = "bench";

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
    /// [`Path::Mesh`] with a retry policy.
    MeshRetry,
    /// [`Path::Mesh`] with each call mirrored to an endpoint that answers as fast as the others.
    MeshMirror,
    /// [`Path::Mesh`] with each call mirrored to an endpoint that refuses connections.
    MeshMirrorDead,
    /// [`Path::Mesh`] with each call mirrored to an endpoint that takes a hundred times as long as the others.
    MeshMirrorSlow,
    /// The mesh with everything on: routes that match headers, a retry policy, faults at 0 %, outlier detection, a circuit
    /// breaker, peak-EWMA.
    MeshFull,
    /// [`Path::Tonic`] with mTLS.
    TonicMtls,
    /// [`Path::Balance`] with mTLS: what the others with mTLS are compared with.
    BalanceMtls,
    /// [`Path::Mesh`] with mTLS as the cluster asks for it.
    MeshMtls,
    /// [`Path::MeshFull`] with mTLS.
    MeshFullMtls,
    /// Measured at the server, called over mTLS: tonic's server, which the others are compared with.
    Server,
    /// A server of the mesh with mTLS as code asks for it, which tells handlers who calls.
    ServerMesh,
    /// A server of the mesh with mTLS, a local rate limit and 100 policies of access control, as its listener asks for them.
    ServerMeshFull,
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

    /// What this path is compared with.
    #[must_use]
    pub fn base(self) -> Path {
        match self {
            _ if self.is_server() => Path::Server,
            _ if self.is_secured() => Path::BalanceMtls,
            _ => Path::Balance,
        }
    }

    /// Whether it is the server's part that is measured, as [`serving`](crate::serving) does.
    #[must_use]
    pub fn is_server(self) -> bool {
        matches!(self, Path::Server | Path::ServerMesh | Path::ServerMeshFull)
    }

    fn is_secured(self) -> bool {
        matches!(self, Path::TonicMtls | Path::BalanceMtls | Path::MeshMtls | Path::MeshFullMtls)
    }

    /// Opens a channel to the servers and puts `load` on it.
    ///
    /// # Errors
    ///
    /// Fails when the channel cannot be opened, or as the load does.
    pub async fn load<L: Load>(self, site: &Site, load: L) -> Result<L::Output, Error> {
        match self {
            Path::Tonic | Path::TonicMtls => {
                let first = self.endpoints(site)?.into_iter().next().ok_or("no server")?;
                load.run(first.connect().await?).await
            }
            Path::Balance | Path::BalanceMtls => {
                load.run(Channel::balance_list(self.endpoints(site)?.into_iter())).await
            }
            Path::Mesh | Path::MeshMtls => {
                let servers = self.servers(site).iter().copied();
                let resources = Resources::service("echo", servers).with(self.cluster());
                self.through_mesh(Mesh::builder(), resources, site, load).await
            }
            Path::MeshRetry => {
                let retrying = route_config("echo").routes([route().cluster("echo").retry_on("unavailable", 3)]);
                let resources = Resources::service("echo", site.plain.iter().copied()).with(retrying);
                self.through_mesh(Mesh::builder(), resources, site, load).await
            }
            Path::MeshMirror | Path::MeshMirrorDead | Path::MeshMirrorSlow => {
                // Nothing listens on the port of `tcpmux`.
                let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
                let shadow = match self {
                    Path::MeshMirrorDead => Some(nobody),
                    Path::MeshMirrorSlow => site.slow,
                    _ => site.shadow,
                };
                let shadow = shadow.ok_or("no server for copies")?;
                let resources = mirrored(Resources::service("echo", site.plain.iter().copied()), shadow);
                self.through_mesh(Mesh::builder(), resources, site, load).await
            }
            Path::MeshFull | Path::MeshFullMtls => {
                let mesh = Mesh::builder().balance(BalanceOptions::new().policy(PeakEwma));
                self.through_mesh(mesh, armed::service(self.servers(site), self.cluster()), site, load).await
            }
            Path::Server | Path::ServerMesh | Path::ServerMeshFull => Err("a server is no way to one".into()),
        }
    }

    fn servers(self, site: &Site) -> &[SocketAddr] {
        if self.is_secured() { &site.secured } else { &site.plain }
    }

    fn endpoints(self, site: &Site) -> Result<Vec<Endpoint>, Error> {
        let endpoint = |server: &SocketAddr| match self.is_secured() {
            true => Ok(Endpoint::from_shared(format!("https://{server}"))?.tls_config(site.client_tls())?),
            false => Ok(Endpoint::from_shared(format!("http://{server}"))?),
        };
        self.servers(site).iter().map(endpoint).collect()
    }

    /// The cluster `echo`, as this path has it.
    #[must_use]
    pub fn cluster(self) -> ClusterBuilder {
        let cluster = cluster("echo");
        if !self.is_secured() {
            return cluster;
        }
        cluster.modify(|cluster| {
            let config = ConfigType::TypedConfig(any(&mutual_tls()));
            cluster.transport_socket =
                Some(TransportSocket { name: "envoy.transport_sockets.tls".into(), config_type: Some(config) });
        })
    }

    async fn through_mesh<L: Load>(
        self,
        mesh: MeshBuilder,
        resources: Resources,
        site: &Site,
        load: L,
    ) -> Result<L::Output, Error> {
        let control_plane = ControlPlane::new();
        control_plane.set(resources);
        let mesh = match self.is_secured() {
            true => mesh.certificate_provider(PROVIDER, site.client_material()?),
            false => mesh,
        };
        let mesh = mesh.control_plane(&control_plane).build().await?;
        let output = load.run(MeshChannel::new(&mesh, "xds:///echo")?).await;
        mesh.shutdown().await;
        output
    }
}

/// Each call is mirrored, and its copy goes to `shadow`.
fn mirrored(resources: Resources, shadow: SocketAddr) -> Resources {
    let mirror = RequestMirrorPolicy { cluster: "shadow".to_owned(), ..Default::default() };
    let mirroring = route().cluster("echo").modify(|route| {
        if let Some(Action::Route(action)) = &mut route.action {
            action.request_mirror_policies = vec![mirror];
        }
    });
    resources
        .with(route_config("echo").routes([mirroring]))
        .with(cluster("shadow"))
        .with(endpoints("shadow").endpoint(shadow))
}

/// The servers by their name, and the own certificate.
fn mutual_tls() -> UpstreamTlsContext {
    let name = MatchPattern::Exact(SPIFFE_ID.to_owned());
    let name = StringMatcher { match_pattern: Some(name), ..Default::default() };
    UpstreamTlsContext { common_tls_context: Some(certificates(vec![name])), ..Default::default() }
}

/// The own certificate, and roots that vouch for peers of these names.
pub(crate) fn certificates(names: Vec<StringMatcher>) -> CommonTlsContext {
    let instance =
        CertificateProviderPluginInstance { instance_name: PROVIDER.to_owned(), certificate_name: String::new() };
    let validation = CertificateValidationContext {
        ca_certificate_provider_instance: Some(instance.clone()),
        match_subject_alt_names: names,
        ..Default::default()
    };
    CommonTlsContext {
        tls_certificate_provider_instance: Some(instance),
        validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
        ..Default::default()
    }
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

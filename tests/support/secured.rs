//! A backend behind TLS, a cluster that asks for it, and a provider of certificates that does as told.

use std::time::Duration;

use mesh_core::connect::ConnectionSecurity;
use mesh_core::identity::{CertificateProvider, KeyMaterial, ProviderFuture, Publisher};
use mesh_core::testing::{ClusterBuilder, ControlPlane, EndpointBuilder, Resources, any, cluster, endpoint, endpoints};
use mesh_core::{CertificateProviderStatus, Mesh, MeshBuilder};
use mesh_xds_proto::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use mesh_xds_proto::envoy::config::core::v3::transport_socket::ConfigType;
use mesh_xds_proto::envoy::config::core::v3::{Metadata, TransportSocket};
use mesh_xds_proto::envoy::config::endpoint::v3::LbEndpoint;
use mesh_xds_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use mesh_xds_proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context as common;
use mesh_xds_proto::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tokio::sync::watch;

use super::PATIENCE;
use super::backend::Backend;
use super::client::Client;
use super::pki::{Authority, Issued};
use super::tls::{TlsFront, server};

pub(crate) const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
pub(crate) const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/server";

/// A backend behind TLS, and a control plane that knows it as `greeter`.
pub(crate) struct Site {
    pub(crate) authority: Authority,
    pub(crate) backend: Backend,
    pub(crate) front: TlsFront,
    pub(crate) control_plane: ControlPlane,
}

/// The cluster asks for TLS so.
pub(crate) fn secured_by(cluster: ClusterBuilder, context: &tls::UpstreamTlsContext) -> ClusterBuilder {
    cluster.modify(|cluster| cluster.transport_socket = Some(tls_socket(context)))
}

impl Site {
    /// The server shows an SVID, and takes clients of its own authority alone.
    pub(crate) async fn mutual() -> Self {
        let authority = Authority::new();
        let config = server(&authority.svid(SERVER), Some(&authority));
        Self::with(authority, config).await
    }

    pub(crate) async fn with(authority: Authority, config: rustls::ServerConfig) -> Self {
        let backend = Backend::start("a").await;
        let front = TlsFront::start(backend.address(), config).await;
        let control_plane = ControlPlane::new();
        control_plane.set(Resources::service("greeter", [front.address()]));
        Self { authority, backend, front, control_plane }
    }

    pub(crate) fn ask(&self, context: &tls::UpstreamTlsContext) {
        self.control_plane.put(secured_by(cluster("greeter"), context));
    }

    /// The endpoint has this host name.
    pub(crate) fn known_as(&self, name: &str) {
        self.control_plane.put(endpoints("greeter").endpoint(self.endpoint_known_as(name)));
    }

    pub(crate) fn endpoint_known_as(&self, name: &str) -> EndpointBuilder {
        endpoint(self.front.address()).modify(|endpoint| host_name(endpoint, name))
    }

    pub(crate) fn material(&self) -> KeyMaterial {
        self.material_of(&self.authority.svid(CLIENT))
    }

    /// With roots of the site's authority.
    pub(crate) fn material_of(&self, issued: &Issued) -> KeyMaterial {
        KeyMaterial::new().identity(issued.identity()).trust(self.authority.trust())
    }

    pub(crate) async fn mesh(&self, builder: MeshBuilder) -> Mesh {
        builder.control_plane(&self.control_plane).build().await.expect("a mesh")
    }
}

pub(crate) fn host_name(endpoint: &mut LbEndpoint, name: &str) {
    let Some(HostIdentifier::Endpoint(endpoint)) = &mut endpoint.host_identifier else { panic!("an endpoint") };
    endpoint.hostname = name.to_owned();
}

pub(crate) fn instance() -> tls::CertificateProviderPluginInstance {
    tls::CertificateProviderPluginInstance { instance_name: "default".into(), ..Default::default() }
}

/// mTLS with the provider `default`, to one of these peers.
pub(crate) fn context(peers: &[&str]) -> tls::UpstreamTlsContext {
    let exact = |peer: &&str| StringMatcher {
        match_pattern: Some(MatchPattern::Exact((*peer).to_owned())),
        ..Default::default()
    };
    let validation = tls::CertificateValidationContext {
        ca_certificate_provider_instance: Some(instance()),
        match_subject_alt_names: peers.iter().map(exact).collect(),
        ..Default::default()
    };
    let common = tls::CommonTlsContext {
        tls_certificate_provider_instance: Some(instance()),
        validation_context_type: Some(common::ValidationContextType::ValidationContext(validation)),
        ..Default::default()
    };
    tls::UpstreamTlsContext { common_tls_context: Some(common), ..Default::default() }
}

pub(crate) fn validation(context: &mut tls::UpstreamTlsContext) -> &mut tls::CertificateValidationContext {
    match context.common_tls_context.as_mut().and_then(|common| common.validation_context_type.as_mut()) {
        Some(common::ValidationContextType::ValidationContext(validation)) => validation,
        _ => panic!("it has one"),
    }
}

pub(crate) fn connections(mesh: &Mesh) -> Vec<ConnectionSecurity> {
    let endpoints = mesh.status().targets.into_iter().flat_map(|target| target.clusters).flat_map(|one| one.endpoints);
    endpoints.flat_map(|endpoint| endpoint.security).map(|security| (*security).clone()).collect()
}

/// Publishes what the test tells it.
pub(crate) struct Told(watch::Receiver<Option<Result<KeyMaterial, String>>>);

impl CertificateProvider for Told {
    fn kind(&self) -> &str {
        "told"
    }

    fn run(mut self: Box<Self>, publisher: Publisher) -> ProviderFuture {
        Box::pin(async move {
            loop {
                match self.0.borrow_and_update().clone() {
                    Some(Ok(material)) => publisher.publish(material),
                    Some(Err(error)) => publisher.fail(error),
                    None => {}
                }
                if self.0.changed().await.is_err() {
                    return;
                }
            }
        })
    }
}

pub(crate) fn told() -> (watch::Sender<Option<Result<KeyMaterial, String>>>, Told) {
    let (sender, receiver) = watch::channel(None);
    (sender, Told(receiver))
}

/// Calls until one fails and says this: until what was told has arrived, calls may be answered.
pub(crate) async fn says_in_time(client: &Client, text: &str) -> tonic::Status {
    let said = async {
        loop {
            match client.hello().await {
                Err(status) if status.message().contains(text) => return status,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, said).await.unwrap_or_else(|_| panic!("`{text}` is never said"))
}

pub(crate) async fn fails_in_time(client: &Client) -> tonic::Status {
    let failed = async {
        loop {
            match client.hello().await {
                Err(status) => return status,
                Ok(_) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, failed).await.expect("calls fail")
}

/// Waits until a certificate provider is as wanted.
pub(crate) async fn reported(
    mesh: &Mesh,
    wanted: impl Fn(&CertificateProviderStatus) -> bool,
) -> CertificateProviderStatus {
    let reached = async {
        loop {
            match mesh.status().certificate_providers.into_iter().find(&wanted) {
                Some(status) => return status,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, reached).await;
    found.unwrap_or_else(|_| panic!("never: {:?}", mesh.status().certificate_providers))
}

/// `envoy.transport_socket_match` of an endpoint's metadata: `tlsMode`, as Istio has it.
pub(crate) fn tls_mode(mode: &str) -> Vec<u8> {
    let labels = Struct { fields: [("tlsMode".to_owned(), text(mode))].into() };
    let filter_metadata = [("envoy.transport_socket_match".to_owned(), labels)].into();
    Metadata { filter_metadata, ..Default::default() }.encode_to_vec()
}

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

/// A match of endpoints by `tlsMode`, or of all.
pub(crate) fn socket_match(mode: Option<&str>, socket: TransportSocket) -> TransportSocketMatch {
    let labels = mode.map(|mode| Struct { fields: [("tlsMode".to_owned(), text(mode))].into() });
    TransportSocketMatch { name: "match".into(), r#match: labels, transport_socket: Some(socket) }
}

/// The socket of a TLS context.
pub(crate) fn tls_socket(context: &tls::UpstreamTlsContext) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(ConfigType::TypedConfig(any(context))),
    }
}

/// The socket that asks for plaintext.
pub(crate) fn raw_socket() -> TransportSocket {
    let name = "envoy.transport_sockets.raw_buffer".into();
    TransportSocket { name, config_type: Some(ConfigType::TypedConfig(any(&RawBuffer {}))) }
}

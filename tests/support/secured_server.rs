//! A server of the mesh with certificates, its control plane, and clients of it.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use mesh_core::identity::{CertificateProvider, KeyMaterial, ProviderFuture, Publisher};
use mesh_core::server::{Peer, ServerOptions, ServingMode};
use mesh_core::testing::{ControlPlane, FilterChainBuilder, Resources, any, cluster, filter_chain, server_listener};
use mesh_core::{Mesh, MeshBuilder};
use mesh_examples::helloworld::greeter_server::{Greeter, GreeterServer};
use mesh_examples::helloworld::{HelloReply, HelloRequest};
use mesh_tonic::MeshServer;
use mesh_xds_proto::envoy::config::core::v3::TransportSocket;
use mesh_xds_proto::envoy::config::core::v3::transport_socket::ConfigType;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context as common;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::PATIENCE;
use super::client::{Client, impatient, quick};
use super::pki::{Authority, Issued, dns, uri};
use super::served::Served;

pub(crate) const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
pub(crate) const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/server";

/// Answers who calls.
pub(crate) struct WhoCalls;

#[tonic::async_trait]
impl Greeter for WhoCalls {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let caller = match request.extensions().get::<Peer>() {
            None => "nobody".to_owned(),
            Some(peer) => match (peer.namespace(), peer.service_account()) {
                (Some(namespace), Some(account)) => format!("{account} of {namespace}"),
                _ => format!("{:?}", peer.dns_names),
            },
        };
        let forwarded = request.metadata().keys().any(|key| format!("{key:?}").contains("x-forwarded-client-cert"));
        let message = if forwarded { format!("{caller}, for another") } else { caller };
        Ok(Response::new(HelloReply { message }))
    }

    async fn chat(&self, request: Request<Streaming<HelloRequest>>) -> Result<Response<BoxStream<HelloReply>>, Status> {
        let replies = request.into_inner().map(|request| request.map(|_| HelloReply::default()));
        Ok(Response::new(Box::pin(replies)))
    }
}

/// A provider that hands its publisher to the test.
pub(crate) struct Held(oneshot::Sender<Publisher>);

impl Held {
    pub(crate) fn new(hand: oneshot::Sender<Publisher>) -> Self {
        Self(hand)
    }
}

impl CertificateProvider for Held {
    fn kind(&self) -> &str {
        "held"
    }

    fn run(self: Box<Self>, publisher: Publisher) -> ProviderFuture {
        let _ = self.0.send(publisher);
        Box::pin(std::future::pending())
    }
}

/// A client in a mesh of its own.
pub(crate) struct Caller {
    pub(crate) client: Client,
    pub(crate) mesh: Mesh,
    _control_plane: Option<ControlPlane>,
}

impl Caller {
    /// Of a server in plaintext.
    pub(crate) async fn plain(mesh: MeshBuilder, server: &Served) -> Self {
        let mesh = mesh.build().await.unwrap();
        Self { client: Client::new(&mesh, &server.target()), mesh, _control_plane: None }
    }

    /// Of a server with TLS: it shows this certificate, and takes any server of the authority.
    pub(crate) async fn secured(server: SocketAddr, authority: &Authority, issued: Option<&Issued>) -> Self {
        let mut material = KeyMaterial::new().trust(authority.trust());
        let mut shown = None;
        if let Some(issued) = issued {
            material = material.identity(issued.identity());
            shown = Some(instance());
        }
        let context = tls::UpstreamTlsContext {
            common_tls_context: Some(tls::CommonTlsContext {
                tls_certificate_provider_instance: shown,
                validation_context_type: Some(common::ValidationContextType::ValidationContext(roots())),
                ..Default::default()
            }),
            ..Default::default()
        };
        let control_plane = ControlPlane::new();
        control_plane.set(Resources::service("greeter", [server]));
        control_plane.put(cluster("greeter").modify(|cluster| cluster.transport_socket = Some(socket(&context))));
        let builder = quick().certificate_provider("default", material);
        Self::configured(builder, control_plane).await
    }

    /// As a control plane says.
    pub(crate) async fn configured(mesh: MeshBuilder, control_plane: ControlPlane) -> Self {
        let mesh = mesh.control_plane(&control_plane).build().await.unwrap();
        Self { client: Client::new(&mesh, "xds:///greeter"), mesh, _control_plane: Some(control_plane) }
    }
}

impl Deref for Caller {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// A server of the mesh with the certificate provider `default`, and its control plane.
pub(crate) struct Site {
    pub(crate) authority: Authority,
    pub(crate) control_plane: ControlPlane,
    pub(crate) publisher: Publisher,
    pub(crate) server: Served,
    pub(crate) modes: watch::Receiver<Option<ServingMode>>,
    _mesh: Mesh,
}

impl Site {
    /// With a listener of this chain, and a certificate.
    pub(crate) async fn with_chain(chain: FilterChainBuilder) -> Self {
        let site = Self::start(Some(chain), ServerOptions::new(), |server| server).await;
        site.certified().await
    }

    /// Without a control plane of its own, with mTLS as code asks.
    pub(crate) async fn with_code(configure: impl FnOnce(MeshServer) -> MeshServer) -> Self {
        Self::start(None, ServerOptions::new(), configure).await.certified().await
    }

    pub(crate) async fn certified(mut self) -> Self {
        self.publish(&self.certificate());
        self.serves().await;
        self
    }

    pub(crate) async fn start(
        chain: Option<FilterChainBuilder>,
        options: ServerOptions,
        configure: impl FnOnce(MeshServer) -> MeshServer,
    ) -> Self {
        Self::start_in(quick(), chain, options, configure).await
    }

    /// In a mesh of its own making.
    pub(crate) async fn start_in(
        mesh: MeshBuilder,
        chain: Option<FilterChainBuilder>,
        options: ServerOptions,
        configure: impl FnOnce(MeshServer) -> MeshServer,
    ) -> Self {
        let control_plane = ControlPlane::new();
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (hand, publisher) = oneshot::channel();
        let mut mesh = mesh.certificate_provider("default", Held::new(hand));
        if let Some(chain) = chain {
            control_plane.put(server_listener(address).chains([chain]));
            mesh = mesh.control_plane(&control_plane);
        }
        let mesh = mesh.build().await.unwrap();
        let publisher = publisher.await.expect("the provider runs");
        let (send, modes) = watch::channel(None);
        let hears = move |mode: &ServingMode| drop(send.send_replace(Some(mode.clone())));
        let services =
            |server: MeshServer| configure(server.add_service(GreeterServer::new(WhoCalls)).on_serving_mode(hears));
        let server = Served::start_at(socket, &mesh, options, services).await;
        Self { authority: Authority::new(), control_plane, publisher, server, modes, _mesh: mesh }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// An SVID of the server, by a host name of its own.
    pub(crate) fn certificate(&self) -> Issued {
        self.authority.issue(&[uri(SERVER), dns("server.test")], |_| {})
    }

    pub(crate) fn publish(&self, issued: &Issued) {
        self.publisher.publish(KeyMaterial::new().identity(issued.identity()).trust(self.authority.trust()));
    }

    pub(crate) fn listen(&self, chain: FilterChainBuilder) {
        self.control_plane.put(server_listener(self.address()).chains([chain]));
    }

    pub(crate) async fn mode(&mut self, wanted: impl FnMut(&Option<ServingMode>) -> bool) -> ServingMode {
        let mode = timeout(PATIENCE, self.modes.wait_for(wanted)).await.expect("the mode is told").unwrap();
        mode.clone().expect("a mode")
    }

    pub(crate) async fn serves(&mut self) {
        self.mode(|mode| *mode == Some(ServingMode::Serving)).await;
    }

    /// Why it does not serve.
    pub(crate) async fn stops(&mut self) -> String {
        self.mode(|mode| matches!(mode, Some(ServingMode::NotServing(_)))).await.to_string()
    }

    /// A client of the mesh that shows this certificate, and takes any server of the authority.
    pub(crate) async fn caller(&self, issued: Option<&Issued>) -> Caller {
        Caller::secured(self.address(), &self.authority, issued).await
    }

    pub(crate) async fn plaintext_caller(&self) -> Caller {
        Caller::plain(impatient(), &self.server).await
    }

    /// A TLS connection with these protocols, until the server said whether it takes it.
    pub(crate) async fn handshake(
        &self,
        issued: Option<&Issued>,
        protocols: &[&str],
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut stream = connect(self.address(), &self.authority, issued, protocols).await?;
        // The server's SETTINGS come when it took the client's certificate.
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        stream.read_exact(&mut [0; 9]).await?;
        Ok(stream)
    }

    /// That a connection is closed without a byte.
    pub(crate) async fn closes_connections(&self) {
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        let _ = stream.write_all(&[0x16, 3, 1]).await;
        let mut bytes = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection is closed");
        assert_eq!(bytes, b"");
    }

    /// Waits until a handshake failed for this reason.
    pub(crate) async fn refuses(&self, why: &str) {
        let says = |status: &mesh_core::ServerStatus| {
            status.last_handshake_error.as_ref().is_some_and(|error| error.contains(why))
        };
        self.server.wait_for(why, says).await;
    }
}

/// A TLS connection to a server of this authority, with these protocols. It may not have looked at the certificate yet.
pub(crate) async fn connect(
    server: SocketAddr,
    authority: &Authority,
    issued: Option<&Issued>,
    protocols: &[&str],
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match issued {
        None => builder.with_no_client_auth(),
        Some(issued) => builder.with_client_auth_cert(vec![issued.der.clone()], issued.key_der.clone_key()).unwrap(),
    };
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(server).await?;
    let name = ServerName::try_from("server.test").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

pub(crate) fn instance() -> tls::CertificateProviderPluginInstance {
    tls::CertificateProviderPluginInstance { instance_name: "default".into(), ..Default::default() }
}

pub(crate) fn roots() -> tls::CertificateValidationContext {
    tls::CertificateValidationContext { ca_certificate_provider_instance: Some(instance()), ..Default::default() }
}

pub(crate) fn socket<M: prost::Message + prost::Name>(context: &M) -> TransportSocket {
    let config_type = Some(ConfigType::TypedConfig(any(context)));
    TransportSocket { name: "envoy.transport_sockets.tls".into(), config_type }
}

/// mTLS with the provider `default`.
pub(crate) fn context() -> tls::DownstreamTlsContext {
    let common = tls::CommonTlsContext {
        tls_certificate_provider_instance: Some(instance()),
        validation_context_type: Some(common::ValidationContextType::ValidationContext(roots())),
        ..Default::default()
    };
    tls::DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: Some(true),
        ..Default::default()
    }
}

pub(crate) fn secured(context: &tls::DownstreamTlsContext) -> FilterChainBuilder {
    filter_chain().modify(|chain| chain.transport_socket = Some(socket(context)))
}

pub(crate) fn optional() -> tls::DownstreamTlsContext {
    tls::DownstreamTlsContext { require_client_certificate: None, ..context() }
}

pub(crate) fn common(context: &mut tls::DownstreamTlsContext) -> &mut tls::CommonTlsContext {
    context.common_tls_context.as_mut().expect("it has one")
}

pub(crate) fn in_the_past(params: &mut rcgen::CertificateParams) {
    params.not_after = (SystemTime::now() - Duration::from_secs(5)).into();
}

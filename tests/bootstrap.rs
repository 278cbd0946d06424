//! What the bootstrap says: where the control plane is, and how the connection to it is secured.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use mesh_core::testing::{ControlPlane, Resources, endpoints};
use mesh_core::{Bootstrap, Mesh, SecurityFloor, TlsVersion};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::{WantsServerCert, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{ConfigBuilder, RootCertStore, ServerConfig, SupportedProtocolVersion, WantsVerifier};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tonic::Code;

use crate::support::backend::Backend;
use crate::support::client::{Client, assert_says, impatient, quick};
use crate::support::secured::says_in_time;

/// A control plane on a port, which serves `greeter` at the backend.
pub(crate) async fn listening(backend: &Backend) -> ControlPlane {
    let resources = Resources::service("greeter", [backend.address()]);
    ControlPlane::builder().listen("127.0.0.1:0").resources(resources).start().await.unwrap()
}

fn bootstrap_json(server_uri: &str, channel_creds: &serde_json::Value) -> String {
    let server = serde_json::json!({ "server_uri": server_uri, "channel_creds": [channel_creds] });
    serde_json::json!({ "xds_servers": [server], "node": { "id": "test" } }).to_string()
}

/// The bootstrap for a control plane in plaintext.
pub(crate) fn insecure(server_uri: &str) -> Bootstrap {
    Bootstrap::from_json(&bootstrap_json(server_uri, &serde_json::json!({ "type": "insecure" }))).expect("a bootstrap")
}

pub(crate) async fn mesh_with(bootstrap: Bootstrap) -> Mesh {
    quick().bootstrap(bootstrap).build().await.expect("a mesh")
}

#[tokio::test]
async fn each_form_of_a_server_uri_reaches_the_control_plane() {
    let backend = Backend::start("a").await;
    let control_plane = listening(&backend).await;
    let port = control_plane.addr().port();
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("control-plane.sock");
    let _relay = unix_relay(&socket, control_plane.addr());
    let forms = [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("dns:///localhost:{port}"),
        format!("dns:127.0.0.1:{port}"),
        format!("ipv4:127.0.0.1:{port}"),
        format!("ipv4:127.0.0.2:1,127.0.0.1:{port}"),
        format!("http://127.0.0.1:{port}"),
        format!("unix:{}", socket.display()),
        format!("unix://{}", socket.display()),
    ];
    for form in forms {
        let mesh = mesh_with(insecure(&form)).await;
        let reply = Client::new(&mesh, "xds:///greeter").hello().await;
        assert_eq!(reply.unwrap_or_else(|status| panic!("{form}: {status}")), "a");
    }
    for form in ["xds:///control-plane", "unix://relative.sock", "https://127.0.0.1:1", "127.0.0.1:70000"] {
        let refused =
            Bootstrap::from_json(&bootstrap_json(form, &serde_json::json!({ "type": "insecure" }))).unwrap_err();
        assert!(refused.report().contains(form), "{}", refused.report());
    }
}

#[tokio::test]
async fn a_bootstrap_file_is_enough() {
    let backend = Backend::start("a").await;
    let control_plane = listening(&backend).await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("bootstrap.json");
    std::fs::write(&file, control_plane.bootstrap_json()).unwrap();
    let mesh = Mesh::builder().bootstrap_from_file(&file).unwrap().build().await.unwrap();
    assert_eq!(Client::new(&mesh, "xds:///greeter").hello().await.unwrap(), "a");
    let node = control_plane.requests()[0].node.clone().expect("the first request has it");
    assert_eq!(node.id, "test");

    let missing = folder.path().join("missing.json");
    let refused = Mesh::builder().bootstrap_from_file(&missing).map(|_| ()).unwrap_err().report();
    assert!(refused.contains("missing.json"), "{refused}");
    std::fs::write(&file, "{ \"xds_servers\": [").unwrap();
    let refused = Mesh::builder().bootstrap_from_file(&file).map(|_| ()).unwrap_err().report();
    assert!(refused.contains("bootstrap.json"), "{refused}");
}

/// A process of its own, because the environment is the process's: what it says to the greeter, and what comes of it.
#[test]
#[ignore = "run by the_environment_says_where_the_control_plane_is"]
fn child() {
    let said = async {
        let mesh = Mesh::builder().bootstrap_from_env()?.build().await?;
        Ok::<_, mesh_core::Error>(Client::new(&mesh, "xds:///greeter").hello().await)
    };
    match tokio::runtime::Runtime::new().unwrap().block_on(said) {
        Ok(reply) => println!("said: {}", reply.expect("a greeting")),
        Err(error) => println!("said: {}", error.report()),
    }
}

async fn child_says(variables: &[(&str, &OsStr)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "bootstrap::child", "--ignored", "--nocapture"]).kill_on_drop(true);
    command.env_remove("GRPC_XDS_BOOTSTRAP").env_remove("GRPC_XDS_BOOTSTRAP_CONFIG");
    command.envs(variables.iter().copied());
    let output = command.output().await.unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let said = output.lines().find_map(|line| line.split_once("said: ")).map(|(_, said)| said.to_owned());
    said.unwrap_or_else(|| panic!("{output}"))
}

#[tokio::test]
async fn the_environment_says_where_the_control_plane_is() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let (in_file, inline) = (listening(&a).await, listening(&b).await);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("bootstrap.json");
    std::fs::write(&file, in_file.bootstrap_json()).unwrap();
    let inline = inline.bootstrap_json();
    let by_file = ("GRPC_XDS_BOOTSTRAP", file.as_os_str());
    let by_text = ("GRPC_XDS_BOOTSTRAP_CONFIG", OsStr::new(&inline));
    assert_eq!(child_says(&[by_file]).await, "a");
    assert_eq!(child_says(&[by_text]).await, "b");
    assert_eq!(child_says(&[by_text, by_file]).await, "a", "the file goes before the text");

    let nowhere = child_says(&[]).await;
    assert!(nowhere.contains("GRPC_XDS_BOOTSTRAP") && nowhere.contains("GRPC_XDS_BOOTSTRAP_CONFIG"), "{nowhere}");
    let missing = child_says(&[("GRPC_XDS_BOOTSTRAP", OsStr::new("/no/such/file")), by_text]).await;
    assert!(missing.contains("/no/such/file"), "the text does not stand in for a file that is missing: {missing}");
}

/// A certificate authority with a server's certificate, in files.
struct Pki {
    folder: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
    server: Arc<ServerConfig>,
}

impl Pki {
    fn new() -> Self {
        Self::with(&[&TLS13, &TLS12], |builder, _| builder.with_no_client_auth())
    }

    /// Its server speaks TLS 1.2 alone.
    fn old() -> Self {
        Self::with(&[&TLS12], |builder, _| builder.with_no_client_auth())
    }

    /// Its server takes only clients with a certificate of the same authority.
    fn mutual() -> Self {
        Self::with(&[&TLS13, &TLS12], |builder, authority| {
            let mut roots = RootCertStore::empty();
            roots.add(authority).unwrap();
            let provider = builder.crypto_provider().clone();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        })
    }

    fn with(
        versions: &[&'static SupportedProtocolVersion],
        client_auth: impl FnOnce(
            ConfigBuilder<ServerConfig, WantsVerifier>,
            CertificateDer<'static>,
        ) -> ConfigBuilder<ServerConfig, WantsServerCert>,
    ) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])
            .unwrap()
            .signed_by(&key, &authority)
            .unwrap();
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let mut server = client_auth(builder, authority.der().clone())
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        server.alpn_protocols = vec![b"h2".to_vec()];
        Self { folder, authority, server: Arc::new(server) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a new certificate for a client, of this authority, and its key into the files; returns the certificate.
    fn issue_client(&self) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["client".to_owned()]).unwrap().signed_by(&key, &self.authority).unwrap();
        std::fs::write(self.file("client.pem"), certificate.pem()).unwrap();
        std::fs::write(self.file("client.key"), key.serialize_pem()).unwrap();
        certificate.der().clone()
    }

    /// The bootstrap for a control plane with a certificate of this authority.
    fn bootstrap(&self, server_uri: &str) -> Bootstrap {
        self.bootstrap_with(server_uri, serde_json::json!({ "ca_certificate_file": self.file("ca.pem") }))
    }

    /// The same with the client's certificate, whose files are read anew for each connection.
    fn mutual_bootstrap(&self, server_uri: &str) -> Bootstrap {
        let config = serde_json::json!({
            "ca_certificate_file": self.file("ca.pem"),
            "certificate_file": self.file("client.pem"),
            "private_key_file": self.file("client.key"),
            "refresh_interval": "0s",
        });
        self.bootstrap_with(server_uri, config)
    }

    fn bootstrap_with(&self, server_uri: &str, config: serde_json::Value) -> Bootstrap {
        let creds = serde_json::json!({ "type": "tls", "config": config });
        Bootstrap::from_json(&bootstrap_json(server_uri, &creds)).expect("a bootstrap")
    }
}

#[tokio::test]
async fn a_control_plane_is_reached_over_tls_if_its_certificate_is_right() {
    let backend = Backend::start("a").await;
    let control_plane = listening(&backend).await;
    let (pki, other) = (Pki::new(), Pki::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (clients, _) = mpsc::unbounded_channel();
    let _relay = tls_relay(listener, pki.server.clone(), control_plane.addr(), clients);

    for form in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("https://localhost:{port}")] {
        let mesh = mesh_with(pki.bootstrap(&form)).await;
        let reply = Client::new(&mesh, "xds:///greeter").hello().await;
        assert_eq!(reply.unwrap_or_else(|status| panic!("{form}: {status}")), "a");
    }
    let mesh = impatient().bootstrap(other.bootstrap(&format!("localhost:{port}"))).build().await.unwrap();
    let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_says(&status, &["TLS", "certificate", "Listener `greeter`"]);
    let mesh = impatient().bootstrap(pki.bootstrap(&control_plane.addr().to_string())).build().await.unwrap();
    let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
    let in_plaintext =
        "UNAVAILABLE: TLS: the server does not speak TLS; if it is to be reached without, give it `insecure`";
    assert_says(&status, &[&control_plane.addr().to_string(), in_plaintext]);
}

#[tokio::test]
async fn s7_a_control_plane_with_an_older_version_of_tls_than_code_allows_is_not_asked() {
    let backend = Backend::start("a").await;
    let control_plane = listening(&backend).await;
    let pki = Pki::old();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bootstrap = || pki.bootstrap(&format!("localhost:{}", listener.local_addr().unwrap().port()));
    let (any, newer) = (bootstrap(), bootstrap());
    let (clients, _) = mpsc::unbounded_channel();
    let _relay = tls_relay(listener, pki.server.clone(), control_plane.addr(), clients);
    let floor = SecurityFloor::new().min_tls_version(TlsVersion::V1_3);
    let mesh = impatient().bootstrap(newer).security_floor(floor).build().await.unwrap();
    let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
    assert_says(&status, &["TLS", "ProtocolVersion", "Listener `greeter`"]);
    let mesh = mesh_with(any).await;
    assert_eq!(Client::new(&mesh, "xds:///greeter").hello().await.unwrap(), "a");
}

#[tokio::test]
async fn a_control_plane_that_wants_a_client_certificate_gets_the_one_in_the_files() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let control_plane = listening(&a).await;
    let (pki, other) = (Pki::mutual(), Pki::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server_uri = format!("localhost:{}", listener.local_addr().unwrap().port());
    let (clients, mut seen) = mpsc::unbounded_channel();
    let _relay = tls_relay(listener, pki.server.clone(), control_plane.addr(), clients);

    let mesh = impatient().bootstrap(pki.bootstrap(&server_uri)).build().await.unwrap();
    let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
    assert_says(
        &status,
        &[
            "Listener `greeter`",
            &server_uri,
            "TLS without a client certificate: received fatal alert: CertificateRequired",
        ],
    );
    std::fs::copy(pki.file("ca.pem"), other.file("ca.pem")).unwrap();
    other.issue_client();
    let mesh = impatient().bootstrap(other.mutual_bootstrap(&server_uri)).build().await.unwrap();
    let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
    assert_says(&status, &["Listener `greeter`", &server_uri, "TLS with a client certificate: received fatal alert"]);
    assert!(seen.is_empty());

    let first = pki.issue_client();
    let mesh = mesh_with(pki.mutual_bootstrap(&server_uri)).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    assert_eq!(seen.recv().await.unwrap(), Some(first));

    let second = pki.issue_client();
    control_plane.kill_connections();
    control_plane.put(endpoints("greeter").endpoint(b.address()));
    client.hello_until("b").await;
    assert_eq!(seen.recv().await.unwrap().as_ref(), Some(&second));

    // Half of a pair is of no use: the last good one stays.
    std::fs::write(pki.file("client.key"), "").unwrap();
    control_plane.kill_connections();
    control_plane.put(endpoints("greeter").endpoint(a.address()));
    client.hello_until("a").await;
    assert_eq!(seen.recv().await.unwrap(), Some(second));
}

#[tokio::test]
async fn roots_and_a_client_certificate_that_were_refused_are_read_anew_before_their_time() {
    let backend = Backend::start("a").await;
    let control_plane = listening(&backend).await;
    let (pki, other) = (Pki::mutual(), Pki::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server_uri = format!("localhost:{}", listener.local_addr().unwrap().port());
    let (clients, _) = mpsc::unbounded_channel();
    let _relay = tls_relay(listener, pki.server.clone(), control_plane.addr(), clients);

    other.issue_client();
    let files = serde_json::json!({
        "ca_certificate_file": other.file("ca.pem"),
        "certificate_file": other.file("client.pem"),
        "private_key_file": other.file("client.key"),
        "refresh_interval": "3600s",
    });
    let mesh = impatient().bootstrap(other.bootstrap_with(&server_uri, files)).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    assert_says(&client.hello().await.unwrap_err(), &["TLS: invalid peer certificate"]);
    std::fs::copy(pki.file("ca.pem"), other.file("ca.pem")).unwrap();
    says_in_time(&client, "TLS with a client certificate: received fatal alert").await;
    pki.issue_client();
    for file in ["client.key", "client.pem"] {
        std::fs::copy(pki.file(file), other.file(file)).unwrap();
    }
    assert_eq!(client.recovers().await, "a");
}

/// A Unix socket that leads to an address, until the task is dropped with its runtime.
fn unix_relay(path: &std::path::Path, to: SocketAddr) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(path).expect("a path that is free");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(pass(stream, to));
        }
    })
}

/// Ends TLS and leads to an address; tells which client came.
fn tls_relay(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    to: SocketAddr,
    clients: mpsc::UnboundedSender<Option<CertificateDer<'static>>>,
) -> tokio::task::JoinHandle<()> {
    let acceptor = TlsAcceptor::from(config);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, clients) = (acceptor.clone(), clients.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let chain = stream.get_ref().1.peer_certificates();
                    // Not every test asks.
                    let _ = clients.send(chain.and_then(|chain| chain.first()).map(|first| first.clone().into_owned()));
                    pass(stream, to).await;
                }
            });
        }
    })
}

async fn pass(mut from: impl AsyncRead + AsyncWrite + Unpin, to: SocketAddr) {
    if let Ok(mut to) = TcpStream::connect(to).await {
        // What ends one side ends the other.
        let _ = copy_bidirectional(&mut from, &mut to).await;
    }
}

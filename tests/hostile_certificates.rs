//! Peers that show hostile certificates and chains, over real sockets: the table that the verifier is tested by, through a
//! client's and a server's whole handshake.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use futures_util::future::join_all;
use mesh_core::identity::{KeyMaterial, TrustBundle};
use mesh_core::testing::{ControlPlane, Resources, cluster};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use self::chains::{Mode, Pki, Row};
use crate::support::PATIENCE;
use crate::support::backend::Backend;
use crate::support::client::{Client, quick};
use crate::support::clock::pass_over_stalls;
use crate::support::secured::{context as upstream, secured_by};
use crate::support::secured_server::{Site, context, secured};
use crate::support::tls::TlsFront;

#[path = "../mesh-core/src/tls/tests/chains.rs"]
mod chains;
#[path = "../mesh-core/src/tls/tests/forge.rs"]
mod forge;

/// What a client of HTTP/2 says first, with empty SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn crypto() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn base64(der: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(der)
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", base64(der))
}

/// The roots of the table in the form in which a way to verify has them.
fn trust(pki: &Pki, mode: Mode) -> TrustBundle {
    if matches!(mode, Mode::Map | Mode::CallerMap) {
        let keys =
            |root: &[u8]| serde_json::json!({"keys": [{"kty": "EC", "use": "x509-svid", "x5c": [base64(root)]}]});
        let domains = serde_json::json!({"cluster.local": keys(&pki.root), "partner.example": keys(&pki.partner_root)});
        return TrustBundle::from_spiffe_bundle_map(&serde_json::json!({"trust_domains": domains}).to_string())
            .expect("a bundle map");
    }
    TrustBundle::from_pem(pem(&pki.root).as_bytes()).expect("roots")
}

/// Shows a chain as it is, whatever is in it.
fn shown(pki: &Pki, row: &Row) -> Arc<CertifiedKey> {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pki.key.serialize_der()));
    let key = crypto().key_provider.load_private_key(key).expect("a key");
    Arc::new(CertifiedKey::new(row.chain.iter().map(|one| one.clone().into()).collect(), key))
}

/// Shows each client the row whose number it asks for: `7.test`.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let number = hello.server_name()?.strip_suffix(".test")?.parse::<usize>().ok()?;
        self.0.get(number).cloned()
    }
}

/// What a client of the mesh gets of servers that show each row.
async fn endpoints_that_show(mode: Mode) {
    pass_over_stalls();
    let pki = Pki::new();
    let mut rows = pki.rows();
    rows.extend(pki.without_the_key());
    let mut config = ServerConfig::builder_with_provider(crypto())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName(rows.iter().map(|row| shown(&pki, row)).collect())));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let backend = Backend::start("a").await;
    let front = TlsFront::start(backend.address(), config).await;
    let control_plane = ControlPlane::new();
    let mut resources = Resources::new();
    for number in 0..rows.len() {
        let name = format!("row-{number}");
        let mut asked = upstream(&[]);
        asked.sni = format!("{number}.test");
        asked.common_tls_context.as_mut().expect("it has one").tls_certificate_provider_instance = None;
        let service = Resources::service(&name, [front.address()]);
        resources = resources.and(service.with(secured_by(cluster(&name), &asked)));
    }
    control_plane.set(resources);
    // A file of roots without an own certificate is of a trust domain that code names.
    let trust = trust(&pki, mode).of_trust_domain("cluster.local".parse().expect("a trust domain"));
    let mesh = quick().certificate_provider("default", KeyMaterial::new().trust(trust));
    let mesh = mesh.control_plane(&control_plane).build().await.expect("a mesh");
    let calls = rows.iter().enumerate().map(async |(number, row)| {
        let said = Client::new(&mesh, &format!("xds:///row-{number}")).hello().await;
        let is_right = match (row.refused_by(mode), &said) {
            (None, Ok(_)) => true,
            (Some(why), Err(status)) => status.message().contains(why),
            _ => false,
        };
        (!is_right).then(|| format!("{}: {said:?}, not {:?}", row.what, row.refused_by(mode)))
    });
    let wrong: Vec<String> = join_all(calls).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    let taken = rows.iter().filter(|row| row.refused_by(mode).is_none()).count();
    assert_eq!(backend.calls(), taken as u64);
}

#[tokio::test]
async fn s6_endpoints_get_calls_by_roots_of_a_file_as_the_table_says() {
    endpoints_that_show(Mode::File).await;
}

#[tokio::test]
async fn s6_endpoints_get_calls_by_the_roots_of_trust_domains_as_the_table_says() {
    endpoints_that_show(Mode::Map).await;
}

/// Shows one chain to every client.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// Shows one chain to every server.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A connection that shows the row, until the server said whether it takes it.
async fn connect(pki: &Pki, row: &Row, site: &Site) -> io::Result<()> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(site.authority.der()).expect("a root");
    let mut config = ClientConfig::builder_with_provider(crypto())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(Shows(shown(pki, row))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    answered(config, site.address()).await
}

/// Whether a server says anything in HTTP/2 to whom it was shown.
async fn answered(config: ClientConfig, address: impl ToSocketAddrs) -> io::Result<()> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("server.test").expect("a name");
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(PREFACE).await?;
    stream.read_exact(&mut [0; 9]).await.map(drop)
}

/// What callers that show each row get of a server of the mesh.
async fn callers_that_show(mode: Mode) {
    let pki = Pki::new();
    let mut rows = pki.rows();
    rows.extend(pki.without_the_key());
    let site = Site::with_chain(secured(&context())).await;
    let identity = site.certificate().identity();
    site.publisher.publish(KeyMaterial::new().identity(identity).trust(trust(&pki, mode)));
    let mut wrong = Vec::new();
    let mut refused = 0;
    for row in &rows {
        let said = connect(&pki, row, &site).await;
        match (row.refused_by(mode), said) {
            (None, Ok(())) => {}
            (Some(why), Err(_)) => {
                refused += 1;
                site.server.wait_for(row.what, |status| status.failed_handshakes == refused).await;
                let told = site.server.status().last_handshake_error.expect("a reason");
                if !told.contains(why) {
                    wrong.push(format!("{}: {told}, not `{why}`", row.what));
                }
            }
            (expected, said) => wrong.push(format!("{}: {said:?}, not {expected:?}", row.what)),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    assert_eq!(site.server.status().accepted as usize, rows.len() - refused as usize);
}

#[tokio::test]
async fn s6_callers_are_taken_by_roots_of_a_file_as_the_table_says() {
    callers_that_show(Mode::Caller).await;
}

#[tokio::test]
async fn s6_callers_are_taken_by_the_roots_of_trust_domains_as_the_table_says() {
    callers_that_show(Mode::CallerMap).await;
}

/// How a peer that shows a chain finds out what others say of it: in JSON, a line each on standard output.
fn tell(line: &serde_json::Value) {
    println!("{line}");
}

/// What we say of a row in these ways; nothing where it is taken.
fn ours(row: &Row) -> serde_json::Value {
    let said = |mode| row.refused_by(mode);
    serde_json::json!({
        "file": said(Mode::File), "map": said(Mode::Map), "caller": said(Mode::Caller), "caller_map": said(Mode::CallerMap),
    })
}

/// Whether a caller takes the certificate that it is shown here.
async fn shown_to(stream: TcpStream, acceptor: &TlsAcceptor) -> io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    // By TLS 1.3 a caller may say no after the handshake only.
    stream.read_exact(&mut [0; 1]).await.map(drop)
}

/// Shows a row at this port to all who come, and tells what each of them says.
async fn show_at(listener: TcpListener, row: usize, config: Arc<ServerConfig>) {
    let acceptor = TlsAcceptor::from(config);
    while let Ok((stream, _)) = listener.accept().await {
        let said = or_silence(shown_to(stream, &acceptor)).await;
        tell(&serde_json::json!({"row": row, "taken": said.is_ok(), "said": said.err()}));
    }
}

/// What is said within 5 s.
async fn or_silence(says: impl Future<Output = io::Result<()>>) -> Result<(), String> {
    let said = timeout(PATIENCE, says).await;
    said.unwrap_or_else(|_| Err(io::Error::other("nothing for 5 s"))).map_err(|error| error.to_string())
}

/// Shows all rows to the server whose address comes by the control connection, and tells what it says of them.
async fn show_to_servers(control: TcpListener, pki: &Pki, rows: &[Row]) {
    while let Ok((mut stream, _)) = control.accept().await {
        let mut asked = String::new();
        stream.read_to_string(&mut asked).await.expect("an address");
        for (number, row) in rows.iter().enumerate() {
            let said = or_silence(dial(asked.trim(), shown(pki, row))).await;
            tell(&serde_json::json!({"row": number, "taken": said.is_ok(), "said": said.err()}));
        }
    }
}

/// A connection whose caller shows this chain, to any server, until that says whether it takes it.
async fn dial(address: &str, chain: Arc<CertifiedKey>) -> io::Result<()> {
    let mut config = ClientConfig::builder_with_provider(crypto())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(crypto())))
        .with_client_cert_resolver(Arc::new(Shows(chain)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    answered(config, address).await
}

/// Takes any server.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The other side of the suite `identity-hostile`, which tells what gRPC C-core and Envoy say of the same chains.
#[tokio::test]
#[ignore = "a peer for others, which runs until it is killed"]
async fn shows_each_row_to_whoever_comes() {
    let folder = std::path::PathBuf::from(std::env::var_os("HOSTILE_FOLDER").expect("HOSTILE_FOLDER"));
    let pki = Pki::new();
    let mut rows = pki.rows();
    rows.extend(pki.without_the_key());
    std::fs::write(folder.join("roots.pem"), pem(&pki.root)).expect("roots");
    std::fs::write(folder.join("partner.pem"), pem(&pki.partner_root)).expect("roots");
    let mut ports = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let mut config = ServerConfig::builder_with_provider(crypto())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Always(shown(&pki, row))));
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        ports.push(listener.local_addr().expect("an address").port());
        tokio::spawn(show_at(listener, number, Arc::new(config)));
    }
    let control = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let table: Vec<_> = rows
        .iter()
        .zip(&ports)
        .map(|(row, port)| serde_json::json!({"what": row.what, "port": port, "ours": ours(row)}))
        .collect();
    tell(&serde_json::json!({"rows": table, "control": control.local_addr().expect("an address").to_string()}));
    show_to_servers(control, &pki, &rows).await;
}

//! Peers that show hostile certificates and chains, over real sockets: the table that the verifier is tested by, through a
//! client's and a server's whole handshake.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use futures_util::future::join_all;
use mesh_core::identity::{KeyMaterial, TrustBundle};
use mesh_core::testing::{ControlPlane, Resources, cluster};
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use self::chains::{Mode, Pki, Row};
use crate::support::backend::Backend;
use crate::support::client::{Client, quick};
use crate::support::secured::{context as upstream, secured_by};
use crate::support::secured_server::{Site, context, secured};
use crate::support::tls::TlsFront;

#[path = "../mesh-core/src/tls/tests/chains.rs"]
mod chains;
#[path = "../mesh-core/src/tls/tests/forge.rs"]
mod forge;

fn crypto() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn base64(der: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(der)
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
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", base64(&pki.root));
    TrustBundle::from_pem(pem.as_bytes()).expect("roots")
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
    let stream = TcpStream::connect(site.address()).await?;
    let name = ServerName::try_from("server.test").expect("a name");
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
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

//! Keys and tokens are never printed: all that a mesh says of itself while it works and while it fails is looked through for
//! them, in each of the forms in which they could be there.

use std::fmt::Debug;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use mesh_core::identity::{FileWatcher, KeyMaterial};
use mesh_core::providers::IstioCa;
use mesh_core::server::ServerOptions;
use mesh_core::testing::Resources;
use mesh_core::{Bootstrap, Mesh, MeshStatus};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::jwt;
use crate::support::client::{Client, impatient, metadata, quick};
use crate::support::configured::Setting;
use crate::support::istio::{Answer, Istio};
use crate::support::jwt::{Issuer, now};
use crate::support::log::Log;
use crate::support::pki::{Authority, Issued, Mounted};
use crate::support::secured::{CLIENT, SERVER, Site, connections, context, fails_in_time, reported};

/// What must not be found, and what it is.
#[derive(Default)]
struct Secrets(Vec<(String, String)>);

impl Secrets {
    /// The form in which a secret may be written: any one of these.
    fn add(&mut self, what: &str, forms: impl IntoIterator<Item = String>) {
        self.0.extend(forms.into_iter().map(|form| (what.to_owned(), form)));
    }

    fn key(&mut self, what: &str, key: &Issued) {
        // A line in the middle of its PEM, and bytes in the middle of what is secret in it (RFC 5958, RFC 5915).
        let line = key.key.lines().nth(2).expect("a line of base64").to_owned();
        let middle = &key.key_der.secret_der()[44..60];
        self.bytes(what, middle);
        self.add(what, [line[4..28].to_owned()]);
    }

    fn bytes(&mut self, what: &str, bytes: &[u8]) {
        let hex = |separator| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(separator);
        let list = format!("{bytes:?}");
        let pretty = format!("{bytes:#?}").lines().map(str::trim).collect::<String>();
        let escaped = format!("{:?}", bytes::Bytes::copy_from_slice(bytes));
        let escaped = escaped[2..escaped.len() - 1].to_owned();
        // However it is aligned, the middle of the text is the same.
        let encoded = (0..3).map(|skip| {
            let text = URL_SAFE_NO_PAD.encode(&bytes[skip..]);
            text[..text.len() - 2].to_owned()
        });
        let encoded: Vec<String> = encoded.collect();
        let standard = encoded.iter().map(|text| text.replace('-', "+").replace('_', "/"));
        let all =
            [hex(""), hex(" "), hex(":"), hex("").to_uppercase(), list[1..list.len() - 1].to_owned(), pretty, escaped];
        self.add(what, all.into_iter().chain(standard));
        self.add(what, encoded);
    }

    fn token(&mut self, what: &str, token: &str) {
        let (signed, signature) = token.rsplit_once('.').expect("a token");
        let claims = signed.rsplit_once('.').expect("a token").1;
        self.add(what, [signature.to_owned(), claims.to_owned()]);
    }

    /// Which of them are in this text.
    fn found_in(&self, place: &str, text: &str) -> Vec<String> {
        // As a list may be written over several lines.
        let joined: String = text.lines().map(str::trim).collect();
        let is_there = |secret: &str| text.contains(secret) || joined.contains(secret);
        let found = self.0.iter().filter(|(_, secret)| is_there(secret));
        found.map(|(what, secret)| format!("{what}, as `{secret}`, is in {place}")).collect()
    }

    fn found_in_debug(&self, place: &str, value: &impl Debug) -> Vec<String> {
        [self.found_in(place, &format!("{value:?}")), self.found_in(place, &format!("{value:#?}"))].concat()
    }
}

#[test]
fn a_secret_is_found_in_whatever_form_it_is_printed() {
    let issued = Authority::new().svid(CLIENT);
    let mut secrets = Secrets::default();
    secrets.key("the key", &issued);
    secrets.token("the token", "e30.eyJhIjoxfQ.c2VjcmV0");
    let der = issued.key_der.secret_der();
    let hex: String = der.iter().map(|byte| format!("{byte:02x}")).collect();
    let url_safe = URL_SAFE_NO_PAD.encode(der);
    for said in
        [&*issued.key, &hex, &STANDARD.encode(der), &STANDARD.encode(&der[1..]), &STANDARD.encode(&der[2..]), &url_safe]
    {
        assert_ne!(secrets.found_in("a text", said), Vec::<String>::new(), "{said}");
    }
    assert_ne!(secrets.found_in_debug("bytes", &der), Vec::<String>::new());
    assert_ne!(secrets.found_in_debug("bytes", &bytes::Bytes::copy_from_slice(der)), Vec::<String>::new());
    assert_eq!(secrets.found_in("a certificate", &issued.chain), Vec::<String>::new());
    assert_ne!(secrets.found_in("a header", "authorization: Bearer e30.eyJhIjoxfQ.c2VjcmV0"), Vec::<String>::new());
}

/// All that a mesh says of itself.
fn said_by(secrets: &Secrets, mesh: &Mesh, target: &str) -> Vec<String> {
    let status: MeshStatus = mesh.status();
    let target = mesh.target(target).expect("a target");
    [
        secrets.found_in_debug("Debug of the mesh", mesh),
        secrets.found_in_debug("its status", &status),
        secrets.found_in_debug("what is in force", &mesh.in_force(&target)),
        secrets.found_in_debug("its target", &target),
        secrets.found_in_debug("its connections", &connections(mesh)),
        secrets.found_in_debug("what it ignores", &mesh.ignored_fields()),
    ]
    .concat()
}

#[tokio::test]
async fn s9_no_token_is_printed_whatever_works_or_fails() {
    let log = Log::of_everything();
    let mut secrets = Secrets::default();

    // Of callers, good and bad.
    let (joe, eve) = (Issuer::new("joe"), Issuer::new("joe"));
    let chain = jwt::chain(&jwt::filter(jwt::provider("joe", &joe), jwt::by("joe")));
    let it = Setting::start(chain, ServerOptions::new()).await;
    let (good, forged) = (joe.token(&json!({"sub": "alice"})), eve.token(&json!({"sub": "mallory"})));
    let expired = joe.token(&json!({"sub": "bob", "exp": now() - 600}));
    let mut found = Vec::new();
    for (token, is_good) in [(&good, true), (&forged, false), (&expired, false)] {
        secrets.token("a caller's token", token);
        let answer = it.client.hello_with(metadata(&[("authorization", &format!("Bearer {token}"))])).await;
        assert_eq!(answer.is_ok(), is_good, "{answer:?}");
        found.extend(secrets.found_in_debug("a call's answer", &answer));
        found.extend(secrets.found_in_debug("the server's mesh", &it.mesh));
        found.extend(secrets.found_in_debug("its status", &it.mesh.status()));
    }

    // For a control plane, and for a CA: one that refuses it, and one that ends the connection.
    let folder = TempDir::new().expect("a folder");
    let ca = Istio::start(Answer::Issue(CLIENT, Duration::from_secs(3600))).await;
    std::fs::write(folder.path().join("roots.pem"), ca.authority().pem()).expect("a file");
    std::fs::write(folder.path().join("token"), &good).expect("a file");
    let deaf = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = deaf.local_addr().expect("a bound listener").port();
    tokio::spawn(async move { while deaf.accept().await.is_ok() {} });
    let bootstrap = Bootstrap::builder(format!("localhost:{port}")).tls_with_roots(folder.path().join("roots.pem"));
    let bootstrap = bootstrap.jwt_token_file(folder.path().join("token")).build().expect("a bootstrap");
    found.extend(secrets.found_in_debug("Debug of the bootstrap", &bootstrap));
    let provider = |address: String| {
        let ca = IstioCa::new(address, CLIENT.parse().expect("an ID")).expect("an address");
        ca.server_name("istiod.istio-system.svc")
            .roots(folder.path().join("roots.pem"))
            .token(folder.path().join("token"))
    };
    found.extend(secrets.found_in_debug("Debug of the provider", &provider(ca.address())));
    let builder = impatient().bootstrap(bootstrap);
    let builder = builder.certificate_provider("default", provider(ca.address()));
    let builder = builder.certificate_provider("refused", provider(format!("localhost:{port}")));
    found.extend(secrets.found_in_debug("Debug of a builder", &builder));
    let mesh = builder.build().await.expect("a mesh");
    reported(&mesh, |provider| provider.generation == 1).await;
    reported(&mesh, |provider| provider.last_error.is_some()).await;
    let status = fails_in_time(&Client::new(&mesh, "xds:///greeter")).await;
    found.extend(secrets.found_in_debug("a call's status", &status));
    found.extend(said_by(&secrets, &mesh, "xds:///greeter"));
    assert!(!ca.requests().is_empty(), "the token was sent");
    mesh.shutdown().await;
    found.extend(secrets.found_in("the log", &log.text()));
    assert_eq!(found, Vec::<String>::new());
}

/// What code itself hands over is printed no more than the rest.
#[tokio::test]
async fn s9_no_key_that_code_hands_over_is_printed() {
    let log = Log::of_everything();
    let mut secrets = Secrets::default();
    let site = Site::mutual().await;
    site.ask(&context(&[SERVER]));
    let issued = site.authority.svid(CLIENT);
    secrets.key("the key", &issued);
    let material: KeyMaterial = site.material_of(&issued);
    let mesh = site.mesh(quick().certificate_provider("default", material)).await;
    site.control_plane.set(Resources::service("greeter", [site.front.address()]));
    site.ask(&context(&[SERVER]));
    assert_eq!(Client::new(&mesh, "xds:///greeter").recovers().await, "a");
    let mut found = said_by(&secrets, &mesh, "xds:///greeter");
    mesh.shutdown().await;
    found.extend(secrets.found_in("the log", &log.text()));
    assert_eq!(found, Vec::<String>::new());
}

/// Nor is what files hold, that can be read and that cannot.
#[tokio::test]
async fn s9_no_key_that_a_file_holds_is_printed() {
    let log = Log::of_everything();
    let mut secrets = Secrets::default();
    let site = Site::mutual().await;
    let issued = [(); 3].map(|()| site.authority.svid(CLIENT));
    issued.iter().for_each(|issued| secrets.key("the key", issued));
    let [first, second, third] = &issued;
    let mounted = Mounted::new(first, &site.authority.pem());
    let watcher = FileWatcher::new()
        .identity(mounted.file("tls.crt"), mounted.file("tls.key"))
        .roots(mounted.file("ca.crt"))
        .refresh_interval(Duration::from_millis(10));
    let mut found = secrets.found_in_debug("Debug of the provider", &watcher);
    let builder = quick().certificate_provider("default", watcher);
    found.extend(secrets.found_in_debug("Debug of a builder", &builder));
    let mesh = site.mesh(builder).await;
    site.control_plane.set(Resources::service("greeter", [site.front.address()]));
    site.ask(&context(&[SERVER]));
    assert_eq!(Client::new(&mesh, "xds:///greeter").recovers().await, "a");
    mounted.swap(second, &site.authority.pem());
    reported(&mesh, |provider| provider.generation == 2).await;
    // A key of another certificate, one that is cut, and one where the certificate should be.
    let cut = third.key[..third.key.len() / 2].to_owned();
    for (chain, key) in [(&third.chain, &first.key), (&third.chain, &cut), (&third.key, &third.key)] {
        let bad = Issued { chain: chain.clone(), key: key.clone(), ..site.authority.svid(CLIENT) };
        mounted.swap(&bad, &site.authority.pem());
        let status = reported(&mesh, |provider| provider.last_error.is_some()).await;
        found.extend(secrets.found_in_debug("the provider's status", &status));
        found.extend(said_by(&secrets, &mesh, "xds:///greeter"));
        mounted.swap(second, &site.authority.pem());
        reported(&mesh, |provider| provider.last_error.is_none()).await;
    }
    mesh.shutdown().await;
    assert!(log.lines_with("rustls::") > 0, "records of `log` are looked through, too");
    found.extend(secrets.found_in("the log", &log.text()));
    assert_eq!(found, Vec::<String>::new());
}

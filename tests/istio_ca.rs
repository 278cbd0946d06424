//! Certificates from Istio's CA, for a token and without an agent: `IstioCa`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_core::Mesh;
use mesh_core::providers::IstioCa;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use crate::support::client::{Client, impatient, quick};
use crate::support::clock::pass_times;
use crate::support::istio::{Answer, Istio};
use crate::support::pki::{Authority, uri};
use crate::support::relay::Relay;
use crate::support::secured::{CLIENT, SERVER, Site, context, reported, says_in_time};
use crate::support::timed::timed;
use crate::support::tls::server;

const HOUR: Duration = Duration::from_secs(3600);
const ISTIOD: &str = "istiod.istio-system.svc";

/// What a pod has: a token and the roots.
struct Pod {
    folder: TempDir,
}

impl Pod {
    fn new(authority: &Authority) -> Self {
        let pod = Self { folder: TempDir::new().expect("a folder") };
        pod.write("root-cert.pem", &authority.pem());
        pod.write("istio-token", &token(1));
        pod
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.file("new"), content).expect("a file");
        std::fs::rename(self.file("new"), self.file(name)).expect("a swap");
    }

    fn token(&self) -> String {
        std::fs::read_to_string(self.file("istio-token")).expect("a file")
    }

    fn provider(&self, address: impl Into<String>) -> IstioCa {
        let ca = IstioCa::new(address, CLIENT.parse().expect("an ID")).expect("an address");
        ca.server_name(ISTIOD).roots(self.file("root-cert.pem")).token(self.file("istio-token"))
    }
}

/// What becomes of a pod.
type Change = fn(&Pod);

/// A token that ends so many hours from now.
fn token(hours: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = serde_json::json!({"exp": now.saturating_add_signed(3600 * hours), "aud": ["istio-ca"]});
    format!("e30.{}.c2VjcmV0", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

async fn mesh(provider: IstioCa) -> Mesh {
    Mesh::builder().certificate_provider("default", provider).build().await.expect("a mesh")
}

async fn failure(mesh: &Mesh) -> String {
    let status = reported(mesh, |provider| provider.last_error.is_some()).await;
    status.last_error.expect("it failed").to_string()
}

#[tokio::test]
async fn a_token_and_the_roots_are_enough_for_a_certificate_that_peers_take() {
    let ca = Istio::start(Answer::Issue(CLIENT, HOUR)).await;
    let pod = Pod::new(ca.authority());
    let site = Site::with(Authority::new(), server(&ca.authority().svid(SERVER), Some(ca.authority()))).await;
    site.ask(&context(&[SERVER]));
    let provider = pod.provider(ca.address()).cluster_id("west").validity(2 * HOUR);
    let mesh = site.mesh(quick().certificate_provider("default", provider)).await;
    assert_eq!(Client::new(&mesh, "xds:///greeter").hello().await.unwrap(), "a");
    let status = reported(&mesh, |provider| provider.generation == 1).await;
    assert_eq!((&*status.kind, status.spiffe_id.unwrap().as_str()), ("istio_ca", CLIENT));
    assert_eq!(site.front.clients()[0].serial, status.serial);
    let [asked] = &ca.requests()[..] else { panic!("one request") };
    assert_eq!(asked.authorization, format!("Bearer {}", pod.token()));
    assert_eq!((&*asked.cluster_id, asked.validity), ("west", 7200));
    assert_eq!(asked.names, [uri(CLIENT)]);
}

#[tokio::test]
async fn s2_a_certificate_is_renewed_at_half_of_its_life_with_a_new_key_and_the_token_of_that_moment() {
    timed(async || {
        let ca = Istio::start(Answer::Issue(CLIENT, Duration::from_secs(4))).await;
        let pod = Pod::new(ca.authority());
        let mesh = mesh(pod.provider(ca.address())).await;
        let first = reported(&mesh, |provider| provider.generation == 1).await;
        let (before, after) = (pod.token(), token(2));
        pod.write("istio-token", &after);
        let second = reported(&mesh, |provider| provider.generation == 2).await;
        assert_ne!(first.serial, second.serial);
        assert!(first.expires.unwrap() > SystemTime::now(), "in time");
        let [one, two, ..] = &ca.requests()[..] else { panic!("two requests") };
        let between = two.at - one.at;
        assert!(between >= Duration::from_secs(1), "at most one request in a second: {between:?}");
        assert_eq!([&*one.authorization, &*two.authorization], [before, after].map(|token| format!("Bearer {token}")));
    })
    .await;
}

#[tokio::test]
async fn s1_a_ca_that_refuses_or_answers_garbage_is_named_with_what_to_do() {
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let check = "check the token in ";
    for (answer, problems) in [
        (Answer::Status(7, "no such account"), ["PERMISSION_DENIED: no such account; ", check]),
        (Answer::Status(16, "bad token"), ["UNAUTHENTICATED: bad token; ", check]),
        (Answer::Status(14, "starting"), ["UNAVAILABLE: starting; ", "check that istiod runs"]),
        (Answer::OtherKey, ["KeyMismatch", "no CA of Istio"]),
        (Answer::Chain(vec![]), ["the response has no certificate", "no CA of Istio"]),
        (Answer::Chain(vec![garbage, garbage]), ["read a certificate", "no CA of Istio"]),
        (Answer::Chain(vec!["", ""]), ["certificate chain cannot be used", "no CA of Istio"]),
    ] {
        let ca = Istio::start(answer.clone()).await;
        let pod = Pod::new(ca.authority());
        let mesh = mesh(pod.provider(ca.address())).await;
        let error = failure(&mesh).await;
        let at = format!("Istio CA at {}: ", ca.address());
        assert!(
            error.starts_with(&at) && problems.iter().all(|problem| error.contains(problem)),
            "{answer:?}: {error}"
        );
        if problems[1] == check {
            assert!(error.contains(&*pod.file("istio-token").display().to_string()), "{error}");
        }
        assert!(!error.contains(&pod.token()), "{error}");
    }
}

/// In the place of a file what never ends to be opened.
fn pipe(path: &std::path::Path) {
    std::fs::remove_file(path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[tokio::test]
async fn what_a_pod_lacks_is_named_and_nothing_is_asked() {
    let ca = Istio::start(Answer::Issue(CLIENT, HOUR)).await;
    let lacks: [(Change, &str); 8] = [
        (|pod| pipe(&pod.file("istio-token")), "istio-token: it is no regular file"),
        (|pod| pipe(&pod.file("root-cert.pem")), "it is no regular file"),
        (|pod| pod.write("istio-token", &"x".repeat(65_537)), "istio-token: it has more than 65536 bytes"),
        (|pod| std::fs::remove_file(pod.file("istio-token")).unwrap(), "istio-token: No such file"),
        (|pod| pod.write("istio-token", &token(-1)), "istio-token: it expired 3600 s ago; check the token in"),
        (|pod| pod.write("istio-token", "secret"), "istio-token: it is no JSON Web Token; check the token in"),
        (|pod| std::fs::remove_file(pod.file("root-cert.pem")).unwrap(), "No such file or directory"),
        (|pod| pod.write("root-cert.pem", &Authority::new().pem()), "invalid peer certificate"),
    ];
    for (change, problem) in lacks {
        let pod = Pod::new(ca.authority());
        change(&pod);
        let mesh = mesh(pod.provider(ca.address())).await;
        let error = failure(&mesh).await;
        assert!(error.contains(problem), "{problem}: {error}");
    }
    assert_eq!(ca.asked().get(), 0);
}

#[tokio::test]
async fn s1_the_last_certificate_stays_while_the_ca_refuses() {
    timed(async || {
        let ca = Istio::start(Answer::Issue(CLIENT, Duration::from_secs(2))).await;
        let pod = Pod::new(ca.authority());
        let mesh = mesh(pod.provider(ca.address())).await;
        reported(&mesh, |provider| provider.generation == 1).await;
        ca.say(Answer::Status(14, "restarting"));
        let status_then = reported(&mesh, |provider| provider.last_error.is_some()).await;
        assert_eq!((status_then.generation, status_then.spiffe_id.unwrap().as_str()), (1, CLIENT));
        ca.say(Answer::Issue(CLIENT, HOUR));
        let status = reported(&mesh, |provider| provider.generation == 2).await;
        assert_eq!(status.last_error, None);
    })
    .await;
}

/// Issuer outage to expiry. Certificates go by the time of day, and all else by a clock that runs ahead while the CA is
/// away: requests in vain become as rare as they get.
#[tokio::test]
async fn r09_calls_succeed_within_5_seconds_of_the_return_of_a_ca_that_was_away_beyond_the_certificates_end() {
    timed(async || {
        let ca = Istio::start(Answer::Issue(CLIENT, Duration::from_secs(2))).await;
        let network = Relay::start(ca.address().parse().expect("an address")).await;
        let pod = Pod::new(ca.authority());
        let site = Site::with(Authority::new(), server(&ca.authority().svid(SERVER), Some(ca.authority()))).await;
        site.ask(&context(&[SERVER]));
        let mesh =
            site.mesh(impatient().certificate_provider("default", pod.provider(network.address().to_string()))).await;
        let client = Client::new(&mesh, "xds:///greeter");
        assert_eq!(client.hello().await.unwrap(), "a");
        network.refuse(true);
        network.cut();
        let end = reported(&mesh, |provider| provider.generation == 1).await.expires.expect("a certificate");
        pass_times(50);
        while SystemTime::now() < end {
            sleep(Duration::from_secs(1)).await;
        }
        pass_times(1);
        let status = says_in_time(&client, "has an expired certificate: since 20").await;
        assert!(status.message().contains("last error, at 20"), "{status:?}");
        let in_vain = network.accepted();
        assert!(in_vain > 10, "it was asked {in_vain} times");

        ca.say(Answer::Issue(CLIENT, HOUR));
        let before = Instant::now();
        pass_times(4);
        network.refuse(false);
        assert_eq!(client.recovers().await, "a");
        assert!(before.elapsed() <= Duration::from_secs(5), "{:?}", before.elapsed());
        pass_times(1);
    })
    .await;
}

#[tokio::test]
async fn s9_the_token_is_never_sent_in_plaintext() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pod = Pod::new(&Authority::new());
    let mesh = mesh(pod.provider(listener.local_addr().unwrap().to_string())).await;
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut first = [0; 1];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(first, [22], "a handshake of TLS");
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let error = failure(&mesh).await;
    assert!(error.contains("the server does not speak TLS"), "{error}");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(!rest.windows(6).any(|bytes| bytes == b"Bearer"));
}

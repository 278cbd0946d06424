//! Keys that issuers of tokens publish (`remote_jwks` of `jwt_authn`): fetched through a cluster, over TLS and HTTP/2.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use mesh_core::Mesh;
use mesh_core::identity::KeyMaterial;
use mesh_core::server::{RequestBody, ServerOptions};
use mesh_core::testing::{FilterChainBuilder, cluster, endpoints, server_listener};
use mesh_xds_proto::envoy::config::core::v3::HttpUri;
use mesh_xds_proto::envoy::config::core::v3::http_uri::HttpUpstreamType;
use mesh_xds_proto::envoy::extensions::filters::http::jwt_authn::v3 as pb;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context as common;
use parking_lot::Mutex;
use pb::jwt_provider::JwksSourceSpecifier;
use pb::jwt_requirement::RequiresType;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::{Code, Status};
use tower::service_fn;

use crate::jwt::{by, chain, filter, provider};
use crate::open_streams::{Chat, ending};
use crate::support::client::{metadata, quick};
use crate::support::configured::Setting;
use crate::support::jwt::Issuer;
use crate::support::log::Log;
use crate::support::network::ClosedPort;
use crate::support::pki::{Authority, uri};
use crate::support::rbac as support_rbac;
use crate::support::secured_server::{SERVER, roots, socket};
use crate::support::tls::{TlsFront, server};
use crate::support::{Counter, in_time};

const FAILED: &str = "Jwks remote fetch is failed";
const UNKNOWN: &str = "no key is known for the token";
const KEYS: &str = "https://issuer.test/keys?of=joe";

/// What an issuer answers.
#[derive(Clone)]
enum Answer {
    Keys(String),
    Status(u16),
    Redirect,
    /// Nothing, while it stays so.
    Silence,
}

/// The server of an issuer, behind TLS.
struct Publisher {
    answer: watch::Sender<Answer>,
    fetches: Counter,
    /// The requests that came, in words.
    seen: Arc<Mutex<Vec<String>>>,
    authority: Authority,
    front: TlsFront,
    /// Without TLS.
    plain: SocketAddr,
}

impl Publisher {
    async fn start(answer: Answer) -> Self {
        let (answer, answers) = watch::channel(answer);
        let (fetches, seen) = (Counter::new(), Arc::new(Mutex::new(Vec::new())));
        let service = {
            let (fetches, seen) = (fetches.clone(), seen.clone());
            service_fn(move |request: http::Request<RequestBody>| {
                let (fetches, seen, mut answers) = (fetches.clone(), seen.clone(), answers.clone());
                async move {
                    let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
                    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
                    seen.lock().push(format!("{} {authority}{path}", request.method()));
                    fetches.add(1);
                    let answer = answers.wait_for(|answer| !matches!(answer, Answer::Silence)).await;
                    let answer = answer.expect("the test runs").clone();
                    let response = http::Response::builder();
                    let response = match answer {
                        Answer::Keys(set) => response.body(Full::from(set)),
                        Answer::Redirect => response.status(302).header("location", "/elsewhere").body(Full::default()),
                        Answer::Status(status) => response.status(status).body(Full::default()),
                        Answer::Silence => unreachable!("it was waited out"),
                    };
                    Ok::<http::Response<Full<Bytes>>, Infallible>(response.expect("a response"))
                }
            })
        };
        let mesh = Mesh::builder().build().await.expect("a mesh");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let plain = listener.local_addr().expect("a bound listener");
        tokio::spawn(async move { mesh.server().serve(listener, service, std::future::pending::<()>()).await });
        let authority = Authority::new();
        let front = TlsFront::start(plain, server(&authority.issue(&[uri(SERVER)], |_| {}), None)).await;
        Self { answer, fetches, seen, authority, front, plain }
    }

    fn answers(&self, answer: Answer) {
        self.answer.send_replace(answer);
    }

    fn publishes(&self, keys: &Issuer) {
        self.answers(Answer::Keys(keys.set()));
    }

    /// Waits until it was asked so many times more.
    async fn fetched_again(&self, times: u64) {
        let wanted = self.fetches.get() + times;
        self.fetches.wait_for("the keys are fetched again", |fetches| *fetches >= wanted).await;
    }
}

/// Fetched again soon after a failure.
fn remote() -> pb::RemoteJwks {
    let http_uri = HttpUri {
        uri: KEYS.into(),
        timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        http_upstream_type: Some(HttpUpstreamType::Cluster("issuer".into())),
    };
    let failed_refetch_duration = Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 });
    let async_fetch = Some(pb::JwksAsyncFetch { failed_refetch_duration, ..Default::default() });
    pb::RemoteJwks { http_uri: Some(http_uri), async_fetch, ..Default::default() }
}

fn within(seconds: i64, nanos: i32) -> pb::RemoteJwks {
    let mut remote = remote();
    remote.http_uri.as_mut().expect("it has one").timeout = Some(prost_types::Duration { seconds, nanos });
    remote
}

fn of_remote(remote: pb::RemoteJwks) -> pb::JwtProvider {
    let source = Some(JwksSourceSpecifier::RemoteJwks(remote));
    pb::JwtProvider { jwks_source_specifier: source, ..provider("joe", &Issuer::new("nobody")) }
}

fn asking(remote: pb::RemoteJwks) -> FilterChainBuilder {
    chain(&filter(of_remote(remote), by("joe")))
}

/// A server whose calls all need a token, and none will do.
async fn closed(publisher: &Publisher, options: ServerOptions) -> Setting {
    let material = KeyMaterial::new().trust(publisher.authority.trust());
    let nobody = chain(&filter(provider("nobody", &Issuer::new("nobody")), by("joe")));
    let it = Setting::start_in(quick().certificate_provider("default", material), nobody, options).await;
    is_at(&it, publisher.front.address());
    it
}

/// Where the cluster of the issuer is.
fn is_at(it: &Setting, address: SocketAddr) {
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            validation_context_type: Some(common::ValidationContextType::ValidationContext(roots())),
            ..Default::default()
        }),
        ..Default::default()
    };
    it.control_plane.put(cluster("issuer").modify(|cluster| cluster.transport_socket = Some(socket(&context))));
    it.control_plane.put(endpoints("issuer").all([address]));
}

async fn start(publisher: &Publisher, remote: pb::RemoteJwks) -> Setting {
    let it = closed(publisher, ServerOptions::new()).await;
    it.changes_to(asking(remote)).await;
    it
}

async fn call(it: &Setting, token: &str) -> Result<String, (Code, String)> {
    let told = it.client.hello_with(metadata(&[("authorization", &format!("Bearer {token}"))])).await;
    told.map_err(|status: Status| (status.code(), status.message().to_owned()))
}

/// Calls until a call ends so.
async fn ends(it: &Setting, token: &str, wanted: Result<(), &str>) {
    let what = format!("calls end with {wanted:?}");
    in_time(&what, async {
        while call(it, token).await.as_ref().map(drop).map_err(|(_, told)| told.as_str()) != wanted {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn refused(text: &str) -> Result<String, (Code, String)> {
    Err((Code::Unauthenticated, text.to_owned()))
}

#[tokio::test]
async fn s15_keys_come_over_tls_from_the_cluster_that_is_named_and_are_fetched_once_for_all_calls() {
    let joe = Issuer::new("joe");
    let publisher = Publisher::start(Answer::Keys(joe.set())).await;
    let it = start(&publisher, remote()).await;
    let token = joe.token(&json!({}));
    ends(&it, &token, Ok(())).await;
    for _ in 0..20 {
        call(&it, &token).await.expect("a good token");
    }
    let forged = Issuer::new("joe").token(&json!({}));
    assert_eq!(call(&it, &forged).await, refused("the token's signature is wrong"));
    assert_eq!(*publisher.seen.lock(), ["GET issuer.test/keys?of=joe"]);
    assert_eq!(publisher.front.accepted(), 1);
}

#[tokio::test]
async fn s15_a_key_that_is_not_known_has_the_set_fetched_again_and_only_once_in_a_while() {
    let (joe, jim, eve) = (Issuer::new("joe"), Issuer::new("jim"), Issuer::new("eve"));
    let publisher = Publisher::start(Answer::Keys(joe.set())).await;
    let it = start(&publisher, remote()).await;
    ends(&it, &joe.token(&json!({})), Ok(())).await;
    // Its issuer's next key: the first call with it waits for the set, and is served.
    publisher.publishes(&jim);
    call(&it, &jim.token(&json!({"iss": "joe"}))).await.expect("the new key's");
    assert_eq!(publisher.fetches.get(), 2);
    assert_eq!(call(&it, &joe.token(&json!({}))).await, refused(UNKNOWN), "its key was taken back");
    for _ in 0..50 {
        assert_eq!(call(&it, &eve.token(&json!({"iss": "joe"}))).await, refused(UNKNOWN));
    }
    assert_eq!(publisher.fetches.get(), 2, "who makes tokens up does not have the issuer asked");
    call(&it, &jim.token(&json!({"iss": "joe"}))).await.expect("a good token");
}

#[tokio::test]
async fn s15_calls_wait_for_the_first_keys_within_their_own_time() {
    let joe = Issuer::new("joe");
    let publisher = Publisher::start(Answer::Silence).await;
    let mut remote = remote();
    remote.async_fetch.as_mut().expect("it has one").fast_listener = true;
    let it = start(&publisher, remote).await;
    let token = joe.token(&json!({}));
    publisher.fetches.wait_for("the keys are asked for", |fetches| *fetches == 1).await;
    let bearer = format!("Bearer {token}");
    let mut request = tonic::Request::new(mesh_examples::helloworld::HelloRequest::default());
    *request.metadata_mut() = metadata(&[("authorization", &bearer)]);
    request.set_timeout(Duration::from_millis(50));
    let late = it.client.greeter().say_hello(request).await.expect_err("there are no keys");
    assert_eq!(late.code(), Code::DeadlineExceeded);
    let waiting = {
        let (client, bearer) = (it.client.clone(), bearer.clone());
        tokio::spawn(async move { client.hello_with(metadata(&[("authorization", &bearer)])).await })
    };
    it.server.wait_for("a call that waits", |status| status.in_flight > 0).await;
    publisher.publishes(&joe);
    assert_eq!(waiting.await.expect("no panic").expect("a good token"), "a");
    assert_eq!((publisher.fetches.get(), it.greeter.calls()), (1, 1));
}

/// Whoever could pass without a token passes with what its token says, or not at all.
#[tokio::test]
async fn s15_a_call_that_needs_no_token_waits_for_the_keys_of_the_one_that_it_has() {
    let joe = Issuer::new("joe");
    let publisher = Publisher::start(Answer::Silence).await;
    let claim = pb::JwtClaimToHeader { header_name: "x-sub".into(), claim_name: "sub".into(), ..Default::default() };
    let mut remote = remote();
    remote.async_fetch.as_mut().expect("it has one").fast_listener = true;
    let provider = pb::JwtProvider { claim_to_headers: vec![claim], ..of_remote(remote) };
    let lenient = pb::JwtRequirement { requires_type: Some(RequiresType::AllowMissingOrFailed(())) };
    let it = closed(&publisher, ServerOptions::new()).await;
    it.changes_to(chain(&filter(provider, lenient))).await;
    publisher.fetches.wait_for("the keys are asked for", |fetches| *fetches == 1).await;
    let waiting = {
        let bearer = format!("Bearer {}", joe.token(&json!({"sub": "alice"})));
        let client = it.client.clone();
        tokio::spawn(async move { client.hello_with(metadata(&[("authorization", &bearer)])).await })
    };
    it.server.wait_for("a call that waits", |status| status.in_flight > 0).await;
    it.client.hello().await.expect("one without a token waits for nothing");
    publisher.publishes(&joe);
    waiting.await.expect("no panic").expect("it is let through");
    let [without, with] = it.greeter.seen().try_into().expect("two calls");
    assert!(!without.metadata.contains_key("x-sub"));
    assert_eq!(with.metadata.get("x-sub").expect("it was verified"), "alice");
}

/// A rule is for half of the calls: those that wait at it for keys are not asked by chance again.
#[tokio::test]
async fn s15_what_chance_said_of_a_call_that_waits_for_keys_stays() {
    let (joe, eve) = (Issuer::new("joe"), Issuer::new("eve"));
    let publisher = Publisher::start(Answer::Silence).await;
    let mut remote = remote();
    remote.async_fetch.as_mut().expect("it has one").fast_listener = true;
    let mut config = filter(of_remote(remote), by("joe"));
    let condition = config.rules[0].r#match.as_mut().expect("it has one");
    condition.runtime_fraction = Some(crate::composite::share(50));
    let it = closed(&publisher, ServerOptions::new()).await;
    it.control_plane.put(server_listener(it.server.address()).chains([chain(&config)]));
    publisher.fetches.wait_for("the keys are asked for", |fetches| *fetches == 1).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..180 {
        let bearer = format!("Bearer {}", joe.token(&json!({})));
        let client = it.client.clone();
        calls.spawn(async move { client.hello_with(metadata(&[("authorization", &bearer)])).await.is_ok() });
    }
    it.server.wait_for("calls that wait", |status| status.in_flight > 60).await;
    publisher.publishes(&eve);
    let passed = calls.join_all().await.into_iter().filter(|passed| *passed).count();
    // Four standard deviations; by chance twice some 135 would pass.
    assert!((63..=117).contains(&passed), "{passed} of 180");
}

#[tokio::test]
async fn s15_without_keys_no_call_is_served_until_the_issuer_comes_back() {
    let joe = Issuer::new("joe");
    let log = Log::of_warnings();
    let publisher = Publisher::start(Answer::Keys(joe.set())).await;
    let nobody = ClosedPort::new();
    let it = closed(&publisher, ServerOptions::new()).await;
    is_at(&it, nobody.address());
    it.changes_to(asking(remote())).await;
    let token = joe.token(&json!({}));
    ends(&it, &token, Err(FAILED)).await;
    assert_eq!(call(&it, &token).await, refused(FAILED));
    assert!(it.server.status().last_refused_call.expect("one was").contains(FAILED));
    assert!(log.text().contains("the key set of an issuer cannot be fetched"), "{}", log.text());
    assert_eq!(it.greeter.calls(), 0);
    is_at(&it, publisher.front.address());
    ends(&it, &token, Ok(())).await;
}

#[tokio::test]
async fn s15_what_is_no_set_is_not_taken_and_the_last_good_one_stays() {
    let joe = Issuer::new("joe");
    let log = Log::of_warnings();
    let padding = " ".repeat(1024 * 1024);
    let cases = [
        (Answer::Keys("junk".into()), "the set is no JSON object"),
        (Answer::Keys(json!({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}).to_string()), "has no key that is supported"),
        (Answer::Keys(format!("{}{padding}", joe.set())), "the set is longer than 1048576 bytes"),
        (Answer::Redirect, "302 Found, and no redirect is followed"),
        (Answer::Status(503), "503 Service Unavailable"),
        (Answer::Silence, "there is no answer within 500ms"),
    ];
    let (joe, log) = (&joe, &log);
    join_all(cases.map(|(bad, why)| async move {
        let publisher = Publisher::start(bad.clone()).await;
        let cache_duration = Some(prost_types::Duration { seconds: 1, nanos: 0 });
        // On a busy machine what is too long takes its time.
        let remote = if matches!(bad, Answer::Silence) { within(0, 500_000_000) } else { remote() };
        let it = start(&publisher, pb::RemoteJwks { cache_duration, ..remote }).await;
        let token = joe.token(&json!({}));
        ends(&it, &token, Err(FAILED)).await;
        assert!(log.text().contains(why), "{why}: {}", log.text());
        publisher.publishes(joe);
        ends(&it, &token, Ok(())).await;
        publisher.answers(bad);
        // When the second of these comes, the first was not taken.
        publisher.fetched_again(2).await;
        call(&it, &token).await.expect("the last good keys");
        let asked = publisher.seen.lock();
        assert!(asked.iter().all(|request| request == "GET issuer.test/keys?of=joe"), "{asked:?}");
    }))
    .await;
}

#[tokio::test]
async fn s15_a_set_that_comes_in_plaintext_is_not_taken() {
    let joe = Issuer::new("joe");
    let log = Log::of_warnings();
    let publisher = Publisher::start(Answer::Keys(joe.set())).await;
    let it = closed(&publisher, ServerOptions::new()).await;
    it.control_plane.put(cluster("issuer"));
    it.control_plane.put(endpoints("issuer").all([publisher.plain]));
    it.changes_to(asking(remote())).await;
    ends(&it, &joe.token(&json!({})), Err(FAILED)).await;
    assert!(log.text().contains("it came in plaintext: cluster `issuer` has no TLS context"), "{}", log.text());
    assert_eq!(call(&it, &joe.token(&json!({}))).await, refused(FAILED));
}

#[tokio::test]
async fn s15_keys_stay_when_the_listener_changes_and_filters_that_name_the_same_share_them() {
    let joe = Issuer::new("joe");
    let publisher = Publisher::start(Answer::Keys(joe.set())).await;
    let it = start(&publisher, remote()).await;
    let token = joe.token(&json!({"aud": "a"}));
    ends(&it, &token, Ok(())).await;
    publisher.answers(Answer::Status(503));
    let other = pb::JwtProvider { audiences: vec!["b".into()], ..of_remote(remote()) };
    it.changes_to(chain(&filter(other, by("joe")))).await;
    ends(&it, &token, Err("the token is for another audience")).await;
    call(&it, &joe.token(&json!({"aud": "b"}))).await.expect("the same keys");
    assert_eq!(publisher.fetches.get(), 1);
}

#[tokio::test]
async fn s11_a_listener_waits_for_its_first_keys_so_that_open_streams_are_judged_by_them() {
    let joe = Issuer::new("joe");
    let publisher = Publisher::start(Answer::Silence).await;
    let it = closed(&publisher, ending()).await;
    let local = chain(&filter(provider("joe", &joe), by("joe")));
    it.changes_to(local).await;
    let bearer = format!("Bearer {}", joe.token(&json!({})));
    ends(&it, &joe.token(&json!({})), Ok(())).await;
    let mut chat = Chat::open_by(&it.client, &[("authorization", &bearer)]).await;
    let mut marked = Chat::open_by(&it.client, &[("authorization", &bearer), ("x-mark", "yes")]).await;
    let deny_marked = support_rbac::deny([support_rbac::with_header("x-mark", "yes")]);
    it.control_plane.put(server_listener(it.server.address()).chains([asking(remote()).filter("marks", &deny_marked)]));
    let waits = |status: &mesh_core::ServerStatus| {
        status.waiting_for.as_ref().is_some_and(|what| what.contains("the keys of issuers"))
    };
    it.server.wait_for("a listener that waits", waits).await;
    marked.goes_on().await;
    publisher.publishes(&joe);
    assert_eq!(marked.end().await.code(), Code::PermissionDenied);
    chat.goes_on().await;
    assert_eq!(it.server.status().waiting_for, None);
}

#[tokio::test]
async fn s15_what_names_no_set_is_refused_by_field() {
    let publisher = Publisher::start(Answer::Silence).await;
    let it = closed(&publisher, ServerOptions::new()).await;
    let with_uri = |change: &dyn Fn(&mut HttpUri)| {
        let mut remote = remote();
        change(remote.http_uri.as_mut().expect("it has one"));
        remote
    };
    for (bad, says) in [
        (pb::RemoteJwks { http_uri: None, ..remote() }, "http_uri: must be set"),
        (with_uri(&|uri| uri.uri = "http://issuer.test/keys".into()), "http_uri.uri: must be an `https` URI"),
        (with_uri(&|uri| uri.uri = "https://joe:secret@issuer.test/".into()), "http_uri.uri: must be an `https` URI"),
        (with_uri(&|uri| uri.uri = "/keys".into()), "http_uri.uri: must be an `https` URI"),
        (with_uri(&|uri| uri.http_upstream_type = None), "http_uri.cluster: must be set"),
        (within(-1, 0), "http_uri.timeout: "),
    ] {
        it.control_plane.put(server_listener(it.server.address()).chains([asking(bad)]));
        let nack = it.control_plane.next_nack().await.error.expect("a NACK says why").1;
        assert!(nack.contains(&format!("providers[joe].remote_jwks.{says}")), "{says}: {nack}");
    }
    assert_eq!(publisher.fetches.get(), 0);
}

//! TLS and mTLS to endpoints, as the cluster asks (A29, A82, A87, A101).

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use mesh_core::balance::BalanceOptions;
use mesh_core::identity::{FileWatcher, KeyMaterial, TrustBundle};
use mesh_core::testing::{Resources, cluster, endpoints, locality};
use mesh_core::{CallInfo, MeshBuilder};
use mesh_examples::helloworld::HelloRequest;
use mesh_xds_proto::envoy::config::cluster::v3::{Cluster, OutlierDetection};
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context as common;
use rcgen::SanType;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tonic::Code;

use crate::support::client::{Client, SOON, assert_says, impatient, quick};
use crate::support::frames::{FrameServer, NO_ERROR};
use crate::support::pki::{Authority, Issued, Mounted, dns, uri};
use crate::support::secured::{
    CLIENT, SERVER, Site, connections, context, fails_in_time, instance, says_in_time, secured_by, told, validation,
};
use crate::support::tls::{TlsFront, server};
use crate::support::witness::witness;
use crate::support::{PATIENCE, in_time};

#[tokio::test]
async fn both_sides_prove_who_they_are_and_the_status_says_so() {
    let site = Site::mutual().await;
    let issued = site.authority.svid(CLIENT);
    let mounted = Mounted::new(&issued, &site.authority.pem());
    let files =
        FileWatcher::new().identity(mounted.file("tls.crt"), mounted.file("tls.key")).roots(mounted.file("ca.crt"));
    site.ask(&context(&["spiffe://other/x", SERVER]));
    let mesh = site.mesh(quick().certificate_provider("default", files)).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let reply = client.greeter().say_hello(HelloRequest::default()).await.unwrap();
    let info = reply.extensions().get::<CallInfo>().unwrap();
    assert_eq!(info.peer().unwrap().spiffe_id.as_ref().unwrap().as_str(), SERVER);
    assert_eq!(site.front.clients()[0].serial, Some(issued.serial.clone()));
    let [connection] = &connections(&mesh)[..] else { panic!("one connection") };
    assert_eq!(connection.protocol, "TLSv1.3");
    assert_eq!(connection.peer.spiffe_id.as_ref().unwrap().as_str(), SERVER);
    let identity = connection.identity.as_ref().unwrap();
    assert_eq!(identity.spiffe_id().unwrap().as_str(), CLIENT);
    assert_eq!(connection.expires(), identity.not_after().min(connection.peer.not_after));
    assert_eq!(mesh.status().ignored_fields, []);
}

#[tokio::test]
async fn the_older_fields_that_istio_sends_mean_the_same() {
    let site = Site::mutual().await;
    let older = || common::CertificateProviderInstance { instance_name: "default".into(), ..Default::default() };
    let mut asked = context(&[SERVER]);
    let mut names = validation(&mut asked).clone();
    names.ca_certificate_provider_instance = None;
    let combined = common::CombinedCertificateValidationContext {
        default_validation_context: Some(names),
        validation_context_certificate_provider_instance: Some(older()),
        ..Default::default()
    };
    let both = asked.common_tls_context.as_mut().unwrap();
    both.tls_certificate_provider_instance = None;
    both.tls_certificate_certificate_provider_instance = Some(older());
    both.validation_context_type = Some(common::ValidationContextType::CombinedValidationContext(combined));
    site.ask(&asked);
    let mesh = site.mesh(quick().certificate_provider("default", site.material())).await;
    assert_eq!(Client::new(&mesh, "xds:///greeter").hello().await.unwrap(), "a");
    assert!(site.front.clients()[0].serial.is_some());
}

/// The provider of the own certificate has no roots, and that of the roots no certificate.
#[tokio::test]
async fn roots_may_come_from_another_provider_than_the_own_certificate_and_what_becomes_of_them_is_acted_on() {
    let site = Site::mutual().await;
    let mut asked = context(&[SERVER]);
    let roots = tls::CertificateProviderPluginInstance { instance_name: "roots".into(), ..instance() };
    validation(&mut asked).ca_certificate_provider_instance = Some(roots);
    site.ask(&asked);
    let own = site.authority.svid(CLIENT);
    let identity = KeyMaterial::new().identity(own.identity());
    let (tell, told) = told();
    let trusting = |authority: &Authority| Some(Ok(KeyMaterial::new().trust(authority.trust())));
    tell.send_replace(trusting(&site.authority));
    let builder = impatient().certificate_provider("default", identity).certificate_provider("roots", told);
    let mesh = site.mesh(builder).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    assert_eq!(site.front.clients()[0].serial.as_ref(), Some(&own.serial));

    let other = Authority::new();
    tell.send_replace(trusting(&other));
    fails_in_time(&client).await;
    let calls = site.backend.calls();
    assert!(client.hello().await.is_err());
    assert_eq!(site.backend.calls(), calls);
    // The new authority vouches for the server from now on.
    site.front.configure(server(&other.svid(SERVER), Some(&site.authority)));
    assert_eq!(client.recovers().await, "a");
    // Of the roots alone no certificate can be shown, and from the other no roots are taken.
    asked.common_tls_context.as_mut().unwrap().tls_certificate_provider_instance =
        Some(tls::CertificateProviderPluginInstance { instance_name: "roots".into(), ..instance() });
    site.ask(&asked);
    says_in_time(&client, "certificate provider `roots` (told) has roots alone, and no certificate").await;
    validation(&mut asked).ca_certificate_provider_instance = Some(instance());
    asked.common_tls_context.as_mut().unwrap().tls_certificate_provider_instance = Some(instance());
    site.ask(&asked);
    says_in_time(&client, "certificate provider `default` (fixed) has a certificate alone, and no roots").await;
}

#[tokio::test]
async fn a_peer_that_the_cluster_does_not_name_is_refused() {
    let site = Site::mutual().await;
    site.ask(&context(&["spiffe://cluster.local/ns/shop/sa/other"]));
    let mesh = site.mesh(impatient().certificate_provider("default", site.material())).await;
    let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_says(&status, &["the cluster asks for another peer", SERVER]);

    // Nor is one whom another authority vouches for.
    let stranger = Authority::new();
    site.front.configure(server(&stranger.svid(SERVER), None));
    site.ask(&context(&[SERVER]));
    let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
    // The authorities have the same name, but not the same key.
    assert_says(&status, &["TLS", "invalid peer certificate: BadSignature"]);
    assert_eq!(site.backend.calls(), 0);
}

#[tokio::test]
async fn s1_a_missing_or_expired_certificate_means_no_connection_and_the_call_says_why() {
    let site = Site::mutual().await;
    site.ask(&context(&[SERVER]));
    let (tell, told) = told();
    tell.send_replace(Some(Err("the vault is sealed".into())));
    let mesh = site.mesh(impatient().certificate_provider("default", told)).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let status = client.hello().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_says(&status, &["certificate provider `default` (told) has no key material", "the vault is sealed"]);

    let expired = site.authority.issue(&[uri(CLIENT)], |params| {
        params.not_after = (std::time::SystemTime::now() - Duration::from_secs(5)).into();
    });
    let material = KeyMaterial::new().identity(expired.identity()).trust(site.authority.trust());
    tell.send_replace(Some(Ok(material)));
    let says = says_in_time(&client, "has an expired certificate: since 20").await;
    assert_says(&says, &["certificate provider `default` (told)", "it reports no error"]);

    tell.send_replace(Some(Ok(KeyMaterial::new().trust(site.authority.trust()))));
    says_in_time(&client, "has roots alone, and no certificate").await;
    assert_eq!(site.front.accepted(), 0, "not one connection was opened");

    tell.send_replace(Some(Ok(site.material())));
    assert_eq!(client.recovers().await, "a");
}

#[tokio::test]
async fn a_call_waits_for_the_first_certificate_and_is_made_with_it() {
    let site = Site::mutual().await;
    site.ask(&context(&[SERVER]));
    let (tell, told) = told();
    let mesh = site.mesh(quick().certificate_provider("default", told)).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let call = tokio::spawn(async move { client.hello().await });
    tokio::task::yield_now().await;
    tell.send_replace(Some(Ok(site.material())));
    assert_eq!(call.await.unwrap().unwrap(), "a");
}

/// A mesh that tries again only after a minute, unless it is given reason.
fn patient() -> MeshBuilder {
    let minute = Duration::from_secs(60);
    quick().balance(BalanceOptions::new().backoff(minute, minute).max_wait(SOON))
}

#[tokio::test]
async fn s1_a_provider_that_says_nothing_is_named_and_its_first_certificate_is_used_at_once() {
    let site = Site::mutual().await;
    site.ask(&context(&[SERVER]));
    let (tell, told) = told();
    let mesh = site.mesh(patient().certificate_provider("default", told)).await;
    let client = Client::new(&mesh, "xds:///greeter");
    says_in_time(&client, "certificate provider `default` (told) has no key material yet").await;
    tell.send_replace(Some(Err("the vault is sealed".into())));
    says_in_time(&client, "the vault is sealed").await;
    assert_eq!(site.front.accepted(), 0);
    let published = Instant::now();
    tell.send_replace(Some(Ok(site.material())));
    assert_eq!(client.recovers().await, "a");
    assert!(published.elapsed() < Duration::from_secs(30), "it was not waited for the next attempt");
}

#[tokio::test]
async fn s1_that_a_certificate_is_missing_is_no_failure_of_the_endpoint() {
    let site = Site::mutual().await;
    site.ask(&context(&[SERVER]));
    let detection = OutlierDetection {
        consecutive_gateway_failure: Some(1),
        enforcing_consecutive_gateway_failure: Some(100),
        max_ejection_percent: Some(100),
        base_ejection_time: Some(prost_types::Duration { seconds: 300, nanos: 0 }),
        ..Default::default()
    };
    site.control_plane.modify::<Cluster>("greeter", |cluster| cluster.outlier_detection = Some(detection));
    let (tell, told) = told();
    tell.send_replace(Some(Err("the vault is sealed".into())));
    let mesh = site.mesh(patient().certificate_provider("default", told)).await;
    let client = Client::new(&mesh, "xds:///greeter");
    says_in_time(&client, "the vault is sealed").await;
    tell.send_replace(Some(Ok(site.material())));
    assert_eq!(client.recovers().await, "a");
}

#[tokio::test]
async fn what_was_refused_is_tried_again_when_the_provider_has_newer() {
    let site = Site::mutual().await;
    site.ask(&context(&[SERVER]));
    let (tell, told) = told();
    let others = KeyMaterial::new().identity(site.authority.svid(CLIENT).identity()).trust(Authority::new().trust());
    tell.send_replace(Some(Ok(others)));
    let mesh = site.mesh(patient().certificate_provider("default", told)).await;
    let client = Client::new(&mesh, "xds:///greeter");
    says_in_time(&client, "invalid peer certificate").await;
    tell.send_replace(Some(Ok(site.material())));
    assert_eq!(client.recovers().await, "a");
}

#[tokio::test]
async fn s6_a_peer_that_claims_spiffe_is_an_svid_even_if_the_roots_are_of_no_trust_domain() {
    let authority = Authority::new();
    let two = [uri("spiffe://cluster.local/a"), uri("https://x")];
    let site = Site::with(authority, server(&Authority::new().svid(SERVER), None)).await;
    let show = |names: &[SanType]| site.front.configure(server(&site.authority.issue(names, |_| {}), None));
    show(&two);
    let mut asked = context(&["spiffe://cluster.local/a"]);
    asked.common_tls_context.as_mut().unwrap().tls_certificate_provider_instance = None;
    site.ask(&asked);
    let roots = KeyMaterial::new().trust(site.authority.trust());
    let mesh = site.mesh(impatient().certificate_provider("default", roots)).await;
    let client = Client::new(&mesh, "xds:///greeter");
    says_in_time(&client, "the certificate has 2 URIs, an SVID has one").await;
    // The one name that was asked for is the peer's; whether its trust domain is the roots' nobody said.
    show(&two[..1]);
    assert_eq!(client.recovers().await, "a");
    assert_eq!(connections(&mesh)[0].peer.spiffe_id, None);
    assert_eq!(connections(&mesh)[0].peer.uris[..], ["spiffe://cluster.local/a"]);
}

#[tokio::test]
async fn an_address_that_is_asked_for_must_be_the_peers() {
    let authority = Authority::new();
    let ip = |text: &str| SanType::IpAddress(text.parse().unwrap());
    let config = server(&authority.issue(&[ip("10.0.0.1")], |_| {}), None);
    let site = Site::with(authority, config).await;
    let mut asked = context(&[]);
    asked.common_tls_context.as_mut().unwrap().tls_certificate_provider_instance = None;
    (asked.auto_host_sni, asked.auto_sni_san_validation) = (true, true);
    site.known_as("10.0.0.1");
    site.ask(&asked);
    let roots = KeyMaterial::new().trust(site.authority.trust());
    let mesh = site.mesh(impatient().certificate_provider("default", roots)).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");

    site.known_as("10.0.0.2");
    assert_says(&fails_in_time(&client).await, &["`10.0.0.2` was asked for", "IP:10.0.0.1"]);
}

#[tokio::test]
async fn a_new_certificate_is_used_by_the_next_connection() {
    let mut site = Site::mutual().await;
    site.ask(&context(&[SERVER]));
    let (tell, told) = told();
    let material =
        |issued: &Issued| Some(Ok(KeyMaterial::new().identity(issued.identity()).trust(site.authority.trust())));
    let (first, second) = (site.authority.svid(CLIENT), site.authority.svid(CLIENT));
    tell.send_replace(material(&first));
    let mesh = site.mesh(quick().certificate_provider("default", told)).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    tell.send_replace(material(&second));
    site.backend.stop().await;
    site.backend.restart().await;
    client.recovers().await;
    let serials: Vec<_> = site.front.clients().into_iter().filter_map(|client| client.serial).collect();
    assert_eq!(serials.first(), Some(&first.serial));
    assert_eq!(serials.last(), Some(&second.serial));
}

#[tokio::test]
async fn s5_no_call_uses_a_connection_of_an_older_context() {
    let site = Site::mutual().await;
    // First in plaintext, to the backend itself.
    site.control_plane.put(cluster("greeter"));
    site.control_plane.put(endpoints("greeter").endpoint(site.backend.address()));
    let mesh = site.mesh(impatient().certificate_provider("default", site.material())).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");

    // The plaintext connection is open, and not used for a cluster that asks for TLS: this endpoint cannot.
    site.ask(&context(&[SERVER]));
    let status = fails_in_time(&client).await;
    assert_eq!(status.code(), Code::Unavailable);
    let calls = site.backend.calls();
    client.hello().await.unwrap_err();
    assert_eq!(site.backend.calls(), calls);

    // With TLS; then the names that are asked for change, and the connection to another peer is not used either.
    site.control_plane.put(endpoints("greeter").endpoint(site.front.address()));
    assert_eq!(client.recovers().await, "a");
    site.ask(&context(&["spiffe://cluster.local/ns/shop/sa/other"]));
    let status = fails_in_time(&client).await;
    assert_says(&status, &["the cluster asks for another peer"]);
    site.ask(&context(&[SERVER]));
    assert_eq!(client.recovers().await, "a");

    // Back to plaintext, as the control plane says.
    site.control_plane.put(cluster("greeter"));
    site.control_plane.put(endpoints("greeter").endpoint(site.backend.address()));
    client.recovers().await;
}

#[tokio::test]
async fn an_endpoint_that_is_ejected_stays_so_when_its_connections_are_secured_otherwise() {
    let site = Site::mutual().await;
    let detection = OutlierDetection {
        interval: Some(Duration::from_millis(50).try_into().unwrap()),
        base_ejection_time: Some(Duration::from_secs(60).try_into().unwrap()),
        enforcing_success_rate: Some(0),
        enforcing_failure_percentage: Some(100),
        failure_percentage_minimum_hosts: Some(1),
        failure_percentage_request_volume: Some(2),
        ..Default::default()
    };
    let ask = |peers: &[&str]| {
        let cluster = cluster("greeter").outlier_detection(detection.clone());
        site.control_plane.put(secured_by(cluster, &context(peers)));
    };
    ask(&[SERVER]);
    let mesh = site.mesh(impatient().certificate_provider("default", site.material())).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    site.backend.fail(tonic::Status::unavailable("not now"));
    says_in_time(&client, "ejected by failure_percentage").await;
    site.backend.succeed();
    ask(&["spiffe://other/x", SERVER]);
    let connected = async {
        while site.front.clients().len() < 2 || connections(&mesh).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    in_time("it is connected by the new context", connected).await;
    assert_says(&client.hello().await.unwrap_err(), &["1 ejected"]);
}

#[tokio::test]
async fn a_request_that_comes_back_has_the_scheme_of_the_connection_that_it_takes_at_last() {
    let (called, mut calls) = mpsc::unbounded_channel();
    let refuse = Arc::new(Notify::new());
    let refusing = FrameServer::start({
        let refuse = refuse.clone();
        move |mut peer| {
            let (called, refuse) = (called.clone(), refuse.clone());
            async move {
                peer.greet(&[]).await?;
                peer.next_call().await?;
                called.send(()).map_err(io::Error::other)?;
                refuse.notified().await;
                peer.go_away(0, NO_ERROR, "").await?;
                peer.wait_for_end().await
            }
        }
    })
    .await;
    let mut site = Site::mutual().await;
    let over_tls = server(&site.authority.svid(SERVER), Some(&site.authority));
    site.front = TlsFront::start(refusing.address(), over_tls).await;
    site.control_plane.set(Resources::service("greeter", [site.front.address()]));
    site.ask(&context(&[SERVER]));
    let (sender, provider) = told();
    sender.send_replace(Some(Ok(site.material())));
    let mesh = site.mesh(quick().certificate_provider("default", provider)).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.hello().await }
    });
    calls.recv().await.expect("a call over TLS");
    // The cluster becomes another, without TLS.
    let (address, mut requests) = witness().await;
    site.control_plane.set(Resources::service("greeter", [address]));
    let moved = async {
        while requests.is_empty() {
            let _ = client.hello_within(SOON).await;
        }
    };
    tokio::time::timeout(PATIENCE, moved).await.expect("calls without TLS");
    while requests.try_recv().is_ok() {}
    refuse.notify_one();
    let request = requests.recv().await.expect("the call that was refused");
    assert_eq!(request.uri.scheme_str(), Some("http"), "{}", request.uri);
    call.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn s6_roots_vouch_for_their_own_trust_domain_alone() {
    let site = Site::mutual().await;
    let foreign = "spiffe://partner.example/ns/x/sa/y";
    site.front.configure(server(&site.authority.svid(foreign), None));
    // Without a condition on names any workload of the mesh will do (A29), but not one of another trust domain.
    site.ask(&context(&[]));
    let (tell, told) = told();
    tell.send_replace(Some(Ok(site.material())));
    let mesh = site.mesh(impatient().certificate_provider("default", told)).await;
    let client = Client::new(&mesh, "xds:///greeter");
    says_in_time(&client, &format!("the roots are those of trust domain cluster.local, and the peer is {foreign}"))
        .await;

    let map = |domains: &[&str]| {
        let root = base64::engine::general_purpose::STANDARD.encode(site.authority.der());
        let keys = serde_json::json!({"keys": [{"kty": "EC", "use": "x509-svid", "x5c": [root]}]});
        let domains: serde_json::Map<_, _> =
            domains.iter().map(|domain| ((*domain).to_owned(), keys.clone())).collect();
        let json = serde_json::json!({"trust_domains": domains}).to_string();
        let trust = TrustBundle::from_spiffe_bundle_map(&json).expect("a bundle map");
        Some(Ok(KeyMaterial::new().identity(site.authority.svid(CLIENT).identity()).trust(trust)))
    };
    tell.send_replace(map(&["cluster.local"]));
    says_in_time(&client, &format!("no roots for the trust domain of {foreign}")).await;
    tell.send_replace(map(&["cluster.local", "partner.example"]));
    assert_eq!(client.recovers().await, "a");

    // With a bundle map the peer must be an SVID (A87).
    site.front.configure(server(&site.authority.issue(&[dns("a.test")], |_| {}), None));
    site.ask(&context(&["a.test"]));
    says_in_time(&client, "the certificate has no SPIFFE ID").await;
    tell.send_replace(Some(Ok(site.material())));
    assert_eq!(client.recovers().await, "a");
}

#[tokio::test]
async fn the_name_that_is_asked_for_is_sent_and_must_be_the_peers() {
    let authority = Authority::new();
    let config = server(&authority.issue(&[dns("*.shop.test")], |_| {}), None);
    let site = Site::with(authority, config).await;
    let mut asked = context(&["never looked at"]);
    asked.common_tls_context.as_mut().unwrap().tls_certificate_provider_instance = None;
    asked.sni = "greeter.shop.test".into();
    asked.auto_sni_san_validation = true;
    site.ask(&asked);
    let roots = KeyMaterial::new().trust(site.authority.trust());
    let mesh = site.mesh(impatient().certificate_provider("default", roots)).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    let seen = &site.front.clients()[0];
    assert_eq!((seen.server_name.as_deref(), &seen.serial), (Some("greeter.shop.test"), &None));

    asked.sni = "greeter.bank.test".into();
    site.ask(&asked);
    let status = fails_in_time(&client).await;
    assert_says(&status, &["`greeter.bank.test` was asked for", "DNS:*.shop.test"]);
}

#[tokio::test]
async fn the_host_name_of_the_endpoint_is_asked_for_if_the_cluster_says_so() {
    let authority = Authority::new();
    let config = server(&authority.issue(&[dns("one.shop.test")], |_| {}), None);
    let site = Site::with(authority, config).await;
    let mut asked = context(&[]);
    asked.common_tls_context.as_mut().unwrap().tls_certificate_provider_instance = None;
    (asked.sni, asked.auto_host_sni, asked.auto_sni_san_validation) = ("another.test".into(), true, true);
    site.known_as("one.shop.test");
    site.ask(&asked);
    let roots = KeyMaterial::new().trust(site.authority.trust());
    let mesh = site.mesh(impatient().certificate_provider("default", roots)).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    assert_eq!(site.front.clients()[0].server_name.as_deref(), Some("one.shop.test"));

    site.known_as("two.shop.test");
    let status = fails_in_time(&client).await;
    assert_says(&status, &["`two.shop.test` was asked for", "DNS:one.shop.test"]);
}

#[tokio::test]
async fn an_address_that_stands_twice_under_two_names_is_one_endpoint_by_its_first_name() {
    let authority = Authority::new();
    let config = server(&authority.issue(&[dns("one.shop.test")], |_| {}), None);
    let site = Site::with(authority, config).await;
    let mut asked = context(&[]);
    asked.common_tls_context.as_mut().unwrap().tls_certificate_provider_instance = None;
    (asked.auto_host_sni, asked.auto_sni_san_validation) = (true, true);
    let twice = ["one.shop.test", "two.shop.test"].map(|name| site.endpoint_known_as(name));
    site.control_plane.put(secured_by(cluster("greeter").fixed(endpoints("greeter").all(twice)), &asked));
    let roots = KeyMaterial::new().trust(site.authority.trust());
    let mesh = site.mesh(quick().certificate_provider("default", roots)).await;
    let client = Client::new(&mesh, "xds:///greeter");
    for _ in 0..20 {
        assert_eq!(client.hello().await.unwrap(), "a");
    }
    assert_eq!(site.front.clients().len(), 1, "no connection was made in vain");
}

#[tokio::test]
async fn an_address_that_stands_in_two_priorities_under_two_names_goes_by_the_first() {
    let authority = Authority::new();
    let shows = |name: &str, authority: &Authority| server(&authority.issue(&[dns(name)], |_| {}), None);
    let config = shows("another.shop.test", &authority);
    let site = Site::with(authority, config).await;
    let mut asked = context(&[]);
    asked.common_tls_context.as_mut().unwrap().tls_certificate_provider_instance = None;
    (asked.auto_host_sni, asked.auto_sni_san_validation) = (true, true);
    let known_as = |name: &str| locality("", "", "").endpoint(site.endpoint_known_as(name));
    let both = endpoints("greeter").locality(known_as("one.shop.test")).locality(known_as("two.shop.test").priority(1));
    site.control_plane.put(secured_by(cluster("greeter").fixed(both), &asked));
    let roots = KeyMaterial::new().trust(site.authority.trust());
    let mesh = site.mesh(quick().certificate_provider("default", roots)).await;
    let client = Client::new(&mesh, "xds:///greeter");
    // As the first priority fails, the second one is there too.
    says_in_time(&client, "`one.shop.test` was asked for").await;

    site.front.configure(shows("one.shop.test", &site.authority));
    let answered = async {
        while client.hello().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("the first priority has kept its name");
    let names: HashSet<_> = site.front.clients().into_iter().filter_map(|client| client.server_name).collect();
    assert_eq!(names, ["one.shop.test".to_owned()].into());
}

#[tokio::test]
async fn s10_a_peer_that_does_not_choose_http2_is_refused() {
    let authority = Authority::new();
    let mut config = server(&authority.svid(SERVER), None);
    config.alpn_protocols = Vec::new();
    let site = Site::with(authority, config).await;
    site.ask(&context(&[SERVER]));
    let mesh = site.mesh(impatient().certificate_provider("default", site.material())).await;
    let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
    assert_says(&status, &["did not choose HTTP/2 (ALPN `h2`)"]);
}

#[tokio::test]
async fn what_cannot_be_honoured_is_refused_by_field_and_the_last_good_one_serves() {
    let site = Site::mutual().await;
    site.ask(&context(&[SERVER]));
    let mesh = site.mesh(quick().certificate_provider("default", site.material())).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");

    let mut unknown = context(&[SERVER]);
    validation(&mut unknown).ca_certificate_provider_instance.as_mut().unwrap().instance_name = "vault".into();
    site.ask(&unknown);
    let (_, nack) = site.control_plane.next_nack().await.error.expect("a NACK says why");
    let path = "transport_socket.typed_config.common_tls_context.validation_context.ca_certificate_provider_instance";
    assert!(nack.contains(&format!("{path}.instance_name: \"vault\" is not a certificate provider")), "{nack}");
    assert_eq!(client.hello().await.unwrap(), "a");
}

#[tokio::test]
async fn a_call_that_fails_by_tls_says_what_to_do_about_it() {
    let site = Site::mutual().await;
    site.ask(&context(&[SERVER]));
    let mesh = site.mesh(impatient().certificate_provider("default", site.material())).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let expired = site.authority.issue(&[uri(SERVER)], |params| {
        params.not_after = (std::time::SystemTime::now() - Duration::from_secs(5)).into();
    });
    let stranger = Authority::new();
    let other = site.authority.svid("spiffe://cluster.local/ns/shop/sa/other");
    for (config, next_step) in [
        (server(&expired, None), "renew the endpoint's certificate"),
        (server(&stranger.svid(SERVER), None), "see who issued the endpoint's certificate"),
        (server(&other, None), "see which workload answers at this address"),
        (
            server(&site.authority.svid(SERVER), Some(&stranger)),
            "see whether the endpoint wants a certificate of this process",
        ),
    ] {
        site.front.configure(config);
        says_in_time(&client, next_step).await;
    }
    // The backend itself does not speak TLS.
    site.control_plane.put(endpoints("greeter").endpoint(site.backend.address()));
    let status = says_in_time(&client, "see whether the endpoint speaks TLS at this port").await;
    assert_says(&status, &["TLS: the handshake failed"]);
}

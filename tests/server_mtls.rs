//! TLS and mTLS of servers, as their Listener or their code asks (A29, A36): who is served, and what handlers learn of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use mesh_core::Mesh;
use mesh_core::identity::{KeyMaterial, TrustBundle};
use mesh_core::server::{ServerOptions, ServerTls, ServingMode};
use mesh_core::testing::{filter_chain, route, route_config, server_listener};
use mesh_tonic::MeshServer;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context as common;
use mesh_xds_proto::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

use crate::support::PATIENCE;
use crate::support::backend::Backend;
use crate::support::client::{metadata, quick};
use crate::support::clock::pass_times;
use crate::support::pki::{Authority, dns, uri};
use crate::support::served::Served;

use crate::support::secured_server::{
    CLIENT, Caller, Held, SERVER, Site, common, context, in_the_past, instance, optional, roots, secured, socket,
};
use crate::support::timed::timed;

#[tokio::test]
async fn a_handler_learns_who_calls_and_the_status_says_how_the_connection_is_secured() {
    let site = Site::with_chain(secured(&context())).await;
    let issued = site.authority.svid(CLIENT);
    let client = site.caller(Some(&issued)).await;
    assert_eq!(client.hello().await.unwrap(), "client of shop");
    let status = site.server.status();
    let [connection] = &status.open[..] else { panic!("one connection: {status:?}") };
    let security = connection.security.as_ref().expect("it is secured");
    assert_eq!(security.protocol, "TLSv1.3");
    assert_eq!(security.identity.spiffe_id().unwrap().as_str(), SERVER);
    let peer = security.peer.as_ref().expect("a caller");
    assert_eq!((peer.spiffe_id.as_ref().unwrap().as_str(), &*peer.serial), (CLIENT, &*issued.serial));
    assert_eq!(security.expires(), peer.not_after.min(security.identity.not_after()));
    assert_eq!((status.plaintext, status.failed_handshakes), (0, 0));
}

#[tokio::test]
async fn the_older_fields_that_istio_sends_mean_the_same() {
    let older = || common::CertificateProviderInstance { instance_name: "default".into(), ..Default::default() };
    let mut asked = context();
    let both = common(&mut asked);
    both.tls_certificate_provider_instance = None;
    both.tls_certificate_certificate_provider_instance = Some(older());
    both.validation_context_type =
        Some(common::ValidationContextType::CombinedValidationContext(common::CombinedCertificateValidationContext {
            default_validation_context: Some(Default::default()),
            validation_context_certificate_provider_instance: Some(older()),
            ..Default::default()
        }));
    let site = Site::with_chain(secured(&asked)).await;
    assert_eq!(site.caller(Some(&site.authority.svid(CLIENT))).await.hello().await.unwrap(), "client of shop");
    site.handshake(None, &["h2"]).await.expect_err("a certificate is required");
}

#[tokio::test]
async fn a_caller_without_a_certificate_is_refused_if_one_is_required_and_is_nobody_if_not() {
    let site = Site::with_chain(secured(&context())).await;
    site.handshake(None, &["h2"]).await.expect_err("it is refused");
    site.refuses("peer sent no certificates").await;
    assert_eq!(site.server.status().accepted, 0);

    let site = Site::with_chain(secured(&optional())).await;
    assert_eq!(site.caller(None).await.hello().await.unwrap(), "nobody");
    assert_eq!(site.caller(Some(&site.authority.svid(CLIENT))).await.hello().await.unwrap(), "client of shop");
    // What is shown must be good all the same.
    let stranger = Authority::new().svid(CLIENT);
    site.handshake(Some(&stranger), &["h2"]).await.expect_err("it is refused");

    let mut unasked = optional();
    common(&mut unasked).validation_context_type = None;
    let site = Site::with_chain(secured(&unasked)).await;
    assert_eq!(site.caller(Some(&site.authority.svid(CLIENT))).await.hello().await.unwrap(), "nobody");
}

#[tokio::test]
async fn callers_that_the_roots_do_not_vouch_for_are_refused() {
    let site = Site::with_chain(secured(&context())).await;
    let stranger = Authority::new().svid(CLIENT);
    let expired = site.authority.issue(&[uri(CLIENT)], in_the_past);
    let for_servers = site.authority.issue(&[uri(CLIENT)], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    for (issued, why) in [(&stranger, "BadSignature"), (&expired, "expired"), (&for_servers, "extended key usage")] {
        site.handshake(Some(issued), &["h2"]).await.expect_err(why);
        site.refuses(why).await;
    }
    assert_eq!((site.server.status().accepted, site.server.status().failed_handshakes), (0, 3));
}

#[tokio::test]
async fn s6_roots_vouch_for_callers_of_their_own_trust_domain_alone() {
    let site = Site::with_chain(secured(&context())).await;
    let foreign = site.authority.svid("spiffe://partner.example/ns/x/sa/y");
    site.handshake(Some(&foreign), &["h2"]).await.expect_err("it is refused");
    site.refuses("the roots are those of trust domain cluster.local").await;
    let two = site.authority.issue(&[uri(CLIENT), uri("spiffe://cluster.local/admin")], |_| {});
    site.handshake(Some(&two), &["h2"]).await.expect_err("it is refused");
    site.refuses("has 2 URIs").await;

    let publish = |domains: &[&str]| {
        let root = base64::engine::general_purpose::STANDARD.encode(site.authority.der());
        let keys = serde_json::json!({"keys": [{"kty": "EC", "use": "x509-svid", "x5c": [root]}]});
        let domains: serde_json::Map<_, _> = domains.iter().map(|name| ((*name).to_owned(), keys.clone())).collect();
        let json = serde_json::json!({"trust_domains": domains}).to_string();
        let trust = TrustBundle::from_spiffe_bundle_map(&json).expect("a bundle map");
        let identity = site.certificate().identity();
        site.publisher.publish(KeyMaterial::new().identity(identity).trust(trust));
    };
    publish(&["cluster.local"]);
    site.handshake(Some(&foreign), &["h2"]).await.expect_err("it is refused");
    site.refuses("no roots for the trust domain of spiffe://partner.example").await;
    publish(&["cluster.local", "partner.example"]);
    site.handshake(Some(&foreign), &["h2"]).await.expect("a federated caller");
    let nameless = site.authority.issue(&[dns("a.test")], |_| {});
    site.handshake(Some(&nameless), &["h2"]).await.expect_err("with a bundle map, callers are SVIDs (A87)");
    site.refuses("has no SPIFFE ID").await;
}

/// The provider of the own certificate has no roots that vouch for callers.
#[tokio::test]
async fn callers_may_be_vouched_for_by_another_provider_than_that_of_the_own_certificate() {
    let (callers, strangers) = (Authority::new(), Authority::new());
    let (hand, publisher) = tokio::sync::oneshot::channel();
    let mesh = quick().certificate_provider("callers", Held::new(hand));
    let mut asked = context();
    let mut validation = roots();
    let instance = tls::CertificateProviderPluginInstance { instance_name: "callers".into(), ..instance() };
    validation.ca_certificate_provider_instance = Some(instance);
    let validation = common::ValidationContextType::ValidationContext(validation);
    common(&mut asked).validation_context_type = Some(validation);
    let chain = Some(secured(&asked));
    let mut site = Site::start_in(mesh, chain, ServerOptions::new(), |server| server).await;
    let publisher = publisher.await.expect("the provider runs");
    publisher.publish(KeyMaterial::new().trust(callers.trust()));
    site.publisher.publish(KeyMaterial::new().identity(site.certificate().identity()));
    site.serves().await;
    let caller = callers.svid(CLIENT);
    let stream = site.handshake(Some(&caller), &["h2"]).await.unwrap();
    assert!(site.handshake(Some(&site.authority.svid(CLIENT)), &["h2"]).await.is_err());
    assert!(site.handshake(Some(&strangers.svid(CLIENT)), &["h2"]).await.is_err());

    publisher.publish(KeyMaterial::new().trust(strangers.trust()));
    assert!(closed(stream).await, "its caller is told");
    assert!(site.handshake(Some(&caller), &["h2"]).await.is_err());
    assert!(site.handshake(Some(&strangers.svid(CLIENT)), &["h2"]).await.is_ok());
}

#[tokio::test]
async fn callers_are_held_to_the_names_that_the_listener_has() {
    let mut asked = context();
    let exact = StringMatcher { match_pattern: Some(MatchPattern::Exact(CLIENT.into())), ..Default::default() };
    let names = tls::CertificateValidationContext { match_subject_alt_names: vec![exact], ..roots() };
    common(&mut asked).validation_context_type = Some(common::ValidationContextType::ValidationContext(names));
    let site = Site::with_chain(secured(&asked)).await;
    assert_eq!(site.caller(Some(&site.authority.svid(CLIENT))).await.hello().await.unwrap(), "client of shop");
    let other = site.authority.svid("spiffe://cluster.local/ns/shop/sa/other");
    site.handshake(Some(&other), &["h2"]).await.expect_err("it is refused");
    site.refuses("the server is for other callers, and this one is spiffe://cluster.local/ns/shop/sa/other").await;
}

#[tokio::test]
async fn s1_a_server_without_a_certificate_does_not_serve_until_it_has_one_nor_after_it_expired() {
    timed(async || {
        let mut site = Site::start(Some(secured(&context())), ServerOptions::new(), |server| server).await;
        let why = site.stops().await;
        assert!(why.contains("certificate provider `default` (held) has no key material"), "{why}");
        site.closes_connections().await;
        site.publish(&site.certificate());
        site.serves().await;
        let client = site.caller(Some(&site.authority.svid(CLIENT))).await;
        assert_eq!(client.hello().await.unwrap(), "client of shop");

        let soon = site.authority.issue(&[uri(SERVER)], |params| {
            params.not_after = (SystemTime::now() + Duration::from_secs(1)).into();
        });
        site.publish(&soon);
        let why = site.stops().await;
        assert!(why.contains("has an expired certificate"), "{why}");
        site.closes_connections().await;
        assert_eq!(site.server.status().accepted, 1);

        site.publisher.publish(KeyMaterial::new().trust(site.authority.trust()));
        site.mode(|mode| matches!(mode, Some(ServingMode::NotServing(why)) if why.contains("roots alone"))).await;
        site.publish(&site.certificate());
        site.serves().await;
        site.handshake(Some(&site.authority.svid(CLIENT)), &["h2"]).await.expect("it serves again");
    })
    .await;
}

#[tokio::test]
async fn the_next_connection_gets_the_new_certificate_and_the_new_roots() {
    let site = Site::with_chain(secured(&context())).await;
    let client = site.authority.svid(CLIENT);
    let shown = |stream: TlsStream<TcpStream>| {
        crate::support::pki::serial_of(&stream.get_ref().1.peer_certificates().expect("a certificate")[0])
    };
    let (first, second) = (site.certificate(), site.certificate());
    site.publish(&first);
    assert_eq!(shown(site.handshake(Some(&client), &["h2"]).await.unwrap()), first.serial);
    site.publish(&second);
    assert_eq!(shown(site.handshake(Some(&client), &["h2"]).await.unwrap()), second.serial);

    let other = Authority::new();
    site.publisher.publish(KeyMaterial::new().identity(second.identity()).trust(other.trust()));
    site.handshake(Some(&client), &["h2"]).await.expect_err("its authority is not trusted any more");
    site.handshake(Some(&other.svid(CLIENT)), &["h2"]).await.expect("the new authority is");
}

#[tokio::test]
async fn s10_a_client_that_does_not_ask_for_http2_is_refused() {
    let site = Site::with_chain(secured(&context())).await;
    let client = site.authority.svid(CLIENT);
    site.handshake(Some(&client), &["http/1.1"]).await.expect_err("it is refused");
    site.refuses("doesn't support any known protocol").await;
    site.handshake(Some(&client), &[]).await.expect_err("it is refused");
    site.refuses("did not ask for HTTP/2").await;
    let chosen = |stream: TlsStream<TcpStream>| stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let istio = site.handshake(Some(&client), &["istio-h2", "istio"]).await.expect("Istio's name for HTTP/2");
    assert_eq!(chosen(istio), Some(b"istio-h2".to_vec()));
    let both = site.handshake(Some(&client), &["http/1.1", "istio-h2", "h2"]).await.expect("its own name");
    assert_eq!(chosen(both), Some(b"h2".to_vec()));
}

#[tokio::test]
async fn s4_sessions_are_never_resumed() {
    let site = Site::with_chain(secured(&context())).await;
    let stream = site.handshake(Some(&site.authority.svid(CLIENT)), &["h2"]).await.unwrap();
    assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0);
}

#[tokio::test]
async fn s17_clients_that_do_not_finish_a_handshake_hold_nothing_up() {
    timed(async || {
        let options = ServerOptions::new().handshake_timeout(Duration::from_millis(300));
        let site = Site::start(Some(secured(&context())), options, |server| server).await.certified().await;
        let silent = TcpStream::connect(site.address()).await.unwrap();
        let mut slow = TcpStream::connect(site.address()).await.unwrap();
        slow.write_all(&[0x16, 3, 1, 2]).await.unwrap();
        site.server.wait_for("two connections", |status| status.connections == 2).await;
        let client = site.caller(Some(&site.authority.svid(CLIENT))).await;
        assert_eq!(client.hello().await.unwrap(), "client of shop");
        site.server
            .wait_for("both are closed", |status| status.connections == 1 && status.failed_handshakes == 2)
            .await;
        site.refuses("longer than `handshake_timeout`").await;
        drop((silent, slow));

        // Nor do they hold up a shutdown.
        let mut site = Site::with_chain(secured(&context())).await;
        let _silent = TcpStream::connect(site.address()).await.unwrap();
        site.server.wait_for("a connection", |status| status.connections == 1).await;
        site.server.stop();
        assert_eq!(site.server.ended().await.cut_calls, 0);
    })
    .await;
}

#[tokio::test]
async fn plaintext_does_not_get_to_a_server_with_tls_nor_tls_to_one_without() {
    let site = Site::with_chain(secured(&context())).await;
    site.plaintext_caller().await.hello().await.expect_err("it is refused");
    site.refuses("the handshake failed").await;
    assert_eq!(site.server.status().accepted, 0);

    let site = Site::with_chain(filter_chain()).await;
    let failed = timeout(PATIENCE, site.handshake(None, &["h2"])).await.expect("it ends");
    failed.expect_err("the server does not speak TLS");
}

#[tokio::test]
async fn s11_a_change_of_the_chains_tls_drains_connections_and_a_change_of_routes_does_not() {
    let site = Site::with_chain(secured(&context())).await;
    let client = site.caller(Some(&site.authority.svid(CLIENT))).await;
    assert_eq!(client.hello().await.unwrap(), "client of shop");
    let routes = route_config("inline").routes([route().path("/helloworld.Greeter/SayHello").non_forwarding()]);
    site.listen(secured(&context()).inline(routes));
    site.control_plane.acked("type.googleapis.com/envoy.config.listener.v3.Listener").await;
    assert_eq!(client.hello().await.unwrap(), "client of shop");
    assert_eq!(site.server.status().accepted, 1, "its connection goes on");

    site.listen(secured(&optional()));
    site.server.wait_for("another connection", |status| status.accepted == 2 && status.connections == 1).await;
    assert_eq!(client.recovers().await, "client of shop");
    assert_eq!(site.caller(None).await.hello().await.unwrap(), "nobody");
}

#[tokio::test]
async fn s3_who_showed_no_certificate_loses_its_open_calls_once_one_is_required() {
    let site = Site::with_chain(secured(&optional())).await;
    let mut anonymous = site.handshake(None, &["h2"]).await.unwrap();
    anonymous.write_all(&begun_call()).await.unwrap();
    site.server.wait_for("a call", |status| status.in_flight == 1).await;
    site.listen(secured(&context()));
    assert!(closed(anonymous).await, "its caller is told");
    site.server.wait_for("no connection", |status| status.connections == 0).await;
}

/// Whoever reads along does so no longer than he must. All others drain for it, with the time that they have for that.
#[tokio::test]
async fn s3_who_calls_in_plaintext_loses_its_open_calls_once_tls_is_asked_for() {
    let site = Site::with_chain(filter_chain()).await;
    let plain = plaintext_call(&site).await;
    site.server.wait_for("a call", |status| status.in_flight == 1).await;
    site.listen(secured(&optional()));
    assert!(closed(plain).await, "its caller is told");
    site.server.wait_for("no connection", |status| status.connections == 0).await;
    // One that code lets call in plaintext drains as any other.
    let permissive = Site::start(Some(filter_chain()), ServerOptions::new(), MeshServer::permissive).await;
    let permissive = permissive.certified().await;
    let client = permissive.plaintext_caller().await;
    assert_eq!(client.hello().await.unwrap(), "nobody");
    let _plain = plaintext_call(&permissive).await;
    permissive.server.wait_for("a call", |status| status.in_flight == 1).await;
    permissive.listen(secured(&optional()));
    permissive.server.wait_for("another connection", |status| status.accepted == 3).await;
    pass_times(20);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(permissive.server.status().in_flight, 1);
    pass_times(1);
}

/// Not even for as long as the server lacks what it would secure connections with.
#[tokio::test]
async fn s3_who_calls_in_plaintext_loses_its_open_calls_though_there_is_no_certificate_yet() {
    let site = Site::start(Some(filter_chain()), ServerOptions::new(), |server| server).await;
    let plain = plaintext_call(&site).await;
    site.server.wait_for("a call", |status| status.in_flight == 1).await;
    site.listen(secured(&optional()));
    assert!(closed(plain).await, "its caller is told");
    site.server.wait_for("no connection", |status| status.connections == 0).await;
    assert!(matches!(site.server.status().mode, ServingMode::NotServing(_)));
}

#[tokio::test]
async fn tls_without_a_control_plane_takes_a_line() {
    let site = Site::with_code(|server| server.tls(ServerTls::new("default"))).await;
    let caller = site.authority.svid(CLIENT);
    assert_eq!(site.caller(Some(&caller)).await.hello().await.unwrap(), "client of shop");
    site.handshake(None, &["h2"]).await.expect_err("a certificate is required by default");
    site.plaintext_caller().await.hello().await.expect_err("nor is plaintext served");

    let optional = ServerTls::new("default").optional_client_certificates();
    let site = Site::with_code(|server| server.tls(optional)).await;
    assert_eq!(site.caller(None).await.hello().await.unwrap(), "nobody");
    let unasked = ServerTls::new("default").without_client_certificates();
    let site = Site::with_code(|server| server.tls(unasked)).await;
    assert_eq!(site.caller(Some(&site.authority.svid(CLIENT))).await.hello().await.unwrap(), "nobody");
}

#[tokio::test]
async fn code_secures_the_chains_that_ask_for_nothing_and_no_others() {
    let unasked = ServerTls::new("default").without_client_certificates();
    let site = Site::start(Some(filter_chain()), ServerOptions::new(), |server| server.tls(unasked)).await;
    let mut site = site.certified().await;
    assert_eq!(site.caller(None).await.hello().await.unwrap(), "nobody");
    site.plaintext_caller().await.hello().await.expect_err("plaintext is not served");
    site.listen(secured(&context()));
    site.server.wait_for("connections drain", |status| status.connections == 0).await;
    site.serves().await;
    site.handshake(None, &["h2"]).await.expect_err("the chain asks for certificates");
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_an_error_at_the_start() {
    let mesh = Mesh::builder().build().await.unwrap();
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let server = MeshServer::new(&mesh).tls(ServerTls::new("vault"));
    let error = server.serve(address).await.unwrap_err().report();
    assert!(error.contains("there is no certificate provider `vault`"), "{error}");
}

#[tokio::test]
async fn s14_a_permissive_server_serves_both_and_counts_the_plaintext_callers() {
    timed(async || {
        for chain in [Some(secured(&context())), None] {
            let is_by_code = chain.is_none();
            let configure = |server: MeshServer| {
                let server = server.permissive();
                if is_by_code { server.tls(ServerTls::new("default")) } else { server }
            };
            let mut site = Site::start(chain, ServerOptions::new(), configure).await;
            site.serves().await;
            let plain = site.plaintext_caller().await;
            assert_eq!(plain.hello().await.unwrap(), "nobody", "it needs no certificate of ours");
            site.closes_connections().await;
            let why = site.server.status().cannot_secure.expect("it says so");
            assert!(why.contains("has no key material"), "{why}");

            site.publish(&site.certificate());
            assert_eq!(site.caller(Some(&site.authority.svid(CLIENT))).await.hello().await.unwrap(), "client of shop");
            site.handshake(None, &["h2"]).await.expect_err("who speaks TLS shows a certificate");
            let status = site.server.status();
            assert_eq!((status.accepted, status.plaintext), (2, 1), "{status:?}");
            let plain: Vec<_> = status.open.iter().filter(|connection| connection.security.is_none()).collect();
            assert_eq!((plain.len(), &status.cannot_secure), (1, &None), "{status:?}");

            let soon = site.authority.issue(&[uri(SERVER)], |params| {
                params.not_after = (SystemTime::now() + Duration::from_secs(1)).into();
            });
            site.publish(&soon);
            let is_told =
                |why: &Option<Arc<str>>| why.as_ref().is_some_and(|why| why.contains("an expired certificate"));
            site.server.wait_for("why TLS is not served", |status| is_told(&status.cannot_secure)).await;
            assert_eq!(site.server.status().mode, ServingMode::Serving);
        }
    })
    .await;
}

#[tokio::test]
async fn a_chain_that_cannot_be_secured_stops_no_other() {
    let other = KeyMaterial::new();
    let mesh = quick().certificate_provider("other", other);
    let site = Site::start_in(mesh, Some(secured(&context())), ServerOptions::new(), |server| server).await;
    let site = site.certified().await;
    let client = site.caller(Some(&site.authority.svid(CLIENT))).await;
    assert_eq!(client.hello().await.unwrap(), "client of shop");

    let mut asked = context();
    common(&mut asked).tls_certificate_provider_instance.as_mut().unwrap().instance_name = "other".into();
    let elsewhere = secured(&asked).from("203.0.113.0/24").modify(|chain| chain.name = "elsewhere".into());
    let both = server_listener(site.address()).chains([secured(&context()), elsewhere]);
    site.control_plane.put(both);
    let is_told = |why: &Option<Arc<str>>| why.as_ref().is_some_and(|why| why.contains("provider `other`"));
    site.server.wait_for("what cannot be secured", |status| is_told(&status.cannot_secure)).await;
    assert_eq!(site.server.status().mode, ServingMode::Serving);
    site.handshake(Some(&site.authority.svid(CLIENT)), &["h2"]).await.expect("its chain is served");
    assert_eq!(client.hello().await.unwrap(), "client of shop");

    // Its own callers alone are closed.
    let here = secured(&asked).from("127.0.0.0/8").modify(|chain| chain.name = "here".into());
    site.control_plane.put(server_listener(site.address()).chains([secured(&context()), here]));
    site.control_plane.acked("type.googleapis.com/envoy.config.listener.v3.Listener").await;
    site.closes_connections().await;
    assert_eq!(site.server.status().mode, ServingMode::Serving);
}

#[tokio::test]
async fn s1_a_server_whose_first_certificate_is_not_valid_yet_serves_when_it_is() {
    timed(async || {
        let mut site = Site::start(Some(secured(&context())), ServerOptions::new(), |server| server).await;
        let valid = SystemTime::now() + Duration::from_secs(2);
        site.publish(
            &site.authority.issue(&[uri(SERVER), dns("server.test")], |params| params.not_before = valid.into()),
        );
        let why =
            site.mode(|mode| matches!(mode, Some(ServingMode::NotServing(why)) if why.contains("valid from"))).await;
        assert!(why.to_string().contains("certificate provider `default`"), "{why}");
        site.serves().await;
        site.handshake(Some(&site.authority.svid(CLIENT)), &["h2"]).await.expect("it serves");
    })
    .await;
}

#[tokio::test]
async fn s14_a_permissive_server_is_an_error_where_the_floor_demands_mtls() {
    let floor = mesh_core::SecurityFloor::new;
    for (floor, demand) in [
        (floor().require_mtls(), "`require_mtls`"),
        (floor().allow_trust_domain("cluster.local".parse().unwrap()), "`allow_trust_domain`"),
    ] {
        let mesh = Mesh::builder().certificate_provider("default", KeyMaterial::new()).security_floor(floor);
        let mesh = mesh.build().await.unwrap();
        let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let server = MeshServer::new(&mesh).tls(ServerTls::new("default")).permissive();
        let error = server.serve(address).await.unwrap_err().report();
        assert!(error.contains("`permissive`") && error.contains(demand), "{error}");
    }
}

#[tokio::test]
async fn s7_a_listener_that_requires_no_certificate_of_callers_does_not_serve_where_the_floor_demands_it() {
    let floor = mesh_core::SecurityFloor::new().require_mtls();
    let mesh = quick().security_floor(floor);
    let mut site = Site::start_in(mesh, Some(filter_chain()), ServerOptions::new(), |server| server).await;
    site.publish(&site.certificate());
    for lower in [filter_chain(), secured(&optional())] {
        site.listen(lower);
        let why = site.stops().await;
        assert!(why.contains("below the security floor") && why.contains("`require_mtls`"), "{why}");
        site.closes_connections().await;

        site.listen(secured(&context()));
        site.serves().await;
        let caller = site.caller(Some(&site.authority.svid(CLIENT))).await;
        assert_eq!(caller.hello().await.unwrap(), "client of shop");
    }
}

#[tokio::test]
async fn s16_what_callers_say_of_others_is_believed_of_those_alone_that_code_names() {
    let gateway = "spiffe://cluster.local/ns/edge/sa/gateway";
    let trusted = |server: MeshServer| {
        let ids = [gateway.parse().expect("an ID")];
        server.tls(ServerTls::new("default")).permissive().trusted_forwarders(ids)
    };
    let site = Site::with_code(trusted).await;
    let claims = || metadata(&[("x-forwarded-client-cert", "URI=spiffe://cluster.local/admin")]);
    let client = site.caller(Some(&site.authority.svid(CLIENT))).await;
    assert_eq!(client.hello_with(claims()).await.unwrap(), "client of shop");
    let gateway = site.caller(Some(&site.authority.svid(gateway))).await;
    assert_eq!(gateway.hello_with(claims()).await.unwrap(), "gateway of edge, for another");
    assert_eq!(site.plaintext_caller().await.hello_with(claims()).await.unwrap(), "nobody");
}

#[tokio::test]
async fn s16_headers_of_proxies_are_taken_out_and_others_are_left() {
    let greeter = Backend::start("a").await;
    let server = Served::start(ServerOptions::new(), |server| server.add_service(greeter.service())).await;
    let client = Caller::plain(quick(), &server).await;
    let sent = metadata(&[
        ("x-forwarded-client-cert", "one"),
        ("x-forwarded-client-cert", "two"),
        ("x-envoy-internal", "true"),
        ("x-envoy-original-path", "/admin"),
        ("x-envoy-attempt-count", "2"),
        ("x-forwarded-for", "1.2.3.4"),
        ("forwarded", "for=1.2.3.4"),
        ("x-envoyed", "yes"),
    ]);
    client.hello_with(sent).await.unwrap();
    let seen = &greeter.seen()[0].metadata;
    let came = |name: &str| seen.get(name).is_some();
    for name in ["x-forwarded-client-cert", "x-forwarded-for", "forwarded", "x-envoy-internal", "x-envoy-original-path"]
    {
        assert!(!came(name), "{name}");
    }
    for name in ["x-envoy-attempt-count", "x-envoyed"] {
        assert!(came(name), "{name}");
    }
}

/// What cannot be honoured is named, and the last good listener serves.
#[tokio::test]
async fn a_tls_context_that_cannot_be_honoured_is_refused_by_field_and_the_last_good_one_serves() {
    type Change = fn(&mut tls::DownstreamTlsContext);
    fn validation(context: &mut tls::DownstreamTlsContext, change: fn(&mut tls::CertificateValidationContext)) {
        let mut validation = roots();
        change(&mut validation);
        common(context).validation_context_type = Some(common::ValidationContextType::ValidationContext(validation));
    }
    let cases: [(Change, &str); 12] = [
        (|context| context.common_tls_context = None, "common_tls_context: must be set"),
        (|context| context.require_sni = Some(true), "require_sni: is not supported"),
        (|context| context.ocsp_staple_policy = 2, "ocsp_staple_policy: must be LENIENT_STAPLING"),
        (
            |context| common(context).validation_context_type = None,
            "require_client_certificate: no roots vouch for clients",
        ),
        (
            |context| common(context).tls_certificate_provider_instance = None,
            "common_tls_context: a server shows a certificate",
        ),
        (
            |context| {
                let shown = &mut common(context).tls_certificate_provider_instance;
                shown.as_mut().unwrap().instance_name = "vault".into();
            },
            "common_tls_context.tls_certificate_provider_instance.instance_name: \"vault\" is not",
        ),
        (
            |context| {
                validation(context, |validation| {
                    validation.ca_certificate_provider_instance.as_mut().unwrap().instance_name = "vault".into();
                });
            },
            "common_tls_context.validation_context.ca_certificate_provider_instance.instance_name: \"vault\" is not",
        ),
        (
            |context| {
                validation(context, |validation| {
                    validation.ca_certificate_provider_instance = None;
                    validation.system_root_certs = Some(Default::default());
                });
            },
            "common_tls_context.validation_context.system_root_certs: is for clients",
        ),
        (
            |context| validation(context, |validation| validation.verify_certificate_hash.push("x".into())),
            "common_tls_context.validation_context.verify_certificate_hash: ",
        ),
        (
            |context| validation(context, |validation| validation.crl = Some(Default::default())),
            "common_tls_context.validation_context.crl: ",
        ),
        (|context| common(context).tls_params = Some(Default::default()), "common_tls_context.tls_params: "),
        (
            |context| common(context).custom_handshaker = Some(Default::default()),
            "common_tls_context.custom_handshaker: ",
        ),
    ];
    let site = Site::with_chain(secured(&context())).await;
    let client = site.caller(Some(&site.authority.svid(CLIENT))).await;
    for (change, field) in cases {
        let mut bad = context();
        change(&mut bad);
        site.listen(secured(&bad));
        let (_, nack) = site.control_plane.next_nack().await.error.expect("a NACK says why");
        let path = format!("filter_chains[0].transport_socket.typed_config.{field}");
        assert!(nack.contains(&path), "`{path}` is not in: {nack}");
        assert_eq!(client.hello().await.unwrap(), "client of shop", "{field}");
    }
    let upstream = socket(&tls::UpstreamTlsContext::default());
    site.listen(filter_chain().modify(|chain| chain.transport_socket = Some(upstream)));
    let (_, nack) = site.control_plane.next_nack().await.error.expect("a NACK says why");
    assert!(nack.contains("transport_socket.typed_config: ") && nack.contains("never replaced by plaintext"), "{nack}");
    assert_eq!(client.hello().await.unwrap(), "client of shop");
    assert_eq!(site.server.status().accepted, 1, "no connection was drained");
}

async fn plaintext_call(site: &Site) -> TcpStream {
    let mut stream = TcpStream::connect(site.address()).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    stream.read_exact(&mut [0; 9]).await.unwrap();
    stream.write_all(&begun_call()).await.unwrap();
    stream
}

/// HEADERS of a call to the greeter whose message does not come.
pub(crate) fn begun_call() -> Vec<u8> {
    let mut fields = vec![0x83, 0x87]; // `:method: POST`, `:scheme: https`
    for (name, value) in [
        (&[0x04][..], "/helloworld.Greeter/SayHello"), // `:path`
        (&[0x01], "server.test"),                      // `:authority`
        (&[0x0f, 0x10], "application/grpc"),           // `content-type`
    ] {
        fields.extend_from_slice(name);
        fields.push(u8::try_from(value.len()).expect("a short one"));
        fields.extend_from_slice(value.as_bytes());
    }
    let mut frame = vec![0, 0, u8::try_from(fields.len()).expect("a short one"), 1, 4, 0, 0, 0, 1];
    frame.extend(fields);
    frame
}

/// Reads until the server closes the connection; whether it said GOAWAY before.
pub(crate) async fn closed(mut stream: impl AsyncRead + Unpin) -> bool {
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection is closed");
    has_goaway(&bytes)
}

/// Reads until the server says GOAWAY.
async fn told(stream: &mut TlsStream<TcpStream>) {
    let mut bytes = Vec::new();
    while !has_goaway(&bytes) {
        let read = timeout(PATIENCE, stream.read_buf(&mut bytes)).await.expect("the server says GOAWAY");
        assert_ne!(read.unwrap(), 0, "it is open until then");
    }
}

fn has_goaway(bytes: &[u8]) -> bool {
    bytes.windows(9).any(|frame| frame[..2] == [0, 0] && frame[3..] == [7, 0, 0, 0, 0, 0])
}

#[tokio::test]
async fn s3_a_connection_ends_with_the_certificate_of_its_caller_whatever_calls_it_has() {
    timed(async || {
        let site = Site::with_chain(secured(&context())).await;
        let short = site.authority.svid_for(CLIENT, Duration::from_secs(2));
        let mut stream = site.handshake(Some(&short), &["h2"]).await.unwrap();
        stream.write_all(&begun_call()).await.unwrap();
        site.server.wait_for("a call", |status| status.in_flight == 1).await;
        assert!(closed(stream).await, "its caller is told to go elsewhere before");
        let late = SystemTime::now().duration_since(short.identity().not_after()).expect("not before its end");
        assert!(late < Duration::from_secs(1), "{late:?}");
    })
    .await;
}

#[tokio::test]
async fn s3_when_roots_change_callers_that_they_do_not_vouch_for_are_closed_a_second_later_and_others_go_on() {
    timed(async || {
        let site = Site::with_chain(secured(&context())).await;
        let (other, own) = (Authority::new(), site.certificate());
        let trusting = |pem: &str| {
            let trust = TrustBundle::from_pem(pem.as_bytes()).expect("roots");
            site.publisher.publish(KeyMaterial::new().identity(own.identity()).trust(trust));
        };
        trusting(&(site.authority.pem() + &other.pem()));
        let client = site.caller(Some(&site.authority.svid(CLIENT))).await;
        assert_eq!(client.hello().await.unwrap(), "client of shop");
        let mut stream = site.handshake(Some(&other.svid(CLIENT)), &["h2"]).await.unwrap();
        stream.write_all(&begun_call()).await.unwrap();
        site.server.wait_for("a call", |status| status.in_flight == 1).await;

        let published = tokio::time::Instant::now();
        trusting(&site.authority.pem());
        assert!(closed(stream).await, "its caller is told");
        let after = published.elapsed();
        assert!(after >= Duration::from_secs(1) && after < Duration::from_millis(1900), "{after:?}");
        assert_eq!(client.hello().await.unwrap(), "client of shop");
        site.server.wait_for("one connection", |status| status.connections == 1).await;
    })
    .await;
}

/// Its certificates alone would leave its call a second.
#[tokio::test]
async fn s3_once_its_listener_is_replaced_a_connection_that_certificates_drain_has_no_more_than_the_grace() {
    timed(async || {
        let options = ServerOptions::new().drain_grace(Duration::from_millis(50));
        let site = Site::start(Some(secured(&context())), options, |server| server).await.certified().await;
        let (other, own) = (Authority::new(), site.certificate());
        let trusting = |pem: &str| {
            let trust = TrustBundle::from_pem(pem.as_bytes()).expect("roots");
            site.publisher.publish(KeyMaterial::new().identity(own.identity()).trust(trust));
        };
        trusting(&(site.authority.pem() + &other.pem()));
        let mut stream = site.handshake(Some(&other.svid(CLIENT)), &["h2"]).await.unwrap();
        stream.write_all(&begun_call()).await.unwrap();
        site.server.wait_for("a call", |status| status.in_flight == 1).await;

        let published = tokio::time::Instant::now();
        trusting(&site.authority.pem());
        told(&mut stream).await;
        site.listen(secured(&optional()));
        closed(stream).await;
        let after = published.elapsed();
        assert!(after >= Duration::from_millis(50) && after < Duration::from_secs(1), "{after:?}");
    })
    .await;
}

#[tokio::test]
async fn s3_connections_move_to_a_servers_new_certificate_before_the_old_one_ends_and_no_call_fails() {
    timed(async || {
        let site = Site::with_chain(secured(&context())).await;
        let short = |site: &Site| site.authority.svid_for(SERVER, Duration::from_secs(2));
        let (first, second) = (short(&site), site.certificate());
        site.publish(&first);
        let client = site.caller(Some(&site.authority.svid(CLIENT))).await;
        client.hello().await.unwrap();
        let serials = || {
            let connections = crate::support::secured::connections(&client.mesh);
            connections.iter().map(|one| one.peer.serial.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(serials(), [&*first.serial]);
        site.publish(&second);
        while serials() != [&*second.serial] {
            client.hello().await.expect("no call fails");
        }
        assert!(SystemTime::now() < first.identity().not_after(), "in time");
    })
    .await;
}

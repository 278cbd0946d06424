//! Certificates that a control plane sends along, or names (data sources), and secrets (SDS), on both sides.

use std::fs;
use std::time::{Duration, SystemTime};

use mesh_core::server::ServerOptions;
use mesh_core::testing::{
    ControlPlane, Resource, Resources, cluster, endpoints, inline, sds, sds_of_agent, secret, type_url,
};
use mesh_core::{Bootstrap, CertificateProviderStatus, Mesh, SecurityFloor};
use mesh_xds_proto::envoy::config::core::v3::DataSource;
use mesh_xds_proto::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use mesh_xds_proto::envoy::config::core::v3::data_source::Specifier;
use mesh_xds_proto::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context as common;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use mesh_xds_proto::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use tempfile::TempDir;
use tonic::Code;

use crate::rotation::{Load, serials, until};
use crate::support::PATIENCE;
use crate::support::client::{Client, assert_says, impatient, quick};
use crate::support::log::Log;
use crate::support::pki::{Authority, Issued, dns, uri};
use crate::support::sds::SecretAgent;
use crate::support::secured::{
    CLIENT, SERVER, Site, connections, context, fails_in_time, reported, says_in_time, secured_by,
};
use crate::support::secured_server::{self, Caller, in_the_past};
use crate::support::timed::timed;
use crate::support::tls::{TlsFront, server};

/// mTLS by a secret for the certificate and one for the roots, with a peer that `context` asks for.
fn by_secrets(identity: tls::SdsSecretConfig, roots: tls::SdsSecretConfig, peers: &[&str]) -> tls::UpstreamTlsContext {
    let mut asked = context(peers);
    let common = asked.common_tls_context.as_mut().unwrap();
    common.tls_certificate_provider_instance = None;
    common.tls_certificate_sds_secret_configs = vec![identity];
    let Some(common::ValidationContextType::ValidationContext(mut default)) = common.validation_context_type.take()
    else {
        panic!("it has one")
    };
    default.ca_certificate_provider_instance = None;
    let combined = common::CombinedCertificateValidationContext {
        default_validation_context: Some(default),
        validation_context_sds_secret_config: Some(roots),
        ..Default::default()
    };
    common.validation_context_type = Some(common::ValidationContextType::CombinedValidationContext(combined));
    asked
}

/// As Istio's agent calls them.
fn istios(peers: &[&str]) -> tls::UpstreamTlsContext {
    by_secrets(sds("default"), sds("ROOTCA"), peers)
}

fn of_agent(agent: &SecretAgent) -> tls::UpstreamTlsContext {
    by_secrets(sds_of_agent("default", agent.target()), sds_of_agent("ROOTCA", agent.target()), &[SERVER])
}

fn put(control_plane: &ControlPlane, issued: &Issued, roots: &str) {
    control_plane.put_all(
        Resources::new()
            .with(secret("default").certificate(&issued.chain, &issued.key))
            .with(secret("ROOTCA").roots(roots)),
    );
}

/// mTLS with what is sent along.
fn carried(issued: &Issued, roots: &str) -> tls::UpstreamTlsContext {
    from(inline(&issued.chain), inline(&issued.key), inline(roots))
}

fn from(chain: DataSource, key: DataSource, roots: DataSource) -> tls::UpstreamTlsContext {
    let pair = tls::TlsCertificate { certificate_chain: Some(chain), private_key: Some(key), ..Default::default() };
    let validation = tls::CertificateValidationContext { trusted_ca: Some(roots), ..Default::default() };
    let common = tls::CommonTlsContext {
        tls_certificates: vec![pair],
        validation_context_type: Some(common::ValidationContextType::ValidationContext(validation)),
        ..Default::default()
    };
    tls::UpstreamTlsContext { common_tls_context: Some(common), ..Default::default() }
}

fn file(folder: &TempDir, name: &str, content: &str) -> DataSource {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    DataSource { specifier: Some(Specifier::Filename(path.to_str().unwrap().to_owned())), ..Default::default() }
}

/// That nothing of a key is in a text.
fn assert_hides(key: &Issued, text: &str) {
    for line in key.key.lines().filter(|line| !line.starts_with('-')) {
        assert!(!text.contains(&line[..16]), "{text}");
    }
}

#[tokio::test]
async fn certificates_that_the_control_plane_sends_along_are_used_and_changed_with_the_cluster() {
    let site = Site::mutual().await;
    let (first, second) = (site.authority.svid(CLIENT), site.authority.svid(CLIENT));
    site.ask(&carried(&first, &site.authority.pem()));
    let mesh = site.mesh(quick()).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    let load = Load::start(&client);
    site.ask(&carried(&second, &site.authority.pem()));
    until("a connection with the second certificate", || serials(&site.front).contains(&second.serial)).await;
    load.stop().await;
    reported(&mesh, |status| &*status.kind == "inline" && status.serial.as_ref() == Some(&second.serial)).await;
    let status = format!("{:?}", mesh.status());
    assert_hides(&first, &status);
    assert_hides(&second, &status);
}

#[tokio::test]
async fn s9_a_key_is_refused_over_a_connection_in_plaintext_and_taken_over_tls() {
    let site = Site::mutual().await;
    let own = site.authority.svid(CLIENT);
    let control_plane = ControlPlane::builder().listen("127.0.0.1:0").start().await.unwrap();
    control_plane.set(Resources::service("greeter", [site.front.address()]));
    control_plane.put(secured_by(cluster("greeter"), &carried(&own, &site.authority.pem())));
    let mesh = impatient().bootstrap(Bootstrap::from_json(&control_plane.bootstrap_json()).unwrap());
    let mesh = mesh.build().await.unwrap();
    let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
    assert_says(
        &status,
        &["tls_certificates[0].private_key: came over a connection in plaintext", "reach the control plane by TLS"],
    );
    let nack = control_plane.next_nack().await;
    assert!(format!("{nack:?}").contains("tls_certificates[0].private_key"), "{nack:?}");
    assert_hides(&own, &format!("{nack:?} {:?} {status:?}", mesh.status()));
    assert_eq!(site.front.accepted(), 0);

    // The same resources over TLS.
    let named = site.authority.issue(&[dns("localhost")], |_| {});
    let front = TlsFront::start(control_plane.addr(), server(&named, None)).await;
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("ca.pem"), site.authority.pem()).unwrap();
    let bootstrap = serde_json::json!({
        "xds_servers": [{
            "server_uri": format!("localhost:{}", front.address().port()),
            "channel_creds": [{"type": "tls", "config": {"ca_certificate_file": folder.path().join("ca.pem")}}],
        }],
        "node": {"id": "test"},
    });
    let mesh = quick().bootstrap(Bootstrap::from_json(&bootstrap.to_string()).unwrap()).build().await.unwrap();
    assert_eq!(Client::new(&mesh, "xds:///greeter").hello().await.unwrap(), "a");
}

#[tokio::test]
async fn s9_a_secret_with_a_key_is_refused_over_a_connection_in_plaintext() {
    let site = Site::mutual().await;
    let own = site.authority.svid(CLIENT);
    let control_plane = ControlPlane::builder().listen("127.0.0.1:0").start().await.unwrap();
    control_plane.set(Resources::service("greeter", [site.front.address()]));
    control_plane.put(secured_by(cluster("greeter"), &istios(&[SERVER])));
    put(&control_plane, &own, &site.authority.pem());
    let mesh = impatient().bootstrap(Bootstrap::from_json(&control_plane.bootstrap_json()).unwrap());
    let mesh = mesh.build().await.unwrap();
    let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
    assert_says(&status, &["secret `default`", "tls_certificate.private_key: came over a connection in plaintext"]);
    let nack = control_plane.next_nack().await;
    assert_eq!(nack.type_url, type_url::SECRET);
    assert_hides(&own, &format!("{nack:?} {:?} {status:?}", mesh.status()));
}

#[tokio::test]
async fn files_that_the_control_plane_names_are_read_below_allowed_folders() {
    let site = Site::mutual().await;
    let own = site.authority.svid(CLIENT);
    let folder = TempDir::new().unwrap();
    let [chain, key, roots] = [("tls.crt", &own.chain), ("tls.key", &own.key), ("ca.crt", &site.authority.pem())]
        .map(|(name, content)| file(&folder, name, content));
    site.ask(&from(chain, key, roots));
    let refused = site.mesh(impatient()).await;
    let status = Client::new(&refused, "xds:///greeter").hello().await.unwrap_err();
    assert_says(&status, &["tls_certificates[0].certificate_chain.filename", "`MeshBuilder::allow_files_below`"]);
    let mesh = site.mesh(quick().allow_files_below(folder.path())).await;
    assert_eq!(Client::new(&mesh, "xds:///greeter").hello().await.unwrap(), "a");
    reported(&mesh, |status| &*status.kind == "files" && status.serial.as_ref() == Some(&own.serial)).await;
}

#[tokio::test]
async fn a_client_takes_its_certificate_and_roots_by_secrets_and_no_call_fails_while_they_change() {
    timed(async || {
        const SHORT: Duration = Duration::from_secs(2);
        let site = Site::mutual().await;
        let (first, second) = (site.authority.svid_for(CLIENT, SHORT), site.authority.svid(CLIENT));
        site.ask(&istios(&[SERVER]));
        put(&site.control_plane, &first, &site.authority.pem());
        let mesh = site.mesh(quick()).await;
        let client = Client::new(&mesh, "xds:///greeter");
        assert_eq!(client.hello().await.unwrap(), "a");
        assert_eq!(connections(&mesh)[0].peer.spiffe_id.as_ref().unwrap().as_str(), SERVER);
        let load = Load::start(&client);
        put(&site.control_plane, &second, &site.authority.pem());
        until("a connection with the new certificate", || serials(&site.front).contains(&second.serial)).await;
        load.stop().await;
        assert_eq!(
            serials(&site.front),
            [&*first.serial, &*second.serial],
            "rotation in place: one handshake for each"
        );
        let own = reported(&mesh, |status| &*status.name == "default").await;
        assert_eq!((&*own.kind, own.serial), ("sds", Some(second.serial.clone())));
        assert_hides(&second, &format!("{:?}", mesh.status()));
    })
    .await;
}

#[tokio::test]
async fn a_bad_secret_is_refused_by_its_field_and_the_last_good_one_serves() {
    let site = Site::mutual().await;
    let own = site.authority.svid(CLIENT);
    site.ask(&istios(&[SERVER]));
    put(&site.control_plane, &own, &site.authority.pem());
    let mesh = site.mesh(quick()).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    let log = Log::of_warnings();
    let other = site.authority.svid(CLIENT);
    site.control_plane.put(secret("default").certificate(&own.chain, &other.key));
    let nack = site.control_plane.next_nack().await;
    let said = format!("{nack:?}");
    assert!(
        said.contains("Secret `default`: tls_certificate: the pair of certificate and key cannot be used"),
        "{said}"
    );
    assert_hides(&other, &said);
    let status = reported(&mesh, |status| &*status.name == "default" && status.last_error.is_some()).await;
    assert_eq!(status.serial, Some(own.serial.clone()));
    site.front.configure(server(&site.authority.svid(SERVER), Some(&site.authority)));
    assert_eq!(client.hello().await.unwrap(), "a");

    // A secret of a kind that nobody asks for.
    let generic = secret("ROOTCA").modify(|secret| secret.r#type = Some(Type::GenericSecret(Default::default())));
    site.control_plane.put(generic);
    let said = format!("{:?}", site.control_plane.next_nack().await);
    assert!(said.contains("generic_secret: nothing asks for such a secret"), "{said}");
    assert_eq!(client.hello().await.unwrap(), "a");

    // What goes on to be wrong is logged once, however often it comes.
    for other in [site.authority.svid(CLIENT), site.authority.svid(CLIENT), site.authority.svid(CLIENT)] {
        site.control_plane.put(secret("default").certificate(&own.chain, &other.key));
        site.control_plane.next_nack().await;
    }
    assert_eq!(log.lines_with("no new certificate, the last stays in use"), 1);
    put(&site.control_plane, &own, &site.authority.pem());
    reported(&mesh, |status| &*status.name == "default" && status.last_error.is_none()).await;
}

#[tokio::test]
async fn a_secret_that_is_taken_away_stays_in_use_and_so_do_roots_but_says_so() {
    let site = Site::mutual().await;
    let (own, next) = (site.authority.svid(CLIENT), site.authority.svid(CLIENT));
    site.ask(&istios(&[SERVER]));
    put(&site.control_plane, &own, &site.authority.pem());
    let mesh = site.mesh(quick()).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    for name in ["default", "ROOTCA"] {
        site.control_plane.put(Resource::error(type_url::SECRET, name, 5, "taken away"));
        let status = reported(&mesh, |status| &*status.name == name && status.last_error.is_some()).await;
        assert_eq!(status.last_error.as_deref(), Some("NOT_FOUND: taken away"));
    }
    // For connections that are made then, too.
    let other =
        TlsFront::start(site.backend.address(), server(&site.authority.svid(SERVER), Some(&site.authority))).await;
    site.control_plane.put(endpoints("greeter").all([other.address()]));
    until("a connection without the secrets", || serials(&other).contains(&own.serial)).await;
    assert_eq!(client.hello().await.unwrap(), "a");
    put(&site.control_plane, &next, &site.authority.pem());
    reported(&mesh, |status| status.serial.as_ref() == Some(&next.serial) && status.last_error.is_none()).await;
    reported(&mesh, |status| &*status.name == "ROOTCA" && status.last_error.is_none()).await;
}

#[tokio::test]
async fn s1_a_secret_that_is_not_renewed_is_no_reason_to_go_without_when_it_expires() {
    timed(async || {
        const SHORT: Duration = Duration::from_secs(2);
        let site = Site::mutual().await;
        site.ask(&istios(&[SERVER]));
        put(&site.control_plane, &site.authority.svid_for(CLIENT, SHORT), &site.authority.pem());
        let mesh = site.mesh(impatient()).await;
        let client = Client::new(&mesh, "xds:///greeter");
        assert_eq!(client.hello().await.unwrap(), "a");
        site.control_plane.put(Resource::error(type_url::SECRET, "default", 5, "taken away"));
        let status = fails_in_time(&client).await;
        assert_eq!(status.code(), Code::Unavailable);
        assert_says(&status, &["secret `default` (SDS of the control plane)", "expired", "taken away"]);
        let next = site.authority.svid(CLIENT);
        put(&site.control_plane, &next, &site.authority.pem());
        assert_eq!(client.recovers().await, "a");
        assert_eq!(serials(&site.front).last(), Some(&next.serial));
    })
    .await;
}

#[tokio::test]
async fn s1_a_secret_that_never_comes_fails_calls_by_its_name_and_not_in_plaintext() {
    let site = Site::mutual().await;
    site.ask(&istios(&[SERVER]));
    site.control_plane.put(secret("ROOTCA").roots(site.authority.pem()));
    let mesh = site.mesh(impatient()).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let status = client.hello().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_says(&status, &["secret `default` (SDS of the control plane)", "does not exist"]);
    assert_eq!(site.front.accepted(), 0);
    // One of another kind is no certificate.
    site.control_plane.put(secret("default").roots(site.authority.pem()));
    says_in_time(&client, "the secret is a `validation_context`, and a `tls_certificate` is asked for").await;
    let own = site.authority.svid(CLIENT);
    site.control_plane.put(secret("default").certificate(&own.chain, &own.key));
    assert_eq!(client.recovers().await, "a");
}

#[tokio::test]
async fn a_cluster_that_names_a_secret_which_cannot_be_had_is_held_back_while_the_older_one_serves() {
    let site = Site::mutual().await;
    site.ask(&carried(&site.authority.svid(CLIENT), &site.authority.pem()));
    let mesh = site.mesh(impatient()).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    let load = Load::start(&client);
    site.control_plane.put(secret("ROOTCA").roots(site.authority.pem()));
    site.ask(&istios(&[SERVER]));
    let waits = || mesh.status().targets[0].waiting_for.clone().unwrap_or_default();
    until("that it is held back", || waits().contains("secret `default`") && waits().contains("does not exist")).await;
    let own = site.authority.svid(CLIENT);
    site.control_plane.put(secret("default").certificate(&own.chain, &own.key));
    until("a connection by the secret", || serials(&site.front).contains(&own.serial)).await;
    load.stop().await;
}

/// A certificate that is over, or is not valid yet, is no better than none.
#[tokio::test]
async fn a_cluster_that_names_a_secret_whose_certificate_expired_is_held_back_while_the_older_one_serves() {
    timed(async || {
        let site = Site::mutual().await;
        site.ask(&carried(&site.authority.svid(CLIENT), &site.authority.pem()));
        let mesh = site.mesh(impatient()).await;
        let client = Client::new(&mesh, "xds:///greeter");
        assert_eq!(client.hello().await.unwrap(), "a");
        let load = Load::start(&client);
        put(&site.control_plane, &site.authority.issue(&[uri(CLIENT)], in_the_past), &site.authority.pem());
        site.ask(&istios(&[SERVER]));
        let waits = || mesh.status().targets[0].waiting_for.clone().unwrap_or_default();
        until("that it is held back", || {
            waits().contains("secret `default` (SDS of the control plane) has an expired")
        })
        .await;
        // One that comes too early is taken up in its time.
        let early = site.authority.issue(&[uri(CLIENT)], |params| {
            params.not_before = (SystemTime::now() + Duration::from_secs(2)).into();
        });
        put(&site.control_plane, &early, &site.authority.pem());
        until("that it is held back", || waits().contains("has a certificate that is valid from")).await;
        until("a connection by the secret", || serials(&site.front).contains(&early.serial)).await;
        load.stop().await;

        // Nor is one that is sent along.
        site.ask(&carried(&site.authority.issue(&[uri(CLIENT)], in_the_past), &site.authority.pem()));
        until("that it is held back", || waits().contains("that the resource carries has an expired certificate"))
            .await;
        assert_eq!(client.hello().await.unwrap(), "a");
    })
    .await;
}

#[tokio::test]
async fn the_names_of_a_secret_hold_beside_those_of_the_context_and_are_asked_again_when_they_change() {
    let site = Site::mutual().await;
    let own = site.authority.svid(CLIENT);
    let naming = |name: &str| {
        let exact = StringMatcher { match_pattern: Some(MatchPattern::Exact(name.to_owned())), ..Default::default() };
        let matcher = tls::SubjectAltNameMatcher {
            san_type: tls::subject_alt_name_matcher::SanType::Uri as i32,
            matcher: Some(exact),
            ..Default::default()
        };
        secret("ROOTCA").roots(site.authority.pem()).modify(|secret| {
            let Some(Type::ValidationContext(context)) = &mut secret.r#type else { panic!("roots") };
            context.match_typed_subject_alt_names = vec![matcher];
        })
    };
    site.ask(&istios(&[]));
    put(&site.control_plane, &own, &site.authority.pem());
    site.control_plane.put(naming("spiffe://cluster.local/ns/shop/sa/other"));
    let mesh = site.mesh(impatient()).await;
    let client = Client::new(&mesh, "xds:///greeter");
    says_in_time(&client, "the cluster asks for another peer").await;
    site.control_plane.put(naming(SERVER));
    assert_eq!(client.recovers().await, "a");
    site.control_plane.put(naming("spiffe://cluster.local/ns/shop/sa/other"));
    assert_says(&fails_in_time(&client).await, &["the cluster asks for another peer"]);
    // The context's own hold as well.
    site.ask(&istios(&[SERVER]));
    assert_eq!(client.recovers().await, "a");
}

#[tokio::test]
async fn a_secret_may_name_files_and_then_others_and_ends_with_those_who_use_it() {
    let site = Site::mutual().await;
    let folder = TempDir::new().unwrap();
    let (first, second, third) =
        (site.authority.svid(CLIENT), site.authority.svid(CLIENT), site.authority.svid(CLIENT));
    let named = |name: &str, issued: &Issued| {
        let chain = file(&folder, &format!("{name}.crt"), &issued.chain);
        let key = file(&folder, &format!("{name}.key"), &issued.key);
        secret("default").modify(|secret| {
            let pair =
                tls::TlsCertificate { certificate_chain: Some(chain), private_key: Some(key), ..Default::default() };
            secret.r#type = Some(Type::TlsCertificate(pair));
        })
    };
    let serial = |status: &CertificateProviderStatus, issued: &Issued| status.serial.as_ref() == Some(&issued.serial);
    site.ask(&istios(&[SERVER]));
    site.control_plane.put(named("first", &first));
    site.control_plane.put(secret("ROOTCA").roots(site.authority.pem()));
    let mesh = site.mesh(quick().allow_files_below(folder.path())).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    reported(&mesh, |status| &*status.kind == "sds" && serial(status, &first)).await;
    site.control_plane.put(named("second", &second));
    reported(&mesh, |status| serial(status, &second)).await;
    // What is sent along takes the place of files, for good.
    site.control_plane.put(secret("default").certificate(&third.chain, &third.key));
    reported(&mesh, |status| serial(status, &third)).await;
    assert_eq!(client.hello().await.unwrap(), "a");

    // Nobody asks for it any more.
    site.ask(&carried(&first, &site.authority.pem()));
    let kinds = || mesh.status().certificate_providers.into_iter().map(|status| status.kind);
    until("that no secret is watched", || kinds().all(|kind| &*kind == "inline")).await;
    assert_eq!(client.hello().await.unwrap(), "a");
    tokio::time::timeout(PATIENCE, mesh.shutdown()).await.expect("they end with the mesh, too");
}

#[tokio::test]
async fn files_of_a_secret_that_is_taken_away_are_read_on_and_it_still_says_so() {
    timed(async || {
        let site = Site::mutual().await;
        let folder = TempDir::new().unwrap();
        let write = |issued: &Issued| {
            let [chain, key] =
                [("tls.crt", &issued.chain), ("tls.key", &issued.key)].map(|(name, pem)| file(&folder, name, pem));
            tls::TlsCertificate { certificate_chain: Some(chain), private_key: Some(key), ..Default::default() }
        };
        // Near its end it is looked for every second.
        let pair = write(&site.authority.svid_for(CLIENT, Duration::from_secs(4)));
        site.control_plane.put(secret("default").modify(|secret| secret.r#type = Some(Type::TlsCertificate(pair))));
        site.control_plane.put(secret("ROOTCA").roots(site.authority.pem()));
        site.ask(&istios(&[SERVER]));
        let mesh = site.mesh(quick().allow_files_below(folder.path())).await;
        let client = Client::new(&mesh, "xds:///greeter");
        assert_eq!(client.hello().await.unwrap(), "a");
        site.control_plane.put(Resource::error(type_url::SECRET, "default", 5, "taken away"));
        reported(&mesh, |status| status.last_error.as_deref() == Some("NOT_FOUND: taken away")).await;
        let next = site.authority.svid(CLIENT);
        write(&next);
        let status = reported(&mesh, |status| status.serial.as_ref() == Some(&next.serial)).await;
        assert_eq!(status.last_error.as_deref(), Some("NOT_FOUND: taken away"));
        put(&site.control_plane, &next, &site.authority.pem());
        reported(&mesh, |status| &*status.name == "default" && status.last_error.is_none()).await;
    })
    .await;
}

#[tokio::test]
async fn an_agent_whose_socket_is_elsewhere_by_now_is_asked_there() {
    let site = Site::mutual().await;
    let (mut old, mut new) = (SecretAgent::new(), SecretAgent::new());
    let (first, second) = (site.authority.svid(CLIENT), site.authority.svid(CLIENT));
    put(&old.secrets, &first, &site.authority.pem());
    put(&new.secrets, &second, &site.authority.pem());
    old.start();
    new.start();
    // As Kubernetes swaps the folders that it mounts.
    let folder = TempDir::new().unwrap();
    let link = folder.path().join("agent");
    std::os::unix::fs::symlink(old.folder(), &link).unwrap();
    let target = format!("unix:{}", link.join("socket").display());
    let asked = by_secrets(sds_of_agent("default", &*target), sds_of_agent("ROOTCA", &*target), &[SERVER]);
    site.ask(&asked);
    let allowed = [folder.path().to_owned(), old.folder(), new.folder()];
    let builder = allowed.iter().fold(quick(), |builder, folder| builder.allow_files_below(folder));
    let mesh = site.mesh(builder).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(new.folder(), &link).unwrap();
    old.stop().await;
    reported(&mesh, |status| status.serial.as_ref() == Some(&second.serial) && status.last_error.is_none()).await;
    assert_eq!(client.hello().await.unwrap(), "a");
}

/// mTLS of a server by secrets.
fn server_by_secrets(identity: &str, roots: &str) -> tls::DownstreamTlsContext {
    let common = tls::CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![sds(identity)],
        validation_context_type: Some(common::ValidationContextType::ValidationContextSdsSecretConfig(sds(roots))),
        ..Default::default()
    };
    tls::DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: Some(true),
        ..Default::default()
    }
}

async fn calls(site: &secured_server::Site) -> Caller {
    site.caller(Some(&site.authority.svid(secured_server::CLIENT))).await
}

#[tokio::test]
async fn a_server_serves_by_secrets_once_they_are_there_and_a_listener_whose_secret_is_missing_is_held_back() {
    let chain = secured_server::secured(&server_by_secrets("default", "ROOTCA"));
    let mut site =
        secured_server::Site::start_in(impatient(), Some(chain), ServerOptions::new(), |server| server).await;
    let why = site.stops().await;
    assert!(why.contains("secret `"), "{why}");
    site.closes_connections().await;
    let own = site.authority.issue(&[uri(SERVER), dns("server.test")], |_| {});
    put(&site.control_plane, &own, &site.authority.pem());
    site.serves().await;
    let caller = calls(&site).await;
    assert_eq!(caller.hello().await.unwrap(), "client of shop");

    let load = Load::start(&caller.client);
    let (next, roots) = (site.authority.issue(&[uri(SERVER), dns("server.test")], |_| {}), site.authority.pem());
    site.listen(secured_server::secured(&server_by_secrets("missing", "ROOTCA")));
    site.server
        .wait_for("a listener that is held back", |status| {
            status.waiting_for.as_ref().is_some_and(|what| what.contains("secret `missing`"))
        })
        .await;
    site.control_plane.put(secret("missing").certificate(&next.chain, &next.key));
    site.server.wait_for("the listener", |status| status.waiting_for.is_none()).await;
    put(&site.control_plane, &next, &roots);
    load.stop().await;
    let certificate = calls(&site).await;
    assert_eq!(certificate.hello().await.unwrap(), "client of shop");
    assert_eq!(*connections(&certificate.mesh)[0].peer.serial, *next.serial);
}

#[tokio::test]
async fn an_agents_socket_is_asked_for_secrets_and_may_go_away_and_return() {
    let site = Site::mutual().await;
    let mut agent = SecretAgent::new();
    let (first, second) = (site.authority.svid(CLIENT), site.authority.svid(CLIENT));
    put(&agent.secrets, &first, &site.authority.pem());
    site.ask(&of_agent(&agent));
    let mesh = site.mesh(quick().allow_files_below(agent.folder())).await;
    let client = Client::new(&mesh, "xds:///greeter");
    // Its socket is not there yet.
    let status = fails_in_time(&client).await;
    assert_says(&status, &[&format!("(SDS at {})", agent.target()), "No such file"]);
    agent.start();
    assert_eq!(client.recovers().await, "a");

    let load = Load::start(&client);
    agent.stop().await;
    let failing = reported(&mesh, |status| &*status.name == "default" && status.last_error.is_some()).await;
    assert!(failing.last_error.unwrap().contains("cannot be asked"));
    put(&agent.secrets, &second, &site.authority.pem());
    agent.start();
    reported(&mesh, |status| status.serial.as_ref() == Some(&second.serial) && status.last_error.is_none()).await;
    load.stop().await;
    // A bad one is refused there, too.
    agent.secrets.put(secret("ROOTCA").roots("none"));
    let said = format!("{:?}", agent.secrets.next_nack().await);
    assert!(said.contains("validation_context.trusted_ca: the root certificates cannot be used"), "{said}");
    assert_eq!(client.hello().await.unwrap(), "a");
}

#[tokio::test]
async fn s9_no_socket_is_asked_but_below_allowed_folders_and_no_cluster_of_envoys() {
    let site = Site::mutual().await;
    let agent = SecretAgent::new();
    let place = "tls_certificate_sds_secret_configs[0].sds_config.api_config_source.grpc_services[0]";
    let refused = |context: tls::UpstreamTlsContext, what: &'static [&'static str]| {
        let (site, place) = (&site, place);
        async move {
            site.ask(&context);
            let mesh: Mesh = site.mesh(impatient()).await;
            let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
            assert_says(&status, &[place]);
            assert_says(&status, what);
        }
    };
    refused(of_agent(&agent), &["google_grpc.target_uri", "`MeshBuilder::allow_files_below`"]).await;
    let at = |uri: &str| by_secrets(sds_of_agent("default", uri), sds("ROOTCA"), &[SERVER]);
    refused(at("127.0.0.1:80"), &["google_grpc.target_uri: \"127.0.0.1:80\" is no Unix socket"]).await;
    refused(at("unix:./var/run/secrets/../x"), &["without `..`"]).await;
    let mut envoys = sds_of_agent("default", agent.target());
    let Some(ConfigSourceSpecifier::ApiConfigSource(api)) =
        &mut envoys.sds_config.as_mut().unwrap().config_source_specifier
    else {
        panic!("an agent")
    };
    let cluster = EnvoyGrpc { cluster_name: "sds-grpc".into(), ..Default::default() };
    api.grpc_services[0].target_specifier = Some(TargetSpecifier::EnvoyGrpc(cluster));
    let envoys = by_secrets(envoys, sds("ROOTCA"), &[SERVER]);
    refused(envoys, &["envoy_grpc: is a cluster of Envoy's own bootstrap", "`google_grpc.target_uri`"]).await;
}

#[tokio::test]
async fn s7_roots_that_a_control_plane_sends_do_not_vouch_where_code_wants_local_ones() {
    let site = Site::mutual().await;
    let own = site.authority.svid(CLIENT);
    put(&site.control_plane, &own, &site.authority.pem());
    let floor = || SecurityFloor::new().local_roots_only();
    for (context, what) in [
        (carried(&own, &site.authority.pem()), "it trusts roots that the control plane sends"),
        (istios(&[SERVER]), "it trusts roots that come as a secret"),
    ] {
        site.ask(&context);
        let mesh = site.mesh(impatient().security_floor(floor())).await;
        let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
        assert_says(&status, &[what, "`local_roots_only`"]);
    }
    assert_eq!(site.front.accepted(), 0);
}

#[tokio::test]
async fn s6_roots_of_a_secret_vouch_for_the_own_trust_domain_alone() {
    let authority = Authority::new();
    let config = server(&authority.svid("spiffe://other.test/ns/shop/sa/server"), Some(&authority));
    let site = Site::with(authority, config).await;
    site.ask(&istios(&[]));
    put(&site.control_plane, &site.authority.svid(CLIENT), &site.authority.pem());
    let mesh = site.mesh(impatient()).await;
    let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
    assert_says(&status, &["the roots are those of trust domain cluster.local"]);
}

//! Certificates that are believed no more before they expire (A69): on both sides, by lists of the roots' provider and of a
//! TLS context, at the handshake and while a connection is open.

use std::fs;
use std::time::Duration;

use mesh_core::ServerStatus;
use mesh_core::identity::{FileWatcher, KeyMaterial, RevocationLists, TrustBundle};
use mesh_core::testing::endpoints;
use mesh_xds_proto::envoy::config::core::v3::DataSource;
use mesh_xds_proto::envoy::config::core::v3::data_source::Specifier;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep, timeout};

use crate::rotation::{hold, until};
use crate::server_mtls::{begun_call, closed};
use crate::support::PATIENCE;
use crate::support::backend::Backend;
use crate::support::client::{Client, assert_says, impatient, quick};
use crate::support::clock::pass_times;
use crate::support::pki::{Authority, Issued};
use crate::support::secured::{
    CLIENT, SERVER, Site, connections, context, instance, reported, says_in_time, told, validation,
};
use crate::support::secured_server::{self, common, secured};
use crate::support::timed::timed;
use crate::support::tls::{TlsFront, server};

const HOUR: Duration = Duration::from_secs(3600);

fn lists(pem: &str) -> RevocationLists {
    RevocationLists::from_pem(pem.as_bytes()).expect("lists")
}

/// Roots with these lists.
fn trust(authority: &Authority, pem: &str) -> TrustBundle {
    authority.trust().revoked_by(lists(pem))
}

/// A list that is sent along.
fn inline(pem: &str) -> Option<DataSource> {
    Some(DataSource { specifier: Some(Specifier::InlineString(pem.to_owned())), ..Default::default() })
}

/// What calls say to an endpoint that shows `shown` when the roots come with these lists.
async fn called(site: &Site, shown: &Issued, trust: TrustBundle) -> Result<String, tonic::Status> {
    site.front.configure(server(shown, Some(&site.authority)));
    let material = KeyMaterial::new().identity(site.authority.svid(CLIENT).identity()).trust(trust);
    let mesh = site.mesh(impatient().certificate_provider("default", material)).await;
    Client::new(&mesh, "xds:///greeter").hello().await
}

#[tokio::test]
async fn s3_an_endpoint_that_was_revoked_is_refused_by_name_and_who_cannot_be_looked_up_is_too() {
    let site = Site::mutual().await;
    site.ask(&context(&[SERVER]));
    let (good, bad, other) = (site.authority.svid(SERVER), site.authority.svid(SERVER), Authority::new());
    let list = site.authority.revocation_list(&[&bad], HOUR);
    assert_eq!(called(&site, &good, trust(&site.authority, &list)).await.unwrap(), "a");
    let status = called(&site, &bad, trust(&site.authority, &list)).await.unwrap_err();
    let named = format!("{SERVER} (serial number {}): its certificate was revoked by its issuer", bad.serial);
    assert_says(&status, &[&named, "give the endpoint a new certificate"]);
    assert_eq!(site.backend.calls(), 1);

    // Both authorities have one name: the list of each is told from that of the other.
    let both = other.revocation_list(&[], HOUR) + &list;
    assert_eq!(called(&site, &good, trust(&site.authority, &both)).await.unwrap(), "a");
    let status = called(&site, &bad, trust(&site.authority, &both)).await.unwrap_err();
    assert_says(&status, &[&named]);

    let expired = site.authority.revocation_list(&[], Duration::ZERO);
    let strange = other.revocation_list(&[], HOUR);
    for (list, why) in [(&expired, "expired"), (&strange, "is not signed by the issuer that it names")] {
        let status = called(&site, &good, trust(&site.authority, list)).await.unwrap_err();
        assert_says(&status, &["whether its certificate was revoked cannot be told", why]);
        let open = site.authority.trust().revoked_by(lists(list).allow_undetermined());
        assert_eq!(called(&site, &good, open).await.unwrap(), "a", "code may say otherwise");
    }
    let stale = site.authority.revocation_list(&[&bad], Duration::ZERO);
    let open = site.authority.trust().revoked_by(lists(&stale).allow_undetermined());
    assert!(called(&site, &bad, open).await.is_err(), "what a stale list says is still known");
}

/// Two endpoints, one of which is revoked while calls are made to both.
#[tokio::test]
async fn s3_a_connection_to_an_endpoint_that_is_revoked_takes_no_call_and_is_closed_a_second_later() {
    timed(async || {
        let site = Site::mutual().await;
        let (first, second) = (site.authority.svid(SERVER), site.authority.svid(SERVER));
        site.front.configure(server(&first, None));
        let backend = Backend::start("b").await;
        let front = TlsFront::start(backend.address(), server(&second, None)).await;
        site.control_plane.put(endpoints("greeter").endpoint(site.front.address()).endpoint(front.address()));
        site.ask(&context(&[SERVER]));
        let identity = site.authority.svid(CLIENT).identity();
        let material = |revoked: &[&Issued]| {
            let trust = trust(&site.authority, &site.authority.revocation_list(revoked, HOUR));
            Some(Ok(KeyMaterial::new().identity(identity.clone()).trust(trust)))
        };
        let (tell, told) = told();
        tell.send_replace(material(&[]));
        let mesh = site.mesh(quick().certificate_provider("default", told)).await;
        let client = Client::new(&mesh, "xds:///greeter");
        client.hello_until("b").await;
        client.hello_until("a").await;
        backend.hold();
        let held = hold(&client, &backend).await;

        let published = Instant::now();
        tell.send_replace(material(&[&second]));
        while connections(&mesh).len() > 1 {
            tokio::task::yield_now().await;
        }
        assert!(published.elapsed() < Duration::from_millis(900), "at once");
        let status = held.await.unwrap().unwrap_err();
        let after = published.elapsed();
        assert!(after >= Duration::from_secs(1) && after < Duration::from_millis(1900), "{after:?}");
        assert_says(&status, &["trusted no more", &second.serial, "its certificate was revoked by its issuer"]);
        let calls = backend.calls();
        for _ in 0..20 {
            assert_eq!(client.hello().await.unwrap(), "a");
        }
        assert_eq!(backend.calls(), calls);
        assert_eq!(site.front.clients().len(), 1, "the other connection is the one of the beginning");
    })
    .await;
}

#[tokio::test]
async fn s3_a_caller_that_was_revoked_is_refused_and_its_open_connection_is_closed() {
    let site = secured_server::Site::with_chain(secured(&secured_server::context())).await;
    let (own, good, bad) = (site.certificate(), site.authority.svid(CLIENT), site.authority.svid(CLIENT));
    let publish = |revoked: &[&Issued]| {
        let trust = trust(&site.authority, &site.authority.revocation_list(revoked, HOUR));
        site.publisher.publish(KeyMaterial::new().identity(own.identity()).trust(trust));
    };
    publish(&[]);
    let stays = site.caller(Some(&good)).await;
    assert_eq!(stays.hello().await.unwrap(), "client of shop");
    let _open = site.handshake(Some(&bad), &["h2"]).await.unwrap();
    site.server.wait_for("two connections", |status| status.connections == 2).await;

    publish(&[&bad]);
    site.server.wait_for("one connection", |status| status.connections == 1).await;
    assert!(site.handshake(Some(&bad), &["h2"]).await.is_err());
    let named = format!("{CLIENT} (serial number {}): its certificate was revoked by its issuer", bad.serial);
    site.refuses(&named).await;
    assert_eq!(stays.hello().await.unwrap(), "client of shop");
}

#[tokio::test]
async fn a_control_plane_may_send_lists_along_and_one_that_cannot_be_read_is_refused_by_its_field() {
    let site = Site::mutual().await;
    let (good, bad) = (site.authority.svid(SERVER), site.authority.svid(SERVER));
    let list = site.authority.revocation_list(&[&bad], HOUR);
    let mut asked = context(&[SERVER]);
    validation(&mut asked).crl = inline(&list);
    site.ask(&asked);
    assert_eq!(called(&site, &good, site.authority.trust()).await.unwrap(), "a");
    let status = called(&site, &bad, site.authority.trust()).await.unwrap_err();
    assert_says(&status, &[&bad.serial, "was revoked"]);
    // It takes nothing away from what the roots' provider says.
    validation(&mut asked).crl = inline(&site.authority.revocation_list(&[], HOUR));
    validation(&mut asked).only_verify_leaf_cert_crl = true;
    site.ask(&asked);
    assert_eq!(called(&site, &bad, site.authority.trust()).await.unwrap(), "a");
    assert_says(&called(&site, &bad, trust(&site.authority, &list)).await.unwrap_err(), &["was revoked"]);

    let mesh = site.mesh(quick().certificate_provider("default", site.material())).await;
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello().await.unwrap();
    let file = DataSource { specifier: Some(Specifier::Filename("/etc/crl.pem".to_owned())), ..Default::default() };
    let environment = Specifier::EnvironmentVariable("HOME".to_owned());
    let environment = DataSource { specifier: Some(environment), ..Default::default() };
    for (crl, why) in [
        (inline("nothing"), "crl: the revocation lists cannot be used"),
        (Some(file), "crl.filename: \"/etc/crl.pem\" is below none of the folders"),
        (Some(environment), "crl.environment_variable: \"HOME\" is an environment variable"),
        (Some(DataSource::default()), "crl: must be"),
    ] {
        validation(&mut asked).crl = crl;
        site.ask(&asked);
        let (_, nack) = site.control_plane.next_nack().await.error.expect("a NACK says why");
        assert!(nack.contains(&format!("common_tls_context.validation_context.{why}")), "{nack}");
        client.hello().await.expect("the last good one serves");
    }
}

/// As Envoy has it: roots in a file or sent along, and lists in a file beside them.
#[tokio::test]
async fn lists_in_a_file_are_read_again_and_a_file_that_is_broken_leaves_what_it_said() {
    let site = Site::mutual().await;
    let (folder, shown) = (TempDir::new().unwrap(), site.authority.svid(SERVER));
    site.front.configure(server(&shown, Some(&site.authority)));
    let at = |name: &str| folder.path().join(name);
    let put = |name: &str, content: &str| {
        fs::write(at("next"), content).unwrap();
        fs::rename(at("next"), at(name)).unwrap();
    };
    let file = |name: &str| {
        let path = at(name).to_str().expect("a name").to_owned();
        Some(DataSource { specifier: Some(Specifier::Filename(path)), ..Default::default() })
    };
    let (none, revoked) = (site.authority.revocation_list(&[], HOUR), site.authority.revocation_list(&[&shown], HOUR));
    put("ca.crt", &site.authority.pem());
    for (roots, leaf_only) in [(file("ca.crt"), false), (inline(&site.authority.pem()), true)] {
        put("ca.crl", &none);
        let mut asked = context(&[SERVER]);
        let names = validation(&mut asked);
        (names.ca_certificate_provider_instance, names.trusted_ca) = (None, roots);
        (names.crl, names.only_verify_leaf_cert_crl) = (file("ca.crl"), leaf_only);
        names.watched_directory = Some(Default::default());
        site.ask(&asked);
        let mesh = impatient().certificate_provider("default", site.material()).allow_files_below(folder.path());
        let mesh = site.mesh(mesh).await;
        let client = Client::new(&mesh, "xds:///greeter");
        assert_eq!(client.recovers().await, "a");

        put("ca.crl", &revoked);
        read_again().await;
        says_in_time(&client, "its certificate was revoked by its issuer").await;
        put("ca.crl", "-----BEGIN X509 CRL-----");
        read_again().await;
        let broken = reported(&mesh, |status| status.last_error.is_some()).await;
        let said = format!("some revocation lists cannot be read: {}: ", at("ca.crl").display());
        assert!(broken.last_error.as_ref().is_some_and(|error| error.contains(&said)), "{broken:?}");
        says_in_time(&client, "its certificate was revoked by its issuer").await;
        put("ca.crl", &none);
        read_again().await;
        assert_eq!(client.recovers().await, "a");

        // The roots of a provider have their lists from it.
        validation(&mut asked).trusted_ca = None;
        validation(&mut asked).ca_certificate_provider_instance = Some(instance());
        site.ask(&asked);
        let (_, nack) = site.control_plane.next_nack().await.error.expect("a NACK says why");
        assert!(nack.contains("validation_context.crl.filename: is a file, which goes with"), "{nack}");
    }
}

/// Files whose folder is to be watched are read again meanwhile.
async fn read_again() {
    pass_times(50);
    sleep(Duration::from_secs(11)).await;
    pass_times(1);
}

#[tokio::test]
async fn a_listener_may_send_lists_along_and_they_hold_from_the_next_connection_on() {
    let site = secured_server::Site::with_chain(secured(&secured_server::context())).await;
    let (good, bad) = (site.authority.svid(CLIENT), site.authority.svid(CLIENT));
    assert!(site.handshake(Some(&bad), &["h2"]).await.is_ok());
    let mut asked = secured_server::context();
    let Some(ValidationContextType::ValidationContext(validation)) = &mut common(&mut asked).validation_context_type
    else {
        panic!("it has one")
    };
    validation.crl = inline(&site.authority.revocation_list(&[&bad], HOUR));
    site.listen(secured(&asked));
    let refused = async { while site.handshake(Some(&bad), &["h2"]).await.is_ok() {} };
    timeout(PATIENCE, refused).await.expect("it comes into force");
    site.refuses("its certificate was revoked").await;
    assert!(site.handshake(Some(&good), &["h2"]).await.is_ok());
}

/// All connections drain for it, but the calls of who was revoked do not have the time of the others.
#[tokio::test]
async fn s3_what_a_listener_does_not_let_in_any_more_loses_its_open_calls_and_others_keep_theirs() {
    let site = secured_server::Site::with_chain(secured(&secured_server::context())).await;
    let (good, bad) = (site.authority.svid(CLIENT), site.authority.svid(CLIENT));
    let mut streams = Vec::new();
    for caller in [&good, &bad] {
        let mut stream = site.handshake(Some(caller), &["h2"]).await.unwrap();
        stream.write_all(&begun_call()).await.unwrap();
        streams.push(stream);
    }
    site.server.wait_for("two calls", |status| status.in_flight == 2).await;
    let mut asked = secured_server::context();
    let Some(ValidationContextType::ValidationContext(validation)) = &mut common(&mut asked).validation_context_type
    else {
        panic!("it has one")
    };
    validation.crl = inline(&site.authority.revocation_list(&[&bad], HOUR));
    site.listen(secured(&asked));
    assert!(closed(streams.pop().expect("the bad one's")).await, "its caller is told");
    let goes_on = |status: &ServerStatus| status.connections == 1 && status.in_flight == 1;
    site.server.wait_for("the other call goes on", goes_on).await;
}

/// The same of a cluster: a call that is under way does not go on with an endpoint that was revoked, however often its cluster
/// changed since it began.
#[tokio::test]
async fn s3_what_a_cluster_does_not_let_in_any_more_loses_the_calls_in_flight_and_others_keep_theirs() {
    let site = Site::mutual().await;
    let (first, second) = (site.authority.svid(SERVER), site.authority.svid(SERVER));
    site.front.configure(server(&first, None));
    let backend = Backend::start("b").await;
    let front = TlsFront::start(backend.address(), server(&second, None)).await;
    site.control_plane.put(endpoints("greeter").endpoint(site.front.address()).endpoint(front.address()));
    let mut asked = context(&[SERVER]);
    site.ask(&asked);
    let mesh = site.mesh(quick().certificate_provider("default", site.material())).await;
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello_until("b").await;
    client.hello_until("a").await;
    let (mut kept, mut lost) = (None, None);
    for (backend, call) in [(&site.backend, &mut kept), (&backend, &mut lost)] {
        backend.hold();
        *call = Some(hold(&client, backend).await);
    }

    let connected = front.accepted();
    validation(&mut asked).crl = inline(&site.authority.revocation_list(&[], HOUR));
    site.ask(&asked);
    until("another connection, and the one of the call has left", || front.accepted() > connected).await;
    validation(&mut asked).crl = inline(&site.authority.revocation_list(&[&second], HOUR));
    site.ask(&asked);
    let lost = timeout(PATIENCE, lost.expect("a call")).await.expect("it does not go on");
    let status = lost.unwrap().unwrap_err();
    assert_says(&status, &["trusted no more", &second.serial, "its certificate was revoked by its issuer"]);
    site.backend.release();
    assert_eq!(kept.expect("a call").await.unwrap().unwrap(), "a");
}

#[tokio::test]
async fn a_folder_of_lists_is_read_again_and_a_file_that_is_broken_leaves_what_it_said() {
    let site = Site::mutual().await;
    site.ask(&context(&[SERVER]));
    let shown = site.authority.svid(SERVER);
    site.front.configure(server(&shown, Some(&site.authority)));
    let (folder, own) = (TempDir::new().unwrap(), site.authority.svid(CLIENT));
    let at = |name: &str| folder.path().join(name);
    let lists = at("lists");
    fs::create_dir(&lists).unwrap();
    let put = |content: &str| {
        fs::write(at("next"), content).unwrap();
        fs::rename(at("next"), lists.join("ca.crl")).unwrap();
    };
    put(&site.authority.revocation_list(&[], HOUR));
    for (name, content) in [("tls.crt", &own.chain), ("tls.key", &own.key), ("ca.crt", &site.authority.pem())] {
        fs::write(at(name), content).unwrap();
    }
    let files = FileWatcher::new()
        .identity(at("tls.crt"), at("tls.key"))
        .roots(at("ca.crt"))
        .revocation_lists(&lists)
        .refresh_interval(Duration::from_millis(5));
    let mesh = site.mesh(quick().certificate_provider("default", files)).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");

    put(&site.authority.revocation_list(&[&shown], HOUR));
    says_in_time(&client, "its certificate was revoked by its issuer").await;
    let generation = reported(&mesh, |status| status.generation == 2).await.generation;
    put("-----BEGIN X509 CRL-----");
    let broken = reported(&mesh, |status| status.last_error.is_some()).await;
    assert!(broken.last_error.unwrap().contains("some revocation lists cannot be read: ca.crl: "));
    assert_eq!(broken.generation, generation);
    assert_says(&client.hello().await.unwrap_err(), &["was revoked"]);

    put(&site.authority.revocation_list(&[], HOUR));
    assert_eq!(client.recovers().await, "a");
    // Without any list nobody can be looked up.
    fs::remove_file(lists.join("ca.crl")).unwrap();
    let fresh = FileWatcher::new().roots(at("ca.crt")).identity(at("tls.crt"), at("tls.key")).revocation_lists(&lists);
    let fresh = site.mesh(impatient().certificate_provider("default", fresh)).await;
    let status = Client::new(&fresh, "xds:///greeter").hello().await.unwrap_err();
    assert_says(&status, &["there is no revocation list by the issuer of one in its chain"]);
}

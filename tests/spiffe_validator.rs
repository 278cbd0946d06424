//! Envoy's validator for SPIFFE (`custom_validator_config`): each trust domain has roots of its own, on both sides.

use std::fs;

use mesh_core::testing::{any, inline, sds, secret, spiffe_validator, type_url};
use mesh_core::{CertificateProviderStatus, SecurityFloor, ServerStatus};
use mesh_xds_proto::envoy::config::core::v3::data_source::Specifier;
use mesh_xds_proto::envoy::config::core::v3::{DataSource, TypedExtensionConfig};
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context as common;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::rotation::{Load, serials, until};
use crate::support::PATIENCE;
use crate::support::client::{Client, assert_says, impatient, quick};
use crate::support::pki::{Authority, dns, uri};
use crate::support::secured::{CLIENT, SERVER, Site, context, fails_in_time, reported, says_in_time, validation};
use crate::support::secured_server::{self, common as of_server, secured};
use crate::support::tls::server;

const PARTNER: &str = "spiffe://partner.example/ns/x/sa/y";

/// mTLS with the provider `default`, to one of these peers, which this validator vouches for.
fn asked(peers: &[&str], validator: TypedExtensionConfig) -> tls::UpstreamTlsContext {
    let mut asked = context(peers);
    let validation = validation(&mut asked);
    validation.ca_certificate_provider_instance = None;
    validation.custom_validator_config = Some(validator);
    asked
}

/// The validator with another configuration.
fn configured(config: &tls::SpiffeCertValidatorConfig) -> TypedExtensionConfig {
    let typed_config = Some(any(config));
    TypedExtensionConfig { typed_config, ..spiffe_validator([] as [(&str, &str); 0]) }
}

fn map_of(domain: &str, authority: &Authority) -> String {
    let root = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, authority.der());
    let keys = serde_json::json!({"keys": [{"kty": "EC", "use": "x509-svid", "x5c": [root]}]});
    serde_json::json!({"trust_domains": {domain: keys}}).to_string()
}

fn file(folder: &TempDir, name: &str, content: &str) -> DataSource {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    DataSource { specifier: Some(Specifier::Filename(path.to_str().unwrap().to_owned())), ..Default::default() }
}

#[tokio::test]
async fn s6_an_endpoint_is_vouched_for_by_the_roots_of_its_own_trust_domain() {
    let (site, partners) = (Site::mutual().await, Authority::new());
    let domains = [("cluster.local", site.authority.pem()), ("partner.example", partners.pem())];
    site.ask(&asked(&[], spiffe_validator(domains)));
    let two = [uri(SERVER), uri("spiffe://cluster.local/admin")];
    for (shown, why) in [
        (partners.svid(SERVER), "BadSignature"),
        (site.authority.svid(PARTNER), "BadSignature"),
        (site.authority.svid("spiffe://other.test/a"), "no roots for the trust domain of spiffe://other.test/a"),
        (site.authority.issue(&[dns("a.test")], |_| {}), "the certificate has no SPIFFE ID"),
        (site.authority.issue(&two, |_| {}), "has 2 URIs"),
    ] {
        site.front.configure(server(&shown, Some(&site.authority)));
        let mesh = site.mesh(impatient().certificate_provider("default", site.material())).await;
        let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
        assert_says(&status, &[why]);
    }
    for shown in [partners.svid(PARTNER), site.authority.svid(SERVER)] {
        site.front.configure(server(&shown, Some(&site.authority)));
        let mesh = site.mesh(impatient().certificate_provider("default", site.material())).await;
        assert_eq!(Client::new(&mesh, "xds:///greeter").hello().await.unwrap(), "a");
    }
}

/// One of another kind than URI would be left out by Envoy, and so let everyone in.
#[tokio::test]
async fn conditions_on_names_are_about_the_spiffe_id_alone() {
    let site = Site::mutual().await;
    let named = site.authority.issue(&[uri(SERVER), dns("server.test")], |_| {});
    site.front.configure(server(&named, Some(&site.authority)));
    let by = |peers: &[&str]| asked(peers, spiffe_validator([("cluster.local", site.authority.pem())]));
    site.ask(&by(&["server.test", "spiffe://cluster.local/other"]));
    let mesh = site.mesh(impatient().certificate_provider("default", site.material())).await;
    let client = Client::new(&mesh, "xds:///greeter");
    says_in_time(&client, "the cluster asks for another peer, and this one is spiffe://cluster.local").await;
    site.ask(&by(&[SERVER]));
    assert_eq!(client.recovers().await, "a");

    // The name that is asked for must be the peer's in addition, where it takes the place of others (A101) elsewhere.
    let mut strict = by(&["spiffe://cluster.local/other"]);
    (strict.sni, strict.auto_sni_san_validation) = ("server.test".into(), true);
    site.ask(&strict);
    assert_says(&fails_in_time(&client).await, &["the cluster asks for another peer"]);
    let mut asked = by(&[SERVER]);
    (asked.sni, asked.auto_sni_san_validation) = ("other.test".into(), true);
    site.ask(&asked);
    says_in_time(&client, "`other.test` was asked for").await;
    asked.sni = "server.test".into();
    site.ask(&asked);
    assert_eq!(client.recovers().await, "a");
}

#[tokio::test]
async fn its_roots_may_be_in_files_and_in_a_bundle_map() {
    let (site, folder) = (Site::mutual().await, TempDir::new().unwrap());
    let pem = site.authority.pem();
    let map = map_of("cluster.local", &site.authority);
    let mesh = impatient().certificate_provider("default", site.material()).allow_files_below(folder.path());
    site.ask(&asked(&[], spiffe_validator([("other.test", &pem)])));
    let mesh = site.mesh(mesh).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let bundles = |bundles: DataSource| tls::SpiffeCertValidatorConfig {
        trust_bundles: Some(bundles),
        // Of no account beside it, as in Envoy.
        trust_domains: vec![TrustDomain { name: "other.test".into(), trust_bundle: Some(inline(&pem)) }],
    };
    let domains = |roots: DataSource| {
        let other = TrustDomain { name: "other.test".into(), trust_bundle: Some(inline(&pem)) };
        let own = TrustDomain { name: "cluster.local".into(), trust_bundle: Some(roots) };
        tls::SpiffeCertValidatorConfig { trust_domains: vec![other, own], trust_bundles: None }
    };
    for (config, kind) in [
        (bundles(inline(&map)), "inline"),
        (bundles(file(&folder, "map.json", &map)), "files"),
        (domains(inline(&pem)), "inline"),
        (domains(file(&folder, "roots.pem", &pem)), "files"),
    ] {
        site.ask(&asked(&[], spiffe_validator([("other.test", &pem)])));
        says_in_time(&client, "no roots for the trust domain of spiffe://cluster.local").await;
        site.ask(&asked(&[], configured(&config)));
        assert_eq!(client.recovers().await, "a");
        reported(&mesh, |status: &CertificateProviderStatus| &*status.kind == kind).await;
    }
}

/// Roots that are not what they seem, for a file may change at any time.
#[tokio::test]
async fn a_file_of_roots_that_has_revocation_lists_or_nothing_in_it_vouches_for_nobody() {
    let (site, folder) = (Site::mutual().await, TempDir::new().unwrap());
    let list = site.authority.revocation_list(&[], std::time::Duration::from_secs(60));
    let both = format!("{}{list}", site.authority.pem());
    for (content, why) in
        [(&*both, "there are revocation lists beside the certificates"), ("", "no certificate in PEM")]
    {
        let roots =
            TrustDomain { name: "cluster.local".into(), trust_bundle: Some(file(&folder, "roots.pem", content)) };
        let config = tls::SpiffeCertValidatorConfig { trust_domains: vec![roots], trust_bundles: None };
        site.ask(&asked(&[], configured(&config)));
        let mesh = impatient().certificate_provider("default", site.material()).allow_files_below(folder.path());
        let mesh = site.mesh(mesh).await;
        let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
        assert_says(&status, &[why, "roots.pem"]);
    }
    assert_eq!(site.front.accepted(), 0);
}

/// As SPIRE's agent sends them.
fn by_secret(peers: &[&str]) -> tls::UpstreamTlsContext {
    let mut asked = context(peers);
    let mut default = validation(&mut asked).clone();
    default.ca_certificate_provider_instance = None;
    let combined = common::CombinedCertificateValidationContext {
        default_validation_context: Some(default),
        validation_context_sds_secret_config: Some(sds("ALL")),
        ..Default::default()
    };
    let kind = common::ValidationContextType::CombinedValidationContext(combined);
    asked.common_tls_context.as_mut().unwrap().validation_context_type = Some(kind);
    asked
}

#[tokio::test]
async fn a_secret_has_roots_by_trust_domain_and_no_call_fails_while_they_change() {
    let (site, next) = (Site::mutual().await, Authority::new());
    site.ask(&by_secret(&[SERVER]));
    let send = |roots: String| site.control_plane.put(secret("ALL").roots_by_domain([("cluster.local", roots)]));
    send(site.authority.pem());
    let mesh = site.mesh(quick().certificate_provider("default", site.material())).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    let load = Load::start(&client);
    send(format!("{}{}", site.authority.pem(), next.pem()));
    site.control_plane.acked(type_url::SECRET).await;
    let renewed = next.svid(SERVER);
    site.front.configure(server(&renewed, Some(&site.authority)));
    load.stop().await;
    // What is not vouched for any more is replaced.
    send(next.pem());
    assert_eq!(client.recovers().await, "a");
    until("a connection to the server that is vouched for", || {
        let open = crate::support::secured::connections(&mesh);
        open.iter().any(|one| *one.peer.serial == *renewed.serial)
    })
    .await;
    assert!(!serials(&site.front).is_empty());
}

#[tokio::test]
async fn s7_its_roots_do_not_vouch_where_code_wants_local_ones() {
    let site = Site::mutual().await;
    site.ask(&asked(&[SERVER], spiffe_validator([("cluster.local", site.authority.pem())])));
    let floor = SecurityFloor::new().local_roots_only();
    let mesh = impatient().certificate_provider("default", site.material()).security_floor(floor);
    let mesh = site.mesh(mesh).await;
    let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
    assert_says(&status, &["it trusts roots that the control plane sends", "`local_roots_only`"]);
}

/// In Envoy, too, callers show a certificate wherever there is this validator.
#[tokio::test]
async fn s6_callers_are_vouched_for_by_the_roots_of_their_own_trust_domain_and_must_show_a_certificate() {
    let partners = Authority::new();
    let site = secured_server::Site::with_chain(secured(&secured_server::optional())).await;
    site.handshake(None, &["h2"]).await.expect("nobody needs a certificate");
    let validator = spiffe_validator([("cluster.local", site.authority.pem()), ("partner.example", partners.pem())]);
    let validation =
        tls::CertificateValidationContext { custom_validator_config: Some(validator), ..Default::default() };
    let mut asked = secured_server::optional();
    of_server(&mut asked).validation_context_type = Some(common::ValidationContextType::ValidationContext(validation));
    site.listen(secured(&asked));
    let foreign = site.authority.svid("spiffe://other.test/a");
    let refuses = async {
        let says = |status: ServerStatus| status.last_handshake_error.is_some_and(|why| why.contains("no roots for"));
        while !says(site.server.status()) {
            site.handshake(Some(&foreign), &["h2"]).await.expect_err("it is of no known trust domain");
        }
    };
    timeout(PATIENCE, refuses).await.expect("the listener is in force");
    assert_eq!(site.caller(Some(&site.authority.svid(CLIENT))).await.hello().await.unwrap(), "client of shop");
    site.handshake(Some(&partners.svid(PARTNER)), &["h2"]).await.expect("a federated caller");
    for (shown, why) in [
        (Some(partners.svid(CLIENT)), "BadSignature"),
        (Some(site.authority.issue(&[dns("a.test")], |_| {})), "has no SPIFFE ID"),
        (None, "peer sent no certificates"),
    ] {
        site.handshake(shown.as_ref(), &["h2"]).await.expect_err(why);
        site.refuses(why).await;
    }
}

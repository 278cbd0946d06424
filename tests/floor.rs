//! What a mesh insists on, whatever its control plane asks for.

use std::path::Path;
use std::time::Duration;

use mesh_core::testing::{Resources, any, cluster, endpoints, route, route_config, spiffe_validator};
use mesh_core::{Bootstrap, Mesh, SecurityFloor, TlsVersion};
use mesh_xds_proto::envoy::config::cluster::v3::Cluster;
use mesh_xds_proto::envoy::config::core::v3::data_source::Specifier;
use mesh_xds_proto::envoy::config::core::v3::transport_socket::ConfigType;
use mesh_xds_proto::envoy::config::core::v3::{DataSource, TransportSocket, TypedExtensionConfig};
use mesh_xds_proto::envoy::config::route::v3::route::Action;
use mesh_xds_proto::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use tonic::Code;

use crate::support::PATIENCE;
use crate::support::backend::Backend;
use crate::support::client::{Client, assert_says, impatient, quick};
use crate::support::log::Log;
use crate::support::pki::{Authority, Issued, dns, uri};
use crate::support::secured::{
    SERVER, Site, context, fails_in_time, raw_socket, says_in_time, secured_by, socket_match, tls_socket, validation,
};
use crate::support::tls::server;

use self::Said::{Calls, Nack};

const OTHER: &str = "spiffe://cluster.local/ns/shop/sa/other";

/// The problem that the status has of a target's only cluster.
fn problem(mesh: &Mesh) -> Option<String> {
    mesh.status().targets[0].clusters[0].problem.clone()
}

async fn mesh(site: &Site, floor: SecurityFloor) -> Mesh {
    site.mesh(impatient().certificate_provider("default", site.material()).security_floor(floor)).await
}

#[tokio::test]
async fn s7_a_cluster_in_plaintext_is_not_used_where_mtls_is_required_and_the_others_live() {
    let site = Site::mutual().await;
    site.ask(&context(&[SERVER]));
    let plain = Backend::start("plain").await;
    for resource in Resources::service("plain", [plain.address()]).iter() {
        site.control_plane.put(resource.clone());
    }
    let mesh = mesh(&site, SecurityFloor::new().require_mtls()).await;
    let refused = Client::new(&mesh, "xds:///plain");
    let status = refused.hello().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_says(
        &status,
        &[
            "cluster `plain` is below the security floor of this mesh: it is in plaintext, and mTLS is required",
            "have the control plane ask for what the floor demands",
        ],
    );
    assert!(problem(&mesh).unwrap().contains("below the security floor"));
    assert_eq!(plain.connections(), 0, "not one byte was sent");
    assert_eq!(Client::new(&mesh, "xds:///greeter").hello().await.unwrap(), "a");
}

#[tokio::test]
async fn s7_a_control_plane_that_lowers_security_stops_the_clusters_calls_until_it_asks_for_enough_again() {
    let site = Site::mutual().await;
    site.ask(&context(&[SERVER]));
    let mesh = mesh(&site, SecurityFloor::new().require_mtls()).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");

    let mut anonymous = context(&[SERVER]);
    anonymous.common_tls_context.as_mut().unwrap().tls_certificate_provider_instance = None;
    site.ask(&anonymous);
    assert_says(&fails_in_time(&client).await, &["it asks for no certificate of this process"]);
    let before = site.backend.calls();
    site.control_plane.put(cluster("greeter"));
    says_in_time(&client, "it is in plaintext").await;
    assert_eq!(site.backend.calls(), before);

    site.ask(&context(&[SERVER]));
    assert_eq!(client.recovers().await, "a");
    assert_eq!(problem(&mesh), None);
}

#[tokio::test]
async fn s7_code_says_who_answers_at_a_cluster_whatever_names_the_control_plane_asks_for() {
    let site = Site::mutual().await;
    site.ask(&context(&[]));
    let wrong = mesh(&site, SecurityFloor::new().expect_peer("greeter", [OTHER.parse().unwrap()])).await;
    let status = Client::new(&wrong, "xds:///greeter").hello().await.unwrap_err();
    let says = format!("the floor in code expects another peer at cluster `greeter`, and this one is {SERVER}");
    assert_says(&status, &[&says]);
    assert_eq!(site.backend.calls(), 0);

    let right = [OTHER, SERVER].map(|id| id.parse().unwrap());
    let right = mesh(&site, SecurityFloor::new().expect_peer("greeter", right)).await;
    assert_eq!(Client::new(&right, "xds:///greeter").hello().await.unwrap(), "a");
}

/// Whatever it calls the clusters, and however calls get there.
#[tokio::test]
async fn s7_an_expected_peer_is_stepped_around_by_no_other_cluster_and_by_no_aggregate() {
    let site = Site::mutual().await;
    let elsewhere = secured_by(cluster("elsewhere"), &context(&[]));
    let at_front = endpoints("elsewhere").endpoint(site.front.address());
    let to = |cluster: &str| route_config("greeter").routes([route().cluster(cluster)]);
    let service = Resources::service("greeter", [site.front.address()]).with(elsewhere).with(at_front);
    let wrong = SecurityFloor::new().expect_peer("greeter", [OTHER.parse().unwrap()]);
    let right = SecurityFloor::new().expect_peer("greeter", [OTHER, SERVER].map(|id| id.parse().unwrap()));

    site.control_plane.set(service.with(to("elsewhere")));
    let says = format!("the floor in code expects another peer at target `greeter` than {SERVER} (`expect_peer`)");
    let refused = mesh(&site, wrong.clone()).await;
    let status = Client::new(&refused, "xds:///greeter").hello().await.unwrap_err();
    assert_says(&status, &[&says, "cluster elsewhere", "add this one to the `SecurityFloor` in code"]);
    assert_eq!(site.backend.calls(), 0);

    let served = mesh(&site, right).await;
    let client = Client::new(&served, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");

    site.control_plane.put(cluster("greeter").aggregate(["elsewhere"]));
    site.control_plane.put(to("greeter"));
    let before = site.backend.calls();
    let refused = mesh(&site, wrong).await;
    assert_says(&Client::new(&refused, "xds:///greeter").hello().await.unwrap_err(), &[&says]);
    assert_eq!(site.backend.calls(), before);

    // In plaintext nobody is the one who is expected.
    site.control_plane.put(cluster("elsewhere"));
    site.control_plane.put(endpoints("elsewhere").endpoint(site.backend.address()));
    says_in_time(&client, "expects another peer at target `greeter` than somebody in plaintext").await;
}

#[tokio::test]
async fn s7_copies_of_calls_go_to_nobody_but_the_expected_peer() {
    let site = Site::mutual().await;
    let mirror = Backend::start("mirror").await;
    let policy = RequestMirrorPolicy { cluster: "mirror".to_owned(), ..Default::default() };
    let mirrored = route().cluster("greeter").modify(|route| match &mut route.action {
        Some(Action::Route(action)) => action.request_mirror_policies = vec![policy],
        _ => panic!("it forwards"),
    });
    site.control_plane.set(
        Resources::service("greeter", [site.front.address()])
            .with(cluster("mirror"))
            .with(endpoints("mirror").endpoint(mirror.address()))
            .with(route_config("greeter").routes([mirrored])),
    );
    site.ask(&context(&[SERVER]));
    let free = mesh(&site, SecurityFloor::new()).await;
    let client = Client::new(&free, "xds:///greeter");
    call_until(&client, || mirror.calls() > 0).await;
    call_until(&client, || free.status().mirroring.in_flight == 0).await;

    let before = mirror.calls();
    let kept = mesh(&site, SecurityFloor::new().expect_peer("greeter", [SERVER.parse().unwrap()])).await;
    let client = Client::new(&kept, "xds:///greeter");
    call_until(&client, || kept.status().mirroring.sent > 1 && kept.status().mirroring.in_flight == 0).await;
    assert_eq!(mirror.calls(), before);
}

/// Calls, none of which may fail, until something is so.
async fn call_until(client: &Client, is_so: impl Fn() -> bool) {
    let reached = async {
        while !is_so() {
            assert_eq!(client.hello().await.expect("no copy fails a call"), "a");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect("it becomes so");
}

#[tokio::test]
async fn s7_peers_are_of_the_trust_domains_that_code_allows() {
    let site = Site::mutual().await;
    site.ask(&context(&[]));
    let only = |domain: &str| SecurityFloor::new().allow_trust_domain(domain.parse().unwrap());
    let elsewhere = mesh(&site, only("partner.example")).await;
    let status = Client::new(&elsewhere, "xds:///greeter").hello().await.unwrap_err();
    assert_says(&status, &["the floor in code allows no peer of the trust domain of", SERVER]);
    let here = mesh(&site, only("partner.example").allow_trust_domain("cluster.local".parse().unwrap())).await;
    let client = Client::new(&here, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");

    // A peer that is no workload has no trust domain.
    let nameless = site.authority.issue(&[dns("greeter.test")], |_| {});
    site.front.configure(server(&nameless, Some(&site.authority)));
    let nobody = mesh(&site, only("cluster.local")).await;
    let status = Client::new(&nobody, "xds:///greeter").hello().await.unwrap_err();
    assert_says(&status, &["the floor in code demands a SPIFFE ID"]);
}

#[tokio::test]
async fn s7_an_older_version_of_tls_than_code_allows_is_not_offered() {
    let site = Site::mutual().await;
    site.ask(&context(&[SERVER]));
    let issued = site.authority.svid(SERVER);
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions =
        rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS12]);
    let old = versions.unwrap().with_no_client_auth();
    let mut old = old.with_single_cert(vec![issued.der.clone()], issued.key_der.clone_key()).unwrap();
    old.alpn_protocols = vec![b"h2".to_vec()];
    site.front.configure(old);
    let newer = mesh(&site, SecurityFloor::new().min_tls_version(TlsVersion::V1_3)).await;
    let status = Client::new(&newer, "xds:///greeter").hello().await.unwrap_err();
    assert_says(&status, &["TLS: the handshake failed", "ProtocolVersion"]);
    let any = mesh(&site, SecurityFloor::new()).await;
    assert_eq!(Client::new(&any, "xds:///greeter").hello().await.unwrap(), "a");
}

#[tokio::test]
async fn s7_the_systems_roots_vouch_for_nobody_where_only_local_ones_may() {
    let site = Site::mutual().await;
    let mut asked = context(&["greeter.test"]);
    let names = validation(&mut asked);
    names.ca_certificate_provider_instance = None;
    names.system_root_certs = Some(tls::certificate_validation_context::SystemRootCerts::default());
    site.ask(&asked);
    let mesh = mesh(&site, SecurityFloor::new().local_roots_only()).await;
    let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
    assert_says(&status, &["it trusts the system's roots", "`local_roots_only`"]);
}

#[tokio::test]
async fn s7_calls_go_to_no_cluster_that_code_does_not_allow() {
    let site = Site::mutual().await;
    site.ask(&context(&[SERVER]));
    let elsewhere = mesh(&site, SecurityFloor::new().allow_cluster("shop-*")).await;
    let status = Client::new(&elsewhere, "xds:///greeter").hello().await.unwrap_err();
    assert_says(&status, &["it is none of the clusters that are allowed (`allow_cluster`)"]);
    let here = mesh(&site, SecurityFloor::new().allow_cluster("shop-*").allow_cluster("greeter")).await;
    assert_eq!(Client::new(&here, "xds:///greeter").hello().await.unwrap(), "a");
}

#[tokio::test]
async fn s7_a_mesh_is_not_built_on_a_control_plane_in_plaintext_if_code_forbids_that() {
    let bootstrap = Bootstrap::builder("127.0.0.1:1").insecure().node_id("test").build().unwrap();
    let floor = SecurityFloor::new().require_secure_control_plane();
    let error = Mesh::builder().bootstrap(bootstrap).security_floor(floor).build().await.unwrap_err().report();
    assert!(error.contains("the control plane at `127.0.0.1:1` would be reached in plaintext"), "{error}");
}

#[tokio::test]
async fn s8_a_tls_entry_that_cannot_be_built_is_an_error_and_no_reason_to_try_insecure() {
    let bootstrap = |config: serde_json::Value| {
        let credentials = serde_json::json!([{"type": "tls", "config": config}, {"type": "insecure"}]);
        let server = serde_json::json!({"server_uri": "127.0.0.1:1", "channel_creds": credentials});
        Bootstrap::from_json(&serde_json::json!({"xds_servers": [server]}).to_string())
    };
    let error = bootstrap(serde_json::json!({"ca_certificate_file": 7})).unwrap_err().report();
    assert!(error.contains("channel_creds[0]"), "{error}");
    let missing = bootstrap(serde_json::json!({"ca_certificate_file": "/nowhere/ca.pem"})).unwrap();
    let built = Mesh::builder().bootstrap(missing).build().await;
    let error = built.map(drop).unwrap_err().report();
    assert!(error.contains("/nowhere/ca.pem"), "{error}");
}

#[tokio::test]
async fn s8_a_cluster_without_a_tls_context_is_in_plaintext_only_where_the_floor_lets_it() {
    let site = Site::mutual().await;
    site.control_plane.set(Resources::service("greeter", [site.backend.address()]));
    let free = site.mesh(quick()).await;
    assert_eq!(Client::new(&free, "xds:///greeter").hello().await.unwrap(), "a");
    let strict = mesh(&site, SecurityFloor::new().expect_peer("greeter", [SERVER.parse().unwrap()])).await;
    let status = Client::new(&strict, "xds:///greeter").hello().await.unwrap_err();
    assert_says(&status, &["it is in plaintext, and its peers are to prove who they are (`expect_peer`)"]);
    // A target without a control plane is in plaintext, too.
    let mesh = mesh(&site, SecurityFloor::new().require_mtls()).await;
    let target = format!("static:///{}", site.backend.address());
    assert_says(&Client::new(&mesh, &target).hello().await.unwrap_err(), &["mTLS is required (`require_mtls`)"]);
}

/// Whose `trusted_ca` is this file.
fn trusting(path: &Path) -> tls::UpstreamTlsContext {
    let mut asked = context(&[SERVER]);
    let names = validation(&mut asked);
    names.ca_certificate_provider_instance = None;
    let path = path.to_str().unwrap().to_owned();
    names.trusted_ca = Some(DataSource { specifier: Some(Specifier::Filename(path)), ..Default::default() });
    asked
}

#[tokio::test]
async fn s9_a_file_that_a_control_plane_names_is_refused_by_its_field_outside_the_allowed_folders() {
    let site = Site::mutual().await;
    site.ask(&context(&[SERVER]));
    let (allowed, elsewhere) = (tempfile::TempDir::new().unwrap(), tempfile::TempDir::new().unwrap());
    let builder = impatient().certificate_provider("default", site.material()).allow_files_below(allowed.path());
    let mesh = site.mesh(builder).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    let file = elsewhere.path().join("ca.crt");
    std::fs::write(&file, site.authority.pem()).unwrap();
    let around = allowed.path().join("../ca.crt");
    for (path, problem) in [(&file, "is below none of the folders"), (&around, "without `..`")] {
        site.ask(&trusting(path));
        let (_, nack) = site.control_plane.next_nack().await.error.expect("a NACK says why");
        let field = "common_tls_context.validation_context.trusted_ca.filename: ";
        for wanted in [field, path.to_str().unwrap(), problem] {
            assert!(nack.contains(wanted), "{nack}");
        }
        assert_eq!(client.hello().await.unwrap(), "a", "the last good one serves");
    }
}

/// A site that a control plane tries to weaken, and somebody who would be glad of its calls.
struct Tried {
    site: Site,
    plain: Backend,
}

/// What becomes of an attempt.
enum Said {
    /// The resource is refused by this field, and the last good one serves.
    Nack(&'static str),
    /// Calls fail, and say this.
    Calls(&'static str),
}

impl Tried {
    /// All that the floor demands.
    fn ask_for_enough(&self) {
        self.site.front.configure(server(&self.site.authority.svid(SERVER), Some(&self.site.authority)));
        self.site.control_plane.set(
            Resources::service("greeter", [self.site.front.address()])
                .with(secured_by(cluster("greeter"), &context(&[SERVER]))),
        );
    }

    /// The endpoint is the one in plaintext, and its cluster as changed.
    fn to_plaintext(&self, change: impl FnOnce(&mut Cluster)) {
        self.site.control_plane.put(endpoints("greeter").endpoint(self.plain.address()));
        self.site.control_plane.put(cluster("greeter").modify(change));
    }

    fn ask(&self, change: impl FnOnce(&mut tls::UpstreamTlsContext)) {
        let mut asked = context(&[SERVER]);
        change(&mut asked);
        self.site.ask(&asked);
    }

    fn validate(&self, change: impl FnOnce(&mut tls::CertificateValidationContext)) {
        self.ask(|asked| change(validation(asked)));
    }

    /// As [`validate`](Self::validate), by another context than before, which takes another connection.
    fn anew(&self, change: impl FnOnce(&mut tls::CertificateValidationContext)) {
        self.ask(|asked| {
            asked.sni = "greeter.test".into();
            change(validation(asked));
        });
    }

    /// Who answers from now on.
    fn answers(&self, issued: &Issued) {
        self.site.front.configure(server(issued, Some(&self.site.authority)));
    }

    fn route_to(&self, name: &str) {
        let elsewhere = secured_by(cluster(name), &context(&[SERVER]));
        self.site.control_plane.put(elsewhere);
        self.site.control_plane.put(endpoints(name).endpoint(self.site.front.address()));
        self.site.control_plane.put(route_config("greeter").routes([route().cluster(name)]));
    }
}

fn common(asked: &mut tls::UpstreamTlsContext) -> &mut tls::CommonTlsContext {
    asked.common_tls_context.as_mut().expect("it has one")
}

fn data(specifier: Specifier) -> Option<DataSource> {
    Some(DataSource { specifier: Some(specifier), ..Default::default() })
}

fn text(text: &str) -> Specifier {
    Specifier::InlineString(text.to_owned())
}

type Attempt = (&'static str, fn(&Tried), Said);

/// Each way for a control plane to ask for less, and what becomes of it.
const ATTEMPTS: &[Attempt] = &[
    ("no transport socket", |tried| tried.to_plaintext(|_| {}), Calls("it is in plaintext, and mTLS is required")),
    (
        "raw_buffer",
        |tried| tried.to_plaintext(|cluster| cluster.transport_socket = Some(raw_socket())),
        Calls("it is in plaintext, and mTLS is required"),
    ),
    (
        "a match in plaintext for all endpoints",
        |tried| {
            tried.to_plaintext(|cluster| {
                cluster.transport_socket = Some(tls_socket(&context(&[SERVER])));
                cluster.transport_socket_matches = vec![socket_match(None, raw_socket())];
            });
        },
        Calls("an endpoint of cluster `greeter` is below the security floor"),
    ),
    (
        "an aggregate of a cluster in plaintext",
        |tried| {
            tried.site.control_plane.put(cluster("greeter-plain"));
            tried.site.control_plane.put(endpoints("greeter-plain").endpoint(tried.plain.address()));
            tried.site.control_plane.put(cluster("greeter").aggregate(["greeter-plain"]));
        },
        Calls("it is in plaintext, and mTLS is required"),
    ),
    (
        "another socket",
        |tried| {
            // Of a type that is no socket.
            let config_type = Some(ConfigType::TypedConfig(any(&Cluster::default())));
            let socket = TransportSocket { name: "tap".into(), config_type };
            tried.site.control_plane.put(cluster("greeter").modify(|cluster| cluster.transport_socket = Some(socket)));
        },
        Nack("transport_socket.typed_config"),
    ),
    (
        "no certificate of this process",
        |tried| tried.ask(|asked| common(asked).tls_certificate_provider_instance = None),
        Calls("it asks for no certificate of this process"),
    ),
    (
        "any peer of the authority",
        |tried| {
            tried.answers(&tried.site.authority.svid(OTHER));
            tried.validate(|names| names.match_subject_alt_names.clear());
        },
        Calls("the floor in code expects another peer at cluster `greeter`"),
    ),
    (
        "another peer",
        |tried| {
            tried.answers(&tried.site.authority.svid(OTHER));
            tried.site.ask(&context(&[OTHER]));
        },
        Calls("the floor in code expects another peer at cluster `greeter`"),
    ),
    (
        "another trust domain",
        |tried| {
            const FOREIGN: &str = "spiffe://partner.example/ns/x/sa/y";
            tried.answers(&tried.site.authority.svid(FOREIGN));
            tried.site.ask(&context(&[FOREIGN]));
        },
        Calls("the roots are those of trust domain cluster.local"),
    ),
    (
        "the name that is asked for in the place of the peer's",
        |tried| {
            let named = tried.site.authority.issue(&[uri(OTHER), dns("greeter.test")], |_| {});
            tried.answers(&named);
            tried.ask(|asked| {
                (asked.sni, asked.auto_sni_san_validation) = ("greeter.test".into(), true);
                validation(asked).match_subject_alt_names.clear();
            });
        },
        Calls("the floor in code expects another peer at cluster `greeter`"),
    ),
    (
        "the system's roots",
        |tried| {
            tried.validate(|names| {
                names.ca_certificate_provider_instance = None;
                names.system_root_certs = Some(tls::certificate_validation_context::SystemRootCerts::default());
            });
        },
        Calls("it trusts the system's roots"),
    ),
    (
        "roots of a provider that there is not",
        |tried| {
            let nobody =
                tls::CertificateProviderPluginInstance { instance_name: "nobody".into(), ..Default::default() };
            tried.validate(|names| names.ca_certificate_provider_instance = Some(nobody));
        },
        Nack("ca_certificate_provider_instance.instance_name"),
    ),
    (
        "roots in a file of this machine",
        |tried| {
            tried.validate(|names| {
                names.ca_certificate_provider_instance = None;
                names.trusted_ca = data(Specifier::Filename("/etc/ssl/certs/ca-certificates.crt".to_owned()));
            });
        },
        Nack("trusted_ca.filename"),
    ),
    (
        "roots in the environment",
        |tried| {
            tried.validate(|names| {
                names.ca_certificate_provider_instance = None;
                names.trusted_ca = data(Specifier::EnvironmentVariable("HOME".to_owned()));
            });
        },
        Nack("trusted_ca.environment_variable"),
    ),
    (
        "revocation lists that are none",
        |tried| tried.validate(|names| names.crl = data(text("nothing"))),
        Nack("validation_context.crl"),
    ),
    (
        "expired certificates",
        |tried| {
            tried.answers(&tried.site.authority.svid_for(SERVER, Duration::ZERO));
            tried.anew(|names| names.allow_expired_certificate = true);
        },
        Calls("expired"),
    ),
    (
        "chains that nobody verifies",
        |tried| {
            tried.answers(&Authority::new().svid(SERVER));
            tried.anew(|names| {
                use tls::certificate_validation_context::TrustChainVerification::AcceptUntrusted;
                names.trust_chain_verification = AcceptUntrusted as i32;
            });
        },
        Calls("BadSignature"),
    ),
    (
        "an older version of TLS",
        |tried| tried.ask(|asked| common(asked).tls_params = Some(Default::default())),
        Nack("tls_params"),
    ),
    (
        "a handshaker of another kind",
        |tried| tried.ask(|asked| common(asked).custom_handshaker = Some(Default::default())),
        Nack("custom_handshaker"),
    ),
    (
        "a validator of another kind",
        |tried| {
            tried.validate(|names| {
                names.ca_certificate_provider_instance = None;
                let typed_config = Some(any(&Cluster::default()));
                names.custom_validator_config = Some(TypedExtensionConfig { name: "yes".into(), typed_config });
            });
        },
        Nack("custom_validator_config.typed_config"),
    ),
    (
        "roots of the control plane's in a validator for SPIFFE",
        |tried| {
            let roots = tried.site.authority.pem();
            tried.validate(|names| {
                names.ca_certificate_provider_instance = None;
                names.custom_validator_config = Some(spiffe_validator([("cluster.local", roots)]));
            });
        },
        Calls("it trusts roots that the control plane sends"),
    ),
    (
        "a cluster that code does not allow",
        |tried| tried.route_to("elsewhere"),
        Calls("it is none of the clusters that are allowed"),
    ),
];

#[tokio::test]
async fn s7_no_way_to_ask_for_less_is_obeyed_each_is_said_and_nothing_goes_out_in_plaintext() {
    let log = Log::of_warnings();
    let tried = Tried { site: Site::mutual().await, plain: Backend::start("plain").await };
    tried.ask_for_enough();
    let floor = SecurityFloor::new()
        .require_mtls()
        .allow_trust_domain("cluster.local".parse().unwrap())
        .expect_peer("greeter", [SERVER.parse().unwrap()])
        .local_roots_only()
        .allow_cluster("greeter*");
    let mesh = mesh(&tried.site, floor).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let mut wrong = Vec::new();
    for (what, attempt, said) in ATTEMPTS {
        assert_eq!(client.recovers().await, "a", "before {what}");
        attempt(&tried);
        if let Err(problem) = tried.becomes(said, &client, &mesh, &log).await {
            wrong.push(format!("{what}: {problem}"));
        }
        tried.ask_for_enough();
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), ATTEMPTS.len(), wrong.join("\n"));
}

impl Tried {
    /// That an attempt comes to no more than this, and that it is told.
    async fn becomes(&self, said: &Said, client: &Client, mesh: &Mesh, log: &Log) -> Result<(), String> {
        match said {
            Nack(field) => {
                let (_, nack) = self.site.control_plane.next_nack().await.error.ok_or("a NACK without a reason")?;
                if !nack.contains(field) || log.lines_with(field) == 0 {
                    return Err(format!("NACK, or log, without `{field}`: {nack}"));
                }
                let answer = client.hello().await;
                answer.map_err(|status| format!("the last good one does not serve: {status}"))?;
            }
            Calls(text) => {
                let said = tokio::time::timeout(PATIENCE / 2, says_in_time(client, text)).await;
                said.map_err(|_| format!("never said: {text}, but {:?}", mesh.status().targets[0].clusters))?;
                let calls = self.site.backend.calls();
                if client.hello().await.is_ok() || self.site.backend.calls() != calls {
                    return Err("a call was made".to_owned());
                }
                if log.lines_with(text) == 0 && !format!("{:?}", mesh.status()).contains(text) {
                    return Err("it is no event".to_owned());
                }
            }
        }
        match self.plain.connections() {
            0 => Ok(()),
            connections => Err(format!("{connections} connections in plaintext")),
        }
    }
}

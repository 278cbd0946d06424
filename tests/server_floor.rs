//! What a server's control plane may not lower: each way to ask for less of callers.

use base64::Engine as _;
use mesh_core::SecurityFloor;
use mesh_core::identity::{KeyMaterial, TrustBundle};
use mesh_core::server::ServerOptions;
use mesh_core::testing::{any, filter_chain, server_listener, spiffe_validator};
use mesh_xds_proto::envoy::config::cluster::v3::Cluster;
use mesh_xds_proto::envoy::config::core::v3::data_source::Specifier;
use mesh_xds_proto::envoy::config::core::v3::transport_socket::ConfigType;
use mesh_xds_proto::envoy::config::core::v3::{DataSource, TransportSocket, TypedExtensionConfig};
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context as common_tls;
use mesh_xds_proto::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use self::Said::{Nack, Refuses, Stops};
use crate::support::client::quick;
use crate::support::in_time;
use crate::support::log::Log;
use crate::support::pki::{Authority, Issued, uri};
use crate::support::secured::raw_socket;
use crate::support::secured_server::{CLIENT, Site, common, context, in_the_past, optional, secured};

const FOREIGN: &str = "spiffe://partner.example/ns/x/sa/y";

/// What becomes of an attempt.
enum Said {
    /// It is refused by this field, and the last good one serves.
    Nack(&'static str),
    /// The server does not serve, for this reason.
    Stops(&'static str),
    /// It is obeyed, and this caller is refused all the same, for this reason.
    Refuses(fn(&Site) -> Issued, &'static str),
}

/// Callers that the list names.
fn asked(names: &[&str]) -> tls::DownstreamTlsContext {
    let exact = |name: &&str| StringMatcher {
        match_pattern: Some(MatchPattern::Exact((*name).to_owned())),
        ..Default::default()
    };
    let mut asked = context();
    validation(&mut asked).match_subject_alt_names = names.iter().map(exact).collect();
    asked
}

fn validation(asked: &mut tls::DownstreamTlsContext) -> &mut tls::CertificateValidationContext {
    match &mut common(asked).validation_context_type {
        Some(common_tls::ValidationContextType::ValidationContext(validation)) => validation,
        _ => panic!("it has one"),
    }
}

fn ask(site: &Site, change: impl FnOnce(&mut tls::DownstreamTlsContext)) {
    let mut asked = asked(&[CLIENT]);
    change(&mut asked);
    site.listen(secured(&asked));
}

fn validate(site: &Site, change: impl FnOnce(&mut tls::CertificateValidationContext)) {
    ask(site, |asked| change(validation(asked)));
}

fn data(specifier: Specifier) -> Option<DataSource> {
    Some(DataSource { specifier: Some(specifier), ..Default::default() })
}

fn trusting(site: &Site, specifier: Specifier) {
    validate(site, |names| {
        names.ca_certificate_provider_instance = None;
        names.trusted_ca = data(specifier);
    });
}

fn foreign(site: &Site) -> Issued {
    site.authority.svid(FOREIGN)
}

type Attempt = (&'static str, fn(&Site), Said);

const NO_CERTIFICATE: &str = "it requires no certificate of callers, and";
const NO_SUCH_DOMAIN: &str = "the floor in code allows no peer of the trust domain";

const ATTEMPTS: &[Attempt] = &[
    ("no transport socket", |site| site.listen(filter_chain()), Stops(NO_CERTIFICATE)),
    (
        "raw_buffer",
        |site| site.listen(filter_chain().modify(|chain| chain.transport_socket = Some(raw_socket()))),
        Stops(NO_CERTIFICATE),
    ),
    ("certificates that callers need not show", |site| site.listen(secured(&optional())), Stops(NO_CERTIFICATE)),
    (
        "plaintext for whoever meets no other chain",
        |site| {
            let never = secured(&context())
                .modify(|chain| chain.filter_chain_match.get_or_insert_default().source_ports = vec![1]);
            site.control_plane.put(server_listener(site.address()).chains([never]).default_chain(filter_chain()));
        },
        Stops(NO_CERTIFICATE),
    ),
    (
        "another socket",
        |site| {
            let config_type = Some(ConfigType::TypedConfig(any(&tls::UpstreamTlsContext::default())));
            let socket = TransportSocket { name: "tap".into(), config_type };
            site.listen(filter_chain().modify(|chain| chain.transport_socket = Some(socket)));
        },
        Nack("transport_socket.typed_config"),
    ),
    (
        "no roots",
        |site| ask(site, |asked| common(asked).validation_context_type = None),
        Nack("require_client_certificate"),
    ),
    ("no list of names", |site| site.listen(secured(&asked(&[]))), Refuses(foreign, NO_SUCH_DOMAIN)),
    ("another trust domain", |site| site.listen(secured(&asked(&[FOREIGN]))), Refuses(foreign, NO_SUCH_DOMAIN)),
    (
        "roots that it sends itself",
        |site| trusting(site, Specifier::InlineString(Authority::new().pem())),
        Stops("(`local_roots_only`)"),
    ),
    (
        "roots in a file of this machine",
        |site| trusting(site, Specifier::Filename("/etc/ssl/certs/ca-certificates.crt".to_owned())),
        Nack("trusted_ca.filename"),
    ),
    (
        "roots in the environment",
        |site| trusting(site, Specifier::EnvironmentVariable("HOME".to_owned())),
        Nack("trusted_ca.environment_variable"),
    ),
    (
        "the system's roots",
        |site| {
            validate(site, |names| {
                names.ca_certificate_provider_instance = None;
                names.system_root_certs = Some(Default::default());
            });
        },
        Nack("system_root_certs"),
    ),
    (
        "revocation lists that are none",
        |site| validate(site, |names| names.crl = data(Specifier::InlineString("nothing".to_owned()))),
        Nack("validation_context.crl"),
    ),
    (
        "expired certificates",
        |site| validate(site, |names| names.allow_expired_certificate = true),
        Refuses(|site| site.authority.issue(&[uri(CLIENT)], in_the_past), "expired"),
    ),
    (
        "chains that nobody verifies",
        |site| {
            validate(site, |names| {
                use tls::certificate_validation_context::TrustChainVerification::AcceptUntrusted;
                names.trust_chain_verification = AcceptUntrusted as i32;
            });
        },
        Refuses(|_| Authority::new().svid(CLIENT), "BadSignature"),
    ),
    (
        "an older version of TLS",
        |site| ask(site, |asked| common(asked).tls_params = Some(Default::default())),
        Nack("tls_params"),
    ),
    (
        "a handshaker of another kind",
        |site| ask(site, |asked| common(asked).custom_handshaker = Some(Default::default())),
        Nack("custom_handshaker"),
    ),
    (
        "a validator of another kind",
        |site| {
            validate(site, |names| {
                names.ca_certificate_provider_instance = None;
                let typed_config = Some(any(&Cluster::default()));
                names.custom_validator_config = Some(TypedExtensionConfig { name: "yes".into(), typed_config });
            });
        },
        Nack("custom_validator_config.typed_config"),
    ),
];

#[tokio::test]
async fn s7_no_way_to_ask_for_less_of_callers_is_obeyed_each_is_said_and_nobody_is_served_in_plaintext() {
    let log = Log::of_warnings();
    let floor =
        SecurityFloor::new().require_mtls().allow_trust_domain("cluster.local".parse().unwrap()).local_roots_only();
    let mesh = quick().security_floor(floor);
    let chain = Some(secured(&asked(&[CLIENT])));
    let site = Site::start_in(mesh, chain, ServerOptions::new(), |server| server).await;
    federate(&site);
    let mut wrong = Vec::new();
    for (what, attempt, said) in ATTEMPTS {
        site.listen(secured(&asked(&[CLIENT])));
        is_served(&site, &site.authority.svid(CLIENT)).await;
        attempt(&site);
        if let Err(problem) = becomes(&site, said, &log).await {
            wrong.push(format!("{what}: {problem}"));
        }
        if speaks_plaintext(&site).await {
            wrong.push(format!("{what}: it is served in plaintext"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), ATTEMPTS.len(), wrong.join("\n"));
}

/// Envoy's validator for SPIFFE demands a certificate of callers, whatever the context says.
#[tokio::test]
async fn s7_a_listener_whose_validator_demands_certificates_is_not_below_a_floor_that_requires_mtls() {
    let mesh = quick().security_floor(SecurityFloor::new().require_mtls());
    let chain = Some(secured(&asked(&[])));
    let site = Site::start_in(mesh, chain, ServerOptions::new(), |server| server).await.certified().await;
    let partners = Authority::new();
    ask(&site, |asked| {
        asked.require_client_certificate = None;
        let names = validation(asked);
        names.match_subject_alt_names.clear();
        names.ca_certificate_provider_instance = None;
        names.custom_validator_config = Some(spiffe_validator([("partner.example", partners.pem())]));
    });
    is_served(&site, &partners.svid("spiffe://partner.example/web")).await;
    site.handshake(None, &["h2"]).await.expect_err("it shows no certificate");
    assert!(!speaks_plaintext(&site).await);
}

/// The provider's roots vouch for two trust domains, of which code allows one.
fn federate(site: &Site) {
    let root = base64::engine::general_purpose::STANDARD.encode(site.authority.der());
    let keys = serde_json::json!({"keys": [{"kty": "EC", "use": "x509-svid", "x5c": [root]}]});
    let json = serde_json::json!({"trust_domains": {"cluster.local": keys, "partner.example": keys}}).to_string();
    let trust = TrustBundle::from_spiffe_bundle_map(&json).expect("a bundle map");
    site.publisher.publish(KeyMaterial::new().identity(site.certificate().identity()).trust(trust));
}

/// Waits until this caller is served.
async fn is_served(site: &Site, caller: &Issued) {
    let served = async {
        while site.handshake(Some(caller), &["h2"]).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    in_time("the caller is served", served).await;
}

async fn becomes(site: &Site, said: &Said, log: &Log) -> Result<(), String> {
    match said {
        Nack(field) => {
            let (_, nack) = site.control_plane.next_nack().await.error.ok_or("a NACK without a reason")?;
            if !nack.contains(field) || log.lines_with(field) == 0 {
                return Err(format!("NACK, or log, without `{field}`: {nack}"));
            }
            let answer = site.handshake(Some(&site.authority.svid(CLIENT)), &["h2"]).await;
            answer.map_err(|error| format!("the last good one does not serve: {error}"))?;
            match site.handshake(Some(&foreign(site)), &["h2"]).await {
                Ok(_) => Err("a stranger is served".to_owned()),
                Err(_) => Ok(()),
            }
        }
        Stops(text) => {
            let mut modes = site.modes.clone();
            let stopped = modes.wait_for(|mode| mode.as_ref().is_some_and(|mode| mode.to_string().contains(text)));
            drop(in_time(text, stopped).await.map_err(|error| error.to_string())?);
            site.closes_connections().await;
            if log.lines_with(text) == 0 { Err("it is no event".to_owned()) } else { Ok(()) }
        }
        Refuses(caller, why) => {
            let caller = caller(site);
            let refused = async {
                loop {
                    if site.handshake(Some(&caller), &["h2"]).await.is_ok() {
                        return Err("the caller is served".to_owned());
                    }
                    let error = site.server.status().last_handshake_error;
                    if error.is_some_and(|error| error.contains(why)) {
                        return Ok(());
                    }
                    tokio::task::yield_now().await;
                }
            };
            in_time(why, refused).await
        }
    }
}

/// Whether there is an answer in HTTP/2 to who speaks it without TLS.
async fn speaks_plaintext(site: &Site) -> bool {
    let mut stream = TcpStream::connect(site.address()).await.expect("a connection");
    let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let mut first = [0; 9];
    // An alert, or no byte at all.
    let answer = in_time("an end, or an answer", stream.read_exact(&mut first)).await;
    answer.is_ok() && first[3] == 4
}

//! What others send, as bytes: entries for the fuzzers of `tests/fuzz`. Compiled for them and for tests alone.
//!
//! No input panics, hangs, or means something else than the plain rule says. Where an input has two parts, the last line
//! break parts them: configuration in front, the request or the name that it judges behind.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use mesh_xds_proto::envoy::config::core::v3::TransportSocket;
use mesh_xds_proto::envoy::config::core::v3::transport_socket::ConfigType as SocketConfig;
use mesh_xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use mesh_xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use prost::Message;
use prost_types::Any;
use rustls_pki_types::CertificateDer;

use crate::identity::{Leaf, NameKind, SpiffeId, TrustBundle};
use crate::resource::cluster::Cluster;
use crate::resource::filter::FilterConfig;
use crate::resource::filter_chain::FilterChain;
use crate::resource::jwt::keys::Keys;
use crate::resource::jwt::place::TokenPlace;
use crate::resource::jwt::provider::{CLOCK_SKEW, Effects, Provider};
use crate::resource::jwt::requirement::{Requirement, TokenOf};
use crate::resource::jwt::{JwtConfig, JwtFilter};
use crate::resource::listener::Listener;
use crate::resource::local::LocalNames;
use crate::resource::matcher::{RequestHead, RouteMatch};
use crate::resource::rbac::metadata::Known;
use crate::resource::rbac::{Callers, InboundCall};
use crate::resource::{CLUSTER, ENDPOINTS, LISTENER, ROUTE_CONFIGURATION, SECRET, trial};
use crate::server::caller::sanitize;
use crate::testing::{cluster, filter_chain, server_listener};
use crate::xds::resource_type::{Extensions, ResourceType};

/// A name, which its file in `tests/fuzz/corpus` has, too, and what is tried on each input.
pub type Target = (&'static str, fn(&[u8]));

/// All there are.
pub const TARGETS: [Target; 8] = [
    ("spiffe_id", spiffe_id),
    ("certificate", certificate),
    ("bundle_map", bundle_map),
    ("san_matchers", san_matchers),
    ("forwarded", forwarded),
    ("jwt", jwt),
    ("rbac", rbac),
    ("resources", resources),
];

/// A SPIFFE ID as peers' certificates and configurations have it.
pub fn spiffe_id(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.to_string(), text, "an ID is kept as it came");
        assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text, "an ID has two parts");
        assert_eq!(id.namespace().is_some(), id.service_account().is_some(), "Istio's form has both or neither");
    }
}

/// A peer's certificate, before anybody vouches for it.
pub fn certificate(input: &[u8]) {
    let Ok(leaf) = Leaf::read(&CertificateDer::from(input)) else { return };
    let id = leaf.spiffe_id();
    assert!(id.is_err() || leaf.claims_spiffe(), "whoever has an ID claims it");
    assert!(leaf.names.iter().all(|(_, name)| name.is_ascii()), "names are IA5 strings");
    let _ = (leaf.serial(), leaf.subject);
}

/// Whether anything in it has this name.
fn names(json: &serde_json::Value, name: &str) -> bool {
    match json {
        serde_json::Value::Object(fields) => fields.iter().any(|(known, value)| known == name || names(value, name)),
        serde_json::Value::Array(list) => list.iter().any(|value| names(value, name)),
        _ => false,
    }
}

/// A SPIFFE bundle map (A87).
pub fn bundle_map(input: &[u8]) {
    let Ok(json) = std::str::from_utf8(input) else { return };
    if let Ok(bundle) = TrustBundle::from_spiffe_bundle_map(json) {
        // Of names as they are read: JSON may write a character in several ways.
        // What nobody reads of a map may be a number that no value holds.
        let Ok(map) = serde_json::from_str(json) else { return };
        assert!(bundle.trust_domains().iter().all(|domain| names(&map, domain.as_str())));
    }
}

/// An `UpstreamTlsContext` with its conditions on names, and a name.
pub fn san_matchers(input: &[u8]) {
    let (context, name) = parts(input);
    let socket = TransportSocket {
        name: "tls".to_owned(),
        config_type: Some(SocketConfig::TypedConfig(Any {
            type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext".to_owned(),
            value: context.to_vec(),
        })),
    };
    let cluster = cluster("c").modify(|cluster| cluster.transport_socket = Some(socket)).build();
    let Some(cluster) = decoded::<Cluster>(&CLUSTER, &cluster.encode_to_vec()) else { return };
    let Some(context) = &cluster.security else { return };
    for matcher in &context.names {
        let kinds = [NameKind::Uri, NameKind::Dns, NameKind::Email, NameKind::Ip];
        let _ = kinds.map(|kind| matcher.matches(kind, name));
        assert!(matcher.compare(matcher).is_eq());
    }
}

/// The headers of a call whose caller is not trusted, one a line: none that says for whom it calls is left (XFCC), and all others
/// are.
pub fn forwarded(input: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n') {
        let end = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let name = HeaderName::from_bytes(&line[..end]);
        let value = HeaderValue::from_bytes(line.get(end + 1..).unwrap_or_default());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let came = headers.clone();
    sanitize(&mut headers);
    for name in came.keys() {
        let claims = match name.as_str() {
            "forwarded" => true,
            "x-envoy-attempt-count" => false,
            name => name.starts_with("x-forwarded-") || name.starts_with("x-envoy-"),
        };
        let left: Vec<_> = headers.get_all(name).iter().collect();
        let wanted: Vec<_> = came.get_all(name).iter().filter(|_| !claims).collect();
        assert_eq!(left, wanted, "{name}");
    }
}

/// A JWK set, and the token of a call.
pub fn jwt(input: &[u8]) {
    let (keys, token) = parts(input);
    let Ok((keys, _)) = Keys::read(keys) else { return };
    let provider = Provider {
        issuer: String::new(),
        audiences: Vec::new(),
        subjects: None,
        needs_expiration: false,
        max_lifetime: None,
        clock_skew: CLOCK_SKEW,
        keys: keys.into(),
        places: TokenPlace::defaults(),
        effects: Effects { forwards: false, payload_entry: Some("payload".into()), ..Effects::default() },
    };
    let required = Requirement::Provider(TokenOf::provider(0));
    let rules = vec![(RouteMatch::prefix(""), required)];
    let filter = JwtConfig::Rules(Arc::new(JwtFilter::new(vec![provider], rules, Default::default(), false)));
    let mut request = Request::new(());
    let value = HeaderValue::from_str(&format!("Bearer {token}"));
    let Ok(value) = value else { return };
    request.headers_mut().insert(http::header::AUTHORIZATION, value);
    let mut head = request.into_parts().0;
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    match filter.authenticate(&mut head, now) {
        Ok(()) => assert!(head.headers.is_empty(), "a good token goes no further"),
        Err(failure) => drop(filter.answer(failure)),
    }
}

/// An `RBAC` filter, and a call: its path, a header and its caller's name, with tabs between them.
pub fn rbac(input: &[u8]) {
    let (filter, call) = parts(input);
    let filter = HttpFilter {
        name: "rbac".to_owned(),
        config_type: Some(ConfigType::TypedConfig(Any {
            type_url: "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC".to_owned(),
            value: filter.to_vec(),
        })),
        ..HttpFilter::default()
    };
    let chain = filter_chain().modify_manager(|manager| manager.http_filters.insert(0, filter));
    let listener = server_listener("127.0.0.1:1").chains([chain]).build();
    let Some(listener) = decoded::<Listener>(&LISTENER, &listener.encode_to_vec()) else { return };
    let Listener::Socket(listener) = &*listener else { return };
    listener.chains.all().for_each(|chain| authorize(chain, call));
}

fn authorize(chain: &FilterChain, call: &str) {
    let mut facts = call.split('\t');
    let (path, header, name) = (facts.next().unwrap_or_default(), facts.next(), facts.next());
    let mut headers = HeaderMap::new();
    if let Some(value) = header.and_then(|value| HeaderValue::from_str(value).ok()) {
        headers.append("x-a", value);
    }
    let uris: Vec<_> = name.map(str::to_owned).into_iter().collect();
    let callers =
        [Callers::Plaintext, Callers::Anonymous, Callers::Verified { uris: &uris, dns_names: &[], subject: "CN=a" }];
    for caller in callers {
        let head = RequestHead { path, method: &Method::POST, authority: "svc.test", headers: &headers };
        let addresses = Some(([127, 0, 0, 1], 443)).map(|local| (local.into(), ([10, 0, 0, 7], 5000).into()));
        let call = InboundCall { head, addresses, caller, known: Known::default() };
        for filter in &chain.filters.0 {
            let FilterConfig::Rbac(filter) = &filter.config else { continue };
            for rules in filter.rules.iter().chain(&filter.shadow) {
                assert_eq!(rules.decide(&call), rules.decide_by_walk(&call), "the index changes no decision");
            }
        }
    }
}

/// A resource of any type: the first byte says which. A request is routed by what is read.
pub fn resources(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    let kinds = [&LISTENER, &ROUTE_CONFIGURATION, &CLUSTER, &ENDPOINTS, &SECRET];
    let kind = kinds[usize::from(*kind) % kinds.len()];
    // As of a control plane that is asked over TLS, and may name files.
    let mut local = LocalNames { keys_may_come: true, ..Default::default() };
    local.folders.allow(Path::new("/run/certs"));
    trial::decode(kind, bytes, &Extensions::new(local), "/echo.Echo/Echo");
}

fn parts(input: &[u8]) -> (&[u8], &str) {
    let end = input.iter().rposition(|byte| *byte == b'\n').unwrap_or(input.len());
    let behind = input.get(end + 1..).unwrap_or_default();
    (&input[..end], std::str::from_utf8(behind).unwrap_or_default())
}

fn decoded<T: Send + Sync + 'static>(kind: &ResourceType, bytes: &[u8]) -> Option<Arc<T>> {
    (kind.decode)(bytes, &Extensions::default()).value.ok()?.downcast().ok()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::TARGETS;

    /// One input a line, each of which reaches code that no other does, or once did harm.
    const CORPUS: [(&str, &str); TARGETS.len()] = [
        ("spiffe_id", include_str!("../../tests/fuzz/corpus/spiffe_id")),
        ("certificate", include_str!("../../tests/fuzz/corpus/certificate")),
        ("bundle_map", include_str!("../../tests/fuzz/corpus/bundle_map")),
        ("san_matchers", include_str!("../../tests/fuzz/corpus/san_matchers")),
        ("forwarded", include_str!("../../tests/fuzz/corpus/forwarded")),
        ("jwt", include_str!("../../tests/fuzz/corpus/jwt")),
        ("rbac", include_str!("../../tests/fuzz/corpus/rbac")),
        ("resources", include_str!("../../tests/fuzz/corpus/resources")),
    ];

    #[test]
    fn every_input_that_was_kept_does_no_harm() {
        for ((name, target), (of, inputs)) in TARGETS.into_iter().zip(CORPUS) {
            assert_eq!(name, of);
            let inputs: Vec<_> = inputs.lines().map(|line| STANDARD.decode(line).expect("base64")).collect();
            assert!(inputs.len() >= 5, "{name}: {} inputs", inputs.len());
            inputs.iter().for_each(|input| target(input));
        }
    }
}

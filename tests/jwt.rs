//! Tokens of callers (`jwt_authn`): a server verifies what its listener asks for, and its policies see what they say.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use mesh_core::Mesh;
use mesh_core::authorize::{JwkSet, JwtLayer, JwtProvider};
use mesh_core::server::{Claims, RequestBody, ServerOptions, ServingMode};
use mesh_core::testing::{ControlPlane, FilterChainBuilder, filter_chain, route, route_config, server_listener};
use mesh_examples::helloworld::greeter_server::{Greeter, GreeterServer};
use mesh_examples::helloworld::{HelloReply, HelloRequest};
use mesh_tonic::Grpc;
use mesh_xds_proto::envoy::config::core::v3::DataSource;
use mesh_xds_proto::envoy::config::core::v3::data_source::Specifier;
use mesh_xds_proto::envoy::config::rbac::v3 as rbac;
use mesh_xds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use mesh_xds_proto::envoy::config::route::v3::route_match::PathSpecifier;
use mesh_xds_proto::envoy::config::route::v3::{HeaderMatcher, RouteMatch};
use mesh_xds_proto::envoy::extensions::filters::http::jwt_authn::v3 as pb;
use mesh_xds_proto::envoy::extensions::filters::http::rbac::v3::Rbac;
use mesh_xds_proto::envoy::r#type::matcher::v3::metadata_matcher::{PathSegment, path_segment::Segment};
use mesh_xds_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use mesh_xds_proto::envoy::r#type::matcher::v3::{
    ListMatcher, MetadataMatcher, StringMatcher, ValueMatcher, list_matcher, value_matcher,
};
use pb::jwt_provider::{JwksSourceSpecifier, NormalizePayload};
use pb::jwt_requirement::RequiresType;
use pb::per_route_config::RequirementSpecifier;
use pb::requirement_rule::RequirementType;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};
use tower::{ServiceBuilder, service_fn};

use crate::open_streams::{Chat, ending};
use crate::support::PATIENCE;
use crate::support::client::{Client, metadata, quick, quick_mesh};
use crate::support::configured::Setting;
use crate::support::in_time;
use crate::support::jwt::{Issuer, now};
use crate::support::log::Log;
use crate::support::rbac as support_rbac;
use crate::support::served::Served;

pub(crate) fn provider(issuer: &str, keys: &Issuer) -> pb::JwtProvider {
    let keys = DataSource { specifier: Some(Specifier::InlineString(keys.set())), ..Default::default() };
    pb::JwtProvider {
        issuer: issuer.into(),
        payload_in_metadata: "payload".into(),
        jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(keys)),
        ..Default::default()
    }
}

fn requires(requirement: RequiresType) -> pb::JwtRequirement {
    pb::JwtRequirement { requires_type: Some(requirement) }
}

pub(crate) fn by(provider: &str) -> pb::JwtRequirement {
    requires(RequiresType::ProviderName(provider.into()))
}

fn optional(provider: &str) -> pb::JwtRequirement {
    let requirements = vec![by(provider), requires(RequiresType::AllowMissing(()))];
    requires(RequiresType::RequiresAny(pb::JwtRequirementOrList { requirements }))
}

fn prefix(prefix: &str) -> Option<RouteMatch> {
    Some(RouteMatch { path_specifier: Some(PathSpecifier::Prefix(prefix.into())), ..Default::default() })
}

/// One provider, `joe`, and one rule for all calls.
pub(crate) fn filter(provider: pb::JwtProvider, requirement: pb::JwtRequirement) -> pb::JwtAuthentication {
    let rule =
        pb::RequirementRule { r#match: prefix("/"), requirement_type: Some(RequirementType::Requires(requirement)) };
    pb::JwtAuthentication { providers: [("joe".into(), provider)].into(), rules: vec![rule], ..Default::default() }
}

pub(crate) fn chain(filter: &pb::JwtAuthentication) -> FilterChainBuilder {
    filter_chain().filter("jwt", filter)
}

async fn start(filter: &pb::JwtAuthentication) -> Setting {
    Setting::start(chain(filter), ServerOptions::new()).await
}

async fn call(it: &Setting, token: &str) -> Result<String, Status> {
    it.client.hello_with(metadata(&[("authorization", &format!("Bearer {token}"))])).await
}

fn told(result: Result<String, Status>) -> (Code, String) {
    let status = result.expect_err("it is refused");
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn s15_a_call_needs_a_good_token_and_its_handler_does_not_get_it() {
    let (joe, eve) = (Issuer::new("joe"), Issuer::new("joe"));
    let it = start(&filter(pb::JwtProvider { audiences: vec!["a".into()], ..provider("joe", &joe) }, by("joe"))).await;
    let good = json!({"aud": "a", "sub": "alice"});
    assert_eq!(call(&it, &joe.token(&good)).await.expect("a good token"), "a");
    let unauthenticated = |text: &str| (Code::Unauthenticated, text.to_owned());
    assert_eq!(told(it.client.hello().await), unauthenticated("the call has no token"));
    assert_eq!(told(call(&it, &eve.token(&good)).await), unauthenticated("the token's signature is wrong"));
    let expired = joe.token(&json!({"aud": "a", "exp": now() - 61}));
    assert_eq!(told(call(&it, &expired).await), unauthenticated("the token has expired"));
    let early = joe.token(&json!({"aud": "a", "nbf": now() + 600}));
    assert_eq!(told(call(&it, &early).await), unauthenticated("the token is not valid yet"));
    assert_eq!(
        told(call(&it, &joe.token(&json!({"iss": "jim"}))).await),
        unauthenticated("the token's issuer is not known")
    );
    let none = format!("{}.", joe.token(&good).rsplit_once('.').expect("three parts").0);
    assert_eq!(told(call(&it, &none).await), unauthenticated("the token's signature is wrong"));
    assert_eq!(told(call(&it, "junk").await), unauthenticated("the token is malformed"));
    let elsewhere = joe.token(&json!({"aud": "b"}));
    assert_eq!(told(call(&it, &elsewhere).await), (Code::PermissionDenied, "the token is for another audience".into()));
    let seen = it.greeter.seen();
    assert_eq!(seen.len(), 1, "no other call gets to a handler");
    assert!(!seen[0].metadata.contains_key("authorization"));
    let status = it.server.status();
    assert_eq!(status.refused_calls, 8);
    assert!(status.last_refused_call.expect("one was").contains("the token is for another audience"));
}

#[tokio::test]
async fn s15_a_missing_token_is_not_a_failed_one() {
    let (joe, eve) = (Issuer::new("joe"), Issuer::new("joe"));
    let it = start(&filter(provider("joe", &joe), optional("joe"))).await;
    it.client.hello().await.expect("a token may be missing");
    call(&it, &joe.token(&json!({}))).await.expect("a good token");
    let bad = eve.token(&json!({}));
    assert_eq!(told(call(&it, &bad).await).0, Code::Unauthenticated);
    it.changes_to(chain(&filter(provider("joe", &joe), requires(RequiresType::AllowMissingOrFailed(()))))).await;
    in_time("the other requirement", async { while call(&it, &bad).await.is_err() {} }).await;
}

/// What a transport adds is not seen by the routes of clients (A28): were it not seen here, no call would be asked for a token.
#[tokio::test]
async fn s15_a_rule_may_except_calls_by_what_their_transport_adds() {
    let joe = Issuer::new("joe");
    let header = |name: &str| HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(HeaderMatchSpecifier::PrefixMatch("kube-probe".into())),
        invert_match: true,
        ..Default::default()
    };
    let mut filter = filter(provider("joe", &joe), by("joe"));
    let but_for = |name: &str| prefix("/").map(|rule| RouteMatch { headers: vec![header(name)], ..rule });
    filter.rules[0].r#match = but_for("user-agent");
    let it = start(&filter).await;
    assert_eq!(told(it.client.hello().await).0, Code::Unauthenticated);
    call(&it, &joe.token(&json!({}))).await.expect("a good token");
    filter.rules[0].r#match = but_for("grpc-timeout");
    it.control_plane.put(server_listener(it.server.address()).chains([chain(&filter)]));
    let nack = it.control_plane.next_nack().await.error.expect("a NACK says why").1;
    assert!(nack.contains("rules[0].match.headers[0].name: \"grpc-timeout\" cannot be matched"), "{nack}");
}

#[tokio::test]
async fn s15_headers_that_only_the_filter_sets_are_taken_out_of_calls() {
    let joe = Issuer::new("joe");
    let claim = pb::JwtClaimToHeader { header_name: "x-sub".into(), claim_name: "sub".into(), ..Default::default() };
    let provider = pb::JwtProvider {
        forward_payload_header: "x-payload".into(),
        claim_to_headers: vec![claim],
        forward: true,
        ..provider("joe", &joe)
    };
    let it = start(&filter(provider, optional("joe"))).await;
    let forged = [("x-sub", "root"), ("x-payload", "e30")];
    it.client.hello_with(metadata(&forged)).await.expect("a token may be missing");
    let bearer = format!("Bearer {}", joe.token(&json!({"sub": "alice"})));
    let headers = [forged[0], forged[1], ("authorization", &bearer)];
    it.client.hello_with(metadata(&headers)).await.expect("a good token");
    let [without, with] = it.greeter.seen().try_into().expect("two calls");
    assert!(!without.metadata.contains_key("x-sub") && !without.metadata.contains_key("x-payload"));
    assert_eq!(with.metadata.get_all("x-sub").iter().collect::<Vec<_>>(), ["alice"]);
    assert_eq!(with.metadata.get_all("x-payload").iter().count(), 1);
    assert_eq!(with.metadata.get("authorization").expect("it is forwarded"), bearer.as_str());
}

fn claim(path: &[&str], value: value_matcher::MatchPattern) -> MetadataMatcher {
    let segment = |key: &&str| PathSegment { segment: Some(Segment::Key((*key).into())) };
    MetadataMatcher {
        filter: "envoy.filters.http.jwt_authn".into(),
        path: path.iter().map(segment).collect(),
        value: Some(ValueMatcher { match_pattern: Some(value) }),
        invert: false,
    }
}

fn exactly(text: &str) -> value_matcher::MatchPattern {
    let pattern = Some(MatchPattern::Exact(text.into()));
    value_matcher::MatchPattern::StringMatch(StringMatcher { match_pattern: pattern, ..Default::default() })
}

fn having(text: &str) -> value_matcher::MatchPattern {
    let one = ValueMatcher { match_pattern: Some(exactly(text)) };
    let one_of = list_matcher::MatchPattern::OneOf(Box::new(one));
    value_matcher::MatchPattern::ListMatch(Box::new(ListMatcher { match_pattern: Some(one_of) }))
}

/// All of these of callers.
fn policy(action: rbac::rbac::Action, claims: Vec<MetadataMatcher>) -> Rbac {
    let principal = |identifier| rbac::Principal { identifier: Some(identifier) };
    let ids = claims.into_iter().map(|claim| principal(rbac::principal::Identifier::Metadata(claim))).collect();
    let all = principal(rbac::principal::Identifier::AndIds(rbac::principal::Set { ids }));
    let permission = rbac::Permission { rule: Some(rbac::permission::Rule::Any(true)) };
    let policy = rbac::Policy { permissions: vec![permission], principals: vec![all], ..Default::default() };
    let policies = [("claims".to_owned(), policy)].into();
    Rbac { rules: Some(rbac::Rbac { action: action as i32, policies, ..Default::default() }), ..Default::default() }
}

#[tokio::test]
async fn s13_policies_see_what_the_tokens_of_the_filter_before_them_say() {
    use rbac::rbac::Action::{Allow, Deny};
    let joe = Issuer::new("joe");
    let normalized = NormalizePayload { space_delimited_claims: vec!["scope".into()] };
    let provider = pb::JwtProvider { normalize_payload_in_metadata: Some(normalized), ..provider("joe", &joe) };
    let tokens = filter(provider, optional("joe"));
    // As Istio asks for a request principal `joe/alice` with a claim.
    let alice = || {
        vec![
            claim(&["payload", "iss"], exactly("joe")),
            claim(&["payload", "sub"], exactly("alice")),
            claim(&["payload", "scope"], having("write")),
        ]
    };
    let nobody = || vec![claim(&["payload", "iss"], value_matcher::MatchPattern::PresentMatch(false))];
    let of = |sub: &str, scope: &str| joe.token(&json!({"sub": sub, "scope": scope}));
    let (writer, reader, bob) = (of("alice", "read write"), of("alice", "read"), of("bob", "write"));
    let ok = |served: bool| if served { Code::Ok } else { Code::PermissionDenied };
    for (chain, [by_writer, by_reader, by_bob, by_nobody]) in [
        (chain(&tokens).filter("rbac", &policy(Allow, alice())), [true, false, false, false]),
        (chain(&tokens).filter("rbac", &policy(Deny, alice())), [false, true, true, true]),
        (chain(&tokens).filter("rbac", &policy(Deny, nobody())), [true, true, true, false]),
        // Before the filter nothing is known, and nothing matches (A41).
        (filter_chain().filter("rbac", &policy(Allow, alice())).filter("jwt", &tokens), [false; 4]),
        (filter_chain().filter("rbac", &policy(Allow, alice())), [false; 4]),
        (filter_chain().filter("rbac", &policy(Deny, nobody())), [true; 4]),
    ] {
        let it = Setting::start(chain, ServerOptions::new()).await;
        let code = |result: Result<String, Status>| result.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(code(call(&it, &writer).await), ok(by_writer));
        assert_eq!(code(call(&it, &reader).await), ok(by_reader));
        assert_eq!(code(call(&it, &bob).await), ok(by_bob));
        assert_eq!(code(it.client.hello().await), ok(by_nobody));
    }
}

/// What an older filter found out of a call is not what it says.
#[tokio::test]
async fn s11_open_streams_are_judged_by_their_tokens_anew() {
    use rbac::rbac::Action::{Allow, Deny};
    let (joe, eve) = (Issuer::new("joe"), Issuer::new("joe"));
    let to_header = |name: &str| {
        let claim = pb::JwtClaimToHeader { header_name: name.into(), claim_name: "sub".into(), ..Default::default() };
        pb::JwtProvider { claim_to_headers: vec![claim], ..provider("joe", &joe) }
    };
    let alice = || vec![claim(&["payload", "sub"], exactly("alice"))];
    let bob = || vec![claim(&["payload", "sub"], exactly("bob"))];
    let before = || chain(&filter(to_header("x-sub"), by("joe"))).filter("rbac", &policy(Allow, alice()));
    let bearer = format!("Bearer {}", joe.token(&json!({"sub": "alice"})));
    let call = [("authorization", &*bearer)];
    // Two stay, and one that has a mark goes, by which it is known that all were judged.
    let marked = || support_rbac::deny([support_rbac::with_header("x-mark", "yes")]);
    for (what, after, goes_on) in [
        ("good keys", chain(&filter(provider("joe", &joe), by("joe"))).filter("rbac", &policy(Deny, bob())), true),
        ("by claims", chain(&filter(provider("joe", &joe), by("joe"))).filter("rbac", &policy(Deny, alice())), false),
        ("other keys", chain(&filter(provider("joe", &eve), by("joe"))), false),
        ("no tokens are verified", filter_chain().filter("rbac", &policy(Allow, alice())), false),
        (
            "headers of before",
            chain(&filter(to_header("x-name"), by("joe")))
                .filter("rbac", &support_rbac::allow([support_rbac::with_header("x-sub", "alice")])),
            false,
        ),
    ] {
        let it = Setting::start(before(), ending()).await;
        let mut chat = Chat::open_by(&it.client, &call).await;
        let mut marked_one = Chat::open_by(&it.client, &[call[0], ("x-mark", "yes")]).await;
        it.changes_to(after.filter("marks", &marked())).await;
        assert_eq!(marked_one.end().await.code(), Code::PermissionDenied);
        match goes_on {
            true => chat.goes_on().await,
            false => assert_eq!(chat.end().await.code(), Code::PermissionDenied, "{what}"),
        }
    }
}

#[tokio::test]
async fn rules_and_routes_say_which_calls_need_which_tokens() {
    let joe = Issuer::new("joe");
    let requirement_map = [("open".to_owned(), pb::JwtRequirement::default()), ("joe".to_owned(), by("joe"))].into();
    let open = pb::RequirementRule { r#match: prefix("/helloworld."), requirement_type: None };
    let mut rules = filter(provider("joe", &joe), by("joe"));
    rules.rules.insert(0, open);
    let rules = pb::JwtAuthentication { requirement_map, ..rules };
    let named = |name: &str| {
        let requirement_specifier = Some(RequirementSpecifier::RequirementName(name.into()));
        pb::PerRouteConfig { requirement_specifier }
    };
    let routes = route_config("r").routes([
        route().header("x-need", "joe").non_forwarding().filter_config("jwt", &named("joe")),
        route().header("x-need", "nobody").non_forwarding().filter_config("jwt", &named("nobody")),
        route().non_forwarding(),
    ]);
    let it = Setting::start(chain(&rules).inline(routes), ServerOptions::new()).await;
    it.client.hello().await.expect("a rule asks for nothing");
    let need = |who: &'static str| it.client.hello_with(metadata(&[("x-need", who)]));
    assert_eq!(told(need("joe").await).0, Code::Unauthenticated);
    let unknown = told(need("nobody").await);
    assert_eq!(unknown, (Code::PermissionDenied, "the server is not configured to serve the call".into()));
}

/// Answers whose call it is.
struct WhoCalls;

#[tonic::async_trait]
impl Greeter for WhoCalls {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let claims = request.extensions().get::<Claims>();
        let subject = claims.and_then(|claims| claims.text("payload", &["sub"]));
        Ok(Response::new(HelloReply { message: subject.unwrap_or("nobody").to_owned() }))
    }
}

#[tokio::test]
async fn a_handler_learns_what_the_callers_token_says() {
    let joe = Issuer::new("joe");
    let control_plane = ControlPlane::new();
    let mesh = quick_mesh(&control_plane).await;
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tokens = filter(provider("joe", &joe), optional("joe"));
    control_plane.put(server_listener(socket.local_addr().unwrap()).chains([chain(&tokens)]));
    let services = |server: mesh_tonic::MeshServer| server.add_service(GreeterServer::new(WhoCalls));
    let server = Served::start_at(socket, &mesh, ServerOptions::new(), services).await;
    server.wait_for("a server that serves", |status| status.mode == ServingMode::Serving).await;
    let plain = quick().build().await.unwrap();
    let client = Client::new(&plain, &server.target());
    assert_eq!(client.hello().await.expect("a token may be missing"), "nobody");
    let bearer = format!("Bearer {}", joe.token(&json!({"sub": "alice"})));
    assert_eq!(client.hello_with(metadata(&[("authorization", &bearer)])).await.expect("a good token"), "alice");
}

#[tokio::test]
async fn s11_keys_change_from_the_next_call_on_for_connections_that_are_open() {
    let (old, new) = (Issuer::new("joe"), Issuer::new("joe"));
    let it = start(&filter(provider("joe", &old), by("joe"))).await;
    let token = old.token(&json!({}));
    call(&it, &token).await.expect("a good token");
    it.changes_to(chain(&filter(provider("joe", &new), by("joe")))).await;
    in_time("the new keys", async { while call(&it, &token).await.is_ok() {} }).await;
    call(&it, &new.token(&json!({}))).await.expect("the new key's");
    assert_eq!(it.server.status().accepted, 1);
}

#[tokio::test]
async fn s15_what_cannot_be_checked_is_refused_by_field_and_the_last_good_filter_serves() {
    let joe = Issuer::new("joe");
    let good = || provider("joe", &joe);
    let it = start(&filter(good(), by("joe"))).await;
    let with_keys = |text: &str| {
        let keys = DataSource { specifier: Some(Specifier::InlineString(text.into())), ..Default::default() };
        pb::JwtProvider { jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(keys)), ..good() }
    };
    let file = DataSource { specifier: Some(Specifier::Filename("/etc/keys".into())), ..Default::default() };
    let file = pb::JwtProvider { jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(file)), ..good() };
    let remote = Some(JwksSourceSpecifier::RemoteJwks(pb::RemoteJwks::default()));
    let secret = json!({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}).to_string();
    let unverified = requires(RequiresType::ExtractOnlyWithoutValidation(Default::default()));
    let query = |mut filter: pb::JwtAuthentication| {
        let condition = filter.rules[0].r#match.as_mut().expect("a condition");
        condition.query_parameters.push(Default::default());
        filter
    };
    for (bad, says) in [
        (
            filter(pb::JwtProvider { jwks_source_specifier: remote, ..good() }, by("joe")),
            "providers[joe].remote_jwks.http_uri: must be set",
        ),
        (
            filter(pb::JwtProvider { jwks_source_specifier: None, ..good() }, by("joe")),
            "providers[joe].local_jwks: must be set",
        ),
        (filter(file, by("joe")), "providers[joe].local_jwks: must be `inline_string`"),
        (filter(with_keys("junk"), by("joe")), "providers[joe].local_jwks.inline_string: is no JSON object"),
        (
            filter(with_keys(&secret), by("joe")),
            "providers[joe].local_jwks.inline_string: has no key that is supported",
        ),
        (filter(good(), by("jim")), "rules[0].requires.provider_name: \"jim\" is not in `providers`"),
        (filter(good(), unverified), "rules[0].requires.extract_only_without_validation: "),
        (query(filter(good(), by("joe"))), "rules[0].match.query_parameters: "),
        (
            filter(pb::JwtProvider { forward_payload_header: "a b".into(), ..good() }, by("joe")),
            "providers[joe].forward_payload_header: ",
        ),
        (
            filter(pb::JwtProvider { clear_route_cache: true, ..good() }, by("joe")),
            "providers[joe].clear_route_cache: ",
        ),
    ] {
        it.control_plane.put(server_listener(it.server.address()).chains([chain(&bad)]));
        let nack = it.control_plane.next_nack().await.error.expect("a NACK says why").1;
        assert!(nack.contains(&format!("http_filters[0].typed_config.{says}")), "{says}: {nack}");
        call(&it, &joe.token(&json!({}))).await.expect("the last good filter");
        assert_eq!(told(it.client.hello().await).0, Code::Unauthenticated);
    }
}

#[tokio::test]
async fn whatever_comes_as_a_token_is_answered_and_nothing_of_it_is_told() {
    let joe = Issuer::new("joe");
    let it = start(&filter(provider("joe", &joe), by("joe"))).await;
    let good = joe.token(&json!({"x": "x".repeat(4_000)}));
    for token in ["", ".", "..", "e30.e30.", &good[..good.len() - 1], &format!("{good}."), &"x".repeat(8_000)] {
        let (code, told) = told(call(&it, token).await);
        assert_eq!(code, Code::Unauthenticated, "{token:.40}");
        assert!(["the token is malformed", "the token's signature is wrong"].contains(&&*told), "{told}");
    }
    call(&it, &good).await.expect("a good token");
    assert_eq!(it.greeter.calls(), 1);
}

/// A client of a server, and the client's mesh.
struct Guarded(Client, Mesh);

/// A server of tonic's own, with the layer around its services. It runs until the test ends.
async fn tonic_with(layer: JwtLayer) -> Guarded {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound listener");
    let server = Server::builder().layer(layer.protocol(&Grpc)).add_service(GreeterServer::new(WhoCalls));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let mesh = quick().build().await.expect("a mesh");
    Guarded(Client::new(&mesh, &format!("static:///{address}")), mesh)
}

fn joe(keys: &Issuer) -> JwtProvider {
    JwtProvider::new("joe", JwkSet::parse(keys.set()).expect("a good set"))
}

#[tokio::test]
async fn the_layer_alone_answers_as_the_filter_does() {
    let (keys, eve) = (Issuer::new("joe"), Issuer::new("joe"));
    let layered = tonic_with(JwtLayer::new(joe(&keys).audience("a"))).await;
    let wanted = pb::JwtProvider { audiences: vec!["a".into()], ..provider("joe", &keys) };
    let filtered = start(&filter(wanted, by("joe"))).await;
    let good = keys.token(&json!({"aud": "a", "sub": "alice"}));
    let with = |token: &str| metadata(&[("authorization", &format!("Bearer {token}"))]);
    assert_eq!(layered.0.hello_with(with(&good)).await.expect("a good token"), "alice");
    for bad in [
        None,
        Some("junk".to_owned()),
        Some(eve.token(&json!({"aud": "a"}))),
        Some(keys.token(&json!({"aud": "b"}))),
        Some(keys.token(&json!({"aud": "a", "exp": now() - 61}))),
        Some(keys.token(&json!({"aud": "a", "iss": "jim"}))),
    ] {
        let metadata = || bad.as_deref().map(with).unwrap_or_default();
        let by_layer = layered.0.hello_with(metadata()).await.expect_err("it is refused");
        let by_filter = filtered.client.hello_with(metadata()).await.expect_err("it is refused");
        let seen = |status: &Status| {
            let challenge = status.metadata().get("www-authenticate").map(|value| value.as_bytes().to_vec());
            (status.code(), status.message().to_owned(), challenge)
        };
        assert_eq!(seen(&by_layer), seen(&by_filter), "{bad:?}");
    }
}

#[tokio::test]
async fn the_layer_alone_lets_pass_what_it_is_told_to() {
    let (keys, eve, jim) = (Issuer::new("joe"), Issuer::new("joe"), Issuer::new("jim"));
    let bearer = |token: String| ("authorization", format!("Bearer {token}"));
    let ask = |Guarded(client, _): &Guarded, headers: &[(&'static str, String)]| {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (client, metadata) = (client.clone(), metadata(&headers));
        async move { client.hello_with(metadata).await.map_err(|status| status.code()) }
    };
    let (of_joe, forged) = (keys.token(&json!({"sub": "alice"})), eve.token(&json!({"sub": "root"})));
    let optional = tonic_with(JwtLayer::new(joe(&keys)).allow_missing()).await;
    assert_eq!(ask(&optional, &[]).await.as_deref(), Ok("nobody"));
    assert_eq!(ask(&optional, &[bearer(of_joe.clone())]).await.as_deref(), Ok("alice"));
    assert_eq!(ask(&optional, &[bearer(forged.clone())]).await, Err(Code::Unauthenticated));
    let elsewhere = JwtProvider::new("jim", JwkSet::parse(jim.set()).expect("a good set"));
    let elsewhere = elsewhere.from_header("x-token".parse().expect("a name"), "");
    let either = tonic_with(JwtLayer::new(joe(&keys)).or(elsewhere)).await;
    assert_eq!(ask(&either, &[bearer(of_joe)]).await.as_deref(), Ok("alice"));
    let of_jim = jim.token(&json!({"sub": "bob"}));
    assert_eq!(ask(&either, &[("x-token", of_jim.clone())]).await.as_deref(), Ok("bob"));
    assert_eq!(ask(&either, &[bearer(of_jim)]).await, Err(Code::Unauthenticated), "it is not where jim's are");
    assert_eq!(ask(&either, &[]).await, Err(Code::Unauthenticated));
    let open = tonic_with(JwtLayer::new(joe(&keys)).exempt_path_prefix("/helloworld.Greeter/")).await;
    assert_eq!(ask(&open, &[bearer(forged)]).await.as_deref(), Ok("nobody"), "what it says is not believed");
    let other = tonic_with(JwtLayer::new(joe(&keys)).exempt_path_prefix("/grpc.health.v1.Health/")).await;
    assert_eq!(ask(&other, &[]).await, Err(Code::Unauthenticated));
}

/// The status, the challenge and the body that a plain HTTP server answers a GET with.
async fn get(address: SocketAddr, token: Option<&str>, forged: Option<&str>) -> (u16, Option<String>, String) {
    let stream = TcpStream::connect(address).await.expect("a server");
    let (mut client, connection) = h2::client::handshake(stream).await.expect("a handshake");
    tokio::spawn(connection);
    let mut request = http::Request::get(format!("http://{address}/whoami"));
    let headers = request.headers_mut().expect("a request");
    if let Some(token) = token {
        headers.insert("authorization", format!("bearer {token}").parse().expect("a value"));
    }
    if let Some(forged) = forged {
        headers.insert("x-sub", forged.parse().expect("a value"));
    }
    let (response, _) = client.send_request(request.body(()).expect("a request"), true).expect("an open connection");
    let (head, mut body) = response.await.expect("an answer").into_parts();
    let challenge = head.headers.get("www-authenticate").map(|value| value.to_str().expect("text").to_owned());
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        text.extend(data.expect("a body"));
    }
    (head.status.as_u16(), challenge, String::from_utf8(text).expect("text"))
}

#[tokio::test]
async fn the_layer_alone_guards_a_server_of_plain_http() {
    let (keys, eve) = (Issuer::new("joe"), Issuer::new("joe"));
    let whoami = service_fn(|request: http::Request<RequestBody>| async move {
        assert!(!request.headers().contains_key("authorization"), "the handler does not get the token");
        let subject = request.headers().get("x-sub").cloned().unwrap_or_else(|| "nobody".parse().expect("a value"));
        let claims = request.extensions().get::<Claims>().expect("the layer puts them there");
        assert_eq!(claims.text("joes", &["sub"]), subject.to_str().ok());
        Ok::<_, Infallible>(http::Response::new(
            Full::from(subject.as_bytes().to_vec()).map_err(|never| match never {}),
        ))
    });
    let provider = joe(&keys).claim_to_header("sub", "x-sub".parse().expect("a name")).claims_entry("joes");
    let service = ServiceBuilder::new()
        .map_response(|response: http::Response<_>| response.map(BodyExt::boxed))
        .layer(JwtLayer::new(provider))
        .service(whoami);
    let mesh = Mesh::builder().build().await.expect("a mesh");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound listener");
    tokio::spawn(async move { mesh.server().serve(listener, service, std::future::pending::<()>()).await });
    let bad = "Bearer error=\"invalid_token\"".to_owned();
    let alice = keys.token(&json!({"sub": "alice"}));
    assert_eq!(get(address, Some(&alice), Some("root")).await, (200, None, "alice".to_owned()));
    let missing = (401, Some("Bearer".to_owned()), "the call has no token".to_owned());
    assert_eq!(get(address, None, Some("root")).await, missing);
    let forged = eve.token(&json!({"sub": "alice"}));
    let wrong = (401, Some(bad), "the token's signature is wrong".to_owned());
    assert_eq!(get(address, Some(&forged), None).await, wrong);
}

#[tokio::test]
async fn a_file_of_keys_is_read_again_and_a_bad_one_leaves_the_last_good_keys() {
    let (old, new) = (Issuer::new("joe"), Issuer::new("joe"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("jwks.json");
    let says = JwkSet::file(&path).expect_err("there is no file").to_string();
    assert!(says.contains("jwks.json"), "{says}");
    fs::write(&path, r#"{"keys": []}"#).expect("a file");
    assert!(JwkSet::file(&path).is_err(), "without a key nobody could call");
    fs::write(&path, old.set()).expect("a file");
    let keys = JwkSet::file(&path).expect("a good file").refresh_interval(Duration::from_millis(5));
    let Guarded(client, _mesh) = tonic_with(JwtLayer::new(JwtProvider::new("joe", keys))).await;
    let (old_token, new_token) = (old.token(&json!({})), new.token(&json!({})));
    let is_good = |token: &str| {
        let (client, metadata) = (client.clone(), metadata(&[("authorization", &format!("Bearer {token}"))]));
        async move { client.hello_with(metadata).await.is_ok() }
    };
    assert!(is_good(&old_token).await && !is_good(&new_token).await);
    fs::write(folder.path().join("next"), new.set()).expect("a file");
    fs::rename(folder.path().join("next"), &path).expect("a file in its place");
    timeout(PATIENCE, async { while !is_good(&new_token).await {} }).await.expect("the new key is believed");
    assert!(!is_good(&old_token).await, "a key that is gone is not");
    let log = Log::of_warnings();
    fs::write(&path, "junk").expect("a file");
    timeout(PATIENCE, async {
        while log.lines_with("a file of keys cannot be used") == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("the log tells of it");
    assert!(is_good(&new_token).await, "the last good keys stay");
    fs::write(&path, r#"{"keys": []}"#).expect("a file");
    let is_gone = async { while is_good(&new_token).await {} };
    timeout(PATIENCE, is_gone).await.expect("nobody is believed where all keys were taken back");
}

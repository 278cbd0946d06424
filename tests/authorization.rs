//! Who may call a server (A41): policies of the control plane, obeyed from the next call on.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use http::Request;
use mesh_core::server::ServerOptions;
use mesh_core::testing;
use mesh_core::testing::{ControlPlane, FilterChainBuilder, filter_chain, route, route_config, server_listener};
use mesh_tonic::{MeshChannel, MeshServer};
use mesh_xds_proto::envoy::config::core::v3::{CidrRange, TypedExtensionConfig};
use mesh_xds_proto::envoy::config::rbac::v3::permission::Rule;
use mesh_xds_proto::envoy::config::rbac::v3::principal::{Authenticated, Identifier};
use mesh_xds_proto::envoy::config::rbac::v3::rbac::audit_logging_options::{AuditCondition, AuditLoggerConfig};
use mesh_xds_proto::envoy::config::rbac::v3::rbac::{Action, AuditLoggingOptions};
use mesh_xds_proto::envoy::config::rbac::v3::{Permission, Principal, Rbac as Rules};
use mesh_xds_proto::envoy::config::route::v3::HeaderMatcher;
use mesh_xds_proto::envoy::extensions::filters::http::rbac::v3::{Rbac, RbacPerRoute};
use mesh_xds_proto::envoy::extensions::rbac::audit_loggers::stream::v3::StdoutAuditLog;
use mesh_xds_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use mesh_xds_proto::envoy::r#type::matcher::v3::{MetadataMatcher, PathMatcher, StringMatcher, path_matcher};
use rcgen::DnType;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tower::ServiceExt;

use crate::support::backend::Backend;
use crate::support::client::{self, Client, quick, quick_mesh};
use crate::support::configured::Setting;
use crate::support::in_time;
use crate::support::log::Log;
use crate::support::pki::{dns, uri};
use crate::support::rbac::{allow, any, deny, header, permission, principal, rbac, rules, with_header};
use crate::support::secured_server::{CLIENT, Site, optional, secured};
use crate::support::served::Served;

const HELLO: &str = "/helloworld.Greeter/SayHello";

fn with(filter: &Rbac) -> FilterChainBuilder {
    filter_chain().filter("rbac", filter)
}

fn path(path: &str) -> Permission {
    let exact = StringMatcher { match_pattern: Some(MatchPattern::Exact(path.into())), ..Default::default() };
    permission(Rule::UrlPath(PathMatcher { rule: Some(path_matcher::Rule::Path(exact)) }))
}

fn inverted(header: HeaderMatcher) -> HeaderMatcher {
    HeaderMatcher { invert_match: true, ..header }
}

fn not(permission_: Permission) -> Permission {
    permission(Rule::NotRule(Box::new(permission_)))
}

fn metadata() -> Permission {
    permission(Rule::Metadata(MetadataMatcher::default()))
}

fn from(range: &str, bits: u32) -> Principal {
    principal(Identifier::DirectRemoteIp(CidrRange { address_prefix: range.into(), prefix_len: Some(bits) }))
}

fn authenticated() -> Principal {
    principal(Identifier::Authenticated(Authenticated::default()))
}

#[tokio::test]
async fn s13_policies_mean_what_grpc_says_they_mean() {
    let (anything, anyone) = any();
    let it = Setting::start(filter_chain(), ServerOptions::new()).await;
    for (what, filter, served) in [
        ("ALLOW any", allow([any()]), true),
        ("DENY any", deny([any()]), false),
        ("ALLOW without policies", allow([]), false),
        ("DENY without policies", deny([]), true),
        ("LOG any", rbac(Action::Log, [any()]), true),
        ("no rules", Rbac::default(), true),
        ("ALLOW the path", allow([(path(HELLO), anyone.clone())]), true),
        ("ALLOW another path", allow([(path("/helloworld.Greeter/SayBye"), anyone.clone())]), false),
        ("DENY authenticated in plaintext", deny([(anything.clone(), authenticated())]), true),
        ("ALLOW authenticated in plaintext", allow([(anything.clone(), authenticated())]), false),
        ("DENY metadata", deny([(metadata(), anyone.clone())]), true),
        ("DENY not metadata", deny([(not(metadata()), anyone.clone())]), false),
        ("ALLOW the peer's address", allow([(anything.clone(), from("127.0.0.0", 8))]), true),
        ("ALLOW another address", allow([(anything.clone(), from("10.0.0.0", 8))]), false),
        (
            "ALLOW our port",
            allow([(permission(Rule::DestinationPort(it.server.address().port().into())), anyone.clone())]),
            true,
        ),
        (
            "DENY the authority by its other name",
            deny([(permission(Rule::Header(header("host", &it.server.address().to_string()))), anyone.clone())]),
            false,
        ),
        ("ALLOW the method", allow([(permission(Rule::Header(header(":method", "POST"))), anyone)]), true),
    ] {
        it.changes_to(with(&filter)).await;
        let wanted = if served { Ok("a") } else { Err(Code::PermissionDenied) };
        println!("{what}");
        it.answers(wanted).await.ok();
    }
    assert_eq!(it.server.status().accepted, 1, "the connection was open all the time");
}

#[tokio::test]
async fn s13_a_header_that_is_sent_twice_evades_no_policy() {
    let (_, anyone) = any();
    let blocked = || permission(Rule::Header(header("x-user", "mallory")));
    let denies = deny([(blocked(), anyone.clone())]);
    let allows_others = allow([(not(blocked()), anyone.clone())]);
    let allows_inverted = allow([(permission(Rule::Header(inverted(header("x-user", "mallory")))), anyone.clone())]);
    let allows = allow([(permission(Rule::Header(header("x-user", "alice"))), anyone)]);
    for (what, filter, calls) in [
        (
            "DENY",
            denies,
            &[
                (&["mallory"][..], false),
                (&["bob", "mallory"], false),
                (&["mallory", "mallory"], false),
                (&["bob"], true),
            ][..],
        ),
        ("ALLOW not", allows_others, &[(&["mallory", "bob"], false), (&["alice", "bob"], true)]),
        ("ALLOW inverted", allows_inverted, &[(&["mallory", "bob"], false), (&["alice", "bob"], true)]),
        ("ALLOW", allows, &[(&["alice"], true), (&["alice", "mallory"], false)]),
    ] {
        let it = Setting::start(with(&filter), ServerOptions::new()).await;
        for (users, served) in calls {
            let pairs: Vec<_> = users.iter().map(|user| ("x-user", *user)).collect();
            let told = it.client.hello_with(client::metadata(&pairs)).await.map_err(|status| status.code());
            let wanted = if *served { Ok("a".to_owned()) } else { Err(Code::PermissionDenied) };
            assert_eq!(told, wanted, "{what} {users:?}");
        }
    }
}

#[tokio::test]
async fn s11_a_policy_holds_from_the_next_call_on_for_connections_that_are_open() {
    let it = Setting::start(with(&allow([any()])), ServerOptions::new()).await;
    assert_eq!(it.client.recovers().await, "a");
    let before = it.greeter.calls();
    it.changes_to(with(&deny([any()]))).await;
    let refused = it.answers(Err(Code::PermissionDenied)).await.unwrap_err();
    assert_eq!(refused.message(), "the server does not allow this call");
    let told = it.server.status().last_refused_call.expect("a call was refused");
    let says = format!("policy `policy-0` of filter `rbac` denies it; path `{HELLO}`");
    assert!(told.contains(&says) && told.contains("from an unverified caller at 127.0.0.1:"), "{told}");
    for _ in 0..20 {
        assert_eq!(it.client.hello().await.unwrap_err().code(), Code::PermissionDenied);
    }
    let reached = it.greeter.calls() - before;
    assert!(reached < 20, "{reached} calls reached the handler");
    it.changes_to(with(&allow([any()]))).await;
    it.answers(Ok("a")).await.unwrap();
    assert_eq!(it.server.status().accepted, 1, "no connection was drained");
}

#[tokio::test]
async fn s11_routes_by_name_change_what_is_allowed_on_connections_that_are_open() {
    let routes = |filter: Option<Rbac>| {
        let per_route = RbacPerRoute { rbac: filter };
        route_config("shared").routes([route().non_forwarding().filter_config("rbac", &per_route)])
    };
    let it = Setting::start(with(&deny([any()])).inline(routes(None)), ServerOptions::new()).await;
    assert_eq!(it.client.recovers().await, "a", "the route takes the filter away");
    it.changes_to(with(&allow([any()])).inline(routes(Some(deny([any()]))))).await;
    it.answers(Err(Code::PermissionDenied)).await.unwrap_err();
    it.control_plane.put(routes(Some(allow([any()]))));
    it.changes_to(with(&deny([any()])).rds("shared")).await;
    it.answers(Ok("a")).await.unwrap();
    it.control_plane.put(routes(Some(deny([any()]))));
    it.answers(Err(Code::PermissionDenied)).await.unwrap_err();
    assert_eq!(it.server.status().accepted, 1);
}

#[tokio::test]
async fn every_filter_of_the_chain_must_let_a_call_pass() {
    let (_, anyone) = any();
    let denies = deny([(permission(Rule::Header(header("x-evil", "yes"))), anyone)]);
    let chain = filter_chain().filter("deny", &denies).filter("allow", &allow([any()]));
    let it = Setting::start(chain, ServerOptions::new()).await;
    assert_eq!(it.client.recovers().await, "a");
    let mut metadata = MetadataMap::new();
    metadata.insert("x-evil", "yes".parse().unwrap());
    assert_eq!(it.client.hello_with(metadata).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn shadow_rules_change_nothing_and_what_they_would_have_refused_is_logged() {
    let log = Log::of_everything();
    let shadow = Some(rules(Action::Deny, [with_header("x-evil", "yes")]));
    let it = Setting::start(with(&Rbac { shadow_rules: shadow, ..allow([any()]) }), ServerOptions::new()).await;
    assert_eq!(it.client.recovers().await, "a");
    let says = "shadow rules would have refused a call: policy `policy-0` of filter `rbac` denies it";
    assert_eq!(log.lines_with(says), 0, "they let this one pass");
    let evil = || client::metadata(&[("x-evil", "yes")]);
    assert_eq!(it.client.hello_with(evil()).await.expect("it is served"), "a");
    assert_eq!((log.lines_with(says), it.server.status().refused_calls), (1, 0));
    // Rules beside them refuse all the same.
    let shadow = Some(rules(Action::Allow, [any()]));
    it.changes_to(with(&Rbac { shadow_rules: shadow, ..deny([any()]) })).await;
    it.answers(Err(Code::PermissionDenied)).await.unwrap_err();
}

#[tokio::test]
async fn s12_deny_by_default_serves_only_what_an_allow_policy_matched() {
    let it = Setting::start(filter_chain(), ServerOptions::new().deny_by_default()).await;
    it.answers(Err(Code::PermissionDenied)).await.unwrap_err();
    for filter in [deny([]), rbac(Action::Log, [any()]), Rbac::default(), allow([])] {
        it.changes_to(with(&filter)).await;
        for _ in 0..3 {
            assert_eq!(it.client.hello().await.unwrap_err().code(), Code::PermissionDenied, "{filter:?}");
        }
    }
    assert_eq!(it.greeter.calls(), 0);
    it.changes_to(with(&allow([any()]))).await;
    it.answers(Ok("a")).await.unwrap();
}

#[tokio::test]
async fn s12_deny_by_default_holds_without_a_control_plane() {
    let greeter = Backend::start("a").await;
    let services = |server: MeshServer| server.add_service(greeter.service());
    let server = Served::start(ServerOptions::new().deny_by_default(), services).await;
    let mesh = quick().build().await.unwrap();
    let error = Client::new(&mesh, &server.target()).hello().await.unwrap_err();
    assert_eq!((error.code(), greeter.calls()), (Code::PermissionDenied, 0));
}

#[tokio::test]
async fn a_bad_policy_is_refused_by_field_and_the_last_good_one_serves() {
    let (anything, anyone) = any();
    let place = "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config.rules.policies[policy-0]";
    let it = Setting::start(with(&allow([any()])), ServerOptions::new()).await;
    assert_eq!(it.client.recovers().await, "a");
    let permits = |rule: Rule| allow([(permission(rule), anyone.clone())]);
    for (filter, problem) in [
        (permits(Rule::Header(header("grpc-timeout", "1S"))), "permissions[0].header.name: "),
        (permits(Rule::Header(header(":scheme", "https"))), "permissions[0].header.name: "),
        (permits(Rule::Any(false)), "permissions[0].any: must be true"),
        (permits(Rule::DestinationPort(70_000)), "permissions[0].destination_port: must be at most 65535"),
        (permits(Rule::AndRules(Default::default())), "permissions[0].and_rules.rules: must not be empty"),
        (permits(Rule::UriTemplate(Default::default())), "permissions[0].uri_template: is not supported"),
        (allow([(Permission { rule: None }, anyone.clone())]), "permissions[0]: a rule must be set"),
        (allow([(anything.clone(), Principal { identifier: None })]), "principals[0]: an identifier must be set"),
        (allow([(anything.clone(), from("nowhere", 8))]), "principals[0].direct_remote_ip.address_prefix: "),
        (allow([(anything.clone(), principal(Identifier::Custom(Default::default())))]), "principals[0].custom: "),
    ] {
        it.control_plane.put(server_listener(it.server.address()).chains([with(&filter)]));
        let (_, nack) = it.control_plane.next_nack().await.error.expect("a reason");
        assert!(nack.contains(&format!("{place}.{problem}")), "`{problem}` is not in: {nack}");
        assert_eq!(it.client.hello().await.unwrap(), "a", "{problem}");
    }
    let mut conditional = allow([any()]);
    let policies = &mut conditional.rules.as_mut().unwrap().policies;
    policies.values_mut().next().unwrap().condition = Some(Default::default());
    it.control_plane.put(server_listener(it.server.address()).chains([with(&conditional)]));
    let (_, nack) = it.control_plane.next_nack().await.error.expect("a reason");
    assert!(nack.contains(&format!("{place}.condition: is not supported (A41)")), "{nack}");
    assert_eq!(it.client.hello().await.unwrap(), "a");
}

#[tokio::test]
async fn a_clients_listener_has_no_access_control() {
    let control_plane = ControlPlane::new();
    control_plane.put(testing::listener("greeter").filter("rbac", &allow([any()])));
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    let call = tokio::spawn(async move { client.hello().await });
    let (_, nack) = control_plane.next_nack().await.error.expect("a reason");
    assert!(nack.contains("http_filters[0].typed_config[envoy.extensions.filters.http.rbac.v3.RBAC]"), "{nack}");
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
}

pub(crate) fn named(id: &str) -> Principal {
    let exact = StringMatcher { match_pattern: Some(MatchPattern::Exact(id.into())), ..Default::default() };
    principal(Identifier::Authenticated(Authenticated { principal_name: Some(exact) }))
}

/// As in gRPC and Envoy.
#[tokio::test]
async fn s13_a_caller_is_known_by_every_name_of_its_certificate() {
    let (anything, _) = any();
    for name in [CLIENT, "client.test", "CN=client"] {
        let filter = deny([(anything.clone(), named(name))]);
        let site = Site::with_chain(secured(&optional()).filter("rbac", &filter)).await;
        let issue = |id: &str, host: &str, subject: &str| {
            let names = [uri(id), dns(host)];
            site.authority.issue(&names, |params| params.distinguished_name.push(DnType::CommonName, subject))
        };
        let client = issue(CLIENT, "client.test", "client");
        let denied = site.caller(Some(&client)).await.hello().await.expect_err(name);
        assert_eq!(denied.code(), Code::PermissionDenied, "{name}");
        let other = issue("spiffe://cluster.local/other", "other.test", "other");
        site.caller(Some(&other)).await.hello().await.expect(name);
    }
}

#[tokio::test]
async fn s12_who_shows_no_certificate_over_tls_is_denied_as_grpc_says_and_never_allowed_by_name() {
    let (anything, _) = any();
    let is = |principal: Principal| [(anything.clone(), principal)];
    let not = |one: Principal| principal(Identifier::NotId(Box::new(one)));
    for (what, filter, anonymous, client) in [
        // A41: over TLS a caller is authenticated, and its name is empty if it shows none.
        ("DENY authenticated", deny(is(authenticated())), false, false),
        ("DENY the empty name", deny(is(named(""))), false, true),
        ("DENY the client", deny(is(named(CLIENT))), true, false),
        ("ALLOW authenticated", allow(is(authenticated())), false, true),
        ("ALLOW the client", allow(is(named(CLIENT))), false, true),
        ("ALLOW the empty name", allow(is(named(""))), false, false),
        ("ALLOW all but another", allow(is(not(named("spiffe://cluster.local/other")))), false, true),
    ] {
        let site = Site::with_chain(secured(&optional()).filter("rbac", &filter)).await;
        let served = |answer: Result<String, Status>| match answer {
            Ok(_) => true,
            Err(status) if status.code() == Code::PermissionDenied => false,
            Err(status) => panic!("{what}: {status}"),
        };
        assert_eq!(served(site.caller(None).await.hello().await), anonymous, "{what}, without a certificate");
        let svid = site.authority.svid(CLIENT);
        assert_eq!(served(site.caller(Some(&svid)).await.hello().await), client, "{what}, the client");
    }
}

/// Calls whose audit log is more than a pipe and the queue before it take.
const AUDITED: usize = 200;

/// In a process of its own, whose standard output nobody reads while calls are made.
#[test]
fn an_audit_log_that_nobody_reads_blocks_no_call_and_says_what_it_lost() {
    let own = std::env::current_exe().expect("the path of the tests");
    let test = ["--exact", "authorization::in_a_process_whose_output_nobody_reads", "--ignored", "--nocapture"];
    let command = Command::new(own).args(test).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut process = command.expect("a process");
    let mut said = BufReader::new(process.stderr.take().unwrap()).lines().map(Result::unwrap);
    let lost = said.find_map(|line| line.strip_prefix("lost ")?.parse::<usize>().ok()).expect("its calls are over");
    let output = process.wait_with_output().expect("its output");
    assert!(output.status.success(), "{}", said.collect::<Vec<_>>().join("\n"));
    let output = String::from_utf8(output.stdout).expect("text");
    // Behind what the runner of tests writes.
    let records = output.lines().filter_map(|line| line.find('{').map(|at| &line[at..]));
    let records = records.map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON"));
    let number = |record: serde_json::Value| {
        assert_eq!((&record["policy_name"], &record["authorized"]), (&"rbac".into(), &false.into()));
        record["rpc_method"].as_str()?.split('/').nth(1)?.parse::<usize>().ok()
    };
    let numbers: Vec<usize> = records.map(|record| number(record).expect("the number of a call")).collect();
    assert_eq!(numbers.len() + lost, AUDITED, "what is not lost is written before the mesh has ended");
    assert!(numbers.is_sorted() && lost > 0 && numbers.len() > 50, "{lost} were lost of {numbers:?}");
}

#[tokio::test]
#[ignore = "writes to the standard output until it is full: run by the test above"]
async fn in_a_process_whose_output_nobody_reads() {
    let logger = AuditLoggerConfig {
        audit_logger: Some(TypedExtensionConfig {
            name: "stdout".into(),
            typed_config: Some(testing::any(&StdoutAuditLog::default())),
        }),
        is_optional: false,
    };
    let audit = AuditLoggingOptions { audit_condition: AuditCondition::OnDeny as i32, logger_configs: vec![logger] };
    let rules = Rules { audit_logging_options: Some(audit), ..rules(Action::Deny, [any()]) };
    let it = Setting::start(with(&Rbac { rules: Some(rules), ..Default::default() }), ServerOptions::new()).await;
    let callers = quick().build().await.unwrap();
    let channel = MeshChannel::new(&callers, &it.server.target()).unwrap();
    for number in 0..AUDITED {
        let request = Request::post(format!("/{number}/{}", "x".repeat(8000))).body(Body::empty()).unwrap();
        let response = in_time("an answer", channel.clone().oneshot(request)).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "7");
    }
    eprintln!("lost {}", it.mesh.status().lost_audit_lines);
    it.mesh.shutdown().await;
}

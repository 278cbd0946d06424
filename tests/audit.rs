//! Which decisions are written down (A59), in a process of its own whose standard output is read.

use std::collections::BTreeMap;
use std::process::Command;

use mesh_core::server::ServerOptions;
use mesh_core::testing::{FilterChainBuilder, any as packed, filter_chain, route, route_config, server_listener};
use mesh_xds_proto::envoy::config::cluster::v3::Cluster;
use mesh_xds_proto::envoy::config::core::v3::TypedExtensionConfig;
use mesh_xds_proto::envoy::config::rbac::v3::Rbac as Rules;
use mesh_xds_proto::envoy::config::rbac::v3::rbac::audit_logging_options::{AuditCondition, AuditLoggerConfig};
use mesh_xds_proto::envoy::config::rbac::v3::rbac::{Action, AuditLoggingOptions};
use mesh_xds_proto::envoy::extensions::filters::http::rbac::v3::{Rbac, RbacPerRoute};
use mesh_xds_proto::envoy::extensions::rbac::audit_loggers::stream::v3::StdoutAuditLog;
use tonic::Code;

use crate::support::client::metadata;
use crate::support::configured::Setting;
use crate::support::rbac::{any, deny, rules, with_header};

/// Calls of each case that the policy lets pass, and that it does not.
const GOOD: usize = 2;
const EVIL: usize = 3;

/// What is written down of those.
type Written = (usize, usize);

fn logger(is_known: bool, is_optional: bool) -> AuditLoggerConfig {
    let typed = if is_known { packed(&StdoutAuditLog::default()) } else { packed(&Cluster::default()) };
    let audit_logger = Some(TypedExtensionConfig { name: "logger".into(), typed_config: Some(typed) });
    AuditLoggerConfig { audit_logger, is_optional }
}

fn audited(rules: Rules, condition: AuditCondition, loggers: Vec<AuditLoggerConfig>) -> Rules {
    let options = AuditLoggingOptions { audit_condition: condition as i32, logger_configs: loggers };
    Rules { audit_logging_options: Some(options), ..rules }
}

/// DENY what is evil, and write down what the condition says.
fn refusing(condition: AuditCondition, loggers: Vec<AuditLoggerConfig>) -> Rbac {
    let rules = audited(rules(Action::Deny, [with_header("x-evil", "yes")]), condition, loggers);
    Rbac { rules: Some(rules), ..Default::default() }
}

fn to_stdout(condition: AuditCondition) -> Rbac {
    refusing(condition, vec![logger(true, false)])
}

/// Each filter by a name of its own, whether it refuses evil calls, and what is written down.
fn cases() -> Vec<(&'static str, FilterChainBuilder, bool, Written)> {
    use AuditCondition::{None, OnAllow, OnDeny, OnDenyAndAllow};
    let alone = |name, filter: &Rbac| filter_chain().filter(name, filter);
    let routed = |name, filter: &Rbac, route_s: Rbac| {
        let per_route = RbacPerRoute { rbac: Some(route_s) };
        let route = route().non_forwarding().filter_config(name, &per_route);
        alone(name, filter).inline(route_config("inline").routes([route]))
    };
    let shadow =
        audited(rules(Action::Deny, [with_header("x-evil", "yes")]), OnDenyAndAllow, vec![logger(true, false)]);
    let shadowed = Rbac { shadow_rules: Some(shadow), ..Default::default() };
    vec![
        ("none", alone("none", &to_stdout(None)), true, (0, 0)),
        ("on-deny", alone("on-deny", &to_stdout(OnDeny)), true, (0, EVIL)),
        ("on-allow", alone("on-allow", &to_stdout(OnAllow)), true, (GOOD, 0)),
        ("on-both", alone("on-both", &to_stdout(OnDenyAndAllow)), true, (GOOD, EVIL)),
        ("no-logger", alone("no-logger", &refusing(OnDenyAndAllow, vec![])), true, (0, 0)),
        (
            "two-loggers",
            alone("two-loggers", &refusing(OnDeny, vec![logger(true, false), logger(true, true)])),
            true,
            (0, 2 * EVIL),
        ),
        (
            "optional",
            alone("optional", &refusing(OnDenyAndAllow, vec![logger(false, true), logger(true, false)])),
            true,
            (GOOD, EVIL),
        ),
        ("route-adds", routed("route-adds", &deny([]), to_stdout(OnDenyAndAllow)), true, (GOOD, EVIL)),
        ("route-takes", routed("route-takes", &to_stdout(OnDenyAndAllow), deny([any()])), true, (0, 0)),
        ("route-changes", routed("route-changes", &to_stdout(OnDeny), to_stdout(OnAllow)), true, (GOOD, 0)),
        ("shadow", alone("shadow", &shadowed), false, (GOOD, EVIL)),
    ]
}

#[test]
fn the_decisions_that_the_condition_names_are_written_down_and_no_others() {
    let own = std::env::current_exe().expect("the path of the tests");
    let test = ["--exact", "audit::in_a_process_whose_output_is_read", "--ignored", "--nocapture"];
    let output = Command::new(own).args(test).output().expect("a process");
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let mut written: BTreeMap<String, Written> = BTreeMap::new();
    // Behind what the runner of tests writes.
    for line in said.lines().filter_map(|line| line.find('{').map(|at| &line[at..])) {
        let record: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        assert_eq!(record["rpc_method"], "/helloworld.Greeter/SayHello");
        let filter = record["policy_name"].as_str().expect("the filter's name");
        let is_allowed = record["authorized"].as_bool().expect("the decision");
        let rule = if is_allowed { "" } else { "policy-0" };
        assert_eq!(record["matched_rule"], rule, "{record}");
        let (allowed, denied) = written.entry(filter.to_owned()).or_default();
        *if is_allowed { allowed } else { denied } += 1;
    }
    for (name, _, _, wanted) in cases() {
        assert_eq!(written.remove(name).unwrap_or_default(), wanted, "{name}: calls that were allowed, and denied");
    }
    assert_eq!(written, BTreeMap::new());
}

#[tokio::test]
#[ignore = "writes to the standard output: run by the test above"]
async fn in_a_process_whose_output_is_read() {
    for (name, chain, refuses, _) in cases() {
        let it = Setting::start(chain, ServerOptions::new()).await;
        for _ in 0..GOOD {
            let answer = it.client.hello().await.map_err(|status| status.code());
            // One route takes everything away.
            assert_eq!(answer, if name == "route-takes" { Err(Code::PermissionDenied) } else { Ok("a".to_owned()) });
        }
        for _ in 0..EVIL {
            let answer = it.client.hello_with(metadata(&[("x-evil", "yes")])).await.map_err(|status| status.code());
            assert_eq!(answer, if refuses { Err(Code::PermissionDenied) } else { Ok("a".to_owned()) }, "{name}");
        }
        assert_eq!(it.mesh.status().lost_audit_lines, 0);
        it.mesh.shutdown().await;
    }
}

#[tokio::test]
async fn a_logger_that_is_not_known_is_refused_by_its_field_unless_it_is_optional() {
    let it = Setting::start(filter_chain(), ServerOptions::new()).await;
    let filter = refusing(AuditCondition::OnDeny, vec![logger(true, false), logger(false, false)]);
    it.control_plane.put(server_listener(it.server.address()).chains([filter_chain().filter("rbac", &filter)]));
    let (_, nack) = it.control_plane.next_nack().await.error.expect("a reason");
    assert!(nack.contains("rules.audit_logging_options.logger_configs[1].audit_logger"), "{nack}");
    assert_eq!(it.client.hello().await.unwrap(), "a");
}

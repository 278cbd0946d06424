//! The filter `rbac` (A41, A59), and what routes put in its place.

use mesh_xds_proto::envoy::config::rbac::v3 as proto;
use mesh_xds_proto::envoy::extensions::filters::http::rbac::v3 as filter;
use mesh_xds_proto::envoy::extensions::rbac::audit_loggers::stream::v3::StdoutAuditLog;
use mesh_xds_proto::envoy::r#type::matcher::v3::{PathMatcher, StringMatcher, path_matcher};
use mesh_xds_proto::envoy::r#type::v3::Int32Range;
use proto::permission::Rule as Permits;
use proto::principal::Identifier;
use proto::rbac::audit_logging_options::AuditCondition;
use proto::rbac::{Action as ProtoAction, AuditLoggingOptions};

use super::filter_chain::prefix;
use super::metadata::metadata_match;
use super::place::{At, quoted};
use super::route_match::{inbound_header_match, string_match};
use super::value::Extension;
use crate::resource::rbac::audit::Audit;
use crate::resource::rbac::{Action, Kind, Policy, Rbac, RbacFilter, Rule};
use crate::resource::verdict::Fields;

pub(super) fn rbac(message: &filter::Rbac, at: &At<'_>) -> RbacFilter {
    message.judge(at);
    let rules = message.rules.as_ref().and_then(|rules| one(rules, &at.field("rules")));
    let shadow = message.shadow_rules.as_ref().and_then(|rules| one(rules, &at.field("shadow_rules")));
    RbacFilter { rules, shadow }
}

/// Without a configuration it takes the filter away.
pub(super) fn per_route(message: &filter::RbacPerRoute, at: &At<'_>) -> Option<RbacFilter> {
    message.judge(at);
    message.rbac.as_ref().map(|message| rbac(message, &at.field("rbac")))
}

/// `None`: LOG decides nothing (A41).
fn one(message: &proto::Rbac, at: &At<'_>) -> Option<Rbac> {
    message.judge(at);
    let action = match ProtoAction::try_from(message.action) {
        Ok(ProtoAction::Allow) => Some(Action::Allow),
        Ok(ProtoAction::Deny) => Some(Action::Deny),
        Ok(ProtoAction::Log) => None,
        Err(_) => {
            at.field("action").error(format!("{} is no known action", message.action));
            None
        }
    };
    let policies = message.policies.iter();
    let policies: Vec<_> =
        policies.map(|(name, message)| (name.as_str(), policy(message, &at.key("policies", name)))).collect();
    let audit = message.audit_logging_options.as_ref();
    let audit = audit.map(|options| audit_logging(options, &at.field("audit_logging_options"))).unwrap_or_default();
    action.map(|action| Rbac::new(action, policies, audit))
}

fn policy(message: &proto::Policy, at: &At<'_>) -> Policy {
    message.judge(at);
    let permissions = list("permissions", &message.permissions, at, permission);
    Policy::new(permissions, list("principals", &message.principals, at, principal))
}

/// What matches nothing because it lists nothing is a mistake, and in a policy that denies a dangerous one.
fn list<M>(field: &'static str, messages: &[M], at: &At<'_>, one: fn(&M, &At<'_>) -> Option<Rule>) -> Vec<Rule> {
    if messages.is_empty() {
        at.field(field).error("must not be empty");
    }
    let rules = messages.iter().enumerate();
    rules.filter_map(|(index, message)| one(message, &at.item(field, index))).collect()
}

fn permission(message: &proto::Permission, at: &At<'_>) -> Option<Rule> {
    message.judge(at);
    let Some(rule) = &message.rule else {
        at.error("a rule must be set");
        return None;
    };
    Some(Rule(match rule {
        Permits::AndRules(set) => Kind::All(permissions(set, &at.field("and_rules")).into()),
        Permits::OrRules(set) => Kind::OneOf(permissions(set, &at.field("or_rules")).into()),
        Permits::NotRule(rule) => Kind::Not(Box::new(permission(rule, &at.field("not_rule"))?)),
        Permits::Any(any) => always(*any, at)?,
        Permits::Header(header) => inbound_header_match(header, &at.field("header")).map(Kind::Header)?,
        Permits::UrlPath(path) => url_path(path, &at.field("url_path"))?,
        Permits::DestinationIp(range) => Kind::LocalIp(prefix(range, &at.field("destination_ip"))?),
        Permits::DestinationPort(port) => {
            if *port > u32::from(u16::MAX) {
                at.field("destination_port").error("must be at most 65535");
            }
            Kind::LocalPort(*port..port.saturating_add(1))
        }
        Permits::DestinationPortRange(range) => port_range(range, &at.field("destination_port_range"))?,
        Permits::Metadata(metadata) => metadata_match(metadata, &at.field("metadata"))?,
        Permits::RequestedServerName(name) => server_name(name, &at.field("requested_server_name"))?,
        // Refused by the table.
        Permits::Matcher(_) | Permits::UriTemplate(_) | Permits::SourcedMetadata(_) => return None,
    }))
}

fn permissions(set: &proto::permission::Set, at: &At<'_>) -> Vec<Rule> {
    set.judge(at);
    list("rules", &set.rules, at, permission)
}

fn principal(message: &proto::Principal, at: &At<'_>) -> Option<Rule> {
    message.judge(at);
    let Some(identifier) = &message.identifier else {
        at.error("an identifier must be set");
        return None;
    };
    Some(Rule(match identifier {
        Identifier::AndIds(set) => Kind::All(principals(set, &at.field("and_ids")).into()),
        Identifier::OrIds(set) => Kind::OneOf(principals(set, &at.field("or_ids")).into()),
        Identifier::NotId(id) => Kind::Not(Box::new(principal(id, &at.field("not_id"))?)),
        Identifier::Any(any) => always(*any, at)?,
        Identifier::Authenticated(authenticated) => {
            let at = &at.field("authenticated");
            authenticated.judge(at);
            let name = authenticated.principal_name.as_ref();
            let name = name.map(|name| string_match(name, &at.field("principal_name")).ok_or(())).transpose();
            Kind::Authenticated(name.ok()?)
        }
        Identifier::SourceIp(range) => Kind::PeerIp(prefix(range, &at.field("source_ip"))?),
        Identifier::DirectRemoteIp(range) => Kind::PeerIp(prefix(range, &at.field("direct_remote_ip"))?),
        Identifier::RemoteIp(range) => Kind::PeerIp(prefix(range, &at.field("remote_ip"))?),
        Identifier::Header(header) => inbound_header_match(header, &at.field("header")).map(Kind::Header)?,
        Identifier::UrlPath(path) => url_path(path, &at.field("url_path"))?,
        Identifier::Metadata(metadata) => metadata_match(metadata, &at.field("metadata"))?,
        // Refused by the table.
        Identifier::FilterState(_) | Identifier::SourcedMetadata(_) | Identifier::Custom(_) => return None,
    }))
}

fn principals(set: &proto::principal::Set, at: &At<'_>) -> Vec<Rule> {
    set.judge(at);
    list("ids", &set.ids, at, principal)
}

fn always(any: bool, at: &At<'_>) -> Option<Kind> {
    if !any {
        at.field("any").error("must be true");
    }
    any.then_some(Kind::Constant(true))
}

fn url_path(path: &PathMatcher, at: &At<'_>) -> Option<Kind> {
    path.judge(at);
    let Some(path_matcher::Rule::Path(matcher)) = &path.rule else {
        at.field("path").error("must be set");
        return None;
    };
    string_match(matcher, &at.field("path")).map(Kind::Path)
}

fn port_range(range: &Int32Range, at: &At<'_>) -> Option<Kind> {
    range.judge(at);
    match (u32::try_from(range.start), u32::try_from(range.end)) {
        (Ok(start), Ok(end)) if start < end && end <= 65_536 => Some(Kind::LocalPort(start..end)),
        _ => {
            at.error(format!("{} to {} is no range of ports, the last excluded", range.start, range.end));
            None
        }
    }
}

/// It is empty (A41).
fn server_name(name: &StringMatcher, at: &At<'_>) -> Option<Kind> {
    string_match(name, at).map(|name| Kind::Constant(name.matches(b"")))
}

fn audit_logging(options: &AuditLoggingOptions, at: &At<'_>) -> Audit {
    options.judge(at);
    let (allowed, denied) = match AuditCondition::try_from(options.audit_condition) {
        Ok(AuditCondition::None) => (false, false),
        Ok(AuditCondition::OnDeny) => (false, true),
        Ok(AuditCondition::OnAllow) => (true, false),
        Ok(AuditCondition::OnDenyAndAllow) => (true, true),
        Err(_) => {
            at.field("audit_condition").error(format!("{} is no known condition", options.audit_condition));
            (false, false)
        }
    };
    let mut audit = Audit { allowed, denied, stdout: 0 };
    for (index, config) in options.logger_configs.iter().enumerate() {
        let at = &at.item("logger_configs", index);
        config.judge(at);
        let at = &at.field("audit_logger");
        let typed = config.audit_logger.as_ref();
        if let Some(typed) = typed {
            typed.judge(at);
        }
        let at = &at.field("typed_config");
        let Some(logger) = Extension::open(typed.and_then(|typed| typed.typed_config.as_ref()), at) else { continue };
        if logger.is::<StdoutAuditLog>() {
            audit.stdout += usize::from(logger.unpack::<StdoutAuditLog>(at).is_some());
        } else if config.is_optional {
            at.ignored("optional, and not supported");
        } else {
            at.error(format!(
                "{} is not a logger that is supported, and it is not optional",
                quoted(&logger.type_name)
            ));
        }
    }
    audit
}

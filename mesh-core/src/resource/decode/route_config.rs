//! `RouteConfiguration`, `VirtualHost` and `Route` (A28).

use std::sync::Arc;

use mesh_xds_proto::envoy::config::route::v3 as proto;
use mesh_xds_proto::envoy::config::route::v3::route::Action;

use super::http_filter::check_overrides;
use super::place::{At, cut, quoted};
use super::retry_policy::{hedges, retry_policy};
use super::route_action::{HostRetry, forward};
use super::route_match::route_match;
use crate::resource::domain::{BadDomain, DomainIndex};
use crate::resource::matcher::RouteMatch;
use crate::resource::route::{Route, RouteAction};
use crate::resource::route_config::{RouteConfiguration, VirtualHost};
use crate::resource::verdict::Fields;

pub(super) fn route_configuration(message: proto::RouteConfiguration, at: &At<'_>) -> Option<RouteConfiguration> {
    message.judge(at);
    let mut domains = DomainIndex::default();
    let mut virtual_hosts = Vec::with_capacity(message.virtual_hosts.len());
    for (index, host) in message.virtual_hosts.into_iter().enumerate() {
        let at = &at.item("virtual_hosts", index);
        add_domains(&host.domains, index, &mut domains, at);
        virtual_hosts.push(Arc::new(virtual_host(host, at)));
    }
    Some(RouteConfiguration::with_domains(message.name, virtual_hosts, domains))
}

fn add_domains(patterns: &[String], host: usize, domains: &mut DomainIndex, at: &At<'_>) {
    if patterns.is_empty() {
        at.field("domains").error("must not be empty");
    }
    for (index, pattern) in patterns.iter().enumerate() {
        if let Err(BadDomain) = domains.add(pattern, host) {
            let at = at.item("domains", index);
            at.error(format!("{} is not a domain, nor one with `*` as its start or its end", quoted(pattern)));
        }
    }
}

fn virtual_host(message: proto::VirtualHost, at: &At<'_>) -> VirtualHost {
    message.judge(at);
    check_overrides(&message.typed_per_filter_config, at);
    let retry = HostRetry {
        policy: message.retry_policy.and_then(|policy| retry_policy(&policy, &at.field("retry_policy"))),
        hedges: message.hedge_policy.is_some_and(|policy| hedges(&policy, &at.field("hedge_policy"))),
    };
    let routes = message.routes.into_iter().enumerate();
    let table = routes.filter_map(|(index, message)| route(message, &retry, &at.item("routes", index))).collect();
    VirtualHost::new(message.name, table)
}

fn route(message: proto::Route, retry: &HostRetry, at: &At<'_>) -> Option<(RouteMatch, Route)> {
    message.judge(at);
    check_overrides(&message.typed_per_filter_config, at);
    let condition = at.required("match", message.r#match);
    let condition = condition.and_then(|condition| route_match(&condition, &at.field("match")));
    let action = match message.action {
        Some(Action::Route(action)) => forward(action, retry, &at.field("route")),
        Some(Action::Redirect(_)) => Some(RouteAction::Unsupported("redirect")),
        Some(Action::DirectResponse(_)) => Some(RouteAction::Unsupported("direct_response")),
        Some(Action::FilterAction(_)) => Some(RouteAction::Unsupported("filter_action")),
        Some(Action::NonForwardingAction(_)) => Some(RouteAction::Unsupported("non_forwarding_action")),
        // Not set, or a kind that a later version of xDS added: calls fail, the resource is accepted (A28).
        None => Some(RouteAction::Unsupported("an unknown action")),
    };
    let (condition, action) = (condition?, action?);
    let name = match message.name.as_str() {
        "" => cut(&condition.to_string()).into(),
        name => name.into(),
    };
    Some((condition, Route { name, action }))
}

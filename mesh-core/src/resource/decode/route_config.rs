//! `RouteConfiguration`, `VirtualHost` and `Route` (A28).

use std::sync::Arc;

use mesh_xds_proto::envoy::config::route::v3 as proto;
use mesh_xds_proto::envoy::config::route::v3::route::Action;

use super::header_mutation::Lists;
use super::http_filter::overrides;
use super::mirror::mirror_policies;
use super::place::{At, cut, quoted};
use super::rate_limit::rate_limits;
use super::retry_policy::{hedges, retry_policy};
use super::rewrite::{auto_host_rewrite, direct_response, host_rewrite, path_rewrite, redirect};
use super::route_action::{OfHost, forward};
use super::route_match::route_match;
use crate::resource::domain::{BadDomain, DomainIndex};
use crate::resource::level::{Level, WholeConfiguration};
use crate::resource::matcher::RouteMatch;
use crate::resource::mirror::MirrorPolicy;
use crate::resource::rewrite::Matched;
use crate::resource::route::{Route, RouteAction};
use crate::resource::route_answer::RouteAnswer;
use crate::resource::route_config::{AttemptCount, RouteConfiguration, VirtualHost};
use crate::resource::verdict::Fields;

pub(super) fn route_configuration(message: proto::RouteConfiguration, at: &At<'_>) -> Option<RouteConfiguration> {
    message.judge(at);
    let mirrors = mirror_policies(&message.request_mirror_policies, at);
    let mut domains = DomainIndex::default();
    let mut virtual_hosts = Vec::with_capacity(message.virtual_hosts.len());
    for (index, host) in message.virtual_hosts.into_iter().enumerate() {
        let at = &at.item("virtual_hosts", index);
        add_domains(&host.domains, index, &mut domains, at);
        virtual_hosts.push(Arc::new(virtual_host(host, &mirrors, at)));
    }
    let lists = Lists {
        request_add: &message.request_headers_to_add,
        request_remove: &message.request_headers_to_remove,
        response_add: &message.response_headers_to_add,
        response_remove: &message.response_headers_to_remove,
    };
    let level = Level {
        overrides: overrides(&message.typed_per_filter_config, at),
        headers: lists.read(at),
        ..Level::default()
    };
    let most_specific_headers_win = message.most_specific_header_mutations_wins;
    let whole = WholeConfiguration { level, most_specific_headers_win };
    let routes = RouteConfiguration::with_domains(message.name, virtual_hosts, domains).with_whole(whole);
    Some(routes.with_fields_of_clients(at.report().take_of_clients()))
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

fn virtual_host(message: proto::VirtualHost, mirrors: &Option<Arc<[MirrorPolicy]>>, at: &At<'_>) -> VirtualHost {
    message.judge(at);
    let lists = Lists {
        request_add: &message.request_headers_to_add,
        request_remove: &message.request_headers_to_remove,
        response_add: &message.response_headers_to_add,
        response_remove: &message.response_headers_to_remove,
    };
    let level = Level {
        overrides: overrides(&message.typed_per_filter_config, at),
        headers: lists.read(at),
        rate_limits: rate_limits(&message.rate_limits, false, at),
    };
    let own = OfHost {
        retry: message.retry_policy.and_then(|policy| retry_policy(&policy, &at.field("retry_policy"))),
        hedges: message.hedge_policy.is_some_and(|policy| hedges(&policy, &at.field("hedge_policy"))),
        mirrors: mirror_policies(&message.request_mirror_policies, at).or_else(|| mirrors.clone()),
    };
    let routes = message.routes.into_iter().enumerate();
    let table = routes.filter_map(|(index, message)| route(message, &own, &at.item("routes", index))).collect();
    let attempt_count = AttemptCount {
        in_request: message.include_request_attempt_count,
        in_response: message.include_attempt_count_in_response,
    };
    VirtualHost::new(message.name, table).with_level(level).with_attempt_count(attempt_count)
}

fn route(message: proto::Route, host: &OfHost, at: &At<'_>) -> Option<(RouteMatch, Route)> {
    message.judge(at);
    let lists = Lists {
        request_add: &message.request_headers_to_add,
        request_remove: &message.request_headers_to_remove,
        response_add: &message.response_headers_to_add,
        response_remove: &message.response_headers_to_remove,
    };
    let of_limits = match &message.action {
        Some(Action::Route(action)) => {
            let includes_host = action.include_vh_rate_limits.unwrap_or_default();
            rate_limits(&action.rate_limits, includes_host, &at.field("route"))
        }
        _ => None,
    };
    let level = Level {
        overrides: overrides(&message.typed_per_filter_config, at),
        headers: lists.read(at),
        rate_limits: of_limits,
    };
    let condition = at.required("match", message.r#match);
    let condition = condition.and_then(|condition| route_match(&condition, &at.field("match")));
    let matched = condition.as_ref().map_or(Matched::Whole, |condition| condition.path().into());
    let (path, authority, auto_host, mirrors) = match &message.action {
        Some(Action::Route(action)) => {
            let at = &at.field("route");
            let path = path_rewrite(action, matched, at).map(Arc::new);
            let mirrors = mirror_policies(&action.request_mirror_policies, at).or_else(|| host.mirrors.clone());
            (path, host_rewrite(action, at), auto_host_rewrite(action), mirrors.unwrap_or_default())
        }
        _ => Default::default(),
    };
    let action = match message.action {
        Some(Action::Route(action)) => forward(action, host, &at.field("route")),
        Some(Action::Redirect(action)) => answer(redirect(&action, matched, &at.field("redirect"))),
        Some(Action::DirectResponse(action)) => answer(direct_response(&action, &at.field("direct_response"))),
        Some(Action::FilterAction(_)) => Some(RouteAction::Unsupported("filter_action")),
        Some(Action::NonForwardingAction(_)) => Some(RouteAction::NonForwarding),
        // Not set, or a kind that a later version of xDS added: calls fail, the resource is accepted (A28).
        None => Some(RouteAction::Unsupported("an unknown action")),
    };
    let (condition, action) = (condition?, action?);
    let name = match message.name.as_str() {
        "" => cut(&condition.to_string()).to_owned(),
        name => name.to_owned(),
    };
    Some((
        condition,
        Route { level, path, host: authority.map(Box::new), auto_host, mirrors, ..Route::new(name, action) },
    ))
}

fn answer(answer: Option<RouteAnswer>) -> Option<RouteAction> {
    answer.map(|answer| RouteAction::Answer(Arc::new(answer)))
}

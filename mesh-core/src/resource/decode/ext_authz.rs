//! `ExtAuthz` (A92) and what routes say of it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use http::StatusCode;
use mesh_xds_proto::envoy::config::common::mutation_rules::v3::HeaderMutationRules;
use mesh_xds_proto::envoy::config::core::v3::GrpcService;
use mesh_xds_proto::envoy::config::core::v3::grpc_service::TargetSpecifier;
use mesh_xds_proto::envoy::extensions::filters::http::ext_authz::v3 as proto;
use mesh_xds_proto::envoy::r#type::matcher::v3::{ListStringMatcher, RegexMatcher};
use mesh_xds_proto::envoy::r#type::v3::HttpStatus;
use proto::check_settings::ServiceOverride;
use proto::ext_authz::Services;
use proto::ext_authz_per_route::Override as PerRoute;

use super::place::{At, quoted};
use super::route_match::{string_match, text_regex};
use super::value::{duration, is_on, runtime_fraction};
use crate::resource::ext_authz::{AuthorizationService, DEFAULT_TIMEOUT, ExtAuthz, ExtAuthzConfig, MutationRules};
use crate::resource::filter::{FilterConfig, Override};
use crate::resource::matcher::text::TextMatch;
use crate::resource::verdict::Fields;

pub(super) fn ext_authz(message: &proto::ExtAuthz, at: &At<'_>) -> Option<FilterConfig> {
    message.judge(at);
    let service = match &message.services {
        Some(Services::GrpcService(service)) => grpc_service(service, &at.field("grpc_service")),
        // Refused by the table.
        Some(Services::HttpService(_)) => None,
        None => {
            at.field("grpc_service").error("must be set");
            None
        }
    };
    if message.failure_mode_allow
        && let Some(demand) = at.report().local.fails_closed
    {
        at.field("failure_mode_allow").error(format!("is below the security floor of this mesh: {demand}"));
    }
    let all = 1_000_000;
    let enabled = message.filter_enabled.as_ref();
    let enabled = enabled.map_or(all, |share| {
        let at = &at.field("filter_enabled");
        if at.required("default_value", share.default_value.as_ref()).is_none() {
            return all;
        }
        runtime_fraction(share, at).unwrap_or(all)
    });
    let deny_at_disable = message.deny_at_disable.as_ref();
    let deny_at_disable = deny_at_disable.is_some_and(|flag| is_on(flag, &at.field("deny_at_disable")));
    let status = message.status_on_error.as_ref().map(|status| status_of_error(status, &at.field("status_on_error")));
    let list = |list: Option<&ListStringMatcher>, field| list.map(|list| patterns(list, &at.field(field)));
    let allowed_headers = list(message.allowed_headers.as_ref(), "allowed_headers");
    let disallowed_headers = list(message.disallowed_headers.as_ref(), "disallowed_headers");
    let rules = message.decoder_header_mutation_rules.as_ref();
    let rules = rules.map(|rules| mutation_rules(rules, &at.field("decoder_header_mutation_rules")));
    let filter = ExtAuthz {
        service: service?,
        enabled,
        deny_at_disable,
        failure_mode_allow: message.failure_mode_allow,
        failure_mode_allow_header_add: message.failure_mode_allow_header_add,
        status_on_error: status.unwrap_or(StatusCode::FORBIDDEN),
        allowed_headers,
        disallowed_headers: disallowed_headers.unwrap_or_default(),
        rules: rules.unwrap_or_default(),
        include_peer_certificate: message.include_peer_certificate,
        is_open: AtomicBool::new(false),
    };
    Some(FilterConfig::ExtAuthz(ExtAuthzConfig { filter: Some(Arc::new(filter)), ..Default::default() }))
}

/// `disabled` and the settings are Envoy's: A92 ignores them, so that what a route exempts would be asked for all the same.
pub(super) fn per_route(message: &proto::ExtAuthzPerRoute, at: &At<'_>) -> Option<Override> {
    message.judge(at);
    match &message.r#override {
        Some(PerRoute::Disabled(true)) => Some(Override::Disabled),
        Some(PerRoute::Disabled(false)) => Some(Override::Config(FilterConfig::ExtAuthz(ExtAuthzConfig::default()))),
        Some(PerRoute::CheckSettings(settings)) => {
            let config = check_settings(settings, &at.field("check_settings"));
            Some(Override::Config(FilterConfig::ExtAuthz(config)))
        }
        None => {
            at.error("`disabled` or `check_settings` must be set");
            None
        }
    }
}

fn check_settings(message: &proto::CheckSettings, at: &At<'_>) -> ExtAuthzConfig {
    message.judge(at);
    let service = match &message.service_override {
        Some(ServiceOverride::GrpcService(service)) => grpc_service(service, &at.field("grpc_service")),
        // Refused by the table.
        Some(ServiceOverride::HttpService(_)) | None => None,
    };
    ExtAuthzConfig { filter: None, service, context_extensions: Arc::new(message.context_extensions.clone()) }
}

/// A service that the bootstrap allows, with the credentials that stand there (A102).
fn grpc_service(message: &GrpcService, at: &At<'_>) -> Option<AuthorizationService> {
    message.judge(at);
    let timeout = duration(message.timeout, &at.field("timeout"));
    if timeout.is_some_and(|timeout| timeout.is_zero()) {
        at.field("timeout").error("must be above 0");
    }
    let Some(TargetSpecifier::GoogleGrpc(google)) = &message.target_specifier else {
        at.field("google_grpc").error("must be set (A102)");
        return None;
    };
    let at = &at.field("google_grpc");
    google.judge(at);
    let channel = at.report().local.grpc_services.get(google.target_uri.as_str()).cloned();
    if channel.is_none() {
        let uri = quoted(&google.target_uri);
        at.field("target_uri")
            .error(format!("{uri} is none of the services that the bootstrap allows (`allowed_grpc_services`, A102)"));
    }
    Some(AuthorizationService { channel: channel?, timeout: timeout.unwrap_or(DEFAULT_TIMEOUT) })
}

fn status_of_error(message: &HttpStatus, at: &At<'_>) -> StatusCode {
    message.judge(at);
    let code = u16::try_from(message.code).ok().filter(|code| (400..600).contains(code));
    code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or_else(|| {
        at.field("code").error(format!("{} is not a status of HTTP that says an error, from 400 to 599", message.code));
        StatusCode::FORBIDDEN
    })
}

fn patterns(message: &ListStringMatcher, at: &At<'_>) -> Box<[TextMatch]> {
    message.judge(at);
    let patterns = message.patterns.iter().enumerate();
    patterns.filter_map(|(index, pattern)| string_match(pattern, &at.item("patterns", index))).collect()
}

fn mutation_rules(message: &HeaderMutationRules, at: &At<'_>) -> MutationRules {
    message.judge(at);
    let pattern = |regex: Option<&RegexMatcher>, field| text_regex(regex?, &at.field(field));
    MutationRules {
        disallow_all: message.disallow_all.unwrap_or_default(),
        allow: pattern(message.allow_expression.as_ref(), "allow_expression"),
        disallow: pattern(message.disallow_expression.as_ref(), "disallow_expression"),
        allow_envoy: message.allow_envoy.unwrap_or_default(),
        disallow_is_error: message.disallow_is_error.unwrap_or_default(),
    }
}

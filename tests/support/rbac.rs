//! Policies for a server's calls (A41), as a control plane sends them.

use mesh_xds_proto::envoy::config::rbac::v3::permission::Rule;
use mesh_xds_proto::envoy::config::rbac::v3::principal::Identifier;
use mesh_xds_proto::envoy::config::rbac::v3::rbac::Action;
use mesh_xds_proto::envoy::config::rbac::v3::{Permission, Policy, Principal, Rbac as Rules};
use mesh_xds_proto::envoy::config::route::v3::HeaderMatcher;
use mesh_xds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use mesh_xds_proto::envoy::extensions::filters::http::rbac::v3::Rbac;

pub(crate) fn any() -> (Permission, Principal) {
    (permission(Rule::Any(true)), principal(Identifier::Any(true)))
}

pub(crate) fn permission(rule: Rule) -> Permission {
    Permission { rule: Some(rule) }
}

pub(crate) fn principal(identifier: Identifier) -> Principal {
    Principal { identifier: Some(identifier) }
}

/// Rules of policies `policy-0`, `policy-1`, ….
pub(crate) fn rules(action: Action, policies: impl IntoIterator<Item = (Permission, Principal)>) -> Rules {
    let policies = policies.into_iter().enumerate().map(|(place, (permission, principal))| {
        let policy = Policy { permissions: vec![permission], principals: vec![principal], ..Default::default() };
        (format!("policy-{place}"), policy)
    });
    Rules { action: action as i32, policies: policies.collect(), ..Default::default() }
}

pub(crate) fn rbac(action: Action, policies: impl IntoIterator<Item = (Permission, Principal)>) -> Rbac {
    Rbac { rules: Some(rules(action, policies)), ..Default::default() }
}

pub(crate) fn allow(policies: impl IntoIterator<Item = (Permission, Principal)>) -> Rbac {
    rbac(Action::Allow, policies)
}

pub(crate) fn deny(policies: impl IntoIterator<Item = (Permission, Principal)>) -> Rbac {
    rbac(Action::Deny, policies)
}

pub(crate) fn header(name: &str, value: &str) -> HeaderMatcher {
    let specifier = Some(HeaderMatchSpecifier::ExactMatch(value.into()));
    HeaderMatcher { name: name.into(), header_match_specifier: specifier, ..Default::default() }
}

/// Anybody's calls with this header.
pub(crate) fn with_header(name: &str, value: &str) -> (Permission, Principal) {
    (permission(Rule::Header(header(name, value))), principal(Identifier::Any(true)))
}

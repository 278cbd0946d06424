//! The filter `jwt_authn`, as in Envoy, and what routes say of it. What would let a call through that its sender meant to be
//! checked is refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderName, Uri};
use mesh_xds_proto::envoy::config::core::v3::data_source::Specifier;
use mesh_xds_proto::envoy::config::core::v3::http_uri::HttpUpstreamType;
use mesh_xds_proto::envoy::config::core::v3::{DataSource, HttpUri};
use mesh_xds_proto::envoy::config::route::v3::RouteMatch as RouteMatchMessage;
use mesh_xds_proto::envoy::extensions::filters::http::jwt_authn::v3 as proto;
use proto::jwt_provider::JwksSourceSpecifier;
use proto::jwt_requirement::RequiresType;
use proto::per_route_config::RequirementSpecifier;
use proto::requirement_rule::RequirementType;

use super::place::{At, quoted};
use super::route_match::{inbound_route_match, string_match};
use super::value::duration;
use crate::backoff::bounded;
use crate::resource::filter::{FilterConfig, Override};
use crate::resource::jwt::keys::{KeySource, Keys};
use crate::resource::jwt::place::TokenPlace;
use crate::resource::jwt::provider::{CLOCK_SKEW, Effects, Provider};
use crate::resource::jwt::remote::{MAX_TIMEOUT, RemoteSource};
use crate::resource::jwt::requirement::{Requirement, TokenOf};
use crate::resource::jwt::{JwtConfig, JwtFilter};
use crate::resource::matcher::RouteMatch;
use crate::resource::verdict::Fields;

/// As in Envoy.
const CACHE_DURATION: Duration = Duration::from_secs(600);
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// No control plane has issuers asked all the time.
const LEAST_CACHE_DURATION: Duration = Duration::from_secs(1);
const LEAST_RETRY: Duration = Duration::from_millis(100);

pub(super) fn jwt_authentication(message: &proto::JwtAuthentication, at: &At<'_>) -> FilterConfig {
    message.judge(at);
    let names = Names(message.providers.keys().map(String::as_str).collect());
    let providers = message.providers.iter();
    let providers = providers.filter_map(|(name, message)| provider(message, &at.key("providers", name)));
    let providers = providers.collect();
    let named = message.requirement_map.iter().filter_map(|(name, message)| {
        let requirement = names.requirement(message, &at.key("requirement_map", name));
        Some((Arc::from(name.as_str()), requirement?))
    });
    let named = named.collect();
    let rules = message.rules.iter().enumerate();
    let rules = rules.filter_map(|(index, rule)| names.rule(rule, &message.requirement_map, &at.item("rules", index)));
    let filter = JwtFilter::new(providers, rules.collect(), named, message.strip_failure_response);
    FilterConfig::Jwt(JwtConfig::Rules(Arc::new(filter)))
}

/// `None`: it is wrong, and reported.
pub(super) fn per_route(message: &proto::PerRouteConfig, at: &At<'_>) -> Option<Override> {
    message.judge(at);
    match &message.requirement_specifier {
        Some(RequirementSpecifier::Disabled(true)) => Some(Override::Disabled),
        Some(RequirementSpecifier::RequirementName(name)) if !name.is_empty() => {
            Some(Override::Config(FilterConfig::Jwt(JwtConfig::Named(name.as_str().into()))))
        }
        _ => {
            at.error("`disabled` must be true, or `requirement_name` set");
            None
        }
    }
}

/// The names of the providers, in the order of the filter's list.
struct Names<'a>(Vec<&'a str>);

impl Names<'_> {
    fn rule(
        &self,
        message: &proto::RequirementRule,
        named: &BTreeMap<String, proto::JwtRequirement>,
        at: &At<'_>,
    ) -> Option<(RouteMatch, Requirement)> {
        message.judge(at);
        let condition = at.required("match", message.r#match.as_ref());
        let condition = condition.and_then(|condition| condition_of(condition, &at.field("match")));
        let requirement = match &message.requirement_type {
            None => Some(Requirement::Nothing),
            Some(RequirementType::Requires(message)) => self.requirement(message, &at.field("requires")),
            Some(RequirementType::RequirementName(name)) => match named.get(name) {
                // What is wrong with it is reported where it stands, too.
                Some(message) => self.requirement(message, &at.field("requirement_name")),
                None => {
                    at.field("requirement_name").error(format!("{} is not in `requirement_map`", quoted(name)));
                    None
                }
            },
        };
        Some((condition?, requirement?))
    }

    fn requirement(&self, message: &proto::JwtRequirement, at: &At<'_>) -> Option<Requirement> {
        message.judge(at);
        match message.requires_type.as_ref() {
            None => Some(Requirement::Nothing),
            Some(RequiresType::ProviderName(name)) => {
                self.place(name, &at.field("provider_name")).map(TokenOf::provider).map(Requirement::Provider)
            }
            Some(RequiresType::ProviderAndAudiences(message)) => {
                let at = &at.field("provider_and_audiences");
                message.judge(at);
                let audiences = Some(message.audiences.clone().into()).filter(|_| !message.audiences.is_empty());
                let provider = self.place(&message.provider_name, &at.field("provider_name"))?;
                Some(Requirement::Provider(TokenOf { provider, audiences }))
            }
            Some(RequiresType::RequiresAny(list)) => {
                let at = &at.field("requires_any");
                list.judge(at);
                self.any(&list.requirements, at)
            }
            Some(RequiresType::RequiresAll(list)) => {
                let at = &at.field("requires_all");
                list.judge(at);
                self.list(&list.requirements, at).map(|list| Requirement::All(list.into()))
            }
            Some(RequiresType::AllowMissing(())) => Some(Requirement::AllowMissing(self.all())),
            Some(RequiresType::AllowMissingOrFailed(())) => Some(Requirement::AllowMissingOrFailed(self.all())),
            // Refused by the table.
            Some(RequiresType::ExtractOnlyWithoutValidation(_)) => None,
        }
    }

    /// What lets calls through without a token comes last, and concerns what is beside it: a token that is none of these
    /// providers' for these audiences is not missing. In Envoy it is, if only its audience is another.
    fn any(&self, requirements: &[proto::JwtRequirement], at: &At<'_>) -> Option<Requirement> {
        let list = self.list(requirements, at)?;
        let is_lenient =
            |one: &Requirement| matches!(one, Requirement::AllowMissing(_) | Requirement::AllowMissingOrFailed(_));
        let (lenient, mut strict): (Vec<_>, Vec<_>) = list.into_iter().partition(is_lenient);
        let beside = strict.iter().filter_map(|one| match one {
            Requirement::Provider(of) => Some(of.clone()),
            _ => None,
        });
        let beside: Box<[TokenOf]> = beside.collect();
        let beside = if beside.is_empty() { self.all() } else { beside };
        let or_failed = lenient.iter().any(|one| matches!(one, Requirement::AllowMissingOrFailed(_)));
        match lenient.is_empty() {
            true => {}
            false if or_failed => strict.push(Requirement::AllowMissingOrFailed(beside)),
            false => strict.push(Requirement::AllowMissing(beside)),
        }
        Some(Requirement::Any(strict.into()))
    }

    fn list(&self, requirements: &[proto::JwtRequirement], at: &At<'_>) -> Option<Vec<Requirement>> {
        if requirements.len() < 2 {
            at.field("requirements").error("must be two or more");
        }
        let requirements = requirements.iter().enumerate();
        requirements.map(|(index, message)| self.requirement(message, &at.item("requirements", index))).collect()
    }

    fn place(&self, name: &str, at: &At<'_>) -> Option<usize> {
        let place = self.0.iter().position(|known| *known == name);
        if place.is_none() {
            at.error(format!("{} is not in `providers`", quoted(name)));
        }
        place
    }

    fn all(&self) -> Box<[TokenOf]> {
        (0..self.0.len()).map(TokenOf::provider).collect()
    }
}

/// A condition that held for more requests than it says, or for none, could let calls through that are to be checked.
fn condition_of(message: &RouteMatchMessage, at: &At<'_>) -> Option<RouteMatch> {
    for (field, is_set) in [
        ("query_parameters", !message.query_parameters.is_empty()),
        ("cookies", !message.cookies.is_empty()),
        ("grpc", message.grpc.is_some()),
        ("tls_context", message.tls_context.is_some()),
        ("dynamic_metadata", !message.dynamic_metadata.is_empty()),
        ("filter_state", !message.filter_state.is_empty()),
    ] {
        if is_set {
            at.field(field).error("is not supported in a rule");
        }
    }
    inbound_route_match(message, at)
}

fn provider(message: &proto::JwtProvider, at: &At<'_>) -> Option<Provider> {
    message.judge(at);
    let keys = match &message.jwks_source_specifier {
        Some(JwksSourceSpecifier::LocalJwks(source)) => keys(source, &at.field("local_jwks")).map(KeySource::from),
        Some(JwksSourceSpecifier::RemoteJwks(source)) => remote(source, &at.field("remote_jwks")),
        None => {
            at.field("local_jwks").error("must be set");
            None
        }
    };
    let subjects = message.subjects.as_ref();
    let subjects = subjects.map(|subjects| string_match(subjects, &at.field("subjects")).ok_or(())).transpose().ok()?;
    let skew = Some(message.clock_skew_seconds).filter(|seconds| *seconds > 0);
    Some(Provider {
        issuer: message.issuer.clone(),
        audiences: message.audiences.clone(),
        subjects,
        needs_expiration: message.require_expiration,
        max_lifetime: duration(message.max_lifetime, &at.field("max_lifetime")),
        clock_skew: skew.map_or(CLOCK_SKEW, |seconds| Duration::from_secs(seconds.into())),
        places: places(message, at),
        effects: effects(message, at),
        keys: keys?,
    })
}

fn keys(source: &DataSource, at: &At<'_>) -> Option<Keys> {
    source.judge(at);
    let (bytes, at) = match &source.specifier {
        Some(Specifier::InlineBytes(bytes)) => (&bytes[..], at.field("inline_bytes")),
        Some(Specifier::InlineString(text)) => (text.as_bytes(), at.field("inline_string")),
        Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_)) | None => {
            at.error("must be `inline_string` or `inline_bytes`");
            return None;
        }
    };
    let (keys, others) = Keys::read(bytes).map_err(|problem| at.error(problem)).ok()?;
    if others > 0 {
        at.ignored("some of its keys are not supported, or not for signatures");
    }
    Some(keys)
}

/// The set is the same as one that is in use, if that is fetched in the same way.
fn remote(message: &proto::RemoteJwks, at: &At<'_>) -> Option<KeySource> {
    message.judge(at);
    let at_uri = &at.field("http_uri");
    let place = at.required("http_uri", message.http_uri.as_ref()).and_then(|uri| http_uri(uri, at_uri));
    let cache_duration = duration(message.cache_duration, &at.field("cache_duration"));
    let fetch = message.async_fetch.unwrap_or_default();
    fetch.judge(&at.field("async_fetch"));
    let retry = duration(fetch.failed_refetch_duration, &at.field("async_fetch").field("failed_refetch_duration"));
    let (uri, cluster, timeout) = place?;
    let source = RemoteSource {
        uri,
        cluster,
        timeout,
        cache_duration: bounded(cache_duration.unwrap_or(CACHE_DURATION)).max(LEAST_CACHE_DURATION),
        first_retry: bounded(retry.unwrap_or(FIRST_RETRY)).max(LEAST_RETRY),
        is_awaited: !fetch.fast_listener,
    };
    Some(KeySource::Remote(at.report().local.key_sets.get(source)))
}

fn http_uri(message: &HttpUri, at: &At<'_>) -> Option<(Uri, Arc<str>, Duration)> {
    message.judge(at);
    let uri = message.uri.parse::<Uri>().ok().filter(|uri| {
        let names_a_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        uri.scheme() == Some(&Scheme::HTTPS) && !names_a_user
    });
    if uri.is_none() {
        at.field("uri").error("must be an `https` URI without a user: whose keys they are, nobody else may say");
    }
    let cluster = match &message.http_upstream_type {
        Some(HttpUpstreamType::Cluster(name)) if !name.is_empty() => Some(Arc::from(name.as_str())),
        _ => {
            at.field("cluster").error("must be set");
            None
        }
    };
    let timeout = duration(message.timeout, &at.field("timeout")).filter(|timeout| !timeout.is_zero());
    Some((uri?, cluster?, timeout.unwrap_or(MAX_TIMEOUT).min(MAX_TIMEOUT)))
}

fn places(message: &proto::JwtProvider, at: &At<'_>) -> Vec<TokenPlace> {
    let headers = message.from_headers.iter().enumerate().filter_map(|(index, header)| {
        let at = &at.item("from_headers", index);
        header.judge(at);
        let name = header_name(&header.name, &at.field("name"))?;
        Some(TokenPlace::Header { name, prefix: header.value_prefix.as_str().into() })
    });
    let parameters = message.from_params.iter().map(|name| TokenPlace::Parameter(name.as_str().into()));
    let cookies = message.from_cookies.iter().map(|name| TokenPlace::Cookie(name.as_str().into()));
    let places: Vec<_> = headers.chain(parameters).chain(cookies).collect();
    if places.is_empty() { TokenPlace::defaults() } else { places }
}

fn effects(message: &proto::JwtProvider, at: &At<'_>) -> Effects {
    let claims = message.claim_to_headers.iter().enumerate().filter_map(|(index, claim)| {
        let at = &at.item("claim_to_headers", index);
        claim.judge(at);
        let name = header_name(&claim.header_name, &at.field("header_name"))?;
        claim.claim_path.iter().for_each(|step| step.judge(&at.field("claim_path")));
        let path = match claim.claim_path.as_slice() {
            [] => claim.claim_name.split('.').map(str::to_owned).collect(),
            path => path.iter().map(|step| step.key.clone()).collect(),
        };
        if claim.claim_path.is_empty() && claim.claim_name.is_empty() {
            at.field("claim_name").error("must be set");
        }
        Some((name, path))
    });
    let header = Some(message.forward_payload_header.as_str()).filter(|name| !name.is_empty());
    let normalized = message.normalize_payload_in_metadata.as_ref();
    if let Some(normalized) = normalized {
        normalized.judge(&at.field("normalize_payload_in_metadata"));
    }
    let entry = |name: &str| Some(Arc::from(name)).filter(|_| !name.is_empty());
    Effects {
        forwards: message.forward,
        payload_header: header.and_then(|name| header_name(name, &at.field("forward_payload_header"))),
        pads: message.pad_forward_payload_header,
        claim_headers: claims.collect(),
        payload_entry: entry(&message.payload_in_metadata),
        header_entry: entry(&message.header_in_metadata),
        lists: normalized.map(|normalized| normalized.space_delimited_claims.clone()).unwrap_or_default(),
    }
}

fn header_name(name: &str, at: &At<'_>) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| quoted(name));
    name.map_err(|name| at.error(format!("{name} is not the name of a header"))).ok()
}

//! The HTTP filters of a listener, and what routes override of them (A39).
//!
//! The router ends the list. A filter that is not known may guard something, and is refused unless its sender calls it
//! optional.
//!
//! A new filter is a case in [`kind`] and one in [`unwrapped`].

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use mesh_xds_proto::envoy::config::route::v3::FilterConfig as Wrapper;
use mesh_xds_proto::envoy::extensions::common::matching::v3::{ExtensionWithMatcher, ExtensionWithMatcherPerRoute};
use mesh_xds_proto::envoy::extensions::filters::http::adaptive_concurrency::v3::AdaptiveConcurrency;
use mesh_xds_proto::envoy::extensions::filters::http::composite::v3::{Composite as Empty, CompositePerRoute};
use mesh_xds_proto::envoy::extensions::filters::http::ext_authz::v3::{ExtAuthz, ExtAuthzPerRoute};
use mesh_xds_proto::envoy::extensions::filters::http::fault::v3::HttpFault;
use mesh_xds_proto::envoy::extensions::filters::http::header_mutation::v3::{HeaderMutation, HeaderMutationPerRoute};
use mesh_xds_proto::envoy::extensions::filters::http::jwt_authn::v3::{JwtAuthentication, PerRouteConfig};
use mesh_xds_proto::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use mesh_xds_proto::envoy::extensions::filters::http::rbac::v3::{Rbac, RbacPerRoute};
use mesh_xds_proto::envoy::extensions::filters::http::router::v3::Router;
use mesh_xds_proto::envoy::extensions::filters::http::stateful_session::v3::{
    StatefulSession, StatefulSessionPerRoute,
};
use mesh_xds_proto::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use mesh_xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use prost::{Message, Name};
use prost_types::Any;

use super::adaptive_concurrency::adaptive_concurrency;
use super::composite;
use super::ext_authz;
use super::fault::fault;
use super::header_mutation::mutations;
use super::place::{At, quoted};
use super::rate_limit::local_rate_limit;
use super::rbac;
use super::stateful_session::{per_route, stateful_session};

use super::value::Extension;
use crate::resource::filter::composite::Composite;
use crate::resource::filter::{FilterConfig, HeaderMutationConfig, HttpFilter, HttpFilters, Override, Overrides};
use crate::resource::rbac::RbacFilter;
use crate::resource::verdict::{Fields, feature_off};

/// Filters run others that run others so deep at most (A103).
const MAX_DEPTH: u32 = 8;

/// Whose calls a list of filters is for: each side knows its own kinds (A39).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// Where a filter is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Within {
    /// `None`: in a route, which does not say whose it is.
    side: Option<Side>,
    /// How deep filters may still be nested.
    depth: u32,
}

impl Within {
    fn top(side: Option<Side>) -> Self {
        Self { side, depth: MAX_DEPTH }
    }

    /// Whether it is a client's, and no server's.
    pub(super) fn is_of_client(self) -> bool {
        self.side == Some(Side::Client)
    }

    /// In a filter that is here.
    pub(super) fn deeper(self) -> Option<Self> {
        self.depth.checked_sub(1).map(|depth| Self { depth, ..self })
    }
}

/// What a filter is to the list.
enum Kind {
    /// Ends the list.
    Terminal,
    Filter(FilterConfig),
    /// Not there, as far as the list is concerned.
    Skipped,
}

/// Reads `http_filters` of the message at `at`.
pub(super) fn http_filters(filters: &[proto::HttpFilter], side: Side, at: &At<'_>) -> HttpFilters {
    let mut names = HashSet::new();
    let mut list = HttpFilters::default();
    let mut ended = None;
    let errors = at.report().error_count();
    for (index, filter) in filters.iter().enumerate() {
        let at = &at.item("http_filters", index);
        filter.judge(at);
        if filter.name.is_empty() {
            at.field("name").error("must be set");
        } else if !names.insert(filter.name.as_str()) {
            at.field("name").error(format!("{} stands twice in the list", quoted(&filter.name)));
        }
        let kind = kind(filter, side, at);
        if matches!(kind, Kind::Skipped) {
            continue;
        }
        if ended.replace(matches!(kind, Kind::Terminal)) == Some(true) {
            at.error("stands behind the router, which must be the last filter");
        }
        if let Kind::Filter(config) = kind {
            list.0.push(HttpFilter { name: filter.name.as_str().into(), disabled: filter.disabled, config });
        }
    }
    if ended != Some(true) && at.report().error_count() == errors {
        at.field("http_filters").error("the last filter must be the router");
    }
    list
}

fn kind(filter: &proto::HttpFilter, side: Side, at: &At<'_>) -> Kind {
    let config = match &filter.config_type {
        Some(ConfigType::TypedConfig(config)) => Some(config),
        Some(ConfigType::ConfigDiscovery(_)) => {
            unsupported("config_discovery", filter.is_optional, &at.field("config_discovery"));
            return Kind::Skipped;
        }
        None => None,
    };
    let place = &at.field("typed_config");
    let Some(extension) = Extension::open(config, place) else { return Kind::Skipped };
    of_extension(&extension, filter.is_optional, Within::top(Some(side)), at)
}

/// A filter that a call passes if another one says so (A103): not the router.
pub(super) fn nested_filter(config: Option<&Any>, within: Within, at: &At<'_>) -> Option<FilterConfig> {
    let place = &at.field("typed_config");
    let extension = Extension::open(config, place)?;
    match of_extension(&extension, false, within, at) {
        Kind::Terminal => {
            place.error("is the router, which no other filter can run");
            None
        }
        Kind::Filter(config) => Some(config),
        Kind::Skipped => None,
    }
}

fn of_extension(extension: &Extension<'_>, is_optional: bool, within: Within, at: &At<'_>) -> Kind {
    let side = within.side;
    let place = &at.field("typed_config");
    let unknown = || {
        unsupported(&extension.type_name, is_optional, &at.key("typed_config", &extension.type_name));
        Kind::Skipped
    };
    let choosing = |composite: Option<Composite>| match composite {
        Some(composite) => Kind::Filter(FilterConfig::Composite(Arc::new(composite))),
        None => Kind::Skipped,
    };
    if extension.is::<Router>() {
        judge::<Router>(extension, place);
        Kind::Terminal
    } else if !cfg!(feature = "filter") {
        without_feature(is_optional, &at.key("typed_config", &extension.type_name));
        Kind::Skipped
    } else if side != Some(Side::Client) && extension.is::<Rbac>() {
        extension.unpack(place).map_or(Kind::Skipped, |message| Kind::Filter(access(rbac::rbac(&message, place))))
    } else if side != Some(Side::Client) && extension.is::<JwtAuthentication>() {
        jwt(extension, place).map_or(Kind::Skipped, Kind::Filter)
    } else if extension.is::<ExtensionWithMatcher>() {
        let Some(message) = extension.unpack::<ExtensionWithMatcher>(place) else { return Kind::Skipped };
        match composite::wrapped(&message, place) {
            Some(inner) if inner.is::<Empty>() => choosing(composite::composite(&message, &inner, within, place)),
            Some(_) => unknown(),
            None => Kind::Skipped,
        }
    } else if extension.is::<Empty>() {
        choosing(extension.unpack(place).and_then(|message| composite::alone(&message, within, place)))
    } else if extension.is::<ExtAuthz>() {
        let config = extension.unpack(place).and_then(|message| ext_authz::ext_authz(&message, place));
        config.map_or(Kind::Skipped, Kind::Filter)
    } else if extension.is::<AdaptiveConcurrency>() {
        extension.unpack(place).map_or(Kind::Skipped, |message| Kind::Filter(concurrency_limit(&message, place)))
    } else if extension.is::<HttpFault>() {
        extension.unpack(place).map_or(Kind::Skipped, |message| Kind::Filter(faults(&message, place)))
    } else if extension.is::<HeaderMutation>() {
        extension.unpack(place).map_or(Kind::Skipped, |message| Kind::Filter(header_changes(&message, place)))
    } else if extension.is::<LocalRateLimit>() {
        extension.unpack(place).map_or(Kind::Skipped, |message| Kind::Filter(rate_limit(&message, false, place)))
    } else if side != Some(Side::Server) && extension.is::<StatefulSession>() {
        extension.unpack(place).map_or(Kind::Skipped, |message| Kind::Filter(sessions(&message, place)))
    } else {
        unknown()
    }
}

/// Reads `typed_per_filter_config` of the message at `at`. Overrides of filters that the listener does not have are
/// checked all the same (A39).
pub(super) fn overrides(configs: &BTreeMap<String, Any>, at: &At<'_>) -> Overrides {
    let read = configs.iter().filter_map(|(name, config)| {
        let at = &at.key("typed_per_filter_config", name);
        if name.is_empty() {
            at.error("has no filter's name");
        }
        let extension = Extension::open(Some(config), at)?;
        Some((name.as_str().into(), one_override(&extension, at)?))
    });
    read.collect()
}

fn one_override(extension: &Extension<'_>, at: &At<'_>) -> Option<Override> {
    if !extension.is::<Wrapper>() {
        return unwrapped(extension, false, at);
    }
    let wrapper = extension.unpack::<Wrapper>(at)?;
    wrapper.judge(at);
    if wrapper.config.is_none() && wrapper.disabled {
        return Some(Override::Disabled);
    }
    let at = &at.field("config");
    let inner = Extension::open(wrapper.config.as_ref(), at)?;
    let config = unwrapped(&inner, wrapper.is_optional, at);
    if wrapper.disabled { Some(Override::Disabled) } else { config }
}

fn unwrapped(extension: &Extension<'_>, is_optional: bool, at: &At<'_>) -> Option<Override> {
    if extension.is::<HttpFault>() {
        return Some(Override::Config(faults(&extension.unpack(at)?, at)));
    }
    if extension.is::<ExtAuthzPerRoute>() {
        return ext_authz::per_route(&extension.unpack(at)?, at);
    }
    if extension.is::<HeaderMutationPerRoute>() {
        let message: HeaderMutationPerRoute = extension.unpack(at)?;
        message.judge(at);
        let changes = Arc::new(mutations(message.mutations.as_ref(), at));
        let config = HeaderMutationConfig { changes, most_specific_wins: false };
        return Some(Override::Config(FilterConfig::HeaderMutation(config)));
    }
    if extension.is::<LocalRateLimit>() {
        return Some(Override::Config(rate_limit(&extension.unpack(at)?, true, at)));
    }
    if extension.is::<StatefulSessionPerRoute>() {
        let session = per_route(&extension.unpack(at)?, at);
        let config = |session| Override::Config(FilterConfig::StatefulSession(Arc::new(session)));
        return Some(session.map_or(Override::Disabled, config));
    }
    if extension.is::<RbacPerRoute>() {
        let filter = rbac::per_route(&extension.unpack(at)?, at);
        return Some(filter.map_or(Override::Disabled, |filter| Override::Config(access(filter))));
    }
    if extension.is::<ExtensionWithMatcherPerRoute>() {
        return choosing(composite::per_route(&extension.unpack(at)?, Within::top(None), at)?);
    }
    if extension.is::<CompositePerRoute>() {
        return choosing(composite::alone_per_route(&extension.unpack(at)?, Within::top(None), at)?);
    }
    if extension.is::<PerRouteConfig>() {
        return jwt_of_route(extension, at);
    }
    unsupported(&extension.type_name, is_optional, at);
    None
}

fn choosing(composite: Composite) -> Option<Override> {
    Some(Override::Config(FilterConfig::Composite(Arc::new(composite))))
}

#[cfg(feature = "jwt")]
fn jwt(extension: &Extension<'_>, at: &At<'_>) -> Option<FilterConfig> {
    Some(super::jwt::jwt_authentication(&extension.unpack(at)?, at))
}

#[cfg(not(feature = "jwt"))]
fn jwt(_: &Extension<'_>, at: &At<'_>) -> Option<FilterConfig> {
    at.error(feature_off!("jwt"));
    None
}

#[cfg(feature = "jwt")]
fn jwt_of_route(extension: &Extension<'_>, at: &At<'_>) -> Option<Override> {
    super::jwt::per_route(&extension.unpack(at)?, at)
}

#[cfg(not(feature = "jwt"))]
fn jwt_of_route(_: &Extension<'_>, at: &At<'_>) -> Option<Override> {
    at.error(feature_off!("jwt"));
    None
}

fn access(filter: RbacFilter) -> FilterConfig {
    FilterConfig::Rbac(Arc::new(filter))
}

fn concurrency_limit(message: &AdaptiveConcurrency, at: &At<'_>) -> FilterConfig {
    FilterConfig::ConcurrencyLimit(Arc::new(adaptive_concurrency(message, at)))
}

fn faults(message: &HttpFault, at: &At<'_>) -> FilterConfig {
    FilterConfig::Fault(Arc::new(fault(message, at)))
}

fn sessions(message: &StatefulSession, at: &At<'_>) -> FilterConfig {
    FilterConfig::StatefulSession(Arc::new(stateful_session(message, at)))
}

fn header_changes(message: &HeaderMutation, at: &At<'_>) -> FilterConfig {
    message.judge(at);
    let changes = Arc::new(mutations(message.mutations.as_ref(), at));
    let most_specific_wins = message.most_specific_header_mutations_wins;
    FilterConfig::HeaderMutation(HeaderMutationConfig { changes, most_specific_wins })
}

fn rate_limit(message: &LocalRateLimit, is_override: bool, at: &At<'_>) -> FilterConfig {
    FilterConfig::LocalRateLimit(Arc::new(local_rate_limit(message, is_override, at)))
}

fn judge<M: Message + Default + Name + Fields>(extension: &Extension<'_>, at: &At<'_>) {
    if let Some(message) = extension.unpack::<M>(at) {
        message.judge(at);
    }
}

/// No layer passes calls through filters.
fn without_feature(is_optional: bool, at: &At<'_>) {
    if is_optional {
        at.ignored(feature_off!("filter"));
    } else {
        at.error(concat!(feature_off!("filter"), ", and the filter is not optional"));
    }
}

fn unsupported(what: &str, is_optional: bool, at: &At<'_>) {
    if is_optional {
        at.ignored("optional, and not supported");
    } else {
        at.error(format!("{} is not supported, and the filter is not optional", quoted(what)));
    }
}

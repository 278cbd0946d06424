//! The HTTP filters of a listener, and what routes override of them (A39).
//!
//! The router ends the list. Fault injection and session affinity are known and listed, because they change nothing
//! that a call relies on; any other filter may guard it, and is refused unless its sender calls it optional.

use std::collections::{BTreeMap, HashSet};

use mesh_xds_proto::envoy::config::route::v3::FilterConfig;
use mesh_xds_proto::envoy::extensions::filters::http::fault::v3::HttpFault;
use mesh_xds_proto::envoy::extensions::filters::http::router::v3::Router;
use mesh_xds_proto::envoy::extensions::filters::http::stateful_session::v3::{
    StatefulSession, StatefulSessionPerRoute,
};
use mesh_xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use mesh_xds_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use prost::{Message, Name};
use prost_types::Any;

use super::place::{At, quoted};
use super::value::Extension;
use crate::resource::verdict::Fields;

/// What a filter is to the list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Ends the list.
    Terminal,
    Other,
    /// Not there, as far as the list is concerned.
    Skipped,
}

/// Checks `http_filters` of the message at `at`.
pub(super) fn check_filters(filters: &[HttpFilter], at: &At<'_>) {
    let mut names = HashSet::new();
    let mut last = None;
    let errors = at.report().error_count();
    for (index, filter) in filters.iter().enumerate() {
        let at = &at.item("http_filters", index);
        filter.judge(at);
        if filter.name.is_empty() {
            at.field("name").error("must be set");
        } else if !names.insert(filter.name.as_str()) {
            at.field("name").error(format!("{} stands twice in the list", quoted(&filter.name)));
        }
        let kind = kind(filter, at);
        if kind == Kind::Skipped {
            continue;
        }
        if last.replace(kind) == Some(Kind::Terminal) {
            at.error("stands behind the router, which must be the last filter");
        }
    }
    if last != Some(Kind::Terminal) && at.report().error_count() == errors {
        at.field("http_filters").error("the last filter must be the router");
    }
}

fn kind(filter: &HttpFilter, at: &At<'_>) -> Kind {
    let config = match &filter.config_type {
        Some(ConfigType::TypedConfig(config)) => Some(config),
        Some(ConfigType::ConfigDiscovery(_)) => {
            unsupported("config_discovery", filter.is_optional, &at.field("config_discovery"));
            return Kind::Skipped;
        }
        None => None,
    };
    let place = at.field("typed_config");
    let Some(extension) = Extension::open(config, &place) else {
        return Kind::Skipped;
    };
    if extension.is::<Router>() {
        judge::<Router>(&extension, &place);
        Kind::Terminal
    } else if extension.is::<HttpFault>() {
        judge::<HttpFault>(&extension, &place);
        Kind::Other
    } else if extension.is::<StatefulSession>() {
        judge::<StatefulSession>(&extension, &place);
        Kind::Other
    } else {
        unsupported(&extension.type_name, filter.is_optional, &at.key("typed_config", &extension.type_name));
        Kind::Skipped
    }
}

/// Checks `typed_per_filter_config` of the message at `at`. Overrides of filters that the listener does not have are
/// checked all the same (A39).
pub(super) fn check_overrides(overrides: &BTreeMap<String, Any>, at: &At<'_>) {
    for (name, config) in overrides {
        let at = &at.key("typed_per_filter_config", name);
        if name.is_empty() {
            at.error("has no filter's name");
        }
        if let Some(extension) = Extension::open(Some(config), at) {
            check_override(&extension, at);
        }
    }
}

fn check_override(extension: &Extension<'_>, at: &At<'_>) {
    if !extension.is::<FilterConfig>() {
        return check_unwrapped(extension, false, at);
    }
    let Some(wrapper) = extension.unpack::<FilterConfig>(at) else {
        return;
    };
    wrapper.judge(at);
    if wrapper.config.is_none() && wrapper.disabled {
        return;
    }
    let at = &at.field("config");
    if let Some(inner) = Extension::open(wrapper.config.as_ref(), at) {
        check_unwrapped(&inner, wrapper.is_optional, at);
    }
}

fn check_unwrapped(extension: &Extension<'_>, is_optional: bool, at: &At<'_>) {
    if extension.is::<HttpFault>() {
        judge::<HttpFault>(extension, at);
    } else if extension.is::<StatefulSessionPerRoute>() {
        judge::<StatefulSessionPerRoute>(extension, at);
    } else {
        unsupported(&extension.type_name, is_optional, at);
    }
}

fn judge<M: Message + Default + Name + Fields>(extension: &Extension<'_>, at: &At<'_>) {
    if let Some(message) = extension.unpack::<M>(at) {
        message.judge(at);
    }
}

fn unsupported(what: &str, is_optional: bool, at: &At<'_>) {
    if is_optional {
        at.ignored("optional, and not supported");
    } else {
        at.error(format!("{} is not supported, and the filter is not optional", quoted(what)));
    }
}

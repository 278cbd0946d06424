//! `Composite`: which filters a call passes, by a tree of conditions on it (A103), in gRPC's wrapping and in Envoy's newer one.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_xds_proto::envoy::config::core::v3::TypedExtensionConfig;
use mesh_xds_proto::envoy::extensions::common::matching::v3::{ExtensionWithMatcher, ExtensionWithMatcherPerRoute};
use mesh_xds_proto::envoy::extensions::filters::common::matcher::action::v3::SkipFilter;
use mesh_xds_proto::envoy::extensions::filters::http::composite::v3 as proto;
use mesh_xds_proto::envoy::extensions::filters::http::composite::v3::{
    CompositePerRoute, ExecuteFilterAction, FilterChainConfiguration,
};
use mesh_xds_proto::xds::core::v3::TypedExtensionConfig as XdsExtension;
use mesh_xds_proto::xds::r#type::matcher::v3::Matcher;

use super::http_filter::{Within, nested_filter};
use super::match_tree::TreeReader;
use super::place::{At, quoted};
use super::value::{Extension, runtime_fraction};
use crate::resource::filter::HttpFilter;
use crate::resource::filter::composite::{Action, Composite};
use crate::resource::matcher::header::HeaderSource;
use crate::resource::verdict::Fields;

/// Chains that actions may name; each is read once, however many do.
type Chains<'m> = BTreeMap<&'m str, Arc<[HttpFilter]>>;

/// In gRPC's wrapping, which has the tree; the filter that it wraps may name chains.
pub(super) fn composite(
    message: &ExtensionWithMatcher,
    wrapped: &Extension<'_>,
    within: Within,
    at: &At<'_>,
) -> Option<Composite> {
    message.judge(at);
    let at_config = at.field("extension_config");
    let place = &at_config.field("typed_config");
    let wrapped: proto::Composite = wrapped.unpack(place)?;
    wrapped.judge(place);
    if wrapped.matcher.is_some() {
        place.field("matcher").error("must not be set: what wraps the filter says which filters a call passes");
    }
    of_tree("xds_matcher", message.xds_matcher.as_ref(), &named_chains(&wrapped, within, place), within, at)
}

/// What the wrapping is for, if that is this filter.
pub(super) fn wrapped<'a>(message: &'a ExtensionWithMatcher, at: &At<'_>) -> Option<Extension<'a>> {
    let config = at.required("extension_config", message.extension_config.as_ref())?;
    let at = &at.field("extension_config");
    config.judge(at);
    Extension::open(config.typed_config.as_ref(), &at.field("typed_config"))
}

pub(super) fn per_route(message: &ExtensionWithMatcherPerRoute, within: Within, at: &At<'_>) -> Option<Composite> {
    message.judge(at);
    of_tree("xds_matcher", message.xds_matcher.as_ref(), &Chains::new(), within, at)
}

/// In Envoy's newer form, without a wrapping.
pub(super) fn alone(message: &proto::Composite, within: Within, at: &At<'_>) -> Option<Composite> {
    message.judge(at);
    of_tree("matcher", message.matcher.as_ref(), &named_chains(message, within, at), within, at)
}

pub(super) fn alone_per_route(message: &CompositePerRoute, within: Within, at: &At<'_>) -> Option<Composite> {
    message.judge(at);
    of_tree("matcher", message.matcher.as_ref(), &Chains::new(), within, at)
}

/// Nested too deep there are none: that is reported with the tree.
fn named_chains<'m>(message: &'m proto::Composite, within: Within, at: &At<'_>) -> Chains<'m> {
    let Some(within) = within.deeper() else { return Chains::new() };
    let all = message.named_filter_chains.iter();
    all.map(|(name, chain)| (name.as_str(), of_chain(chain, within, &at.key("named_filter_chains", name)))).collect()
}

fn of_tree(
    field: &'static str,
    tree: Option<&Matcher>,
    chains: &Chains<'_>,
    within: Within,
    at: &At<'_>,
) -> Option<Composite> {
    let tree = at.required(field, tree)?;
    let Some(within) = within.deeper() else {
        at.error("filters are nested too deep");
        return None;
    };
    let action = |config: &XdsExtension, at: &At<'_>| action(config, chains, within, at);
    // A route's may be a server's, too: what a condition does not see there lets calls past the filters that it chooses.
    let header = if within.is_of_client() { HeaderSource::of } else { HeaderSource::inbound };
    Some(Composite { tree: TreeReader { action, header }.read(tree, &at.field(field))? })
}

fn action(config: &XdsExtension, chains: &Chains<'_>, within: Within, at: &At<'_>) -> Option<Action> {
    config.judge(at);
    let at = &at.field("typed_config");
    let extension = Extension::open(config.typed_config.as_ref(), at)?;
    if extension.is::<SkipFilter>() {
        return Some(Action::Skip);
    }
    if !extension.is::<ExecuteFilterAction>() {
        at.error(format!("{} is not an action of this filter", quoted(&extension.type_name)));
        return None;
    }
    let message: ExecuteFilterAction = extension.unpack(at)?;
    message.judge(at);
    let share = match &message.sample_percent {
        None => Some(1_000_000),
        Some(percent) => {
            let at = &at.field("sample_percent");
            at.required("default_value", percent.default_value.as_ref());
            runtime_fraction(percent, at)
        }
    };
    let filters = filters(&message, chains, within, at);
    Some(Action::Run(filters?, share?))
}

/// A chain goes before a single filter (A103).
fn filters(
    message: &ExecuteFilterAction,
    chains: &Chains<'_>,
    within: Within,
    at: &At<'_>,
) -> Option<Arc<[HttpFilter]>> {
    let name = message.filter_chain_name.as_str();
    match (&message.filter_chain, &message.typed_config) {
        (Some(chain), _) => Some(of_chain(chain, within, &at.field("filter_chain"))),
        (None, _) if !name.is_empty() => match chains.get(name) {
            Some(chain) => Some(chain.clone()),
            None => {
                at.field("filter_chain_name").error(format!("{} is none of `named_filter_chains`", quoted(name)));
                None
            }
        },
        (None, Some(config)) => Some(nested(config, within, &at.field("typed_config")).into_iter().collect()),
        (None, None) => {
            at.error("`typed_config` or `filter_chain` must be set");
            None
        }
    }
}

fn of_chain(message: &FilterChainConfiguration, within: Within, at: &At<'_>) -> Arc<[HttpFilter]> {
    message.judge(at);
    if message.typed_config.is_empty() {
        at.field("typed_config").error("must not be empty");
    }
    let all = message.typed_config.iter().enumerate();
    all.filter_map(|(index, config)| nested(config, within, &at.item("typed_config", index))).collect()
}

/// What is wrong is reported: then there is no resource.
fn nested(config: &TypedExtensionConfig, within: Within, at: &At<'_>) -> Option<HttpFilter> {
    config.judge(at);
    let own = nested_filter(config.typed_config.as_ref(), within, at)?;
    Some(HttpFilter { name: config.name.as_str().into(), disabled: false, config: own })
}

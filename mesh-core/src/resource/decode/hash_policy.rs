//! `RouteAction.hash_policy` (A42).

use mesh_xds_proto::envoy::config::route::v3::route_action::HashPolicy as Message;
use mesh_xds_proto::envoy::config::route::v3::route_action::hash_policy as proto;
use mesh_xds_proto::envoy::config::route::v3::route_action::hash_policy::PolicySpecifier;

use super::place::At;
use super::value::duration;
use crate::resource::cookie::Cookie;
use crate::resource::hash_policy::{HashPolicy, HashSource, Rewrite};
use crate::resource::matcher::header::HeaderSource;
use crate::resource::matcher::pattern::searching;
use crate::resource::verdict::Fields;

/// gRPC's only key of `filter_state`.
const CHANNEL_ID: &str = "io.grpc.channel_id";

/// The policies in their order, but for those that nothing acts on.
pub(super) fn hash_policies(messages: &[Message], at: &At<'_>) -> Vec<HashPolicy> {
    let policies = messages.iter().enumerate();
    policies.filter_map(|(index, message)| hash_policy(message, &at.item("hash_policy", index))).collect()
}

fn hash_policy(message: &Message, at: &At<'_>) -> Option<HashPolicy> {
    message.judge(at);
    let source = match message.policy_specifier.as_ref()? {
        PolicySpecifier::Header(message) => header(message, &at.field("header"))?,
        PolicySpecifier::Cookie(message) => HashSource::Cookie(cookie(message, &at.field("cookie"))?),
        PolicySpecifier::QueryParameter(message) => {
            let at = &at.field("query_parameter");
            message.judge(at);
            HashSource::QueryParameter(named(&message.name, at)?.into())
        }
        PolicySpecifier::FilterState(message) => {
            let at = &at.field("filter_state");
            message.judge(at);
            if message.key != CHANNEL_ID {
                at.field("key").ignored("only `io.grpc.channel_id` has a meaning (A42)");
                return None;
            }
            HashSource::ChannelId
        }
        // Listed by the table.
        PolicySpecifier::ConnectionProperties(_) => return None,
    };
    Some(HashPolicy { source, terminal: message.terminal })
}

fn header(message: &proto::Header, at: &At<'_>) -> Option<HashSource> {
    message.judge(at);
    let name = at.required("header_name", Some(message.header_name.as_str()).filter(|name| !name.is_empty()));
    let rewrite = match &message.regex_rewrite {
        None => None,
        Some(rewrite) => {
            let at = &at.field("regex_rewrite");
            rewrite.judge(at);
            let pattern = at.required("pattern", rewrite.pattern.as_ref())?;
            let at_pattern = &at.field("pattern");
            pattern.judge(at_pattern);
            let pattern = searching(&pattern.regex, &at.report().patterns);
            let pattern = pattern.map_err(|problem| at_pattern.field("regex").error(problem)).ok()?;
            let rewrite = Rewrite::new(pattern, &rewrite.substitution);
            Some(rewrite.map_err(|problem| at.field("substitution").error(problem)).ok()?)
        }
    };
    let source = HeaderSource::of(name?);
    if source.is_none() {
        at.field("header_name").ignored("no header can have this name");
    }
    Some(HashSource::Header(source?, rewrite))
}

fn cookie(message: &proto::Cookie, at: &At<'_>) -> Option<Cookie> {
    message.judge(at);
    let attributes = message.attributes.iter().enumerate().map(|(index, attribute)| {
        attribute.judge(&at.item("attributes", index));
        (attribute.name.as_str().into(), attribute.value.as_str().into())
    });
    Some(Cookie {
        name: named(&message.name, at)?.into(),
        ttl: duration(message.ttl, &at.field("ttl")),
        path: message.path.as_str().into(),
        attributes: attributes.collect(),
    })
}

/// What has no name can be found nowhere; gRPC, which does not look for it anyway, accepts it.
fn named<'m>(name: &'m str, at: &At<'_>) -> Option<&'m str> {
    if name.is_empty() {
        at.ignored("it has no name");
    }
    Some(name).filter(|name| !name.is_empty())
}

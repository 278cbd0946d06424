//! What a route makes of a request's path and authority, and routes that answer themselves: Envoy's fields.

use http::StatusCode;
use http::uri::Authority;
use mesh_xds_proto::envoy::config::core::v3::DataSource;
use mesh_xds_proto::envoy::config::core::v3::data_source::Specifier;
use mesh_xds_proto::envoy::config::route::v3 as proto;
use mesh_xds_proto::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use mesh_xds_proto::envoy::config::route::v3::route_action::HostRewriteSpecifier;
use mesh_xds_proto::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;

use super::place::{At, quoted};
use crate::resource::matcher::pattern::searching;
use crate::resource::rewrite::{Matched, PathRewrite, Replacement};
use crate::resource::route_answer::{Redirect, RedirectPath, RouteAnswer};
use crate::resource::verdict::Fields;

/// `matched`: what the route's condition takes of the path.
pub(super) fn path_rewrite(message: &proto::RouteAction, matched: Matched, at: &At<'_>) -> Option<PathRewrite> {
    match (&*message.prefix_rewrite, &message.regex_rewrite) {
        ("", None) => None,
        ("", Some(rewrite)) => pattern(rewrite, &at.field("regex_rewrite")),
        (with, None) => Some(PathRewrite::Matched { matched, with: with.into() }),
        (_, Some(_)) => {
            at.field("regex_rewrite").error("must not be set beside `prefix_rewrite`");
            None
        }
    }
}

fn pattern(message: &RegexMatchAndSubstitute, at: &At<'_>) -> Option<PathRewrite> {
    message.judge(at);
    let pattern = at.required("pattern", message.pattern.as_ref())?;
    let pattern = searching(&pattern.regex, &at.report().patterns);
    let pattern = pattern.map_err(|problem| at.field("pattern").field("regex").error(problem)).ok()?;
    let with = Replacement::parse(&message.substitution, pattern.captures_len() - 1);
    let with = with.map_err(|problem| at.field("substitution").error(problem)).ok()?;
    Some(PathRewrite::Pattern { pattern, with })
}

pub(super) fn host_rewrite(message: &proto::RouteAction, at: &At<'_>) -> Option<Authority> {
    match &message.host_rewrite_specifier {
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => authority(host, &at.field("host_rewrite_literal")),
        _ => None,
    }
}

pub(super) fn auto_host_rewrite(message: &proto::RouteAction) -> bool {
    matches!(message.host_rewrite_specifier, Some(HostRewriteSpecifier::AutoHostRewrite(true)))
}

/// An empty text asks for nothing.
pub(super) fn authority(text: &str, at: &At<'_>) -> Option<Authority> {
    if text.is_empty() {
        return None;
    }
    let authority = Authority::try_from(text);
    authority.map_err(|_| at.error(format!("{} is not an authority", quoted(text)))).ok()
}

pub(super) fn redirect(message: &proto::RedirectAction, matched: Matched, at: &At<'_>) -> Option<RouteAnswer> {
    message.judge(at);
    let status = match RedirectResponseCode::try_from(message.response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
        Ok(RedirectResponseCode::Found) => StatusCode::FOUND,
        Ok(RedirectResponseCode::SeeOther) => StatusCode::SEE_OTHER,
        Ok(RedirectResponseCode::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
        Ok(RedirectResponseCode::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
        Err(_) => {
            at.field("response_code").error(format!("{} is no known code", message.response_code));
            return None;
        }
    };
    let scheme = match &message.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.as_str().into()),
        Some(SchemeRewriteSpecifier::HttpsRedirect(false)) | None => None,
    };
    let path = match &message.path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(path)) => Some(RedirectPath::Whole(path.as_str().into())),
        Some(PathRewriteSpecifier::PrefixRewrite(with)) => {
            Some(RedirectPath::Rewritten(PathRewrite::Matched { matched, with: with.as_str().into() }))
        }
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
            Some(RedirectPath::Rewritten(pattern(rewrite, &at.field("regex_rewrite"))?))
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) | None => None,
    };
    let host = Some(message.host_redirect.as_str()).filter(|host| !host.is_empty()).map(Into::into);
    let port = match u16::try_from(message.port_redirect) {
        Ok(port) => Some(port).filter(|port| *port > 0),
        Err(_) => {
            at.field("port_redirect").error(format!("{} is not a port", message.port_redirect));
            return None;
        }
    };
    let strip_query = message.strip_query;
    Some(RouteAnswer::Redirect(Redirect { status, scheme, host, port, path, strip_query }))
}

pub(super) fn direct_response(message: &proto::DirectResponseAction, at: &At<'_>) -> Option<RouteAnswer> {
    message.judge(at);
    let body = message.body.as_ref().map(|body| inline(body, &at.field("body"))).unwrap_or_default();
    let status = u16::try_from(message.status).ok().filter(|status| (200..600).contains(status));
    let Some(status) = status.and_then(|status| StatusCode::from_u16(status).ok()) else {
        at.field("status").error(format!("{} is not a status of HTTP from 200 to 599", message.status));
        return None;
    };
    Some(RouteAnswer::Direct { status, body })
}

/// What the control plane sends is used; what it asks to read from this machine is not.
fn inline(source: &DataSource, at: &At<'_>) -> bytes::Bytes {
    source.judge(at);
    if source.watched_directory.is_some() {
        at.field("watched_directory").ignored("no file is read for a route");
    }
    match &source.specifier {
        Some(Specifier::InlineBytes(body)) => body.clone(),
        Some(Specifier::InlineString(body)) => body.clone().into(),
        Some(Specifier::Filename(_)) => {
            at.field("filename").ignored("no file is read for a route");
            bytes::Bytes::new()
        }
        Some(Specifier::EnvironmentVariable(_)) | None => bytes::Bytes::new(),
    }
}

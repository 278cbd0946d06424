//! `StatefulSession` (A55), with the kind of session that gRPC has, and Envoy's.

use ::http::HeaderName;
use mesh_xds_proto::envoy::extensions::filters::http::stateful_session::v3 as proto;
use mesh_xds_proto::envoy::extensions::filters::http::stateful_session::v3::stateful_session_per_route;
use mesh_xds_proto::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use mesh_xds_proto::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
use mesh_xds_proto::envoy::r#type::http::v3 as http;

use super::place::{At, quoted};
use super::value::{Extension, duration};
use crate::resource::cookie::Cookie;
use crate::resource::filter::stateful_session::{SessionState, StatefulSession};
use crate::resource::verdict::Fields;

pub(super) fn stateful_session(message: &proto::StatefulSession, at: &At<'_>) -> StatefulSession {
    message.judge(at);
    let state = message.session_state.as_ref();
    let state = state.and_then(|state| session_state(state.typed_config.as_ref(), &at.field("session_state")));
    StatefulSession { state, strict: message.strict }
}

/// `None`: it is off.
pub(super) fn per_route(message: &proto::StatefulSessionPerRoute, at: &At<'_>) -> Option<StatefulSession> {
    message.judge(at);
    match &message.r#override {
        Some(stateful_session_per_route::Override::StatefulSession(session)) => {
            Some(stateful_session(session, &at.field("stateful_session")))
        }
        Some(stateful_session_per_route::Override::Disabled(true)) => None,
        Some(stateful_session_per_route::Override::Disabled(false)) | None => Some(StatefulSession::default()),
    }
}

fn session_state(config: Option<&prost_types::Any>, at: &At<'_>) -> Option<SessionState> {
    let at = &at.field("typed_config");
    let extension = Extension::open(config, at)?;
    if extension.is::<CookieBasedSessionState>() {
        let state = extension.unpack::<CookieBasedSessionState>(at)?;
        state.judge(at);
        let cookie = cookie(&at.required("cookie", state.cookie)?, &at.field("cookie"));
        return cookie.map(SessionState::Cookie);
    }
    if extension.is::<HeaderBasedSessionState>() {
        let state = extension.unpack::<HeaderBasedSessionState>(at)?;
        state.judge(at);
        return header(&state.name, &at.field("name")).map(SessionState::Header);
    }
    at.error(
        "must be a CookieBasedSessionState or a HeaderBasedSessionState: sessions of other kinds are not supported",
    );
    None
}

fn header(name: &str, at: &At<'_>) -> Option<HeaderName> {
    let read = HeaderName::from_bytes(name.as_bytes());
    read.map_err(|_| at.error(format!("{} is not the name of a header", quoted(name)))).ok()
}

fn cookie(message: &http::Cookie, at: &At<'_>) -> Option<Cookie> {
    message.judge(at);
    let attributes = message.attributes.iter().enumerate().map(|(index, attribute)| {
        attribute.judge(&at.item("attributes", index));
        (attribute.name.as_str().into(), attribute.value.as_str().into())
    });
    let name = at.required("name", Some(message.name.as_str()).filter(|name| !name.is_empty()));
    let ttl = duration(message.ttl, &at.field("ttl"));
    Some(Cookie { name: name?.into(), ttl, path: message.path.as_str().into(), attributes: attributes.collect() })
}

//! The errors of the balancer, in words that name the cluster, its endpoints and what is wrong with them.

use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::Instant;

use super::summary::Summary;
use crate::call::Session;
use crate::connect::{InFlight, SendErrorKind, StreamError};
use crate::error::{Error, ErrorKind};

pub(crate) fn no_runtime() -> Error {
    Error::new(ErrorKind::Setup, "no tokio runtime is running here").with_next_step("make calls from within a runtime")
}

pub(crate) fn no_cluster() -> Error {
    Error::new(ErrorKind::Setup, "the call names no cluster: no layer above the balancer chose one")
        .with_next_step("put a routing layer above it, or use Balance::with_endpoints")
}

pub(crate) fn too_many_waiting(cluster: &Arc<str>, limit: u32, full: bool, endpoints: &Summary) -> Error {
    let reason = waiting_for(cluster, full, endpoints);
    let message = format!("{limit} calls already wait for cluster `{cluster}`: {reason}");
    at(cluster, Error::new(ErrorKind::Overloaded, message).with_next_step(next_step(full, endpoints)))
}

/// There is no endpoint to send the call to, and no hope for one.
pub(crate) fn no_endpoint(cluster: &Arc<str>, endpoints: &Summary, now: Instant) -> Error {
    let error = Error::new(ErrorKind::NoEndpoint, endpoints.describe(cluster, now));
    at(cluster, error.with_next_step(next_step(false, endpoints)))
}

/// The endpoint that has the call's session cannot take the call.
pub(crate) fn no_session(cluster: &Arc<str>, session: Option<&Session>) -> Error {
    let addresses: Vec<String> =
        session.iter().flat_map(|session| &session.addresses).map(ToString::to_string).collect();
    let message = format!(
        "the call's session is at {}, which is no endpoint of cluster `{cluster}` that can be reached and may have sessions",
        addresses.join(", ")
    );
    let next_step = "begin a new session, or let the filter `stateful_session` go elsewhere by `strict: false`";
    at(cluster, Error::new(ErrorKind::NoEndpoint, message).with_next_step(next_step))
}

/// There was hope, but not for long enough.
pub(crate) fn waited(kind: ErrorKind, cluster: &Arc<str>, wait: Duration, full: bool, endpoints: &Summary) -> Error {
    let (seconds, reason) = (wait.as_secs_f64(), waiting_for(cluster, full, endpoints));
    let error = Error::new(kind, format!("no endpoint after a wait of {seconds:.3} s: {reason}"));
    at(cluster, error.with_next_step(next_step(full, endpoints)))
}

/// What calls wait for: a slot, if the endpoints are `full`, or an endpoint.
fn waiting_for(cluster: &str, full: bool, endpoints: &Summary) -> String {
    match full {
        true => format!("all streams to the endpoints of cluster `{cluster}` are taken"),
        false => endpoints.describe(cluster, Instant::now()),
    }
}

fn next_step(full: bool, endpoints: &Summary) -> &str {
    match (full, endpoints.is_empty()) {
        (true, _) => "let the servers take more streams at a time, add endpoints, or raise `max_connections`",
        (false, true) => "check the cluster's ClusterLoadAssignment at the control plane",
        (false, false) => endpoints.next_step().unwrap_or(
            "check that the endpoints run and can be reached from here; they are tried again in the background",
        ),
    }
}

fn at(cluster: &Arc<str>, mut error: Error) -> Error {
    error.context_mut().cluster = Some(cluster.clone());
    error
}

/// What an endpoint did to a call; it is known unless the call was over already.
pub(crate) fn stream(error: StreamError, call: Option<&InFlight>) -> Error {
    let (kind, sent) = match error.kind() {
        SendErrorKind::Unsent | SendErrorKind::Refused => (ErrorKind::Connection, false),
        SendErrorKind::Reset(code) => (ErrorKind::Reset(code), true),
        SendErrorKind::ConnectionLost | SendErrorKind::Untrusted => (ErrorKind::Connection, true),
        SendErrorKind::Closed => (ErrorKind::Shutdown, true),
        SendErrorKind::BadResponse => (ErrorKind::Protocol, true),
        SendErrorKind::BadRequest => (ErrorKind::Setup, false),
        SendErrorKind::TooLarge => (ErrorKind::RequestTooLarge, false),
        SendErrorKind::RequestBody => (ErrorKind::RequestBody, true),
    };
    let next_step = after(error.kind());
    let mut made = Error::new(kind, error.to_string()).with_source(error.into_source());
    if let Some(next_step) = next_step {
        made = made.with_next_step(next_step);
    }
    if sent {
        made = made.sent();
    }
    let Some(endpoint) = call.map(InFlight::endpoint) else { return made };
    made.context_mut().endpoint = Some(endpoint.address.to_string());
    at(&endpoint.cluster, made)
}

/// The endpoint is not whom code expects: nothing was sent to it.
pub(crate) fn stranger(mut error: Error, call: &InFlight) -> Error {
    let endpoint = call.endpoint();
    error.context_mut().endpoint = Some(endpoint.address.to_string());
    at(&endpoint.cluster, error)
}

/// The endpoint answered with a response that is none of the call's protocol.
pub(crate) fn no_answer(status: StatusCode, headers: HeaderMap, call: &InFlight) -> Error {
    // Remote text: bounded and escaped.
    let shown = |kind: &HeaderValue| kind.as_bytes()[..kind.len().min(100)].escape_ascii().to_string();
    let content = match headers.get(CONTENT_TYPE).map(shown) {
        Some(kind) => format!("content-type `{kind}`"),
        None => "no content-type".into(),
    };
    let message = format!("the response is none of the call's protocol: HTTP status {status}, {content}");
    let endpoint = call.endpoint();
    let mut error = Error::new(ErrorKind::HttpResponse(status), message).with_headers(headers).sent();
    error.context_mut().endpoint = Some(endpoint.address.to_string());
    let next_step =
        "see what answers at the endpoint: a server of another protocol, or a proxy before the one that is meant";
    at(&endpoint.cluster, error.with_next_step(next_step))
}

/// What to do about a stream that failed; what the application's own body says is its own.
fn after(failure: SendErrorKind) -> Option<&'static str> {
    match failure {
        SendErrorKind::Unsent | SendErrorKind::Refused => {
            Some("the endpoint did not act on the request: make the call again")
        }
        SendErrorKind::Reset(_) => Some("see what the endpoint says of this call; it may have acted on the request"),
        SendErrorKind::ConnectionLost => Some(
            "see whether the endpoint stopped or the network failed; it may have acted on the request, so make the call \
             again only if that is safe",
        ),
        SendErrorKind::Closed => Some(
            "keep the `Mesh` alive until its calls have ended, or raise `drain_timeout`; the endpoint may have acted on the \
             request",
        ),
        SendErrorKind::Untrusted => Some(
            "see why no newer certificate or roots came in time (`Mesh::status`, `certificate_providers`); the endpoint may \
             have acted on the request",
        ),
        SendErrorKind::BadResponse => Some("see what answers at the endpoint"),
        SendErrorKind::BadRequest => Some("correct the request"),
        SendErrorKind::TooLarge => {
            Some("send less metadata, or let the endpoint take more (SETTINGS_MAX_HEADER_LIST_SIZE)")
        }
        SendErrorKind::RequestBody => None,
    }
}

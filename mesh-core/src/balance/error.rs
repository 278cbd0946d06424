//! The errors of the balancer, in words that name the cluster, its endpoints and what is wrong with them.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::status::EndpointStatus;
use crate::connect::{ConnectivityState, InFlight, SendErrorKind, StreamError};
use crate::error::{Error, ErrorKind};

/// Endpoints that a message names; of the others it has the number.
const NAMED: usize = 3;

pub(crate) fn shut_down() -> Error {
    Error::new(ErrorKind::Shutdown, "the mesh was shut down")
        .with_next_step("keep the `Mesh` alive as long as its channels are used")
}

pub(crate) fn no_runtime() -> Error {
    Error::new(ErrorKind::Setup, "no tokio runtime is running here").with_next_step("make calls from within a runtime")
}

pub(crate) fn no_cluster() -> Error {
    Error::new(ErrorKind::Setup, "the call names no cluster: no layer above the balancer chose one")
        .with_next_step("put a routing layer above it, or use Balance::with_endpoints")
}

pub(crate) fn too_many_waiting(cluster: &Arc<str>, limit: u32, full: bool, endpoints: &[EndpointStatus]) -> Error {
    let reason = waiting_for(cluster, full, endpoints);
    let message = format!("{limit} calls already wait for cluster `{cluster}`: {reason}");
    at(cluster, Error::new(ErrorKind::Overloaded, message).with_next_step(next_step(full, endpoints)))
}

/// There is no endpoint to send the call to, and no hope for one.
pub(crate) fn no_endpoint(cluster: &Arc<str>, endpoints: &[EndpointStatus], now: Instant) -> Error {
    let error = Error::new(ErrorKind::NoEndpoint, describe(cluster, endpoints, now));
    at(cluster, error.with_next_step(next_step(false, endpoints)))
}

/// There was hope, but not for long enough.
pub(crate) fn waited(
    kind: ErrorKind,
    cluster: &Arc<str>,
    wait: Duration,
    full: bool,
    endpoints: &[EndpointStatus],
) -> Error {
    let (seconds, reason) = (wait.as_secs_f64(), waiting_for(cluster, full, endpoints));
    let error = Error::new(kind, format!("no endpoint after a wait of {seconds:.3} s: {reason}"));
    at(cluster, error.with_next_step(next_step(full, endpoints)))
}

/// What calls wait for: a slot, if the endpoints are `full`, or an endpoint.
fn waiting_for(cluster: &str, full: bool, endpoints: &[EndpointStatus]) -> String {
    match full {
        true => format!("all streams to the endpoints of cluster `{cluster}` are taken"),
        false => describe(cluster, endpoints, Instant::now()),
    }
}

fn next_step(full: bool, endpoints: &[EndpointStatus]) -> &'static str {
    match (full, endpoints.is_empty()) {
        (true, _) => "let the servers take more streams at a time, add endpoints, or raise `max_connections`",
        (false, true) => "check the cluster's ClusterLoadAssignment at the control plane",
        (false, false) => {
            "check that the endpoints run and can be reached from here; they are tried again in the background"
        }
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
        SendErrorKind::ConnectionLost => (ErrorKind::Connection, true),
        SendErrorKind::BadResponse => (ErrorKind::Protocol, true),
        SendErrorKind::BadRequest => (ErrorKind::Setup, false),
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
        SendErrorKind::BadResponse => Some("see what answers at the endpoint"),
        SendErrorKind::BadRequest => Some("correct the request"),
        SendErrorKind::RequestBody => None,
    }
}

/// "cluster `x` has no ready endpoint: 1 connecting, 2 in backoff (10.0.0.1:80: connection refused, next try in 0.8 s; …)"
fn describe(cluster: &str, endpoints: &[EndpointStatus], now: Instant) -> String {
    if endpoints.is_empty() {
        return format!("cluster `{cluster}` has no endpoints");
    }
    let counted: Vec<String> = counts(endpoints).into_iter().map(|(what, count)| format!("{count} {what}")).collect();
    let mut text = format!("cluster `{cluster}` has no ready endpoint: {}", counted.join(", "));
    let failed = endpoints.iter().filter_map(|endpoint| trouble(endpoint, now));
    let troubles: Vec<String> = failed.chain(endpoints.iter().filter_map(silence)).take(NAMED + 1).collect();
    if !troubles.is_empty() {
        let more = if troubles.len() > NAMED { "; …" } else { "" };
        let _ = write!(text, " ({}{more})", troubles[..troubles.len().min(NAMED)].join("; "));
    }
    text
}

fn counts(endpoints: &[EndpointStatus]) -> Vec<(&'static str, usize)> {
    let mut counts: Vec<(&'static str, usize)> = Vec::new();
    for what in endpoints.iter().map(condition) {
        match counts.iter_mut().find(|(known, _)| *known == what) {
            Some((_, count)) => *count += 1,
            None => counts.push((what, 1)),
        }
    }
    counts
}

fn condition(endpoint: &EndpointStatus) -> &'static str {
    if !endpoint.health.is_usable() {
        return "unhealthy for the control plane";
    }
    match &endpoint.subchannel {
        None => "not in use",
        Some(status) if status.next_attempt.is_some() => "in backoff",
        Some(status) => match status.state {
            ConnectivityState::Ready => "ready",
            _ => "connecting",
        },
    }
}

/// An endpoint of which nothing is known yet.
fn silence(endpoint: &EndpointStatus) -> Option<String> {
    let status = endpoint.subchannel.as_ref()?;
    let is_silent = status.last_error.is_none() && status.state != ConnectivityState::Ready;
    is_silent.then(|| format!("{}: no answer yet", endpoint.address))
}

/// The last error of an endpoint, and when it is tried again.
fn trouble(endpoint: &EndpointStatus, now: Instant) -> Option<String> {
    let status = endpoint.subchannel.as_ref()?;
    let mut text = format!("{}: {}", endpoint.address, status.last_error.as_ref()?);
    if let Some(next) = status.next_attempt {
        let _ = write!(text, ", next try in {:.1} s", next.saturating_duration_since(now).as_secs_f64());
    }
    Some(text)
}

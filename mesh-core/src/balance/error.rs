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

pub(crate) fn too_many_waiting(cluster: &Arc<str>, limit: u32) -> Error {
    at(cluster, Error::new(ErrorKind::Overloaded, format!("{limit} calls already wait for cluster `{cluster}`")))
}

/// There is no endpoint to send the call to, and no hope for one.
pub(crate) fn no_endpoint(cluster: &Arc<str>, endpoints: &[EndpointStatus], now: Instant) -> Error {
    let next_step = match endpoints.is_empty() {
        true => "check the cluster's ClusterLoadAssignment at the control plane",
        false => "check that the endpoints run and can be reached from here; they are tried again in the background",
    };
    at(cluster, Error::new(ErrorKind::NoEndpoint, describe(cluster, endpoints, now)).with_next_step(next_step))
}

/// There was hope, but not for long enough.
pub(crate) fn waited(
    kind: ErrorKind,
    cluster: &Arc<str>,
    wait: Duration,
    full: bool,
    endpoints: &[EndpointStatus],
) -> Error {
    let reason = match full {
        true => format!("all streams to the endpoints of cluster `{cluster}` are taken"),
        false => describe(cluster, endpoints, Instant::now()),
    };
    let seconds = wait.as_secs_f64();
    at(cluster, Error::new(kind, format!("no endpoint after a wait of {seconds:.3} s: {reason}")))
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
    let mut made = Error::new(kind, error.to_string()).with_source(error.into_source());
    if sent {
        made = made.sent();
    }
    let Some(endpoint) = call.map(InFlight::endpoint) else { return made };
    made.context_mut().endpoint = Some(endpoint.address.to_string());
    at(&endpoint.cluster, made)
}

/// "cluster `x` has no ready endpoint: 1 connecting, 2 in backoff (10.0.0.1:80: connection refused, next try in 0.8 s; …)"
fn describe(cluster: &str, endpoints: &[EndpointStatus], now: Instant) -> String {
    if endpoints.is_empty() {
        return format!("cluster `{cluster}` has no endpoints");
    }
    let counted: Vec<String> = counts(endpoints).into_iter().map(|(what, count)| format!("{count} {what}")).collect();
    let mut text = format!("cluster `{cluster}` has no ready endpoint: {}", counted.join(", "));
    let troubles: Vec<String> =
        endpoints.iter().filter_map(|endpoint| trouble(endpoint, now)).take(NAMED + 1).collect();
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

/// The last error of an endpoint, and when it is tried again.
fn trouble(endpoint: &EndpointStatus, now: Instant) -> Option<String> {
    let status = endpoint.subchannel.as_ref()?;
    let mut text = format!("{}: {}", endpoint.address, status.last_error.as_ref()?);
    if let Some(next) = status.next_attempt {
        let _ = write!(text, ", next try in {:.1} s", next.saturating_duration_since(now).as_secs_f64());
    }
    Some(text)
}

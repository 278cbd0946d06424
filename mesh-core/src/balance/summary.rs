//! What the endpoints of a cluster are taken together, for the errors of the calls that got none.
//!
//! Of ten thousand endpoints it takes a while to say how they are, and the calls that fail meanwhile all say the same: it
//! is made once for many.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::status::EndpointReport;
use crate::connect::ConnectivityState;
use crate::resource::endpoints::Health;

/// The condition of an endpoint that takes calls.
const READY: &str = "ready";
/// Endpoints that a text names; of the others it has the number.
const NAMED: usize = 3;
/// To look at an endpoint costs some 200 ns: calls that fail spend a twentieth of a core on it at most.
const FRESH_PER_ENDPOINT: Duration = Duration::from_micros(4);
/// No text is older than this because few calls fail.
const FRESH: Duration = Duration::from_millis(10);

/// The conditions of a cluster's endpoints, counted, and what troubles the first of them.
#[derive(Debug)]
pub(crate) struct Summary {
    made: Instant,
    endpoints: usize,
    /// "1 connecting, 2 in backoff"
    counted: String,
    troubles: Vec<Trouble>,
    /// Whether one could take calls, if it was asked to.
    ready: bool,
    /// Whether there are more than are named.
    more: bool,
    /// What to do about the first of them of which that is known.
    next_step: Option<Arc<str>>,
}

/// What troubles one endpoint, and when it is tried again.
#[derive(Debug)]
struct Trouble {
    text: String,
    next_attempt: Option<Instant>,
}

impl Summary {
    pub(crate) fn new(endpoints: &[EndpointReport], now: Instant) -> Self {
        let failed = endpoints.iter().filter_map(trouble);
        let mut troubles: Vec<_> = failed.chain(endpoints.iter().filter_map(silence)).take(NAMED + 1).collect();
        let more = troubles.len() > NAMED;
        troubles.truncate(NAMED);
        let advice = |endpoint: &EndpointReport| endpoint.subchannel.as_ref()?.advice.clone();
        let next_step = endpoints.iter().find_map(advice);
        let ready = endpoints.iter().any(|endpoint| condition(endpoint) == READY);
        Self { made: now, endpoints: endpoints.len(), counted: counted(endpoints), troubles, ready, more, next_step }
    }

    /// What to do, if more is known than that there is no endpoint.
    pub(crate) fn next_step(&self) -> Option<&str> {
        self.next_step.as_deref()
    }

    /// Whether it is still good enough to be said, if nothing is known to have changed.
    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        let endpoints = u32::try_from(self.endpoints).unwrap_or(u32::MAX);
        now.saturating_duration_since(self.made) < FRESH.max(FRESH_PER_ENDPOINT.saturating_mul(endpoints))
    }

    /// Whether the cluster has no endpoints at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.endpoints == 0
    }

    /// "cluster `x` has no ready endpoint: 1 connecting, 2 in backoff (10.0.0.1:80: connection refused, next try in 0.8 s; …)"
    pub(crate) fn describe(&self, cluster: &str, now: Instant) -> String {
        if self.is_empty() {
            return format!("cluster `{cluster}` has no endpoints");
        }
        let refusal = if self.ready { "has no endpoint for this call" } else { "has no ready endpoint" };
        let mut text = format!("cluster `{cluster}` {refusal}: {}", self.counted);
        if !self.troubles.is_empty() {
            let troubles: Vec<String> = self.troubles.iter().map(|trouble| trouble.describe(now)).collect();
            let _ = write!(text, " ({}{})", troubles.join("; "), if self.more { "; …" } else { "" });
        }
        text
    }
}

impl Trouble {
    fn describe(&self, now: Instant) -> String {
        let Trouble { text, next_attempt } = self;
        match next_attempt.map(|next| next.saturating_duration_since(now).as_secs_f64()) {
            Some(seconds) => format!("{text}, next try in {seconds:.1} s"),
            None => text.clone(),
        }
    }
}

fn counted(endpoints: &[EndpointReport]) -> String {
    let mut counts: Vec<(&'static str, usize)> = Vec::new();
    for what in endpoints.iter().map(condition) {
        match counts.iter_mut().find(|(known, _)| *known == what) {
            Some((_, count)) => *count += 1,
            None => counts.push((what, 1)),
        }
    }
    counts.into_iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

fn condition(endpoint: &EndpointReport) -> &'static str {
    if endpoint.health == Health::Draining {
        return "draining";
    }
    if endpoint.ejected.is_some() {
        return "ejected";
    }
    match &endpoint.subchannel {
        None if !endpoint.health.is_usable() => "unhealthy for the control plane",
        None => "not in use",
        Some(status) if status.next_attempt.is_some() => "in backoff",
        Some(status) => match status.state {
            ConnectivityState::Ready => READY,
            _ => "connecting",
        },
    }
}

/// The last error of an endpoint.
fn trouble(endpoint: &EndpointReport) -> Option<Trouble> {
    if let Some(ejected) = &endpoint.ejected {
        let text = format!("{}: {ejected}", endpoint.address);
        return Some(Trouble { text, next_attempt: ejected.until });
    }
    let status = endpoint.subchannel.as_ref()?;
    let text = format!("{}: {}", endpoint.address, status.last_error.as_ref()?);
    Some(Trouble { text, next_attempt: status.next_attempt })
}

/// An endpoint of which nothing is known yet.
fn silence(endpoint: &EndpointReport) -> Option<Trouble> {
    let status = endpoint.subchannel.as_ref()?;
    let is_silent = status.last_error.is_none() && status.state != ConnectivityState::Ready;
    is_silent.then(|| Trouble { text: format!("{}: no answer yet", endpoint.address), next_attempt: None })
}

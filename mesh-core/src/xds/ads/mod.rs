//! The ADS protocol for one control plane, without I/O: state of the world (SotW) over an aggregated stream.
//!
//! Events go in (`handle_*`), effects come out (`poll_*`, [`Ads::take_updates`]); time and randomness are arguments. The
//! driver in `client/driver.rs` moves them between this machine, the [`Transport`](super::transport::Transport) and the
//! [`Store`](super::store::Store). What is particular to SotW is in [`subscription`], which names a request carries, its
//! version and nonce, and in [`response`], what the resources that come are taken for. A delta protocol would stand beside it, behind the same events and updates.
//!
//! Rules and where they come from: ACK and NACK per type, partial use (A46), does-not-exist timers and failures of the
//! stream (A57), data errors and errors from the control plane (A53, A88).

mod nack;
mod response;
mod subscription;
#[cfg(test)]
pub(crate) mod tests;

use std::any::Any;
use std::fmt;
use std::hash::RandomState;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub(super) use self::nack::LONGEST as LONGEST_PAUSE;
use self::nack::cut;
use self::subscription::{Subscription, Subscriptions, Verdict};
use super::message::Request;
use super::resource_type::{Extensions, IgnoredField, ResourceType};
use crate::backoff::{Backoff, BackoffConfig};

/// Longest text of an error that is kept.
const MAX_ERROR: usize = 1024;

/// What can be set about the protocol.
#[derive(Clone, Debug)]
pub(crate) struct AdsOptions {
    /// How long a resource may be awaited on a live stream (A57). 15 s by default.
    pub(crate) does_not_exist_timeout: Duration,
    /// That time over means that the control plane is slow, not that the resource is missing (A88).
    pub(crate) timeout_is_transient: bool,
    /// A rejected or deleted resource takes its good value away (A88).
    pub(crate) fail_on_data_errors: bool,
    /// Between streams.
    pub(crate) backoff: BackoffConfig,
    pub(crate) extensions: Extensions,
}

/// The protocol with one control plane.
#[derive(Debug)]
pub(crate) struct Ads {
    options: AdsOptions,
    types: Vec<Subscriptions>,
    phase: Phase,
    backoff: Backoff,
    failures: u32,
    failing_since: Option<Instant>,
    last_error: Option<Arc<str>>,
    since: Instant,
    /// Whether this stream knows the node.
    introduced: bool,
    /// What the digests of resources are made with. Its keys are secret, so that no sender can make two look alike.
    digests: RandomState,
    updates: Updates,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Connecting,
    Streaming { has_responded: bool },
    Waiting { until: Instant },
    Closed,
}

/// What is to be told to the store and to people.
#[derive(Debug, Default)]
pub(crate) struct Updates {
    pub(crate) resources: Vec<Update>,
    /// Whether the control plane can be reached, if that changed: the error, or `None` when it answers again.
    pub(crate) connectivity: Option<Option<Arc<str>>>,
    pub(crate) responses: Vec<Summary>,
}

impl Updates {
    pub(crate) fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.connectivity.is_none() && self.responses.is_empty()
    }
}

/// What changed about one resource.
#[derive(Debug)]
pub(crate) struct Update {
    pub(crate) resource_type: &'static ResourceType,
    pub(crate) name: Arc<str>,
    pub(crate) kind: UpdateKind,
}

pub(crate) enum UpdateKind {
    /// A new good value.
    Value { value: Arc<dyn Any + Send + Sync>, version: Arc<str>, ignored: Vec<IgnoredField> },
    /// The good value of before was sent again after an error.
    Confirmed { version: Arc<str> },
    /// There is no new value.
    Error {
        kind: ErrorKind,
        text: Arc<str>,
        /// The good value of before, if there is one, stays in use.
        keep: bool,
    },
    /// Nobody wants it any more, and the control plane was told.
    Removed,
}

impl fmt::Debug for UpdateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value { version, .. } => f.debug_struct("Value").field("version", version).finish_non_exhaustive(),
            Self::Confirmed { version } => f.debug_struct("Confirmed").field("version", version).finish(),
            Self::Error { kind, text, keep } => {
                f.debug_struct("Error").field("kind", kind).field("text", text).field("keep", keep).finish()
            }
            Self::Removed => f.write_str("Removed"),
        }
    }
}

/// Why there is no new value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// It was rejected here.
    Invalid,
    /// It was deleted, or never came.
    DoesNotExist,
    /// The control plane sent an error in its place (xRFC TP3).
    Refused,
    /// It did not come in time, and that means that the control plane is slow.
    TimedOut,
}

/// One response, for logs and counters.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) resource_type: &'static ResourceType,
    pub(crate) version: Arc<str>,
    /// Resources that were asked for and are good.
    pub(crate) valid: u64,
    pub(crate) invalid: u64,
    /// Resources that were not asked for.
    pub(crate) strangers: u64,
    /// What the NACK says, if it is one.
    pub(crate) nack: Option<Arc<str>>,
}

/// The state of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdsStatus {
    pub(crate) state: StreamState,
    /// When it came into this state.
    pub(crate) since: Instant,
    /// Streams in a row that ended without a response.
    pub(crate) failures: u32,
    /// When the first of them ended.
    pub(crate) failing_since: Option<Instant>,
    /// Why the last stream ended.
    pub(crate) last_error: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamState {
    /// Nothing is wanted.
    Idle,
    Connecting,
    /// A stream is open.
    Open,
    /// The next attempt is at this time.
    Waiting {
        until: Instant,
    },
    /// There will be none any more.
    Closed,
}

impl Ads {
    pub(crate) fn new(options: AdsOptions, now: Instant) -> Self {
        Self {
            types: Vec::new(),
            phase: Phase::Idle,
            backoff: Backoff::new(options.backoff),
            options,
            failures: 0,
            failing_since: None,
            last_error: None,
            since: now,
            introduced: false,
            digests: RandomState::new(),
            updates: Updates::default(),
        }
    }

    /// Somebody wants a resource.
    pub(crate) fn handle_subscribe(&mut self, resource_type: &'static ResourceType, name: Arc<str>) {
        self.subscriptions(resource_type).subscribe(name);
    }

    /// Nobody wants a resource any more.
    pub(crate) fn handle_unsubscribe(&mut self, resource_type: &'static ResourceType, name: &str) {
        let index = self.index_of(resource_type);
        self.types[index].unsubscribe(name, &mut self.updates.resources);
    }

    /// An attempt at a stream begins.
    pub(crate) fn handle_connecting(&mut self, now: Instant) {
        self.enter(Phase::Connecting, now);
    }

    /// A stream is open: what is sent now reaches the control plane.
    pub(crate) fn handle_opened(&mut self, now: Instant) {
        self.enter(Phase::Streaming { has_responded: false }, now);
        self.introduced = false;
        self.types.iter_mut().for_each(Subscriptions::begin_stream);
    }

    /// The stream ended, or could not be opened. `random` is from 0 to 1.
    pub(crate) fn handle_closed(&mut self, now: Instant, error: &str, random: f64) {
        let error: Arc<str> = cut(error, MAX_ERROR).into();
        // After a response it is no error: servers close streams to balance load, or at a connection's maximal age (A57).
        if self.phase != (Phase::Streaming { has_responded: true }) {
            self.failures = self.failures.saturating_add(1);
            self.failing_since.get_or_insert(now);
            self.updates.connectivity = Some(Some(error.clone()));
        }
        self.last_error = Some(error);
        for subscriptions in &mut self.types {
            subscriptions.end_stream(&mut self.updates.resources);
        }
        let until = now + self.backoff.next_delay(random);
        self.enter(Phase::Waiting { until }, now);
    }

    /// The client ends: nothing is asked any more.
    pub(crate) fn handle_shutdown(&mut self, now: Instant) {
        self.enter(Phase::Closed, now);
    }

    /// Time passed.
    pub(crate) fn handle_wake(&mut self, now: Instant) {
        let options = &self.options;
        for subscriptions in &mut self.types {
            let resource_type = subscriptions.resource_type;
            subscriptions.expire(now, |name, subscription, strangers| {
                let kind = expire(options, subscription, strangers);
                self.updates.resources.push(Update { resource_type, name: name.clone(), kind });
            });
        }
    }

    /// Whether a stream should be opened now.
    pub(crate) fn poll_connect(&self, now: Instant) -> bool {
        let is_time = match self.phase {
            Phase::Idle => true,
            Phase::Waiting { until } => until <= now,
            Phase::Connecting | Phase::Streaming { .. } | Phase::Closed => false,
        };
        is_time && self.types.iter().any(Subscriptions::is_wanted)
    }

    /// The next request, to be asked for whenever the stream can take one.
    pub(crate) fn poll_request(&mut self, now: Instant) -> Option<Request> {
        let Phase::Streaming { .. } = self.phase else { return None };
        let timeout = self.options.does_not_exist_timeout;
        let updates = &mut self.updates.resources;
        let mut request = self.types.iter_mut().find_map(|s| s.poll_request(now, timeout, updates))?;
        request.first = !std::mem::replace(&mut self.introduced, true);
        Some(request)
    }

    /// When to call [`handle_wake`](Self::handle_wake), and to poll again, if nothing else happens.
    pub(crate) fn poll_wake(&self) -> Option<Instant> {
        match self.phase {
            Phase::Idle | Phase::Connecting | Phase::Closed => None,
            Phase::Waiting { until } => self.types.iter().any(Subscriptions::is_wanted).then_some(until),
            Phase::Streaming { .. } => self.types.iter().filter_map(Subscriptions::poll_wake).min(),
        }
    }

    /// As [`poll_wake`](Self::poll_wake), while the stream takes no request.
    pub(crate) fn poll_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Streaming { .. } => self.types.iter().filter_map(Subscriptions::poll_deadline).min(),
            _ => self.poll_wake(),
        }
    }

    pub(crate) fn take_updates(&mut self) -> Updates {
        std::mem::take(&mut self.updates)
    }

    pub(crate) fn status(&self) -> AdsStatus {
        let state = match self.phase {
            Phase::Idle => StreamState::Idle,
            Phase::Connecting => StreamState::Connecting,
            Phase::Streaming { .. } => StreamState::Open,
            Phase::Waiting { until } => StreamState::Waiting { until },
            Phase::Closed => StreamState::Closed,
        };
        AdsStatus {
            state,
            since: self.since,
            failures: self.failures,
            failing_since: self.failing_since,
            last_error: self.last_error.clone(),
        }
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.since = now;
    }

    /// The control plane answers: the next failure is a first one.
    fn handle_answer(&mut self) {
        if self.phase != (Phase::Streaming { has_responded: false }) {
            return;
        }
        self.phase = Phase::Streaming { has_responded: true };
        self.backoff.reset();
        self.failing_since = None;
        if std::mem::take(&mut self.failures) > 0 {
            self.updates.connectivity = Some(None);
        }
    }

    fn subscriptions(&mut self, resource_type: &'static ResourceType) -> &mut Subscriptions {
        let index = self.index_of(resource_type);
        &mut self.types[index]
    }

    fn index_of(&mut self, resource_type: &'static ResourceType) -> usize {
        let index = self.types.iter().position(|s| s.resource_type.type_url == resource_type.type_url);
        index.unwrap_or_else(|| {
            self.types.push(Subscriptions::new(resource_type));
            self.types.len() - 1
        })
    }
}

fn expire(options: &AdsOptions, subscription: &mut Subscription, strangers: &str) -> UpdateKind {
    let seconds = options.does_not_exist_timeout.as_secs_f64();
    let text = format!("not received within {seconds} s of asking for it{strangers}");
    let (verdict, kind) = match options.timeout_is_transient {
        true => (Verdict::TimedOut, ErrorKind::TimedOut),
        false => (Verdict::DoesNotExist, ErrorKind::DoesNotExist),
    };
    subscription.verdict = verdict;
    UpdateKind::Error { kind, text: text.into(), keep: false }
}

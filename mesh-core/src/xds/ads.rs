//! The ADS protocol for one control plane, without I/O: state of the world (SotW) over an aggregated stream.
//!
//! Events go in (`handle_*`), effects come out (`poll_*`, [`Ads::take_updates`]); time and randomness are arguments. The
//! driver in `client.rs` moves them between this machine, the [`Transport`](super::transport::Transport) and the
//! [`Store`](super::store::Store). What is particular to SotW is in [`subscription`]: which names a request carries, its
//! version and nonce. A delta protocol would stand beside it, behind the same events and updates.
//!
//! Rules and where they come from: ACK and NACK per type, partial use (A46), does-not-exist timers and failures of the
//! stream (A57), data errors and errors from the control plane (A53, A88).

mod nack;
mod subscription;
#[cfg(test)]
pub(crate) mod tests;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use self::nack::{Rejections, Which, cut, reason};
use self::subscription::{Rejected, Subscription, Subscriptions, Verdict};
use super::message::{Malformed, RawError, RawResource, Request, Resources, Response};
use super::resource_type::{IgnoredField, ResourceType};
use crate::backoff::{Backoff, BackoffConfig};

/// Codes of `google.rpc.Status` that say that the resource is the problem, not the control plane (A88).
const NOT_FOUND: u64 = 5;
const PERMISSION_DENIED: u64 = 7;
/// Longest text of an error that is kept.
const MAX_ERROR: usize = 1024;
/// Names not asked for that a does-not-exist text shows.
const MAX_STRANGERS: usize = 3;

/// What can be set about the protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdsOptions {
    /// How long a resource may be awaited on a live stream (A57). 15 s by default.
    pub(crate) does_not_exist_timeout: Duration,
    /// That time over means that the control plane is slow, not that the resource is missing (A88).
    pub(crate) timeout_is_transient: bool,
    /// A rejected or deleted resource takes its good value away (A88).
    pub(crate) fail_on_data_errors: bool,
    /// Between streams.
    pub(crate) backoff: BackoffConfig,
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
    updates: Updates,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Connecting,
    Streaming { has_responded: bool },
    Waiting { until: Instant },
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
    Value { value: Arc<dyn Any + Send + Sync>, bytes: Arc<[u8]>, version: Arc<str>, ignored: Vec<IgnoredField> },
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

/// How it stands with the control plane.
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
}

/// A response that is being handled, some resources at a time.
pub(crate) struct Incoming<'a> {
    response: Response<'a>,
    resources: Resources<'a>,
    type_index: usize,
    version: Arc<str>,
    index: u64,
    /// Where the next name is, if the server keeps the order in which it was asked.
    next: usize,
    valid: u64,
    strangers: u64,
    stranger_names: SmallVec<[&'a str; MAX_STRANGERS]>,
    rejections: Rejections,
    invalid: u64,
}

impl Ads {
    pub(crate) fn new(options: AdsOptions, now: Instant) -> Self {
        Self {
            options,
            types: Vec::new(),
            phase: Phase::Idle,
            backoff: Backoff::new(options.backoff),
            failures: 0,
            failing_since: None,
            last_error: None,
            since: now,
            introduced: false,
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

    /// A response came. Longer ones are better handled in parts: [`begin_response`](Self::begin_response).
    #[cfg(test)]
    pub(crate) fn handle_response(&mut self, now: Instant, response: Response<'_>) {
        if let Some(mut incoming) = self.begin_response(response) {
            while self.advance_response(&mut incoming, 7) {}
            self.finish_response(now, incoming);
        }
    }

    /// A response came. `None` if it is of a type that was not asked for: there is nothing to do then.
    pub(crate) fn begin_response<'a>(&mut self, response: Response<'a>) -> Option<Incoming<'a>> {
        self.handle_answer();
        let is_asked = |s: &Subscriptions| s.was_asked() && same_type(s.resource_type.type_url, response.type_url);
        let type_index = self.types.iter().position(is_asked)?;
        Some(Incoming {
            response,
            resources: response.resources(),
            type_index,
            version: response.version.into(),
            index: 0,
            next: 0,
            valid: 0,
            strangers: 0,
            stranger_names: SmallVec::new(),
            rejections: Rejections::default(),
            invalid: 0,
        })
    }

    /// Handles up to `count` resources; whether there may be more.
    pub(crate) fn advance_response(&mut self, incoming: &mut Incoming<'_>, count: usize) -> bool {
        for _ in 0..count {
            let Some(resource) = incoming.resources.next() else { return false };
            self.handle_resource(incoming, resource);
            incoming.index += 1;
        }
        true
    }

    /// All resources of a response were handled: what is missing is deleted, and a reply is owed.
    pub(crate) fn finish_response(&mut self, now: Instant, incoming: Incoming<'_>) {
        for error in incoming.response.errors().flatten() {
            self.handle_resource_error(&incoming, error);
        }
        let subscriptions = &mut self.types[incoming.type_index];
        if subscriptions.resource_type.absence_deletes {
            let text = absence_text(&incoming);
            delete_unseen(subscriptions, &text, &self.options, &mut self.updates.resources);
        }
        let rejection = incoming.rejections.finish();
        self.updates.responses.push(Summary {
            resource_type: subscriptions.resource_type,
            version: incoming.version,
            valid: incoming.valid,
            invalid: incoming.invalid,
            strangers: incoming.strangers,
            nack: rejection.as_ref().map(|rejection| rejection.text.clone()),
        });
        subscriptions.strangers = strangers_text(incoming.strangers, &incoming.stranger_names);
        let Response { version, nonce, .. } = incoming.response;
        subscriptions.finish_response(now, version, nonce, rejection);
    }

    /// Time passed.
    pub(crate) fn handle_wake(&mut self, now: Instant) {
        let options = self.options;
        for subscriptions in &mut self.types {
            let resource_type = subscriptions.resource_type;
            subscriptions.expire(now, |name, subscription, strangers| {
                let kind = expire(&options, subscription, strangers);
                self.updates.resources.push(Update { resource_type, name: name.clone(), kind });
            });
        }
    }

    /// Whether a stream should be opened now.
    pub(crate) fn poll_connect(&self, now: Instant) -> bool {
        let is_time = match self.phase {
            Phase::Idle => true,
            Phase::Waiting { until } => until <= now,
            Phase::Connecting | Phase::Streaming { .. } => false,
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
            Phase::Idle | Phase::Connecting => None,
            Phase::Waiting { until } => self.types.iter().any(Subscriptions::is_wanted).then_some(until),
            Phase::Streaming { .. } => self.types.iter().filter_map(Subscriptions::poll_wake).min(),
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

    fn handle_resource<'a>(&mut self, incoming: &mut Incoming<'a>, resource: Result<RawResource<'a>, Malformed>) {
        let subscriptions = &mut self.types[incoming.type_index];
        let resource_type = subscriptions.resource_type;
        let resource = match resource {
            Err(Malformed) => return incoming.reject(resource_type, None, &Malformed.to_string()),
            Ok(resource) => resource,
        };
        if resource.value.is_some() && !same_type(resource.type_url, resource_type.type_url) {
            let found = cut(resource.type_url, 256);
            let problem = format!("type URL `{found}` where `{}` is wanted", resource_type.type_url);
            return incoming.reject(resource_type, resource.name, &problem);
        }
        let Some(name) = resource.name else {
            return incoming.reject(resource_type, None, "its name is missing or not UTF-8");
        };
        let round = subscriptions.round();
        let Some((index, known, subscription)) = subscriptions.find(name, incoming.next) else {
            return incoming.stranger(name);
        };
        incoming.next = index + 1;
        if subscription.seen == round {
            return incoming.reject(resource_type, Some(name), "the response has this name twice");
        }
        subscription.seen = round;
        if let Some(value) = resource.value {
            let kind = take_value(incoming, resource_type, subscription, name, value, &self.options);
            let update = kind.map(|kind| Update { resource_type, name: known.clone(), kind });
            self.updates.resources.extend(update);
        }
        subscriptions.disarm_at(index);
    }

    fn handle_resource_error(&mut self, incoming: &Incoming<'_>, error: RawError<'_>) {
        let subscriptions = &mut self.types[incoming.type_index];
        let resource_type = subscriptions.resource_type;
        let round = subscriptions.round();
        let Some((index, name, subscription)) = subscriptions.names.get_full_mut(error.name) else { return };
        subscription.seen = round;
        let text = refusal_text(&error);
        let is_about_data = matches!(error.code, NOT_FOUND | PERMISSION_DENIED);
        let keep = keeps_value(subscription, is_about_data && self.options.fail_on_data_errors);
        let verdict = Verdict::Refused(text.clone());
        if subscription.verdict != verdict {
            subscription.verdict = verdict;
            let kind = if error.code == NOT_FOUND { ErrorKind::DoesNotExist } else { ErrorKind::Refused };
            let kind = UpdateKind::Error { kind, text, keep };
            self.updates.resources.push(Update { resource_type, name: name.clone(), kind });
        }
        subscriptions.disarm_at(index);
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

impl<'a> Incoming<'a> {
    fn reject(&mut self, resource_type: &ResourceType, name: Option<&str>, problem: &str) {
        let which = name.map_or(Which::Index(self.index), Which::Name);
        self.rejections.add(resource_type, which, problem);
        self.invalid += 1;
    }

    /// Servers may send what was not asked for (A27); it is not even decoded.
    fn stranger(&mut self, name: &'a str) {
        self.strangers += 1;
        if self.stranger_names.len() < MAX_STRANGERS {
            self.stranger_names.push(name);
        }
    }
}

/// Takes in the bytes of one resource: unchanged, rejected before, or to be decoded.
fn take_value(
    incoming: &mut Incoming<'_>,
    resource_type: &'static ResourceType,
    subscription: &mut Subscription,
    name: &str,
    bytes: &[u8],
    options: &AdsOptions,
) -> Option<UpdateKind> {
    if subscription.accepted.as_deref() == Some(bytes) {
        incoming.valid += 1;
        subscription.rejected = None;
        let is_news = std::mem::replace(&mut subscription.verdict, Verdict::Acked) != Verdict::Acked;
        return is_news.then(|| UpdateKind::Confirmed { version: incoming.version.clone() });
    }
    let rejected_before = subscription.rejected.as_deref().filter(|rejected| *rejected.bytes == *bytes);
    if let Some(Rejected { why, .. }) = rejected_before {
        let text = why.clone();
        incoming.reject(resource_type, Some(name), &text);
        let is_news = std::mem::replace(&mut subscription.verdict, Verdict::Nacked) != Verdict::Nacked;
        let keep = keeps_value(subscription, options.fail_on_data_errors);
        return is_news.then_some(UpdateKind::Error { kind: ErrorKind::Invalid, text, keep });
    }
    let decoded = (resource_type.decode)(bytes);
    match decoded.value {
        Ok(value) => {
            incoming.valid += 1;
            let bytes: Arc<[u8]> = bytes.into();
            subscription.accepted = Some(bytes.clone());
            subscription.rejected = None;
            subscription.verdict = Verdict::Acked;
            Some(UpdateKind::Value { value, bytes, version: incoming.version.clone(), ignored: decoded.ignored })
        }
        Err(errors) => {
            let text = reason(&errors);
            incoming.reject(resource_type, Some(name), &text);
            subscription.rejected = Some(Box::new(Rejected { bytes: bytes.into(), why: text.clone() }));
            subscription.verdict = Verdict::Nacked;
            let keep = keeps_value(subscription, options.fail_on_data_errors);
            Some(UpdateKind::Error { kind: ErrorKind::Invalid, text, keep })
        }
    }
}

/// A LDS or CDS response is complete, so what it does not have is deleted. Not what was never received: the response may
/// have been made before its request was read; for that there is the timer.
fn delete_unseen(subscriptions: &mut Subscriptions, text: &Arc<str>, options: &AdsOptions, updates: &mut Vec<Update>) {
    let (resource_type, round) = (subscriptions.resource_type, subscriptions.round());
    for (name, subscription) in &mut subscriptions.names {
        let was_there = matches!(subscription.verdict, Verdict::Acked | Verdict::Nacked | Verdict::Refused(_));
        if subscription.seen == round || !was_there {
            continue;
        }
        subscription.verdict = Verdict::DoesNotExist;
        let keep = keeps_value(subscription, options.fail_on_data_errors);
        let kind = UpdateKind::Error { kind: ErrorKind::DoesNotExist, text: text.clone(), keep };
        updates.push(Update { resource_type, name: name.clone(), kind });
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

/// Whether a good value stays in use; takes it away if not.
fn keeps_value(subscription: &mut Subscription, is_fatal: bool) -> bool {
    if is_fatal {
        subscription.accepted = None;
    }
    subscription.accepted.is_some()
}

fn absence_text(incoming: &Incoming<'_>) -> Arc<str> {
    format!("the control plane no longer sends it (version `{}`)", cut(incoming.response.version, 64)).into()
}

/// A name with another port, or without one, is easily missed: show what came instead.
fn strangers_text(count: u64, shown: &[&str]) -> String {
    if count == 0 {
        return String::new();
    }
    let shown: Vec<String> = shown.iter().map(|name| format!("`{}`", cut(name, 128))).collect();
    format!("; the last response had {count} that nobody asked for, such as {}", shown.join(", "))
}

fn refusal_text(error: &RawError<'_>) -> Arc<str> {
    let code = super::status_code_name(error.code);
    format!("{code}: {}", cut(error.message, MAX_ERROR)).into()
}

/// Whether two type URLs name the same message; their hosts do not matter.
fn same_type(a: &str, b: &str) -> bool {
    let message = |url: &str| url.rsplit_once('/').map_or(0, |(host, _)| host.len() + 1);
    a == b || a[message(a)..] == b[message(b)..]
}

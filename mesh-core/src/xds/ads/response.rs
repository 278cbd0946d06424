//! A response: which of its resources are news, which are wrong, which are missing from it, and what it is owed.

use std::hash::BuildHasher;
use std::sync::Arc;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::nack::{Rejections, Which, cut, reason};
use super::subscription::{Digest, Rejected, Subscription, Subscriptions, Verdict};
use super::{Ads, AdsOptions, ErrorKind, MAX_ERROR, Summary, Update, UpdateKind};
use crate::xds::message::{Malformed, RawError, RawResource, Resources, Response, Unheeded};
use crate::xds::resource_type::{IgnoredField, ResourceType};
use crate::xds::status_code_name;

/// Codes of `google.rpc.Status` that say that the resource is the problem, not the control plane (A88).
const NOT_FOUND: u64 = 5;
const PERMISSION_DENIED: u64 = 7;
/// Names not asked for that a does-not-exist text shows.
const MAX_STRANGERS: usize = 3;

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
            incoming.reject(resource_type, resource.name, &problem);
            return self.handle_wrong_type(incoming, &resource, problem.into());
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
            let value = (value, self.digests.hash_one((value, resource.unheeded)), resource.unheeded);
            let kind = take_value(incoming, resource_type, subscription, name, value, &self.options);
            let update = kind.map(|kind| Update { resource_type, name: known.clone(), kind });
            self.updates.resources.extend(update);
        } else if matches!(subscription.verdict, Verdict::Requested) {
            // A sign of life of a resource that never came says nothing about it.
            return;
        }
        subscriptions.disarm_at(index);
    }

    /// What has the name of a resource that is waited for, but is none of its type, is a verdict on it all the same.
    fn handle_wrong_type(&mut self, incoming: &mut Incoming<'_>, resource: &RawResource<'_>, why: Arc<str>) {
        let subscriptions = &mut self.types[incoming.type_index];
        let (resource_type, round) = (subscriptions.resource_type, subscriptions.round());
        let Some(name) = resource.name else { return };
        let Some((index, name, subscription)) = subscriptions.find(name, incoming.next) else { return };
        if subscription.seen == round {
            return;
        }
        subscription.seen = round;
        let is_known = subscription.rejected.as_ref().is_some_and(|rejected| rejected.why == why);
        if !is_known || subscription.verdict != Verdict::Nacked {
            subscription.verdict = Verdict::Nacked;
            // Not the digest of the value, which may be good under the right type.
            let digest = self.digests.hash_one((resource.type_url, resource.value));
            subscription.rejected = Some(Box::new(Rejected { digest, why: why.clone() }));
            let keep = keeps_value(subscription, self.options.fail_on_data_errors);
            let kind = UpdateKind::Error { kind: ErrorKind::Invalid, text: why, keep };
            self.updates.resources.push(Update { resource_type, name: name.clone(), kind });
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
    (bytes, digest, unheeded): (&[u8], Digest, Unheeded),
    options: &AdsOptions,
) -> Option<UpdateKind> {
    if subscription.accepted == Some(digest) {
        incoming.valid += 1;
        subscription.rejected = None;
        let is_news = std::mem::replace(&mut subscription.verdict, Verdict::Acked) != Verdict::Acked;
        return is_news.then(|| UpdateKind::Confirmed { version: incoming.version.clone() });
    }
    let rejected_before = subscription.rejected.as_deref().filter(|rejected| rejected.digest == digest);
    if let Some(Rejected { why, .. }) = rejected_before {
        let text = why.clone();
        incoming.reject(resource_type, Some(name), &text);
        let is_news = std::mem::replace(&mut subscription.verdict, Verdict::Nacked) != Verdict::Nacked;
        let keep = keeps_value(subscription, options.fail_on_data_errors);
        return is_news.then_some(UpdateKind::Error { kind: ErrorKind::Invalid, text, keep });
    }
    let mut decoded = (resource_type.decode)(bytes, &options.extensions);
    let of_wrapper = |name| IgnoredField { path: format!("Resource.{name}"), reason: "" };
    let of_wrapper = unheeded.names().map(of_wrapper);
    decoded.ignored.extend(of_wrapper);
    match decoded.value {
        Ok(value) => {
            incoming.valid += 1;
            subscription.accepted = Some(digest);
            subscription.rejected = None;
            subscription.verdict = Verdict::Acked;
            Some(UpdateKind::Value { value, version: incoming.version.clone(), ignored: decoded.ignored })
        }
        Err(errors) => {
            let text = reason(&errors);
            incoming.reject(resource_type, Some(name), &text);
            subscription.rejected = Some(Box::new(Rejected { digest, why: text.clone() }));
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
    let code = status_code_name(error.code);
    format!("{code}: {}", cut(error.message, MAX_ERROR)).into()
}

/// Whether two type URLs name the same message; their hosts do not matter.
fn same_type(a: &str, b: &str) -> bool {
    let message = |url: &str| url.rsplit_once('/').map_or(0, |(host, _)| host.len() + 1);
    a == b || a[message(a)..] == b[message(b)..]
}

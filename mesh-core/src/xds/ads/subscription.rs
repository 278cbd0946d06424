//! The subscriptions of one resource type: which names are wanted, which the control plane was asked for, and what is
//! owed to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::nack::{Pacer, Rejection};
use super::{Update, UpdateKind};
use crate::names::NameIndexMap;
use crate::xds::message::{Names, Request};
use crate::xds::resource_type::ResourceType;

/// One name.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) wanted: bool,
    /// Whether a request of this stream named it.
    pub(super) asked: bool,
    pub(super) verdict: Verdict,
    /// When it counts as missing.
    deadline: Option<Instant>,
    /// The response of this stream that had it last.
    pub(super) seen: u64,
    /// The digest of the good value: the same bytes again need no decoding.
    pub(super) accepted: Option<Digest>,
    /// What was rejected last.
    pub(super) rejected: Option<Box<Rejected>>,
}

/// Stands for the bytes of a resource: to keep them would take as much memory as the value.
pub(super) type Digest = u64;

#[derive(Debug)]
pub(super) struct Rejected {
    pub(super) digest: Digest,
    pub(super) why: Arc<str>,
}

/// What the control plane last said of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Requested,
    Acked,
    Nacked,
    DoesNotExist,
    /// A resource error with this text.
    Refused(Arc<str>),
    TimedOut,
}

/// What a response is owed.
#[derive(Debug)]
enum Reply {
    Ack,
    Nack { rejection: Rejection, due: Instant },
}

#[derive(Debug)]
pub(super) struct Subscriptions {
    pub(super) resource_type: &'static ResourceType,
    pub(super) names: NameIndexMap<Arc<str>, Subscription>,
    wanted: usize,
    /// Wanted names that no request of this stream has.
    unasked: usize,
    /// Names that requests have and nobody wants any more.
    dropped: usize,
    /// Of the last response that was accepted as a whole; it outlives streams.
    version: Arc<str>,
    /// How many names have each deadline.
    deadlines: BTreeMap<Instant, usize>,
    /// What the last response had that was not asked for, for texts.
    pub(super) strangers: String,
    stream: Stream,
}

/// What is forgotten with the stream.
#[derive(Debug, Default)]
struct Stream {
    asked: bool,
    version: Arc<str>,
    nonce: Arc<str>,
    responses: u64,
    sent: Names,
    reply: Option<Reply>,
    pacer: Pacer,
    /// Names were asked for since the last response. If the next response is under way already, istiod takes the nonce of
    /// that request for a stale one and drops it.
    grew: bool,
    /// `grew` when the last response came: what answers it must bring these names again.
    doubtful: bool,
    /// A request without `error_detail` is due.
    again: bool,
}

impl Subscription {
    fn new() -> Self {
        Self {
            wanted: true,
            asked: false,
            verdict: Verdict::Requested,
            deadline: None,
            seen: 0,
            accepted: None,
            rejected: None,
        }
    }
}

impl Subscriptions {
    pub(super) fn new(resource_type: &'static ResourceType) -> Self {
        Self {
            resource_type,
            names: NameIndexMap::default(),
            wanted: 0,
            unasked: 0,
            dropped: 0,
            version: Arc::default(),
            deadlines: BTreeMap::new(),
            strangers: String::new(),
            stream: Stream::default(),
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted > 0
    }

    pub(super) fn subscribe(&mut self, name: Arc<str>) {
        let name = self.names.entry(name).or_insert_with(|| Subscription { wanted: false, ..Subscription::new() });
        if name.wanted {
            return;
        }
        name.wanted = true;
        self.wanted += 1;
        match name.asked {
            // The control plane does not know that it was not wanted for a while, and would stay silent.
            true => self.dropped -= 1,
            false => self.unasked += 1,
        }
    }

    pub(super) fn unsubscribe(&mut self, name: &str, updates: &mut Vec<Update>) {
        let Some(subscription) = self.names.get_mut(name).filter(|subscription| subscription.wanted) else { return };
        subscription.wanted = false;
        self.wanted -= 1;
        if subscription.asked {
            self.dropped += 1;
            return;
        }
        self.unasked -= 1;
        self.disarm(name);
        if let Some((name, _)) = self.names.swap_remove_entry(name) {
            updates.push(Update { resource_type: self.resource_type, name, kind: UpdateKind::Removed });
        }
    }

    /// A name, its subscription and its index, which is looked for at `guess` first: that needs no hash.
    pub(super) fn find(&mut self, name: &str, guess: usize) -> Option<(usize, &Arc<str>, &mut Subscription)> {
        let index = match self.names.get_index(guess) {
            Some((known, _)) if **known == *name => guess,
            _ => self.names.get_index_of(name)?,
        };
        let (name, subscription) = self.names.get_index_mut(index)?;
        Some((index, name, subscription))
    }

    /// A stream begins: nothing was asked, there is no nonce.
    pub(super) fn begin_stream(&mut self) {
        self.stream = Stream { version: self.resumed_version(), ..Stream::default() };
        self.unasked = self.wanted;
    }

    /// A stream ended.
    pub(super) fn end_stream(&mut self, updates: &mut Vec<Update>) {
        self.deadlines.clear();
        for subscription in self.names.values_mut() {
            subscription.deadline = None;
            subscription.asked = false;
            subscription.seen = 0;
        }
        self.forget_unwanted(updates, 0);
        self.stream = Stream::default();
        self.unasked = self.wanted;
    }

    /// The version to begin a stream with: that of what is in use, and none when something is missing, because a server
    /// may send to a client that has its version only what changed since.
    fn resumed_version(&self) -> Arc<str> {
        let is_complete = self.names.values().all(|subscription| subscription.accepted.is_some());
        if is_complete { self.version.clone() } else { Arc::default() }
    }

    /// The next request, if one is due. What it names counts as asked for from `now` on.
    pub(super) fn poll_request(
        &mut self,
        now: Instant,
        timeout: Duration,
        updates: &mut Vec<Update>,
    ) -> Option<Request> {
        if let Some(request) = self.poll_nack(now) {
            return Some(request);
        }
        let is_ack = matches!(self.stream.reply, Some(Reply::Ack));
        let has_drops = self.stream.reply.is_none() && self.dropped > self.kept_drops();
        if !is_ack && self.unasked == 0 && !has_drops && !self.stream.again {
            return None;
        }
        if is_ack {
            self.stream.reply = None;
        }
        self.stream.grew |= self.stream.responses > 0 && (self.unasked > 0 || self.stream.again);
        self.stream.doubtful = false;
        self.stream.again = false;
        self.update_names(now, timeout, updates);
        self.stream.asked = true;
        Some(self.request(None))
    }

    fn poll_nack(&mut self, now: Instant) -> Option<Request> {
        let reply = self.stream.reply.take_if(|reply| matches!(reply, Reply::Nack { due, .. } if *due <= now));
        let Some(Reply::Nack { rejection, .. }) = reply else { return None };
        self.stream.pacer.sent(now, &rejection);
        // istiod ignores what a NACK names; new names follow in a request of their own.
        self.stream.again = self.stream.doubtful;
        Some(self.request(Some(rejection.text)))
    }

    fn request(&self, error: Option<Arc<str>>) -> Request {
        Request {
            resource_type: self.resource_type,
            version: self.stream.version.clone(),
            nonce: self.stream.nonce.clone(),
            names: self.stream.sent.clone(),
            error,
            first: false,
        }
    }

    /// How many unwanted names stay in requests. An empty list after names unsubscribes from all of them, but for
    /// listeners and clusters servers take it for the wildcard (istiod and go-control-plane's ordered cache send all
    /// there is). So the last name of these types stays until another one is wanted.
    fn kept_drops(&self) -> usize {
        usize::from(self.wanted == 0 && self.resource_type.absence_deletes)
    }

    /// Makes the names of the next request those that are wanted.
    fn update_names(&mut self, now: Instant, timeout: Duration, updates: &mut Vec<Update>) {
        let keep = self.kept_drops();
        if self.unasked == 0 && self.dropped <= keep {
            return;
        }
        self.forget_unwanted(updates, keep);
        self.dropped = keep.min(self.names.len());
        if self.unasked > 0 {
            self.unasked = 0;
            self.arm_all(now + timeout);
        }
        // Names come in waves: room for a next one would be a third of what all of them take.
        self.names.shrink_to_fit();
        self.stream.sent = self.names.keys().cloned().collect();
    }

    fn forget_unwanted(&mut self, updates: &mut Vec<Update>, mut keep: usize) {
        if self.dropped <= keep {
            return;
        }
        let mut disarmed = Vec::new();
        self.names.retain(|name, subscription| {
            let stays = subscription.wanted || std::mem::take(&mut keep) > 0;
            if !stays {
                disarmed.extend(subscription.deadline);
                updates.push(Update {
                    resource_type: self.resource_type,
                    name: name.clone(),
                    kind: UpdateKind::Removed,
                });
            }
            stays
        });
        self.dropped = 0;
        disarmed.into_iter().for_each(|deadline| self.count_down(deadline));
    }

    /// Starts the clock of the names that are asked for the first time on this stream and have no verdict (A57).
    fn arm_all(&mut self, deadline: Instant) {
        let mut armed = 0;
        for subscription in self.names.values_mut().filter(|subscription| !subscription.asked) {
            subscription.asked = true;
            if subscription.verdict == Verdict::Requested {
                subscription.deadline = Some(deadline);
                armed += 1;
            }
        }
        if armed > 0 {
            *self.deadlines.entry(deadline).or_default() += armed;
        }
    }

    /// Stops the clock of a name: it got a verdict.
    pub(super) fn disarm(&mut self, name: &str) {
        if let Some(deadline) = self.names.get_mut(name).and_then(|subscription| subscription.deadline.take()) {
            self.count_down(deadline);
        }
    }

    pub(super) fn disarm_at(&mut self, index: usize) {
        let deadline = self.names.get_index_mut(index).and_then(|(_, subscription)| subscription.deadline.take());
        if let Some(deadline) = deadline {
            self.count_down(deadline);
        }
    }

    fn count_down(&mut self, deadline: Instant) {
        if let Some(count) = self.deadlines.get_mut(&deadline) {
            *count -= 1;
            if *count == 0 {
                self.deadlines.remove(&deadline);
            }
        }
    }

    /// Takes out the names whose time is over.
    pub(super) fn expire(&mut self, now: Instant, mut expired: impl FnMut(&Arc<str>, &mut Subscription, &str)) {
        if self.deadlines.first_key_value().is_none_or(|(deadline, _)| *deadline > now) {
            return;
        }
        for (name, subscription) in &mut self.names {
            if subscription.deadline.take_if(|deadline| *deadline <= now).is_some() {
                expired(name, subscription, &self.strangers);
            }
        }
        self.deadlines = self.deadlines.split_off(&now);
        self.deadlines.remove(&now);
    }

    /// When there is something to do without anything coming in.
    pub(super) fn poll_wake(&self) -> Option<Instant> {
        let nack = match &self.stream.reply {
            Some(Reply::Nack { due, .. }) => Some(*due),
            _ => None,
        };
        self.poll_deadline().into_iter().chain(nack).min()
    }

    /// When the first resource that was asked for is taken not to exist.
    pub(super) fn poll_deadline(&self) -> Option<Instant> {
        self.deadlines.first_key_value().map(|(deadline, _)| *deadline)
    }

    /// Whether the control plane was asked for this type on this stream; to reply to what was not asked for would
    /// subscribe to everything.
    pub(super) fn was_asked(&self) -> bool {
        self.stream.asked
    }

    /// The number of the response that is being handled.
    pub(super) fn round(&self) -> u64 {
        self.stream.responses + 1
    }

    /// A response was handled: the control plane is owed an ACK, or a NACK.
    pub(super) fn finish_response(&mut self, now: Instant, version: &str, nonce: &str, rejection: Option<Rejection>) {
        self.stream.responses += 1;
        self.stream.doubtful |= std::mem::take(&mut self.stream.grew);
        if *self.stream.nonce != *nonce {
            self.stream.nonce = nonce.into();
        }
        self.stream.reply = Some(match rejection {
            None => {
                self.accept_version(version);
                Reply::Ack
            }
            Some(rejection) => {
                let due = self.stream.pacer.due(now, &rejection);
                Reply::Nack { rejection, due }
            }
        });
    }

    fn accept_version(&mut self, version: &str) {
        if *self.version != *version {
            self.version = version.into();
        }
        self.stream.version = self.version.clone();
    }
}

#[cfg(test)]
impl Subscriptions {
    /// The counters say what the names say.
    pub(super) fn check(&self) {
        let count = |filter: fn(&Subscription) -> bool| self.names.values().filter(|s| filter(s)).count();
        assert_eq!(self.wanted, count(|s| s.wanted));
        assert_eq!(self.unasked, count(|s| s.wanted && !s.asked));
        assert_eq!(self.dropped, count(|s| !s.wanted && s.asked));
        assert_eq!(count(|s| !s.wanted && !s.asked), 0, "left over");
        let mut deadlines = BTreeMap::<Instant, usize>::new();
        for deadline in self.names.values().filter_map(|s| s.deadline) {
            *deadlines.entry(deadline).or_default() += 1;
        }
        assert_eq!(self.deadlines, deadlines);
    }
}

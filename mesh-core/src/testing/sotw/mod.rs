//! One ADS stream of the state-of-the-world protocol, seen from the server and without I/O: requests in, responses
//! out.
//!
//! A type's next response waits until the last one was acknowledged or rejected, whatever changes meanwhile. LDS and
//! CDS responses are complete, so what is missing does not exist; responses of other types carry what changed and say
//! nothing of what is missing. <https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol>

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use mesh_xds_proto::envoy::service::discovery::v3::DiscoveryRequest;
use prost::Message;

use super::requests::RequestKind;
use super::resources::Body;
use super::store::{Kept, Store, TypeState};
use super::type_url;

/// `envoy.service.discovery.v3.DiscoveryResponse` with its resources encoded already.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Response {
    #[prost(string, tag = "1")]
    pub(super) version_info: String,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(super) resources: Vec<Bytes>,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    #[prost(string, tag = "5")]
    pub(super) nonce: String,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub(super) resource_errors: Vec<Bytes>,
}

/// The state of one stream.
#[derive(Debug, Default)]
pub(super) struct Sotw {
    subscriptions: BTreeMap<String, Subscription>,
    /// The number in the last nonce; one count for all types.
    nonce: u64,
}

#[derive(Debug, Default)]
struct Subscription {
    /// The names of the last request as they came: most requests name the same ones again.
    asked: Vec<String>,
    names: Arc<BTreeSet<String>>,
    wildcard: bool,
    /// What was sent and not unsubscribed since, with its serial.
    sent: BTreeMap<String, u64>,
    /// The type's serial when it was last looked at.
    seen: u64,
    /// Whether names were added since the last look.
    dirty: bool,
    last_nonce: String,
    progress: Progress,
}

/// How far the last response of a type got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    Unanswered,
    Sent,
    Acked,
    Nacked,
}

impl Sotw {
    /// Takes a request in; says what it was, and the names that are subscribed to now.
    pub(super) fn handle_request(&mut self, request: &DiscoveryRequest) -> (RequestKind, Arc<BTreeSet<String>>) {
        let first = !self.subscriptions.contains_key(&request.type_url);
        let subscription = self.subscriptions.entry(request.type_url.clone()).or_default();
        let kind = subscription.classify(request);
        if kind != RequestKind::Stale {
            let again = kind == RequestKind::Subscribe && subscription.progress == Progress::Acked;
            subscription.settle(kind);
            let changed = subscription.subscribe(request, first);
            if again && !changed {
                subscription.forget_sent();
            }
        }
        (kind, subscription.names.clone())
    }

    /// The types that were asked for, those first on which others depend (make before break).
    pub(super) fn types(&self) -> Vec<String> {
        let mut types: Vec<String> = self.subscriptions.keys().cloned().collect();
        let order = [type_url::CLUSTER, type_url::ENDPOINTS, type_url::LISTENER, type_url::ROUTE_CONFIGURATION];
        types.sort_by_key(|name| order.iter().position(|known| known == name).unwrap_or(order.len()));
        types
    }

    /// The response of this type that is due, if any; it counts as sent.
    pub(super) fn poll_response(&mut self, type_url: &str, store: &Store) -> Option<Response> {
        let none = TypeState::default();
        let state = store.of_type(type_url).unwrap_or(&none);
        let subscription = self.subscriptions.get_mut(type_url)?;
        let due = subscription.due(type_url, state)?;
        self.nonce += 1;
        let mut response = subscription.response(type_url, state.version, &due);
        response.nonce = self.nonce.to_string();
        subscription.last_nonce.clone_from(&response.nonce);
        subscription.progress = Progress::Sent;
        Some(response)
    }

    /// Whether this type was asked for.
    pub(super) fn asks_for(&self, type_url: &str) -> bool {
        self.subscriptions.contains_key(type_url)
    }

    /// Whether the client acknowledged everything that is there for it of this type.
    pub(super) fn is_settled(&self, type_url: &str, store: &Store) -> bool {
        let serial = store.of_type(type_url).map_or(0, |state| state.serial);
        self.subscriptions.get(type_url).is_some_and(|subscription| {
            subscription.progress == Progress::Acked && subscription.seen == serial && !subscription.dirty
        })
    }
}

impl Subscription {
    fn classify(&self, request: &DiscoveryRequest) -> RequestKind {
        let current = request.response_nonce == self.last_nonce;
        match (&request.error_detail, self.progress) {
            _ if request.response_nonce.is_empty() => RequestKind::Subscribe,
            _ if !current => RequestKind::Stale,
            (Some(_), _) => RequestKind::Nack,
            (None, Progress::Sent) => RequestKind::Ack,
            (None, _) => RequestKind::Subscribe,
        }
    }

    fn settle(&mut self, kind: RequestKind) {
        match kind {
            RequestKind::Ack => self.progress = Progress::Acked,
            RequestKind::Nack => self.progress = Progress::Nacked,
            RequestKind::Subscribe | RequestKind::Stale => (),
        }
    }

    /// An empty list means everything if the type was never asked for by name, and nothing otherwise. Whether the
    /// subscription is another one now.
    fn subscribe(&mut self, request: &DiscoveryRequest, first: bool) -> bool {
        if !first && self.asked == request.resource_names {
            return false;
        }
        self.asked.clone_from(&request.resource_names);
        let names: BTreeSet<String> = request.resource_names.iter().cloned().collect();
        let legacy = names.is_empty() && (first || self.wildcard) && is_complete(&request.type_url);
        let wildcard = legacy || names.contains("*");
        let changed = wildcard != self.wildcard || names != *self.names;
        if changed {
            let added = names.iter().any(|name| !self.names.contains(name));
            self.dirty |= added || wildcard != self.wildcard;
            self.sent.retain(|name, _| wildcard || names.contains(name));
            (self.names, self.wildcard) = (Arc::new(names), wildcard);
        }
        changed
    }

    /// A client that asks for the same again has lost it: an Envoy does so for the endpoints of a cluster that
    /// changed, and a client that unsubscribed and changed its mind before it sent.
    fn forget_sent(&mut self) {
        self.sent.clear();
        self.dirty = true;
    }

    /// What there is to send, if anything and nothing is unanswered; remembers that it looked.
    fn due<'a>(&mut self, type_url: &str, state: &'a TypeState) -> Option<Vec<(&'a str, &'a Kept)>> {
        if self.progress == Progress::Sent || (!self.dirty && self.seen == state.serial) {
            return None;
        }
        let asked_more = std::mem::take(&mut self.dirty);
        let news = self.news(asked_more, state);
        self.seen = state.serial;
        if !is_complete(type_url) {
            return (!news.is_empty()).then_some(news);
        }
        let gone = || self.sent.keys().any(|name| state.get(name).is_none());
        (asked_more || !news.is_empty() || gone()).then(|| self.wanted(state))
    }

    /// What the client wants and does not have. What is older than the last look was sent then, unless names were added.
    fn news<'a>(&self, asked_more: bool, state: &'a TypeState) -> Vec<(&'a str, &'a Kept)> {
        if asked_more {
            let mut wanted = self.wanted(state);
            wanted.retain(|(name, kept)| self.sent.get(*name) != Some(&kept.serial));
            return wanted;
        }
        state.since(self.seen).filter(|(name, _)| self.wildcard || self.names.contains(*name)).collect()
    }

    fn wanted<'a>(&self, state: &'a TypeState) -> Vec<(&'a str, &'a Kept)> {
        if self.wildcard {
            return state.all().collect();
        }
        self.names.iter().filter_map(|name| state.get(name)).collect()
    }

    fn response(&mut self, type_url: &str, version: u64, due: &[(&str, &Kept)]) -> Response {
        let mut response =
            Response { version_info: version.to_string(), type_url: type_url.to_owned(), ..Default::default() };
        if is_complete(type_url) {
            // What a complete response leaves out is gone for the client too.
            self.sent.clear();
        }
        for (name, kept) in due {
            match &kept.body {
                Body::Any(bytes) => response.resources.push(bytes.clone()),
                Body::Error(bytes) => response.resource_errors.push(bytes.clone()),
            }
            self.sent.insert((*name).to_owned(), kept.serial);
        }
        response
    }
}

/// Whether responses of this type list everything, so that absence means deletion.
fn is_complete(type_url: &str) -> bool {
    matches!(type_url, type_url::LISTENER | type_url::CLUSTER)
}

#[cfg(test)]
mod tests;

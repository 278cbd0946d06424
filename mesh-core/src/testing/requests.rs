//! The log of requests that clients sent.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use mesh_xds_proto::envoy::config::core::v3::Node;
use mesh_xds_proto::envoy::service::discovery::v3::DiscoveryRequest;

/// Requests remembered; older ones are forgotten.
const LOG_LIMIT: usize = 10_000;

/// One request that a client sent.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct SeenRequest {
    /// The stream it came on; streams are numbered from 1 in the order in which they were opened.
    pub stream: u64,
    /// What it meant.
    pub kind: RequestKind,
    /// The type asked for.
    pub type_url: String,
    /// The names asked for.
    pub names: Arc<BTreeSet<String>>,
    /// The last version that the client accepted; empty if there is none.
    pub version: String,
    /// The nonce of the response that it answers; empty if it answers none.
    pub nonce: String,
    /// Code and message of `error_detail`, in a NACK.
    pub error: Option<(i32, String)>,
    /// The node, where the request had one.
    pub node: Option<Node>,
}

/// What a request meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestKind {
    /// A subscription, or a change of one.
    Subscribe,
    /// The last response was accepted.
    Ack,
    /// The last response was rejected, wholly or in part.
    Nack,
    /// It answers a response that a later one has replaced; it has no effect.
    Stale,
}

impl RequestKind {
    /// `subscribe`, `ack`, `nack` or `stale`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Ack => "ack",
            Self::Nack => "nack",
            Self::Stale => "stale",
        }
    }
}

impl SeenRequest {
    pub(super) fn new(stream: u64, kind: RequestKind, names: Arc<BTreeSet<String>>, request: DiscoveryRequest) -> Self {
        Self {
            stream,
            kind,
            names,
            type_url: request.type_url,
            version: request.version_info,
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| (status.code, status.message)),
            node: request.node,
        }
    }

    /// Whether it is a NACK.
    pub fn is_nack(&self) -> bool {
        self.kind == RequestKind::Nack
    }

    /// Whether it is an ACK.
    pub fn is_ack(&self) -> bool {
        self.kind == RequestKind::Ack
    }

    /// Whether it asks for `name` of `type_url`.
    pub fn asks_for(&self, type_url: &str, name: &str) -> bool {
        self.type_url == type_url && self.names.contains(name)
    }
}

impl fmt::Debug for SeenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = self.type_url.rsplit('.').next().unwrap_or_default();
        write!(f, "#{} {} {short} ", self.stream, self.kind.as_str())?;
        f.debug_set().entries(self.names.iter().take(10)).finish()?;
        write!(f, " version `{}` nonce `{}`", self.version, self.nonce)?;
        match &self.error {
            Some((code, message)) => write!(f, " error {code} `{message}`"),
            None => Ok(()),
        }
    }
}

/// The last requests, numbered from 0 in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct RequestLog {
    first: u64,
    requests: VecDeque<SeenRequest>,
}

impl RequestLog {
    pub(super) fn push(&mut self, request: SeenRequest) {
        if self.requests.len() == LOG_LIMIT {
            self.requests.pop_front();
            self.first += 1;
        }
        self.requests.push_back(request);
    }

    /// The number that the next request will get.
    pub(super) fn end(&self) -> u64 {
        self.first + self.requests.len() as u64
    }

    /// The requests from number `from` on that are still remembered, with their numbers.
    pub(super) fn since(&self, from: u64) -> impl Iterator<Item = (u64, &SeenRequest)> {
        let skip = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        (self.first..).zip(&self.requests).skip(skip)
    }
}

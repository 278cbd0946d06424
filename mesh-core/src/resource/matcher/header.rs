//! Matching of a header (A28, A63).

use std::ops::Range;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode, header};
use smallvec::SmallVec;

use super::RequestHead;
use super::text::TextMatch;

/// A condition on one header.
#[derive(Debug)]
pub(crate) struct HeaderMatch {
    name: Box<str>,
    source: HeaderSource,
    condition: Condition,
    invert: bool,
    missing_is_empty: bool,
}

/// What the header's value must be.
#[derive(Debug)]
pub(crate) enum Condition {
    Text(TextMatch),
    /// A decimal number in the half-open range.
    Number(Range<i64>),
    /// Present, or absent.
    Present(bool),
}

/// Where a header's value is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeaderSource {
    Path,
    Method,
    Authority,
    Header(HeaderName),
    /// A header that gRPC's transport writes after routing: absent from a gRPC request, whoever put it there.
    Transport(HeaderName),
    /// Always absent: binary headers (A28), and pseudo headers that routing does not know.
    Nowhere,
}

/// What a gRPC transport adds on its own, and so what routing must not see: not the same in every implementation.
const TRANSPORT: [&str; 6] =
    ["user-agent", "te", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "grpc-previous-rpc-attempts"];

impl HeaderMatch {
    /// `None` if `name` can be no header's name.
    pub(crate) fn new(name: &str, condition: Condition) -> Option<Self> {
        Some(Self::at(HeaderSource::of(name)?, name, condition))
    }

    /// On the header that is found there.
    pub(crate) fn at(source: HeaderSource, name: &str, condition: Condition) -> Self {
        Self { name: name.into(), source, condition, invert: false, missing_is_empty: false }
    }

    /// On a header of a call that a server gets. `None` if `name` can be no header's name, or is one that access control is
    /// not to depend on (A41).
    pub(crate) fn inbound(name: &str, condition: Condition) -> Option<Self> {
        let lower = name.to_ascii_lowercase();
        let is_seen = lower != ":scheme" && !lower.starts_with("grpc-");
        let source = HeaderSource::inbound(&lower).filter(|_| is_seen)?;
        Some(Self::at(source, name, condition))
    }

    pub(crate) fn inverted(mut self, invert: bool) -> Self {
        self.invert = invert;
        self
    }

    /// Envoy's `treat_missing_header_as_empty`, to which gRPC gives no meaning.
    pub(crate) fn missing_is_empty(mut self, missing_is_empty: bool) -> Self {
        self.missing_is_empty = missing_is_empty;
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// An absent header matches no condition on its value, not even an inverted one (A28).
    pub(crate) fn matches(&self, head: &RequestHead<'_>) -> bool {
        self.source.with_value(head, |value| self.accepts(value))
    }

    /// The same where a repeated header must not hide a value: several values match if they do when they are joined, or if
    /// one of them does alone.
    pub(crate) fn matches_any(&self, head: &RequestHead<'_>) -> bool {
        let one = |name| head.headers.get_all(name).iter().any(|value| self.accepts(Some(value.as_bytes())));
        self.matches(head) || matches!(&self.source, HeaderSource::Header(name) if one(name))
    }

    /// The same where a repeated header must not bring in what is kept out: an inverted matcher must hold of the values joined
    /// and of each alone.
    pub(crate) fn matches_each(&self, head: &RequestHead<'_>) -> bool {
        let each = |name| head.headers.get_all(name).iter().all(|value| self.accepts(Some(value.as_bytes())));
        self.matches(head) && (!self.invert || !matches!(&self.source, HeaderSource::Header(name) if !each(name)))
    }

    /// The same of a response, whose transport adds no headers that must not be seen.
    pub(crate) fn matches_response(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        match &self.source {
            HeaderSource::Header(name) | HeaderSource::Transport(name) => {
                with_joined(name, headers, |value| self.accepts(value))
            }
            _ if *self.name == *":status" => self.accepts(Some(status.as_str().as_bytes())),
            _ => self.accepts(None),
        }
    }

    fn accepts(&self, value: Option<&[u8]>) -> bool {
        let value = if self.missing_is_empty { value.or(Some(b"")) } else { value };
        let holds = match (&self.condition, value) {
            (Condition::Present(present), value) => value.is_some() == *present,
            (_, None) => return false,
            (Condition::Text(text), Some(value)) => text.matches(value),
            (Condition::Number(range), Some(value)) => number(value).is_some_and(|number| range.contains(&number)),
        };
        holds != self.invert
    }
}

impl HeaderSource {
    /// As a resource names it.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Path => ":path",
            Self::Method => ":method",
            Self::Authority => ":authority",
            Self::Header(name) | Self::Transport(name) => name.as_str(),
            Self::Nowhere => "none",
        }
    }

    /// `None` if `name` can be no header's name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        match name {
            ":path" => return Some(Self::Path),
            ":method" => return Some(Self::Method),
            // HTTP/1 says the same in `host`, and Envoy takes the two for one.
            ":authority" | "host" => return Some(Self::Authority),
            _ if name.starts_with(':') => return Some(Self::Nowhere),
            _ => {}
        }
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some(match name.as_str() {
            binary if binary.ends_with("-bin") => Self::Nowhere,
            transport if TRANSPORT.contains(&transport) => Self::Transport(name),
            _ => Self::Header(name),
        })
    }

    /// As [`of`](Self::of), in a call that a server gets, where what a transport adds is as it was sent, and so are binary
    /// headers.
    pub(crate) fn inbound(name: &str) -> Option<Self> {
        let lower = name.to_ascii_lowercase();
        Some(match Self::of(&lower)? {
            // Headers of a connection are none of the call's (RFC 9110, 7.6.1): over HTTP/2 there is only this one.
            _ if lower == "te" => Self::Nowhere,
            Self::Transport(name) => Self::Header(name),
            Self::Nowhere if lower.ends_with("-bin") => Self::Header(lower.parse().ok()?),
            source => source,
        })
    }

    /// Hands the value on: several are joined with a comma (A28).
    pub(crate) fn with_value<R>(&self, head: &RequestHead<'_>, then: impl FnOnce(Option<&[u8]>) -> R) -> R {
        match self {
            Self::Path => then(Some(head.path.as_bytes())),
            Self::Method => then(Some(head.method.as_str().as_bytes())),
            Self::Authority => then(Some(head.authority.as_bytes())),
            Self::Header(name) => with_joined(name, head.headers, then),
            Self::Transport(name) if !is_grpc(head.headers) => with_joined(name, head.headers, then),
            Self::Transport(_) | Self::Nowhere => then(None),
        }
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    value.is_some_and(|value| value.starts_with(b"application/grpc"))
}

fn number(value: &[u8]) -> Option<i64> {
    str::from_utf8(value).ok()?.trim().parse().ok()
}

/// The value of a header; several are joined with a comma (A28).
fn with_joined<R>(name: &HeaderName, headers: &HeaderMap, then: impl FnOnce(Option<&[u8]>) -> R) -> R {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let first = values.next();
    let (Some(first), Some(second)) = (first, values.next()) else {
        return then(first);
    };
    let mut joined: SmallVec<[u8; 256]> = SmallVec::from_slice(first);
    for value in std::iter::once(second).chain(values) {
        joined.push(b',');
        joined.extend_from_slice(value);
    }
    then(Some(&joined))
}

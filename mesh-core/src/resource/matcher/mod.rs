//! Request matching: what a route asks of a request, compiled when the configuration arrives (A28, A63).
//!
//! Nothing here allocates for a call, with one exception: a header with several values, longer than 256 bytes together,
//! is joined on the heap before it is compared.

pub(crate) mod header;
pub(crate) mod index;
pub(crate) mod path;
pub(crate) mod pattern;
pub(crate) mod text;
pub(crate) mod tree;

use std::fmt;

use http::request::Parts;
use http::{HeaderMap, Method, Request, Uri};

use header::HeaderMatch;
use path::PathMatch;

/// What routing sees of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestHead<'a> {
    /// The `:path`: path and query, as they are sent.
    pub(crate) path: &'a str,
    pub(crate) method: &'a Method,
    /// The data plane's authority, with the port if the target has one.
    pub(crate) authority: &'a str,
    pub(crate) headers: &'a HeaderMap,
}

impl<'a> RequestHead<'a> {
    /// Of a request of HTTP/2, whose authority is in its URI; one that has none there may have it in `host`.
    pub(crate) fn of<B>(request: &'a Request<B>) -> Self {
        Self::new(request.method(), request.uri(), request.headers())
    }

    /// As [`of`](Self::of) its request.
    pub(crate) fn of_parts(head: &'a Parts) -> Self {
        Self::new(&head.method, &head.uri, &head.headers)
    }

    fn new(method: &'a Method, uri: &'a Uri, headers: &'a HeaderMap) -> Self {
        let host = || headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let authority = uri.authority().map_or_else(host, |authority| authority.as_str());
        let path = uri.path_and_query().map_or_else(|| uri.path(), |path| path.as_str());
        Self { path, method, authority, headers }
    }

    /// The path without query and fragment: what path matchers are applied to, as in Envoy. A gRPC path has neither.
    pub(crate) fn bare_path(&self) -> &'a str {
        let end = self.path.bytes().position(|byte| byte == b'?' || byte == b'#');
        end.map_or(self.path, |end| &self.path[..end])
    }
}

/// The condition of one route: everything in it must hold.
#[derive(Debug)]
pub(crate) struct RouteMatch {
    path: PathMatch,
    headers: Vec<HeaderMatch>,
    per_million: Option<u32>,
    never: bool,
}

impl RouteMatch {
    /// Matches every request whose path does.
    pub(crate) fn new(path: PathMatch) -> Self {
        Self { path, headers: Vec::new(), per_million: None, never: false }
    }

    /// The path starts with `prefix`; the empty prefix matches every request.
    pub(crate) fn prefix(prefix: &str) -> Self {
        Self::new(PathMatch::prefix(prefix, true))
    }

    pub(crate) fn with_headers(mut self, headers: Vec<HeaderMatch>) -> Self {
        self.headers = headers;
        self
    }

    /// Matches a share of the requests only; `None` is all of them.
    pub(crate) fn with_fraction(mut self, per_million: Option<u32>) -> Self {
        self.per_million = per_million;
        self
    }

    /// Holds the place of a route that no request can match: gRPC has no query parameters (A28).
    pub(crate) fn never(mut self) -> Self {
        self.never = true;
        self
    }

    pub(crate) fn path(&self) -> &PathMatch {
        &self.path
    }

    /// Whether every request whose path starts with `/` matches.
    pub(crate) fn is_default(&self) -> bool {
        let every_path = matches!(&self.path, PathMatch::Prefix(prefix) if matches!(prefix.text(), "" | "/"));
        every_path && self.headers.is_empty() && self.per_million.is_none() && !self.never
    }

    pub(crate) fn is_never(&self) -> bool {
        self.never
    }

    /// Whether the request matches; `path` is its bare path. `random` is asked for a number below a million only if
    /// everything else holds.
    pub(crate) fn matches(&self, path: &str, head: &RequestHead<'_>, random: impl FnOnce() -> u32) -> bool {
        !self.never
            && self.path.matches(path)
            && self.headers.iter().all(|header| header.matches(head))
            && self.per_million.is_none_or(|per_million| random() < per_million)
    }
}

/// Says what the route matches, for people: `prefix /, header x-canary`.
impl fmt::Display for RouteMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)?;
        self.headers.iter().try_for_each(|header| write!(f, ", header {}", header.name()))?;
        if let Some(per_million) = self.per_million {
            write!(f, ", {} % of calls", f64::from(per_million) / 10_000.0)?;
        }
        if self.never { f.write_str(", query parameters") } else { Ok(()) }
    }
}

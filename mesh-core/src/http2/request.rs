//! A request that can be sent again: `h2` takes the head for good, and a body can be polled once.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use smallvec::SmallVec;

use crate::replay::Replay;

/// Method, URI with scheme and authority, and headers: what goes on the wire of a request's head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
}

impl Head {
    /// For `h2`, which gets no extensions.
    pub(super) fn into_request(self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers;
        request
    }
}

/// A [`Head`] in the form that is cheapest to make: no allocation for up to four headers, where a clone of the map takes
/// two, and the usual names and values are reference counts. More room would be moved about with each call.
pub(super) struct HeadCopy {
    method: Method,
    uri: Uri,
    headers: SmallVec<[(HeaderName, HeaderValue); 4]>,
}

impl HeadCopy {
    pub(super) fn new(head: &Head) -> Self {
        let headers = head.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        Self { method: head.method.clone(), uri: head.uri.clone(), headers }
    }

    pub(super) fn to_head(&self) -> Head {
        let mut headers = HeaderMap::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        Head { method: self.method.clone(), uri: self.uri.clone(), headers }
    }
}

/// A request on its way out. It comes back in a [`SendError`](super::SendError) if it can be sent elsewhere.
pub(crate) struct Outgoing<B> {
    pub(crate) head: Head,
    pub(super) body: Replay<B>,
}

impl<B> Outgoing<B> {
    pub(crate) fn new(head: Head, body: B) -> Self {
        Self { head, body: Replay::new(body) }
    }
}

/// Extensions are not sent and not kept: who needs them takes them out first.
impl<B> From<Request<B>> for Outgoing<B> {
    fn from(request: Request<B>) -> Self {
        let (parts, body) = request.into_parts();
        Self::new(Head { method: parts.method, uri: parts.uri, headers: parts.headers }, body)
    }
}

//! A request on its way through a connection.

use http::{Request, Version};

use crate::replay::{Head, Replay};

/// For `h2`, which gets no extensions.
pub(super) fn to_h2(head: Head) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = head.method;
    *request.uri_mut() = head.uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = head.headers;
    request
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

//! A request that can be sent again: `h2` takes the head for good, and a body can be polled once.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body::{Body, Frame};
use smallvec::SmallVec;

/// What is held of a body for sending it again, per call.
const MAX_KEPT: usize = 64 << 10;

/// Method, URI with scheme and authority, and headers: what goes on the wire of a request's head.
#[derive(Clone, Debug)]
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

/// A [`Head`] in the form that is cheapest to make: no allocation for up to six headers, where a clone of the map takes
/// two, and the usual names and values are reference counts.
pub(super) struct HeadCopy {
    method: Method,
    uri: Uri,
    headers: SmallVec<[(HeaderName, HeaderValue); 6]>,
}

impl HeadCopy {
    pub(super) fn of(head: &Head) -> Self {
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

/// A body that holds on to its first 64 KiB of data (reference counts, not copies) until it is certain that they need
/// not be sent again.
pub(super) struct Replay<B> {
    body: B,
    kept: SmallVec<[Bytes; 1]>,
    trailers: Option<Box<HeaderMap>>,
    bytes: usize,
    /// The next of `kept` to yield; beyond its end, the trailers, then the body itself.
    next: usize,
    keeping: bool,
    ended: bool,
}

impl<B> Replay<B> {
    fn new(body: B) -> Self {
        Self { body, kept: SmallVec::new(), trailers: None, bytes: 0, next: 0, keeping: true, ended: false }
    }

    /// Back to the start, if all that was yielded is still held.
    pub(super) fn rewind(mut self) -> Option<Self> {
        self.next = 0;
        self.keeping.then_some(self)
    }

    /// It will not be sent again.
    pub(super) fn forget(&mut self) {
        self.keeping = false;
        self.kept.drain(..self.next.min(self.kept.len()));
        self.next = 0;
    }

    fn keep(&mut self, data: &Bytes) {
        self.bytes = self.bytes.saturating_add(data.len());
        if self.bytes > MAX_KEPT {
            self.keeping = false;
            self.kept = SmallVec::new();
            self.next = 0;
        } else {
            self.kept.push(data.clone());
            self.next += 1;
        }
    }

    fn keep_trailers(&mut self, trailers: &HeaderMap) {
        self.trailers = Some(Box::new(trailers.clone()));
        self.next += 1;
        self.ended = true;
    }

    /// What was yielded before a rewind.
    fn again(&mut self) -> Option<Frame<Bytes>> {
        let frame = match self.kept.get(self.next) {
            Some(data) => Frame::data(data.clone()),
            None if self.next == self.kept.len() => Frame::trailers(self.trailers.as_deref()?.clone()),
            None => return None,
        };
        self.next += 1;
        Some(frame)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Replay<B> {
    pub(super) fn is_end_stream(&self) -> bool {
        self.next >= self.kept.len() + usize::from(self.trailers.is_some()) && (self.ended || self.body.is_end_stream())
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(frame) = self.again() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()?;
        if self.keeping {
            match frame.as_ref().map(|frame| (frame.data_ref(), frame.trailers_ref())) {
                Some((Some(data), _)) => self.keep(data),
                Some((_, Some(trailers))) => self.keep_trailers(trailers),
                _ => {}
            }
        }
        self.ended |= frame.is_none();
        Poll::Ready(frame.map(Ok))
    }
}

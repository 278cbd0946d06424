//! The one error type of the crate.
//!
//! [`Error`] is opaque: a kind, a sentence, and the facts that a reader needs to act: target, route, cluster,
//! endpoint, resource, control plane, node. Each layer adds the facts it knows on the way out; the adapters turn
//! the whole into a `grpc-status` and a message. Kinds say whose fault it was, and [`Error::request_sent`] whether
//! the request left, so that a retry reads data and not text.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};

/// A boxed cause.
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// Why a call, or the setting up of a mesh, failed.
///
/// `Display` is a fragment fit for "failed to …" and prints this level only; [`Error::report`] is the whole text
/// with every known fact and what to do next.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    request_sent: bool,
    context: Context,
    next_step: Option<String>,
    source: Option<BoxError>,
    /// Those of the response, with [`ErrorKind::HttpResponse`].
    headers: Option<Box<HeaderMap>>,
}

/// Whose fault a failure was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The application asked for something that cannot be: a malformed target, an unreadable bootstrap.
    Setup,
    /// The control plane did not say yet what the call needs.
    ControlPlane,
    /// What the control plane sent does not allow the call: no route, a missing cluster, a rejected resource.
    Configuration,
    /// The cluster has no endpoint that can take the call.
    NoEndpoint,
    /// A limit of our own was reached: too many calls wait, or the configuration drops a share of the calls.
    Overloaded,
    /// A server's policies do not let its caller make the call.
    PermissionDenied,
    /// The deadline passed.
    Deadline,
    /// The connection was lost, or could not be used.
    Connection,
    /// The peer reset the stream; [`Error::reset_code`] has the HTTP/2 error code.
    Reset(u32),
    /// The peer broke the protocol or a limit.
    Protocol,
    /// What answered does not speak the protocol of the call: a response of HTTP with this status.
    HttpResponse(StatusCode),
    /// The head of the request, which has the call's metadata, is larger than the peer says that it takes.
    RequestTooLarge,
    /// The application's request body failed.
    RequestBody,
    /// The mesh was shut down or dropped.
    Shutdown,
}

/// The facts around a failure, filled in by the layers that know them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    pub(crate) target: Option<Arc<str>>,
    pub(crate) route: Option<Arc<str>>,
    pub(crate) cluster: Option<Arc<str>>,
    pub(crate) endpoint: Option<String>,
    /// How often the call was tried, if that says anything.
    pub(crate) attempts: Option<String>,
    pub(crate) resource: Option<String>,
    pub(crate) control_plane: Option<Arc<str>>,
    pub(crate) node_id: Option<Arc<str>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let inner = Inner {
            kind,
            message: message.into(),
            request_sent: false,
            context: Context::default(),
            next_step: None,
            source: None,
            headers: None,
        };
        Self { inner: Box::new(inner) }
    }

    /// A call through a mesh that is gone.
    pub(crate) fn shut_down() -> Self {
        Self::new(ErrorKind::Shutdown, "call through a mesh that was shut down or dropped, or whose runtime is gone")
            .with_next_step("keep the `Mesh`, and the runtime it was built on, alive as long as its channels are used")
    }

    /// An error of kind [`ErrorKind::Setup`], for adapters that check what the application gave them.
    pub fn setup(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Setup, message)
    }

    pub(crate) fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// What the reader should do next; the innermost layer that knows it wins.
    pub(crate) fn with_next_step(mut self, next_step: impl Into<String>) -> Self {
        self.inner.next_step.get_or_insert_with(|| next_step.into());
        self
    }

    /// What the reader should do next, if a layer that knew said so.
    pub(crate) fn next_step(&self) -> Option<&str> {
        self.inner.next_step.as_deref()
    }

    pub(crate) fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.inner.headers = Some(Box::new(headers));
        self
    }

    /// The head of the response that is no answer of the call's protocol.
    #[cfg(feature = "retry")]
    pub(crate) fn response(&self) -> Option<(StatusCode, &HeaderMap)> {
        match (self.inner.kind, self.inner.headers.as_deref()) {
            (ErrorKind::HttpResponse(status), Some(headers)) => Some((status, headers)),
            _ => None,
        }
    }

    /// Marks that the request may have reached the peer.
    pub(crate) fn sent(mut self) -> Self {
        self.inner.request_sent = true;
        self
    }

    pub(crate) fn context_mut(&mut self) -> &mut Context {
        &mut self.inner.context
    }

    /// Whose fault it was.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// Whether the deadline of the call passed.
    pub fn is_timeout(&self) -> bool {
        self.inner.kind == ErrorKind::Deadline
    }

    /// Whether the mesh had been shut down or dropped.
    pub fn is_shutdown(&self) -> bool {
        self.inner.kind == ErrorKind::Shutdown
    }

    /// Whether the request may have reached the peer. `false` means that no byte of it was processed by a peer, so
    /// that sending it again is always safe.
    pub fn request_sent(&self) -> bool {
        self.inner.request_sent
    }

    /// The HTTP/2 error code with which the peer reset the stream.
    pub fn reset_code(&self) -> Option<u32> {
        match self.inner.kind {
            ErrorKind::Reset(code) => Some(code),
            _ => None,
        }
    }

    /// The target of the call, as the application wrote it.
    pub fn target(&self) -> Option<&str> {
        self.inner.context.target.as_deref()
    }

    /// The name of the cluster the call was routed to.
    pub fn cluster(&self) -> Option<&str> {
        self.inner.context.cluster.as_deref()
    }

    /// The endpoint that the call was sent to, if it was sent.
    pub fn endpoint(&self) -> Option<&str> {
        self.inner.context.endpoint.as_deref()
    }

    /// The whole text: the sentence, its causes, every fact known, and what to do next.
    pub fn report(&self) -> String {
        let mut text = with_causes(self);
        let facts = self.inner.context.facts();
        if !facts.is_empty() {
            text.push_str(&format!(" [{facts}]"));
        }
        if let Some(next) = &self.inner.next_step {
            text.push_str("; ");
            text.push_str(next);
        }
        text
    }
}

/// An error and its causes on one line; what one says already, the next does not say again.
pub(crate) fn with_causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

impl Context {
    fn facts(&self) -> String {
        let facts: [(&str, Option<&str>); 8] = [
            ("target", self.target.as_deref()),
            ("route", self.route.as_deref()),
            ("cluster", self.cluster.as_deref()),
            ("endpoint", self.endpoint.as_deref()),
            ("attempts", self.attempts.as_deref()),
            ("resource", self.resource.as_deref()),
            ("control plane", self.control_plane.as_deref()),
            ("node", self.node_id.as_deref()),
        ];
        let known = facts.iter().filter_map(|(name, value)| value.map(|value| format!("{name} {value}")));
        known.collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In words, as a `main` that returns it shows it so; its parts as `{:#?}`.
        if !f.alternate() {
            return f.write_str(&self.report());
        }
        f.debug_struct("Error")
            .field("kind", &self.inner.kind)
            .field("report", &self.report())
            .field("request_sent", &self.inner.request_sent)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// For bodies and services that cannot fail.
impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

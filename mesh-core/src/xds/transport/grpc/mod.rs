//! gRPC streams over the mesh's own HTTP/2.
//!
//! A stream is open when its request head was queued on a connection whose SETTINGS came; neither requests nor
//! responses wait for the response head, which many servers send with their first message only.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame};
use percent_encoding::percent_decode;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;
use tokio_util::sync::PollSender;
use tokio_util::task::TaskTracker;

use super::connector::{BoxIo, Connector, InProcess};
use super::credentials::Credentials;
use super::frames::{Deframer, frame};
use super::token::TokenFile;
use super::{CloseFuture, OpenFuture, Stream, StreamError, Transport};
use crate::bootstrap::{Bootstrap, ServerConfig};
use crate::error::{Error, ErrorKind, with_causes};
use crate::http2::{
    self, Connection, Keepalive, Outgoing, RecvBody, SendErrorKind, Slot, State, TcpConfig, Unavailable,
};
use crate::xds::{grpc_code_of_http, status_code_name};

#[cfg_attr(not(feature = "filter"), allow(dead_code, reason = "only filters ask other services"))]
mod unary;

pub(super) use unary::Failure;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("mesh/", env!("CARGO_PKG_VERSION")));
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What can be set about the connection to a control plane.
#[derive(Clone, Debug)]
pub(crate) struct GrpcOptions {
    /// From resolving the name to the server's HTTP/2 SETTINGS. Default 10 s.
    pub(crate) connect_timeout: Duration,
    /// Between PINGs on a silent connection. Default 5 min, as in all gRPC clients; `None` for never.
    pub(crate) ping_interval: Option<Duration>,
    /// Silence after a PING before the connection is given up. Default 20 s.
    pub(crate) ping_timeout: Duration,
    /// Counts the connections' tasks, each until its socket is closed.
    pub(crate) tasks: TaskTracker,
    /// The longest response, in bytes. Default 64 MiB: 10,000 assignments nearly fill gRPC's 4.
    pub(crate) max_response: usize,
    /// What each stream carries besides gRPC's own headers. Default nothing.
    pub(crate) headers: HeaderMap,
    pub(crate) tcp: TcpConfig,
    /// Over TLS, no older version than 1.3 is offered. Default 1.2, too.
    pub(crate) tls_1_3_only: bool,
}

impl Default for GrpcOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            ping_interval: Some(Duration::from_secs(300)),
            ping_timeout: Duration::from_secs(20),
            tasks: TaskTracker::new(),
            max_response: 64 << 20,
            headers: HeaderMap::new(),
            tcp: TcpConfig::default(),
            tls_1_3_only: false,
        }
    }
}

/// One control plane over one HTTP/2 connection at a time, made when the first stream is opened.
#[derive(Clone, Debug)]
pub(crate) struct GrpcTransport {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    connector: Connector,
    credentials: Credentials,
    /// Over TLS alone.
    tokens: Vec<TokenFile>,
    authority: String,
    options: GrpcOptions,
    runtime: Handle,
    current: Mutex<Current>,
}

#[derive(Debug, Default)]
struct Current {
    connection: Option<Connection>,
    /// How often the server complained of our PINGs; each makes them twice as rare.
    complaints: u32,
}

impl GrpcTransport {
    /// A transport to the bootstrap's control plane, whose connections run on `runtime`.
    ///
    /// # Errors
    ///
    /// Of kind [`ErrorKind::Setup`], when the credentials cannot be used.
    pub(crate) fn new(bootstrap: &Bootstrap, options: GrpcOptions, runtime: &Handle) -> Result<Self, Error> {
        Self::to(bootstrap.server(), options, runtime)
    }

    /// As [`new`](Self::new), but to any server.
    pub(crate) fn to(server: &ServerConfig, options: GrpcOptions, runtime: &Handle) -> Result<Self, Error> {
        let connector = Connector::Address { address: server.address.clone(), tcp: options.tcp.clone() };
        Self::over(connector, server, options, runtime)
    }

    /// As [`new`](Self::new), but over connections that `connect` makes: to a control plane in this process.
    pub(crate) fn in_process(
        connect: InProcess,
        bootstrap: &Bootstrap,
        options: GrpcOptions,
        runtime: &Handle,
    ) -> Result<Self, Error> {
        Self::over(Connector::InProcess(connect), bootstrap.server(), options, runtime)
    }

    fn over(
        connector: Connector,
        server: &ServerConfig,
        options: GrpcOptions,
        runtime: &Handle,
    ) -> Result<Self, Error> {
        let server_name = server.server_name.clone().unwrap_or_else(|| server.address.server_name());
        let credentials = Credentials::new(&server.credentials, &server_name, options.tls_1_3_only)?;
        let tokens: Vec<_> = server.tokens.iter().cloned().map(TokenFile::new).collect();
        if !tokens.is_empty() && !credentials.is_tls() {
            return Err(Error::new(ErrorKind::Setup, "a token is never sent in plaintext"));
        }
        let authority = server.address.authority();
        let (runtime, current) = (runtime.clone(), Mutex::default());
        let inner = Inner { connector, credentials, tokens, authority, options, runtime, current };
        inner.uri("/").map_err(|error| {
            let message = format!("`{}` cannot be the authority of a request", inner.authority);
            Error::new(ErrorKind::Setup, message).with_source(error)
        })?;
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Transport for GrpcTransport {
    fn open(&self, method: &'static str) -> OpenFuture {
        let inner = self.inner.clone();
        Box::pin(async move {
            let headers = inner.headers().await?;
            let slot = inner.slot().await?;
            let uri = inner.uri(method).map_err(|error| StreamError::new(format!("INTERNAL: {error}")))?;
            let request = head(uri, headers);
            Ok(Box::new(GrpcStream::start(slot, request, inner.options.max_response)) as Box<dyn Stream>)
        })
    }

    fn close(&self) -> CloseFuture {
        let inner = self.inner.clone();
        Box::pin(async move {
            let Some(connection) = inner.current.lock().await.connection.take() else { return };
            let closing = Closing(connection);
            closing.0.drain();
            let mut state = closing.0.state();
            // The sender is in the connection, so it cannot be gone.
            let _ = state.wait_for(|state| matches!(state, State::Lost(_))).await;
        })
    }
}

/// A connection that does not outlive this.
struct Closing(Connection);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close("closed here");
    }
}

impl Inner {
    /// A slot on the connection there is, or on a new one.
    async fn slot(&self) -> Result<Slot, StreamError> {
        let mut current = self.current.lock().await;
        match current.connection.as_ref().map(Connection::try_acquire) {
            Some(Ok(slot)) => return Ok(slot),
            // Another would be a second stream to the same server; it would be the same there.
            Some(Err(Unavailable::Full)) => {
                return Err(StreamError::new("UNAVAILABLE: the server allows no more streams on its connection"));
            }
            Some(Err(Unavailable::Draining | Unavailable::Closed)) | None => {}
        }
        if let Some(old) = current.connection.take() {
            current.complaints += u32::from(complained(&old));
        }
        let connection = self.dial(current.complaints).await?;
        let slot = connection.try_acquire();
        current.connection = Some(connection);
        slot.map_err(|_| StreamError::new("UNAVAILABLE: the server allows no streams"))
    }

    /// What a request has beside gRPC's own headers.
    async fn headers(&self) -> Result<HeaderMap, StreamError> {
        let mut headers = self.options.headers.clone();
        for token in &self.tokens {
            headers.append(AUTHORIZATION, token.authorization().await?);
        }
        Ok(headers)
    }

    async fn dial(&self, complaints: u32) -> Result<Connection, StreamError> {
        let limit = self.options.connect_timeout;
        let connecting = timeout(limit, self.connect(complaints)).await;
        connecting.unwrap_or_else(|_| Err(StreamError::new(format!("UNAVAILABLE: not connected within {limit:?}"))))
    }

    async fn connect(&self, complaints: u32) -> Result<Connection, StreamError> {
        let io: BoxIo = self.credentials.secure(self.connector.connect().await?).await?;
        let (keepalive, tasks) = (self.keepalive(complaints), self.options.tasks.clone());
        let config = http2::Config { keepalive, tasks, ..http2::Config::default() };
        let connecting = http2::handshake(io, &config, &self.runtime).await;
        connecting.map_err(|error| {
            // A server of TLS 1.3 refuses a client's certificate only now.
            self.credentials.handle_refused();
            let over = self.credentials.described();
            StreamError::new(format!("UNAVAILABLE: {over}{}", with_causes(&error)))
        })
    }

    fn keepalive(&self, complaints: u32) -> Option<Keepalive> {
        let interval = self.options.ping_interval?;
        let keepalive = Keepalive { timeout: self.options.ping_timeout, ..Keepalive::always(interval) };
        Some((0..complaints.min(8)).fold(keepalive, |keepalive, _| keepalive.slower()))
    }

    fn uri(&self, path: &'static str) -> Result<Uri, http::Error> {
        let scheme = if self.credentials.is_tls() { "https" } else { "http" };
        Uri::builder().scheme(scheme).authority(self.authority.as_str()).path_and_query(path).build()
    }
}

fn head(uri: Uri, more: HeaderMap) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.extend(more);
    headers.insert(TE, TRAILERS);
    headers.insert(CONTENT_TYPE, GRPC);
    headers.insert(USER_AGENT, AGENT);
    request
}

fn complained(connection: &Connection) -> bool {
    match &*connection.state().borrow() {
        State::Draining(Some(why)) | State::Lost(why) => why.is_too_many_pings(),
        State::Ready | State::Draining(None) => false,
    }
}

/// One stream of messages both ways.
pub(crate) struct GrpcStream {
    outbox: PollSender<Bytes>,
    state: StreamState,
    received: Deframer,
}

enum StreamState {
    Head(Box<http2::Send<Outbox>>),
    Body(Box<RecvBody>),
    Ended(StreamError),
}

/// The messages that go out: one at a time, so that the protocol makes the next when this one was taken.
struct Outbox(mpsc::Receiver<Bytes>);

impl Body for Outbox {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|message| message.map(|message| Ok(Frame::data(message))))
    }
}

impl GrpcStream {
    /// Starts a stream of the method that the URI's path names; messages longer than `limit` end it.
    pub(crate) fn new(slot: Slot, uri: Uri, limit: usize) -> Self {
        Self::start(slot, head(uri, HeaderMap::new()), limit)
    }

    fn start(slot: Slot, head: Request<()>, limit: usize) -> Self {
        let (outbox, messages) = mpsc::channel(1);
        let request = Outgoing::from(head.map(|()| Outbox(messages)));
        let state = StreamState::Head(Box::new(slot.send(request)));
        Self { outbox: PollSender::new(outbox), state, received: Deframer::new(limit) }
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, StreamError>> {
        loop {
            if let Some(message) = self.received.next()? {
                return Poll::Ready(Ok(message));
            }
            match &mut self.state {
                StreamState::Head(sending) => {
                    let response = ready!(Pin::new(sending).poll(cx)).map_err(|error| send_error(&error.kind))?;
                    self.state = StreamState::Body(Box::new(check_head(response)?));
                }
                StreamState::Body(body) => match ready!(Pin::new(body).poll_frame(cx)) {
                    None => return Poll::Ready(Err(StreamError::new("UNKNOWN: the stream ended without a status"))),
                    Some(Err(error)) => return Poll::Ready(Err(unavailable(&error))),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => self.received.push(&data),
                        Err(frame) => {
                            let trailers = frame.into_trailers().unwrap_or_default();
                            return Poll::Ready(Err(status(&trailers).unwrap_or_else(no_status)));
                        }
                    },
                },
                StreamState::Ended(error) => return Poll::Ready(Err(error.clone())),
            }
        }
    }
}

impl Stream for GrpcStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match ready!(self.outbox.poll_reserve(cx)) {
            Ok(()) => Poll::Ready(()),
            // The stream takes no more; `poll_recv` tells why.
            Err(_) => Poll::Pending,
        }
    }

    fn send(&mut self, message: Bytes) {
        match frame(&message) {
            // Fails when the stream takes no more.
            Some(frame) => drop(self.outbox.send_item(frame)),
            None => self.state = StreamState::Ended(StreamError::new("INTERNAL: request of more than 4 GiB")),
        }
    }

    fn finish(&mut self) {
        // A place that was taken for one more keeps the outbox open.
        self.outbox.abort_send();
        self.outbox.close();
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, StreamError>> {
        let received = ready!(self.poll_message(cx));
        if let Err(error) = &received {
            self.state = StreamState::Ended(error.clone());
        }
        Poll::Ready(received)
    }
}

/// The body of a response that is one of gRPC.
fn check_head(response: Response<RecvBody>) -> Result<RecvBody, StreamError> {
    if response.status() != StatusCode::OK {
        return Err(http_error(response.status()));
    }
    // Trailers-Only: the head is the end.
    if let Some(error) = status(response.headers()) {
        return Err(error);
    }
    match response.headers().get(CONTENT_TYPE) {
        Some(kind) if kind.as_bytes().starts_with(GRPC.as_bytes()) => Ok(response.into_body()),
        kind => Err(StreamError::new(format!("UNKNOWN: not a gRPC response: content-type {kind:?}"))),
    }
}

/// The status at the end of a stream, as a text.
fn status(headers: &HeaderMap) -> Option<StreamError> {
    let code = headers.get(&GRPC_STATUS)?;
    let code = code.to_str().ok().and_then(|code| code.parse().ok()).map_or("UNKNOWN".into(), status_code_name);
    let message = headers.get(&GRPC_MESSAGE).map(HeaderValue::as_bytes).unwrap_or_default();
    let message = percent_decode(message).decode_utf8_lossy();
    let message = if message.is_empty() { "the server ended the stream".into() } else { message };
    Some(StreamError::new(format!("{code}: {message}")))
}

fn no_status() -> StreamError {
    StreamError::new("UNKNOWN: the stream ended without a status")
}

fn http_error(status: StatusCode) -> StreamError {
    let code = status_code_name(grpc_code_of_http(status).into());
    StreamError::new(format!("{code}: HTTP status {status}"))
}

fn send_error(kind: &SendErrorKind) -> StreamError {
    let text = match kind {
        SendErrorKind::Unsent(why) | SendErrorKind::Refused(Some(why)) | SendErrorKind::ConnectionLost(why) => {
            format!("{kind}: {}", with_causes(why))
        }
        _ => kind.to_string(),
    };
    StreamError::new(format!("UNAVAILABLE: {text}"))
}

fn unavailable(error: &(dyn StdError + 'static)) -> StreamError {
    StreamError::new(format!("UNAVAILABLE: {}", with_causes(error)))
}

#[cfg(test)]
mod tests;

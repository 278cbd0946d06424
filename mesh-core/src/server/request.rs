//! A request as a handler gets it, if it gets to one.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project::pin_project;
use tokio::time::Instant;
use tower::ServiceExt as _;
use tower_service::Service;

use super::access::{NOT_ALLOWED, denied, inbound_call};
use super::answer::{Answer, ResponseBody, State};
use super::caller::Caller;
use super::held::HeldCall;
use super::listener::ChainState;
use super::open::{OpenCall, Upload, Watched};
use super::passage::{Next, Passage, Terms};
use super::state::{ConnectionState, InFlight, ServerState};
use super::streams;
use crate::deadline::InboundProtocol;
use crate::error::{BoxError, Error, ErrorKind};
use crate::resource::filter::concurrency::Permit;
use crate::resource::rbac::access::decide;

/// The connection that a request came on; in the request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectInfo {
    /// Ours.
    pub local_address: SocketAddr,
    /// The peer's. Through a proxy it is the proxy's.
    pub peer_address: SocketAddr,
    /// Whether it came over TLS; its [`Peer`](crate::server::Peer) is in the extensions if it showed a certificate.
    pub is_secured: bool,
}

/// The body of a request.
#[pin_project]
#[derive(Debug)]
pub struct RequestBody {
    source: Source,
    /// What may end it before its end.
    watched: Option<Watched>,
}

#[derive(Debug)]
enum Source {
    Own(Incoming),
    Open(Upload),
}

impl Source {
    /// `None`: it was ended.
    fn with<T>(&mut self, look: impl FnOnce(&mut Incoming) -> T) -> Option<T> {
        match self {
            Self::Own(incoming) => Some(look(incoming)),
            Self::Open(upload) => upload.with(look),
        }
    }

    fn ask<T>(&self, look: impl FnOnce(&Incoming) -> T) -> Option<T> {
        match self {
            Self::Own(incoming) => Some(look(incoming)),
            Self::Open(upload) => upload.with(|incoming| look(incoming)),
        }
    }
}

impl RequestBody {
    fn new(incoming: Incoming, call: Option<&Arc<OpenCall>>) -> Self {
        let watched = call.map(Watched::new);
        let source = match call {
            Some(call) => Source::Open(Upload::new(incoming, call)),
            None => Source::Own(incoming),
        };
        Self { source, watched }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.project();
        if this.watched.as_mut().is_some_and(|watched| watched.poll_denied(cx).is_ready()) {
            return Poll::Ready(Some(Err(not_allowed())));
        }
        let polled = this.source.with(|incoming| Pin::new(incoming).poll_frame(cx));
        let polled = polled.map(|polled| polled.map(|frame| frame.map(|result| result.map_err(unreadable))));
        polled.unwrap_or_else(|| Poll::Ready(Some(Err(not_allowed()))))
    }

    fn is_end_stream(&self) -> bool {
        self.source.ask(Body::is_end_stream).unwrap_or(false)
    }

    fn size_hint(&self) -> SizeHint {
        self.source.ask(Body::size_hint).unwrap_or_default()
    }
}

fn not_allowed() -> Error {
    Error::new(ErrorKind::PermissionDenied, NOT_ALLOWED)
}

fn unreadable(error: hyper::Error) -> Error {
    Error::new(ErrorKind::Connection, "read the body of a request").with_source(error)
}

/// The calls of one connection, for hyper.
#[derive(Clone, Debug)]
pub(super) struct Calls<S> {
    pub(super) service: S,
    pub(super) connection: Arc<ConnectionState>,
    pub(super) info: ConnectInfo,
    pub(super) caller: Caller,
    /// What decides whether a call is served, and passes it through filters; `None`: all are.
    pub(super) chain: Option<Arc<ChainState>>,
    pub(super) terms: Terms,
    pub(super) refusals: Refusals,
}

/// Without `:authority` there must be one `host` (A41): which of several would be the call's?
fn one_authority<B>(request: &Request<B>) -> Result<(), Error> {
    let names_two = || request.headers().get_all(header::HOST).iter().nth(1).is_some();
    match request.uri().authority() {
        None if names_two() => Err(Error::new(ErrorKind::Protocol, "the call names several hosts")),
        _ => Ok(()),
    }
}

/// How calls are answered that are not to be served.
#[derive(Clone, Debug)]
pub(super) struct Refusals {
    pub(super) server: Arc<ServerState>,
    pub(super) protocol: Option<&'static dyn InboundProtocol>,
    /// The longest a call may take.
    pub(super) limit: Option<Duration>,
}

impl<S> Calls<S> {
    /// A call that is to end when it is denied.
    fn open<B>(&self, request: &Request<B>) -> Option<Arc<OpenCall>> {
        let chain = self.chain.as_ref().filter(|_| self.terms.ends_denied_streams)?;
        Some(OpenCall::new(request, self.info, chain, &self.terms, &self.refusals))
    }

    /// What is left to be done before the call is served, or why it is not.
    fn admit(&self, request: &Request<RequestBody>) -> Result<Option<Passage>, Error> {
        one_authority(request)?;
        match &self.chain {
            Some(chain) => {
                let open = request.body().watched.as_ref().map(|watched| &*watched.call);
                chain.admit(request, &self.terms, &self.connection, open)
            }
            None if self.terms.deny_by_default => {
                let call = inbound_call(request);
                decide(&call, std::iter::empty(), true, Some(&self.terms.audit))
                    .map_err(|refusal| denied(refusal, &call, ""))?;
                Ok(None)
            }
            None => Ok(None),
        }
    }
}

/// Keeps a call that has passed its filters, if it may have to be ended.
///
/// # Errors
///
/// It is denied by what came into force meanwhile.
pub(super) fn enter(request: &Request<RequestBody>) -> Result<(), Error> {
    request.body().watched.as_ref().map_or(Ok(()), |watched| watched.call.enter())
}

impl Refusals {
    /// The head of the answer to a call that is not to be served, for this reason.
    pub(super) fn answer(&self, error: &Error) -> Response<()> {
        self.server.refuse_call(error);
        self.told(error)
    }

    /// The head of the answer to a call that is not allowed.
    pub(super) fn denied(&self) -> Response<()> {
        self.told(&Error::new(ErrorKind::PermissionDenied, NOT_ALLOWED))
    }

    fn told(&self, error: &Error) -> Response<()> {
        let vague;
        let error = match error.kind() {
            ErrorKind::Protocol => error,
            // Names of resources, and what is wrong with them, are for the server's operator.
            kind => {
                let told = match kind {
                    ErrorKind::PermissionDenied => NOT_ALLOWED,
                    _ => "this server is not configured to serve the call",
                };
                vague = Error::new(kind, told);
                &vague
            }
        };
        match self.protocol {
            Some(protocol) => protocol.refused(error),
            None => of_status(match error.kind() {
                ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
                ErrorKind::Protocol => StatusCode::BAD_REQUEST,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            }),
        }
    }

    /// The head of the answer to a call whose deadline passed before it was served.
    pub(super) fn expired(&self) -> Response<()> {
        self.protocol.map_or_else(|| of_status(StatusCode::GATEWAY_TIMEOUT), |protocol| protocol.expired())
    }

    /// The deadline of a call that has just come.
    pub(super) fn deadline(&self, headers: &HeaderMap) -> Option<Instant> {
        let told = self.protocol.and_then(|protocol| protocol.timeout(headers));
        Instant::now().checked_add(told.into_iter().chain(self.limit).min()?)
    }
}

fn of_status(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

impl<S, R> Calls<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    R: Send + 'static,
{
    /// What becomes of the call, and its place among those that are served at a time.
    fn begin(&self, request: Request<RequestBody>) -> (State<S, R>, Option<Permit>) {
        match self.make_room(&request) {
            Ok(permit) => self.state(request, permit),
            Err(answer) => {
                let response = match self.refusals.protocol {
                    Some(protocol) => protocol.respond(*answer),
                    None => answer.into_http(),
                };
                (State::Answered(Some(Ok(response))), None)
            }
        }
    }

    fn make_room(&self, request: &Request<RequestBody>) -> Result<Option<Permit>, Box<crate::filter::Answer>> {
        match self.refusals.protocol {
            Some(protocol) if protocol.is_health_check(request.uri().path()) => Ok(None),
            _ => self.refusals.server.make_room(request.headers()),
        }
    }

    /// A call that passes filters has its place with it there.
    fn state(&self, request: Request<RequestBody>, permit: Option<Permit>) -> (State<S, R>, Option<Permit>) {
        match self.admit(&request) {
            Err(error) => (State::refused(self.refusals.answer(&error)), None),
            Ok(None) => (self.served(request, None), permit),
            Ok(Some(mut passage)) => {
                passage.keep(permit);
                passage.watch(request.body().watched.as_ref().map(|watched| watched.call.clone()));
                (self.pass(Box::new(passage), request), None)
            }
        }
    }

    fn served(&self, request: Request<RequestBody>, passage: Option<Box<Passage>>) -> State<S, R> {
        match enter(&request) {
            Ok(()) => State::Served(self.service.clone().oneshot(request), passage),
            Err(error) => State::refused(self.refusals.answer(&error)),
        }
    }

    /// Passes the call through its filters.
    fn pass(&self, mut passage: Box<Passage>, request: Request<RequestBody>) -> State<S, R> {
        let (mut head, body) = request.into_parts();
        match passage.request(&mut head, 0) {
            Next::Serve => self.served(Request::from_parts(head, body), Some(passage)),
            Next::Refuse(error) => State::refused(self.refusals.answer(&error)),
            Next::Deny(answer, why) => {
                self.refusals.server.refuse_call(&why);
                State::Answered(Some(Ok(passage.changed(answer))))
            }
            Next::Answer(answer) => State::Answered(Some(Ok(passage.changed(answer)))),
            Next::Hold(hold) => {
                let (service, refusals) = (self.service.clone(), self.refusals.clone());
                let call = HeldCall { passage, head, body, service, refusals };
                State::Held(Box::pin(call.serve(hold)))
            }
        }
    }
}

impl<S, R> hyper::service::Service<Request<Incoming>> for Calls<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    R: Send + 'static,
{
    type Response = Response<ResponseBody<R>>;
    type Error = BoxError;
    type Future = Answer<S, R>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.info);
        // Of two authorities that may differ, policies and handlers must see the same one (A41).
        if request.uri().authority().is_some() {
            request.headers_mut().remove(header::HOST);
        }
        self.caller.introduce(&mut request);
        let open = self.open(&request);
        if self.terms.ends_denied_streams {
            streams::begin(open.as_ref());
        }
        let request = request.map(|body| RequestBody::new(body, open.as_ref()));
        let in_flight = InFlight::on(&self.connection);
        let (state, permit) = if self.connection.refuses_calls() {
            // Nothing was done for it: its client makes it again, on another connection (RFC 9113, 8.7).
            (State::Answered(Some(Err(h2::Error::from(h2::Reason::REFUSED_STREAM)))), None)
        } else {
            self.begin(request)
        };
        Answer::new(state, in_flight, permit, open.as_ref())
    }
}

//! A request as a handler gets it, and the response as it goes out: both count while they are there.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project::pin_project;
use tower::ServiceExt as _;
use tower::util::Oneshot;
use tower_service::Service;

use super::access::{denied, inbound_call};
use super::caller::Caller;
use super::listener::ChainState;
use super::state::{ConnectionState, InFlight, ServerState};
use crate::deadline::InboundProtocol;
use crate::error::{BoxError, Error, ErrorKind};
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
pub struct RequestBody(#[pin] Incoming);

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.project().0.poll_frame(cx).map(|frame| frame.map(|result| result.map_err(unreadable)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

fn unreadable(error: hyper::Error) -> Error {
    Error::new(ErrorKind::Connection, "read the body of a request").with_source(error)
}

/// The calls of one connection, for hyper.
#[derive(Clone, Debug)]
pub(super) struct Calls<S> {
    pub(super) service: S,
    pub(super) server: Arc<ServerState>,
    pub(super) connection: Arc<ConnectionState>,
    pub(super) info: ConnectInfo,
    pub(super) caller: Caller,
    /// What decides whether a call is served; `None`: all are.
    pub(super) chain: Option<Arc<ChainState>>,
    pub(super) protocol: Option<&'static dyn InboundProtocol>,
    pub(super) deny_by_default: bool,
}

impl<S> Calls<S> {
    fn check(&self, request: &Request<RequestBody>) -> Result<(), Error> {
        match &self.chain {
            Some(chain) => chain.admit(request, self.deny_by_default),
            None if self.deny_by_default => {
                let call = inbound_call(request);
                decide(&call, std::iter::empty(), true).map_err(|refusal| denied(refusal, &call, ""))
            }
            None => Ok(()),
        }
    }

    /// The head of the answer to a call that is not to be served.
    fn refused(&self, request: &Request<RequestBody>) -> Option<Response<()>> {
        let error = self.check(request).err()?;
        self.server.refuse_call(&error);
        let error = match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::Protocol => error,
            // Names of resources, and what is wrong with them, are for the server's operator.
            kind => Error::new(kind, "this server is not configured to serve the call"),
        };
        Some(match self.protocol {
            Some(protocol) => protocol.refused(&error),
            None => {
                let mut response = Response::new(());
                *response.status_mut() = match error.kind() {
                    ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
                    _ => StatusCode::SERVICE_UNAVAILABLE,
                };
                response
            }
        })
    }
}

impl<S, R> hyper::service::Service<Request<Incoming>> for Calls<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = BoxError;
    type Future = Answer<Oneshot<S, Request<RequestBody>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let mut request = request.map(RequestBody);
        request.extensions_mut().insert(self.info);
        // Of two authorities that may differ, policies and handlers must see the same one (A41).
        if request.uri().authority().is_some() {
            request.headers_mut().remove(header::HOST);
        }
        self.caller.introduce(&mut request);
        let in_flight = Some(InFlight::on(&self.connection));
        let refused = if self.connection.refuses_calls() {
            // Nothing was done for it: its client makes it again, on another connection (RFC 9113, 8.7).
            Some(Err(h2::Error::from(h2::Reason::REFUSED_STREAM)))
        } else {
            self.refused(&request).map(Ok)
        };
        match refused {
            Some(refused) => Answer { inner: None, refused: Some(refused), in_flight },
            None => Answer { inner: Some(self.service.clone().oneshot(request)), refused: None, in_flight },
        }
    }
}

/// The future of a call that is served, or refused.
#[pin_project]
pub(super) struct Answer<F> {
    #[pin]
    inner: Option<F>,
    refused: Option<Result<Response<()>, h2::Error>>,
    in_flight: Option<InFlight>,
}

impl<F, R, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = match this.inner.as_pin_mut() {
            Some(inner) => ready!(inner.poll(cx)).map_err(Into::into)?.map(Some),
            None => this.refused.take().expect("polled after it was ready")?.map(|()| None),
        };
        let in_flight = this.in_flight.take();
        Poll::Ready(Ok(response.map(|inner| ResponseBody { inner, _in_flight: in_flight })))
    }
}

/// The body of a response; its call is in flight until it is dropped.
#[pin_project]
pub(super) struct ResponseBody<R> {
    /// `None`: the head is all there is.
    #[pin]
    inner: Option<R>,
    _in_flight: Option<InFlight>,
}

impl<R: Body> Body for ResponseBody<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        self.project().inner.as_pin_mut().map_or(Poll::Ready(None), |inner| inner.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

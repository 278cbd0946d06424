//! A request as a handler gets it, and the response as it goes out: both count while they are there.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project::pin_project;
use tower::ServiceExt as _;
use tower::util::Oneshot;
use tower_service::Service;

use super::state::{ConnectionState, InFlight};
use crate::error::{Error, ErrorKind};

/// The connection that a request came on; in the request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectInfo {
    /// Ours.
    pub local_address: SocketAddr,
    /// The peer's. Through a proxy it is the proxy's.
    pub peer_address: SocketAddr,
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
    service: S,
    connection: Arc<ConnectionState>,
}

impl<S> Calls<S> {
    pub(super) fn new(service: S, connection: Arc<ConnectionState>) -> Self {
        Self { service, connection }
    }
}

impl<S, R> hyper::service::Service<Request<Incoming>> for Calls<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = Answer<Oneshot<S, Request<RequestBody>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let mut request = request.map(RequestBody);
        request.extensions_mut().insert(self.connection.info);
        let in_flight = Some(InFlight::on(&self.connection));
        Answer { inner: self.service.clone().oneshot(request), in_flight }
    }
}

/// The future of a call that is served.
#[pin_project]
pub(super) struct Answer<F> {
    #[pin]
    inner: F,
    in_flight: Option<InFlight>,
}

impl<F, R, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let in_flight = this.in_flight.take();
        Poll::Ready(Ok(response.map(|inner| ResponseBody { inner, _in_flight: in_flight })))
    }
}

/// The body of a response; its call is in flight until it is dropped.
#[pin_project]
pub(super) struct ResponseBody<R> {
    #[pin]
    inner: R,
    _in_flight: Option<InFlight>,
}

impl<R: Body> Body for ResponseBody<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

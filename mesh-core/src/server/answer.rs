//! The answer to a call: its handler's, or the server's own. It counts while it is there, and while HTTP/2 has any of it
//! left to send.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::Instant;
use tower::util::Oneshot;
use tower_service::Service;

use super::held::Held;
use super::passage::Passage;
use super::request::RequestBody;
use super::state::InFlight;
use crate::error::BoxError;
use crate::filter;
use crate::resource::filter::concurrency::Permit;

/// The future of a call.
#[pin_project]
pub(super) struct Answer<S, R>
where
    S: Service<Request<RequestBody>>,
{
    #[pin]
    state: State<S, R>,
    in_flight: Option<Arc<InFlight>>,
    /// Its place among the calls that are served at a time, unless its passage has it.
    permit: Option<Permit>,
}

#[pin_project(project = StateProjection)]
pub(super) enum State<S, R>
where
    S: Service<Request<RequestBody>>,
{
    /// The handler answers, and what the filters do to that is behind it.
    Served(#[pin] Oneshot<S, Request<RequestBody>>, Option<Box<Passage>>),
    Held(Held<R>),
    /// An error resets the stream.
    Answered(Option<Result<Response<Bytes>, h2::Error>>),
}

impl<S, R> Answer<S, R>
where
    S: Service<Request<RequestBody>>,
{
    pub(super) fn new(state: State<S, R>, in_flight: Arc<InFlight>, permit: Option<Permit>) -> Self {
        Self { state, in_flight: Some(in_flight), permit }
    }
}

impl<S, R> State<S, R>
where
    S: Service<Request<RequestBody>>,
{
    /// The answer is nothing but a head.
    pub(super) fn refused(head: Response<()>) -> Self {
        Self::Answered(Some(Ok(head.map(|()| Bytes::new()))))
    }
}

impl<S, R> Future for Answer<S, R>
where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = match this.state.project() {
            StateProjection::Served(handler, passage) => {
                let response = ready!(handler.poll(cx)).map_err(Into::into)?.map(filter::ResponseBody::passed);
                if let Some(permit) = this.permit.take() {
                    permit.served(Instant::now());
                }
                match passage {
                    Some(passage) => passage.served(response),
                    None => response,
                }
            }
            StateProjection::Held(held) => ready!(held.as_mut().poll(cx))?,
            StateProjection::Answered(answer) => {
                answer.take().expect("polled after it was ready")?.map(filter::ResponseBody::own)
            }
        };
        let in_flight = this.in_flight.take().expect("polled after it was ready");
        Poll::Ready(Ok(response.map(|inner| ResponseBody { inner, in_flight })))
    }
}

/// The body of a response; its call is in flight until it is dropped, and all that came of it.
#[pin_project]
pub(super) struct ResponseBody<R> {
    #[pin]
    inner: filter::ResponseBody<R>,
    in_flight: Arc<InFlight>,
}

impl<R: Body<Data = Bytes>> Body for ResponseBody<R> {
    type Data = Piece;
    type Error = R::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, R::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        let piece = |bytes| Piece { bytes, _in_flight: this.in_flight.clone() };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A piece of a response. HTTP/2 lets go of it once it is written, however long the client's window keeps it waiting after the
/// body has ended.
pub(super) struct Piece {
    bytes: Bytes,
    _in_flight: Arc<InFlight>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

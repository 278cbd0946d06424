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

use super::held::{Held, Outcome};
use super::open::{OpenCall, UnwrittenPiece, Watched};
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
    /// What may end it.
    watched: Option<Watched>,
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
    pub(super) fn new(
        state: State<S, R>,
        in_flight: Arc<InFlight>,
        permit: Option<Permit>,
        call: Option<&Arc<OpenCall>>,
    ) -> Self {
        Self { state, in_flight: Some(in_flight), permit, watched: call.map(Watched::new) }
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

impl<S, R> State<S, R>
where
    S: Service<Request<RequestBody>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    fn poll_answer(self: Pin<&mut Self>, cx: &mut Context<'_>, permit: &mut Option<Permit>) -> Poll<Outcome<R>> {
        let response = match self.project() {
            StateProjection::Served(handler, passage) => {
                let response = ready!(handler.poll(cx)).map_err(Into::into)?.map(filter::ResponseBody::passed);
                if let Some(permit) = permit.take() {
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
        Poll::Ready(Ok(response))
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
        let is_denied = this.watched.as_mut().is_some_and(|watched| watched.poll_denied(cx).is_ready());
        let response = match this.watched {
            Some(watched) if is_denied => watched.call.answer().map(|()| filter::ResponseBody::own(Bytes::new())),
            _ => ready!(this.state.poll_answer(cx, this.permit))?,
        };
        let in_flight = this.in_flight.take().expect("polled after it was ready");
        let watched = this.watched.take();
        Poll::Ready(Ok(response.map(|inner| ResponseBody { inner: Some(inner), in_flight, watched })))
    }
}

/// The body of a response; its call is in flight until it is dropped, and all that came of it.
#[pin_project]
pub(super) struct ResponseBody<R> {
    /// `None`: it was ended.
    #[pin]
    inner: Option<filter::ResponseBody<R>>,
    in_flight: Arc<InFlight>,
    /// What may end it before its end.
    watched: Option<Watched>,
}

impl<R> Body for ResponseBody<R>
where
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Data = Piece;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, BoxError>>> {
        let mut this = self.project();
        if this.watched.as_mut().is_some_and(|watched| watched.poll_denied(cx).is_ready()) {
            // Those of the request see it by themselves.
            this.inner.set(None);
            let written = this.watched.as_ref().map_or(Poll::Ready(()), |watched| watched.call.poll_written(cx));
            // Behind them, the end would wait for a window as well; that it waits no longer than it may is its stream's to see.
            ready!(written);
            let end = this.watched.take().and_then(|watched| watched.call.trailers());
            return Poll::Ready(Some(
                end.map(Frame::trailers).ok_or_else(|| h2::Error::from(h2::Reason::CANCEL).into()),
            ));
        }
        let Some(inner) = this.inner.as_pin_mut() else { return Poll::Ready(None) };
        let frame = ready!(inner.poll_frame(cx)).map(|frame| frame.map_err(Into::into));
        let call = this.watched.as_ref().map(|watched| &watched.call);
        let piece =
            |bytes| Piece { bytes, _in_flight: this.in_flight.clone(), _unwritten: call.map(UnwrittenPiece::of) };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// A piece of a response. HTTP/2 lets go of it once it is written, however long the client's window keeps it waiting after the
/// body has ended.
pub(super) struct Piece {
    bytes: Bytes,
    _in_flight: Arc<InFlight>,
    /// If policies may end the call.
    _unwritten: Option<UnwrittenPiece>,
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

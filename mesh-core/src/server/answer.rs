//! The answer to a call: its handler's, or the server's own. It counts while it is there.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tower::util::Oneshot;
use tower_service::Service;

use super::held::Held;
use super::passage::Passage;
use super::request::RequestBody;
use super::state::InFlight;
use crate::error::BoxError;
use crate::filter;

/// The future of a call.
#[pin_project]
pub(super) struct Answer<S, R>
where
    S: Service<Request<RequestBody>>,
{
    #[pin]
    state: State<S, R>,
    in_flight: Option<InFlight>,
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
    pub(super) fn new(state: State<S, R>, in_flight: InFlight) -> Self {
        Self { state, in_flight: Some(in_flight) }
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
                match passage {
                    Some(passage) => passage.changed(response),
                    None => response,
                }
            }
            StateProjection::Held(held) => ready!(held.as_mut().poll(cx))?,
            StateProjection::Answered(answer) => {
                answer.take().expect("polled after it was ready")?.map(filter::ResponseBody::own)
            }
        };
        let in_flight = this.in_flight.take();
        Poll::Ready(Ok(response.map(|inner| ResponseBody { inner, _in_flight: in_flight })))
    }
}

/// The body of a response; its call is in flight until it is dropped.
#[pin_project]
pub(super) struct ResponseBody<R> {
    #[pin]
    inner: filter::ResponseBody<R>,
    _in_flight: Option<InFlight>,
}

impl<R: Body<Data = Bytes>> Body for ResponseBody<R> {
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

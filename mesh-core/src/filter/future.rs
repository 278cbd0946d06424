use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use pin_project::pin_project;
use tokio::time::Sleep;
use tower_service::Service;

use super::ResponseBody;
use super::exchange::{Exchange, Next, Pause};
use crate::call::{Call, Stage};

/// The future of [`Filter`](super::Filter).
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    #[pin]
    state: State<S, B>,
}

#[pin_project(project = StateProjection)]
enum State<S, B>
where
    S: Service<Request<B>>,
{
    Forwarded(#[pin] S::Future, Option<Exchange>),
    /// Boxed: only calls that are held back pay for it.
    Paused(Pin<Box<Paused<S, B>>>),
    Answered(Option<Response<Bytes>>),
}

/// A call that a filter holds back.
#[pin_project]
struct Paused<S, B> {
    #[pin]
    sleep: Sleep,
    held: Option<Held<S, B>>,
}

struct Held<S, B> {
    exchange: Exchange,
    pause: Pause,
    /// Ready for the call.
    service: S,
    head: Parts,
    body: B,
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    pub(super) fn forward(call: S::Future, exchange: Option<Exchange>) -> Self {
        Self { state: State::Forwarded(call, exchange) }
    }

    pub(super) fn answer(response: Response<Bytes>) -> Self {
        Self { state: State::Answered(Some(response)) }
    }

    pub(super) fn pause(exchange: Exchange, pause: Pause, service: S, head: Parts, body: B) -> Self {
        Self { state: State::pause(Held { exchange, pause, service, head, body }) }
    }
}

impl<S, B> State<S, B>
where
    S: Service<Request<B>>,
{
    fn pause(held: Held<S, B>) -> Self {
        let sleep = tokio::time::sleep(held.pause.delay);
        Self::Paused(Box::pin(Paused { sleep, held: Some(held) }))
    }

    fn resume(held: Held<S, B>) -> Self {
        let Held { mut exchange, pause, mut service, mut head, body } = held;
        match exchange.resume(pause, &mut head) {
            Next::Forward => {
                went_on(&mut head);
                Self::Forwarded(service.call(Request::from_parts(head, body)), Some(exchange))
            }
            Next::Answer(response) => Self::Answered(Some(exchange.changed(response))),
            Next::Pause(pause) => Self::pause(Held { exchange, pause, service, head, body }),
        }
    }
}

/// The deadline that the peer is told is nearer than before the pause.
fn went_on(head: &mut Parts) {
    let Some(call) = head.extensions.get::<Call>() else { return };
    if let Some(progress) = &call.progress {
        progress.set(Stage::Waiting);
    }
    if let Some((encode, remaining)) = call.tell_deadline.zip(call.remaining()) {
        let (name, mut value) = encode(remaining);
        value.set_sensitive(true);
        head.headers.insert(name, value);
    }
}

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Output = Result<Response<ResponseBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut me = self.project();
        loop {
            let next = match me.state.as_mut().project() {
                StateProjection::Forwarded(call, exchange) => {
                    let mut response = ready!(call.poll(cx))?;
                    if let Some(exchange) = exchange.take() {
                        response = exchange.changed(response);
                    }
                    return Poll::Ready(Ok(response.map(ResponseBody::passed)));
                }
                StateProjection::Paused(paused) => {
                    let mut paused = paused.as_mut().project();
                    ready!(paused.sleep.as_mut().poll(cx));
                    State::resume(paused.held.take().expect("taken once, when the pause is over"))
                }
                StateProjection::Answered(response) => {
                    let response = response.take().expect("not polled after it was ready");
                    return Poll::Ready(Ok(response.map(ResponseBody::own)));
                }
            };
            me.state.set(next);
        }
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

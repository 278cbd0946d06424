use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use pin_project::pin_project;
use tokio::time::Sleep;
use tower_service::Service;

use super::ResponseBody;
use super::check::Check;
use super::exchange::{Exchange, Next, Pause};
use crate::call::{Call, Stage};
use crate::resource::ext_authz::Verdict;

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
    Held(Pin<Box<HeldCall<S, B>>>),
    Answered(Option<Response<Bytes>>),
}

/// A call that a filter holds back.
#[pin_project]
struct HeldCall<S, B> {
    #[pin]
    wait: Wait,
    held: Option<Held<S, B>>,
}

/// What it waits for.
#[pin_project(project = WaitProjection)]
enum Wait {
    Pause(#[pin] Sleep),
    Check(Pin<Box<dyn Future<Output = Option<Verdict>> + Send>>),
}

/// Why it is held.
pub(super) enum Hold {
    Pause(Pause),
    Check(Arc<Check>),
}

impl From<Pause> for Hold {
    fn from(pause: Pause) -> Self {
        Self::Pause(pause)
    }
}

impl From<Check> for Hold {
    fn from(check: Check) -> Self {
        Self::Check(Arc::new(check))
    }
}

struct Held<S, B> {
    exchange: Exchange,
    hold: Hold,
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

    pub(super) fn hold(exchange: Exchange, hold: Hold, service: S, head: Parts, body: B) -> Self {
        Self { state: State::hold(Held { exchange, hold, service, head, body }) }
    }
}

impl<S, B> State<S, B>
where
    S: Service<Request<B>>,
{
    fn hold(held: Held<S, B>) -> Self {
        let wait = match &held.hold {
            Hold::Pause(pause) => Wait::Pause(tokio::time::sleep(pause.delay)),
            Hold::Check(check) => {
                let check = check.clone();
                Wait::Check(Box::pin(async move { check.verdict(None).await }))
            }
        };
        Self::Held(Box::pin(HeldCall { wait, held: Some(held) }))
    }

    fn resume(held: Held<S, B>, verdict: Option<Verdict>) -> Self {
        let Held { mut exchange, hold, mut service, mut head, body } = held;
        let next = match (hold, verdict) {
            (Hold::Pause(pause), _) => exchange.resume(pause, &mut head),
            (Hold::Check(check), Some(verdict)) => exchange.resume_checked(&check, verdict, &mut head),
            // Its deadline is over, which the layer above tells it.
            (Hold::Check(_), None) => Next::Answer(exchange.expired()),
        };
        match next {
            Next::Forward => {
                went_on(&mut head);
                Self::Forwarded(service.call(Request::from_parts(head, body)), Some(exchange))
            }
            Next::Answer(response) => Self::Answered(Some(exchange.changed(response))),
            Next::Pause(pause) => Self::hold(Held { exchange, hold: pause.into(), service, head, body }),
            Next::Check(check) => Self::hold(Held { exchange, hold: check.into(), service, head, body }),
        }
    }
}

/// The deadline that the peer is told is nearer than before the pause.
fn went_on(head: &mut Parts) {
    let Some(call) = head.extensions.get::<Call>() else { return };
    if let Some(progress) = call.progress() {
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
                    if let Some(mut exchange) = exchange.take() {
                        response = exchange.served(response);
                    }
                    return Poll::Ready(Ok(response.map(ResponseBody::passed)));
                }
                StateProjection::Held(call) => {
                    let call = call.as_mut().project();
                    let verdict = match call.wait.project() {
                        WaitProjection::Pause(sleep) => {
                            ready!(sleep.poll(cx));
                            None
                        }
                        WaitProjection::Check(check) => ready!(check.as_mut().poll(cx)),
                    };
                    State::resume(call.held.take().expect("taken once, when it is not held any more"), verdict)
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

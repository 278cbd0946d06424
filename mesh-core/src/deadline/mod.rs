//! The deadline of a call that is served: it holds for the handler and for every call that the handler makes.
//!
//! ```text
//! inbound call ─▸ its deadline, from the protocol's header ─▸ the handler, in a Context
//!                    │                                           └ calls through the mesh: min(their own, what is left),
//!                    │                                             cancelled when the handler is
//!                    └ passes: the handler is dropped, the answer says so
//! answer ◂─ failed, and a nested call was out of retry budget? the caller is told not to try again
//! ```
//!
//! The second is what keeps retries from multiplying over tiers: each tier's budget allows a fifth more calls, which is
//! twice the load after four. Only the lowest tier retries when a failing one forbids it to all above.
//!
//! The layer goes around any `http` service of a server. Outbound calls need nothing: [`Call`](crate::Call) looks for the
//! [`Context`] itself.

mod body;
mod future;
mod layer;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::Duration;

pub use body::ResponseBody;
pub use future::ResponseFuture;
use http::{HeaderMap, HeaderName, Request, Response};
pub use layer::DeadlineLayer;
use tokio::time::{Instant, Sleep};
use tower_service::Service;

use crate::call::AnswerProtocol;
use crate::context::Context;
use crate::criticality::Criticality;
use crate::error::Error;

/// What a server must know of the protocol that its callers speak. An adapter has one.
pub trait InboundProtocol: AnswerProtocol {
    /// The time that the caller gives the call.
    fn timeout(&self, headers: &HeaderMap) -> Option<Duration>;

    /// A response without a body (trailers-only in gRPC), for a call whose deadline has passed.
    fn expired(&self) -> Response<()>;

    /// The trailers of a response whose deadline passes while its body is sent.
    fn expired_trailers(&self) -> HeaderMap;

    /// A response without a body (trailers-only in gRPC), for a call that is not served for this reason.
    fn refused(&self, error: &Error) -> Response<()>;

    /// Tells the caller not to try again, if these are the last headers of an answer and they say that the call failed.
    fn forbid_retry(&self, headers: &mut HeaderMap);
}

/// Serves each call in a [`Context`] with its deadline, and ends it there.
#[derive(Clone, Debug)]
pub struct Deadline<S> {
    inner: S,
    limit: Option<Duration>,
    protocol: Option<&'static dyn InboundProtocol>,
    /// The header that says how important a call is.
    criticality: HeaderName,
}

impl<S, B, R> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let criticality = self.criticality(request.headers());
        let serving = Serving::start(self.deadline(request.headers()), criticality, self.protocol);
        if serving.has_expired() {
            return ResponseFuture::expired(serving);
        }
        let handler = serving.context.enter(|| self.inner.call(request));
        ResponseFuture::serving(handler, serving)
    }
}

impl<S> Deadline<S> {
    fn criticality(&self, headers: &HeaderMap) -> Option<(HeaderName, Criticality)> {
        let criticality = Criticality::of(headers, &self.criticality)?;
        Some((self.criticality.clone(), criticality))
    }

    /// The least of what the caller gives, the server allows, and a call in whose context this server runs has left.
    fn deadline(&self, headers: &HeaderMap) -> Option<Instant> {
        let told = self.protocol.and_then(|protocol| protocol.timeout(headers));
        let allowed = told.into_iter().chain(self.limit).min();
        let deadline = allowed.and_then(|allowed| Instant::now().checked_add(allowed));
        deadline.into_iter().chain(Context::current().deadline()).min()
    }
}

/// A call that is being served.
struct Serving {
    context: Context,
    protocol: Option<&'static dyn InboundProtocol>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Serving {
    fn start(
        deadline: Option<Instant>,
        criticality: Option<(HeaderName, Criticality)>,
        protocol: Option<&'static dyn InboundProtocol>,
    ) -> Self {
        let timer = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
        Self { context: Context::serving_as(deadline, criticality), protocol, timer }
    }

    fn has_expired(&self) -> bool {
        self.context.deadline().is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Ready when the deadline passes.
    fn poll_expired(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// The answer to a call that is out of time.
    fn expired<R>(&self) -> Response<ResponseBody<R>> {
        let mut response = match self.protocol {
            Some(protocol) => protocol.expired(),
            None => {
                let mut response = Response::new(());
                *response.status_mut() = http::StatusCode::GATEWAY_TIMEOUT;
                response
            }
        };
        self.see_off(response.headers_mut());
        response.map(|()| ResponseBody::empty())
    }

    /// The last look at headers that may be an answer's last.
    fn see_off(&self, headers: &mut HeaderMap) {
        if let Some(protocol) = self.protocol
            && self.context.forbids_retry()
        {
            protocol.forbid_retry(headers);
        }
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").field("context", &self.context).finish_non_exhaustive()
    }
}

//! The HTTP filters of the listener, as the call's route and cluster override them (A39).
//!
//! ```text
//! call ─ any filter in force here? ─ no ─▸ the inner service, and nothing else
//!          └ yes: each filter in its order ─┬─ goes on, with the head as the filter changed it
//!                                           ├─ pause or check, then goes on or answers
//!                                           └─ answers itself: nothing is sent
//! ```
//!
//! Which filters are in force is resolved when the route table is built; a call looks it up. What filters count outlives
//! updates of their configuration. A call is filtered once, whatever its attempts; what a filter answers is not retried.
//!
//! | filter | what it does |
//! |---|---|
//! | [`ConcurrencyLimit`] | refuses calls beyond so many at a time, the less important ones first (Envoy's `adaptive_concurrency`) |
//! | `composite` | is replaced by the filters that it chooses for the call (A103) |
//! | `ext_authz` | asks another service whether the call may be made (A92) |
//! | [`Fault`] | delays and aborts calls (A33) |
//! | [`HeaderMutation`] | changes headers of requests and responses (Envoy) |
//! | [`LocalRateLimit`] | refuses calls beyond a rate (Envoy) |
//! | `stateful_session` | sends the calls of a session to its endpoint, and tells it in a cookie (A55, A60) or a header (Envoy) |
//! | the route itself, last | changes headers, path and authority, redirects, answers directly (Envoy) |
//!
//! A server passes its calls through the filters of its listener by itself (`server/passage.rs`).
//!
//! A new filter is a configuration in `resource/filter/` with its decoder, and a case in `exchange.rs`.
//!
//! Without a [`Call`] that a route was chosen for, [`FilterLayer`] does nothing; [`FaultLayer`],
//! [`HeaderMutationLayer`], [`LocalRateLimitLayer`] and [`ConcurrencyLimitLayer`] have a configuration of their own and work around any service.

mod body;
mod check;
mod exchange;
mod fault;
mod future;
mod in_force;
mod layer;
mod session;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::task::{Context, Poll};

pub use body::ResponseBody;
pub use future::ResponseFuture;
use http::{Request, Response};
pub(crate) use in_force::in_force;
pub use layer::{ConcurrencyLimitLayer, FaultLayer, FilterLayer, HeaderMutationLayer, LocalRateLimitLayer};
use tower_service::Service;

#[cfg(feature = "server")]
pub(crate) use self::check::Check;
use self::exchange::Next;
#[cfg(feature = "server")]
pub(crate) use self::exchange::Step;
pub(crate) use self::exchange::{Exchange, Running};
#[cfg(feature = "server")]
pub(crate) use self::fault::ActiveFault;
pub use crate::call::AnswerProtocol;
use crate::call::Call;
pub use crate::resource::answer::{Answer, AnswerStatus};
pub use crate::resource::filter::concurrency::{ConcurrencyLimit, ConcurrencyStatus, GradientController};
pub use crate::resource::filter::fault::Fault;
pub use crate::resource::filter::header_mutation::HeaderMutation;
pub use crate::resource::filter::rate_limit::LocalRateLimit;
use crate::snapshot::Chain;

/// Passes each call through the filters that are in force for it.
#[derive(Clone, Debug)]
pub struct Filter<S> {
    inner: S,
    /// The same filters for all calls, of a layer that works alone.
    fixed: Option<Arc<Chain>>,
    running: Arc<Running>,
    protocol: Option<&'static dyn AnswerProtocol>,
}

impl<S, B, R> Service<Request<B>> for Filter<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(chain) = self.fixed.as_ref().or_else(|| chain_of(&request)) else {
            return ResponseFuture::forward(self.inner.call(request), None);
        };
        let mut exchange = Exchange::new(chain.clone(), self.running.clone(), self.protocol, request.extensions());
        let (mut head, body) = request.into_parts();
        match exchange.request(&mut head, 0) {
            Next::Forward => ResponseFuture::forward(self.inner.call(Request::from_parts(head, body)), Some(exchange)),
            Next::Answer(answer) => ResponseFuture::answer(exchange.changed(answer)),
            Next::Pause(pause) => ResponseFuture::hold(exchange, pause.into(), self.ready(), head, body),
            Next::Check(check) => ResponseFuture::hold(exchange, check.into(), self.ready(), head, body),
        }
    }
}

impl<S> Filter<S> {
    /// With these filters for all calls, whatever those are configured to.
    #[cfg(feature = "server")]
    pub(crate) fn alone(inner: S, chain: Arc<Chain>, protocol: Option<&'static dyn AnswerProtocol>) -> Self {
        Self { inner, fixed: Some(chain), running: Arc::default(), protocol }
    }
}

impl<S: Clone> Filter<S> {
    /// What is ready now, to make the call when it is not held back any more.
    fn ready(&mut self) -> S {
        let clone = self.inner.clone();
        std::mem::replace(&mut self.inner, clone)
    }
}

/// The filters of the call's route and cluster, if there are any.
fn chain_of<B>(request: &Request<B>) -> Option<&Arc<Chain>> {
    let call = request.extensions().get::<Call>()?;
    let table = call.snapshot.as_ref()?.routing.as_ref().ok()?;
    table.chain(call.route?, call.choice)
}

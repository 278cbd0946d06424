//! Attempts: a call that failed is made again as its route's retry policy says (A6, A44).
//!
//! ```text
//! call ─ policy of its route? ─ no ─▸ the inner service, and nothing else
//!          └ yes: attempt ─ head of a response, or an error
//!                    ▲        ├ final: not what the policy names, the last attempt, request beyond 64 KiB,
//!                    │        │        pushback says stop, no time left, budget used up
//!                    └ delay ─┘ else: backoff, or what the server's pushback says
//! ```
//!
//! A response is final with its head, unless all of it is a head that failed; from there on, and in the last attempt, the
//! request is not held any more. Every attempt goes to the call's cluster, and to another endpoint than those that failed
//! while there is one. All of them share the call's deadline. A request that an endpoint did not process is sent elsewhere
//! by [`Balance`](crate::balance::Balance), which does not count as an attempt. With
//! [hedging](crate::RetryPolicy::hedge) the attempts run beside each other: `hedge.rs`.
//!
//! A call that a server may have acted on is made again only if that does no harm: by the protocol, in plain HTTP by its
//! method, or by the application's word ([`CallOptions::idempotent`](crate::CallOptions::idempotent)).
//!
//! Retries are held to a budget per cluster, so that they cannot multiply the load of a cluster that fails: see
//! [`RetryLayer::budget`]. A call made while another is [served](crate::context) forbids the retry of that one when it is
//! out of budget itself, or when its server forbids another attempt. Without a policy, of the call's route or of the
//! [layer](RetryLayer::policy), the layer does nothing.

mod attempts;
mod body;
mod budget;
mod following;
mod future;
mod hedge;
mod in_force;
mod kept;
mod layer;
mod observer;
mod outcome;
mod plan;
#[cfg(test)]
mod tests;
mod throttle;
mod under_way;

use std::sync::Arc;
use std::task::{Context, Poll};

pub use body::RequestBody;
pub(crate) use budget::Budgets;
pub use future::ResponseFuture;
use http::{Request, Response};
pub use layer::RetryLayer;
use tower_service::Service;

use self::attempts::Attempts;
use self::following::Verdict;
use self::hedge::Hedged;
use self::observer::Observer;
use self::plan::{Plan, Terms};
use crate::call::{self, Call};
pub use crate::call::{Pushback, RetryCode, RetryProtocol};
use crate::error::Error;
use crate::resource::matcher::RequestHead;
use crate::resource::retry_policy::RetryPolicy;

/// Makes a call again when an attempt failed in a way that its route's policy names.
#[derive(Clone, Debug)]
pub struct Retry<S> {
    inner: S,
    terms: Terms,
    policy: Option<Arc<RetryPolicy>>,
}

impl<S, B, R> Service<Request<B>> for Retry<S>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>, Error = Error> + Clone,
    B: Send + 'static,
{
    type Response = Response<R>;
    type Error = Error;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call = request.extensions().get::<Call>();
        let Some(policy) = self.policy(&request, call) else {
            let observer = Observer::new(call, self.terms.protocol);
            return ResponseFuture::once(self.inner.call(request.map(RequestBody::once)), observer);
        };
        // What is ready now makes the first attempt.
        let clone = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, clone);
        let is_repeatable = self.is_repeatable(&request);
        let hedge = policy.hedge.filter(|_| is_repeatable && policy.max_attempts > 1);
        let verdict = Verdict { policy, protocol: self.terms.protocol, is_repeatable };
        let (plan, first) = Plan::new(request, verdict, &self.terms, hedge.is_some());
        match hedge {
            Some(hedge) => ResponseFuture::hedging(Hedged::start(ready, plan, hedge, first)),
            None => ResponseFuture::retrying(Attempts::start(ready, plan, first)),
        }
    }
}

impl<S> Retry<S> {
    /// The policy of the call's route, else the layer's, unless the application wants none.
    fn policy<B>(&self, request: &Request<B>, call: Option<&Call>) -> Option<Arc<RetryPolicy>> {
        let policy = call.and_then(of_route).or(self.policy.as_ref())?;
        let takes = policy.request_headers.is_empty() || policy.takes(&head(request));
        (takes && call::may_retry(request.extensions())).then(|| policy.clone())
    }

    /// Whether a server may act on the request twice.
    fn is_repeatable<B>(&self, request: &Request<B>) -> bool {
        let method = request.method();
        self.terms.protocol.map_or(method.is_idempotent(), |protocol| protocol.is_repeatable(method))
            || call::is_idempotent(request.extensions())
    }
}

fn of_route(call: &Call) -> Option<&Arc<RetryPolicy>> {
    call.snapshot.as_ref()?.routing.as_ref().ok()?.retry(call.route?)
}

fn head<B>(request: &Request<B>) -> RequestHead<'_> {
    let (uri, headers) = (request.uri(), request.headers());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    RequestHead { path, method: request.method(), authority, headers }
}

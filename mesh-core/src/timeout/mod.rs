//! The deadline of a call: the least of the application's and the route's (A31).
//!
//! It holds from the first attempt to the last byte of the response, is told to the peer in a header, and is enforced
//! here: a response that goes on ends at its deadline even if nobody reads it, so that neither its stream nor its place at the
//! endpoint outlives the call. A call of which nothing moves ends before, where its route says so: Envoy's `idle_timeout`, in
//! [`Profile::Envoy`], and `per_try_idle_timeout` from the response's head on. Without a [`Call`] in the request's extensions there is none but that of the call that is being
//! [served](crate::context); without that one the layer does nothing.

mod ahead;
mod body;
mod future;
mod held;
mod idle;
mod in_force;
mod layer;
#[cfg(test)]
mod tests;
mod timer;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

pub use body::ResponseBody;
use bytes::Bytes;
pub use future::ResponseFuture;
use http::{Request, Response};
use http_body::Body;
pub use idle::RequestBody;
use idle::{Idle, never};
pub(crate) use in_force::in_force;
pub use layer::TimeoutLayer;
use timer::{Terms, Timer};
use tokio::time::Instant;
use tower_service::Service;

pub use crate::call::EncodeDeadline;
use crate::call::{self, Call, Classify, Progress};
use crate::error::Error;
use crate::profile::Profile;

/// Gives each call its deadline and ends it there.
#[derive(Clone, Debug)]
pub struct Timeout<S> {
    inner: S,
    settings: Settings,
}

#[derive(Clone, Copy, Debug, Default)]
struct Settings {
    encode: Option<EncodeDeadline>,
    profile: Profile,
    protocol: Option<&'static dyn Classify>,
}

impl<S> Timeout<S> {
    /// Ends the calls to `inner` at their deadlines, which are not told to the peer.
    pub fn new(inner: S) -> Self {
        Self { inner, settings: Settings::default() }
    }
}

impl<S, B, R> Service<Request<B>> for Timeout<S>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>, Error = Error>,
    R: Body<Data = Bytes, Error: Into<Error>> + Send + Unpin + 'static,
{
    type Response = Response<ResponseBody<R>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let timer = start(&mut request, self.settings);
        match timer {
            // There is not even the time to send it.
            Some(timer) if timer.terms().has_expired() => ResponseFuture::expired(timer),
            timer => {
                let activity = timer.as_ref().and_then(Timer::activity);
                ResponseFuture::new(self.inner.call(request.map(|body| RequestBody::new(body, activity))), timer)
            }
        }
    }
}

fn start<B>(request: &mut Request<B>, settings: Settings) -> Option<Timer> {
    let Settings { encode, profile, protocol } = settings;
    let call = call::of(request.extensions_mut());
    let (remaining, mut idle) = (limit(call, profile), idle(call, profile));
    let deadline = remaining.and_then(|remaining| Instant::now().checked_add(remaining));
    if deadline.is_none() && idle.is_none() {
        return None;
    }
    let progress = Arc::new(Progress::default());
    call.follower = Some(progress.clone());
    let (cluster, route) = (call.cluster.clone(), call.route_name());
    let Some((remaining, deadline)) = remaining.zip(deadline) else {
        let (deadline, limit) = (never(Instant::now()), Duration::ZERO);
        idle = idle.filter(|idle| idle.is_for(request.extensions()));
        return Some(Timer::new(Terms { deadline, limit, inherited: false, idle, progress, cluster, route, protocol }));
    };
    let is_applications = call.deadline.is_some_and(|application| application <= deadline);
    let inherited = is_applications && call.inherited;
    let limit = call.timeout.filter(|_| is_applications && !inherited).unwrap_or(remaining);
    call.deadline = Some(deadline);
    call.tell_deadline = encode;
    if let Some(encode) = encode {
        // The peer may know of up to 1 ms more than the application gave the call: then calls of equal deadlines have equal
        // headers, which HTTP/2 sends as one byte. What is left of another call's deadline differs each time, and an
        // entry in the peer's header table would only push out others.
        let (name, mut value) = encode(if inherited { remaining } else { round_up(remaining) });
        value.set_sensitive(inherited);
        request.headers_mut().insert(name, value);
    }
    idle = idle.filter(|idle| idle.is_for(request.extensions()));
    Some(Timer::new(Terms { deadline, limit, inherited, idle, progress, cluster, route, protocol }))
}

/// To whole milliseconds.
fn round_up(remaining: Duration) -> Duration {
    let below = Duration::from_nanos((remaining.subsec_nanos() % 1_000_000).into());
    if below.is_zero() { remaining } else { remaining.saturating_add(Duration::from_millis(1) - below) }
}

/// The least of what the application and the route allow, from now.
fn limit(call: &Call, profile: Profile) -> Option<Duration> {
    let application = call.remaining();
    let (Some(snapshot), Some(route)) = (&call.snapshot, call.route) else { return application };
    match &snapshot.routing {
        Ok(table) => table.deadline(route, application, profile),
        Err(_) => application,
    }
}

/// How long nothing of the call may move, as its route says.
fn idle(call: &Call, profile: Profile) -> Option<Idle> {
    let table = call.snapshot.as_ref()?.routing.as_ref().ok()?;
    let route = call.route?;
    let of_attempt = table.retry(route).and_then(|policy| policy.per_try_idle_timeout);
    Idle::new(table.idle(route, profile), of_attempt)
}

//! The deadline of a call: the least of the application's and the route's (A31).
//!
//! It holds from the first attempt to the last byte of the response, is told to the peer in a header, and is enforced
//! here. Without a [`Call`] in the request's extensions there is none but that of the call that is being
//! [served](crate::context); without that one the layer does nothing.

mod body;
mod future;
mod in_force;
mod layer;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

pub use body::ResponseBody;
pub use future::ResponseFuture;
use http::{Request, Response};
pub(crate) use in_force::in_force;
pub use layer::TimeoutLayer;
use pin_project::pin_project;
use tokio::time::{Instant, Sleep};
use tower_service::Service;

pub use crate::call::EncodeDeadline;
use crate::call::{self, Call, Progress, Stage};
use crate::error::{Error, ErrorKind};
use crate::profile::Profile;
use crate::resource::endpoints::Address;
use crate::snapshot::ClusterEntry;

/// With this HTTP/2 error code a peer resets a stream that it has given up.
const CANCEL: u32 = 0x8;
/// A peer's clock may be that much ahead of the timers here.
const ROUNDING: Duration = Duration::from_millis(1);

const WAITED: &str = "see why the cluster had no endpoint for the call, or give the call more time";
const SLOW: &str = "see why the endpoint took so long, or give the call more time";

/// Gives each call its deadline and ends it there.
#[derive(Clone, Debug)]
pub struct Timeout<S> {
    inner: S,
    encode: Option<EncodeDeadline>,
    profile: Profile,
}

impl<S> Timeout<S> {
    /// Ends the calls to `inner` at their deadlines, which are not told to the peer.
    pub fn new(inner: S) -> Self {
        Self { inner, encode: None, profile: Profile::default() }
    }
}

impl<S, B, R> Service<Request<B>> for Timeout<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Error>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let timer = start(&mut request, self.encode, self.profile);
        match timer {
            // There is not even the time to send it.
            Some(timer) if timer.has_expired() => ResponseFuture::expired(timer),
            timer => ResponseFuture::new(self.inner.call(request), timer),
        }
    }
}

/// The running deadline of one call. One reference: a call without a deadline moves the room for it, too.
#[derive(Debug)]
pub(crate) struct Timer(Pin<Box<Running>>);

#[pin_project]
#[derive(Debug)]
struct Running {
    #[pin]
    sleep: Sleep,
    limit: Duration,
    /// It is that of the call that is being served.
    inherited: bool,
    progress: Arc<Progress>,
    cluster: Option<Arc<ClusterEntry>>,
    route: Option<Arc<str>>,
}

fn start<B>(request: &mut Request<B>, encode: Option<EncodeDeadline>, profile: Profile) -> Option<Timer> {
    let call = call::of(request.extensions_mut());
    let remaining = limit(call, profile)?;
    let deadline = Instant::now().checked_add(remaining)?;
    let is_applications = call.deadline.is_some_and(|application| application <= deadline);
    let inherited = is_applications && call.inherited;
    let limit = call.timeout.filter(|_| is_applications && !inherited).unwrap_or(remaining);
    let progress = Arc::new(Progress::default());
    call.deadline = Some(deadline);
    call.progress = Some(progress.clone());
    call.tell_deadline = encode;
    let (cluster, route) = (call.cluster.clone(), call.route_name());
    if let Some(encode) = encode {
        // The peer may know of up to 1 ms more than the application gave the call: then calls of equal deadlines have equal
        // headers, which HTTP/2 sends as one byte. What is left of another call's deadline differs each time, and an
        // entry in the peer's header table would only push out others.
        let (name, mut value) = encode(if inherited { remaining } else { round_up(remaining) });
        value.set_sensitive(inherited);
        request.headers_mut().insert(name, value);
    }
    let sleep = tokio::time::sleep_until(deadline);
    Some(Timer(Box::pin(Running { sleep, limit, inherited, progress, cluster, route })))
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

impl Timer {
    /// Ready with the error of the call once its deadline has passed.
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        ready!(self.0.as_mut().project().sleep.poll(cx));
        Poll::Ready(self.error())
    }

    /// What the call failed of. The peer knows the deadline too, and can end the call before the timer here fires:
    /// that is the deadline's doing and not a cancellation.
    fn reason(&self, error: Error) -> Error {
        let passed = Instant::now() + ROUNDING >= self.0.sleep.deadline();
        if passed && error.reset_code() == Some(CANCEL) { self.error() } else { error }
    }

    fn has_expired(&self) -> bool {
        self.0.sleep.deadline() <= Instant::now()
    }

    fn error(&self) -> Error {
        let mut error = self.exceeded();
        let context = error.context_mut();
        context.cluster = self.0.cluster.as_ref().map(|cluster| cluster.key.name.clone());
        context.route = self.0.route.clone();
        error
    }

    fn exceeded(&self) -> Error {
        let limit = self.0.limit;
        let exceeded = |so_far: &str| {
            let message = match self.0.inherited {
                true => format!("what was left of the inbound call's deadline, {limit:?}, exceeded {so_far}"),
                false => format!("deadline of {limit:?} exceeded {so_far}"),
            };
            Error::new(ErrorKind::Deadline, message)
        };
        match self.0.progress.stage() {
            Stage::Waiting => exceeded("before an endpoint could take the call").with_next_step(WAITED),
            Stage::Delayed => exceeded("while a fault of the configuration delayed the call"),
            Stage::Sent(endpoint) => at(exceeded("while waiting for the response"), &endpoint),
            Stage::Responding(endpoint) => at(exceeded("while reading the response"), &endpoint),
        }
    }
}

fn at(mut error: Error, endpoint: &Address) -> Error {
    error.context_mut().endpoint = Some(endpoint.to_string());
    error.with_next_step(SLOW).sent()
}

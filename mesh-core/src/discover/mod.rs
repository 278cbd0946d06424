//! Discovery: from a target to the snapshot of each call.
//!
//! ```text
//! target ──▸ uri.rs ──▸ xds.rs      control plane: dependencies joined, published whole
//!                   ├─▸ dns/        a name, resolved again at its records' TTL; and the names in clusters
//!                   └─▸ fixed addresses or a snapshot made in code
//!                            │ publish
//! call ──▸ Discover ──▸ Target: one atomic load; waits only for the first snapshot
//! ```

mod body;
mod connectivity;
mod current;
#[cfg(feature = "dns")]
mod dns;
mod fixed;
mod future;
mod layer;
mod target;
mod uri;
mod xds;

use std::task::{Context, Poll};

pub use body::ResponseBody;
pub use future::ResponseFuture;
use http::{HeaderMap, HeaderName, Request, Response};
pub use layer::DiscoverLayer;
pub use target::Target;
use tower_service::Service;

#[cfg(feature = "dns")]
pub(crate) use dns::{DnsTarget, Names, follow as follow_dns};
pub(crate) use fixed::follow as follow_fixed;
pub(crate) use target::{ControlPlaneFacts, Facts, Source, WeakTarget};
pub(crate) use uri::{Scheme, TargetUri};
pub(crate) use xds::{Subscriptions, follow as follow_xds};

use self::target::is_outside_runtimes;
use crate::call;
use crate::criticality::Criticality;
use crate::error::Error;

/// Gives each call the snapshot of its target.
///
/// A call that comes before the first snapshot waits for it: until its deadline, or the mesh's `max_wait` without
/// one. Afterwards a call never waits for the control plane. A call that is polled outside a tokio runtime has the timers
/// of the mesh's.
#[derive(Clone, Debug)]
pub struct Discover<S> {
    inner: S,
    target: Target,
    /// Random; clones share it (A42).
    channel: u64,
}

impl<S> Discover<S> {
    /// Calls `inner` with the configuration of `target`.
    pub fn new(inner: S, target: Target) -> Self {
        Self { inner, target, channel: fastrand::u64(..) }
    }
}

impl<S, B, R> Service<Request<B>> for Discover<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Error> + Clone,
{
    type Response = Response<ResponseBody<R>>;
    type Error = Error;
    type Future = ResponseFuture<S, Request<B>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let _entered = is_outside_runtimes().then(|| self.target.enter());
        self.target.address(&mut request);
        let snapshot = self.target.snapshot();
        let is_routed = snapshot.as_ref().is_some_and(|snapshot| snapshot.routing.is_ok());
        let wait_for_ready = !is_routed && call::waits_for_ready(request.extensions());
        let call = call::of(request.extensions_mut());
        call.channel = self.channel;
        self.target.expect_peers(call);
        let criticality = call.context.said_criticality();
        match snapshot {
            Some(snapshot) if !wait_for_ready => {
                call.snapshot = Some(snapshot);
                tell_criticality(request.headers_mut(), criticality);
                ResponseFuture::calling(self.inner.call(request), self.target.clone())
            }
            _ => {
                let wait = self.target.wait_for_snapshot(call.starts_to_wait(), call.deadline, wait_for_ready);
                tell_criticality(request.headers_mut(), criticality);
                // The service that was polled ready is the one to call later.
                let next = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, next);
                ResponseFuture::waiting(Box::pin(wait), ready, request, self.target.clone())
            }
        }
    }
}

/// Makes a call as important as the one that it helps to serve, unless the application says how important it is.
fn tell_criticality(headers: &mut HeaderMap, served: Option<(HeaderName, Criticality)>) {
    if let Some((name, criticality)) = served {
        headers.entry(name).or_insert_with(|| criticality.into());
    }
}

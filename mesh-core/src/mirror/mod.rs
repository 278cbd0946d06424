//! Copies of calls, sent to another cluster too (`request_mirror_policies`, as in Envoy).
//!
//! ```text
//! call ─ does its route mirror it? ─ no ─▸ the inner service, and nothing else
//!          └ yes: the inner service, whose request's body is read once ─▸ the call's own response
//!                   └ what is read, as it is read ─▸ the mirror, in a task of its own ─▸ nobody
//! ```
//!
//! A copy never touches its call: the call waits for nothing, and what becomes of the copy is not told to it. Whatever is
//! short is the copy's loss: beyond so many copies in flight none is begun, and one is given up once so many bytes of its
//! request are held as its mirror takes them more slowly than the call's endpoint does. A mirror that cannot be reached is
//! tried ten times a second and no more. A call is mirrored once, whatever its
//! attempts, with its head as filters and route left it; a copy has no retries, and has ended with its call's deadline at
//! the latest. A call that ends before its request is complete takes its copy with it.
//!
//! Without a [`Call`] that a route was chosen for, or a [`share`](MirrorLayer::share) of the layer's own, nothing is
//! mirrored.

mod body;
mod bounds;
mod copy;
mod in_force;
mod layer;
mod tee;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::task::{Context, Poll};

pub use body::RequestBody;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
pub use layer::MirrorLayer;
use smallvec::SmallVec;
pub use tee::CopyBody;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use self::bounds::Bounds;
pub use self::bounds::MirrorCounts;
pub(crate) use self::in_force::in_force;
use self::tee::Feed;
use crate::call::Call;
use crate::resource::mirror::{MirrorCluster, MirrorPolicy};

/// Sends copies of calls elsewhere.
#[derive(Clone, Debug)]
pub struct Mirror<S, M> {
    inner: S,
    mirror: M,
    bounds: Arc<Bounds>,
    /// For all calls, of a layer that works alone.
    fixed: Option<Arc<[MirrorPolicy]>>,
    tasks: Tasks,
}

/// Where copies are sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    /// `None`: on the runtime that a call is made on.
    runtime: Option<Handle>,
    /// Ends them all.
    ended: CancellationToken,
}

impl Tasks {
    pub(crate) fn new(runtime: Handle, ended: CancellationToken) -> Self {
        Self { runtime: Some(runtime), ended }
    }

    fn runtime(&self) -> Option<Handle> {
        self.runtime.clone().or_else(|| Handle::try_current().ok())
    }
}

impl<S, M, B, R> Service<Request<B>> for Mirror<S, M>
where
    S: Service<Request<RequestBody<B>>>,
    M: Service<Request<CopyBody>, Response = Response<R>, Future: Send> + Clone + Send + 'static,
    M::Error: Send,
    B: Body<Data = Bytes>,
    R: Body + Send + 'static,
    R::Data: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let Some(policies) = self.policies(&request) else {
            return self.inner.call(request.map(RequestBody::passed));
        };
        let taken = policies.iter().filter(|policy| policy.takes(|| fastrand::u32(..1_000_000)));
        let feeds: SmallVec<[Feed; 1]> = taken.filter_map(|policy| self.send(policy, &request)).collect();
        self.inner.call(request.map(|body| RequestBody::copied(body, feeds)))
    }
}

impl<S, M> Mirror<S, M> {
    /// Those of the layer, or else of the call's route, if there are any.
    fn policies<'a, B>(&'a self, request: &'a Request<B>) -> Option<&'a Arc<[MirrorPolicy]>> {
        self.fixed.as_ref().or_else(|| of_route(request)).filter(|policies| !policies.is_empty())
    }

    /// Sends a copy of the head, and returns what its body is to be fed by; `None`: there is no room for it, or nowhere
    /// to send it.
    fn send<B, R>(&self, policy: &MirrorPolicy, request: &Request<B>) -> Option<Feed>
    where
        B: Body,
        M: Service<Request<CopyBody>, Response = Response<R>, Future: Send> + Clone + Send + 'static,
        M::Error: Send,
        R: Body + Send + 'static,
        R::Data: Send,
    {
        if self.bounds.rests(&policy.rests_until) {
            return None;
        }
        let cluster = match self.fixed {
            Some(_) => None,
            None => Some(copy::cluster(policy, request)?),
        };
        let (runtime, permit) = (self.tasks.runtime()?, self.bounds.admit()?);
        let copy = copy::head(policy, request, cluster);
        let deadline = self.bounds.deadline(request.extensions().get::<Call>());
        let (feed, body, watch) = tee::tee(&self.bounds);
        let exchange = copy::exchange(self.mirror.clone(), copy.map(|()| body), deadline);
        let ended = self.tasks.ended.clone();
        // Whether a request without a body was sent cannot be seen, and a header may name another cluster the next time.
        let tells = !request.body().is_end_stream() && matches!(policy.cluster, MirrorCluster::Named(_));
        let (bounds, rests_until) = (self.bounds.clone(), policy.rests_until.clone());
        runtime.spawn(async move {
            let answered = tokio::select! {
                biased;
                answered = exchange => answered,
                () = watch.broken() => true,
                () = ended.cancelled() => true,
            };
            if tells && !answered && !watch.is_read() {
                bounds.rest(&rests_until);
            }
            drop(permit);
        });
        Some(feed)
    }
}

fn of_route<B>(request: &Request<B>) -> Option<&Arc<[MirrorPolicy]>> {
    let call = request.extensions().get::<Call>()?;
    Some(call.snapshot.as_ref()?.routing.as_ref().ok()?.mirrors(call.route?))
}

//! The route of a call: route, then cluster by weight (A28).
//!
//! The configuration selects once per call; every attempt of the call goes to the same cluster (A31). A call needs
//! the snapshot that [`Discover`](crate::discover::Discover) gave it, and fails without one.

mod layer;

use std::task::{Context, Poll};

use http::Request;
pub use layer::RouteLayer;
use tower_service::Service;

use crate::call;
pub use crate::call::ResponseFuture;
use crate::error::{Error, ErrorKind};
use crate::resource::matcher::RequestHead;
use crate::resource::route::RouteAction;
use crate::snapshot::Snapshot;

/// Chooses the route and the cluster of each call.
#[derive(Clone, Debug)]
pub struct Route<S> {
    inner: S,
}

impl<S> Route<S> {
    /// Routes the calls to `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B> Service<Request<B>> for Route<S>
where
    S: Service<Request<B>, Error = Error>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match route(&mut request) {
            Ok(()) => ResponseFuture::calling(self.inner.call(request)),
            Err(error) => ResponseFuture::failed(error),
        }
    }
}

/// Writes route and cluster into the request's `Call`.
fn route<B>(request: &mut Request<B>) -> Result<(), Error> {
    let snapshot = call::of(request.extensions_mut()).snapshot.take().ok_or_else(no_snapshot)?;
    let choice = choose(&snapshot, request);
    let call = call::of(request.extensions_mut());
    if let Ok((route, cluster)) = &choice {
        call.route = Some(*route);
        call.cluster = snapshot.clusters.get(*cluster).cloned();
    }
    call.snapshot = Some(snapshot);
    choice.map(drop)
}

/// The index of the route in the table, and of the cluster in the snapshot.
fn choose<B>(snapshot: &Snapshot, request: &Request<B>) -> Result<(usize, usize), Error> {
    let table = snapshot.routing.as_ref().map_err(|problem| problem.to_error())?;
    let uri = request.uri();
    let head = RequestHead {
        path: uri.path(),
        method: request.method(),
        authority: uri.authority().map_or("", |authority| authority.as_str()),
        headers: request.headers(),
    };
    let route = table.virtual_host.route(&head, || fastrand::u32(..1_000_000)).ok_or_else(|| table.no_route(&head))?;
    match &table.virtual_host.routes[route].action {
        RouteAction::Forward(forward) => {
            let choice = forward.pick_cluster(|| fastrand::u64(..));
            Ok((route, table.cluster_index(route, choice)))
        }
        RouteAction::Unsupported(action) => Err(table.unsupported(route, action)),
    }
}

fn no_snapshot() -> Error {
    Error::new(ErrorKind::Setup, "route a call that has no configuration")
        .with_next_step("put a DiscoverLayer in front of the RouteLayer")
}

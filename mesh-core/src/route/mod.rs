//! The route of a call: route, then cluster by weight (A28), and the hash of the request if the cluster wants one (A42).
//!
//! The configuration selects once per call; every attempt of the call goes to the same cluster (A31). A call needs
//! the snapshot that [`Discover`](crate::discover::Discover) gave it, and fails without one.

mod layer;

use std::task::{Context, Poll};

use http::{HeaderMap, HeaderName, Request};
pub use layer::RouteLayer;
use tower_service::Service;

pub use crate::call::ResponseFuture;
use crate::call::{self, Call};
use crate::error::{Error, ErrorKind};
use crate::resource::hash_policy::{RequestHash, xxh64};
use crate::resource::matcher::RequestHead;
use crate::resource::route::RouteAction;
use crate::snapshot::{ClusterEntry, RouteTable, Snapshot};

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
    let cluster = choice.as_ref().ok().and_then(|choice| snapshot.clusters.get(choice.cluster?));
    if let (Ok(choice), Some(cluster)) = (&choice, cluster)
        && cluster.is_hashing
    {
        hash(&snapshot, choice.route, cluster, request);
    }
    let call = call::of(request.extensions_mut());
    if let Ok(choice) = &choice {
        call.route = Some(choice.route);
        call.choice = choice.choice;
    }
    call.cluster = cluster.cloned();
    call.snapshot = Some(snapshot);
    choice.map(drop)
}

/// Where a call goes.
#[derive(Clone, Copy)]
struct Choice {
    /// Index of the route in the table.
    route: usize,
    /// Index of the cluster among those that the route names.
    choice: usize,
    /// Index of the cluster in the snapshot; `None`: the route answers calls itself.
    cluster: Option<usize>,
}

fn choose<B>(snapshot: &Snapshot, request: &Request<B>) -> Result<Choice, Error> {
    let table = snapshot.routing.as_ref().map_err(|problem| problem.to_error())?;
    let head = head(request);
    let route = table.virtual_host.route(&head, || fastrand::u32(..1_000_000)).ok_or_else(|| table.no_route(&head))?;
    match &table.virtual_host.routes[route].action {
        RouteAction::Forward(forward) => {
            if let Some(header) = forward.cluster_header() {
                let cluster = named_cluster(table, route, header, request.headers())?;
                return Ok(Choice { route, choice: 0, cluster: Some(cluster) });
            }
            let choice = forward.pick_cluster(|| fastrand::u64(..));
            Ok(Choice { route, choice, cluster: Some(table.cluster_index(route, choice)) })
        }
        RouteAction::Answer(_) if cfg!(feature = "filter") => Ok(Choice { route, choice: 0, cluster: None }),
        RouteAction::Answer(answer) => Err(table.unsupported(route, answer.name())),
        RouteAction::Unsupported(action) => Err(table.unsupported(route, action)),
    }
}

fn head<B>(request: &Request<B>) -> RequestHead<'_> {
    let uri = request.uri();
    RequestHead {
        path: uri.path(),
        method: request.method(),
        authority: uri.authority().map_or("", |authority| authority.as_str()),
        headers: request.headers(),
    }
}

/// Writes the hash of the request into its `Call`: of the application's key, of the header that the cluster's policy names
/// (A76), or of what the route says (A42), in this order.
fn hash<B>(snapshot: &Snapshot, route: usize, cluster: &ClusterEntry, request: &mut Request<B>) {
    let (head, channel) = (head(request), request.extensions().get::<Call>().map_or(0, |call| call.channel));
    let header = cluster.hash_header();
    let action = snapshot.routing.as_ref().ok().map(|table| &table.virtual_host.routes[route].action);
    let hash = match (call::hash_key(request.extensions()), header, action) {
        (Some(hash), ..) => RequestHash { hash: Some(hash), set_cookie: None },
        (None, Some(header), _) => {
            RequestHash { hash: header.with_value(&head, |value| value.map(xxh64)), set_cookie: None }
        }
        (None, None, Some(RouteAction::Forward(forward))) => {
            let query = request.uri().query();
            RequestHash::of(forward.hash(), &head, query, channel, || fastrand::u64(..))
        }
        _ => return,
    };
    let call = call::of(request.extensions_mut());
    (call.hash, call.set_cookie) = (hash.hash, hash.set_cookie);
}

/// The place of the cluster that a header of the call names.
fn named_cluster(table: &RouteTable, route: usize, header: &HeaderName, headers: &HeaderMap) -> Result<usize, Error> {
    let name = headers.get(header).and_then(|value| value.to_str().ok());
    let place = name.and_then(|name| table.place_of_called(name));
    place.ok_or_else(|| table.unknown_cluster(route, header.as_str(), name))
}

fn no_snapshot() -> Error {
    Error::new(ErrorKind::Setup, "route a call that has no configuration")
        .with_next_step("put a DiscoverLayer in front of the RouteLayer")
}

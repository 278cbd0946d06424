//! The route of a call: route, then cluster by weight (A28), and the hash of the request if the cluster wants one (A42).
//!
//! The configuration selects once per call; every attempt of the call goes to the same cluster (A31). A call needs
//! the snapshot that [`Discover`](crate::discover::Discover) gave it, and fails without one.

mod future;
mod layer;

use std::sync::Arc;
use std::task::{Context, Poll};

pub use future::ResponseFuture;
use http::{Extensions, HeaderMap, HeaderName, Request};
pub use layer::RouteLayer;
use tower_service::Service;

use self::future::Wait;

use crate::call::{self, Call};
use crate::error::{Error, ErrorKind};
use crate::resource::hash_policy::{RequestHash, xxh64};
use crate::resource::matcher::RequestHead;
use crate::resource::route::RouteAction;
use crate::snapshot::demand::Demand;
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
    S: Service<Request<B>, Error = Error> + Clone,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match route(&mut request) {
            Ok(None) => ResponseFuture::calling(self.inner.call(request)),
            Ok(Some(wait)) => {
                // What is ready now makes the call.
                let next = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, next);
                ResponseFuture::waiting(wait, ready, request)
            }
            Err(error) => ResponseFuture::failed(error),
        }
    }
}

/// Writes route and cluster into the request's `Call`, or says how to wait for the cluster.
fn route<B>(request: &mut Request<B>) -> Result<Option<Wait>, Error> {
    beside(request, |request, extensions| {
        let call = call::of(extensions);
        let snapshot = call.snapshot.take().ok_or_else(no_snapshot)?;
        let choice = choose(&snapshot, request);
        call.snapshot = Some(snapshot);
        let Choice { route, choice, destination } = choice?;
        (call.route, call.choice) = (Some(route), choice);
        match destination {
            Destination::Nowhere => {}
            Destination::Cluster(entry) if entry.is_hashing => send_to(entry, request, extensions),
            Destination::Cluster(entry) => call.cluster = Some(entry),
            Destination::Awaited(demand, name) => {
                let (since, deadline) = (call.starts_to_wait(), call.deadline);
                let wait: Wait = Box::pin(demand.wait(name, since, deadline));
                return Ok(Some(wait));
            }
        }
        Ok(None)
    })
}

/// The extensions beside the request, so that the call is looked up once while the head is read.
fn beside<B, T>(request: &mut Request<B>, read: impl FnOnce(&Request<B>, &mut Extensions) -> T) -> T {
    let mut extensions = std::mem::take(request.extensions_mut());
    let read = read(request, &mut extensions);
    *request.extensions_mut() = extensions;
    read
}

/// The call goes to this cluster.
fn send_to<B>(entry: Arc<ClusterEntry>, request: &Request<B>, extensions: &mut Extensions) {
    let key = call::hash_key(extensions);
    let call = call::of(extensions);
    if entry.is_hashing {
        hash(&entry, key, request, call);
    }
    call.cluster = Some(entry);
}

/// Where a call goes.
struct Choice {
    /// Index of the route in the table.
    route: usize,
    /// Index of the cluster among those that the route names.
    choice: usize,
    destination: Destination,
}

enum Destination {
    /// The route answers calls itself.
    Nowhere,
    Cluster(Arc<ClusterEntry>),
    /// The call names a cluster that the control plane is to be asked for.
    Awaited(Arc<Demand>, Arc<str>),
}

fn choose<B>(snapshot: &Snapshot, request: &Request<B>) -> Result<Choice, Error> {
    let table = snapshot.routing.as_ref().map_err(|problem| problem.to_error())?;
    let head = RequestHead::of(request);
    let route = table.virtual_host.route(&head, || fastrand::u32(..1_000_000)).ok_or_else(|| table.no_route(&head))?;
    let (choice, destination) = match &table.virtual_host.routes[route].action {
        RouteAction::Forward(forward) => {
            let choice = forward.pick_cluster(|| fastrand::u64(..));
            let destination = match &forward.clusters()[choice].header {
                Some(header) => named_cluster(snapshot, table, route, header, request.headers())?,
                None => Destination::Cluster(snapshot.clusters[table.cluster_index(route, choice)].clone()),
            };
            (choice, destination)
        }
        RouteAction::Answer(_) if cfg!(feature = "filter") => (0, Destination::Nowhere),
        RouteAction::Answer(answer) => return Err(table.unanswered(route, answer.name())),
        other => return Err(table.unsupported(route, other.name())),
    };
    Ok(Choice { route, choice, destination })
}

/// Writes the hash of the request into its `Call`: of the application's key, of the header that the cluster's policy names
/// (A76), or of what the route says (A42), in this order.
fn hash<B>(cluster: &ClusterEntry, key: Option<u64>, request: &Request<B>, call: &mut Call) {
    let head = RequestHead::of(request);
    let table = call.snapshot.as_ref().and_then(|snapshot| snapshot.routing.as_ref().ok());
    let action = table.zip(call.route).map(|(table, route)| &table.virtual_host.routes[route].action);
    let hash = match (key, cluster.hash_header(), action) {
        (Some(hash), ..) => RequestHash { hash: Some(hash), set_cookie: None },
        (None, Some(header), _) => {
            RequestHash { hash: header.with_value(&head, |value| value.map(xxh64)), set_cookie: None }
        }
        (None, None, Some(RouteAction::Forward(forward))) => {
            let query = request.uri().query();
            RequestHash::of(forward.hash(), &head, query, call.channel, || fastrand::u64(..))
        }
        _ => return,
    };
    (call.hash, call.set_cookie) = (hash.hash, hash.set_cookie);
}

/// The cluster that a header of the call names.
fn named_cluster(
    snapshot: &Snapshot,
    table: &RouteTable,
    route: usize,
    header: &HeaderName,
    headers: &HeaderMap,
) -> Result<Destination, Error> {
    let name = headers.get(header).and_then(|value| value.to_str().ok()).filter(|name| !name.is_empty());
    let unknown = || table.unknown_cluster(route, header.as_str(), name);
    let name = name.ok_or_else(unknown)?;
    if let Some(place) = table.clusters().get_index_of(name) {
        return Ok(Destination::Cluster(snapshot.clusters[place].clone()));
    }
    let demand = table.demand().ok_or_else(unknown)?;
    match demand.find(name) {
        Some(entry) => Ok(Destination::Cluster(entry)),
        None => Ok(Destination::Awaited(demand.clone(), name.into())),
    }
}

fn no_snapshot() -> Error {
    Error::new(ErrorKind::Setup, "route a call that has no configuration")
        .with_next_step("put a DiscoverLayer in front of the RouteLayer")
}

#[cfg(all(test, not(feature = "filter")))]
mod without_layers {
    use super::*;
    use crate::resource::listener::CallLimits;
    use crate::resource::matcher::RouteMatch;
    use crate::resource::route::Route;
    use crate::resource::route_answer::RouteAnswer;
    use crate::resource::route_config::VirtualHost;

    #[test]
    fn a_call_that_its_route_would_answer_fails_and_names_the_feature() {
        let answer = RouteAnswer::Direct { status: http::StatusCode::OK, body: bytes::Bytes::new() };
        let route = Route::new("hello", RouteAction::Answer(Arc::new(answer)));
        let host = VirtualHost::new("greeter", vec![(RouteMatch::prefix(""), route)]);
        let table = RouteTable::of_virtual_host("a test", Arc::new(host), CallLimits::default());
        let snapshot = Snapshot { routing: Ok(Arc::new(table)), clusters: Arc::default() };
        let error = choose(&snapshot, &Request::new(())).err().expect("nothing answers").report();
        for part in [
            "route `hello` has the action `direct_response`, and mesh-core's feature `filter` is off",
            "build with mesh-core's feature `filter`",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }
}

//! Single layers of the mesh, around what answers at once: what they cost without a connection.

use std::cell::Cell;
use std::collections::HashSet;
use std::future::{Pending, Ready, pending, ready};
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Request, Response};
use http_body::{Body, Frame};
use mesh_core::balance::{Balance, BalanceLayer, BalanceOptions};
use mesh_core::connect::{Connect, Connection, SendError, SendRequest, StreamError, Unavailable};
use mesh_core::discover::Discover;
use mesh_core::route::Route;
use mesh_core::testing::{ControlPlane, Resources, route, route_config};
use mesh_core::{Address, BoxError, CallInfo, Mesh};
use tower::{Layer, Service};

use crate::Error;

/// Makes `calls` calls of an empty request, each of which is answered in its first poll; one that is not is given up.
pub fn call<S: Service<Request<()>>>(service: &mut S, path: &str, calls: u64) {
    let path = PathAndQuery::try_from(path).unwrap_or(PathAndQuery::from_static("/"));
    for _ in 0..calls {
        let mut request = Request::new(());
        *request.uri_mut() = path.clone().into();
        black_box(poll_once(service.call(request)));
    }
}

fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// The layers that find a call's route, around nothing: `/1`, `/2`, … up to `routes`, each of which also looks at a
/// header.
///
/// # Errors
///
/// Fails when the mesh cannot be set up.
pub async fn routed(routes: u32) -> Result<(Mesh, Discover<Route<Answer>>), Error> {
    let paths = (1..=routes).map(|index| route().path(format!("/{index}")).header_present("x-absent", false));
    let resources = Resources::service("layers", ["127.1.0.0:9"])
        .with(route_config("layers").routes(paths.map(|route| route.cluster("layers"))));
    let control_plane = ControlPlane::new();
    control_plane.set(resources);
    let mesh = Mesh::builder().control_plane(&control_plane).build().await?;
    let target = mesh.target("xds:///layers")?;
    let mut found = Discover::new(Route::new(Answer), target);
    found.call(Request::get("/1").body(())?).await?;
    Ok((mesh, found))
}

/// The layer that picks among `endpoints` endpoints, all of which take calls.
///
/// # Errors
///
/// Fails when a call does.
pub async fn balanced(endpoints: u32) -> Result<Balance<Nowhere>, Error> {
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 0));
    let address = |index| Address::Socket(SocketAddr::from((Ipv4Addr::from(first + index), 9)));
    let layer = BalanceLayer::new(BalanceOptions::default());
    let mut balance = layer.layer(Nowhere).with_endpoints("layers", (0..endpoints).map(address));
    loop {
        let mut seen = HashSet::new();
        for _ in 0..endpoints {
            if let Some(response) = poll_once(balance.call(Request::new(()))) {
                seen.extend(response?.extensions().get::<CallInfo>().map(|info| info.endpoint().clone()));
            }
        }
        if u32::try_from(seen.len()) == Ok(endpoints) {
            return Ok(balance);
        }
        // Not a busy loop: the balancer looks at many new endpoints in pauses of its own.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Connects at once.
#[derive(Debug)]
#[non_exhaustive]
pub struct Nowhere;

impl Connect for Nowhere {
    type Connection = Open;
    type Future = Ready<Result<Open, BoxError>>;

    fn connect(&self, _: &Address) -> Self::Future {
        ready(Ok(Open))
    }
}

thread_local! {
    static REFUSALS: Cell<u32> = const { Cell::new(0) };
}

/// Has the next `count` slots refused that this thread asks an [`Open`] for.
pub fn refuse_slots(count: u32) {
    REFUSALS.set(count);
}

/// Has a slot for every call, unless it is to refuse.
#[derive(Clone, Debug)]
pub struct Open;

impl Connection for Open {
    type Slot = Answer;

    fn try_acquire(&self) -> Result<Answer, Unavailable> {
        match REFUSALS.get() {
            0 => Ok(Answer),
            left => {
                REFUSALS.set(left - 1);
                Err(Unavailable::Full)
            }
        }
    }

    fn ended(&self) -> impl Future<Output = BoxError> + Send {
        let never: Pending<BoxError> = pending();
        never
    }

    fn drain(&self) {}

    fn close(&self) {}
}

/// Answers at once: a slot of [`Open`], and a service.
#[derive(Clone, Debug)]
pub struct Answer;

impl Service<Request<()>> for Answer {
    type Response = Response<NoBody>;
    type Error = mesh_core::Error;
    type Future = Ready<Result<Response<NoBody>, mesh_core::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), mesh_core::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        ready(Ok(Response::new(NoBody)))
    }
}

impl SendRequest<()> for Answer {
    type Outgoing = Request<()>;
    type Body = NoBody;
    type Future = Ready<Result<Response<NoBody>, SendError<Request<()>>>>;

    fn send(self, _: Request<()>) -> Self::Future {
        ready(Ok(Response::new(NoBody)))
    }
}

/// The empty body.
#[derive(Debug)]
pub struct NoBody;

impl Body for NoBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        Poll::Ready(None)
    }
}

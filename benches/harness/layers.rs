//! Single layers of the mesh, around what answers at once: what they cost without a connection.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Pending, Ready, pending, ready};
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use mesh_core::authorize::{Policy as AccessPolicy, Rbac, RbacLayer, RbacService, Rule};
use mesh_core::balance::{Balance, BalanceLayer, BalanceOptions, Choice, Member, PickRequest, Policy};
use mesh_core::connect::{Connect, Connection, SendError, SendRequest, StreamError, Unavailable};
use mesh_core::discover::Discover;
use mesh_core::route::Route;
use mesh_core::server::Peer;
use mesh_core::testing::{ControlPlane, Resources, route, route_config};
use mesh_core::{Address, BoxError, CallOptions, ClusterBuilder, Mesh};
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

/// Makes a call of an empty request that is hashed by a key of its own.
pub fn call_with_key<S: Service<Request<()>>>(service: &mut S, key: &CallOptions) {
    let mut request = Request::new(());
    request.extensions_mut().insert(*key);
    black_box(poll_once(service.call(request)));
}

fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Access control by policies that each name one caller and the prefix of one path.
#[derive(Debug)]
pub struct Authorized {
    service: RbacService<Nothing>,
    caller: Peer,
    path: PathAndQuery,
}

/// Answers at once.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl Service<Request<()>> for Nothing {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = Ready<Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        ready(Ok(Response::new(())))
    }
}

impl Authorized {
    /// By so many policies, of which the last matches the calls, or none does.
    #[must_use]
    pub fn new(policies: u32, matches: bool) -> Self {
        let id = |number: u32| format!("spiffe://cluster.local/ns/shop/sa/caller-{number}");
        let policy = |number: u32| {
            let path = Rule::path_prefix(&format!("/shop.Service{number}/"));
            (format!("policy-{number:06}"), AccessPolicy::new([path], [Rule::principal(&id(number))]))
        };
        let caller = mesh_core::testing::peer(&id(if matches { policies.saturating_sub(1) } else { policies }));
        let path = format!("/shop.Service{}/Call", policies.saturating_sub(1));
        let path = PathAndQuery::try_from(path).unwrap_or(PathAndQuery::from_static("/"));
        Self { service: RbacLayer::new(Rbac::allow((0..policies).map(policy))).layer(Nothing), caller, path }
    }

    /// Makes so many calls; how many were let pass.
    pub fn call(&mut self, calls: u64) -> u64 {
        let request = || self.request();
        let mut passed = 0;
        for _ in 0..calls {
            let answer = poll_once(self.service.clone().call(request()));
            passed += u64::from(matches!(answer, Some(Ok(answer)) if answer.status().is_success()));
        }
        passed
    }

    /// Makes so many calls past the policies.
    pub fn call_unchecked(&self, calls: u64) {
        for _ in 0..calls {
            black_box(poll_once(Nothing.call(self.request())).map(|answer| answer.map(|answer| answer.status())));
        }
    }

    fn request(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.uri_mut() = self.path.clone().into();
        request.extensions_mut().insert(self.caller.clone());
        request
    }
}

/// As [`Authorized::call`]; with no policy, past all of them.
pub fn authorize(policies: u32, matches: bool, calls: u64) {
    let mut authorized = Authorized::new(policies, matches);
    if policies == 0 {
        authorized.call_unchecked(calls);
    } else {
        black_box(authorized.call(calls));
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

/// How the layer picks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Picks {
    /// The first endpoint, whatever the others: what a policy costs is what it adds to this.
    First,
    /// In turn.
    RoundRobin,
    /// Of two the one with fewer calls in flight.
    LeastRequest,
    /// Of two the one that is expected to answer sooner.
    PeakEwma,
    /// By reports, which endpoints make [while they are to](report_load).
    WeightedRoundRobin,
    /// By chance.
    Random,
    /// By the key of the call, on a ring.
    RingHash,
    /// By the key of the call, from a table.
    Maglev,
}

struct First;

impl Policy for First {
    fn pick(&self, _: &[Member], _: &PickRequest<'_>) -> Choice {
        Choice::Endpoint(0)
    }
}

/// The layer that picks in turn among `endpoints` endpoints, all of which take calls.
///
/// # Errors
///
/// Fails when a call does.
pub async fn balanced(endpoints: u32) -> Result<Balance<Nowhere>, Error> {
    balanced_by(Picks::RoundRobin, endpoints).await
}

/// The layer that picks so among `endpoints` endpoints, all of which take calls.
///
/// # Errors
///
/// Fails when a call does.
pub async fn balanced_by(picks: Picks, endpoints: u32) -> Result<Balance<Nowhere>, Error> {
    /// What is connected is taken in by then: the balancer looks at many new endpoints in pauses of its own.
    const SETTLED: Duration = Duration::from_millis(50);
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 0));
    let address = |index| Address::Socket(SocketAddr::from((Ipv4Addr::from(first + index), 9)));
    let cluster = (0..endpoints).map(address).fold(ClusterBuilder::new("layers"), ClusterBuilder::endpoint);
    let cluster = match picks {
        Picks::First | Picks::RoundRobin => cluster.round_robin(),
        Picks::LeastRequest => cluster.least_request(),
        Picks::PeakEwma => cluster.peak_ewma(),
        Picks::WeightedRoundRobin => cluster.weighted_round_robin(),
        Picks::Random => cluster.random(),
        Picks::RingHash => cluster.ring_hash(&HeaderName::from_static("x-key")),
        Picks::Maglev => cluster.maglev(),
    };
    let mut options = BalanceOptions::default();
    if picks == Picks::First {
        options = options.policy(|_: &[Member]| Box::new(First) as Box<dyn Policy>);
    }
    let connected = Arc::new(AtomicU32::new(0));
    let nowhere = Nowhere { connected: connected.clone() };
    let mut balance = BalanceLayer::new(options).layer(nowhere).with_cluster(cluster);
    balance.call(Request::new(())).await?;
    while connected.load(Relaxed) < endpoints {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(SETTLED).await;
    Ok(balance)
}

/// Connects at once.
#[derive(Debug)]
pub struct Nowhere {
    connected: Arc<AtomicU32>,
}

impl Connect for Nowhere {
    type Connection = Open;
    type Future = Ready<Result<Open, BoxError>>;

    fn connect(&self, _: &Address) -> Self::Future {
        self.connected.fetch_add(1, Relaxed);
        ready(Ok(Open))
    }
}

thread_local! {
    static REFUSALS: Cell<u32> = const { Cell::new(0) };
    static REPORTS: Cell<bool> = const { Cell::new(false) };
}

/// Whether responses that this thread gets report a load (ORCA), each another one.
pub fn report_load(on: bool) {
    REPORTS.set(on);
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

    fn is_idle(&self) -> bool {
        true
    }

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
        let mut response = Response::new(NoBody);
        if REPORTS.get() {
            response.headers_mut().insert("endpoint-load-metrics-bin", report());
        }
        ready(Ok(response))
    }
}

/// An `xds.data.orca.v3.OrcaLoadReport`: 100 calls per second at some utilization of the CPU.
fn report() -> HeaderValue {
    const CPU: u8 = 1 << 3 | 1;
    const CALLS_PER_SECOND: u8 = 6 << 3 | 1;
    let utilization = 0.2 + 0.6 * fastrand::f64();
    let message = [&[CPU][..], &utilization.to_le_bytes(), &[CALLS_PER_SECOND], &100_f64.to_le_bytes()].concat();
    HeaderValue::try_from(STANDARD.encode(message)).expect("base64 is a header's value")
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

//! A network of endpoints without sockets: what each does when it is connected to, and to calls.

use std::collections::HashMap;
use std::future::pending;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use super::{
    Connect, Connection, ConnectivityState, Criteria, EndpointStats, Environment, Limits, Observer, SendError,
    SendErrorKind, SendRequest, Streak, StreamError, Unavailable,
};
use crate::backoff::BackoffConfig;
use crate::error::BoxError;
use crate::resource::endpoints::Address;

/// The endpoint with this number.
pub(crate) fn address(number: u16) -> Address {
    Address::Socket(([10, 0, 0, 1], number).into())
}

/// The counts of the endpoint with this number, in which nobody takes an interest.
pub(crate) fn stats(number: u16) -> Arc<EndpointStats> {
    let criteria = Criteria::new(Weak::<Nobody>::new());
    Arc::new(EndpointStats::new(address(number), "greeter".into(), Arc::default(), Arc::new(criteria)))
}

/// What subchannels need to run in this network beside each other, of which nobody hears.
pub(crate) fn environment(network: &Network) -> Arc<Environment<Network>> {
    let observer: Weak<dyn Observer> = Weak::<Nobody>::new();
    Arc::new(Environment {
        connector: Arc::new(network.clone()),
        leaving: Arc::default(),
        cluster: "greeter".into(),
        backoff: BackoffConfig::default(),
        limits: Mutex::new(Limits { connect_timeout: Duration::from_secs(5), per_endpoint: 1, in_all: 1 }),
        handle: Handle::current(),
        queue: Arc::default(),
        criteria: Arc::new(Criteria::new(observer.clone())),
        observer,
    })
}

struct Nobody;

impl Observer for Nobody {
    fn subchannel_changed(&self, _: ConnectivityState) {}

    fn endpoint_failed(&self, _: &Address, _: Streak) {}

    fn outcomes_arrive(&self) {}
}

/// What an endpoint does when it is connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reach {
    #[default]
    Accepts,
    Refuses,
    /// No answer, ever.
    Silent,
}

/// What an endpoint does with a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Answer {
    #[default]
    Responds,
    /// A response whose body does not end.
    Streams,
    Fails(SendErrorKind),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Network(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    endpoints: HashMap<Address, Endpoint>,
    connections: Vec<MockConnection>,
}

#[derive(Clone, Debug)]
struct Endpoint {
    reach: Reach,
    answer: Answer,
    /// How long it works on a call, and on how many at once.
    work: Option<(Duration, Arc<Semaphore>)>,
    slots: usize,
    attempts: usize,
    calls: usize,
}

impl Default for Endpoint {
    fn default() -> Self {
        Self { reach: Reach::Accepts, answer: Answer::Responds, work: None, slots: 100, attempts: 0, calls: 0 }
    }
}

impl Network {
    fn endpoint<R>(&self, number: u16, with: impl FnOnce(&mut Endpoint) -> R) -> R {
        self.at(&address(number), with)
    }

    fn at<R>(&self, address: &Address, with: impl FnOnce(&mut Endpoint) -> R) -> R {
        with(self.0.lock().endpoints.entry(address.clone()).or_default())
    }

    pub(crate) fn reach(&self, number: u16, reach: Reach) {
        self.endpoint(number, |endpoint| endpoint.reach = reach);
    }

    pub(crate) fn answer(&self, number: u16, answer: Answer) {
        self.endpoint(number, |endpoint| endpoint.answer = answer);
    }

    /// It works so long on each call, and on so many at once; others queue there.
    pub(crate) fn work(&self, number: u16, time: Duration, at_once: usize) {
        self.endpoint(number, |endpoint| endpoint.work = Some((time, Arc::new(Semaphore::new(at_once)))));
    }

    /// Slots of connections that are made from now on.
    pub(crate) fn slots(&self, number: u16, slots: usize) {
        self.endpoint(number, |endpoint| endpoint.slots = slots);
    }

    /// The open connections have this many slots from now on, and tell nobody.
    pub(crate) fn allow(&self, number: u16, slots: usize) {
        self.open(number).iter().for_each(|connection| connection.0.state.lock().slots = slots);
    }

    /// Attempts to connect so far.
    pub(crate) fn attempts(&self, number: u16) -> usize {
        self.endpoint(number, |endpoint| endpoint.attempts)
    }

    /// Calls that got there so far.
    pub(crate) fn calls(&self, number: u16) -> usize {
        self.endpoint(number, |endpoint| endpoint.calls)
    }

    /// The connections of an endpoint that have not ended.
    pub(crate) fn open(&self, number: u16) -> Vec<MockConnection> {
        let connections = &self.0.lock().connections;
        let open = |connection: &&MockConnection| connection.0.address == address(number) && !connection.is_closed();
        connections.iter().filter(open).cloned().collect()
    }

    /// The peer takes no new calls.
    pub(crate) fn goaway(&self, number: u16) {
        self.open(number).iter().for_each(|connection| connection.end("peer sent GOAWAY NO_ERROR"));
    }

    /// The connections are to be replaced.
    pub(crate) fn outlive(&self, number: u16) {
        self.open(number).iter().for_each(|connection| _ = connection.0.outlived.send_replace(true));
    }

    /// It is doubted that the peer is there, or not any more.
    pub(crate) fn doubt(&self, number: u16, in_doubt: bool) {
        self.open(number).iter().for_each(|connection| _ = connection.0.in_doubt.send_replace(in_doubt));
    }

    /// The connections break.
    pub(crate) fn cut(&self, number: u16) {
        for connection in self.open(number) {
            connection.0.state.lock().closed = true;
            connection.end("connection reset by peer");
        }
    }
}

impl Connect for Network {
    type Connection = MockConnection;
    type Future = Pin<Box<dyn Future<Output = Result<MockConnection, BoxError>> + Send>>;

    fn connect(&self, address: &Address) -> Self::Future {
        let endpoint = self.at(address, |endpoint| {
            endpoint.attempts += 1;
            endpoint.clone()
        });
        let network = self.clone();
        let address = address.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            match endpoint.reach {
                Reach::Accepts => Ok(MockConnection::open(network, address, endpoint.slots)),
                Reach::Refuses => Err("connection refused".into()),
                Reach::Silent => pending().await,
            }
        })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct MockConnection(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    address: Address,
    network: Network,
    state: Mutex<ConnectionState>,
    ended: watch::Sender<Option<String>>,
    outlived: watch::Sender<bool>,
    in_doubt: watch::Sender<bool>,
}

#[derive(Debug)]
struct ConnectionState {
    slots: usize,
    used: usize,
    drained: bool,
    closed: bool,
}

impl MockConnection {
    fn open(network: Network, address: Address, slots: usize) -> Self {
        let state = Mutex::new(ConnectionState { slots, used: 0, drained: false, closed: false });
        let connection = Self(Arc::new(Shared {
            address,
            network,
            state,
            ended: watch::Sender::new(None),
            outlived: watch::Sender::new(false),
            in_doubt: watch::Sender::new(false),
        }));
        connection.0.network.0.lock().connections.push(connection.clone());
        connection
    }

    fn end(&self, why: &str) {
        self.0.ended.send_modify(|ended| {
            ended.get_or_insert_with(|| why.to_owned());
        });
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.0.state.lock().used
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.0.state.lock().drained
    }

    fn is_closed(&self) -> bool {
        let state = self.0.state.lock();
        state.closed || (state.drained && state.used == 0)
    }
}

impl Connection for MockConnection {
    type Slot = MockSlot;

    fn try_acquire(&self) -> Result<MockSlot, Unavailable> {
        let mut state = self.0.state.lock();
        if state.closed {
            return Err(Unavailable::Closed);
        }
        if state.drained || self.0.ended.borrow().is_some() {
            return Err(Unavailable::Draining);
        }
        if state.used == state.slots {
            return Err(Unavailable::Full);
        }
        state.used += 1;
        Ok(MockSlot(self.0.clone()))
    }

    async fn ended(&self) -> BoxError {
        let mut ended = self.0.ended.subscribe();
        let why = ended.wait_for(Option::is_some).await.expect("the sender lives as long as self").clone();
        why.unwrap_or_default().into()
    }

    async fn outlived(&self) -> Arc<str> {
        let mut outlived = self.0.outlived.subscribe();
        let _ = outlived.wait_for(|outlived| *outlived).await;
        "old".into()
    }

    async fn doubted(&self) -> Arc<str> {
        let _ = self.0.in_doubt.subscribe().wait_for(|in_doubt| *in_doubt).await;
        "no answer".into()
    }

    async fn heard(&self) {
        let _ = self.0.in_doubt.subscribe().wait_for(|in_doubt| !in_doubt).await;
    }

    fn drain(&self) {
        self.0.state.lock().drained = true;
        self.end("drained");
    }

    fn is_idle(&self) -> bool {
        self.in_flight() == 0
    }

    fn close(&self) {
        self.0.state.lock().closed = true;
        self.end("closed");
    }
}

#[derive(Debug)]
pub(crate) struct MockSlot(Arc<Shared>);

impl Drop for MockSlot {
    fn drop(&mut self) {
        self.0.state.lock().used -= 1;
    }
}

impl<B: Send + 'static> SendRequest<B> for MockSlot {
    type Outgoing = Request<B>;
    type Body = MockBody;
    type Future = Pin<Box<dyn Future<Output = Result<Response<MockBody>, SendError<Request<B>>>> + Send>>;

    fn send(self, request: Request<B>) -> Self::Future {
        let (answer, work) = self.0.network.at(&self.0.address, |endpoint| {
            endpoint.calls += 1;
            (endpoint.answer, endpoint.work.clone())
        });
        Box::pin(async move {
            tokio::task::yield_now().await;
            if let Some((time, room)) = work {
                let _turn = room.acquire().await;
                tokio::time::sleep(time).await;
            }
            match answer {
                Answer::Responds => Ok(Response::new(MockBody { slot: None })),
                Answer::Streams => Ok(Response::new(MockBody { slot: Some(self) })),
                Answer::Fails(kind) => {
                    let replayable = matches!(kind, SendErrorKind::Unsent | SendErrorKind::Refused);
                    let error = StreamError::new(kind, "as told");
                    Err(SendError { error, replay: replayable.then(|| Box::new(request)) })
                }
            }
        })
    }
}

/// Ends at once, or never.
#[derive(Debug)]
pub(crate) struct MockBody {
    slot: Option<MockSlot>,
}

impl Body for MockBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        if self.slot.is_some() { Poll::Pending } else { Poll::Ready(None) }
    }
}

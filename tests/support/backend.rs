//! A greeter that answers with its name, and does as the test tells it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use mesh_examples::helloworld::greeter_server::{Greeter, GreeterServer};
use mesh_examples::helloworld::{HelloReply, HelloRequest};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic::{Request, Response, Status, Streaming};
use tower::util::MapResponseLayer;

use super::network::ClosedPort;
use super::orca::{OpenRca, Reporting};
use super::{Counted, Counter};

/// A greeter on a port of its own. Its answers are its name; a call that is held, delayed or failed is so before it
/// answers. It is killed when it is dropped.
pub(crate) struct Backend {
    /// Its own also while nobody listens there.
    port: ClosedPort,
    state: Arc<State>,
    configure: Box<dyn Fn(Server) -> Server + Send + Sync>,
    running: Option<Running>,
}

/// One call as it came in.
#[derive(Clone, Debug)]
pub(crate) struct SeenCall {
    pub(crate) method: &'static str,
    pub(crate) metadata: MetadataMap,
}

struct State {
    name: String,
    calls: Counter,
    in_flight: Counter,
    connections: Counter,
    messages: Counter,
    replies: Counter,
    seen: Mutex<Vec<SeenCall>>,
    held: watch::Sender<bool>,
    behaviour: Mutex<Behaviour>,
    load: Reporting,
}

#[derive(Default)]
struct Behaviour {
    delay: Duration,
    failure: Option<Status>,
    /// How many calls more fail; without a number all do.
    failures_left: Option<u32>,
}

struct Running {
    /// Dropped when connections must end.
    kill: watch::Sender<()>,
    drain: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
}

/// Starting and stopping.
impl Backend {
    pub(crate) async fn start(name: &str) -> Self {
        Self::start_with(name, "127.0.0.1:0", |server| server).await
    }

    /// At an address of the test's choice, with the HTTP/2 options of the test's choice.
    pub(crate) async fn start_with(
        name: &str,
        address: &str,
        configure: impl Fn(Server) -> Server + Send + Sync + 'static,
    ) -> Self {
        let port = ClosedPort::at(address.parse().expect("an address"));
        let state = State {
            name: name.to_owned(),
            calls: Counter::new(),
            in_flight: Counter::new(),
            connections: Counter::new(),
            messages: Counter::new(),
            replies: Counter::new(),
            seen: Mutex::default(),
            held: watch::Sender::new(false),
            behaviour: Mutex::default(),
            load: Reporting::new(),
        };
        let configure = Box::new(configure);
        let mut backend = Self { port, state: Arc::new(state), configure, running: None };
        backend.serve();
        backend
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(crate) fn name(&self) -> &str {
        &self.state.name
    }

    /// Ends at once: the port is closed, and connections end in the middle of whatever they do.
    pub(crate) async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            drop(running.kill);
            running.server.abort();
            let _ = running.server.await;
        }
        self.state.connections.wait_for("connections of a stopped backend", |count| *count == 0).await;
    }

    /// Starts again on the same port.
    pub(crate) async fn restart(&mut self) {
        assert!(self.running.is_none(), "`{}` runs already", self.name());
        self.serve();
    }

    /// Closes the port and sends GOAWAY on each connection; calls in flight go on.
    pub(crate) fn drain(&mut self) {
        let running = self.running.as_mut().expect("a backend that runs");
        let _ = running.drain.take().expect("a backend that is not drained already").send(());
    }

    /// Waits until a drain is over: no call is in flight and no connection open.
    pub(crate) async fn drained(&mut self) {
        let running = self.running.take().expect("a backend that drains");
        running.server.await.expect("the server does not panic");
    }

    /// The same greeter, for another server to serve.
    pub(crate) fn service(&self) -> GreeterServer<impl Greeter> {
        GreeterServer::new(Instance { state: self.state.clone() })
    }

    fn serve(&mut self) {
        let kill = watch::Sender::new(());
        let (drain, drained) = oneshot::channel::<()>();
        let incoming = incoming(self.port.listen(), kill.clone(), self.state.clone());
        let greeter = GreeterServer::new(Instance { state: self.state.clone() });
        let load = self.state.load.clone();
        let server = (self.configure)(Server::builder());
        let mut server = server.layer(MapResponseLayer::new({
            let load = load.clone();
            move |response| load.add_to(response)
        }));
        let server =
            server.add_service(greeter).add_service(OpenRca(load)).serve_with_incoming_shutdown(incoming, async {
                // Only a drain ends the server this way; a dropped sender does not.
                if drained.await.is_err() {
                    std::future::pending::<()>().await;
                }
            });
        let server = tokio::spawn(async { server.await.expect("the listener works") });
        self.running = Some(Running { kill, drain: Some(drain), server });
    }
}

/// What it does with calls.
impl Backend {
    /// Answers this much later.
    pub(crate) fn delay(&self, by: Duration) {
        self.state.behaviour.lock().delay = by;
    }

    /// Does not answer until [`release`](Self::release).
    pub(crate) fn hold(&self) {
        self.state.held.send_replace(true);
    }

    /// Answers what it held, and does not hold any more.
    pub(crate) fn release(&self) {
        self.state.held.send_replace(false);
    }

    /// Fails every call, until [`succeed`](Self::succeed). The status may have metadata.
    pub(crate) fn fail(&self, status: Status) {
        self.set_failure(Some(status), None);
    }

    /// Fails the next so many calls.
    pub(crate) fn fail_times(&self, times: u32, status: Status) {
        self.set_failure(Some(status), Some(times));
    }

    /// Fails no more.
    pub(crate) fn succeed(&self) {
        self.set_failure(None, None);
    }

    /// What it says of its load.
    pub(crate) fn load(&self) -> &Reporting {
        &self.state.load
    }

    fn set_failure(&self, status: Option<Status>, times: Option<u32>) {
        let mut behaviour = self.state.behaviour.lock();
        (behaviour.failure, behaviour.failures_left) = (status, times);
    }
}

/// What it saw.
impl Backend {
    /// How many calls came, whatever became of them.
    pub(crate) fn calls(&self) -> u64 {
        self.state.calls.get()
    }

    /// How many messages the calls to `CollectHellos` had that were not failed.
    pub(crate) fn messages(&self) -> u64 {
        self.state.messages.get()
    }

    /// How many replies the calls to `SayHelloStream` had, whether they were sent or not.
    pub(crate) fn replies(&self) -> u64 {
        self.state.replies.get()
    }

    /// The calls that came, with their metadata.
    pub(crate) fn seen(&self) -> Vec<SeenCall> {
        self.state.seen.lock().clone()
    }

    pub(crate) async fn wait_for_calls(&self, at_least: u64) {
        self.state.calls.wait_for("calls", |count| *count >= at_least).await;
    }

    /// How many calls are not answered yet.
    pub(crate) fn in_flight(&self) -> u64 {
        self.state.in_flight.get()
    }

    pub(crate) async fn wait_for_in_flight(&self, exactly: u64) {
        self.state.in_flight.wait_for("calls in flight", |count| *count == exactly).await;
    }

    /// How many connections are open.
    pub(crate) fn connections(&self) -> u64 {
        self.state.connections.get()
    }

    pub(crate) async fn wait_for_connections(&self, exactly: u64) {
        self.state.connections.wait_for("connections", |count| *count == exactly).await;
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.server.abort();
        }
    }
}

impl State {
    /// Everything that happens before an answer. The guard counts the call as in flight.
    async fn admit<T>(&self, method: &'static str, request: &Request<T>) -> Result<Counted, Status> {
        let call = Counted::by(&self.in_flight);
        self.seen.lock().push(SeenCall { method, metadata: request.metadata().clone() });
        self.calls.add(1);
        let delay = self.behaviour.lock().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        // The sender is this state's own.
        let _ = self.held.subscribe().wait_for(|held| !held).await;
        match self.failure() {
            Some(status) => Err(status),
            None => Ok(call),
        }
    }

    fn failure(&self) -> Option<Status> {
        let mut behaviour = self.behaviour.lock();
        match &mut behaviour.failures_left {
            Some(0) => return None,
            Some(left) => *left -= 1,
            None => (),
        }
        behaviour.failure.clone()
    }

    fn reply(&self) -> HelloReply {
        HelloReply { message: self.name.clone() }
    }
}

struct Instance {
    state: Arc<State>,
}

type Replies = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

#[tonic::async_trait]
impl Greeter for Instance {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let _call = self.state.admit("SayHello", &request).await?;
        Ok(Response::new(self.state.reply()))
    }

    /// As many answers as the name says, if it is a number; three otherwise.
    async fn say_hello_stream(&self, request: Request<HelloRequest>) -> Result<Response<Replies>, Status> {
        let call = self.state.admit("SayHelloStream", &request).await?;
        let count = request.into_inner().name.parse().unwrap_or(3);
        let replies = stream::repeat_with({
            let (reply, replies) = (self.state.reply(), self.state.replies.clone());
            move || {
                let _in_flight = &call;
                replies.add(1);
                Ok(reply.clone())
            }
        });
        Ok(Response::new(Box::pin(replies.take(count))))
    }

    async fn collect_hellos(&self, request: Request<Streaming<HelloRequest>>) -> Result<Response<HelloReply>, Status> {
        let _call = self.state.admit("CollectHellos", &request).await?;
        let mut requests = request.into_inner();
        while requests.message().await?.is_some() {
            self.state.messages.add(1);
        }
        Ok(Response::new(self.state.reply()))
    }

    async fn chat(&self, request: Request<Streaming<HelloRequest>>) -> Result<Response<Replies>, Status> {
        let call = self.state.admit("Chat", &request).await?;
        let reply = self.state.reply();
        let replies = request.into_inner().map(move |request| {
            let _in_flight = &call;
            request.map(|_| reply.clone())
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

fn incoming(
    listener: TcpListener,
    kill: watch::Sender<()>,
    state: Arc<State>,
) -> impl Stream<Item = io::Result<Killable>> {
    let killed = kill.subscribe();
    // The backend alone keeps the sender, so that its end is the end of all connections.
    drop(kill);
    stream::unfold((listener, killed, state), |(listener, killed, state)| async move {
        let accepted = listener.accept().await.map(|(stream, _)| {
            // Answers are small and awaited.
            let _ = stream.set_nodelay(true);
            Killable::new(stream, killed.clone(), &state.connections)
        });
        Some((accepted, (listener, killed, state)))
    })
}

/// A connection that ends when its backend does.
struct Killable {
    stream: TcpStream,
    killed: Pin<Box<dyn Future<Output = ()> + Send>>,
    _open: Counted,
}

impl Killable {
    fn new(stream: TcpStream, mut kill: watch::Receiver<()>, connections: &Counter) -> Self {
        let killed = Box::pin(async move { while kill.changed().await.is_ok() {} });
        Self { stream, killed, _open: Counted::by(connections) }
    }
}

impl AsyncRead for Killable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.killed.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            Poll::Pending => Pin::new(&mut self.stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Killable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Killable {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use mesh_examples::helloworld::greeter_client::GreeterClient;
    use tonic::transport::{Channel, Endpoint};
    use tonic::{Code, Status};

    use super::*;

    async fn client(backend: &Backend) -> GreeterClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", backend.address())).unwrap();
        GreeterClient::new(endpoint.connect().await.unwrap())
    }

    async fn hello(client: &mut GreeterClient<Channel>) -> Result<String, Status> {
        let reply = client.say_hello(HelloRequest { name: "2".into() }).await?;
        Ok(reply.into_inner().message)
    }

    #[tokio::test]
    async fn a_backend_answers_with_its_name_and_counts() {
        let backend = Backend::start("a").await;
        let mut client = client(&backend).await;
        assert_eq!(hello(&mut client).await.unwrap(), "a");
        let hello = || HelloRequest { name: "2".into() };
        let replies = client.say_hello_stream(hello()).await.unwrap().into_inner();
        assert_eq!(replies.count().await, 2);
        let requests = || stream::iter([hello(), hello()]);
        assert_eq!(client.collect_hellos(requests()).await.unwrap().into_inner().message, "a");
        let replies = client.chat(requests()).await.unwrap().into_inner();
        assert_eq!(replies.count().await, 2);
        let methods: Vec<_> = backend.seen().iter().map(|call| call.method).collect();
        assert_eq!(methods, ["SayHello", "SayHelloStream", "CollectHellos", "Chat"]);
        assert!(backend.seen()[0].metadata.get("user-agent").is_some());
        backend.wait_for_in_flight(0).await;
        assert_eq!((backend.calls(), backend.in_flight(), backend.connections()), (4, 0, 1));
    }

    #[tokio::test]
    async fn a_backend_fails_holds_and_delays_as_told() {
        let backend = Backend::start("a").await;
        let mut client = client(&backend).await;
        backend.fail_times(1, Status::unavailable("not now"));
        assert_eq!(hello(&mut client).await.unwrap_err().code(), Code::Unavailable);
        hello(&mut client).await.unwrap();
        backend.fail(Status::internal("broken"));
        assert_eq!(hello(&mut client).await.unwrap_err().code(), Code::Internal);
        assert_eq!(hello(&mut client).await.unwrap_err().message(), "broken");
        backend.succeed();
        backend.delay(Duration::from_millis(1));
        backend.hold();
        let call = tokio::spawn(async move { hello(&mut client).await });
        backend.wait_for_calls(5).await;
        assert_eq!(backend.in_flight(), 1);
        backend.release();
        assert_eq!(call.await.unwrap().unwrap(), "a");
    }

    #[tokio::test]
    async fn a_stopped_backend_breaks_calls_and_restarts_on_its_port() {
        let mut backend = Backend::start("a").await;
        let address = backend.address();
        backend.hold();
        let mut first = client(&backend).await;
        let call = tokio::spawn(async move { hello(&mut first).await });
        backend.wait_for_in_flight(1).await;
        backend.stop().await;
        assert!(call.await.unwrap().is_err());
        assert!(TcpStream::connect(address).await.is_err());
        backend.release();
        backend.restart().await;
        assert_eq!(hello(&mut client(&backend).await).await.unwrap(), "a");
    }

    #[tokio::test]
    async fn a_drained_backend_answers_what_it_has_and_takes_no_more() {
        let mut backend = Backend::start("a").await;
        backend.hold();
        let mut first = client(&backend).await;
        let call = tokio::spawn(async move { hello(&mut first).await });
        backend.wait_for_in_flight(1).await;
        backend.drain();
        backend.release();
        assert_eq!(call.await.unwrap().unwrap(), "a");
        backend.drained().await;
        backend.wait_for_connections(0).await;
        assert!(TcpStream::connect(backend.address()).await.is_err());
    }

    #[tokio::test]
    async fn http2_options_are_the_tests_choice() {
        let limit = |server: Server| server.max_concurrent_streams(1);
        let backend = Backend::start_with("a", "127.0.0.2:0", limit).await;
        assert_eq!(backend.name(), "a");
        assert_eq!(hello(&mut client(&backend).await).await.unwrap(), "a");
    }
}

//! The client over a transport of channels, on paused time.

#[cfg(feature = "testing")]
mod control_plane;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use mesh_xds_proto::envoy::service::discovery::v3::DiscoveryRequest;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::names::NameIndexSet;
use crate::xds::ads::tests::{PART, THING, response};
use crate::xds::store::Verdict;
use crate::xds::transport::{ADS, CloseFuture, OpenFuture, Stream, StreamError};

/// Gives the test the other end of each stream, or fails.
struct TestTransport {
    streams: mpsc::UnboundedSender<ServerEnd>,
    mode: Mutex<Mode>,
    flow: Arc<Flow>,
    closed: AtomicBool,
}

/// What streams take, and how often they are looked at.
struct Flow {
    /// So many requests more.
    room: AtomicUsize,
    polls: AtomicUsize,
}

#[derive(Clone, Copy)]
enum Mode {
    Accept,
    Refuse,
    Hang,
}

struct ServerEnd {
    requests: mpsc::UnboundedReceiver<Bytes>,
    responses: mpsc::UnboundedSender<Result<Bytes, StreamError>>,
}

struct ClientEnd {
    flow: Arc<Flow>,
    /// `None` when it sends no more.
    requests: Option<mpsc::UnboundedSender<Bytes>>,
    responses: mpsc::UnboundedReceiver<Result<Bytes, StreamError>>,
}

impl Transport for TestTransport {
    fn open(&self, method: &'static str) -> OpenFuture {
        assert_eq!(method, ADS);
        let (mode, streams, flow) = (*self.mode.lock(), self.streams.clone(), self.flow.clone());
        Box::pin(async move {
            match mode {
                Mode::Accept => {}
                Mode::Refuse => return Err(StreamError::new("UNAVAILABLE: connection refused")),
                Mode::Hang => std::future::pending().await,
            }
            let (to_server, requests) = mpsc::unbounded_channel();
            let (responses, from_server) = mpsc::unbounded_channel();
            streams.send(ServerEnd { requests, responses }).unwrap();
            Ok(Box::new(ClientEnd { flow, requests: Some(to_server), responses: from_server }) as Box<dyn Stream>)
        })
    }

    fn close(&self) -> CloseFuture {
        self.closed.store(true, Ordering::Relaxed);
        Box::pin(std::future::ready(()))
    }
}

impl Stream for ClientEnd {
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<()> {
        if self.flow.room.load(Ordering::Relaxed) > 0 { Poll::Ready(()) } else { Poll::Pending }
    }

    fn send(&mut self, message: Bytes) {
        self.flow.room.fetch_sub(1, Ordering::Relaxed);
        let _ = self.requests.as_ref().expect("it is not finished").send(message);
    }

    fn finish(&mut self) {
        self.requests = None;
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, StreamError>> {
        self.flow.polls.fetch_add(1, Ordering::Relaxed);
        self.responses.poll_recv(cx).map(|message| message.unwrap_or_else(|| Err(StreamError::new("OK: stream ended"))))
    }
}

impl ServerEnd {
    async fn request(&mut self) -> DiscoveryRequest {
        let bytes = timeout(Duration::from_secs(1), self.requests.recv()).await.expect("a request").expect("a stream");
        DiscoveryRequest::decode(bytes).unwrap()
    }

    async fn no_request(&mut self) {
        let request = timeout(Duration::from_millis(10), self.requests.recv()).await;
        assert!(request.is_err(), "{request:?}");
    }

    fn respond(&self, ty: &ResourceType, version: &str, resources: &[(&str, &str)]) {
        let bytes = response(ty, version, version, resources).encode_to_vec();
        self.responses.send(Ok(bytes.into())).unwrap();
    }
}

struct Bench {
    client: XdsClient,
    transport: Arc<TestTransport>,
    streams: mpsc::UnboundedReceiver<ServerEnd>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Bench {
    fn new(mode: Mode) -> Self {
        let (sender, streams) = mpsc::unbounded_channel();
        let flow = Arc::new(Flow { room: AtomicUsize::new(usize::MAX), polls: AtomicUsize::new(0) });
        let closed = AtomicBool::new(false);
        let transport = Arc::new(TestTransport { streams: sender, mode: Mutex::new(mode), flow, closed });
        let bootstrap = Bootstrap::builder("istiod:15010").insecure().node_id("me").build().unwrap();
        let cancel = CancellationToken::new();
        let options = XdsOptions {
            // Without jitter.
            backoff: BackoffConfig { jitter: 0.0, ..BackoffConfig::default() },
            ..XdsOptions::default()
        };
        let (runtime, tasks) = (Handle::current(), TaskTracker::new());
        let client = XdsClient::start(&bootstrap, options, transport.clone(), &runtime, &tasks, &cancel);
        tasks.close();
        Self { client, transport, streams, tasks, cancel }
    }

    async fn stream(&mut self) -> ServerEnd {
        timeout(Duration::from_secs(5), self.streams.recv()).await.expect("a stream").unwrap()
    }
}

fn names(names: &[&str]) -> NameIndexSet<Arc<str>> {
    names.iter().map(|name| (*name).into()).collect()
}

async fn changed(subscriber: &mut Subscriber) -> Vec<String> {
    let changes = timeout(Duration::from_secs(60), subscriber.changed()).await.expect("a change");
    changes.iter().map(|change| change.name.to_string()).collect()
}

/// Waits until so many attempts failed.
async fn failed(client: &XdsClient, count: u32) {
    while client.status().failures < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn value(subscriber: &Subscriber, ty: &'static ResourceType, name: &str) -> Option<String> {
    subscriber.get(ty, name).value::<String>().map(|value| value.to_string())
}

#[tokio::test(start_paused = true)]
async fn what_is_watched_arrives_in_one_batch_per_response() {
    let mut bench = Bench::new(Mode::Accept);
    let mut subscriber = bench.client.subscriber();
    subscriber.watch(&[(&THING, &names(&["a", "b"])), (&PART, &names(&["p"]))]);
    let mut server = bench.stream().await;
    let first = server.request().await;
    assert_eq!(first.node.unwrap().id, "me");
    assert_eq!((first.type_url.as_str(), first.resource_names), (THING.type_url, vec!["a".into(), "b".into()]));
    assert_eq!(server.request().await.resource_names, ["p"]);
    server.respond(&THING, "1", &[("a", "x"), ("b", "y"), ("stranger", "z")]);
    assert_eq!(changed(&mut subscriber).await, ["a", "b"]);
    assert_eq!(value(&subscriber, &THING, "a").as_deref(), Some("x"));
    assert_eq!(subscriber.get(&THING, "a").verdict, Verdict::Present);
    assert_eq!(subscriber.get(&PART, "p").verdict, Verdict::Pending);
    assert_eq!(server.request().await.version_info, "1");
    assert!(bench.client.status().to_string().ends_with("control plane istiod:15010 is connected"));
}

/// It looks for answers, and waits: what it owes is due, but is not taken.
#[tokio::test(start_paused = true)]
async fn a_control_plane_that_takes_no_request_keeps_nothing_busy_while_it_is_owed_a_nack() {
    let mut bench = Bench::new(Mode::Accept);
    let flow = bench.transport.flow.clone();
    let mut subscriber = bench.client.subscriber();
    subscriber.watch(&[(&THING, &names(&["a"]))]);
    let mut server = bench.stream().await;
    server.request().await;
    flow.room.store(0, Ordering::Relaxed);
    server.respond(&THING, "1", &[("a", "bad")]);
    assert_eq!(changed(&mut subscriber).await, ["a"]);
    tokio::time::advance(Duration::from_secs(2)).await;
    let before = flow.polls.load(Ordering::Relaxed);
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(flow.polls.load(Ordering::Relaxed) - before < 10);
}

#[tokio::test(start_paused = true)]
async fn subscribers_that_come_together_share_one_stream_and_one_request() {
    let mut bench = Bench::new(Mode::Accept);
    let mut subscribers: Vec<_> = (0..50).map(|_| bench.client.subscriber()).collect();
    for (i, subscriber) in subscribers.iter_mut().enumerate() {
        subscriber.watch(&[(&THING, &names(&["common", &format!("own-{i}")]))]);
    }
    let mut server = bench.stream().await;
    assert_eq!(server.request().await.resource_names.len(), 51);
    server.respond(&THING, "1", &[("own-7", "x")]);
    assert_eq!(changed(&mut subscribers[7]).await, ["own-7"]);
    server.respond(&THING, "2", &[("own-7", "x"), ("common", "x")]);
    for subscriber in &mut subscribers {
        assert_eq!(changed(subscriber).await, ["common"]);
    }
    assert!(bench.streams.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn names_that_come_one_by_one_on_a_live_stream_go_together() {
    let mut bench = Bench::new(Mode::Accept);
    let mut first = bench.client.subscriber();
    first.watch(&[(&THING, &names(&["a"]))]);
    let mut server = bench.stream().await;
    server.request().await;
    let mut others: Vec<_> = (0..20).map(|_| bench.client.subscriber()).collect();
    let tasks: Vec<_> = others
        .drain(..)
        .enumerate()
        .map(|(i, mut subscriber)| {
            tokio::spawn(async move {
                subscriber.watch(&[(&THING, &names(&[&format!("own-{i}")]))]);
                std::future::pending::<()>().await;
            })
        })
        .collect();
    assert_eq!(server.request().await.resource_names.len(), 21);
    server.no_request().await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_does_not_look_holds_nobody_up() {
    let mut bench = Bench::new(Mode::Accept);
    let (mut idle, mut busy) = (bench.client.subscriber(), bench.client.subscriber());
    idle.watch(&[(&THING, &names(&["a"]))]);
    busy.watch(&[(&THING, &names(&["a"]))]);
    let mut server = bench.stream().await;
    server.request().await;
    for i in 0..1000 {
        server.respond(&THING, &i.to_string(), &[("a", &i.to_string())]);
        assert_eq!(changed(&mut busy).await, ["a"]);
    }
    assert_eq!(changed(&mut idle).await, ["a"]);
    assert_eq!(value(&idle, &THING, "a").as_deref(), Some("999"));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_watches_is_left_in_one_request() {
    let mut bench = Bench::new(Mode::Accept);
    let many: Vec<String> = (0..200).map(|i| format!("name-{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut subscriber = bench.client.subscriber();
    subscriber.watch(&[(&THING, &names(&many)), (&PART, &names(&many))]);
    let mut server = bench.stream().await;
    assert_eq!(server.request().await.resource_names.len(), 200);
    assert_eq!(server.request().await.resource_names.len(), 200);
    subscriber.watch(&[(&THING, &names(&["name-7"]))]);
    assert_eq!(server.request().await.resource_names, ["name-7"]);
    assert_eq!(server.request().await.resource_names.len(), 0);
    server.no_request().await;
    assert_eq!(bench.client.resources().len(), 1);
    let mut other = bench.client.subscriber();
    other.watch(&[(&THING, &names(&["other"]))]);
    assert_eq!(server.request().await.resource_names.len(), 2);
    drop(subscriber);
    assert_eq!(server.request().await.resource_names, ["other"]);
    assert_eq!(bench.client.resources().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_stream_ends_with_the_last_handle() {
    let mut bench = Bench::new(Mode::Accept);
    let mut subscriber = bench.client.subscriber();
    subscriber.watch(&[(&THING, &names(&["a"]))]);
    let mut server = bench.stream().await;
    server.request().await;
    drop(bench.client);
    server.no_request().await;
    drop(subscriber);
    assert_eq!(server.requests.recv().await, None);
    server.responses.closed().await;
}

#[tokio::test(start_paused = true)]
async fn cancelling_ends_the_task_whatever_it_does() {
    for mode in [Mode::Accept, Mode::Refuse, Mode::Hang] {
        let bench = Bench::new(mode);
        let mut subscriber = bench.client.subscriber();
        subscriber.watch(&[(&THING, &names(&["a"]))]);
        tokio::time::sleep(Duration::from_millis(1)).await;
        bench.cancel.cancel();
        bench.tasks.wait().await;
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
        assert!(bench.transport.closed.load(Ordering::Relaxed));
        let status = bench.client.status().to_string();
        assert_eq!(status, "control plane istiod:15010 is not asked any more: the mesh was shut down");
        assert!(bench.client.resources().iter().all(|resource| &*resource.name == "a"));
        // The handles stay usable.
        subscriber.watch(&[(&THING, &names(&["b"]))]);
        assert_eq!(subscriber.get(&THING, "b").verdict, Verdict::Pending);
    }
}

#[tokio::test(start_paused = true)]
async fn the_control_plane_has_what_it_is_owed_before_the_stream_ends() {
    let mut bench = Bench::new(Mode::Accept);
    let mut subscriber = bench.client.subscriber();
    subscriber.watch(&[(&PART, &names(&["a", "b"]))]);
    let mut server = bench.stream().await;
    server.request().await;
    for (version, name) in [("1", "a"), ("2", "b")] {
        server.respond(&PART, version, &[(name, "bad")]);
        assert_eq!(changed(&mut subscriber).await, [name]);
    }
    assert_eq!(server.request().await.response_nonce, "1");
    let start = Instant::now();
    bench.cancel.cancel();
    // The second NACK would have paused, so that the server is not flooded.
    let nack = server.request().await;
    assert!(nack.response_nonce == "2" && nack.error_detail.is_some());
    assert_eq!(server.requests.recv().await, None);
    assert!(!bench.tasks.is_empty(), "it waits for the server");
    drop(server);
    bench.tasks.wait().await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_end_its_stream_holds_the_end_up_for_a_second() {
    let mut bench = Bench::new(Mode::Accept);
    let mut subscriber = bench.client.subscriber();
    subscriber.watch(&[(&THING, &names(&["a"]))]);
    let server = bench.stream().await;
    let start = Instant::now();
    bench.cancel.cancel();
    bench.tasks.wait().await;
    assert_eq!(start.elapsed().as_secs(), 1);
    assert!(server.responses.is_closed());
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_control_plane_is_said_to_be_one() {
    let mut bench = Bench::new(Mode::Refuse);
    assert_eq!(bench.client.status().to_string(), "control plane istiod:15010 was not asked yet");
    let mut subscriber = bench.client.subscriber();
    subscriber.watch(&[(&THING, &names(&["a"]))]);
    failed(&bench.client, 3).await;
    let wanted =
        "control plane istiod:15010 failed 3 times in 2.6 s: UNAVAILABLE: connection refused, next try in 2.6 s";
    assert_eq!(bench.client.status().to_string(), wanted);
    let state = subscriber.get(&THING, "a");
    assert_eq!((state.verdict, state.error.as_deref()), (Verdict::Pending, Some("UNAVAILABLE: connection refused")));
    *bench.transport.mode.lock() = Mode::Accept;
    let mut server = bench.stream().await;
    server.request().await;
    server.respond(&THING, "1", &[("a", "x")]);
    // Why it could not be asked was news, too.
    while subscriber.get(&THING, "a").verdict == Verdict::Pending {
        assert_eq!(changed(&mut subscriber).await, ["a"]);
    }
    assert_eq!(subscriber.get(&THING, "a").error, None);
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_control_plane_changes_nothing_for_its_watchers() {
    let mut bench = Bench::new(Mode::Accept);
    let mut subscriber = bench.client.subscriber();
    subscriber.watch(&[(&THING, &names(&["a"]))]);
    let mut server = bench.stream().await;
    server.request().await;
    server.respond(&THING, "1", &[("a", "x")]);
    changed(&mut subscriber).await;
    drop(server);
    let mut server = bench.stream().await;
    let request = server.request().await;
    assert_eq!((request.version_info.as_str(), request.response_nonce.as_str()), ("1", ""));
    assert!(request.node.is_some());
    assert_eq!(value(&subscriber, &THING, "a").as_deref(), Some("x"));
    server.respond(&THING, "1", &[("a", "x")]);
    server.request().await;
    assert!(timeout(Duration::from_secs(60), subscriber.changed()).await.is_err(), "nothing changed");
}

#[tokio::test(start_paused = true)]
async fn a_silent_control_plane_gets_every_request_and_the_timers_run() {
    let mut bench = Bench::new(Mode::Accept);
    let mut subscriber = bench.client.subscriber();
    let start = Instant::now();
    let all: Vec<String> = (0..100).map(|i| format!("name-{i}")).collect();
    subscriber.watch(&[(&THING, &names(&["a"]))]);
    let mut server = bench.stream().await;
    server.request().await;
    let mut watched = names(&["a"]);
    for name in all {
        watched.insert(name.into());
        subscriber.watch(&[(&THING, &watched)]);
        server.request().await;
    }
    assert_eq!(changed(&mut subscriber).await.len(), 101);
    assert_eq!(start.elapsed().as_secs(), 15);
    assert_eq!(subscriber.get(&THING, "a").verdict, Verdict::DoesNotExist);
}

#[tokio::test(start_paused = true)]
async fn timers_do_not_run_while_connecting() {
    let bench = Bench::new(Mode::Hang);
    let mut subscriber = bench.client.subscriber();
    subscriber.watch(&[(&THING, &names(&["a"]))]);
    assert!(timeout(Duration::from_secs(3600), subscriber.changed()).await.is_err());
    assert_eq!(bench.client.status().to_string(), "control plane istiod:15010 is being connected to");
}

#[tokio::test(start_paused = true)]
async fn a_response_that_cannot_be_read_ends_the_stream_with_a_text() {
    let mut bench = Bench::new(Mode::Accept);
    let mut subscriber = bench.client.subscriber();
    subscriber.watch(&[(&THING, &names(&["a"]))]);
    let mut server = bench.stream().await;
    server.request().await;
    server.responses.send(Ok(Bytes::from_static(&[0xff]))).unwrap();
    failed(&bench.client, 1).await;
    let error = subscriber.get(&THING, "a").error;
    assert_eq!(error.as_deref(), Some("INTERNAL: response: malformed protobuf"));
    bench.stream().await;
}

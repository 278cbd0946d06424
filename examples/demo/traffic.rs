//! The client: calls at a steady rate all the while, and remembers every call.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::CallInfo;
use mesh_examples::helloworld::HelloRequest;
use mesh_examples::helloworld::greeter_client::GreeterClient;
use mesh_tonic::MeshChannel;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tonic::{Request, Status};

use crate::config::{GROUP, STAFF};
use crate::fleet::PROBE;

/// Between the starts of two calls.
const INTERVAL: Duration = Duration::from_millis(1);
/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long a push may take to act.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many calls are kept; the demo makes a fifth as many, unless it is held.
const REMEMBERED: usize = 100_000;

/// A call that ended.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) started: Instant,
    pub(crate) ended: Instant,
    /// One of those that measure how soon a push acts; they are not part of the steady traffic.
    pub(crate) is_probe: bool,
    /// How often it was tried; 0 if it failed.
    pub(crate) attempts: u32,
    /// The endpoint that answered, by the mesh's account, or what went wrong.
    pub(crate) outcome: Result<String, Status>,
}

impl Call {
    /// Whether the call failed, and its status names this endpoint.
    pub(crate) fn failed_at(&self, endpoint: &str) -> bool {
        self.outcome.as_ref().is_err_and(|status| status.message().contains(endpoint))
    }
}

/// Whose call a probe is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Caller {
    Staff,
    Anyone,
}

/// The steady traffic; it ends when dropped.
pub(crate) struct Traffic {
    client: Client,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Client {
    greeter: GreeterClient<MeshChannel>,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    calls: Mutex<Calls>,
    ended: Notify,
}

#[derive(Default)]
struct Calls {
    next: u64,
    in_flight: BTreeSet<u64>,
    /// The last [`REMEMBERED`] calls.
    ended: VecDeque<Call>,
}

impl Traffic {
    /// Starts to call.
    pub(crate) fn start(channel: MeshChannel) -> Self {
        let client = Client { greeter: GreeterClient::new(channel), log: Arc::default() };
        let task = tokio::spawn(client.clone().call_steadily());
        Self { client, task }
    }

    /// Stops to call.
    pub(crate) fn stop(&self) {
        self.task.abort();
    }

    /// Calls again and again until `wanted` endpoint answers; when that was, unless it takes too long.
    pub(crate) async fn probe(&self, caller: Caller, wanted: impl Fn(&str) -> bool) -> Option<Instant> {
        let probe = async {
            loop {
                let call = self.client.clone().call(Some(caller)).await;
                if call.outcome.is_ok_and(|endpoint| wanted(&endpoint)) {
                    return call.ended;
                }
            }
        };
        timeout(PATIENCE, probe).await.ok()
    }

    /// Waits until all calls that were started so far ended.
    pub(crate) async fn settle(&self) {
        let log = &self.client.log;
        let end = log.calls.lock().next;
        loop {
            let ended = log.ended.notified();
            if log.calls.lock().in_flight.first().is_none_or(|first| *first >= end) {
                return;
            }
            ended.await;
        }
    }

    /// The calls that were started at `from` or later, and ended.
    pub(crate) fn since(&self, from: Instant) -> Vec<Call> {
        let calls = self.client.log.calls.lock();
        calls.ended.iter().filter(|call| call.started >= from).cloned().collect()
    }

    /// All calls that ended.
    pub(crate) fn all(&self) -> Vec<Call> {
        self.client.log.calls.lock().ended.iter().cloned().collect()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Client {
    async fn call_steadily(self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        loop {
            ticks.tick().await;
            let client = self.clone();
            tokio::spawn(async move { client.call(None).await });
        }
    }

    async fn call(mut self, probe: Option<Caller>) -> Call {
        let number = self.log.start();
        let started = Instant::now();
        let reply = self.greeter.say_hello(request(probe)).await;
        let info = reply.map(|reply| reply.extensions().get::<CallInfo>().cloned());
        let attempts = info.as_ref().ok().and_then(Option::as_ref).map_or(0, CallInfo::attempts);
        let outcome = info.map(|info| info.map(|info| info.endpoint().to_string()).unwrap_or_default());
        let call = Call { started, ended: Instant::now(), is_probe: probe.is_some(), attempts, outcome };
        self.log.end(number, call.clone());
        call
    }
}

impl Log {
    fn start(&self) -> u64 {
        let mut calls = self.calls.lock();
        let number = calls.next;
        calls.next += 1;
        calls.in_flight.insert(number);
        number
    }

    fn end(&self, number: u64, call: Call) {
        let mut calls = self.calls.lock();
        calls.in_flight.remove(&number);
        calls.ended.push_back(call);
        if calls.ended.len() > REMEMBERED {
            calls.ended.pop_front();
        }
        drop(calls);
        self.ended.notify_waiters();
    }
}

fn request(probe: Option<Caller>) -> Request<HelloRequest> {
    let mut request = Request::new(HelloRequest { name: "demo".to_owned() });
    request.set_timeout(DEADLINE);
    let metadata = request.metadata_mut();
    if let Some(caller) = probe {
        metadata.insert(PROBE, "1".parse().expect("it is ASCII"));
        if let Caller::Staff = caller {
            metadata.insert(GROUP, STAFF.parse().expect("it is ASCII"));
        }
    }
    request
}

//! Counts calls: all of them by status, and blocks of consecutive ones by who answered.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Duration;

use mesh_examples::grpc_testing::client_configure_request::RpcType;
use mesh_examples::grpc_testing::load_balancer_accumulated_stats_response::MethodStats;
use mesh_examples::grpc_testing::load_balancer_stats_response::{MetadataEntry, MetadataType, RpcMetadata};
use mesh_examples::grpc_testing::{
    LoadBalancerAccumulatedStatsResponse, LoadBalancerStatsRequest, LoadBalancerStatsResponse,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::{Code, Status};

/// The counts.
#[derive(Default)]
pub(super) struct Stats(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    /// The number of the next call; consecutive calls have consecutive numbers.
    next: u64,
    any_succeeded: bool,
    by_type: BTreeMap<RpcType, MethodStats>,
    watchers: HashMap<u64, Watcher>,
    next_watcher: u64,
}

/// What a call brought.
#[derive(Debug)]
pub(super) struct Answer {
    peer: String,
    initial: MetadataMap,
    trailing: MetadataMap,
}

impl Answer {
    /// The server's name is in the header `hostname`, else in the message.
    pub(super) fn new(initial: MetadataMap, trailing: MetadataMap, host_name: String) -> Self {
        let header = initial.get("hostname").and_then(|value| value.to_str().ok());
        Self { peer: header.map_or(host_name, str::to_owned), initial, trailing }
    }
}

impl Stats {
    /// Counts a call that starts, and gives its number.
    pub(super) fn start(&self, rpc_type: RpcType) -> u64 {
        let mut counts = self.0.lock();
        counts.by_type.entry(rpc_type).or_default().rpcs_started += 1;
        counts.next += 1;
        counts.next - 1
    }

    /// Counts a call that ended; says whether one had succeeded before.
    pub(super) fn end(&self, id: u64, rpc_type: RpcType, result: &Result<Answer, Status>) -> bool {
        let mut counts = self.0.lock();
        let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
        *counts.by_type.entry(rpc_type).or_default().result.entry(code.into()).or_default() += 1;
        for watcher in counts.watchers.values_mut().filter(|watcher| watcher.calls.contains(&id)) {
            watcher.record(rpc_type, result.as_ref().ok());
        }
        counts.watchers.retain(|_, watcher| watcher.is_open());
        let succeeded_before = counts.any_succeeded;
        counts.any_succeeded |= result.is_ok();
        succeeded_before
    }

    /// Who answers the next calls: waits until they ended, or for `timeout`; then the missing ones have failed.
    pub(super) async fn watch(
        &self,
        request: &LoadBalancerStatsRequest,
        timeout: Duration,
    ) -> LoadBalancerStatsResponse {
        let (done, all_ended) = oneshot::channel();
        let key = self.add_watcher(request, done);
        let all_ended = tokio::time::timeout(timeout, all_ended).await;
        match (all_ended, self.0.lock().watchers.remove(&key)) {
            (Ok(Ok(response)), _) => response,
            (_, Some(watcher)) => watcher.partial(),
            _ => LoadBalancerStatsResponse::default(),
        }
    }

    fn add_watcher(&self, request: &LoadBalancerStatsRequest, done: oneshot::Sender<LoadBalancerStatsResponse>) -> u64 {
        let mut counts = self.0.lock();
        let remaining = request.num_rpcs.max(0);
        let calls = counts.next..counts.next + u64::from(remaining.unsigned_abs());
        let keys = request.metadata_keys.iter().map(|key| key.to_ascii_lowercase()).collect();
        let watcher = Watcher { calls, remaining, keys, response: Default::default(), done: Some(done) };
        let key = counts.next_watcher;
        counts.next_watcher += 1;
        counts.watchers.insert(key, watcher);
        key
    }

    /// All calls, by type and status.
    pub(super) fn accumulated(&self) -> LoadBalancerAccumulatedStatsResponse {
        let counts = self.0.lock();
        let mut response = LoadBalancerAccumulatedStatsResponse::default();
        for (rpc_type, stats) in &counts.by_type {
            let name = rpc_type.as_str_name().to_owned();
            let succeeded = stats.result.get(&i32::from(Code::Ok)).copied().unwrap_or(0);
            let failed = stats.result.values().sum::<i32>() - succeeded;
            response.num_rpcs_started_by_method.insert(name.clone(), stats.rpcs_started);
            response.num_rpcs_succeeded_by_method.insert(name.clone(), succeeded);
            response.num_rpcs_failed_by_method.insert(name.clone(), failed);
            response.stats_per_method.insert(name, stats.clone());
        }
        response
    }
}

/// A test driver that waits for a block of calls to end.
struct Watcher {
    calls: Range<u64>,
    remaining: i32,
    keys: Vec<String>,
    response: LoadBalancerStatsResponse,
    done: Option<oneshot::Sender<LoadBalancerStatsResponse>>,
}

impl Watcher {
    fn record(&mut self, rpc_type: RpcType, answer: Option<&Answer>) {
        match answer {
            Some(answer) if !answer.peer.is_empty() => self.record_answer(rpc_type, answer),
            _ => self.response.num_failures += 1,
        }
        self.remaining -= 1;
        if self.remaining == 0
            && let Some(done) = self.done.take()
        {
            let _ = done.send(std::mem::take(&mut self.response));
        }
    }

    fn record_answer(&mut self, rpc_type: RpcType, answer: &Answer) {
        let response = &mut self.response;
        *response.rpcs_by_peer.entry(answer.peer.clone()).or_default() += 1;
        // By the method's own name, as the drivers of all languages expect it here.
        let method = match rpc_type {
            RpcType::EmptyCall => "EmptyCall",
            RpcType::UnaryCall => "UnaryCall",
        };
        let by_method = response.rpcs_by_method.entry(method.to_owned()).or_default();
        *by_method.rpcs_by_peer.entry(answer.peer.clone()).or_default() += 1;
        if !self.keys.is_empty() {
            let mut metadata = entries(&answer.initial, MetadataType::Initial, &self.keys);
            metadata.extend(entries(&answer.trailing, MetadataType::Trailing, &self.keys));
            let by_peer = response.metadatas_by_peer.entry(answer.peer.clone()).or_default();
            by_peer.rpc_metadata.push(RpcMetadata { metadata });
        }
    }

    /// Whether calls of the block are still to end, and the test driver still waits.
    fn is_open(&self) -> bool {
        self.done.as_ref().is_some_and(|done| !done.is_closed())
    }

    fn partial(mut self) -> LoadBalancerStatsResponse {
        self.response.num_failures += self.remaining;
        self.response
    }
}

fn entries(metadata: &MetadataMap, metadata_type: MetadataType, keys: &[String]) -> Vec<MetadataEntry> {
    let wanted = |name: &str| keys.iter().any(|key| key == "*" || key == name);
    let pairs = metadata.iter().map(|pair| match pair {
        KeyAndValueRef::Ascii(key, value) => (key.as_str(), value.as_encoded_bytes()),
        KeyAndValueRef::Binary(key, value) => (key.as_str(), value.as_encoded_bytes()),
    });
    let entries = pairs.filter(|(key, _)| wanted(key)).map(|(key, value)| MetadataEntry {
        key: key.to_owned(),
        value: String::from_utf8_lossy(value).into_owned(),
        r#type: metadata_type.into(),
    });
    entries.collect()
}

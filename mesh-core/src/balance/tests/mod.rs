//! The balancer over a network without sockets, on paused time.

mod aggregates;
mod endpoints;
mod http2;
mod memory;
mod outliers;
mod priorities;
mod slots;
mod speed;
mod spill;
mod spread;
mod summary;
mod updates;
mod watchers;
mod zones;

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::{Balance, BalanceOptions, Clusters, ResponseBody};
use crate::call::{Call, CallInfo, CallOptions};
use crate::connect::testing::{MockBody, Network, address};
use crate::error::Error;
use crate::resource::cluster::{Balancing, Cluster, Discovery, EndpointPolicy};
use crate::resource::endpoints::{Address, Endpoint, Endpoints, Health, LocalityEndpoints, Priority};
use crate::snapshot::{ClusterConfig, ClusterEntry, ClusterKey};

/// A mesh over a network.
pub(crate) struct Mesh {
    network: Network,
    clusters: Clusters<Network>,
    shutdown: CancellationToken,
}

type Answered = Result<Response<ResponseBody<MockBody>>, Error>;

impl Mesh {
    fn new() -> Self {
        Self::with(BalanceOptions::new())
    }

    fn with(options: BalanceOptions) -> Self {
        let network = Network::default();
        let shutdown = CancellationToken::new();
        let clusters = Clusters::new(network.clone(), options, None, shutdown.clone());
        Self { network, clusters, shutdown }
    }

    /// Calls the cluster of `entry`.
    fn call(&self, entry: &Arc<ClusterEntry>) -> impl Future<Output = Answered> + use<> {
        self.call_with(entry, Call::default(), CallOptions::new())
    }

    fn call_with(
        &self,
        entry: &Arc<ClusterEntry>,
        mut call: Call,
        options: CallOptions,
    ) -> impl Future<Output = Answered> + use<> {
        call.cluster = Some(entry.clone());
        let mut request = Request::new(());
        request.extensions_mut().insert(call);
        request.extensions_mut().insert(options);
        Balance::of(self.clusters.clone()).call(request)
    }

    /// Calls one after the other; the number of the endpoint that answered each.
    async fn calls(&self, entry: &Arc<ClusterEntry>, count: usize) -> Vec<u16> {
        let mut numbers = Vec::new();
        for _ in 0..count {
            numbers.push(endpoint(&self.call(entry).await.unwrap()));
        }
        numbers
    }

    /// Connects the cluster and lets its endpoints settle.
    async fn prepare(&self, entry: &Arc<ClusterEntry>) {
        self.clusters.prepare(entry);
        settle().await;
    }
}

fn wait_for_ready() -> CallOptions {
    CallOptions::new().wait_for_ready(true)
}

/// Lets all tasks run until they wait; takes a millisecond of paused time.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

async fn seconds(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

fn endpoint(response: &Response<ResponseBody<MockBody>>) -> u16 {
    match response.extensions().get::<CallInfo>().unwrap().endpoint() {
        Address::Socket(socket) => socket.port(),
        other => panic!("{other}"),
    }
}

fn count(numbers: &[u16], number: u16) -> usize {
    numbers.iter().filter(|other| **other == number).count()
}

/// Cluster `greeter`, round robin over one locality with these endpoints.
fn cluster(endpoints: &[u16]) -> Arc<ClusterEntry> {
    entry(EndpointPolicy::RoundRobin, vec![vec![(1, endpoints)]])
}

/// Cluster `greeter`: of each priority its localities, of each locality its weight and its endpoints.
fn entry(policy: EndpointPolicy, priorities: Vec<Vec<(u32, &[u16])>>) -> Arc<ClusterEntry> {
    let health = |_| Health::Healthy;
    entry_with(policy, priorities, health)
}

fn entry_with(
    policy: EndpointPolicy,
    priorities: Vec<Vec<(u32, &[u16])>>,
    health: impl Fn(u16) -> Health,
) -> Arc<ClusterEntry> {
    let endpoint = |number: &u16| Endpoint { health: health(*number), ..Endpoint::new(address(*number)) };
    let locality = |(weight, numbers): (u32, &[u16])| LocalityEndpoints {
        locality: Arc::default(),
        weight,
        endpoints: numbers.iter().map(endpoint).collect(),
    };
    let priority =
        |localities: Vec<(u32, &[u16])>| Priority { localities: localities.into_iter().map(locality).collect() };
    let endpoints = Endpoints { priorities: priorities.into_iter().map(priority).collect(), ..Endpoints::default() };
    let key = ClusterKey { source: "test".into(), name: "greeter".into() };
    let cluster = Cluster::plain("greeter".into(), Balancing::new(true, policy));
    Arc::new(ClusterEntry::new(key, Ok(ClusterConfig { cluster: Arc::new(cluster), endpoints: Arc::new(endpoints) })))
}

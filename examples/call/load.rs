//! Makes the calls: so many at a time, and not faster than asked.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mesh_core::CallOptions;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::args::Args;
use crate::channel::{Channel, Endpoint};
use crate::codec::Raw;

/// A call that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Of the calls in the order in which they were made, from 0.
    pub(crate) number: u64,
    /// When it ended, from the start of the first.
    pub(crate) at: Duration,
    pub(crate) took: Duration,
    pub(crate) result: Result<Bytes, Status>,
    /// Those of the answer, of a call that succeeded.
    pub(crate) headers: MetadataMap,
    /// The endpoint that it was sent to, if it was sent.
    pub(crate) endpoint: Option<String>,
}

/// What the callers share.
struct Load {
    args: Args,
    channel: Channel,
    start: Instant,
    next: AtomicU64,
}

/// Makes the calls, and hands over each as it ends; ctrl-c ends it early. Fails if a caller panics.
pub(crate) async fn run(args: &Args, channel: Channel, mut on_end: impl FnMut(Ended)) -> Result<(), JoinError> {
    let load = Load { args: args.clone(), channel, start: Instant::now(), next: AtomicU64::new(0) };
    let load = Arc::new(load);
    let (send, mut ended) = mpsc::channel(1024);
    let mut callers = JoinSet::new();
    for _ in 0..u64::from(args.concurrency()).min(load.count()) {
        callers.spawn(load.clone().call_in_turn(send.clone()));
    }
    drop(send);
    // One for all turns: a signal between two of them would be lost.
    let mut stop = pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            call = ended.recv() => match call {
                Some(call) => on_end(call),
                None => break,
            },
            _ = &mut stop => return Ok(()),
        }
    }
    while let Some(caller) = callers.join_next().await {
        caller?;
    }
    Ok(())
}

impl Load {
    fn count(&self) -> u64 {
        if self.args.count == 0 { u64::MAX } else { self.args.count }
    }

    /// Takes the next number until there is none, waits for its time, and calls.
    async fn call_in_turn(self: Arc<Self>, ended: mpsc::Sender<Ended>) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.count() {
                return;
            }
            if let Some(rate) = self.args.rate {
                // From the first call and not from the last one, so that the rate does not drift.
                sleep_until(self.start + Duration::from_secs_f64(number as f64 / rate)).await;
            }
            if ended.send(self.call(number).await).await.is_err() {
                return;
            }
        }
    }

    async fn call(&self, number: u64) -> Ended {
        let started = Instant::now();
        let endpoint = Endpoint::default();
        let answer = self.unary(number, endpoint.clone()).await;
        let (at, took) = (self.start.elapsed(), started.elapsed());
        let (headers, result) = match answer.map(Response::into_parts) {
            Ok((headers, reply, _)) => (headers, Ok(reply)),
            Err(status) => (MetadataMap::new(), Err(status)),
        };
        Ended { number, at, took, result, headers, endpoint: endpoint.get() }
    }

    async fn unary(&self, number: u64, endpoint: Endpoint) -> Result<Response<Bytes>, Status> {
        let mut request = Request::new(self.args.data.clone());
        *request.metadata_mut() = self.args.metadata(number);
        if !self.args.deadline.is_zero() {
            request.set_timeout(self.args.deadline);
        }
        request.extensions_mut().insert(endpoint);
        request.extensions_mut().insert(CallOptions::new().wait_for_ready(self.args.wait_for_ready));
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(self.args.max_reply);
        grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
        grpc.unary(request, self.args.method.clone(), Raw).await
    }
}

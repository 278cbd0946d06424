//! Closed-loop callers: each sends its next call when the last one was answered.

use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tonic::Request;
use tonic::metadata::AsciiMetadataValue;

use crate::Error;
use crate::echo::EchoRequest;
use crate::echo::echo_client::EchoClient;
use crate::meter::{Meter, Used};
use crate::paths::Transport;

/// Far off, so that what a deadline costs is its bookkeeping.
const DEADLINE: Duration = Duration::from_secs(20);

/// Unary calls to be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "made by the benches")]
pub struct Work {
    /// How many callers there are.
    pub callers: usize,
    /// Bytes sent and echoed.
    pub payload: usize,
    /// Whether each call has a deadline. It is told to the channel in its finished form: what an application spends on
    /// writing it is no path's cost.
    pub deadline: bool,
    /// When each caller stops.
    pub until: Until,
}

/// When a caller stops.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_enums, reason = "made by the benches")]
pub enum Until {
    /// After its call that ends beyond this time.
    Elapsed(Duration),
    /// After this many calls.
    Calls(u64),
}

/// What came of a run.
#[derive(Debug)]
#[non_exhaustive]
pub struct Sample {
    /// Latency of the calls that succeeded, in nanoseconds.
    pub latency: Histogram<u32>,
    /// What the process used that is measured: the client's, or the [server's](crate::serving).
    pub used: Used,
}

impl Sample {
    /// Calls answered.
    #[must_use]
    pub fn calls(&self) -> f64 {
        count(self.latency.len())
    }

    /// CPU of that process per call, in microseconds.
    #[must_use]
    pub fn cpu_us(&self) -> f64 {
        self.used.cpu.as_secs_f64() * 1e6 / self.calls()
    }

    /// Calls per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.calls() / self.used.elapsed.as_secs_f64()
    }

    /// Allocations per call.
    #[must_use]
    pub fn allocations(&self) -> f64 {
        count(self.used.allocations) / self.calls()
    }

    /// Latency at `quantile` in microseconds.
    #[must_use]
    pub fn latency_us(&self, quantile: f64) -> f64 {
        count(self.latency.value_at_quantile(quantile)) / 1e3
    }
}

/// A counter as a number to divide by; exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "no counter of a bench comes near 2^53")]
fn count(counter: u64) -> f64 {
    counter as f64
}

/// Runs `work` on `channel`.
///
/// # Errors
///
/// Fails with the first call that fails: figures with failures in them say nothing.
pub async fn closed_loop<T: Transport>(channel: T, work: &Work) -> Result<Sample, Error> {
    let client = EchoClient::new(channel);
    let payload = Bytes::from(vec![7; work.payload]);
    let callers: Vec<_> = (0..work.callers).map(|_| histogram()).collect();
    let meter = Meter::start();
    let callers: Vec<_> = callers
        .into_iter()
        .map(|latency| tokio::spawn(call(client.clone(), payload.clone(), work.clone(), latency)))
        .collect();
    let mut latencies = Vec::with_capacity(callers.len());
    for caller in callers {
        latencies.push(caller.await??);
    }
    let used = meter.stop();
    Ok(Sample { latency: merge(latencies)?, used })
}

async fn call<T: Transport>(
    mut client: EchoClient<T>,
    payload: Bytes,
    work: Work,
    mut latency: Histogram<u32>,
) -> Result<Histogram<u32>, Error> {
    let deadline = work.deadline.then(|| grpc_timeout(DEADLINE)).transpose()?;
    let begin = Instant::now();
    let mut start = begin;
    loop {
        let mut request = Request::new(EchoRequest { payload: payload.clone() });
        if let Some(deadline) = &deadline {
            request.metadata_mut().insert("grpc-timeout", deadline.clone());
        }
        client.unary(request).await?;
        let end = Instant::now();
        latency.saturating_record(nanoseconds(end - start));
        start = end;
        let done = match work.until {
            Until::Elapsed(limit) => end - begin >= limit,
            Until::Calls(limit) => latency.len() >= limit,
        };
        if done {
            return Ok(latency);
        }
    }
}

fn grpc_timeout(deadline: Duration) -> Result<AsciiMetadataValue, Error> {
    Ok(format!("{}m", deadline.as_millis()).parse()?)
}

/// From 100 ns to 60 s, exact to a thousandth.
pub(crate) fn histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(100, 60_000_000_000, 3).expect("the bounds are constant and valid")
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn merge(latencies: Vec<Histogram<u32>>) -> Result<Histogram<u32>, Error> {
    let mut all = histogram();
    for latency in latencies {
        all.add(latency)?;
    }
    Ok(all)
}

//! Streams of 16 KiB messages: throughput each way, and what a reader that stalls does to the
//! calls beside it.

use std::time::Duration;

use bytes::Bytes;
use mesh_benches::drive::{Sample, Until, Work, closed_loop};
use mesh_benches::echo::echo_client::EchoClient;
use mesh_benches::echo::{DownloadRequest, EchoRequest};
use mesh_benches::meter::{Meter, Used, resident};
use mesh_benches::paths::{Load, Path, Transport};
use mesh_benches::server::Servers;
use mesh_benches::site::Site;
use mesh_benches::{Error, Flavor};
use serde::Serialize;
use tokio::time::{Instant, timeout};

use crate::Args;

const MESSAGE: u32 = 16 * 1024;
const STALLED_STREAMS: usize = 100;

/// What is done on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// The server sends as fast as the client reads.
    Download,
    /// The client sends as fast as the server reads.
    Upload,
    /// One caller's unary calls beside a hundred downloads that nobody reads.
    Stalled,
}

/// One path and kind.
#[derive(Serialize)]
pub(crate) struct Row {
    path: Path,
    kind: Kind,
    runtime: Flavor,
    endpoints: usize,
    /// Streams at a time.
    streams: usize,
    /// The best round's.
    #[serde(skip_serializing_if = "Option::is_none")]
    mib_per_s: Option<f64>,
    /// CPU of the client in microseconds per MiB, the best round's.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_us_per_mib: Option<f64>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    beside: Option<Beside>,
}

/// Unary calls beside stalled streams.
#[derive(Clone, Copy, Serialize)]
struct Beside {
    /// Without the streams.
    p50_us_alone: f64,
    /// With them; absent when not every call was answered.
    p50_us: Option<f64>,
    /// By how much the streams made the client's resident memory grow.
    resident_mib: f64,
}

/// Measures streams on every path, and prints each row when it is there.
pub(crate) fn run(args: &Args) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for &endpoints in &args.endpoints {
        let servers = Servers::start(endpoints)?;
        for &runtime in &args.runtime {
            let cell = Cell { args, site: servers.site(), runtime };
            for &streams in &args.callers {
                cell.throughput(Kind::Download, streams, &mut rows)?;
                cell.throughput(Kind::Upload, streams, &mut rows)?;
            }
            cell.stalled(&mut rows)?;
        }
    }
    Ok(rows)
}

/// What stays the same while the paths are compared.
struct Cell<'a> {
    args: &'a Args,
    site: &'a Site,
    runtime: Flavor,
}

impl Cell<'_> {
    fn throughput(&self, kind: Kind, streams: usize, rows: &mut Vec<Row>) -> Result<(), Error> {
        let first = rows.len();
        rows.extend(self.args.paths().into_iter().map(|path| self.row(path, kind, streams)));
        for _ in 0..self.args.rounds {
            for row in &mut rows[first..] {
                let load = Transfer { kind, streams, length: self.args.length() };
                row.keep_best(&self.once(row.path, load)?);
            }
        }
        rows[first..].iter().for_each(print);
        Ok(())
    }

    fn stalled(&self, rows: &mut Vec<Row>) -> Result<(), Error> {
        for path in self.args.paths() {
            let mut row = self.row(path, Kind::Stalled, STALLED_STREAMS);
            row.beside = Some(self.once(path, BesideStalled { length: self.args.length() })?);
            print(&row);
            rows.push(row);
        }
        Ok(())
    }

    fn once<L: Load>(&self, path: Path, load: L) -> Result<L::Output, Error> {
        self.runtime.runtime()?.block_on(path.load(self.site, load))
    }

    fn row(&self, path: Path, kind: Kind, streams: usize) -> Row {
        let (runtime, endpoints) = (self.runtime, self.site.plain.len());
        let (mib_per_s, cpu_us_per_mib, beside) = (None, None, None);
        Row { path, kind, runtime, endpoints, streams, mib_per_s, cpu_us_per_mib, beside }
    }
}

impl Row {
    fn keep_best(&mut self, transferred: &Transferred) {
        let (rate, cpu) = (transferred.mib_per_s(), transferred.cpu_us_per_mib());
        self.mib_per_s = Some(self.mib_per_s.map_or(rate, |best| best.max(rate)));
        self.cpu_us_per_mib = Some(self.cpu_us_per_mib.map_or(cpu, |best| best.min(cpu)));
    }
}

/// Bytes moved, and what moving them took.
struct Transferred {
    mib: f64,
    used: Used,
}

impl Transferred {
    fn mib_per_s(&self) -> f64 {
        self.mib / self.used.elapsed.as_secs_f64()
    }

    fn cpu_us_per_mib(&self) -> f64 {
        self.used.cpu.as_secs_f64() * 1e6 / self.mib
    }
}

/// Moves messages on several streams for a while.
struct Transfer {
    kind: Kind,
    streams: usize,
    length: Duration,
}

impl Load for Transfer {
    type Output = Transferred;

    async fn run<T: Transport>(self, channel: T) -> Result<Transferred, Error> {
        let client = EchoClient::new(channel);
        self.for_a_while(&client, self.length / 4).await?;
        self.for_a_while(&client, self.length).await
    }
}

impl Transfer {
    async fn for_a_while<T: Transport>(&self, client: &EchoClient<T>, length: Duration) -> Result<Transferred, Error> {
        let (kind, meter, end) = (self.kind, Meter::start(), Instant::now() + length);
        let streams = (0..self.streams).map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                match kind {
                    Kind::Upload => upload(client, end).await,
                    Kind::Download | Kind::Stalled => download(client, end).await,
                }
            })
        });
        let mut bytes = 0;
        for stream in streams.collect::<Vec<_>>() {
            bytes += stream.await??;
        }
        Ok(Transferred { mib: mib(bytes), used: meter.stop() })
    }
}

/// Reads what the server sends until `end`, then hangs up.
async fn download<T: Transport>(mut client: EchoClient<T>, end: Instant) -> Result<u64, Error> {
    let mut replies = client.download(endless()).await?.into_inner();
    let mut bytes = 0;
    while Instant::now() < end {
        let reply = replies.message().await?.ok_or("the download ended early")?;
        bytes += reply.payload.len() as u64;
    }
    Ok(bytes)
}

/// Sends until `end`; what counts is what the server says it received.
async fn upload<T: Transport>(mut client: EchoClient<T>, end: Instant) -> Result<u64, Error> {
    let payload = Bytes::from(vec![7; MESSAGE as usize]);
    let requests = std::iter::from_fn(move || (Instant::now() < end).then(|| EchoRequest { payload: payload.clone() }));
    Ok(client.upload(tokio_stream::iter(requests)).await?.into_inner().bytes)
}

fn endless() -> DownloadRequest {
    DownloadRequest { messages: u32::MAX, size: MESSAGE }
}

/// Unary calls alone, then beside streams that are opened and not read.
struct BesideStalled {
    length: Duration,
}

impl Load for BesideStalled {
    type Output = Beside;

    async fn run<T: Transport>(self, channel: T) -> Result<Beside, Error> {
        let work = Work { callers: 1, payload: 0, deadline: false, until: Until::Elapsed(self.length) };
        let alone = closed_loop(channel.clone(), &work).await?;
        let before = resident();
        let mut unread = Vec::new();
        for _ in 0..STALLED_STREAMS {
            unread.push(EchoClient::new(channel.clone()).download(endless()).await?);
        }
        // The servers fill every window meanwhile.
        tokio::time::sleep(self.length).await;
        let beside = timeout(self.length * 4, closed_loop(channel, &work)).await;
        let resident_mib = mib(resident().saturating_sub(before));
        drop(unread);
        let p50 = |sample: &Sample| sample.latency_us(0.5);
        let p50_us = beside.ok().transpose()?.as_ref().map(p50);
        Ok(Beside { p50_us_alone: p50(&alone), p50_us, resident_mib })
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn print(row: &Row) {
    let name = row.path.name();
    let (runtime, kind) = (format!("{:?}", row.runtime), format!("{:?}", row.kind));
    let (runtime, kind) = (runtime.to_lowercase(), kind.to_lowercase());
    let (endpoints, streams) = (row.endpoints, row.streams);
    print!("{name:9} {runtime:7} {endpoints:>2} endpoints {streams:>3} streams {kind:8} ");
    if let (Some(rate), Some(cpu)) = (row.mib_per_s, row.cpu_us_per_mib) {
        println!("{rate:>6.0} MiB/s {cpu:>6.0} us CPU per MiB");
    }
    if let Some(beside) = row.beside {
        let p50 = beside.p50_us.map_or_else(|| "calls blocked".to_owned(), |p50| format!("p50 {p50:.1} us"));
        println!("{p50} ({:.1} alone), {:+.1} MiB resident", beside.p50_us_alone, beside.resident_mib);
    }
}

//! Instructions of a call, counted by valgrind: repeatable where times are not.
//!
//! A client runs under callgrind against servers outside it, once for a short run and once for a
//! long one; the difference is calls and nothing else. The client has one thread: valgrind would
//! run several one at a time.

mod callgrind;
mod parts;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mesh_benches::drive::{Until, Work, closed_loop};
use mesh_benches::paths::{Load, Path, Transport};
use mesh_benches::server::{self, Servers};
use mesh_benches::{Error, Flavor, control, serving};
use serde::Serialize;

use crate::callgrind::Callgrind;

/// Instructions per unary call over loopback, the client's side (of the paths `server…` the server's), in user space.
#[derive(Parser)]
struct Args {
    /// Paths; ratios are to `balance`, with mTLS to `balance-mtls`, of servers to `server`.
    #[arg(long, value_enum, value_delimiter = ',')]
    paths: Vec<Path>,
    /// Callers at a time.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    callers: Vec<u64>,
    /// Bytes in a request and in its reply.
    #[arg(long, default_value_t = 0)]
    payload: usize,
    /// Endpoints, all in one single-threaded server process.
    #[arg(long, default_value_t = 4)]
    endpoints: usize,
    /// Calls in the short run.
    #[arg(long, default_value_t = 2_000)]
    short: u64,
    /// Calls in the long run.
    #[arg(long, default_value_t = 6_000)]
    long: u64,
    /// Gives each call a deadline, on every path.
    #[arg(long)]
    deadline: bool,
    /// Leaves out the single parts: pick, route match, ingest.
    #[arg(long)]
    calls_only: bool,
    /// Keeps callgrind's files in this directory, for `callgrind_annotate`.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Ends with one JSON object on the last line.
    #[arg(long)]
    json: bool,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Serves echo on this many ports until standard input ends.
    #[command(hide = true)]
    Serve { endpoints: usize },
    /// The client that is counted.
    #[command(hide = true)]
    Client {
        path: Path,
        callers: usize,
        calls: u64,
        payload: usize,
        #[arg(long)]
        deadline: bool,
        /// JSON, as the servers tell it.
        site: String,
    },
    /// The server that is counted, with its callers in a process of their own.
    #[command(hide = true)]
    Server { path: Path, callers: usize, calls: u64, payload: usize },
    /// Calls a server that is counted.
    #[command(hide = true)]
    Call { job: String },
    /// Serves a configuration, and changes it as standard input says.
    #[command(hide = true)]
    ControlPlane { clusters: usize, endpoints: usize, live: SocketAddr },
    /// A single part that is counted.
    #[command(hide = true)]
    Part {
        #[command(subcommand)]
        part: parts::Part,
    },
}

/// One path at one number of callers.
#[derive(Serialize)]
struct Row {
    path: Path,
    callers: u64,
    /// Per call.
    instructions: f64,
    /// To `balance`, with mTLS to `balance-mtls`, of servers to `server`, at as many callers; absent when that was not counted.
    ratio: Option<f64>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.role {
        Some(Role::Serve { endpoints }) => server::serve(*endpoints),
        Some(Role::Client { path, callers, calls, payload, deadline, site }) => {
            let until = Until::Calls(*calls);
            let work = Work { callers: *callers, payload: *payload, deadline: *deadline, until };
            client(*path, site, work)
        }
        Some(Role::Server { path, callers, calls, payload }) => {
            let until = Until::Calls(*calls);
            serve(*path, Work { callers: *callers, payload: *payload, deadline: false, until })
        }
        Some(Role::Call { job }) => serving::call(job),
        Some(Role::ControlPlane { clusters, endpoints, live }) => control::serve(*clusters, *endpoints, *live),
        Some(Role::Part { part }) => part.run(),
        None => count(&args),
    };
    mesh_benches::exit(done)
}

fn client(path: Path, site: &str, work: Work) -> Result<(), Error> {
    let site = serde_json::from_str(site)?;
    Flavor::Current.runtime()?.block_on(path.load(&site, Calls(work)))
}

fn serve(path: Path, work: Work) -> Result<(), Error> {
    Flavor::Current.runtime()?.block_on(serving::measure(path, None, work)).map(drop)
}

struct Calls(Work);

impl Load for Calls {
    type Output = ();

    async fn run<T: Transport>(self, channel: T) -> Result<(), Error> {
        closed_loop(channel, &self.0).await.map(drop)
    }
}

fn count(args: &Args) -> Result<(), Error> {
    let callgrind = Callgrind::new(args.keep.as_deref())?;
    let servers = Servers::start(args.endpoints)?;
    let paths = if args.paths.is_empty() { Path::all() } else { args.paths.clone() };
    let mut rows: Vec<Row> = Vec::new();
    println!("{:16} {:>3} {:>12} {:>6}", "path", "c", "instructions", "ratio");
    for &callers in &args.callers {
        let first = rows.len();
        for &path in &paths {
            let instructions = per_call(args, &callgrind, &servers, path, callers)?;
            rows.push(Row { path, callers, instructions, ratio: None });
        }
        compare(&mut rows[first..]);
        rows[first..].iter().for_each(print);
    }
    let parts = if args.calls_only { Vec::new() } else { parts::count(&callgrind)? };
    if args.json {
        println!("{}", serde_json::json!({ "calls": rows, "parts": parts }));
    }
    Ok(())
}

/// The difference of a long and a short run, divided by that of their calls.
fn per_call(args: &Args, callgrind: &Callgrind, servers: &Servers, path: Path, callers: u64) -> Result<f64, Error> {
    let run = |calls: u64| {
        let each = calls.div_ceil(callers);
        let label = format!("{}.{callers}.{calls}", path.name());
        let role = if path.is_server() { "server" } else { "client" };
        let mut counted = vec![role.to_owned(), path.name(), callers.to_string()];
        counted.extend([each.to_string(), args.payload.to_string()]);
        if !path.is_server() {
            counted.extend(args.deadline.then(|| "--deadline".to_owned()));
            counted.push(serde_json::to_string(servers.site())?);
        }
        Ok::<_, Error>((each * callers, callgrind.instructions(&label, &counted)?))
    };
    let (short, long) = (run(args.short)?, run(args.long)?);
    let calls = long.0.checked_sub(short.0).filter(|calls| *calls > 0);
    let calls = calls.ok_or("--long must be longer than --short")?;
    Ok(quotient(long.1.saturating_sub(short.1), calls))
}

#[expect(clippy::cast_precision_loss, reason = "both are far below 2^53")]
fn quotient(dividend: u64, divisor: u64) -> f64 {
    dividend as f64 / divisor as f64
}

fn compare(rows: &mut [Row]) {
    let counted: Vec<_> = rows.iter().map(|row| (row.path, row.instructions)).collect();
    for row in rows {
        let base = counted.iter().find(|(path, _)| *path == row.path.base());
        row.ratio = base.map(|(_, base)| row.instructions / base);
    }
}

fn print(row: &Row) {
    let ratio = row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
    println!("{:16} {:>3} {:>12.0} {ratio:>6}", row.path.name(), row.callers, row.instructions);
}

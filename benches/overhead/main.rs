//! What a unary call costs on each path, side by side.
//!
//! Rounds are interleaved (A B C A B C …), so that foreign load falls on all paths alike; the best
//! round is nearest the truth, as foreign load only ever adds. The servers share one thread of one
//! process. CPU, time and allocations are the client's, and those of the paths `server…` the server's.

mod report;
mod rounds;
mod streams;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use mesh_benches::paths::Path;
use mesh_benches::{Error, Flavor, server, serving};

#[global_allocator]
static ALLOCATOR: alloc_tracker::Allocator<std::alloc::System> = alloc_tracker::Allocator::system();

/// Request paths side by side: CPU, latency and allocations per call, of the client or, for the paths `server…`, of the server.
#[derive(Parser)]
struct Args {
    /// How often each path is measured; figures are the best and the median round's.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of one measurement, in milliseconds.
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u64).range(1..))]
    millis: u64,
    /// Callers at a time; each sends its next call when the last was answered.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    callers: Vec<usize>,
    /// Bytes in a request and in its reply.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1024])]
    payload: Vec<usize>,
    /// Endpoints, all in one single-threaded server process.
    #[arg(long, value_delimiter = ',', default_values_t = [4])]
    endpoints: Vec<usize>,
    /// Runtimes of the client.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Flavor::Current, Flavor::Multi])]
    runtime: Vec<Flavor>,
    /// Paths, in the order of a round; all by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    paths: Vec<Path>,
    /// Gives each call a deadline, on every path.
    #[arg(long)]
    deadline: bool,
    /// Turns the order of the paths round.
    #[arg(long)]
    reverse: bool,
    /// Measures streams of 16 KiB messages in place of unary calls; `--callers` streams at a time.
    #[arg(long)]
    stream: bool,
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
    /// Calls a server that is measured.
    #[command(hide = true)]
    Call { job: String },
}

impl Args {
    fn paths(&self) -> Vec<Path> {
        let mut paths = if self.paths.is_empty() { Path::all() } else { self.paths.clone() };
        paths.retain(|path| !(self.stream && path.is_server()));
        if self.reverse {
            paths.reverse();
        }
        paths
    }

    fn length(&self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.role {
        Some(Role::Serve { endpoints }) => server::serve(*endpoints),
        Some(Role::Call { job }) => serving::call(job),
        None => compare(&args),
    };
    mesh_benches::exit(done)
}

fn compare(args: &Args) -> Result<(), Error> {
    let report = if args.stream {
        serde_json::json!({ "streams": streams::run(args)? })
    } else {
        serde_json::json!({ "rows": rounds::run(args)? })
    };
    if args.json {
        println!("{report}");
    }
    Ok(())
}

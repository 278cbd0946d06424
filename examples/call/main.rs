//! Makes unary calls with raw bytes through the mesh, to any method of any server, and says what became of them:
//! statuses, endpoints, latencies. Like ping with `--each --rate`, a small load generator with `--concurrency`.

mod args;
mod channel;
mod codec;
mod load;
mod report;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::filter::LevelFilter;

use crate::args::Args;
use crate::report::Report;

/// What keeps the program from calling at all.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let args = Args::parse();
    match runtime(args.seed) {
        Ok(runtime) => runtime.block_on(call(&args)),
        Err(error) => {
            eprintln!("call: no runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

/// With a seed it has one thread: each has its own chance.
fn runtime(seed: Option<u64>) -> io::Result<Runtime> {
    let mut builder = match seed {
        Some(seed) => {
            fastrand::seed(seed);
            Builder::new_current_thread()
        }
        None => Builder::new_multi_thread(),
    };
    builder.enable_all().build()
}

async fn call(args: &Args) -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(LevelFilter::WARN).with_ansi(false).init();
    let mut report = Report::new(args);
    if let Err(error) = run(args, &mut report).await {
        let text = whole_text(&*error);
        eprintln!("call: {text}");
        report.no_call(text);
    }
    report.print(args.json);
    if report.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// An error with its causes and, if the mesh made it, all it knows and what to do next.
fn whole_text(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    let of_channel = error.downcast_ref::<mesh_tonic::Error>().map(mesh_tonic::Error::mesh_error);
    if let Some(error) = of_channel.or_else(|| error.downcast_ref()) {
        return error.report();
    }
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

async fn run(args: &Args, report: &mut Report) -> Result<(), Failure> {
    let (mesh, channel) = channel::open(args).await?;
    let target = channel.target().clone();
    load::run(args, channel, |ended| report.add(ended)).await?;
    if args.ignored {
        report.ignored(&mesh.ignored_fields());
    }
    if args.explain {
        report.in_force(&mesh.in_force(&target));
    }
    mesh.shutdown().await;
    Ok(())
}

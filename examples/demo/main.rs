//! The main job in about 17 seconds: a greeter in two versions, a client that calls it all the while through the mesh,
//! and an embedded control plane that shifts the traffic while instances crash, come and go; then a vault that serves by
//! mTLS, whose certificates and whose policy change.
//!
//! It says what happens, measures how soon each push acts, and checks what the mesh promises; when a promise does not
//! hold it exits 1.

mod config;
mod fleet;
mod policy;
mod scenario;
mod story;
mod summary;
mod traffic;
mod vault;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::scenario::Demo;

/// Shows the mesh at work: canary, crash, scaling, a control plane that goes away, certificates and policies that change.
///
/// Exits 1 when a promise that it shows did not hold.
#[derive(Clone, Copy, Debug, Parser)]
struct Args {
    /// Ends with the results as a JSON object on one line.
    #[arg(long)]
    json: bool,
    /// Keeps everything running after the end, until ctrl-c.
    #[arg(long)]
    hold: bool,
}

/// What keeps the demo from going on.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The demo takes about 17 s; what takes longer hangs.
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all promises held.
async fn run(args: Args) -> Result<bool, Failure> {
    let mut demo = Demo::start().await?;
    let played = tokio::time::timeout(LIMIT, demo.play()).await;
    played.unwrap_or_else(|_| Err(format!("not done after {LIMIT:?}").into()))?;
    let summary = demo.sum_up().await;
    if args.hold {
        demo.announce_hold();
    }
    if args.json {
        println!("{}", summary.json(demo.story()));
    }
    if args.hold {
        tokio::signal::ctrl_c().await?;
    }
    demo.stop().await;
    Ok(demo.story().all_kept())
}

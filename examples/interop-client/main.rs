//! The client of gRPC's interoperability tests, and of its proxyless service mesh (PSM) tests, through the mesh.
//!
//! With `--test_case` it runs cases of `doc/interop-test-descriptions.md` of grpc/grpc, and stops at the first that
//! fails. With `--qps` or `--stats_port` it is the client of `doc/xds-test-descriptions.md`: it calls at a steady rate,
//! and a test driver asks it who answered.

mod args;
mod cases;
mod channel;
mod psm;
mod unary;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;

/// What ends the program.
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.is_psm() {
        true => psm::run(&args).await,
        false => cases::run(&args).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("interop-client: {error}");
            ExitCode::FAILURE
        }
    }
}

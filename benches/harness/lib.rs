//! What the benches share: an echo server in a process of its own, the request paths that are
//! compared, closed-loop callers, and an account of time, CPU and allocations.
//!
//! Each bench starts its servers by running its own executable again with the hidden command
//! `serve`, so that the CPU of the client's process is the client's alone.

mod armed;
pub mod control;
pub mod drive;
pub mod layers;
pub mod meter;
pub mod paths;
pub mod server;
pub mod serving;
pub mod site;

use std::process::ExitCode;

#[expect(missing_docs, reason = "generated; `proto/echo.proto` documents the service")]
/// The service under load: `proto/echo.proto`.
pub mod echo {
    // Not a file module, so that rustfmt leaves the code as the generator writes it.
    include!("../proto/echo.rs");
}

/// Any failure of a bench: it is printed, and the program exits non-zero.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// How a bench ends: a failure is printed.
#[must_use]
pub fn exit(done: Result<(), Error>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The two runtimes that calls are measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Flavor {
    /// One thread runs callers and connections.
    Current,
    /// Two workers share them.
    Multi,
}

impl Flavor {
    /// A new runtime of this kind.
    ///
    /// # Errors
    ///
    /// Fails when the system has no more threads or descriptors.
    pub fn runtime(self) -> std::io::Result<tokio::runtime::Runtime> {
        let mut builder = match self {
            Flavor::Current => tokio::runtime::Builder::new_current_thread(),
            Flavor::Multi => tokio::runtime::Builder::new_multi_thread(),
        };
        builder.worker_threads(2).enable_all().build()
    }
}

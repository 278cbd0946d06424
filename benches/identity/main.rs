//! What mTLS costs while nobody calls and while certificates rotate: memory of connections that are idle, and handshakes.

mod idle;
mod rotation;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use mesh_benches::Error;
use mesh_benches::paths::Path;

#[global_allocator]
static ALLOCATOR: alloc_tracker::Allocator<std::alloc::System> = alloc_tracker::Allocator::system();

/// Idle connections and rotations of certificates.
#[derive(Parser)]
struct Args {
    /// Connections to each server that are made and left idle, beside the first tenth of as many.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(5..))]
    connections: u32,
    /// How often both sides get a new certificate.
    #[arg(long, default_value_t = 12)]
    rotations: u32,
    /// How far apart, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    interval: u64,
    /// How long a certificate is valid, in seconds; each is measured.
    #[arg(long, value_delimiter = ',', default_values_t = [4, 3600])]
    life: Vec<u64>,
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
    /// Serves, and says for each line of standard input what that took so far.
    #[command(hide = true)]
    Idle { path: Path },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.role {
        Some(Role::Idle { path }) => idle::serve(path),
        None => report(&args),
    };
    mesh_benches::exit(done)
}

fn report(args: &Args) -> Result<(), Error> {
    let idle = idle::measure(args.connections)?;
    let interval = Duration::from_millis(args.interval);
    let rotate = |life: &u64| rotation::measure(args.rotations, interval, Duration::from_secs(*life));
    let rotation = args.life.iter().map(rotate).collect::<Result<Vec<_>, _>>()?;
    if args.json {
        println!("{}", serde_json::json!({ "idle": idle, "rotation": rotation }));
    }
    Ok(())
}

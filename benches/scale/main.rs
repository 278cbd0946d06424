//! What a large configuration costs a client: CPU and memory to take it in, CPU of a change, and the time from a push
//! to the first request on a new endpoint.
//!
//! Each part runs in a process of its own, so that its memory is its own, and so does the control plane.

mod changes;
mod pick;
mod propagation;
mod rbac;

use std::net::SocketAddr;
use std::process::{Command, ExitCode, Stdio};

use clap::{Parser, Subcommand, ValueEnum};
use mesh_benches::{Error, control, server};
use serde::Serialize;
use serde_json::Value;

/// A large configuration: ingest, changes, propagation, memory.
#[derive(Clone, Parser)]
struct Args {
    /// Clusters that the client's routes name.
    #[arg(long, default_value_t = 10_000)]
    clusters: usize,
    /// Endpoints of each cluster.
    #[arg(long, default_value_t = 10)]
    endpoints: usize,
    /// Changes of one kind; figures are their mean.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    changes: u32,
    /// How often the only endpoint is replaced by another one.
    #[arg(long, default_value_t = 45)]
    toggles: usize,
    /// Ends with one JSON object on the last line.
    #[arg(long)]
    json: bool,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
    /// The part that this process measures.
    #[arg(long, hide = true)]
    part: Option<Part>,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand, Clone, Copy)]
enum Role {
    /// Serves echo on this many ports until standard input ends.
    #[command(hide = true)]
    Serve { endpoints: usize },
    /// Serves a configuration, and changes it as standard input says.
    #[command(hide = true)]
    ControlPlane { clusters: usize, endpoints: usize, live: SocketAddr },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// All clusters: ingest, one assignment changed, an unchanged resend.
    Many,
    /// One cluster of 10,000 endpoints, of which one changes, and all.
    Large,
    /// A mesh that made one call.
    Idle,
    /// tonic's channel that made one call.
    Plain,
    /// From a push to the first request on the new endpoint.
    Propagation,
    /// The balancing layer around a connection that costs nothing.
    Pick,
    /// Access control by many policies.
    Rbac,
}

#[derive(Serialize)]
struct Report {
    clusters: usize,
    endpoints: usize,
    many: Value,
    large: Value,
    idle: Value,
    plain: Value,
    propagation: Value,
    pick: Value,
    rbac: Value,
    /// Memory that ten more endpoints in each cluster add, per endpoint; none of them is connected.
    bytes_per_endpoint: f64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match (args.role, args.part) {
        (Some(Role::Serve { endpoints }), _) => server::serve(endpoints),
        (Some(Role::ControlPlane { clusters, endpoints, live }), _) => control::serve(clusters, endpoints, live),
        (None, Some(part)) => measure(part, &args).map(|figures| println!("{figures}")),
        (None, None) => report(&args),
    };
    mesh_benches::exit(done)
}

fn measure(part: Part, args: &Args) -> Result<Value, Error> {
    match part {
        Part::Many => changes::many(args.clusters, args.endpoints, args.changes),
        Part::Large => changes::large(args.changes),
        Part::Idle => changes::idle(),
        Part::Plain => changes::plain(),
        Part::Propagation => propagation::measure(args.toggles),
        Part::Pick => pick::measure(),
        Part::Rbac => Ok(rbac::measure()),
    }
}

fn report(args: &Args) -> Result<(), Error> {
    let run = |part, args: &Args| -> Result<Value, Error> {
        let figures = apart(part, args)?;
        println!("{:11} {figures}", format!("{part:?}").to_lowercase());
        Ok(figures)
    };
    let report = Report {
        clusters: args.clusters,
        endpoints: args.endpoints,
        many: run(Part::Many, args)?,
        large: run(Part::Large, args)?,
        idle: run(Part::Idle, args)?,
        plain: run(Part::Plain, args)?,
        propagation: run(Part::Propagation, args)?,
        pick: run(Part::Pick, args)?,
        rbac: run(Part::Rbac, args)?,
        bytes_per_endpoint: bytes_per_endpoint(args)?,
    };
    println!("{:11} {:.0} bytes per endpoint that is not connected", "memory", report.bytes_per_endpoint);
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

/// Runs a part in a process of its own.
fn apart(part: Part, args: &Args) -> Result<Value, Error> {
    let name = part.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    let numbers = [
        ("--clusters", args.clusters.to_string()),
        ("--endpoints", args.endpoints.to_string()),
        ("--changes", args.changes.to_string()),
        ("--toggles", args.toggles.to_string()),
        ("--part", name),
    ];
    let numbers = numbers.iter().flat_map(|(option, value)| [*option, value]);
    let output = Command::new(std::env::current_exe()?).args(numbers).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{part:?}: {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn bytes_per_endpoint(args: &Args) -> Result<f64, Error> {
    let memory = |endpoints| -> Result<f64, Error> {
        let figures = apart(Part::Many, &Args { endpoints, changes: 1, ..args.clone() })?;
        figures["memory_mib"].as_f64().ok_or_else(|| "no figure of the memory".into())
    };
    let more = memory(args.endpoints + 10)? - memory(args.endpoints)?;
    let clusters = f64::from(u32::try_from(args.clusters)?);
    Ok(more * f64::from(1 << 20) / (clusters * 10.0))
}

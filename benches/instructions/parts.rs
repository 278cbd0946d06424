//! Single parts of the mesh, counted as a whole call is: a long run less a short one.

use clap::Subcommand;
use mesh_benches::control::{Control, take_in};
use mesh_benches::server::Servers;
use mesh_benches::{Error, Flavor, layers};
use serde::Serialize;

use crate::callgrind::Callgrind;
use crate::quotient;

const SHORT: u64 = 10_000;
const LONG: u64 = 30_000;
/// Of the configuration that is taken in: few and many clusters, and the endpoints of each.
const FEW: usize = 500;
const MANY: usize = 1_500;
const ENDPOINTS: usize = 10;

/// What is run under callgrind.
#[derive(Clone, Subcommand)]
pub(crate) enum Part {
    /// The layer that picks an endpoint, around connections that answer at once.
    Pick { endpoints: u32, calls: u64 },
    /// The layers that find a call's route, around nothing.
    Route { routes: u32, calls: u64 },
    /// Access control by policies that each name one caller and one path prefix; the last matches, or none does.
    Rbac {
        policies: u32,
        #[arg(action = clap::ArgAction::Set)]
        matches: bool,
        calls: u64,
    },
    /// A configuration, from the socket to the first call.
    Ingest { control_plane: String },
}

impl Part {
    /// Does the work that is counted.
    pub(crate) fn run(&self) -> Result<(), Error> {
        let runtime = Flavor::Current.runtime()?;
        match self {
            Part::Pick { endpoints, calls } => {
                layers::call(&mut runtime.block_on(layers::balanced(*endpoints))?, "/", *calls);
            }
            Part::Route { routes, calls } => {
                let (_mesh, mut found) = runtime.block_on(layers::routed(*routes))?;
                layers::call(&mut found, &format!("/{routes}"), *calls);
            }
            Part::Rbac { policies, matches, calls } => layers::authorize(*policies, *matches, *calls),
            Part::Ingest { control_plane } => drop(runtime.block_on(take_in(control_plane))?),
        }
        Ok(())
    }
}

/// One part at one size.
#[derive(Serialize)]
pub(crate) struct Row {
    part: &'static str,
    /// Endpoints, routes, policies, or endpoints of each cluster.
    size: usize,
    /// Per call, or per cluster with its assignment and route.
    instructions: f64,
}

/// Counts every part, and prints its row.
pub(crate) fn count(callgrind: &Callgrind) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for size in [4, 1_000] {
        rows.push(layer(callgrind, "pick", size)?);
    }
    for size in [1, 1_000] {
        rows.push(layer(callgrind, "route", size)?);
    }
    let unauthorized = rbac(callgrind, 0, true)?;
    for (part, matches) in [("rbac-last", true), ("rbac-none", false)] {
        for size in [100, 1_000] {
            let instructions = rbac(callgrind, size, matches)? - unauthorized;
            rows.push(Row { part, size, instructions });
        }
    }
    rows.push(ingest(callgrind)?);
    println!("{:9} {:>5} {:>12}", "part", "size", "instructions");
    for row in &rows {
        println!("{:9} {:>5} {:>12.0}", row.part, row.size, row.instructions);
    }
    Ok(rows)
}

fn layer(callgrind: &Callgrind, part: &'static str, size: usize) -> Result<Row, Error> {
    let run = |calls: u64| {
        let arguments = ["part", part, &size.to_string(), &calls.to_string()].map(str::to_owned);
        callgrind.instructions(&format!("{part}.{size}.{calls}"), &arguments)
    };
    let difference = run(LONG)?.saturating_sub(run(SHORT)?);
    Ok(Row { part, size, instructions: quotient(difference, LONG - SHORT) })
}

/// Those of a call by so many policies, that of the call itself included.
fn rbac(callgrind: &Callgrind, policies: usize, matches: bool) -> Result<f64, Error> {
    let run = |calls: u64| {
        let arguments = ["part", "rbac", &policies.to_string(), &matches.to_string(), &calls.to_string()];
        callgrind.instructions(&format!("rbac.{policies}.{matches}.{calls}"), &arguments.map(str::to_owned))
    };
    Ok(quotient(run(LONG)?.saturating_sub(run(SHORT)?), LONG - SHORT))
}

fn ingest(callgrind: &Callgrind) -> Result<Row, Error> {
    let servers = Servers::start(1)?;
    let live = servers.addresses().first().ok_or("no server")?;
    let run = |clusters: usize| {
        let control = Control::start(clusters, ENDPOINTS, *live)?;
        let arguments = ["part", "ingest", control.address()].map(str::to_owned);
        callgrind.instructions(&format!("ingest.{clusters}"), &arguments)
    };
    let difference = run(MANY)?.saturating_sub(run(FEW)?);
    Ok(Row { part: "ingest", size: ENDPOINTS, instructions: quotient(difference, (MANY - FEW) as u64) })
}

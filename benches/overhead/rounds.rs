//! The order of the measurements: all paths of a cell, round by round.

use mesh_benches::drive::{Sample, Until, Work, closed_loop};
use mesh_benches::paths::{Load, Path, Transport};
use mesh_benches::server::Servers;
use mesh_benches::site::Site;
use mesh_benches::{Error, Flavor, serving};

use crate::Args;
use crate::report::{self, Row};

/// What stays the same while the paths are compared.
#[derive(Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) runtime: Flavor,
    pub(crate) endpoints: usize,
    pub(crate) callers: usize,
    pub(crate) payload: usize,
}

/// Measures every path in every cell, and prints the rows of each cell when they are there.
pub(crate) fn run(args: &Args) -> Result<Vec<Row>, Error> {
    report::print_header();
    let mut rows = Vec::new();
    for &endpoints in &args.endpoints {
        let servers = Servers::start(endpoints)?;
        for cell in cells(args, endpoints) {
            let samples = cell.measure(args, servers.site())?;
            let compared = report::rows(cell, &samples);
            report::print(&compared);
            rows.extend(compared);
        }
    }
    Ok(rows)
}

fn cells(args: &Args, endpoints: usize) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &runtime in &args.runtime {
        for &payload in &args.payload {
            let callers = args.callers.iter();
            cells.extend(callers.map(|&callers| Cell { runtime, endpoints, callers, payload }));
        }
    }
    cells
}

impl Cell {
    /// The samples of each path, one a round.
    fn measure(self, args: &Args, site: &Site) -> Result<Vec<(Path, Vec<Sample>)>, Error> {
        let mut samples: Vec<_> = args.paths().into_iter().map(|path| (path, Vec::new())).collect();
        for _ in 0..args.rounds {
            for (path, samples) in &mut samples {
                samples.push(self.once(*path, args, site)?);
            }
        }
        Ok(samples)
    }

    /// One measurement, on a runtime and a channel of its own: nothing of the last one goes on.
    fn once(self, path: Path, args: &Args, site: &Site) -> Result<Sample, Error> {
        let length = args.length();
        let work = Work {
            callers: self.callers,
            payload: self.payload,
            deadline: args.deadline,
            until: Until::Elapsed(length),
        };
        let warming = Work { until: Until::Elapsed(length / 4), ..work.clone() };
        if path.is_server() {
            return self.runtime.runtime()?.block_on(serving::measure(path, Some(warming), work));
        }
        self.runtime.runtime()?.block_on(path.load(site, WarmThenMeasure { warming, work }))
    }
}

struct WarmThenMeasure {
    warming: Work,
    work: Work,
}

impl Load for WarmThenMeasure {
    type Output = Sample;

    async fn run<T: Transport>(self, channel: T) -> Result<Sample, Error> {
        closed_loop(channel.clone(), &self.warming).await?;
        closed_loop(channel, &self.work).await
    }
}

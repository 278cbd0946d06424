//! Rows: the best and the median round of each path, and their ratio to the balanced channel.

use mesh_benches::Flavor;
use mesh_benches::drive::Sample;
use mesh_benches::paths::Path;
use serde::Serialize;

use crate::rounds::Cell;

/// One path in one cell. Times are in microseconds and per call, ratios are to `balance` in the
/// same cell, or to `balance-mtls` if the path has mTLS, or to `server`; absent when that was not measured.
#[derive(Serialize)]
pub(crate) struct Row {
    path: Path,
    runtime: Flavor,
    endpoints: usize,
    callers: usize,
    payload: usize,
    calls_per_s_best: f64,
    cpu_us_best: f64,
    cpu_us_median: f64,
    p50_us_best: f64,
    p50_us_median: f64,
    /// The median round's.
    p99_us: f64,
    /// The median round's.
    allocs: f64,
    cpu_ratio_best: Option<f64>,
    cpu_ratio_median: Option<f64>,
    p50_ratio_best: Option<f64>,
    p50_ratio_median: Option<f64>,
    rate_ratio_best: Option<f64>,
}

/// The rows of a cell.
pub(crate) fn rows(cell: Cell, samples: &[(Path, Vec<Sample>)]) -> Vec<Row> {
    let base_of = |path: Path| samples.iter().find(|(other, _)| *other == path.base());
    let compared = |(path, own): &(Path, Vec<Sample>)| {
        let row_of_path = row(cell, *path, own);
        match base_of(*path) {
            Some((base, samples)) => row_of_path.compared_with(&row(cell, *base, samples)),
            None => row_of_path,
        }
    };
    samples.iter().map(compared).collect()
}

fn row(cell: Cell, path: Path, samples: &[Sample]) -> Row {
    let figures = |figure: fn(&Sample) -> f64| Figures::of(samples, figure);
    let (cpu, p50) = (figures(Sample::cpu_us), figures(|sample| sample.latency_us(0.5)));
    Row {
        path,
        runtime: cell.runtime,
        endpoints: cell.endpoints,
        callers: cell.callers,
        payload: cell.payload,
        calls_per_s_best: figures(Sample::rate).most,
        cpu_us_best: cpu.least,
        cpu_us_median: cpu.median,
        p50_us_best: p50.least,
        p50_us_median: p50.median,
        p99_us: figures(|sample| sample.latency_us(0.99)).median,
        allocs: figures(Sample::allocations).median,
        cpu_ratio_best: None,
        cpu_ratio_median: None,
        p50_ratio_best: None,
        p50_ratio_median: None,
        rate_ratio_best: None,
    }
}

impl Row {
    fn compared_with(self, base: &Row) -> Row {
        Row {
            cpu_ratio_best: Some(self.cpu_us_best / base.cpu_us_best),
            cpu_ratio_median: Some(self.cpu_us_median / base.cpu_us_median),
            p50_ratio_best: Some(self.p50_us_best / base.p50_us_best),
            p50_ratio_median: Some(self.p50_us_median / base.p50_us_median),
            rate_ratio_best: Some(self.calls_per_s_best / base.calls_per_s_best),
            ..self
        }
    }
}

/// One figure over the rounds.
struct Figures {
    least: f64,
    median: f64,
    most: f64,
}

impl Figures {
    fn of(samples: &[Sample], figure: fn(&Sample) -> f64) -> Self {
        let mut values: Vec<_> = samples.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        let median = (at(last / 2) + at(last.div_ceil(2))) / 2.0;
        Self { least: at(0), median, most: at(last) }
    }
}

/// Names the columns of [`print`].
pub(crate) fn print_header() {
    println!("best (median) round; x = ratio to balance, with mTLS to balance-mtls, of servers to server");
    println!("CPU and allocations are of the client's process, and for servers of the server's");
    println!(
        "{:16} {:7} {:>2} {:>3} {:>5} {:>15} {:>13} {:>17} {:>13} {:>7} {:>8} {:>5} {:>6}",
        "path", "runtime", "ep", "c", "bytes", "cpu us", "x", "p50 us", "x", "p99 us", "calls/s", "x", "allocs"
    );
}

/// Prints the rows of a cell.
pub(crate) fn print(rows: &[Row]) {
    for row in rows {
        println!("{}", line(row));
    }
    println!();
}

fn line(row: &Row) -> String {
    let runtime = format!("{:?}", row.runtime).to_lowercase();
    format!(
        "{:16} {runtime:7} {:>2} {:>3} {:>5} {:>15} {:>13} {:>17} {:>13} {:>7.0} {:>8.0} {:>5} {:>6.1}",
        row.path.name(),
        row.endpoints,
        row.callers,
        row.payload,
        format!("{:.2} ({:.2})", row.cpu_us_best, row.cpu_us_median),
        format!("{} ({})", ratio(row.cpu_ratio_best), ratio(row.cpu_ratio_median)),
        format!("{:.1} ({:.1})", row.p50_us_best, row.p50_us_median),
        format!("{} ({})", ratio(row.p50_ratio_best), ratio(row.p50_ratio_median)),
        row.p99_us,
        row.calls_per_s_best,
        ratio(row.rate_ratio_best),
        row.allocs,
    )
}

fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
}

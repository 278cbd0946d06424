//! The balancing layer, its pick among many endpoints included, around connections that answer at once.

use mesh_benches::layers;
use mesh_benches::meter::cpu_time;
use mesh_benches::{Error, Flavor};
use serde_json::{Value, json};

const SIZES: [u32; 4] = [10, 100, 1_000, 10_000];
const CALLS: u32 = 200_000;
const ROUNDS: usize = 5;

/// Nanoseconds of CPU per call, the best of several rounds, at each size.
pub(crate) fn measure() -> Result<Value, Error> {
    let runtime = Flavor::Current.runtime()?;
    let mut figures = Vec::new();
    for endpoints in SIZES {
        let mut balance = runtime.block_on(layers::balanced(endpoints))?;
        let round = || {
            let start = cpu_time();
            layers::call(&mut balance, "/", CALLS.into());
            cpu_time().saturating_sub(start).as_secs_f64() * 1e9 / f64::from(CALLS)
        };
        let best = std::iter::repeat_with(round).take(ROUNDS).min_by(f64::total_cmp);
        figures.push(json!({ "endpoints": endpoints, "ns": best }));
    }
    Ok(figures.into())
}

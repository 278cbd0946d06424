//! The balancing layer among many endpoints, around connections that answer at once; and the choice in it alone.

use mesh_benches::layers;
use mesh_benches::meter::cpu_time;
use mesh_benches::{Error, Flavor};
use mesh_core::balance::Balance;
use serde_json::{Value, json};

const SIZES: [u32; 4] = [10, 100, 1_000, 10_000];
const CALLS: u32 = 200_000;
const ROUNDS: usize = 5;
/// Endpoints that have no slot for a call before one has: as many as the picker asks by the policy after the first.
const REFUSALS: u32 = 8;

/// Nanoseconds of CPU at each size: of a call through the layer, and of one choice (locality, policy, endpoint, slot),
/// which is what each refused slot adds to a call.
pub(crate) fn measure() -> Result<Value, Error> {
    let runtime = Flavor::Current.runtime()?;
    let mut figures = Vec::new();
    for endpoints in SIZES {
        let mut balance = runtime.block_on(layers::balanced(endpoints))?;
        let [at_once, at_last] = [0, REFUSALS].map(|refusals| call_ns(&mut balance, refusals));
        let choice = (at_last - at_once) / f64::from(REFUSALS);
        figures.push(json!({ "endpoints": endpoints, "ns": at_once, "choice_ns": choice }));
    }
    Ok(figures.into())
}

/// A call for which so many endpoints have no slot: the best of several rounds.
fn call_ns(balance: &mut Balance<layers::Nowhere>, refusals: u32) -> f64 {
    let round = || {
        let start = cpu_time();
        for _ in 0..CALLS {
            layers::refuse_slots(refusals);
            layers::call(balance, "/", 1);
        }
        cpu_time().saturating_sub(start).as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    std::iter::repeat_with(round).take(ROUNDS).fold(f64::INFINITY, f64::min)
}

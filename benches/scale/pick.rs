//! The balancing layer among many endpoints, around connections that answer at once; and the choice in it alone.

use std::time::Duration;

use mesh_benches::layers::{self, Nowhere, Picks};
use mesh_benches::meter::cpu_time;
use mesh_benches::{Error, Flavor};
use mesh_core::CallOptions;
use mesh_core::balance::Balance;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const SIZES: [u32; 4] = [10, 100, 1_000, 10_000];
const POLICIES: [Picks; 7] = [
    Picks::RoundRobin,
    Picks::LeastRequest,
    Picks::PeakEwma,
    Picks::WeightedRoundRobin,
    Picks::Random,
    Picks::RingHash,
    Picks::Maglev,
];
const CALLS: u32 = 100_000;
const ROUNDS: usize = 7;
/// Endpoints that have no slot for a call before one has: as many as the picker asks by the policy after the first.
const REFUSALS: u32 = 8;
/// Reports of load are used from then on (A58), and at the next look at them.
const BLACKOUT: Duration = Duration::from_millis(11_500);

/// Nanoseconds of CPU at each size, by each policy: of a call through the layer, and of one choice: locality, policy,
/// endpoint, slot.
///
/// What every policy's choice costs beside the policy itself is what each refused slot adds to a call that always goes to
/// the first endpoint. What the policy costs is what it adds to such a call, all that comes with it included: peak-EWMA
/// times calls, weighted round robin looks into responses.
pub(crate) fn measure() -> Result<Value, Error> {
    let runtime = Flavor::Current.runtime()?;
    let keys: Vec<_> = (0..1_024_u32).map(|key| CallOptions::new().hash_key(key.to_le_bytes())).collect();
    let mut first = runtime.block_on(layers::balanced_by(Picks::First, SIZES[0]))?;
    let mut figures = Vec::new();
    let mut balances = all(&runtime, &keys)?;
    for (picks, endpoints, balance) in &mut balances {
        let [mut at_once, mut refused, mut call] = [f64::INFINITY; 3];
        for _ in 0..ROUNDS {
            at_once = at_once.min(call_ns(&mut first, &keys, 0));
            refused = refused.min(call_ns(&mut first, &keys, REFUSALS));
            call = call.min(call_ns(balance, &keys, 0));
        }
        let choice = (refused - at_once) / f64::from(REFUSALS) + call - at_once;
        figures.push(json!({
            "policy": format!("{picks:?}"), "endpoints": endpoints, "ns": call.round(), "choice_ns": choice.round(),
        }));
    }
    Ok(figures.into())
}

/// Each policy at each size; endpoints that are weighed have weights.
fn all(runtime: &Runtime, keys: &[CallOptions]) -> Result<Vec<(Picks, u32, Balance<Nowhere>)>, Error> {
    let mut balances = Vec::new();
    for picks in POLICIES {
        for endpoints in SIZES {
            let mut balance = runtime.block_on(layers::balanced_by(picks, endpoints))?;
            layers::report_load(true);
            keys.iter().cycle().take(2 * endpoints as usize).for_each(|key| layers::call_with_key(&mut balance, key));
            layers::report_load(false);
            balances.push((picks, endpoints, balance));
        }
    }
    runtime.block_on(async { tokio::time::sleep(BLACKOUT).await });
    Ok(balances)
}

/// The mean of a call for which so many endpoints have no slot.
fn call_ns(balance: &mut Balance<Nowhere>, keys: &[CallOptions], refusals: u32) -> f64 {
    let start = cpu_time();
    for key in keys.iter().cycle().take(CALLS as usize) {
        layers::refuse_slots(refusals);
        layers::call_with_key(balance, key);
    }
    cpu_time().saturating_sub(start).as_secs_f64() * 1e9 / f64::from(CALLS)
}

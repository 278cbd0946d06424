//! Access control by many policies that each name one caller and the prefix of one path.

use mesh_benches::layers::Authorized;
use mesh_benches::meter::cpu_time;
use serde_json::{Value, json};

const SIZES: [u32; 3] = [10, 100, 1_000];
const CALLS: u32 = 50_000;
const ROUNDS: usize = 7;

/// Nanoseconds of CPU that access control adds to a call, at each number of policies: when the last matches, and when
/// none does.
pub(crate) fn measure() -> Value {
    let figures = SIZES.iter().flat_map(|size| {
        [("last", true), ("none", false)].map(|(matches, is_match)| {
            let mut authorized = Authorized::new(*size, is_match);
            let [mut with, mut without] = [f64::INFINITY; 2];
            for _ in 0..ROUNDS {
                with = with.min(nanoseconds(|| {
                    let passed = authorized.call(CALLS.into());
                    assert_eq!(
                        passed,
                        if is_match { u64::from(CALLS) } else { 0 },
                        "of {size} policies, {matches} matches"
                    );
                }));
                without = without.min(nanoseconds(|| authorized.call_unchecked(CALLS.into())));
            }
            json!({ "policies": size, "matches": matches, "ns": (with - without).round() })
        })
    });
    figures.collect::<Vec<_>>().into()
}

fn nanoseconds(calls: impl FnOnce()) -> f64 {
    let start = cpu_time();
    calls();
    cpu_time().saturating_sub(start).as_secs_f64() * 1e9 / f64::from(CALLS)
}

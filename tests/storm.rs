//! A retry storm that does not arise, on real sockets: four tiers, a hundred clients, and a last tier that does nothing
//! for ten seconds. The model of it, with the control run that does not recover, is `retry/tests/storm.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh_core::{Mesh, RetryPolicy};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Status;

use crate::support::client::Client;
use crate::support::clock::pass_over_stalls;
use crate::support::tier::Tier;

/// Of when clients call.
const SEED: u64 = 20_260_601;
const CLIENTS: u64 = 100;
/// Between two calls of a client.
const PAUSE: Duration = Duration::from_millis(500);
const DEADLINE: Duration = Duration::from_secs(1);
const PER_TRY: Duration = Duration::from_millis(400);
/// The last tier is asked for five eighths of what it can do: there is room for a machine whose timers are late.
const SERVICE_TIME: Duration = Duration::from_millis(100);
const CONCURRENCY: usize = 32;

const FAILS_AT: Duration = Duration::from_secs(6);
const WORKS_AT: Duration = Duration::from_secs(16);
/// Ten seconds later calls must succeed.
const RECOVERED_AT: Duration = Duration::from_secs(26);
const END: Duration = Duration::from_secs(30);

/// Works off what comes, in order, as long as it works at all.
async fn leaf(works: watch::Receiver<bool>) -> Tier {
    let places = Arc::new(Semaphore::new(CONCURRENCY));
    let handler = move || {
        let (places, mut works) = (places.clone(), works.clone());
        async move {
            let _place = places.acquire().await.expect("it is not closed");
            works.wait_for(|works| *works).await.expect("the sender outlives the calls");
            sleep(SERVICE_TIME).await;
            Ok::<_, Status>("leaf".to_owned())
        }
    };
    Tier::serving(mesh_tonic::deadline_layer(), handler).await
}

/// A client of a tier, which tries up to five times.
async fn client_of(tier: &Tier, is_last: bool) -> (Mesh, Client) {
    let mut policy = RetryPolicy::on("unavailable").expect("a condition").max_attempts(5);
    if is_last {
        policy = RetryPolicy::on("unavailable,deadline-exceeded").expect("conditions").max_attempts(5);
        policy = policy.per_try_timeout(PER_TRY);
    }
    let mesh = Mesh::builder().retry_policy(policy).build().await.expect("a mesh");
    let client = Client::new(&mesh, &format!("static:///{}", tier.address()));
    client.hello_within(DEADLINE).await.expect("the tiers below work");
    (mesh, client)
}

/// Calls of the clients until the last tier worked again; of those after the recovery, all and those that succeeded.
#[derive(Default)]
struct Counts {
    offered: AtomicU64,
    late: AtomicU64,
    good: AtomicU64,
}

async fn call_now_and_then(client: Client, counts: Arc<Counts>, begin: Instant, mut random: fastrand::Rng) {
    sleep(PAUSE.mul_f64(random.f64())).await;
    while begin.elapsed() < END {
        let (client, counts, late) = (client.clone(), counts.clone(), begin.elapsed() >= RECOVERED_AT);
        counts.offered.fetch_add(u64::from(begin.elapsed() < WORKS_AT), Ordering::Relaxed);
        tokio::spawn(async move {
            let good = client.hello_within(DEADLINE).await.is_ok();
            counts.late.fetch_add(u64::from(late), Ordering::Relaxed);
            counts.good.fetch_add(u64::from(late && good), Ordering::Relaxed);
        });
        sleep(PAUSE.mul_f64(0.5 + random.f64())).await;
    }
}

#[tokio::test]
#[ignore = "takes thirty seconds"]
async fn a_dead_tier_below_three_others_gets_no_storm_and_calls_succeed_soon_after() {
    pass_over_stalls();
    let works = watch::Sender::new(true);
    let leaf = leaf(works.subscribe()).await;
    let (_mesh_c, to_leaf) = client_of(&leaf, true).await;
    let c = Tier::start(mesh_tonic::deadline_layer(), Duration::ZERO, &to_leaf).await;
    let (_mesh_b, to_c) = client_of(&c, false).await;
    let b = Tier::start(mesh_tonic::deadline_layer(), Duration::ZERO, &to_c).await;
    let (_mesh_a, to_b) = client_of(&b, false).await;
    let a = Tier::start(mesh_tonic::deadline_layer(), Duration::ZERO, &to_b).await;
    let (_mesh, to_a) = client_of(&a, false).await;

    let tiers = [&a, &b, &c, &leaf];
    let loads = || tiers.map(Tier::calls);
    let (before, begin, counts) = (loads(), Instant::now(), Arc::new(Counts::default()));
    for client in 0..CLIENTS {
        let random = fastrand::Rng::with_seed(SEED + client);
        tokio::spawn(call_now_and_then(to_a.clone(), counts.clone(), begin, random));
    }
    sleep_until(begin + FAILS_AT).await;
    works.send_replace(false);
    sleep_until(begin + WORKS_AT).await;
    let loads = std::array::from_fn::<_, 4, _>(|tier| loads()[tier] - before[tier]);
    let offered = counts.offered.load(Ordering::Relaxed);
    works.send_replace(true);
    sleep_until(begin + END + 2 * DEADLINE).await;

    let (late, good) = (counts.late.load(Ordering::Relaxed), counts.good.load(Ordering::Relaxed));
    println!("seed {SEED}: {offered} calls, {loads:?} of the tiers, then {good} of {late} succeeded");
    for (tier, load) in loads.into_iter().enumerate() {
        let percent = if tier == 3 { 130 } else { 120 };
        assert!(100 * load <= percent * offered, "tier {tier} had {load} of {offered}");
    }
    assert!(loads[3] > offered, "there were retries: {loads:?} of {offered}");
    assert!(100 * good >= 99 * late && late > 0, "{good} of {late}");
}

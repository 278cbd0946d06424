//! Endpoints of unequal speed: what peak-EWMA makes of them, and round robin in the same run, in virtual time.

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;

const MS: Duration = Duration::from_millis(1);
const ENDPOINTS: [u16; 10] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
const SEED: u64 = 2031;

/// One call: when it was made, who answered, and how long it took.
struct Made {
    at: Duration,
    endpoint: u16,
    took: Duration,
}

/// Calls that come at random, so many a second, for 30 s; of each endpoint, how long it works on a call and on how many
/// at once.
async fn calls(policy: EndpointPolicy, per_second: u32, work: impl Fn(u16) -> (Duration, usize)) -> Vec<Made> {
    println!("seed {SEED}");
    fastrand::seed(SEED);
    let mesh = Mesh::new();
    for number in ENDPOINTS {
        let (time, at_once) = work(number);
        mesh.network.work(number, time, at_once);
        mesh.network.slots(number, 10_000);
    }
    let entry = entry(policy, vec![vec![(1, &ENDPOINTS)]]);
    mesh.prepare(&entry).await;
    let start = Instant::now();
    let (mut next, mut running) = (start, JoinSet::new());
    while next.duration_since(start) < Duration::from_secs(30) {
        tokio::time::sleep_until(next).await;
        let call = mesh.call(&entry);
        running.spawn(async move {
            let at = Instant::now();
            let response = call.await.expect("all of them answer");
            Made { at: at - start, endpoint: endpoint(&response), took: at.elapsed() }
        });
        let gap = -(1.0 - fastrand::f64()).ln() / f64::from(per_second);
        next += Duration::from_secs_f64(gap);
    }
    running.join_all().await
}

/// The median and the mean of the calls after the first 10 s, in ms.
fn median_and_mean(made: &[Made]) -> [f64; 2] {
    let mut took: Vec<f64> = later(made).map(|made| made.took.as_secs_f64() * 1e3).collect();
    took.sort_by(f64::total_cmp);
    [took[took.len() / 2], took.iter().sum::<f64>() / took.len() as f64]
}

fn later(made: &[Made]) -> impl Iterator<Item = &Made> {
    made.iter().filter(|made| made.at >= Duration::from_secs(10))
}

/// The share that an endpoint gets of the calls after the first 10 s.
fn share(made: &[Made], endpoint: u16) -> f64 {
    later(made).filter(|made| made.endpoint == endpoint).count() as f64 / later(made).count() as f64
}

#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_of_ten_gets_no_more_than_a_hundredth_of_the_calls() {
    let work = |number| (if number == 3 { 510 * MS } else { 10 * MS }, 100);
    let turns = calls(EndpointPolicy::RoundRobin, 200, work).await;
    assert!((0.09..0.11).contains(&share(&turns, 3)), "{}", share(&turns, 3));
    let judged = calls(EndpointPolicy::PeakEwma, 200, work).await;
    println!("share of the slow one: in turn {:.4}, peak-EWMA {:.4}", share(&turns, 3), share(&judged, 3));
    assert!(share(&judged, 3) <= 0.01, "{}", share(&judged, 3));
    assert!(ENDPOINTS.iter().all(|number| *number == 3 || share(&judged, *number) > 0.08), "the others share");
    let mut asked: Vec<Duration> = later(&judged).filter(|made| made.endpoint == 3).map(|made| made.at).collect();
    asked.sort();
    assert!(asked.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_secs(1)), "one call a second: {asked:?}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_was_slow_once_is_asked_again_soon_and_has_its_share_again() {
    println!("seed {SEED}");
    fastrand::seed(SEED);
    let mesh = Mesh::new();
    let entry = entry(EndpointPolicy::PeakEwma, vec![vec![(1, &[1, 2])]]);
    [1, 2].into_iter().for_each(|number| mesh.network.work(number, MS, 100));
    mesh.prepare(&entry).await;
    mesh.calls(&entry, 100).await;
    mesh.network.work(1, 340 * MS, 100);
    until(&mesh, &entry, 1).await;
    mesh.network.work(1, MS, 100);
    let silent = until(&mesh, &entry, 1).await;
    assert!((1.0..2.0).contains(&silent.as_secs_f64()), "{silent:?}");
    let share = count(&mesh.calls(&entry, 1000).await, 1);
    assert!((400..600).contains(&share), "{share} of 1000");
}

/// Calls one after the other, until this endpoint answers; how long that took.
async fn until(mesh: &Mesh, entry: &Arc<ClusterEntry>, number: u16) -> Duration {
    let start = Instant::now();
    while mesh.calls(entry, 1).await != [number] {}
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn endpoints_of_half_the_speed_get_what_they_can_bear() {
    // One call at a time: at 500 a second, turns keep the slower half busy all the time.
    let work = |number: u16| (if number.is_multiple_of(2) { 20 * MS } else { 10 * MS }, 1);
    let [median_in_turn, mean_in_turn] = median_and_mean(&calls(EndpointPolicy::RoundRobin, 500, work).await);
    let judged = calls(EndpointPolicy::PeakEwma, 500, work).await;
    let [median, mean] = median_and_mean(&judged);
    println!("median and mean in ms: in turn {median_in_turn:.1} {mean_in_turn:.1}, peak-EWMA {median:.1} {mean:.1}");
    let slower: f64 =
        ENDPOINTS.iter().filter(|number| number.is_multiple_of(2)).map(|number| share(&judged, *number)).sum();
    assert!((0.3..0.4).contains(&slower), "a third is what they are worth: {slower}");
    assert!(median <= median_in_turn, "{median} {median_in_turn}");
    assert!(mean <= 0.5 * mean_in_turn, "{mean} {mean_in_turn}");
}

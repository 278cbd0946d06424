//! How calls spread, and how a large cluster comes up.

use super::*;
use crate::connect::testing::Reach;
use crate::error::ErrorKind;

#[tokio::test(start_paused = true)]
async fn localities_share_by_their_weights() {
    let mesh = Mesh::new();
    let entry = entry(EndpointPolicy::RoundRobin, vec![vec![(90, &[1]), (10, &[2, 3])]]);
    mesh.prepare(&entry).await;
    let numbers = mesh.calls(&entry, 10_000).await;
    let [first, second, third] = [1, 2, 3].map(|number| count(&numbers, number));
    assert!((8_850..9_150).contains(&first), "{first}");
    assert!(second.abs_diff(third) <= 1, "{second} {third}");
}

#[tokio::test(start_paused = true)]
async fn a_locality_without_ready_endpoints_leaves_its_share_to_the_others() {
    let mesh = Mesh::new();
    mesh.network.reach(1, Reach::Refuses);
    let entry = entry(EndpointPolicy::RoundRobin, vec![vec![(90, &[1]), (10, &[2, 3])]]);
    mesh.prepare(&entry).await;
    let numbers = mesh.calls(&entry, 100).await;
    assert_eq!([2, 3].map(|number| count(&numbers, number)), [50, 50]);
}

#[tokio::test(start_paused = true)]
async fn without_localities_all_endpoints_are_one_set() {
    let mesh = Mesh::new();
    let mut entry = Arc::into_inner(entry(EndpointPolicy::RoundRobin, vec![vec![(90, &[1]), (10, &[2, 3])]])).unwrap();
    let config = entry.config.as_mut().unwrap();
    Arc::get_mut(&mut config.cluster).unwrap().balancing.by_locality = false;
    let entry = Arc::new(entry);
    mesh.prepare(&entry).await;
    let numbers = mesh.calls(&entry, 300).await;
    assert_eq!([1, 2, 3].map(|number| count(&numbers, number)), [100; 3]);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_listed_twice_counts_once() {
    let mesh = Mesh::new();
    let entry = cluster(&[1, 1, 2]);
    mesh.prepare(&entry).await;
    let numbers = mesh.calls(&entry, 100).await;
    assert_eq!([1, 2].map(|number| count(&numbers, number)), [50, 50]);
    assert_eq!(mesh.network.attempts(1), 1);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_endpoints_come_up_with_few_rebuilds() {
    let mesh = Mesh::new();
    let numbers: Vec<u16> = (1..=10_000).collect();
    let entry = cluster(&numbers);
    mesh.prepare(&entry).await;
    seconds(1.0).await;
    let balancer = mesh.clusters.balancer(&entry).unwrap();
    assert!(balancer.rebuilds() < 20, "{}", balancer.rebuilds());
    let mut seen = mesh.calls(&entry, 10_000).await;
    seen.sort_unstable();
    assert_eq!(seen, numbers);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_dead_endpoints_cost_few_rebuilds_and_the_first_that_returns_is_used() {
    let mesh = Mesh::new();
    let numbers: Vec<u16> = (1..=1_000).collect();
    numbers.iter().for_each(|number| mesh.network.reach(*number, Reach::Refuses));
    let entry = cluster(&numbers);
    let error = mesh.call(&entry).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoEndpoint);
    let balancer = mesh.clusters.balancer(&entry).unwrap();
    assert!(balancer.rebuilds() < 10, "{}", balancer.rebuilds());
    mesh.network.reach(500, Reach::Accepts);
    let waiting = mesh.call_with(&entry, Call::default(), wait_for_ready());
    assert_eq!(endpoint(&waiting.await.unwrap()), 500);
}

proptest::proptest! {
    /// Whatever is reachable gets calls, and nothing else.
    #[test]
    fn only_ready_endpoints_get_calls(reachable in proptest::collection::vec(0..3_usize, 1..40), policy in 0..3_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mesh = Mesh::new();
            let numbers: Vec<u16> = (0..40).take(reachable.len()).collect();
            let reach = |number: u16| [Reach::Accepts, Reach::Refuses, Reach::Silent][reachable[usize::from(number)]];
            numbers.iter().for_each(|number| mesh.network.reach(*number, reach(*number)));
            let policies = [EndpointPolicy::RoundRobin, EndpointPolicy::LeastRequest { choices: 3 }, EndpointPolicy::Random];
            let half = numbers.len() / 2;
            let entry = entry(policies[policy].clone(), vec![vec![(3, &numbers[..half]), (5, &numbers[half..])]]);
            mesh.prepare(&entry).await;
            for _ in 0..100 {
                match mesh.call(&entry).await {
                    Ok(response) => assert_eq!(reach(endpoint(&response)), Reach::Accepts),
                    Err(_) => assert!(!reachable.contains(&0)),
                }
            }
        });
    }
}

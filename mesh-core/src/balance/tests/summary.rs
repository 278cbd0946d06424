//! What calls that fail say of the endpoints.

use tokio::time::Instant;

use super::*;
use crate::balance::status::EndpointReport;
use crate::balance::summary::Summary;
use crate::connect::testing::Reach;
use crate::connect::{ConnectivityState, SubchannelStatus};

/// A cluster of endpoints that all refuse, in its backoff.
async fn dead(count: u16) -> (Mesh, Arc<ClusterEntry>) {
    let mesh = Mesh::new();
    let endpoints: Vec<u16> = (1..=count).collect();
    endpoints.iter().for_each(|number| mesh.network.reach(*number, Reach::Refuses));
    let entry = cluster(&endpoints);
    mesh.prepare(&entry).await;
    (mesh, entry)
}

#[tokio::test(start_paused = true)]
async fn a_thousand_calls_that_fail_look_at_the_endpoints_once() {
    for endpoints in [3, 1000] {
        let (mesh, entry) = dead(endpoints).await;
        let balancer = mesh.clusters.balancer(&entry).unwrap();
        mesh.call(&entry).await.unwrap_err();
        let first = balancer.summary();
        for _ in 0..1000 {
            mesh.call(&entry).await.unwrap_err();
        }
        assert!(Arc::ptr_eq(&first, &balancer.summary()), "of {endpoints}");
        seconds(0.011).await;
        assert!(!Arc::ptr_eq(&first, &balancer.summary()), "{endpoints} endpoints are looked at again");
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_endpoints_are_looked_at_no_more_than_25_times_a_second() {
    let (mesh, entry) = dead(10_000).await;
    let balancer = mesh.clusters.balancer(&entry).unwrap();
    let (mut looks, mut last) = (0, None);
    for _ in 0..1000 {
        let error = mesh.call(&entry).await.unwrap_err().to_string();
        assert!(error.contains("10000 in backoff"), "{error}");
        let now = balancer.summary();
        looks += u32::from(last.replace(now.clone()).is_none_or(|last: Arc<Summary>| !Arc::ptr_eq(&last, &now)));
        // Less than the first backoff in all, so that none is tried again meanwhile.
        tokio::time::advance(Duration::from_micros(500)).await;
    }
    assert!((1..=13).contains(&looks), "{looks} in half a second");
}

#[tokio::test(start_paused = true)]
async fn a_change_in_a_small_cluster_is_told_by_the_next_call() {
    let (mesh, entry) = dead(2).await;
    let error = mesh.call(&entry).await.unwrap_err().to_string();
    assert!(error.contains("2 in backoff"), "{error}");
    let balancer = mesh.clusters.balancer(&entry).unwrap();
    let fewer = cluster(&[1]);
    let before = Instant::now();
    balancer.update(&fewer, fewer.config.as_ref().unwrap());
    let error = mesh.call(&entry).await.unwrap_err().to_string();
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert!(error.contains("1 in backoff"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_time_of_the_next_try_is_that_of_the_call_and_not_of_the_look() {
    let now = Instant::now();
    let next_attempt = Some(now + Duration::from_secs(1));
    let subchannel = SubchannelStatus {
        state: ConnectivityState::TransientFailure,
        last_error: Some("refused".into()),
        advice: None,
        next_attempt,
        #[cfg(feature = "tls")]
        security: Vec::new(),
    };
    let endpoint = EndpointReport {
        address: address(1),
        priority: 0,
        locality: Arc::default(),
        health: Health::Unknown,
        subchannel: Some(subchannel),
        in_flight: 0,
        ejected: None,
    };
    let summary = Summary::new(&[endpoint], now);
    for (after, said) in [(0.0, "1.0 s)"), (0.6, "0.4 s)"), (2.0, "0.0 s)")] {
        let text = summary.describe("greeter", now + Duration::from_secs_f64(after));
        let expected = "cluster `greeter` has no ready endpoint: 1 in backoff (10.0.0.1:1: refused, next try in ";
        assert_eq!(text.strip_prefix(expected), Some(said), "{text}");
    }
}

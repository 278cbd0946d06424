//! Envoy's profile: calls that prefer endpoints near the caller.

use super::*;
use crate::balance::LocalCluster;
use crate::connect::testing::Reach;
use crate::profile::Profile;
use crate::resource::endpoints::Locality;
use crate::resource::zone_aware::ZoneAware;

fn at(zone: &str) -> Locality {
    Locality { zone: zone.into(), ..Locality::default() }
}

/// Endpoints by zone.
fn spread(zones: &[(&str, &[u16])], health: impl Fn(u16) -> Health) -> Endpoints {
    let endpoint = |number: &u16| Endpoint { health: health(*number), ..Endpoint::new(address(*number)) };
    let locality = |(zone, numbers): &(&str, &[u16])| LocalityEndpoints {
        locality: Arc::new(at(zone)),
        weight: 1,
        endpoints: numbers.iter().map(endpoint).collect(),
    };
    let priority = Priority { localities: zones.iter().map(locality).collect() };
    Endpoints { priorities: vec![priority], ..Endpoints::default() }
}

/// Cluster `greeter`: endpoints 1 and 2 in zone a, 3 to 6 in b, 7 to 10 in c.
fn greeter(zones: ZoneAware, health: impl Fn(u16) -> Health) -> Arc<ClusterEntry> {
    let endpoints = spread(&[("a", &[1, 2]), ("b", &[3, 4, 5, 6]), ("c", &[7, 8, 9, 10])], health);
    let key = ClusterKey { source: "test".into(), name: "greeter".into() };
    let balancing = Balancing { zones: Some(zones), ..Balancing::new(true, EndpointPolicy::RoundRobin) };
    let cluster = Arc::new(Cluster::plain("greeter".into(), balancing));
    Arc::new(ClusterEntry::new(key, Ok(ClusterConfig { cluster, endpoints: Arc::new(endpoints) })))
}

fn healthy(_: u16) -> Health {
    Health::Healthy
}

/// In zone a, with its like: so many in each zone.
fn mesh(like: [u16; 3]) -> Mesh {
    let local = Some(LocalCluster::new(at("a")));
    let mesh = Mesh::with(BalanceOptions::new().profile(Profile::Envoy).local_cluster(local));
    mesh.clusters.local_cluster_changed(&of_like(like));
    mesh
}

fn of_like(like: [u16; 3]) -> Endpoints {
    let numbers: Vec<Vec<u16>> = like.iter().map(|count| (0..*count).collect()).collect();
    spread(&[("a", &numbers[0]), ("b", &numbers[1]), ("c", &numbers[2])], healthy)
}

/// Of a thousand calls, how many go to each zone; and the most that one endpoint of it gets beyond another one.
async fn by_zone(mesh: &Mesh, entry: &Arc<ClusterEntry>) -> ([usize; 3], usize) {
    fastrand::seed(7);
    let calls = mesh.calls(entry, 1000).await;
    let zones = [1..=2, 3..=6, 7..=10].map(|zone| zone.map(|number| count(&calls, number)).collect::<Vec<_>>());
    let uneven = zones.iter().map(|zone| zone.iter().max().unwrap() - zone.iter().min().unwrap()).max();
    (zones.map(|zone| zone.iter().sum()), uneven.unwrap_or_default())
}

/// Four standard deviations of a share of a thousand.
#[track_caller]
fn assert_about(found: [usize; 3], wanted: [f64; 3]) {
    for (found, wanted) in found.into_iter().zip(wanted) {
        let deviation = (1000.0 * wanted * (1.0 - wanted)).sqrt();
        assert!((found as f64 - 1000.0 * wanted).abs() <= 4.0 * deviation, "{found} of 1000, not {wanted}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_stay_near_as_far_as_the_endpoints_there_can_take_them() {
    // A fifth of the endpoints and 40 % of the callers are here; b and c have 10 points to spare each.
    let mesh = mesh([4, 3, 3]);
    let entry = greeter(ZoneAware::default(), healthy);
    mesh.prepare(&entry).await;
    let (shares, uneven) = by_zone(&mesh, &entry).await;
    assert_about(shares, [0.5, 0.25, 0.25]);
    assert!(uneven <= 1, "in turn within a zone, and not {uneven} more");
    // Its like are elsewhere now: a fifth of them is here, and all calls stay.
    mesh.clusters.local_cluster_changed(&of_like([2, 4, 4]));
    assert_eq!(by_zone(&mesh, &entry).await.0, [1000, 0, 0]);
    // Nothing of them is known to be here: every endpoint gets as much.
    mesh.clusters.local_cluster_changed(&of_like([0, 4, 4]));
    assert_eq!(by_zone(&mesh, &entry).await, ([200, 400, 400], 0));
}

#[tokio::test(start_paused = true)]
async fn calls_leave_a_zone_that_cannot_be_reached_and_come_back() {
    let mesh = mesh([2, 4, 4]);
    let entry = greeter(ZoneAware::default(), healthy);
    mesh.network.reach(1, Reach::Silent);
    mesh.network.reach(2, Reach::Silent);
    mesh.clusters.prepare(&entry);
    settle().await;
    let (shares, _) = by_zone(&mesh, &entry).await;
    assert_eq!(shares[0], 0, "what is not connected yet is not waited for");
    assert_about(shares, [0.0, 0.5, 0.5]);
    mesh.network.reach(1, Reach::Accepts);
    mesh.network.reach(2, Reach::Accepts);
    seconds(60.0).await;
    assert_eq!(by_zone(&mesh, &entry).await.0, [1000, 0, 0]);
    for number in [1, 2] {
        mesh.network.reach(number, Reach::Refuses);
        mesh.network.cut(number);
    }
    settle().await;
    assert_eq!(by_zone(&mesh, &entry).await.0[0], 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_local_cluster_or_in_grpcs_profile_no_call_goes_by_zones() {
    let entry = greeter(ZoneAware::default(), healthy);
    let local = LocalCluster::new(at("a"));
    local.publish(&of_like([2, 4, 4]));
    let options = BalanceOptions::new();
    for options in [options.clone().profile(Profile::Envoy), options.local_cluster(Some(local))] {
        let mesh = Mesh::with(options);
        mesh.prepare(&entry).await;
        assert_about(by_zone(&mesh, &entry).await.0, [1.0 / 3.0; 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_panic_zones_do_not_count_and_calls_fail_if_that_is_asked() {
    let health = |number| if number <= 6 { Health::Unhealthy } else { Health::Healthy };
    let zones = ZoneAware { min_cluster_size: 1, ..ZoneAware::default() };
    let mesh = mesh([2, 4, 4]);
    let entry = greeter(zones, health);
    mesh.prepare(&entry).await;
    assert_eq!(by_zone(&mesh, &entry).await, ([200, 400, 400], 0), "two fifths are less than half");
    let failing = greeter(ZoneAware { fail_traffic_on_panic: true, ..zones }, health);
    mesh.clusters.attach(&failing);
    settle().await;
    let error = mesh.call(&failing).await.unwrap_err();
    assert!(error.report().contains("has no endpoint for this call"), "{}", error.report());
    mesh.clusters.attach(&greeter(ZoneAware { fail_traffic_on_panic: true, ..zones }, healthy));
    settle().await;
    assert_eq!(by_zone(&mesh, &failing).await.0, [1000, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn the_share_of_a_priority_that_panics_fails_and_the_other_is_called() {
    let mesh = mesh([2, 4, 4]);
    let entry = greeter(ZoneAware { fail_traffic_on_panic: true, ..ZoneAware::default() }, |number| match number {
        1..=9 => Health::Unhealthy,
        _ => Health::Healthy,
    });
    let config = entry.config.as_ref().unwrap();
    let mut endpoints = Endpoints::clone(&config.endpoints);
    // A tenth above, 60 % below: together 98 % of what is wanted, of which 14 above, and one more by rounding.
    let below: Vec<u16> = (11..=20).collect();
    let bad = |number| if number > 16 { Health::Unhealthy } else { Health::Healthy };
    endpoints.priorities.extend(spread(&[("a", &below)], bad).priorities);
    let config = ClusterConfig { cluster: config.cluster.clone(), endpoints: Arc::new(endpoints) };
    let entry = Arc::new(ClusterEntry::new(entry.key.clone(), Ok(config)));
    mesh.prepare(&entry).await;
    fastrand::seed(7);
    let mut failed = 0;
    for _ in 0..1000 {
        match mesh.call(&entry).await {
            Ok(response) => assert!(endpoint(&response) > 10),
            Err(_) => failed += 1,
        }
    }
    assert_about([failed, 1000 - failed, 0], [0.15, 0.85, 0.0]);
}

//! What is in force for a target, and who set it.

use std::time::Duration;

use mesh_core::balance::{BalanceOptions, PeakEwma};
use mesh_core::testing::{ControlPlane, Resources, cluster, endpoints, listener, route, route_config};
use mesh_core::{Address, ClusterBuilder, Mesh, Profile, RetryPolicy, RouteBuilder, Snapshot};
use mesh_xds_proto::envoy::config::cluster::v3::OutlierDetection;
use mesh_xds_proto::envoy::config::cluster::v3::cluster::{LbConfig, LbPolicy, RoundRobinLbConfig, SlowStartConfig};

use crate::support::backend::Backend;
use crate::support::client::{Client, quick};
use crate::support::in_time;

const SECOND: Duration = Duration::from_secs(1);

/// What is in force for the target, a line for each setting, once it is ready.
async fn in_force(mesh: &Mesh, target: &str) -> Vec<String> {
    let target = mesh.target(target).unwrap();
    target.ready().await.unwrap();
    mesh.in_force(&target).iter().map(ToString::to_string).collect()
}

#[track_caller]
fn assert_has(settings: &[String], expected: &[&str]) {
    for line in expected {
        assert!(settings.iter().any(|setting| setting == line), "`{line}` is not among {settings:#?}");
    }
}

fn control_plane(backend: &Backend) -> ControlPlane {
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", [backend.address()]));
    control_plane
}

#[tokio::test]
async fn what_the_control_plane_says_is_told_from_what_code_says_and_from_defaults() {
    let backend = Backend::start("a").await;
    let control_plane = control_plane(&backend);
    control_plane.put(listener("greeter").rds("greeter").max_stream_duration(9 * SECOND));
    let canary = route().path("/canary").cluster("greeter").max_stream_duration(3 * SECOND).timeout(2 * SECOND);
    let rest = route().cluster("greeter").hash_header("x-user").retry_on("unavailable,5xx", 2);
    control_plane.put(route_config("greeter").routes([canary, rest]));
    let outliers = OutlierDetection { consecutive_5xx: Some(7), ..Default::default() };
    control_plane.put(cluster("greeter").lb(LbPolicy::RingHash).max_requests(1024).outlier_detection(outliers));
    control_plane.put(endpoints("greeter").endpoint(backend.address()).drop_calls("lb", 1));
    let options = BalanceOptions::new().connect_timeout(4 * SECOND).max_pending(1024);
    let local = RetryPolicy::on("reset").unwrap().max_attempts(3);
    let builder = Mesh::builder().balance(options).retry_policy(local).retry_budget(10, 1).retry_throttling(10, 0.5);
    let builder = builder.drain_timeout(3 * SECOND).mirror_max_in_flight(7).mirror_buffer_size(1 << 20, 16 << 20);
    let mesh = builder.control_plane(&control_plane).build().await.unwrap();
    let settings = in_force(&mesh, "xds:///greeter").await;
    assert_has(
        &settings,
        &[
            "mesh profile: Grpc (default)",
            "mesh max_wait: 20s (default)",
            "mesh retry_buffer_size: 16777216 bytes (default)",
            "mesh drain_timeout: 3s (code)",
            "mesh mirroring: 7 copies in flight, 1048576 bytes of each, 16777216 of all (code)",
            "route `path /canary` cluster: greeter (xds)",
            "route `path /canary` max_stream_duration: 3s (xds)",
            "route `path /canary` retry_policy: reset; 3 attempts, base_interval 25ms, max_interval 250ms (code)",
            "route `any path` hash_policy: header x-user (xds)",
            "route `any path` max_stream_duration: 9s, as the listener says (xds)",
            "route `any path` retry_policy: unavailable,5xx; 3 attempts, base_interval 25ms, max_interval 250ms (xds)",
            "cluster `greeter` load_balancing_policy: ring_hash (minimum_ring_size 1024, \
             maximum_ring_size 8388608) (xds)",
            "cluster `greeter` backoff: 1s to 120s (default)",
            "cluster `greeter` connect_timeout: 4s (code)",
            "cluster `greeter` idle_timeout: 1800s (default)",
            "cluster `greeter` circuit_breakers.max_requests: 1024 (xds)",
            "cluster `greeter` circuit_breakers.max_pending_requests: 1024 (code)",
            "cluster `greeter` circuit_breakers.max_connections: no limit (default)",
            "cluster `greeter` circuit_breakers.per_host_thresholds.max_connections: 1 (default)",
            "cluster `greeter` circuit_breakers.max_retries: no limit (default)",
            "cluster `greeter` retry_budget: 10 % of the calls, and 1 a second (code)",
            "cluster `greeter` retry_throttling: max_tokens 10, token_ratio 0.5 (code)",
            "cluster `greeter` drop_overloads: 0.0001 %, category lb (xds)",
        ],
    );
    let outliers = settings.iter().find(|line| line.contains(" outlier_detection: ")).unwrap();
    assert!(outliers.contains("consecutive_5xx 7") && outliers.ends_with("(xds)"), "{outliers}");
    assert!(!settings.iter().any(|line| line.contains(" timeout: ")), "in gRPC's profile it is not in force");
}

#[tokio::test]
async fn envoys_profile_has_settings_of_its_own() {
    let backend = Backend::start("a").await;
    let control_plane = control_plane(&backend);
    control_plane.put(route_config("greeter").routes([route().cluster("greeter").timeout(2 * SECOND)]));
    let idle = Some((7 * SECOND).try_into().expect("a duration"));
    let listener = listener("greeter").rds("greeter").modify_manager(|manager| manager.stream_idle_timeout = idle);
    control_plane.put(listener);
    let mesh = Mesh::builder().profile(Profile::Envoy).control_plane(&control_plane).build().await.unwrap();
    assert_has(
        &in_force(&mesh, "xds:///greeter").await,
        &[
            "mesh profile: Envoy (code)",
            "route `any path` timeout: 2s (xds)",
            "route `any path` idle_timeout: 7s, as the listener says (xds)",
            "cluster `greeter` common_lb_config.healthy_panic_threshold: 50 % (default)",
            "cluster `greeter` overprovisioning_factor: 140 % (default)",
        ],
    );
}

#[tokio::test]
async fn it_is_told_which_endpoints_start_slowly_and_who_says_so() {
    let backend = Backend::start("a").await;
    let slowly = || {
        let window = Some((60 * SECOND).try_into().expect("a duration"));
        let slow_start = SlowStartConfig { slow_start_window: window, ..SlowStartConfig::default() };
        let config = RoundRobinLbConfig { slow_start_config: Some(slow_start) };
        cluster("greeter").modify(|cluster| cluster.lb_config = Some(LbConfig::RoundRobinLbConfig(config)))
    };
    let own = || BalanceOptions::new().policy(PeakEwma);
    for (cluster, options, expected) in [
        (cluster("greeter"), BalanceOptions::new(), "10s after an ejection (default)"),
        (cluster("greeter"), BalanceOptions::new().slow_start(3 * SECOND), "3s after an ejection (code)"),
        (slowly(), BalanceOptions::new().slow_start(3 * SECOND), "60s (xds)"),
        (slowly(), own(), "60s, unless the application's own policy is sticky (xds)"),
    ] {
        let control_plane = control_plane(&backend);
        control_plane.put(cluster);
        let mesh = quick().balance(options).control_plane(&control_plane).build().await.unwrap();
        let line = format!("cluster `greeter` slow_start_config: slow_start_window {expected}");
        assert_has(&in_force(&mesh, "xds:///greeter").await, &[&line]);
    }
}

#[tokio::test]
async fn targets_without_a_control_plane_have_defaults_and_what_code_says() {
    let backend = Backend::start("a").await;
    let address = Address::Socket(backend.address());
    let snapshot = Snapshot::builder("made")
        .cluster(ClusterBuilder::new("turns").endpoint(address.clone()).round_robin().connect_timeout(2 * SECOND))
        .cluster(ClusterBuilder::new("any").endpoint(address.clone()))
        .route(RouteBuilder::any().weighted("turns", 3).weighted("any", 1).max_stream_duration(SECOND))
        .build()
        .unwrap();
    let options = BalanceOptions::new().outlier_detection(false);
    let mesh = Mesh::builder().balance(options).snapshot("static:///made:1", snapshot).build().await.unwrap();
    let settings = in_force(&mesh, "static:///made:1").await;
    assert_has(
        &settings,
        &[
            "route `prefix ` weighted_clusters: turns 3, any 1 (code)",
            "route `prefix ` max_stream_duration: 1s (code)",
            "route `prefix ` retry_policy: none (default)",
            "cluster `turns` load_balancing_policy: round_robin (code)",
            "cluster `turns` connect_timeout: 2s (code)",
            "cluster `any` connect_timeout: 5s (default)",
            "cluster `any` retry_throttling: none (default)",
            "cluster `any` outlier_detection: none (code)",
            "cluster `any` circuit_breakers.max_requests: no limit (default)",
        ],
    );
    let policy = settings.iter().find(|line| line.starts_with("cluster `any` load_balancing_policy: ")).unwrap();
    assert!(policy.ends_with("(default)"), "{policy}");
    let settings = in_force(&mesh, &format!("static:///{address}")).await;
    assert!(settings.iter().any(|line| line.ends_with("connect_timeout: 5s (default)")), "{settings:#?}");
}

#[tokio::test]
async fn what_is_in_force_is_what_calls_go_by_and_a_rejected_update_changes_nothing() {
    let backend = Backend::start("a").await;
    let control_plane = control_plane(&backend);
    let mesh = quick().control_plane(&control_plane).build().await.unwrap();
    let client = Client::new(&mesh, "xds:///greeter");
    client.hello().await.unwrap();
    let breaker = |settings: &[String]| {
        let mut lines = settings.iter().filter_map(|line| line.split_once(" circuit_breakers.max_requests: "));
        lines.next().expect("a breaker").1.to_owned()
    };
    assert_eq!(breaker(&in_force(&mesh, "xds:///greeter").await), "1024 (default)");
    control_plane.put(cluster("greeter").max_requests(0));
    in_time("the breaker opens", async { while client.hello().await.is_ok() {} }).await;
    assert_eq!(breaker(&in_force(&mesh, "xds:///greeter").await), "0 (xds)");
    control_plane.put(cluster("greeter").max_requests(5).lb(LbPolicy::RingHash).ring_size(9, 8));
    control_plane.next_nack().await;
    assert_eq!(breaker(&in_force(&mesh, "xds:///greeter").await), "0 (xds)");
}

#[tokio::test]
async fn leaves_of_an_aggregate_are_listed_with_what_holds_for_each() {
    let backend = Backend::start("a").await;
    let control_plane = control_plane(&backend);
    control_plane.put_all(
        Resources::new()
            .with(cluster("near").max_requests(3))
            .with(endpoints("near").endpoint(backend.address()))
            .with(cluster("far"))
            .with(endpoints("far").endpoint(backend.address()))
            .with(cluster("greeter").aggregate(["near", "far"])),
    );
    let mesh = Mesh::builder().control_plane(&control_plane).build().await.unwrap();
    let settings = in_force(&mesh, "xds:///greeter").await;
    assert_has(
        &settings,
        &[
            "cluster `greeter` cluster_type: aggregate of near, far (xds)",
            "cluster `near` circuit_breakers.max_requests: 3 (xds)",
            "cluster `far` circuit_breakers.max_requests: 1024 (default)",
        ],
    );
    assert!(!settings.iter().any(|line| line.contains("`greeter` circuit_breakers")), "{settings:#?}");
}

//! Numbers and names that no balancing can go by: each is refused by its field, and the last good resource serves on.

use std::net::SocketAddr;

use mesh_core::testing::{
    self, ControlPlane, Resource, Resources, cluster, endpoints, listener, locality, route, route_config,
};
use mesh_xds_proto::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use mesh_xds_proto::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget;
use mesh_xds_proto::envoy::config::cluster::v3::cluster::{
    CommonLbConfig, LbConfig, LbPolicy, LeastRequestLbConfig, RoundRobinLbConfig, SlowStartConfig,
};
use mesh_xds_proto::envoy::config::cluster::v3::load_balancing_policy::Policy;
use mesh_xds_proto::envoy::config::cluster::v3::{CircuitBreakers, LoadBalancingPolicy, OutlierDetection};
use mesh_xds_proto::envoy::config::core::v3::{RuntimeDouble, TypedExtensionConfig};
use mesh_xds_proto::envoy::config::route::v3::RetryPolicy;
use mesh_xds_proto::envoy::config::route::v3::retry_policy::RetryBackOff;
use mesh_xds_proto::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin;
use mesh_xds_proto::envoy::r#type::v3::{Percent, TokenBucket};
use prost_types::Duration as Interval;

use crate::support::backend::Backend;
use crate::support::client::{Client, quick_mesh};

const ZERO: Option<Interval> = Some(Interval { seconds: 0, nanos: 0 });

fn routed(route: testing::RouteBuilder) -> Resource {
    route_config("greeter").routes([route]).into()
}

fn outliers(config: OutlierDetection) -> Resource {
    cluster("greeter").outlier_detection(config).into()
}

fn breakers(thresholds: Thresholds) -> Resource {
    let breakers = CircuitBreakers { thresholds: vec![thresholds], ..Default::default() };
    cluster("greeter").modify(|cluster| cluster.circuit_breakers = Some(breakers)).into()
}

fn slow_start(config: SlowStartConfig) -> Resource {
    let slow_start_window = Some(Interval { seconds: 60, nanos: 0 });
    let config = RoundRobinLbConfig { slow_start_config: Some(SlowStartConfig { slow_start_window, ..config }) };
    let config = Some(LbConfig::RoundRobinLbConfig(config));
    cluster("greeter").lb(LbPolicy::RoundRobin).modify(|cluster| cluster.lb_config = config).into()
}

fn panic_threshold(percent: f64) -> Resource {
    let healthy_panic_threshold = Some(Percent { value: percent });
    let config = Some(CommonLbConfig { healthy_panic_threshold, ..Default::default() });
    cluster("greeter").modify(|cluster| cluster.common_lb_config = config).into()
}

fn policies(named: &[&str]) -> Resource {
    let policy = |name: &&str| {
        let typed_config = testing::any(&ClientSideWeightedRoundRobin::default());
        let type_url = format!("type.googleapis.com/{name}");
        let typed_config = Some(prost_types::Any { type_url, ..typed_config });
        Policy { typed_extension_config: Some(TypedExtensionConfig { name: (*name).to_owned(), typed_config }) }
    };
    let policy = Some(LoadBalancingPolicy { policies: named.iter().map(policy).collect() });
    cluster("greeter").modify(|cluster| cluster.load_balancing_policy = policy).into()
}

fn limited(bucket: TokenBucket) -> Resource {
    let limit = LocalRateLimit { stat_prefix: "l".to_owned(), token_bucket: Some(bucket), ..Default::default() };
    listener("greeter").filter("limit", &limit).into()
}

fn localities(at: SocketAddr, weights: [u32; 2], priorities: [u32; 2]) -> Resource {
    let each = ["a", "b"].into_iter().zip(weights).zip(priorities);
    let each = each.map(|((zone, weight), priority)| {
        let port = at.port() - u16::from(zone == "b");
        locality("r", zone, "").weight(weight).priority(priority).endpoint(SocketAddr::new(at.ip(), port))
    });
    each.fold(endpoints("greeter"), testing::EndpointsBuilder::locality).into()
}

/// What the control plane sends, and what it must be told.
fn cases(at: SocketAddr) -> Vec<(Resource, &'static str)> {
    let weights = |weights: [u32; 2]| routed(route().weighted(["greeter", "other"].into_iter().zip(weights)));
    let budget = |percent| {
        let retry_budget = RetryBudget { budget_percent: Some(Percent { value: percent }), ..Default::default() };
        breakers(Thresholds { retry_budget: Some(retry_budget), ..Default::default() })
    };
    let aggression = |value| {
        let aggression = Some(RuntimeDouble { default_value: value, runtime_key: "none".to_owned() });
        slow_start(SlowStartConfig { aggression, ..Default::default() })
    };
    let penalty = |value| {
        let config = ClientSideWeightedRoundRobin { error_utilization_penalty: Some(value), ..Default::default() };
        cluster("greeter").policy("wrr", &config).into()
    };
    let least = |choices| {
        let config = Some(LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
            choice_count: Some(choices),
            ..Default::default()
        }));
        cluster("greeter").lb(LbPolicy::LeastRequest).modify(|cluster| cluster.lb_config = config).into()
    };
    let bucket = |max_tokens, fill_interval| TokenBucket { max_tokens, tokens_per_fill: None, fill_interval };
    let refresh = |dns_refresh_rate| {
        cluster("greeter").logical_dns("svc.test:80").modify(|cluster| cluster.dns_refresh_rate = dns_refresh_rate)
    };
    let back_off = RetryBackOff { base_interval: None, max_interval: ZERO };
    let retry =
        RetryPolicy { retry_on: "unavailable".to_owned(), retry_back_off: Some(back_off), ..Default::default() };
    vec![
        (weights([u32::MAX, 1]), "routes[0].route.weighted_clusters.clusters: the weights must add up to 1 to"),
        (weights([0, 0]), "routes[0].route.weighted_clusters.clusters: the weights must add up to 1 to"),
        (localities(at, [u32::MAX, 1], [0, 0]), "endpoints[1].load_balancing_weight: the priority's weights add up to"),
        (localities(at, [1, 1], [0, 2]), "endpoints: priorities must be contiguous from 0, and there is no 1"),
        (aggression(f64::NAN), "lb_config.slow_start_config.aggression.default_value: NaN is not a number"),
        (aggression(f64::INFINITY), "lb_config.slow_start_config.aggression.default_value: inf is not a number"),
        (penalty(f32::NAN), "error_utilization_penalty: NaN is not a number"),
        (panic_threshold(f64::NAN), "common_lb_config.healthy_panic_threshold.value: NaN is not a percentage"),
        (panic_threshold(100.5), "common_lb_config.healthy_panic_threshold.value: 100.5 is not a percentage"),
        (budget(f64::NAN), "circuit_breakers.thresholds[0].retry_budget.budget_percent: NaN is not a percentage"),
        (budget(101.0), "circuit_breakers.thresholds[0].retry_budget.budget_percent: 101 is not a percentage"),
        (outliers(OutlierDetection { interval: ZERO, ..Default::default() }), "outlier_detection.interval: must be"),
        (
            outliers(OutlierDetection { enforcing_success_rate: Some(101), ..Default::default() }),
            "outlier_detection.enforcing_success_rate: 101 is not a percentage",
        ),
        (refresh(ZERO).into(), "dns_refresh_rate: 0ns is less than 1 ms"),
        (limited(bucket(1, ZERO)), "token_bucket.fill_interval: must be at least 50 ms"),
        (limited(bucket(0, Some(Interval { seconds: 1, nanos: 0 }))), "token_bucket.max_tokens: must be above 0"),
        (
            routed(route().cluster("greeter").retry(retry)),
            "route.retry_policy.retry_back_off.base_interval: must be set",
        ),
        (
            routed(route().cluster("greeter").retry_on("unavailable", 0)),
            "route.retry_policy.num_retries: must be greater",
        ),
        (least(1), "lb_config.choice_count: 1 is less than 2"),
        (
            cluster("greeter").lb(LbPolicy::RingHash).ring_size(9, 8).into(),
            "minimum_ring_size: 9 is more than the `maximum_ring_size`, 8",
        ),
        (
            policies(&["a.Unknown", "b.Unknown"]),
            "load_balancing_policy: none of its policies is supported yet: \"a.Unknown\"",
        ),
        (policies(&[]), "load_balancing_policy: none of its policies is supported yet"),
    ]
}

#[tokio::test]
async fn what_no_balancing_can_go_by_is_refused_by_field_and_the_last_good_one_serves() {
    let backend = Backend::start("a").await;
    let control_plane = ControlPlane::new();
    let good = || Resources::service("greeter", [backend.address()]);
    control_plane.set(good());
    let mesh = quick_mesh(&control_plane).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    for (bad, complaint) in cases(backend.address()) {
        control_plane.put(bad);
        let (_, text) = control_plane.next_nack().await.error.expect("a NACK says why");
        assert!(text.contains(complaint) && text.contains("greeter"), "{complaint}: {text}");
        assert_eq!(client.hello().await.unwrap(), "a", "{complaint}");
        control_plane.set(good());
    }
}

//! What is read of the policies that balance by load: `ClientSideWeightedRoundRobin` (A58, A114), `SlowStartConfig`.

use std::time::Duration;

use mesh_xds_proto::envoy::config::cluster::v3::cluster::{
    LbConfig, LbPolicy, LeastRequestLbConfig, RoundRobinLbConfig,
};
use mesh_xds_proto::envoy::config::cluster::v3::{LoadBalancingPolicy, cluster};
use mesh_xds_proto::envoy::config::core::v3::RuntimeDouble;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::common::v3 as common;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use mesh_xds_proto::envoy::extensions::load_balancing_policies::wrr_locality::v3::WrrLocality;
use mesh_xds_proto::envoy::r#type::v3::Percent;

use super::fixture::*;
use crate::resource::cluster::{Balancing, EndpointPolicy};
use crate::resource::slow_start::SlowStart;
use crate::resource::weighted_round_robin::{Metric, Reporting, WeightedRoundRobin};

fn balancing(policy: LoadBalancingPolicy) -> Result<Balancing, Vec<String>> {
    let mut f = Fixture::default();
    f.cluster.load_balancing_policy = Some(policy);
    f.cluster().map(|cluster| cluster.balancing.clone())
}

fn weighted(config: &ClientSideWeightedRoundRobin) -> Result<WeightedRoundRobin, Vec<String>> {
    match balancing(balanced_by([any(config)]))?.policy {
        EndpointPolicy::WeightedRoundRobin(config) => Ok((*config).clone()),
        other => panic!("{other:?}"),
    }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[test]
fn weighted_round_robin_has_defaults() {
    let config = weighted(&ClientSideWeightedRoundRobin::default()).expect("a good cluster");
    assert_eq!(config, WeightedRoundRobin::default());
    assert_eq!(config.reporting, Reporting::PerCall);
    let [blackout, expiration, update] =
        [config.blackout_period, config.weight_expiration_period, config.weight_update_period];
    assert_eq!([blackout, expiration, update].map(|period| period.as_secs()), [10, 180, 1]);
    assert!((config.error_utilization_penalty - 1.0).abs() < f32::EPSILON);
    let oob = ClientSideWeightedRoundRobin { enable_oob_load_report: Some(true), ..Default::default() };
    let reporting = weighted(&oob).expect("a good cluster").reporting;
    assert_eq!(reporting, Reporting::OutOfBand(Duration::from_secs(10)));
}

#[test]
fn each_field_of_weighted_round_robin_is_read() {
    let names = ["mem_utilization", "named_metrics.q.x", "no_metric"].map(str::to_owned);
    let config = ClientSideWeightedRoundRobin {
        enable_oob_load_report: Some(true),
        oob_reporting_period: seconds(1),
        blackout_period: seconds(0),
        weight_expiration_period: seconds(3),
        weight_update_period: Some(prost_types::Duration { seconds: 0, nanos: 1 }),
        error_utilization_penalty: Some(0.0),
        metric_names_for_computing_utilization: names.to_vec(),
        slow_start_config: Some(common::SlowStartConfig { slow_start_window: seconds(60), ..Default::default() }),
        oob_reporting_config: None,
    };
    let expected = WeightedRoundRobin {
        reporting: Reporting::OutOfBand(Duration::from_secs(1)),
        blackout_period: Duration::ZERO,
        weight_expiration_period: Duration::from_secs(3),
        weight_update_period: Duration::from_millis(100),
        error_utilization_penalty: 0.0,
        metrics: vec![Metric::Memory, Metric::Named("q.x".into())],
        slow_start: SlowStart::new(Duration::from_secs(60), 1.0, 10.0),
    };
    assert_eq!(weighted(&config), Ok(expected));
    let inner = Some(balanced_by([any(&config)]));
    let balancing = balancing(balanced_by([any(&WrrLocality { endpoint_picking_policy: inner })]));
    assert!(balancing.expect("a good cluster").by_locality);
}

#[test]
fn what_is_wrong_with_weighted_round_robin_is_named() {
    let config = ClientSideWeightedRoundRobin {
        blackout_period: seconds(-1),
        weight_update_period: seconds(-1),
        error_utilization_penalty: Some(-0.5),
        ..Default::default()
    };
    let at = "load_balancing_policy.policies[0].typed_extension_config.typed_config";
    let mut errors = weighted(&config).expect_err("it is wrong");
    errors.sort();
    assert_eq!(
        errors,
        [
            format!("{at}.blackout_period: -1 s and 0 ns is not a duration from 0 s to 315576000000 s"),
            format!("{at}.error_utilization_penalty: -0.5 is not a number from 0"),
            format!("{at}.weight_update_period: -1 s and 0 ns is not a duration from 0 s to 315576000000 s"),
        ]
    );
    let config = ClientSideWeightedRoundRobin { error_utilization_penalty: Some(f32::NAN), ..Default::default() };
    assert!(weighted(&config).is_err());
}

#[test]
fn slow_start_is_read_wherever_it_stands() {
    let aggression = Some(RuntimeDouble { default_value: 2.0, ..Default::default() });
    let old = cluster::SlowStartConfig {
        slow_start_window: seconds(60),
        aggression: aggression.clone(),
        min_weight_percent: Some(Percent { value: 20.0 }),
    };
    let new = common::SlowStartConfig {
        slow_start_window: seconds(60),
        aggression,
        min_weight_percent: Some(Percent { value: 20.0 }),
    };
    let by_name = |policy: LbPolicy, config| {
        let mut f = Fixture::default();
        f.cluster.lb_policy = policy.into();
        f.cluster.lb_config = Some(config);
        f.cluster().expect("a good cluster").balancing.policy.clone()
    };
    let round_robin = RoundRobinLbConfig { slow_start_config: Some(old.clone()) };
    let least_request = LeastRequestLbConfig { slow_start_config: Some(old), ..Default::default() };
    let started_slowly = |policy| EndpointPolicy::SlowStart {
        policy: Box::new(policy),
        slow_start: SlowStart::new(Duration::from_secs(60), 2.0, 20.0).expect("a window"),
    };
    let expected = [EndpointPolicy::RoundRobin, EndpointPolicy::LeastRequest { choices: 2 }].map(started_slowly);
    assert_eq!(by_name(LbPolicy::RoundRobin, LbConfig::RoundRobinLbConfig(round_robin)), expected[0]);
    assert_eq!(by_name(LbPolicy::LeastRequest, LbConfig::LeastRequestLbConfig(least_request)), expected[1]);
    let round_robin = RoundRobin { slow_start_config: Some(new.clone()), ..Default::default() };
    let least_request = LeastRequest { slow_start_config: Some(new), ..Default::default() };
    assert_eq!(balancing(balanced_by([any(&round_robin)])).expect("a good cluster").policy, expected[0]);
    assert_eq!(balancing(balanced_by([any(&least_request)])).expect("a good cluster").policy, expected[1]);
}

#[test]
fn slow_start_without_a_window_is_none_and_what_is_wrong_with_it_is_named() {
    let slow =
        |config| balancing(balanced_by([any(&RoundRobin { slow_start_config: Some(config), ..Default::default() })]));
    let default = common::SlowStartConfig::default;
    assert_eq!(slow(default()).expect("a good cluster").policy, EndpointPolicy::RoundRobin);
    let no_time = common::SlowStartConfig { slow_start_window: seconds(0), ..default() };
    assert_eq!(slow(no_time).expect("a good cluster").policy, EndpointPolicy::RoundRobin);
    let at = "load_balancing_policy.policies[0].typed_extension_config.typed_config.slow_start_config";
    let aggression = |value| Some(RuntimeDouble { default_value: value, ..Default::default() });
    let percent = |value| Some(Percent { value });
    for (config, expected) in [
        (
            common::SlowStartConfig { slow_start_window: seconds(-1), ..default() },
            "slow_start_window: -1 s and 0 ns is not a duration from 0 s to 315576000000 s",
        ),
        (
            common::SlowStartConfig { aggression: aggression(0.0), ..default() },
            "aggression.default_value: 0 is not a number above 0",
        ),
        (
            common::SlowStartConfig { aggression: aggression(f64::NAN), ..default() },
            "aggression.default_value: NaN is not a number above 0",
        ),
        (
            common::SlowStartConfig { min_weight_percent: percent(101.0), ..default() },
            "min_weight_percent.value: 101 is not a percentage",
        ),
        (
            common::SlowStartConfig { min_weight_percent: percent(f64::NAN), ..default() },
            "min_weight_percent.value: NaN is not a percentage",
        ),
    ] {
        assert_eq!(slow(config), Err(vec![format!("{at}.{expected}")]));
    }
}
